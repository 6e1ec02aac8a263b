"""Runs end where undisturbed ones do, whatever happens to them; what happens is told."""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import Logger

from benchmark import check, checkpoint, resolution, tracking, trainer
from benchmark.config import ROOT, UserError, experiment_from
from benchmark.device import choose_device
from benchmark.engines import child
from benchmark.evaluation import Process, mean_loss
from benchmark.hypotheses import read_lines
from benchmark.measure.speed import PlainLoop, TimedBatches
from benchmark.measure.steps import StepLog
from benchmark.module import Seq2SeqModule, step_seed
from benchmark.record import TrainRecord
from benchmark.resolution import resolve
from benchmark.schedule import rate_factor
from benchmark.store import RunFolder
from benchmark.study import Asked
from models import Seq2SeqModel
from tasks.data.module import DataModule
from tasks.parallel_text import Config as ParallelText
from tests.benchmark.report.records import provenance
from tests.benchmark.training_run import (
    STEPS,
    TRANSLATION,
    curve_rows,
    experiment,
    identity,
    killed_run,
    observed_run,
    options,
    run,
)

ARCHITECTURES = ["transformer", "lstm", "convs2s"]
SCRIPT = Path(__file__).with_name("training_run.py")


PROCESSES = multiprocessing.get_context("forkserver")
"""Each begins where torch and Lightning are loaded already."""
PROCESSES.set_forkserver_preload(["tests.benchmark.training_run"])


def in_a_process(target: Callable[..., None], *arguments: Any, **fields: Any) -> int | None:
    """How it ended."""
    process = PROCESSES.Process(target=target, args=arguments, kwargs=fields)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize(("device", "on_cuda"), [("auto", True), ("cuda", True), ("cpu", False)])
def test_the_peak_of_a_run_that_lacked_memory_is_that_of_its_device(
    device: str, on_cuda: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_cell(*arguments: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "run_cell", run_cell)
    monkeypatch.setattr(check, "preflight_hooks", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    monkeypatch.setattr(child, "take_provenance", lambda **fields: provenance())
    one = experiment("lstm")
    folder = RunFolder(tmp_path / one.run_id())
    folder.open({"run_id": one.run_id(), "experiment": one.document()})
    assert child.run_child(folder.path, options(tmp_path, device=device)) == 1
    record = folder.record()
    assert isinstance(record, TrainRecord) and record.peak_memory_bytes is not None
    assert record.failure == "oom_device: OutOfMemoryError: CUDA out of memory"
    assert (record.peak_memory_bytes == 7) == on_cuda


RECIPES: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 50.0, "schedule": "plateau", "warmup_steps": 2},
    "nesterov": {"optimizer": "nesterov", "momentum": 0.99, "learning_rate": 0.25, "weight_decay": 0.1},
}


@pytest.mark.parametrize(
    ("model", "recipe", "step"),
    [
        *((model, "adam", 8) for model in ARCHITECTURES),
        *(("lstm", "adam", step) for step in (1, 4, 12, 13)),
        ("lstm", "sgd", 11),
        ("convs2s", "nesterov", 8),
    ],
)
def test_a_killed_run_resumes_bit_for_bit(model: str, recipe: str, step: int, tmp_path: Path) -> None:
    """Before a first checkpoint, on the step of a validation, on the last step, and while it is scored."""
    one = experiment(model, training=RECIPES[recipe])
    undisturbed = run(one, tmp_path / "undisturbed")
    assert in_a_process(killed_run, one, tmp_path / "killed", step) == -signal.SIGKILL
    resumed = run(one, tmp_path / "killed")
    assert undisturbed is not None and resumed is not None
    assert resumed.resumed_times == (0 if step == 1 else 1)
    assert resumed.bitwise
    assert identity(resumed) == identity(undisturbed)


