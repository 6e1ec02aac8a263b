"""A study as a process without torch writes it, many times over, each in a fork that is killed or starved.

stdin holds a JSON list of [results folder, fault, log]; stdout gets a list of [exit code, last line of
stderr], which ends with the first that was left undisturbed.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from benchmark.config import UserError
from benchmark.store import StorageError, StudyFolder, write_atomic
from tests.benchmark.faults.sitecustomize import install
from tests.benchmark.report.records import train_record


def work(results: Path) -> None:
    folder = StudyFolder(results, "study")
    folder.prepare()
    write_atomic(folder.study_path, b"study: study\n" * 1000)
    for record in (train_record("0123456789abcdef"), train_record("fedcba9876543210", seed=1)):
        run = folder.run(record.run_id)
        run.open({"experiment": record.experiment})
        if run.record() is None:
            run.remove_unfinished()
            run.write_record(record)


def forked(results: str, fault: str, log: str | None) -> tuple[int, str]:
    """Exit code (negative for a signal) and error of one fork."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text, code = "", 0
        write = os.write
        try:
            if fault:
                install(fault, log)
            work(Path(results))
        except (UserError, StorageError) as error:
            text, code = f"{type(error).__name__}: {error}", 1
        except BaseException:
            text, code = traceback.format_exc(), 3
        write(writing, text.encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said


def main() -> None:
    outcomes = []
    for results, fault, log in json.load(sys.stdin):
        Path(results).mkdir(parents=True, exist_ok=True)
        outcomes.append(forked(results, fault, log))
        if fault and outcomes[-1][0] == 0:
            break
    json.dump(outcomes, sys.stdout)


if __name__ == "__main__":
    main()
