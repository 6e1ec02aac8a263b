"""A study's runs in wandb, made again from their records: what wandb would hold had it been there."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from benchmark.config import TrainingConfig, UserError, checked
from benchmark.history import Steps, rows_of_record, summary
from benchmark.record import TrainRecord, read_record
from benchmark.report.study_results import load_study
from benchmark.tracking import Mode, or_offline, run_directory, start_run

_STEP = "trainer/global_step"
"""The axis that Lightning's logger counts steps on."""


def log_runs(study_folder: Path, mode: Mode) -> tuple[int, int]:
    """Log every run of a study that wandb does not have yet, trials of its search too.

    A run that was logged while it trained, or before, is left as it is: offline by its folder, online by what
    the server has under its id.

    Returns:
        How many runs were logged, and how many were there.
    """
    study = load_study(study_folder)
    directory = run_directory(study_folder)
    logged = there = 0
    for one in (*study.trials, *study.train_records):
        record = read_record(study_folder / "runs" / one.run_id / "record.json")  # with its curve
        assert isinstance(record, TrainRecord)
        if any(directory.glob(f"wandb/*run-*-{record.run_id}")) or not _log(
            record, study_folder, directory, mode
        ):
            there += 1
        else:
            logged += 1
    return logged, there


def _log(record: TrainRecord, study_folder: Path, directory: Path, mode: Mode) -> bool:
    """Whether the run was not there."""
    training = record.experiment.get("training")
    if not isinstance(training, dict):
        raise UserError(f"run {record.run_id}: its record has no training section")
    config = checked("training", TrainingConfig, training)

    def start(mode: Mode) -> Any:
        return start_run(
            mode,
            study=record.study,
            run_id=record.run_id,
            experiment_document=record.experiment,
            directory=directory,
            device_class="cpu" if record.provenance.device_memory_bytes is None else "cuda",
        )

    run = or_offline(mode, start)
    try:
        if run.resumed and run.summary.get("status") == record.status:
            return False
        path = study_folder / "runs" / record.run_id / "curves.jsonl.gz"
        for step, values in rows_of_record(record, steps_of(path), config):
            run.log({**values, _STEP: step})
        run.summary.update(summary(record))
    finally:
        run.finish()
    return True


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