def test_a_rate_is_cut_after_each_validation_that_is_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []
    taken = StepLog.on_train_batch_end

    def watching(self: StepLog, lightning: Any, *arguments: Any) -> None:
        rates.append(lightning.optimizers[0].param_groups[0]["lr"])
        taken(self, lightning, *arguments)

    monkeypatch.setattr(StepLog, "on_train_batch_end", watching)
    losses = iter([3.0, 2.0, 2.0, 2.5, 1.0, 1.5])
    monkeypatch.setattr(trainer, "mean_loss", lambda *_: (next(losses), 10))
    recipe = {"schedule": "plateau", "plateau_factor": 0.5, "warmup_steps": 0, "optimizer": "sgd"}
    assert run(experiment("lstm", training={**recipe, "learning_rate": 0.8, "validations": 6}), tmp_path)
    # The third, the fourth and the last validation, after steps 6, 8 and 12, are no better; what is seen when
    # a step is over is the next one's rate, which was set before this one was validated.
    assert rates == pytest.approx([0.8] * 6 + [0.4] * 2 + [0.2] * 4)


def test_architectures_see_the_same_batches(tmp_path: Path) -> None:
    streams = set()
    for model in ARCHITECTURES:
        record = run(experiment(model, training={"steps": 3, "validations": 1}), tmp_path)
        assert record is not None
        streams.add(record.batch_stream_sha256)
    assert len(streams) == 1


def test_a_run_that_goes_on_with_more_threads_is_marked(tmp_path: Path) -> None:
    one = experiment("lstm")
    assert in_a_process(killed_run, one, tmp_path, 8) == -signal.SIGKILL
    resumed = run(one, tmp_path, threads=2)
    assert resumed is not None and resumed.resumed_times == 1
    assert (resumed.bitwise, resumed.not_bitwise_because) == (False, "resumed with another number of threads")


def test_a_signal_ends_a_run_after_its_step_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = run(experiment("lstm"), tmp_path / "undisturbed")
    taken = StepLog.on_train_batch_end

    def terminated(self: StepLog, lightning: Any, *arguments: Any) -> None:
        if lightning.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        taken(self, lightning, *arguments)

    monkeypatch.setattr(StepLog, "on_train_batch_end", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(trainer.Interrupted) as interrupted:
        run(experiment("lstm"), tmp_path / "terminated")
    assert interrupted.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    folder = next((tmp_path / "terminated").glob("results/study/runs/*/checkpoints"))
    assert checkpoint.latest(folder) == checkpoint.training_path(folder, 7)

    monkeypatch.undo()
    resumed = run(experiment("lstm"), tmp_path / "terminated")
    assert undisturbed is not None and resumed is not None
    assert identity(resumed) == identity(undisturbed)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_two_processes_train_and_score_as_one(model: str, tmp_path: Path) -> None:
    """To rounding; gradients before they are clipped, since Adam and clipping hide their scale."""
    fields = {"model": {"dropout": 0.0}, "task": TRANSLATION}
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    assert in_a_process(observed_run, model, folders[0], 1, **fields) == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), model, str(folders[1]), "2", json.dumps(fields)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 0, ended.stderr
    results, gradients, outputs = [], [], []
    for folder in folders:
        results.append(json.loads((folder / "observed.json").read_text()))
        gradients.append(torch.load(folder / "gradients.pt", weights_only=True))
        [path] = folder.glob("results/study/runs/*/hypotheses.test.txt.gz")
        outputs.append(read_lines(path))
    one, two = results
    assert two["seconds_of_children"] > 1, "whoever counts what a run takes counts its other process"
    assert one["batches"] == two["batches"]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name)
    torch.testing.assert_close(torch.tensor(one["losses"]), torch.tensor(two["losses"]), rtol=1e-5, atol=1e-5)
    assert one["scores"] == two["scores"]
    assert {metric for _, metric, _ in one["scores"]} >= {"bleu", "chrf"}
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0])) > 5, "what is out of order shows"
    assert one["hypotheses"] == two["hypotheses"]


