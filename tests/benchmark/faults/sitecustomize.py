"""Faults: SEQBENCH_FAULT="<call>:<n>:<action>" acts at the n-th call of os.<call>, from 0.

A child process imports this file by itself when a test puts its folder on PYTHONPATH. The call is open,
write, fsync or replace, or `any` of them; the action is `kill`, or the name of an error such as ENOSPC.
SEQBENCH_FAULT_LOG names a file that gets one line for each call.
"""

import errno
import os
import signal

CALLS = ("open", "write", "fsync", "replace")


def install(fault, log_path=None):
    """Wrap the calls of this process."""
    call, number, action = fault.split(":")
    counts = dict.fromkeys((*CALLS, "any"), 0)
    write = os.write
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if log_path else None

    def wrapped(name, original):
        def perform(*arguments, **keywords):
            for counted in (name, "any"):
                here = counts[counted]
                counts[counted] += 1
                if counted == call and here == int(number):
                    if action == "kill":
                        os.kill(os.getpid(), signal.SIGKILL)
                    code = getattr(errno, action)
                    raise OSError(code, os.strerror(code))
            result = original(*arguments, **keywords)
            if log is not None:
                what = os.path.basename(os.fspath(arguments[0])) if name in ("open", "replace") else ""
                write(log, f"{name} {what}\n".encode())
            return result

        return perform

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


if os.environ.get("SEQBENCH_FAULT"):
    install(os.environ["SEQBENCH_FAULT"], os.environ.get("SEQBENCH_FAULT_LOG"))
