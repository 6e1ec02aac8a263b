"""What an experiment leaves open, measured here and now: its precision, and a budget in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from benchmark.config import Experiment, RunOptions, canonical_json
from benchmark.evaluation import Process
from benchmark.measure.steps import StepLog
from benchmark.measure.timing import Clock
from benchmark.module import Seq2SeqModule
from benchmark.record import threads_of
from benchmark.trainer import build_model, choose_device, corpus_of, make_trainer, quiet
from tasks.data.corpus import Corpus
from tasks.data.module import DataModule

CALIBRATION_STEPS = 100


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


def resolve(experiment: Experiment, options: RunOptions, known: dict[str, float] | None = None) -> Experiment:
    """The experiment with its precision decided and its budget in steps, as measured here and now.

    `known` keeps the seconds of a step for the next call: trials that differ in their learning rate alone get
    equal steps, and are not timed twice.
    """
    training = experiment.training
    if training.precision == "auto":
        training = training.model_copy(
            update={"precision": measured_precision(choose_device(options.device))}
        )
        experiment = replace(experiment, training=training)
    if training.steps is not None:
        return experiment
    _, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
    data = DataModule(corpus, batch_tokens=experiment.data.batch_tokens, seed=experiment.seed)
    if training.epochs is not None:
        steps = data.steps_of_epochs(training.epochs)
    elif training.tokens is not None:
        steps = data.steps_of_tokens(training.tokens)
    else:
        assert training.seconds is not None
        known = {} if known is None else known
        key = _what_decides_speed(experiment)
        if key not in known:
            known[key] = _seconds_per_step(experiment, corpus, options)
        steps = max(1, int(training.seconds / known[key]))
    budget = {"steps": steps, "epochs": None, "tokens": None, "seconds": None}
    return replace(experiment, training=training.model_copy(update=budget))


def _what_decides_speed(experiment: Experiment) -> str:
    document, training = experiment.document(), experiment.training
    model = {name: value for name, value in document["model"].items() if name != "dropout"}
    sections = [model, document["task"], document["data"]]
    return canonical_json([*sections, training.optimizer, training.precision, training.gradient_clip is None])


def _seconds_per_step(experiment: Experiment, corpus: Corpus, options: RunOptions) -> float:
    """Mean over most of a short training run on this device: batches differ, so a median would not do."""
    quiet()
    device = choose_device(options.device)
    torch.set_num_threads(threads_of(options))
    short = experiment.training.model_copy(update={"steps": CALIBRATION_STEPS, "seconds": None})
    experiment = replace(experiment, training=short)
    data = DataModule(corpus, batch_tokens=experiment.data.batch_tokens, seed=experiment.seed)
    module = Seq2SeqModule(build_model(experiment, len(corpus.vocabulary)), short, experiment.seed)
    log = StepLog(Clock(device))
    trainer = make_trainer(experiment, device, callbacks=[log], logger=None, folder=options.results)
    trainer.fit(module, datamodule=data)
    log.flush(trainer)
    steady = log.seconds[CALIBRATION_STEPS // 4 :]
    return sum(steady) / len(steady)
