"""One machine: cells run one after another, each in a process of its own.

A process of its own keeps peak memory, caches and crashes apart. The parent blocks while a child computes,
since a parent that polls takes time from what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, NamedTuple

from benchmark.config import ROOT, Experiment, RunOptions, experiment_from, one_line
from benchmark.engines.child import failed_record, failed_speed_record, options_json
from benchmark.record import Record, UnreadableRecord, device_name, threads_of
from benchmark.store import RunFolder, StudyFolder
from benchmark.study import FrozenCell, SpeedCell, is_resolved

GRACE_SECONDS = 30.0
"""From the signal that asks a child to end to the one that makes it."""

_ALLOCATOR = ":".join(
    (
        "glibc.malloc.mmap_threshold=1073741824",
        "glibc.malloc.trim_threshold=8589934592",
        "glibc.malloc.top_pad=67108864",
    )
)
"""Keep freed memory: a tensor of 32 MiB is then filled five times as fast as when each one is mapped anew."""

_TERMINAL_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Interrupted(Exception):
    """A signal ended the study; started again, it goes on in the run that was cut off."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Refused(Exception):
    """A child found a mistake of the user, and has said so."""


class ChildFailed(Exception):
    """A child ended without what it was asked for."""


class Ended(NamedTuple):
    """How a child ended."""

    exit_code: int
    """Negative for a signal, as in `subprocess`."""
    output: bytes
    last_line: str
    """Of its stderr."""
    out_of_memory: bool
    """Whether the kernel killed a process of this container for its memory meanwhile."""


def child_environment(options: RunOptions, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with what decides the speed of a process before it starts; the same for every model.

    Values that the user has set are kept, but for the number of threads, which is an option.
    """
    threads = str(threads_of(options))
    path = os.pathsep.join(part for part in (str(ROOT), environment.get("PYTHONPATH", "")) if part)
    return {
        "GLIBC_TUNABLES": _ALLOCATOR,
        "THP_MEM_ALLOC_ENABLE": "1",
        **environment,
        "MKL_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


class Supervisor:
    """Starts children one at a time and passes signals on: none outlives this process's end by signal."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._received: int | None = None
        self._timer: threading.Timer | None = None

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """While inside, SIGINT, SIGTERM and SIGHUP end the child and raise `Interrupted` once it is gone."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None
        self._received = self._received or number
        self._signal_child(signal.SIGKILL if again else signal.SIGTERM)
        if self._child is not None and self._timer is None:
            self._timer = threading.Timer(GRACE_SECONDS, self._signal_child, [signal.SIGKILL])
            self._timer.daemon = True
            self._timer.start()

    def _has_signal(self) -> bool:
        return self._received is not None

    def _stop_if_signalled(self) -> None:
        if self._received is not None:
            raise Interrupted(self._received)

    def _signal_child(self, number: int) -> None:
        child = self._child
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)

    def run(
        self,
        arguments: Sequence[str],
        options: RunOptions,
        *,
        log_path: Path | None = None,
        given: bytes = b"",
    ) -> Ended:
        """Run `seqbench arguments` to its end; its stderr goes to ours and, line by line, to the log.

        Raises:
            Interrupted: a signal came; the child has ended.
        """
        self._stop_if_signalled()
        killed_before = _out_of_memory_kills()
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmark", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(options, os.environ),
            process_group=0,
        )
        self._child = child
        if self._has_signal():  # it came while the child was starting
            self._signal_child(signal.SIGTERM)
        tee = _Tee(child.stderr, log_path)
        output = _Reader(child.stdout)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(given)
        code = child.wait()
        self._signal_child(signal.SIGKILL)  # what the child has left behind
        self._child = None
        if self._timer is not None:
            self._timer.cancel()
        tee.join()
        output.join()
        self._stop_if_signalled()
        return Ended(code, output.data, tee.last_line, _out_of_memory_kills() > killed_before)


class _Reader(threading.Thread):
    """Reads a pipe to its end, so that the child never waits for us."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        assert pipe is not None
        self._pipe = pipe
        self.data = b""
        self.start()

    def run(self) -> None:
        with self._pipe:
            for chunk in iter(lambda: os.read(self._pipe.fileno(), 65536), b""):
                self.take(chunk)

    def take(self, chunk: bytes) -> None:
        self.data += chunk

    def join(self, timeout: float | None = 10.0) -> None:
        super().join(timeout)


class _Tee(_Reader):
    """Passes a child's stderr on and keeps its lines in a file, of a progress bar the last state."""

    def __init__(self, pipe: IO[bytes] | None, log_path: Path | None) -> None:
        self._log: int | None = None
        if log_path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            with contextlib.suppress(OSError):
                self._log = os.open(log_path, flags, 0o666)
        self._unfinished = b""
        self.last_line = ""
        super().__init__(pipe)

    def run(self) -> None:
        super().run()
        if self._unfinished:
            self._keep(self._unfinished)
        if self._log is not None:
            os.close(self._log)

    def take(self, chunk: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(chunk.decode("utf-8", "replace"))
            sys.stderr.flush()
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        if b"\r" in self._unfinished:
            self._unfinished = self._unfinished[self._unfinished.rstrip(b"\r").rfind(b"\r") + 1 :]
        for line in lines:
            self._keep(line)

    def _keep(self, line: bytes) -> None:
        line = _TERMINAL_CONTROL.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2]).rstrip()
        if not line:
            return
        self.last_line = one_line(line.decode("utf-8", "replace"))
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk must not end a run that may need no more of it
                os.write(self._log, line + b"\n")


