"""A study's runs in wandb, made again from their records: what wandb would hold had it been there."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.config import TrainingConfig, UserError, checked
from benchmark.history import Steps, rows_of_record, summary
from benchmark.record import TrainRecord, read_record
from benchmark.report.study_results import load_study
from benchmark.tracking import (
    Mode,
    is_uploaded,
    is_whole,
    mark_whole,
    or_offline,
    run_directory,
    settle,
    start_run,
)

_STEP = "trainer/global_step"
"""The axis that Lightning's logger counts steps on."""


class Logged(NamedTuple):
    """What became of a study's runs."""

    logged: int
    there: int
    """That wandb had whole."""
    left_out: list[str]
    """One line for each that cannot be logged."""


def log_runs(study_folder: Path, mode: Mode) -> Logged:
    """Log every run of a study that wandb does not have whole, trials of its search too.

    Of a run that was cut off while it trained, an offline folder that was not uploaded is replaced, and what
    the server has is completed. What was seen of a run that failed stays as it is: its record has no more.
    """
    study = load_study(study_folder)
    directory = run_directory(study_folder)
    folders: dict[str, list[Path]] = {}
    for folder in directory.glob("wandb/*run-*"):
        folders.setdefault(folder.name.rpartition("-")[2], []).append(folder)
    logged = there = 0
    left_out = list(study.unreadable)
    for one in (*study.trials, *study.train_records):
        is_trial = one.run_id in study.trial_numbers
        try:
            if _log(one.run_id, is_trial, study_folder, directory, folders.get(one.run_id, []), mode):
                logged += 1
            else:
                there += 1
        except UserError as error:
            left_out.append(str(error))
    settle()
    return Logged(logged, there, left_out)


def _log(
    run_id: str, is_trial: bool, study_folder: Path, directory: Path, folders: Sequence[Path], mode: Mode
) -> bool:
    """Whether the run was not there.

    Raises:
        UserError: its record or its curves are damaged, or nothing tells how much of it wandb has.
    """
    record = read_record(study_folder / "runs" / run_id / "record.json")  # with its curve
    assert isinstance(record, TrainRecord)
    # What waits on this disk is not at the server.
    there = [one for one in folders if mode == "offline" or is_uploaded(one)]
    if there and (record.status != "done" or any(is_whole(one, record.status) for one in there)):
        return False
    if folders and record.status != "done":
        raise UserError(
            f"run {run_id}: {record.status}; what was seen of it waits here: wandb sync {folders[0]}"
        )
    training = record.experiment.get("training")
    if not isinstance(training, dict):
        raise UserError(f"run {run_id}: its record has no training section")
    config = checked("training", TrainingConfig, training)
    rows = rows_of_record(record, steps_of(study_folder / "runs" / run_id / "curves.jsonl.gz"), config)
    for folder in folders:
        if not is_uploaded(folder):
            shutil.rmtree(folder)
        elif mode == "offline":
            raise UserError(
                f"run {run_id}: the server has a part of it, and offline nothing tells which; log it online"
            )

    def start(mode: Mode) -> Any:
        return start_run(
            mode,
            study=record.study,
            run_id=run_id,
            experiment_document=record.experiment,
            directory=directory,
            device_class=record.provenance.device_class,
            is_trial=is_trial,
        )

    run = or_offline(mode, start)
    try:
        seen = dict(run.summary) if run.resumed else {}
        if seen.get("status") == record.status:
            return False
        for step, values in rows:
            if not _was_logged(step, values, seen):
                run.log({**values, _STEP: step})
        run.summary.update(summary(record))
    finally:
        run.finish()
    mark_whole(run, record.status)
    return True


def _was_logged(step: int, values: Mapping[str, float], seen: Mapping[str, Any]) -> bool:
    """By the last values that wandb has of each name: rows come in the order of their steps."""
    last = seen.get(_STEP)
    if last is None or step != last:
        return last is not None and step < last
    return all(seen.get(name) == value for name, value in values.items())


def steps_of(path: Path) -> Steps:
    """What a run's curves say of each step; nothing where they are not there, as of a run that failed.

    Raises:
        UserError: the file is damaged.
    """
    found: dict[str, list[float]] = {"train_loss": [], "step_seconds": [], "train_target_tokens": []}
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                row = json.loads(line)
                if row["quantity"] in found:
                    found[row["quantity"]].append(row["value"])
    except FileNotFoundError:
        pass
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None
    losses, seconds = found["train_loss"], found["step_seconds"]
    tokens = [int(value) for value in found["train_target_tokens"]]
    if len({len(losses), len(seconds), len(tokens) or len(losses)}) > 1:
        raise UserError(f"{path}: damaged: its quantities have unequal numbers of steps")
    return Steps(losses=losses, seconds=seconds, target_tokens=tokens)
