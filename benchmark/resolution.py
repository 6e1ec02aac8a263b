"""What an experiment leaves open, measured here and now: its precision, and a budget in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from benchmark.config import Experiment, RunOptions, canonical_json
from benchmark.evaluation import Process
from benchmark.measure.speed import STEPS, PlainLoop, TimedBatches
from benchmark.measure.timing import Clock, interleaved
from benchmark.record import threads_of
from benchmark.trainer import build_model, choose_device, corpus_of, quiet
from tasks.data.module import DataModule

CALIBRATION_ROUNDS = 30


def measured_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """bfloat16 where a linear layer trains at least 1.1 times as fast under autocast here, else float32.

    On a CPU without bf16 units it is some 30 times slower, with them twice as fast: nothing but a measurement
    tells.
    """
    clock = Clock(device)
    layer = torch.nn.Linear(512, 512).to(device)
    x = torch.randn(1024, 512, device=device)

    def seconds(precision: str) -> float:
        process = Process(device=device, precision=precision)
        begin = clock.mark()
        for _ in range(3):
            with process.autocast():
                loss: Tensor = layer(x).float().square().mean()
            loss.backward()
        return clock.seconds(begin, clock.mark())

    times: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for measured in range(6):
        for precision, values in times.items():
            value = seconds(precision)
            if measured:  # the first round warms up
                values.append(value)
    faster = sorted(times["bfloat16"])[2] * 1.1 < sorted(times["float32"])[2]
    return "bfloat16" if faster else "float32"


def resolve(experiments: Sequence[Experiment], options: RunOptions) -> list[Experiment]:
    """The experiments with their precision decided and their budgets in steps, as measured here and now.

    Precision is measured once: two models of a study never differ in it by the noise of a measurement. Those
    with a budget in seconds are timed against each other (`seconds_per_step`).
    """
    if any(one.training.precision == "auto" for one in experiments):
        precision = measured_precision(choose_device(options.device))
        experiments = [
            replace(one, training=one.training.model_copy(update={"precision": precision}))
            if one.training.precision == "auto"
            else one
            for one in experiments
        ]
    timed = [one for one in experiments if one.training.seconds is not None]
    seconds = dict(zip(map(_what_decides_speed, timed), seconds_per_step(timed, options), strict=True))
    return [_in_steps(one, options, seconds) for one in experiments]


def _in_steps(experiment: Experiment, options: RunOptions, seconds: Mapping[str, float]) -> Experiment:
    training = experiment.training
    if training.steps is not None:
        return experiment
    if training.seconds is not None:
        steps = max(1, round(training.seconds / seconds[_what_decides_speed(experiment)]))
    else:
        _, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
        data = DataModule(corpus, batch_tokens=experiment.data.batch_tokens, seed=experiment.seed)
        if training.epochs is not None:
            steps = data.steps_of_epochs(training.epochs)
        else:
            assert training.tokens is not None
            steps = data.steps_of_tokens(training.tokens)
    budget = {"steps": steps, "epochs": None, "tokens": None, "seconds": None}
    return replace(experiment, training=training.model_copy(update=budget))


def _what_decides_speed(experiment: Experiment) -> str:
    """Equal where a step takes equally long: trials that differ in their learning rate get equal steps."""
    document, training = experiment.document(), experiment.training
    model = {name: value for name, value in document["model"].items() if name != "dropout"}
    sections = [model, document["task"], document["data"]]
    return canonical_json([*sections, training.optimizer, training.precision, training.gradient_clip is None])


def seconds_per_step(experiments: Sequence[Experiment], options: RunOptions) -> list[float]:
    """Seconds of a training step of each, on this device, timed in interleaved, shuffled rounds.

    Those of one task and batch size train on the same batches in a round. A machine whose speed drifts then
    slows all of them alike: what one takes against the others is the median over rounds, and so is the level,
    which other load for less than half of the time then leaves as it is.
    """
    quiet()
    device = choose_device(options.device)
    torch.set_num_threads(threads_of(options))
    clock = Clock(device)
    works: dict[str, Callable[[int], float]] = {}
    for one in experiments:
        key = _what_decides_speed(one)
        if key in works:
            continue
        _, corpus = corpus_of(one, options.data_directory, options.cache_directory)
        data = DataModule(corpus, batch_tokens=one.data.batch_tokens, seed=one.seed)
        batches = TimedBatches(data, device, CALIBRATION_ROUNDS, seed=0)
        far = one.training.model_copy(update={"steps": 10**6, "seconds": None})
        model = build_model(one, len(corpus.vocabulary))
        works[key] = batches.timed(PlainLoop(replace(one, training=far), model, device, fused=True), clock)
    if not works:
        return []
    taken = interleaved(works, rounds=CALIBRATION_ROUNDS, warmup=2, seed=0)
    together = [statistics.geometric_mean(round_) for round_ in zip(*taken.values(), strict=True)]
    level = statistics.median(together) / STEPS
    share = {
        key: statistics.median(value / all_ for value, all_ in zip(values, together, strict=True))
        for key, values in taken.items()
    }
    return [level * share[_what_decides_speed(one)] for one in experiments]
