"""What an experiment leaves open, decided here and now: precision, matched widths, budgets in steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.check import preflight_hooks, preflight_model, preflight_task
from benchmark.config import BUDGETS, Experiment, RunOptions, UserError, canonical_json
from benchmark.device import choose_device, device_in_use, use_device
from benchmark.evaluation import Process
from benchmark.matching import (
    at_equal_parameters,
    body_parameters,
    steps_of_operations,
    steps_of_seconds,
)
from benchmark.measure.operations import training_operations
from benchmark.measure.speed import STEPS, PlainLoop, TimedBatches
from benchmark.measure.timing import Clock, interleaved
from benchmark.record import threads_of
from benchmark.study import Asked, Resolved
from benchmark.trainer import build_model, corpus_of, quiet
from tasks.data.module import DataModule

CALIBRATION_ROUNDS = 30
PRECISION_ROUNDS = 3
BFLOAT16_GAIN = 1.1
"""How much faster bfloat16 has to be to be chosen."""
HOPELESS = 3
"""How much slower it may be in its best of two rounds before no further one is waited for."""


def measured_precision(
    experiments: Sequence[Experiment], options: RunOptions
) -> Literal["float32", "bfloat16"]:
    """bfloat16 where it makes training of these enough faster here, else float32; the same for all.

    One layer tells first whether it can: where bfloat16 is thirty times slower, models would take minutes to
    say so. Then the models say whether it does, one of each architecture: small ones on a GPU wait for
    launches, which bfloat16 adds to.
    """
    possible = worthwhile_precision(bfloat16_speed(use_device(options.device, threads_of(options))))
    if possible == "float32":
        return possible
    first: dict[str, Experiment] = {}
    for one in experiments:
        first.setdefault(one.model_name, one)
    speeds = []
    for one in first.values():
        both = [
            replace(one, training=one.training.model_copy(update={"precision": precision}))
            for precision in ("float32", "bfloat16")
        ]
        wide, narrow = seconds_per_step(both, options, rounds=PRECISION_ROUNDS)
        speeds.append(wide / narrow)
    return worthwhile_precision(statistics.geometric_mean(speeds))


def worthwhile_precision(speed: float) -> Literal["float32", "bfloat16"]:
    """Given how many times as fast bfloat16 is."""
    return "bfloat16" if speed > BFLOAT16_GAIN else "float32"


def bfloat16_speed(device: torch.device) -> float:
    """How many times as fast as in float32 a linear layer trains under bfloat16 autocast here.

    On a CPU without bf16 units it is some 30 times slower, with them twice as fast: nothing but a measurement
    tells. On a GPU the layer is wide enough to take longer than the program takes to launch it.
    """
    clock = Clock(device)
    width = 4096 if clock.on_cuda else 512
    layer = torch.nn.Linear(width, width).to(device)
    x = torch.randn(2 * width, width, device=device)

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
        if measured == 2 and min(times["bfloat16"]) > HOPELESS * max(times["float32"]):
            break
    return statistics.median(times["float32"]) / statistics.median(times["bfloat16"])


def resolve(asked: Sequence[Asked], options: RunOptions) -> list[Resolved]:
    """The experiments with every choice made, as measured here and now: precision, then widths, then steps.

    Precision is measured once: two models of a study never differ in it by the noise of a measurement. Those
    whose budget or match is in seconds are timed against each other (`seconds_per_step`).

    Raises:
        UserError: a device that is not there, data or files of the user's that are not sound, a match that
            cannot be reached.
    """
    choose_device(options.device)
    _look_at([one.experiment for one in asked], options)
    experiments = _with_precision([one.experiment for one in asked], options)
    held: dict[int, float] = {}
    for number, one in enumerate(asked):
        if one.match == "parameters":
            assert one.reference is not None
            reference, experiment = experiments[one.reference], experiments[number]
            held[number] = body_parameters(reference.model, reference.model_name)
            model = at_equal_parameters(experiment.model, int(held[number]), experiment.model_name)
            experiments[number] = replace(experiment, model=model)
    in_seconds = {one.reference for one in asked if one.match == "seconds"}
    timed = [
        number
        for number, one in enumerate(asked)
        if experiments[number].training.seconds is not None or one.match == "seconds" or number in in_seconds
    ]
    times = seconds_per_step([experiments[number] for number in timed], options)
    seconds = dict(zip(timed, times, strict=True))
    resolved: list[Experiment] = []
    # A reference stands before what is matched to it.
    for number, one in enumerate(asked):
        experiment, steps = experiments[number], None
        if one.match in ("flops", "seconds"):
            assert one.reference is not None and one.reference < number
            reference = resolved[one.reference]
            assert reference.training.steps is not None
            if one.match == "seconds":
                held[number] = reference.training.steps * seconds[one.reference]
                steps = steps_of_seconds(held[number], seconds[number], experiment.model_name)
            else:
                held[number] = float(_operations(reference, options)(reference.training.steps).sum())
                operations = _operations(experiment, options)
                steps = steps_of_operations(held[number], operations, experiment.model_name)
        resolved.append(_in_steps(experiment, options, seconds.get(number), steps))
    device = device_in_use(options) if timed else ""
    return [
        Resolved(
            experiment=experiment,
            measured={"seconds_per_step": seconds[number], "device": device} if number in seconds else {},
            held=held.get(number),
        )
        for number, experiment in enumerate(resolved)
    ]


def _look_at(experiments: Sequence[Experiment], options: RunOptions) -> None:
    """Find what is wrong with models, the user's files and data before anything is frozen; data are then
    prepared.
    """
    architectures, models, tasks = {}, {}, {}
    for one in experiments:
        sections = one.document()
        if one.model_file_sha256 is not None:
            models[canonical_json(sections["model"])] = one
        else:
            architectures[one.model_name] = one
        if one.task.reads_files or one.task_file_sha256 is not None:
            tasks[canonical_json([sections["task"], sections["data"]])] = one
    for one in architectures.values():
        preflight_hooks(one.model_name, one.model)
    for one in models.values():
        preflight_model(one.model_name, one.model)
    for one in tasks.values():
        if one.task_file_sha256 is not None:
            preflight_task(one.task_name, one.task, options.data_directory)
        corpus_of(one, options.data_directory, options.cache_directory)


def _with_precision(experiments: list[Experiment], options: RunOptions) -> list[Experiment]:
    if all(one.training.precision != "auto" for one in experiments):
        return experiments
    undecided = [one for one in experiments if one.training.precision == "auto"]
    precision = measured_precision(undecided, options)
    return [
        replace(one, training=one.training.model_copy(update={"precision": precision}))
        if one.training.precision == "auto"
        else one
        for one in experiments
    ]


def _operations(experiment: Experiment, options: RunOptions) -> Callable[[int], NDArray[np.float64]]:
    """Of each of the first N steps."""
    data = _data(experiment, options)

    def operations(steps: int) -> NDArray[np.float64]:
        vocabulary_size = len(data.corpus.vocabulary)
        found = training_operations(experiment.model, vocabulary_size, data.training.shapes(steps))
        if found is None:
            name = experiment.model_name
            raise UserError(f"match: {name} has no theory(), so its operations cannot be matched")
        return found

    return operations


def _data(experiment: Experiment, options: RunOptions) -> DataModule:
    _, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
    return DataModule(corpus, batch_tokens=experiment.data.batch_tokens, seed=experiment.seed)


def _in_steps(
    experiment: Experiment, options: RunOptions, seconds: float | None, steps: int | None
) -> Experiment:
    """With `steps`, else with as many as its budget gives; `seconds` of a step where that is in seconds."""
    training = experiment.training
    if steps is None:
        if training.steps is not None:
            return experiment
        if training.seconds is not None:
            assert seconds is not None
            steps = max(1, round(training.seconds / seconds))
        elif training.epochs is not None:
            steps = _data(experiment, options).steps_of_epochs(training.epochs)
        else:
            assert training.tokens is not None
            steps = _data(experiment, options).steps_of_tokens(training.tokens)
    budget = {"steps": steps, "epochs": None, "tokens": None, "seconds": None}
    return replace(experiment, training=training.model_copy(update=budget))


def _what_decides_speed(experiment: Experiment) -> str:
    """Equal where a step takes equally long, or so nearly that trials which differ in their learning rate or
    dropout are to have equal steps.
    """
    document, training = experiment.document(), experiment.training
    model = {name: value for name, value in document["model"].items() if name != "dropout"}
    sections = [model, document["task"], document["data"]]
    return canonical_json([*sections, training.optimizer, training.precision, training.gradient_clip is None])


def seconds_per_step(
    experiments: Sequence[Experiment], options: RunOptions, rounds: int = CALIBRATION_ROUNDS
) -> list[float]:
    """Seconds of a training step of each, on this device, timed in interleaved, shuffled rounds.

    Those of one task and batch size train on the same batches in a round. A machine whose speed drifts then
    slows all of them alike: what one takes against the others is the median over rounds, and so is the level,
    which other load for less than half of the time then leaves as it is.
    """
    quiet()
    device = use_device(options.device, threads_of(options))
    clock = Clock(device)
    works: dict[str, Callable[[int], float]] = {}
    for one in experiments:
        key = _what_decides_speed(one)
        if key in works:
            continue
        data = _data(one, options)
        batches = TimedBatches(data, device, rounds, seed=0)
        far = one.training.model_copy(update={**dict.fromkeys(BUDGETS), "steps": 10**6})
        model = build_model(one, len(data.corpus.vocabulary))
        works[key] = batches.timed(PlainLoop(replace(one, training=far), model, device, fused=True), clock)
    if not works:
        return []
    taken = interleaved(works, rounds=rounds, warmup=2, seed=0)
    together = [statistics.geometric_mean(round_) for round_ in zip(*taken.values(), strict=True)]
    level = statistics.median(together) / STEPS
    share = {
        key: statistics.median(value / all_ for value, all_ in zip(values, together, strict=True))
        for key, values in taken.items()
    }
    return [level * share[_what_decides_speed(one)] for one in experiments]