def _out_of_memory_kills() -> int:
    try:
        with open("/sys/fs/cgroup/memory.events", encoding="ascii") as file:
            counts = dict(line.split() for line in file)
    except (OSError, ValueError):
        return 0
    return int(counts.get("oom_kill", 0))


def resolve(
    supervisor: Supervisor, experiments: Sequence[Experiment], options: RunOptions
) -> list[Experiment]:
    """Budgets turned into steps and precision chosen, measured in a process like that of a run.

    Raises:
        Refused: the child found a mistake of the user and named it.
        ChildFailed: it ended otherwise.
    """
    if all(is_resolved(experiment) for experiment in experiments):
        return list(experiments)
    documents = json.dumps([experiment.document() for experiment in experiments])
    ended = supervisor.run(["resolve", "--options", options_json(options)], options, given=documents.encode())
    if ended.exit_code == 2:
        raise Refused
    if ended.exit_code != 0:
        raise ChildFailed(f"the budgets could not be turned into steps: {_reason(ended)}")
    return [experiment_from(document, files_allowed=True) for document in json.loads(ended.output)]


def run_cell(supervisor: Supervisor, cell: FrozenCell, folder: StudyFolder, options: RunOptions) -> Record:
    """Run one cell to its record, whatever happens to its process.

    Raises:
        Interrupted: a signal came; there is no record, and the run can go on later.
        Refused: the child found a mistake of the user and named it; there is no record.
    """
    options = _options_of(options, folder, [cell.experiment], cell.task_preset)
    options = replace(options, model_preset=cell.model_preset)
    return _run_to_record(
        supervisor,
        "cell",
        folder.run(cell.run_id),
        options,
        lambda failure: failed_record(cell.experiment, options, failure),
    )


def run_speed_cell(
    supervisor: Supervisor, cell: SpeedCell, folder: StudyFolder, options: RunOptions
) -> Record:
    """Time a study's models against each other, to the record of it; errors as `run_cell`."""
    options = _options_of(options, folder, cell.experiments.values(), cell.task_preset)
    return _run_to_record(
        supervisor,
        "speed",
        folder.run(cell.run_id),
        options,
        lambda failure: failed_speed_record(cell.run_id, cell.experiments, options, failure),
    )


def speed_device(options: RunOptions) -> str:
    """The device that speeds are measured on, by name, with the threads and processes used of it."""
    import torch

    from benchmark.trainer import choose_device

    device: torch.device = choose_device(options.device)
    return f"{device_name(device)}, {threads_of(options)} threads, {options.devices} devices"


def _options_of(
    options: RunOptions, folder: StudyFolder, experiments: Iterable[Experiment], task_preset: str
) -> RunOptions:
    # Whoever made the cell has named the files, and their hashes are checked again.
    has_file = any(one.model_file_sha256 or one.task_file_sha256 for one in experiments)
    return replace(options, study=folder.name, task_preset=task_preset, trust_code=has_file)


def _run_to_record(
    supervisor: Supervisor, command: str, run: RunFolder, options: RunOptions, failed: Callable[[str], Record]
) -> Record:
    with contextlib.suppress(FileNotFoundError):
        try:
            run.record()
        except UnreadableRecord as error:
            kept = run.record_path.with_name("record.unreadable.json")
            run.record_path.replace(kept)
            sys.stderr.write(f"seqbench: {error}; kept as {kept.name}, and the run is made again\n")
        else:
            run.record_path.unlink()  # of an attempt that failed
    arguments = [command, str(run.path), "--options", options_json(options)]
    ended = supervisor.run(arguments, options, log_path=run.log_path)
    record = _record_of(run)
    if record is not None:
        return record
    if ended.exit_code == 2:
        raise Refused
    record = failed(_reason(ended))
    run.write_record(record)
    return record


def _record_of(run: RunFolder) -> Record | None:
    try:
        return run.record()
    except UnreadableRecord:
        return None


def _reason(ended: Ended) -> str:
    if ended.exit_code < 0:
        how = f"killed ({-ended.exit_code})"
        return f"oom_host: {how} by the kernel" if ended.out_of_memory else how
    return f"ended with code {ended.exit_code} and no record: {ended.last_line or 'it said nothing'}"