def test_a_loss_that_is_not_finite_ends_in_a_record_with_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Seq2SeqModule.training_step

    def poisoned(self: Seq2SeqModule, batch: Any, number: int) -> torch.Tensor:
        step = self.global_step
        loss = honest(self, batch, number)
        return loss * math.nan if step == 2 else loss

    whole = run(experiment("lstm"), tmp_path / "whole")
    monkeypatch.setattr(Seq2SeqModule, "training_step", poisoned)
    record = run(experiment("lstm"), tmp_path / "poisoned")
    assert record is not None and whole is not None
    assert record.status == "diverged"
    assert record.diverged_step == 3
    short = run(experiment("lstm", training={"steps": 2, "validations": 1}), tmp_path / "short")
    assert short is not None
    counted = ("steps", "train_target_tokens", "train_padded_tokens", "train_sentences")
    assert [getattr(record, one) for one in counted] == [getattr(short, one) for one in counted]
    assert record.failure == "the loss of step 3 is not finite"
    losses = [
        row["value"] for row in curve_rows(whole, tmp_path / "whole") if row["quantity"] == "train_loss"
    ]
    assert record.last_finite_loss == losses[1]
    assert record.scores == []


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save({"step": step}, checkpoint.training_path(tmp_path, step))
    checkpoint.remove_old(tmp_path)
    assert [path.name for path in sorted(tmp_path.glob("*.ckpt"))] == [
        "step-00000002.ckpt",
        "step-00000003.ckpt",
    ]
    last = checkpoint.training_path(tmp_path, 3)
    content = last.read_bytes()
    for cut in range(0, len(content), len(content) // 20):
        last.write_bytes(content[:cut])
        assert checkpoint.latest(tmp_path) == checkpoint.training_path(tmp_path, 2)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    last.write_bytes(flipped)
    assert checkpoint.latest(tmp_path) == checkpoint.training_path(tmp_path, 2)
    with pytest.raises(UserError, match=r"step-00000003\.ckpt: damaged or incomplete: its SHA-256 is not"):
        checkpoint.load(last)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["MARKER"],)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_checkpoint_cannot_run_code(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "marker"
    monkeypatch.setenv("MARKER", str(marker))
    path = tmp_path / "step-00000001.ckpt"
    if writer == "torch":
        checkpoint.save(_Payload(), path)
    else:
        import hashlib

        path.write_bytes(pickle.dumps(_Payload()))
        path.with_name(path.name + ".sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(UserError, match="holds more than tensors and plain values"):
        checkpoint.load(path)
    assert not marker.exists()


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    one, other = experiment("lstm", training={"steps": 3, "validations": 1}), experiment("lstm")
    assert run(one, tmp_path) is not None
    runs = tmp_path / "results" / "study" / "runs"
    (runs / one.run_id()).rename(runs / other.run_id())
    with pytest.raises(UserError, match=f"belongs to run {one.run_id()} and not to {other.run_id()}"):
        run(other, tmp_path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.tsv").write_text("a b c\tc b a\n" * 40)
    one = experiment("lstm", training={"steps": 3, "validations": 1})
    task = {"name": "parallel_text", "vocabulary": "symbols", "test": None}
    one = experiment_from({**one.document(), "task": task}, files_allowed=False)
    assert run(one, tmp_path) is not None
    (data / "train.tsv").write_text("c b a\ta b c\n" * 40)
    with pytest.raises(UserError, match="the data files have changed since it began to train; put them back"):
        run(one, tmp_path)


@pytest.mark.parametrize("target", ["c b a", "c b a c b a"])
def test_what_is_left_out_and_cut_is_counted(target: str, tmp_path: Path) -> None:
    """Words that were cut have no loss, and so there is no perplexity for each of all words."""
    data = tmp_path / "data"
    data.mkdir()
    long = "a b c a b c"
    (data / "train.tsv").write_text(
        "a b c\tc b a\n" * 40 + "a\t\n \ta\n" + f"{long}\ta\na\t{long}\n{long}\t{long}\n"
    )
    (data / "validation.tsv").write_text(f"a b c\tc b a\n{long}\ta b\na b\t{target}\n")
    (data / "test.tsv").write_text(f"{long}\tc\n\tb\na\t{long}\n")
    one = experiment("lstm", data={"maximum_tokens": 5}, training={"steps": 2, "validations": 1})
    task = {"name": "parallel_text", "vocabulary": "symbols", "test": "test.tsv"}
    one = experiment_from({**one.document(), "task": task}, files_allowed=False)
    record = run(one, tmp_path)
    assert record is not None
    assert (record.training_pairs, record.pairs_dropped_empty, record.pairs_dropped_long) == (40, 2, 3)
    assert record.sources_truncated == 2
    assert record.targets_truncated == (1 if target == "c b a c b a" else 0)
    assert record.validation_loss is not None
    per_symbol = pytest.approx(math.exp(record.validation_loss))
    assert record.validation_perplexity_per_token == per_symbol
    assert record.validation_perplexity_per_word == (None if record.targets_truncated else per_symbol)
    assert {score.split: score.sentences for score in record.scores} == {"validation": 3, "test": 3}


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match="device: no 'tpu' here; there are: auto, cpu"):
        choose_device("tpu")


HOPELESS: dict[str, Any] = {
    "steps": 40,
    "validations": 20,
    "patience": 2,
    "learning_rate": 5.0,
    "validation_sentences": 0,
}


def test_an_early_stop_needs_patience_to_run_out(tmp_path: Path) -> None:
    record = run(experiment("lstm", training=HOPELESS), tmp_path)
    assert record is not None
    losses = [point.validation_loss for point in record.curve if point.validation_loss is not None]
    assert record.stopped_early
    assert losses.index(min(losses)) == len(losses) - 3
    assert record.steps == record.curve[-1].step < 40


@pytest.mark.parametrize("ended_by", ["a fault in scoring", "a signal"])
def test_a_run_that_stopped_early_and_was_cut_off_takes_no_further_step(
    ended_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = experiment("lstm", training=HOPELESS)
    undisturbed = run(one, tmp_path / "undisturbed")
    assert undisturbed is not None
    taken = StepLog.on_train_batch_end

    def fault(*_: Any) -> None:
        raise RuntimeError("the machine is gone")

    def terminated(self: StepLog, lightning: Any, *arguments: Any) -> None:
        if lightning.global_step == undisturbed.steps:
            os.kill(os.getpid(), signal.SIGTERM)
        taken(self, lightning, *arguments)

    if ended_by == "a signal":
        monkeypatch.setattr(StepLog, "on_train_batch_end", terminated)
    else:
        monkeypatch.setattr(trainer, "score_run", fault)
    with pytest.raises((RuntimeError, trainer.Interrupted), match=r"the machine is gone|signal 15"):
        run(one, tmp_path / "cut")
    monkeypatch.undo()
    resumed = run(one, tmp_path / "cut")
    assert resumed is not None
    assert resumed.resumed_times == 1 and resumed.stopped_early
    assert resumed.steps == undisturbed.steps
    assert identity(resumed) == identity(undisturbed)


def test_what_is_scored_is_the_mean_of_the_last_validations(tmp_path: Path) -> None:
    weights = [{"w": torch.full((2, 3), value), "b": torch.tensor([value])} for value in (1.0, 2.0, 6.0)]
    for step, each in enumerate(weights, 1):
        checkpoint.save_weights(each, tmp_path, step, kept=2)
    assert not (tmp_path / "weights-00000001.pt").exists()
    mean = checkpoint.average_weights(tmp_path, [2, 3])
    assert torch.equal(mean["w"], torch.full((2, 3), 4.0))
    assert torch.equal(mean["b"], torch.tensor([4.0]))


def test_a_run_scores_the_mean_of_the_weights_of_its_last_validations(tmp_path: Path) -> None:
    one = experiment("lstm", training={"average_checkpoints": 2})
    record = run(one, tmp_path)
    assert record is not None and record.checkpoints_averaged == 2
    folder = tmp_path / "results" / "study" / "runs" / one.run_id() / "checkpoints"
    last = [torch.load(folder / f"weights-{step:08d}.pt", weights_only=True) for step in (8, 12)]
    assert any(not torch.equal(last[0][name], last[1][name]) for name in last[0])
    mean = {name: ((last[0][name].double() + last[1][name].double()) / 2).float() for name in last[0]}
    scored = torch.load(folder / checkpoint.AVERAGED, weights_only=True)
    assert scored.keys() == mean.keys()
    assert all(torch.equal(scored[name], mean[name]) for name in mean)
    assert record.weights_sha256 == checkpoint.weights_sha256(mean)
    assert record.validation_loss != record.validation_loss_last

    _, corpus = trainer.corpus_of(one, tmp_path, tmp_path / "cache")
    model = trainer.build_model(one, len(corpus.vocabulary))
    model.load_state_dict(mean)
    data = DataModule(corpus, batch_tokens=one.data.batch_tokens, seed=one.seed)
    loss, _ = mean_loss(model, data.val_dataloader(), Process(device=torch.device("cpu")))
    assert record.validation_loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(("steps", "validations"), [(12, 3), (10, 3), (7, 10), (1000, 7)])
def test_validations_are_evenly_spaced_and_the_last_is_at_the_end(steps: int, validations: int) -> None:
    at = sorted(trainer.validation_steps(steps, validations))
    assert at[-1] == steps
    assert at[0] >= 1
    assert len(at) == min(steps, validations)
    gaps = [after - before for before, after in zip([0, *at], at, strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_budgets_become_steps(tmp_path: Path) -> None:
    budgets: list[dict[str, Any]] = [{"epochs": 2.0}, {"tokens": 1000}, {"seconds": 2.0}]
    asked = [Asked(experiment=experiment("lstm", training={"steps": None, **budget})) for budget in budgets]
    in_epochs, tokens, seconds = (one.experiment for one in resolve(asked, options(tmp_path)))
    assert in_epochs.training.steps is not None and tokens.training.steps is not None
    record = run(experiment("lstm", training={"steps": tokens.training.steps, "validations": 1}), tmp_path)
    one_less = run(
        experiment("lstm", training={"steps": tokens.training.steps - 1, "validations": 1}), tmp_path
    )
    assert record is not None and one_less is not None
    assert (record.train_target_tokens or 0) >= 1000 > (one_less.train_target_tokens or 0)
    passes = run(experiment("lstm", training={"steps": in_epochs.training.steps, "validations": 1}), tmp_path)
    assert passes is not None
    assert passes.train_sentences == 2 * (passes.training_pairs or 0)
    assert seconds.training.budget == "steps"
    assert (seconds.training.steps or 0) >= 1


@pytest.mark.parametrize(
    ("of_a_layer", "of_models", "precision"),
    [(0.04, None, "float32"), (1.05, None, "float32"), (2.0, 1.5, "bfloat16"), (2.0, 0.8, "float32")],
)
def test_precision_is_measured_once_and_frozen_where_it_is_left_open(
    of_a_layer: float,
    of_models: float | None,
    precision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measurements = []

    def measured(device: torch.device) -> float:
        measurements.append(device)
        return of_a_layer

    def timed(self: TimedBatches, loop: PlainLoop, clock: Any) -> Any:
        assert of_models is not None, "a layer has said enough"
        return lambda number: 1.0 if loop.process.precision == "float32" else 1 / of_models

    monkeypatch.setattr(resolution, "bfloat16_speed", measured)
    monkeypatch.setattr(TimedBatches, "timed", timed)
    names = ("transformer", "lstm")
    asked = [Asked(experiment=experiment(name, training={"precision": "auto"})) for name in names]
    asked += [Asked(experiment=experiment("convs2s", training={"precision": "bfloat16"}))]
    asked += [Asked(experiment=experiment("convs2s", training={"precision": "float32"}))]
    cells = [one.experiment for one in resolve(asked, options(tmp_path))]
    found = [one.training.precision for one in cells]
    assert found == [precision, precision, "bfloat16", "float32"]
    assert measurements == [torch.device("cpu")]
    for name, cell in zip(names, cells, strict=False):
        assert cell == experiment(name, training={"precision": precision})
        assert cell.run_id() == experiment(name, training={"precision": precision}).run_id()


def test_a_machine_that_slows_down_takes_from_all_models_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of the LSTM take twice those of the Transformer, the machine gets ten times slower, and one round
    in ten has a hiccup.
    """
    calls = 0

    def seconds(loop: PlainLoop) -> float:
        nonlocal calls
        calls += 1
        drift, hiccup = 1 + 0.15 * calls, 30 if calls % 10 == 7 else 1
        return 5 * (2.0 if "LSTM" in type(loop.model).__name__ else 1.0) * drift * hiccup

    monkeypatch.setattr(TimedBatches, "timed", lambda self, loop, clock: lambda number: seconds(loop))
    asked = [
        Asked(experiment=experiment(name, training={"steps": None, "seconds": 1e6, "learning_rate": rate}))
        for name in ("transformer", "lstm")
        for rate in (0.1, 0.2)
    ]
    steps = [one.experiment.training.steps or 0 for one in resolve(asked, options(tmp_path))]
    assert steps[0] == steps[1] and steps[2] == steps[3], "the learning rate does not decide the speed"
    assert steps[0] == pytest.approx(2 * steps[2], rel=0.05)


def test_learning_rates_follow_their_formulas() -> None:
    def rates(**fields: Any) -> list[float]:
        training = experiment("lstm", training={"steps": 100, "warmup_steps": 10, **fields}).training
        return [rate_factor(training, step) for step in range(100)]

    for schedule in ("linear", "cosine", "inverse_sqrt", "constant", "plateau"):
        assert rates(schedule=schedule)[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates(schedule="constant")[10:] == [1.0] * 90
    assert rates(schedule="inverse_sqrt")[39] == pytest.approx(0.5)  # sqrt(10 / 40)
    linear = rates(schedule="linear", hold_fraction=0.5, final_fraction=0.2)
    assert linear[10:51] == [1.0] * 41
    assert linear[75] == pytest.approx(0.6)
    cosine = rates(schedule="cosine", final_fraction=0.1)
    assert cosine[55] == pytest.approx(0.55)
    assert linear[99] > 0.2 < linear[98]


def test_a_bar_shows_loss_speed_and_the_newest_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = experiment("lstm", training={"steps": 50, "validations": 2})
    record = run(one, tmp_path, progress=True)
    assert record is not None
    shown = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if "lstm seed 0" in line]
    first, last = record.curve
    for point, lines in ((first, shown), (last, shown[-1:])):
        validation = f"{point.validation_loss:.3f}, {point.scores[0].metric} {point.scores[0].value:.1f}"
        expected = rf"loss \d+\.\d{{3}}, [\d,]+ target tokens/s, validation loss {validation}"
        assert any(re.search(expected, line) for line in lines), shown
    losses = [row["value"] for row in curve_rows(record, tmp_path) if row["quantity"] == "train_loss"]
    assert f"loss {sum(losses[25:]) / 25:.3f}, " in shown[-1]
    assert "50/50" in shown[-1]
    assert not any(line.startswith("lstm seed 0: step") for line in shown), "no plain lines beside the bar"


def test_a_line_shows_the_same_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run(experiment("lstm", training={"steps": 50, "validations": 2}), tmp_path)
    assert record is not None
    lines = capsys.readouterr().err.splitlines()
    for point, line in zip(record.curve, lines, strict=True):
        assert re.fullmatch(
            rf"lstm seed 0: step {point.step} of 50: loss \d\.\d{{3}}, [\d,]+ target tokens/s, "
            rf"validation loss {point.validation_loss:.3f}, sequence_accuracy {point.scores[0].value:.1f}",
            line,
        )


def test_training_looks_at_numbers_of_the_device_every_25_steps_and_not_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look waits for the device: a loss that is not finite is found without one at each step."""
    step = 0
    looks: set[int] = set()

    def begins(*_: Any) -> None:
        nonlocal step
        step = 1

    def ends(self: StepLog, lightning: Any, *arguments: Any) -> None:
        nonlocal step
        taken(self, lightning, *arguments)
        step = lightning.global_step + 1

    def watched(honest: Any) -> Any:
        def look(self: torch.Tensor, *arguments: Any) -> Any:
            looks.add(step)
            return honest(self, *arguments)

        return look

    taken = StepLog.on_train_batch_end
    monkeypatch.setattr(trainer.Timetable, "on_train_start", begins)
    monkeypatch.setattr(StepLog, "on_train_batch_end", ends)
    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, watched(getattr(torch.Tensor, name)))
    training = {"steps": 60, "validations": 1}
    # Dropout on a CPU draws its seed as a number; on a GPU it does not.
    record = run(experiment("transformer", model={"dropout": 0.0}, training=training), tmp_path)
    assert record is not None
    assert looks - {0, 61} == {25, 50}


def test_random_numbers_of_a_step_are_its_own() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(2)}
    assert len(seeds) == 300
    assert step_seed(1, 2, 0) == step_seed(1, 2, 0)


def test_a_wall_clock_that_jumps_measures_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour back and a day on, by turns, at each look at it."""
    jumps = itertools.cycle([-3600.0, 86_400.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    begin = time.perf_counter()
    record = run(experiment("lstm", training={"steps": 20}), tmp_path)
    elapsed = time.perf_counter() - begin
    assert record is not None and record.train_seconds is not None and record.wall_seconds_total is not None
    assert 0 < record.train_seconds < record.wall_seconds_total < elapsed
    assert all(0 < point.train_seconds < elapsed for point in record.curve)


def test_measuring_changes_nothing(tmp_path: Path) -> None:
    """Validation, generation and checkpoints leave the loss curve and the weights bit for bit the same."""
    often = run(
        experiment("transformer", training={"validations": STEPS, "average_checkpoints": 1}), tmp_path
    )
    once = run(experiment("transformer", training={"validations": 1, "average_checkpoints": 1}), tmp_path)
    assert often is not None and once is not None
    assert often.loss_curve_sha256 == once.loss_curve_sha256
    assert often.weights_sha256 == once.weights_sha256


def test_gradient_of_a_tied_matrix_is_whole() -> None:
    """The fused loss and the embedding both add to the one matrix (guards a silent overwrite)."""
    one = experiment("transformer")
    model: Seq2SeqModel = one.model.build(30)
    source, target = torch.randint(4, 30, (3, 6)), torch.randint(4, 30, (3, 5))
    mask = torch.ones_like(source, dtype=torch.bool)
    model.eval()
    gradients = []
    for loss in (model.cross_entropy, lambda *args: Seq2SeqModel.cross_entropy(model, *args)):
        model.zero_grad()
        loss(model.decode(target, model.encode(source, mask)), target, 0.1).backward()
        gradients.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    torch.testing.assert_close(gradients[0], gradients[1])


def test_what_a_task_finds_wrong_is_the_user_s_mistake_in_one_line(tmp_path: Path) -> None:
    for side, lines in (("source", "a\nb\n"), ("target", "a\n")):
        for split in ("train", "valid"):
            (tmp_path / f"{split}.{side}").write_text(lines)
    text = ParallelText(train="train", validation="valid", source="source", target="target")
    one = replace(experiment("lstm"), task_name="parallel_text", task=text)
    with pytest.raises(UserError, match="2 lines") as caught:
        trainer.corpus_of(one, tmp_path, tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(UserError, match="cache: File exists"):
        trainer.corpus_of(experiment("lstm"), tmp_path, tmp_path / "cache")


def test_checkpoints_that_are_all_damaged_are_not_passed_over(tmp_path: Path) -> None:
    one = experiment("lstm", training={"steps": 3, "validations": 1})
    assert run(one, tmp_path) is not None
    folder = tmp_path / "results" / "study" / "runs" / one.run_id() / "checkpoints"
    for path in folder.glob("step-*.ckpt"):
        path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="none of its checkpoints is whole; remove the folder to start again"):
        run(one, tmp_path)


def test_weights_of_a_validation_that_are_damaged_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validations are after steps 4, 8 and 12, and the last two checkpoints are kept."""
    one = experiment("lstm")
    undisturbed = run(one, tmp_path)
    folder = tmp_path / "results" / "study" / "runs" / one.run_id() / "checkpoints"
    (folder / "weights-00000012.pt").write_bytes(b"damaged")
    assert checkpoint.latest(folder) == checkpoint.training_path(folder, 8)
    resumed = run(one, tmp_path)
    assert undisturbed is not None and resumed is not None
    assert identity(resumed) == identity(undisturbed)
    (folder / "weights-00000008.pt").unlink()
    with pytest.raises(
        UserError, match=r"weights-00000008\.pt: missing or damaged; remove .*/checkpoints to"
    ):
        run(one, tmp_path)
    (folder / "weights-00000008.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match="none of its checkpoints is whole; remove the folder to start again"):
        run(one, tmp_path)


def test_a_validation_loss_that_is_not_finite_ends_in_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "mean_loss", lambda *_: (math.inf, 10))
    record = run(experiment("lstm"), tmp_path)
    assert record is not None
    assert (record.status, record.diverged_step) == ("diverged", 4)


def test_a_logger_that_fails_changes_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Logger):
        name, version = "broken", 0

        def log_metrics(self, *_: Any, **__: Any) -> None:
            raise OSError("the server is gone")

        def log_hyperparams(self, *_: Any, **__: Any) -> None:
            pass

    alone = run(experiment("lstm"), tmp_path / "alone")
    monkeypatch.setattr(tracking, "lightning_logger", lambda *_, **__: (Broken(), "offline"))
    logged = run(experiment("lstm"), tmp_path / "logged")
    assert alone is not None and logged is not None
    assert identity(alone) == identity(logged)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_training_in_bfloat16_goes_through_to_the_scores(model: str, tmp_path: Path) -> None:
    """Slow on a processor without it, and the same code as on one that has it."""
    training = {"steps": 3, "validations": 1, "precision": "bfloat16", "gradient_clip": 1.0}
    record = run(experiment(model, training=training), tmp_path)
    assert record is not None and record.status == "done"
    assert record.provenance.precision == "bfloat16"
    assert record.validation_loss is not None and math.isfinite(record.validation_loss)
    wide = run(experiment(model, training={**training, "precision": "float32"}), tmp_path / "wide")
    assert wide is not None and wide.validation_loss == pytest.approx(record.validation_loss, rel=0.05)


def test_gradients_are_clipped_as_by_torch(tmp_path: Path) -> None:
    """A bound that nothing reaches changes no bit, and one that all exceed does."""
    hashes = []
    for clip in (None, 1e9, 1e-3):
        training = {"steps": 3, "validations": 1, "gradient_clip": clip}
        record = run(experiment("transformer", training=training), tmp_path / str(clip))
        assert record is not None
        hashes.append(record.loss_curve_sha256)
    assert hashes[0] == hashes[1] != hashes[2]
