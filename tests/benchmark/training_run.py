"""Small training runs, in processes of their own too, and what of them must not depend on chance."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch

from benchmark import outcome, trainer
from benchmark.config import Experiment, RunOptions, experiment_from
from benchmark.evaluation import Generated, generate
from benchmark.measure.steps import StepLog
from benchmark.module import Seq2SeqModule
from benchmark.record import TrainRecord
from tasks.grammar import Config as Grammar

HANGS = 300
"""Seconds after which a process that a test waits for is taken to hang: no measure of its speed, and fewer
than a stubborn child sleeps.
"""
STEPS = 12
_FEW = {"validation_pairs": 20, "test_pairs": 20}


TRANSLATION: dict[str, Any] = {"name": "grammar", **Grammar().tiny().model_dump()}
"""A task of subwords, as tiny."""


def experiment(name: str, /, **fields: Any) -> Experiment:
    """A few steps of a tiny model with dropout on a tiny task; a task with a name is another one."""
    raw: dict[str, Any] = {
        "model": {"name": name, "dropout": 0.2, **_TINY[name]},
        "task": {"name": "rearrange", "operation": "reverse", "train_pairs": 300, **_FEW},
        "data": {"batch_tokens": 300},
        "training": {"steps": STEPS, "validations": 3, "average_checkpoints": 2, "precision": "float32"},
    }
    for section, values in fields.items():
        added = isinstance(values, dict) and "name" not in values
        raw[section] = {**raw.get(section, {}), **values} if added else values
    return experiment_from(raw, files_allowed=False)


_TINY: dict[str, dict[str, Any]] = {
    "transformer": {"width": 16, "heads": 2, "feed_forward": 24, "encoder_layers": 2, "decoder_layers": 2},
    "lstm": {"width": 16},
    "convs2s": {"width": 16, "encoder_layers": 2, "decoder_layers": 2},
}


def options(folder: Path, **fields: Any) -> RunOptions:
    defaults: dict[str, Any] = {"device": "cpu", "threads": 1, "wandb": "disabled", "study": "study"}
    return RunOptions(
        results=folder / "results",
        data_directory=folder / "data",
        cache_directory=folder / "cache",
        **{**defaults, **fields},
    )


def run(one: Experiment, folder: Path, **fields: Any) -> TrainRecord | None:
    run_folder = folder / "results" / "study" / "runs" / one.run_id()
    run_folder.mkdir(parents=True, exist_ok=True)
    return trainer.run_cell(one, run_folder, options(folder, **fields))


def identity(record: TrainRecord) -> dict[str, Any]:
    """What must not depend on how often a run was cut off."""
    return {
        "loss_curve": record.loss_curve_sha256,
        "weights": record.weights_sha256,
        "batches": record.batch_stream_sha256,
        "hypotheses": record.hypotheses_sha256,
        "curve": [(point.step, point.validation_loss, point.train_target_tokens) for point in record.curve],
        "scores": [(score.split, score.metric, score.value) for score in record.scores],
    }


def curve_rows(record: TrainRecord, folder: Path) -> list[dict[str, Any]]:
    path = folder / "results" / "study" / "runs" / record.run_id / "curves.jsonl.gz"
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]]


def kill_at(step: int) -> None:
    """Have this process killed outright in the middle of a step, or, beyond the last, as it scores the test
    split; checkpoints come every third step.
    """
    trainer.CHECKPOINT_STEPS = 3
    taken = StepLog.on_train_batch_end

    def generate_or_die(model: Any, data: Any, split: str, *arguments: Any) -> Generated:
        if step > STEPS and split == "test":
            os.kill(os.getpid(), signal.SIGKILL)
        return generate(model, data, split, *arguments)

    def on_train_batch_end(self: StepLog, lightning: Any, *arguments: Any) -> None:
        if lightning.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        taken(self, lightning, *arguments)

    StepLog.on_train_batch_end = on_train_batch_end  # type: ignore[method-assign, assignment]
    outcome.generate = generate_or_die  # type: ignore[assignment, attr-defined]


def keep_gradients(path: Path) -> None:
    """Save the gradients of the first step, as they are before they are clipped."""
    clip = Seq2SeqModule.clip

    def clip_and_keep(self: Seq2SeqModule) -> None:
        if self.global_step == 0 and self.global_rank == 0:
            torch.save({name: parameter.grad for name, parameter in self.named_parameters()}, path)
        clip(self)

    Seq2SeqModule.clip = clip_and_keep  # type: ignore[method-assign]


def killed_run(one: Experiment, folder: Path, step: int) -> None:
    """Of a process that ends with it."""
    kill_at(step)
    run(one, folder)


def observed_run(model: str, folder: Path, devices: int, /, **fields: Any) -> None:
    """Its gradients and what else is compared, as files in `folder`."""
    keep_gradients(folder / "gradients.pt")
    record = run(experiment(model, **fields), folder, devices=devices)
    if record is None:
        return
    losses = [row["value"] for row in curve_rows(record, folder) if row["quantity"] == "train_loss"]
    extra = {"losses": losses, "seconds_of_children": os.times().children_user}
    (folder / "observed.json").write_text(json.dumps({**identity(record), **extra}))


if __name__ == "__main__":
    # Several processes of one run start this file again, each for itself.
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("devices", type=int)
    parser.add_argument("fields", type=json.loads)
    asked = parser.parse_args()
    observed_run(asked.model, asked.folder, asked.devices, **asked.fields)
