"""A study as a process without torch writes it, many times over, each in a fork that is killed or starved.

stdin holds a JSON list of [results folder, fault, log]; stdout gets a list of [exit code, last line of
stderr], which ends with the first that was left undisturbed.
"""

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import BaseModel

from benchmark.config import Experiment, TrainingConfig, UserError
from benchmark.hypotheses import compress_lines, hypotheses_path
from benchmark.lease import Leases
from benchmark.request import Cell, Request
from benchmark.store import StorageError, StudyFolder, write_atomic
from benchmark.study import Asked, Decision, Made, Resolved, decide, make
from benchmark.study_texts import keep_texts, texts_folder
from tests.benchmark.faults.sitecustomize import install
from tests.benchmark.report.records import train_record

if TYPE_CHECKING:
    from tasks import Task


class Config(BaseModel):
    """Of a model or a task that need not be there."""

    version: ClassVar[int] = 1
    width: int = 8


class Texts:
    texts_may_be_copied = True

    def pairs(self, split: str) -> list[tuple[str, str]]:
        return [(split, "one"), ("two", "three")]


def made_study(folder: StudyFolder) -> Made:
    """Two trials of a search and a run of the comparison."""
    training = TrainingConfig(steps=10, precision="float32")

    def cell(rate: float, trial: int | None = None) -> Cell:
        experiment = Experiment(
            model_name="lstm",
            model=Config(),  # type: ignore[arg-type]
            task_name="rearrange",
            task=Config(),  # type: ignore[arg-type]
            training=training.model_copy(update={"learning_rate": rate}),
        )
        return Cell(model_preset="lstm-small", task_preset="reverse", experiment=experiment, trial=trial)

    def resolve(asked: Sequence[Asked]) -> list[Resolved]:
        return [Resolved(experiment=one.experiment) for one in asked]

    request = Request(
        study="study",
        measure=("train",),
        cells=(cell(0.3),),
        trials=(cell(0.1, 1), cell(0.2, 2)),
        search={"trials": 2},
    )
    return make(request, folder, resolve)


def work(results: Path) -> None:
    folder = StudyFolder(results, "study")
    folder.prepare()
    made = made_study(folder)
    with Leases(folder.path) as leases:
        for cell in made.cells:
            run = folder.run(cell.run_id)
            cell.open(run)
            assert leases.take(cell.run_id) is None
            if run.record() is None:
                run.remove_unfinished()
                write_atomic(hypotheses_path(run.path, "test"), compress_lines(["one", "two"]))
                run.write_record(train_record(cell.run_id, "lstm-small"))
            leases.release(cell.run_id)
    first = made.cells[0]
    chosen = Decision(
        model="lstm-small", task="reverse", trials=2, trial=1, run_id=first.run_id, settings={"x": 0.1}
    )
    decide([chosen], folder)
    texts = texts_folder(folder.path, {"name": "reverse"}, version=1, fingerprint="")
    keep_texts(texts, cast("Task", Texts()), ["test"])
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
