"""The speed record: what is timed does a model's work, and the trainer computes what a loop does."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.config import UserError
from benchmark.decoding import greedy
from benchmark.measure import speed
from benchmark.measure.operations import training_operations
from benchmark.measure.plain import plain_form
from benchmark.trainer import build_model, corpus_of
from models import ModelConfig
from tasks.data import batching
from tasks.data.batching import Shapes
from tasks.data.module import DataModule
from tests.benchmark.training_run import experiment, options

ARCHITECTURES = ["transformer", "lstm", "convs2s"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_trainer_computes_what_a_plain_loop_does(name: str, tmp_path: Path) -> None:
    found = speed.trainer_overhead(experiment(name), options(tmp_path), rounds=6, steps=5)
    assert found.equal_losses
    assert found.ratio.low <= found.ratio.value <= found.ratio.high


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plain_form_has_the_parameters_of_its_model(name: str) -> None:
    """Up to what PyTorch's modules cannot leave out: two final norms and second biases."""
    config = experiment(name).model
    form = plain_form(config, 40)
    assert form is not None
    ours = sum(parameter.numel() for parameter in config.build(40).parameters())
    theirs = sum(parameter.numel() for parameter in form.parameters())
    assert theirs == pytest.approx(ours, rel=0.02)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_plain_form_learns(name: str, tmp_path: Path) -> None:
    one = experiment(name, training={"learning_rate": 0.01, "steps": 100, "warmup_steps": 1})
    _, corpus = corpus_of(one, tmp_path, tmp_path)
    plan = batching.by_tokens(corpus.splits["train"], 300, 0).epoch(0)
    batch = batching.collate(corpus.splits["train"], plan[0], rank=0, world=1)
    torch.manual_seed(0)
    form = plain_form(one.model, len(corpus.vocabulary))
    assert form is not None
    loop = speed._PlainFormLoop(one, form, torch.device("cpu"), fused=False)
    losses = [float(loop.step(batch)) for _ in range(40)]
    assert losses[-1] < losses[0] - 0.3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_generation_with_and_without_cache_produces_the_same(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(experiment(name), 30).double().eval()
    source = torch.randint(4, 30, (3, 7))
    mask = torch.ones_like(source, dtype=torch.bool)
    assert torch.equal(speed._cached(model, source, mask, 40), speed._whole_prefix(model, source, mask, 40))


def test_sentences_that_are_as_long_as_their_sources(tmp_path: Path) -> None:
    """Those of about equal length come together, and each leaves when it is as long as its source."""
    one = experiment("transformer")
    _, corpus = corpus_of(one, tmp_path, tmp_path)
    model = build_model(one, len(corpus.vocabulary)).eval()
    batches = list(speed._sources(corpus, 20, 8, torch.device("cpu")))
    assert [len(source) for source, _ in batches] == [8, 8, 4]
    lengths = [mask.sum(1).tolist() for _, mask in batches]
    first = corpus.splits["validation"].source.lengths()[:20]
    assert [*itertools.chain(*lengths)] == sorted(first.tolist())
    endless: Any = speed._Endless(model)
    for (source, mask), expected in zip(batches, lengths, strict=True):
        found = greedy(endless, source, mask, extra_length=0)
        assert [len(words) for words in found] == expected


class FakeWatch:
    """A machine on which something was seen."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def sample(self) -> None:
        self.calls.append("sample")

    def stop(self) -> SimpleNamespace:
        self.calls.append("stop")
        return SimpleNamespace(noisy=True, reasons=("a reason",))


def test_a_speed_record_names_every_model_and_its_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "ROUNDS": 6,
        "GENERATION_ROUNDS": 6,
        "GENERATED_WORDS": 3,
        "GENERATED_SENTENCES": 9,
        "PEAK_SIZE": 64,
    }.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed, "OVERHEAD_ROUNDS", 6)
    monkeypatch.setattr(speed, "OVERHEAD_STEPS", 2)
    monkeypatch.setattr(speed, "OVERHEAD_STEP_SECONDS", (0.005,))
    watch = FakeWatch()
    monkeypatch.setattr(speed, "MachineWatch", lambda **_: watch)
    experiments = {name: experiment(name) for name in ARCHITECTURES}
    record = speed.measure_speed(experiments, options(tmp_path), "0" * 16, overhead=True)
    assert (record.noisy, record.noise) == (True, ["a reason"])
    assert (watch.calls[0], watch.calls[-1]) == ("start", "stop")
    assert set(watch.calls[1:-1]) == {"sample"}
    found = {
        (row.model, row.phase.split(" ")[0], row.quantity, row.conditions.get("baseline"))
        for row in record.rows
    }
    for name in ARCHITECTURES:
        assert (name, "train", "target_tokens_per_second", None) in found
        assert (name, "train", "share_of_matrix_product_limit", None) in found
        assert (name, "train", "speed_ratio", "plain form") in found
        assert (name, "generate", "speed_ratio", "whole prefix decoded again") in found
        assert (name, "generate", "sentences_per_second", None) in found
        assert (name, "generate", "share_of_matrix_product_limit", None) in found
    assert ("lstm", "train", "speed_ratio", "transformer") in found
    assert ("transformer", "train", "noise_floor", "transformer, itself") in found
    assert ("transformer", "train", "trainer_speed_ratio", "plain loop") in found
    for row in record.rows:
        assert row.low is not None and row.high is not None
        assert row.low <= row.value <= row.high


def test_speeds_on_different_data_are_not_compared(tmp_path: Path) -> None:
    one, other = experiment("lstm"), experiment("transformer", data={"batch_tokens": 100})
    with pytest.raises(
        UserError, match="measure: speed compares models on one task; b has another data section"
    ):
        speed.measure_speed({"a": one, "b": other}, options(tmp_path), "0" * 16, overhead=False)


def test_operations_are_those_of_the_batches(tmp_path: Path) -> None:
    """Against a count of every batch by hand: three passes, padding included, projection of words alone."""
    one = experiment("transformer")
    _, corpus = corpus_of(one, tmp_path, tmp_path)
    rounds = speed.TimedBatches(DataModule(corpus, batch_tokens=300, seed=0), torch.device("cpu"), 1, 0)
    size, width, expected = len(corpus.vocabulary), 16, 0.0
    model: Any = one.model
    for batch in rounds.batches[0]:
        (rows, source), target = batch.source.shape, batch.target_in.shape[1]
        encoder = source * (8 * width**2 + 4 * width * 24) + 4 * width * source**2
        decoder = target * (12 * width**2 + 4 * width * 24) + 4 * source * width**2
        decoder += 4 * width * target**2 + 4 * width * source * target
        expected += 3 * rows * (model.encoder_layers * encoder + model.decoder_layers * decoder)
        expected += 3 * 2 * batch.target_tokens * width * size
    assert rounds.operations(replace(one), size, 0) == pytest.approx(expected)


def test_operations_planned_are_those_of_the_batches_that_come(tmp_path: Path) -> None:
    """Over more than an epoch, batch by batch."""
    one = experiment("lstm")
    _, corpus = corpus_of(one, tmp_path, tmp_path)
    data = DataModule(corpus, batch_tokens=300, seed=3)
    steps = len(data.training) + 5
    shapes = data.training.shapes(steps)
    operations = training_operations(one.model, len(corpus.vocabulary), shapes)
    assert operations is not None
    assert len(operations) == steps
    for step, batch in zip(range(steps), data.train_dataloader(), strict=False):
        (rows, source), target = batch.source.shape, batch.target_in.shape[1]
        assert tuple(values[step] for values in shapes) == (rows, source, target, batch.target_tokens)
        body = one.model.theory(0, source, target).operations
        word = (one.model.theory(len(corpus.vocabulary), source, target).operations - body) / target
        assert operations[step] == pytest.approx(3 * (rows * body + batch.target_tokens * word))


def test_a_model_without_a_closed_form_has_no_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment("lstm").model
    monkeypatch.setattr(type(config), "theory", ModelConfig.theory)
    shape = np.array([3])
    assert training_operations(config, 10, Shapes(shape, shape, shape, shape)) is None
