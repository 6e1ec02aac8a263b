"""Training on more devices: strong scaling shares one global batch, weak scaling grows it with the devices.

Every timing is an ordinary run of its own through the trainer (Lightning's DDP), with the same number of
threads for each process on a CPU, or a GPU for each.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.config import ROOT, RunOptions, UserError, one_line
from benchmark.measure.layers import summarised
from benchmark.record import Row, TrainRecord
from benchmark.store import StudyFolder

STRONG, WEAK = "strong", "weak"


def scaling_rows(settings: Mapping[str, Any], options: RunOptions) -> Iterator[Row]:
    """Target tokens per second of `model` on `task`, on each number of `devices`, in `rounds` whose order is
    drawn anew.

    Raises:
        UserError: a run failed; what it said last.
    """
    points = [
        (devices, scaling)
        for devices in settings["devices"]
        for scaling in ((STRONG, WEAK) if devices > 1 else (STRONG,))
    ]
    found: dict[tuple[int, str], list[float]] = {point: [] for point in points}
    shuffle = random.Random(settings["seed"])
    for _ in range(settings["rounds"]):
        shuffle.shuffle(points)
        for devices, scaling in points:
            tokens = settings["batch_tokens"] * (devices if scaling == WEAK else 1)
            found[devices, scaling].append(training_speed(settings, devices, tokens, options))
    for (devices, scaling), samples in found.items():
        conditions = {"devices": devices, "scaling": scaling, "threads_of_each": settings["threads"]}
        yield summarised("target_tokens_per_second", samples, "tokens/s", conditions)


def training_speed(settings: Mapping[str, Any], devices: int, tokens: int, options: RunOptions) -> float:
    """Target tokens per second of a run with global batches of `tokens`.

    Raises:
        UserError: it failed; why.
    """
    with tempfile.TemporaryDirectory() as results:
        asked = {
            "model": settings["model"],
            "task": settings["task"],
            "data.batch_tokens": tokens,
            "training.steps": settings["steps"],
            "training.precision": "float32",
            # What is not timed is kept short.
            "training.validations": 1,
            "training.validation_sentences": 0,
            "task.validation_pairs": 32,
            "evaluation.test": "false",
        }
        command = [
            *(sys.executable, "-P", "-m", "benchmark", "run"),
            *(f"{name}={value}" for name, value in asked.items()),
            *("--study", "scaling", "--wandb", "disabled", "--results", results),
            *("--devices", str(devices), "--threads", str(settings["threads"]), "--device", options.device),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        records = StudyFolder(Path(results), "scaling").contents().records
    trained = [record for record in records if isinstance(record, TrainRecord)]
    for record in trained:
        if record.train_target_tokens_per_second is not None:
            return record.train_target_tokens_per_second
    failures = [record.failure for record in trained if record.failure]
    said = failures or ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
    raise UserError(f"{settings['model']} on {devices} devices gave no speed: {one_line(said[-1])}")
