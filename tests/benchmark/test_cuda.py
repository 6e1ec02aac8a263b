"""On a GPU models compute what they compute on a CPU, and what is timed there is what it says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.check.model import ModelUnderCheck, Pairs, at_test_size, random_pairs, variants
from benchmark.config import RunOptions, available, model_module
from benchmark.decoding import beam_search, greedy
from benchmark.device import use_device
from benchmark.measure import speed
from benchmark.measure.counting import operations_of
from benchmark.measure.layers import build_layer, time_rows, utilisation_rows
from benchmark.measure.timing import Clock
from benchmark.record import CAPTURED
from benchmark.trainer import build_model, corpus_of
from models import Seq2SeqModel
from models.layers.recurrent import Recurrence
from models.layers.table1 import LAYERS
from tasks.data.module import DataModule
from tests.benchmark.training_run import curve_rows, experiment, options, run

ARCHITECTURES = ("transformer", "convs2s", "lstm")
LAYER_FIELDS: dict[str, dict[str, int]] = {
    "self-attention": {"heads": 2},
    "restricted self-attention": {"neighbourhood": 8},
    "recurrent": {},
    "convolution": {"kernel": 3},
    "separable convolution": {"kernel": 3},
}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def cuda() -> torch.device:
    return use_device("cuda", 2)


def subjects() -> list[ModelUnderCheck]:
    found = []
    for name in available("models"):
        small = at_test_size(model_module(name, files_allowed=False).module.Config())
        found.append(ModelUnderCheck(name, small))
        found += [ModelUnderCheck(f"{name} {changed}", config) for changed, config in variants(small)]
    return found


SUBJECTS = subjects()


def model_on(subject: ModelUnderCheck, device: str, dtype: torch.dtype) -> Seq2SeqModel:
    """The same weights wherever it is."""
    model = subject.hooks(dtype=dtype).model.to(device)
    assert isinstance(model, Seq2SeqModel)
    return model


def loss_and_gradients(model: Seq2SeqModel, pairs: Pairs) -> tuple[float, dict[str, torch.Tensor]]:
    hidden = model.decode(pairs.target_in, model.encode(pairs.source, pairs.source_mask))
    loss = model.cross_entropy(hidden, pairs.target_out, 0.1)
    loss.backward()
    gradients = {name: one.grad.cpu() for name, one in model.named_parameters() if one.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize("subject", SUBJECTS, ids=[one.name for one in SUBJECTS])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradients_are_those_of_a_cpu(
    subject: ModelUnderCheck, dtype: torch.dtype, cuda: torch.device
) -> None:
    pairs = random_pairs(3, sentences=6)
    # PyTorch's kernel of weight normalisation takes roots in float32.
    exact = 1e-6 if subject.name.startswith("convs2s") else 1e-9
    tolerance = exact if dtype == torch.float64 else 2e-4
    expected, on_cpu = loss_and_gradients(model_on(subject, "cpu", dtype), pairs)
    found, on_cuda = loss_and_gradients(model_on(subject, "cuda", dtype), pairs.to(cuda))
    assert found == pytest.approx(expected, rel=1e-5)
    assert on_cuda.keys() == on_cpu.keys()
    largest = max(float(one.abs().max()) for one in on_cpu.values())
    for name, one in on_cpu.items():
        torch.testing.assert_close(on_cuda[name], one, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("subject", SUBJECTS, ids=[one.name for one in SUBJECTS])
def test_generation_is_that_of_a_cpu(subject: ModelUnderCheck, cuda: torch.device) -> None:
    pairs = random_pairs(4, sentences=6)
    found = []
    for device in ("cpu", "cuda"):
        model = model_on(subject, device, torch.float64)
        source, mask = pairs.source.to(device), pairs.source_mask.to(device)
        with torch.inference_mode():
            words = greedy(model, source, mask, extra_length=5)
            searched = beam_search(model, source, mask, beam=3, alpha=0.6, extra_length=5)
        found.append((words, [one.words for one in searched]))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["recurrence", "convolution"])
def test_float32_is_not_tf32(kind: str, cuda: torch.device) -> None:
    """TF32 would be off by 1e-3 here."""
    x = torch.randn(4, 256, 256, device=cuda)
    layer = Recurrence(256, 256) if kind == "recurrence" else torch.nn.Conv1d(256, 256, 3)
    layer = layer.to(cuda)
    with torch.no_grad():
        found, expected = (
            one[0] if isinstance(one, tuple) else one for one in (layer(x), layer.double()(x.double()))
        )
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_operations_of_layers_are_the_closed_form(name: str, cuda: torch.device) -> None:
    layer = build_layer({"name": name, "width": 32, **LAYER_FIELDS[name]}).to(cuda)
    x = torch.randn(1, 24, 32, device=cuda)
    with torch.no_grad():
        assert operations_of(lambda: layer(x)) == layer.theory(24).operations


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_of_training_are_those_of_a_cpu(name: str, dtype: torch.dtype, cuda: torch.device) -> None:
    pairs = random_pairs(5, sentences=2).select([0])
    counts = []
    for device, precision in (("cpu", torch.float32), ("cuda", dtype)):
        model = experiment(name).model.build(61).to(device).eval()
        there = pairs.to(torch.device(device))

        with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
            counts.append(operations_of(partial(loss_and_gradients, model, there)))
    # Fused attention computes its scores once more on the way back.
    assert 0 < counts[0] <= counts[1] <= 1.1 * counts[0]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_captured_steps_are_those_that_are_launched(
    name: str, precision: str, cuda: torch.device, tmp_path: Path
) -> None:
    training = {"precision": precision, "learning_rate": 1e-3, "warmup_steps": 1, "schedule": "constant"}
    one = experiment(name, training=training, model={"dropout": 0.0})
    _, corpus = corpus_of(one, tmp_path, tmp_path)
    rounds = speed.TimedBatches(DataModule(corpus, batch_tokens=300, seed=0), cuda, 3, 0)
    clock, size = Clock(cuda), len(corpus.vocabulary)
    loops = [
        speed.PlainLoop(one, build_model(one, size), cuda, fused=True, capturable=capturable)
        for capturable in (False, True)
    ]
    start = [one.detach().clone() for one in loops[0].model.parameters()]
    captured = rounds.captured(loops.pop(), clock)  # which keeps the loop
    other = torch.empty(2**26, device=cuda).normal_()  # would lie where the loop was
    plain, batches = loops[0], [batch for round_ in rounds.batches for batch in round_]
    for batch in (batches[0], batches[0], *batches, *batches):  # before the capture, and after it
        plain.step(batch)
    launched = rounds.timed(plain, clock)
    for number in range(3):
        assert captured(number) > 0 and launched(number) > 0
    there = captured_parameters(captured)
    moved, apart = (
        sum(float((a - b).square().sum()) for a, b in zip(plain.model.parameters(), others, strict=True))
        for others in (start, there)
    )
    assert apart < (1e-3 if precision == "float32" else 0.1) ** 2 * moved
    assert torch.isfinite(other).all()


def captured_parameters(work: Callable[[int], float]) -> list[torch.Tensor]:
    """Of the loop that a function from `TimedBatches.captured` keeps."""
    (loop,) = (
        cell.cell_contents
        for cell in work.__closure__ or ()
        if isinstance(cell.cell_contents, speed.PlainLoop)
    )
    return list(loop.model.parameters())


def test_events_measure_what_a_clock_that_waits_measures(cuda: torch.device) -> None:
    a = torch.randn(4096, 4096, device=cuda)
    clock = Clock(cuda)
    torch.cuda.synchronize()
    for _ in range(2):  # the first warms up
        begin, mark = time.perf_counter(), clock.mark()
        for _ in range(10):
            a @ a
        seconds = clock.seconds(mark, clock.mark())
        torch.cuda.synchronize()
        waited = time.perf_counter() - begin
    assert seconds == pytest.approx(waited, rel=0.1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_are_timed_in_their_precision(precision: str, cuda: torch.device) -> None:
    layers = {name: {"name": name, **fields} for name, fields in LAYER_FIELDS.items()}
    layers["cells"] = {"name": "recurrent", "fused": False}
    common = {"layers": layers, "width": 32, "rounds": 6, "seed": 0, "precision": precision}
    rows = list(time_rows({**common, "lengths": [8, 16], "tokens": 64}, cuda, lambda: None))
    assert len(rows) == (len(layers) + 1) * 2 * 2 * 2
    assert all(min(row.samples) > 0 for row in rows)
    rows = list(utilisation_rows({**common, "length": 16, "batches": [1, 64]}, cuda, lambda: None))
    shares = [row.value for row in rows if row.quantity == "utilisation"]
    assert len(shares) == len(layers) * 2 and all(0 < share < 1 for share in shares)


def test_a_length_beyond_the_memory_of_the_device_is_a_row(cuda: torch.device) -> None:
    layers = {"convolution": {"name": "convolution", "kernel": 3}}
    settings = {"layers": layers, "width": 1024, "lengths": [2**26], "tokens": 1, "rounds": 6, "seed": 0}
    assert {row.quantity for row in time_rows(settings, cuda, lambda: None)} == {"beyond_memory"}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_goes_through_and_again_ends_near(name: str, precision: str, tmp_path: Path) -> None:
    """Near, since kernels of a GPU may add in another order each time."""
    losses = []
    for folder in (tmp_path / "once", tmp_path / "again"):
        one = experiment(name, training={"precision": precision})
        record = run(one, folder, device="cuda")
        assert record is not None and record.status == "done"
        assert record.provenance.device == torch.cuda.get_device_name()
        assert record.provenance.precision == precision
        assert record.peak_memory_bytes
        losses.append([row["value"] for row in curve_rows(record, folder) if row["quantity"] == "train_loss"])
    once, again = np.array(losses)
    np.testing.assert_allclose(again, once, rtol=1e-3 if precision == "float32" else 2e-2)


def test_losses_are_those_of_a_cpu(tmp_path: Path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        one = experiment("transformer", model={"dropout": 0.0})
        record = run(one, tmp_path / device, device=device)
        assert record is not None
        rows = curve_rows(record, tmp_path / device)
        found.append([row["value"] for row in rows if row["quantity"] == "train_loss"])
    on_cpu, on_cuda = np.array(found)
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=1e-3)


def test_the_speed_record_has_captured_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {
        "ROUNDS": 6,
        "GENERATION_ROUNDS": 6,
        "GENERATED_WORDS": 3,
        "GENERATED_SENTENCES": 9,
        "CUDA_PEAK_SIZE": 1024,
    }
    for name, value in few.items():
        monkeypatch.setattr(speed, name, value)
    where: RunOptions = replace(options(tmp_path), device="cuda")
    record = speed.measure_speed(
        {name: experiment(name) for name in ARCHITECTURES}, where, "0" * 16, overhead=False
    )
    found = {(row.model, row.quantity) for row in record.rows if row.phase == CAPTURED}
    assert found == {
        (name, quantity)
        for name in ARCHITECTURES
        for quantity in ("target_tokens_per_second", "speed_ratio", "share_of_matrix_product_limit")
    }
    peak = next(row.value for row in record.rows if row.phase == "peak")
    assert peak > 0 and all(
        0 < row.value < 1 for row in record.rows if row.quantity == "share_of_matrix_product_limit"
    )
    assert record.timing_method and "torch.cuda.Event" in record.timing_method
