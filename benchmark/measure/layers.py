"""What is measured of layers and of untrained models, each as rows of a record.

    span        work and depth of layers and models, in training and in generation
    path        hops and steps between positions, in stacks that connect all of them
    signal      norms of gradients against distance
    complexity  operations and memory over lengths and widths, counted
    time        seconds of all layers over lengths, in interleaved rounds
    utilisation operations per second against those of matrix products, over batches
    lengths     how long the sentences of a task are

Settings are plain values, as a record holds them. A length beyond the memory of this machine is a row that
says so.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmark.config import model_module
from benchmark.measure.allocation import available_bytes, forward_bytes, saved_bytes
from benchmark.measure.counting import operations_of
from benchmark.measure.graph import BeyondMemory, CannotTrace
from benchmark.measure.signal import Profile, decay, layer_signal, model_signal, random_words
from benchmark.measure.span import (
    Part,
    Paths,
    Span,
    generation_span,
    layer_paths,
    layer_span,
    model_paths,
    model_span,
    smallest_stack,
    undeclared,
    undeclared_in_model,
)
from benchmark.measure.speed import matrix_products
from benchmark.measure.timing import Clock, interleaved, median
from benchmark.record import Row
from models import Seq2SeqModel
from models.layers.recurrent import Recurrence
from models.layers.table1 import LAYERS, Table1Layer

Settings = Mapping[str, Any]

SHOWN_DISTANCES = 48
"""Points of a profile that are kept; laws are fitted to all."""
SHORTEST_SECONDS = 2e-3
"""Of one timing: what is faster is repeated within it."""
VOCABULARY = 100
LONGEST = 4096
"""Positions of a small model."""
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PEAK = "matrix products"
MODEL_PASSES: tuple[tuple[str, Part, bool], ...] = (
    ("teacher forcing", "model", False),
    ("teacher forcing, forward and backward", "model", True),
    ("encoder", "encoder", False),
    ("encoder, forward and backward", "encoder", True),
    ("decoder", "decoder", False),
    ("decoder, forward and backward", "decoder", True),
)
"""What a row calls them; generation comes after."""
_BACKWARD_OPERATIONS = 2
"""Of the forward pass: each product is two."""
_BACKWARD_SHARE = 3
"""Of what a forward pass allocates, at most, with the gradients of all of it."""


def build_layer(settings: Settings) -> Table1Layer:
    """The layer that `name`, `width` and its own fields describe, with the weights of `weights_from`."""
    fields = {key: value for key, value in settings.items() if key not in ("name", "fused")}
    with _seeded():
        layer = LAYERS[settings["name"]](**fields)
    for module in layer.modules():
        if getattr(module, "fused", None) is True:
            setattr(module, "fused", settings.get("fused", True))  # noqa: B010
    return layer


def build_small_model(name: str) -> Seq2SeqModel:
    """An architecture at test size, with the weights of `weights_from`, and with room for any length."""
    config = model_module(name, files_allowed=False).module.Config().tiny()
    if hasattr(config, "maximum_length"):
        config = config.model_copy(update={"maximum_length": LONGEST})
    with _seeded():
        model: Seq2SeqModel = config.build(VOCABULARY)
    return model.eval()


_SEED = ContextVar("seed of weights", default=0)


@contextlib.contextmanager
def weights_from(seed: int) -> Iterator[None]:
    """While inside, layers and models are built with weights from this seed, where they were from seed 0."""
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Random numbers of those weights; those of the caller go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED.get())
        yield


# Span


def span_rows(settings: Settings) -> Iterator[Row]:
    """Of `layer` at `lengths`, forward, and backward up to `backward_to`; or of `model` and its parts."""
    if "model" in settings:
        yield from _model_span_rows(settings)
        return
    layer = build_layer(settings["layer"])
    width = settings["layer"]["width"]
    for length in settings["lengths"]:
        for backward in (False, True):
            if backward and length > settings["backward_to"]:
                continue
            conditions = {"n": length, "pass": "forward and backward" if backward else "forward"}
            if not _fits_in_memory(layer, 1, length, width, CPU, backward=backward):
                yield _beyond_memory(conditions)
                continue
            run = partial(layer_span, layer, length, width, backward=backward)
            yield from if_it_fits(conditions, partial(_span, conditions, run))


def _model_span_rows(settings: Settings) -> Iterator[Row]:
    model = build_small_model(settings["model"])
    for name, part, backward in MODEL_PASSES:
        for length in settings["lengths"]:
            if backward and length > settings["backward_to"]:
                continue
            conditions = {"n": length, "pass": name}
            run = partial(model_span, model, length, length, part=part, backward=backward)
            yield from if_it_fits(conditions, partial(_span, conditions, run))
    for words in settings["lengths"]:
        conditions = {"n": words, "pass": "generation"}
        run = partial(generation_span, model, settings["lengths"][0], words)
        yield from if_it_fits(conditions, partial(_span, conditions, run))


def _span(conditions: dict[str, Any], run: Callable[[], Span]) -> Iterator[Row]:
    span = run()
    for quantity in ("work", "kernel_depth", "ideal_depth", "storage_depth"):
        value = float(getattr(span, quantity))
        yield Row(quantity=quantity, value=value, unit="operations", conditions=conditions)


# Paths


def path_rows(settings: Settings) -> Iterator[Row]:
    """Of the smallest stack of `layer` that connects all of `lengths` positions; or of `model`.

    Where it is `dilated`, the dilation grows from layer to layer by the kernel. The matrix of hops is kept at
    `matrix_length`, with a residual path around each layer, so that near positions are nearer than far ones.
    """
    if "model" in settings:
        yield from _model_path_rows(settings)
        return
    width = settings["layer"]["width"]
    causal = LAYERS[settings["layer"]["name"]].causal
    wrong = undeclared(build_layer(settings["layer"]), width)
    if wrong:
        raise CannotTrace(wrong)
    for length in settings["lengths"]:
        yield from if_it_fits({"n": length}, partial(_layer_path_rows, settings, length, causal))


def _layer_path_rows(settings: Settings, length: int, causal: bool) -> Iterator[Row]:
    width = settings["layer"]["width"]
    stack = _stack(settings)
    most, alike = _most_layers(settings, length), not settings.get("dilated")
    found = smallest_stack(stack, length, width, causal=causal, most=most, alike=alike)
    if found is None:
        yield Row(quantity="never_connects", value=1.0, unit="0 or 1", conditions={"n": length})
        return
    depth, paths = found
    values = {
        "layers": (depth, "layers"),
        "hops": (paths.longest("hops"), "hops"),
        "steps": (paths.longest("steps"), "operations"),
        "leaks": (paths.leaks(causal=causal), "pairs"),
    }
    for quantity, (value, unit) in values.items():
        yield Row(quantity=quantity, value=value, unit=unit, conditions={"n": length})
    if length == settings["matrix_length"]:
        residual = nn.Sequential(*(_Residual(layer) for layer in stack(depth)))
        yield from _matrix(layer_paths(residual, length, width).hops, length)


class _Residual(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layer(x)
        return y


def _matrix(hops: Tensor, length: int) -> Iterator[Row]:
    for source, target in torch.isfinite(hops).nonzero().tolist():
        conditions = {"n": length, "from": source, "to": target}
        yield Row(
            quantity="hops_between", value=float(hops[source, target]), unit="hops", conditions=conditions
        )


def _stack(settings: Settings) -> Callable[[int], nn.Sequential]:
    def stack(layers: int) -> nn.Sequential:
        fields = dict(settings["layer"])
        found = []
        for number in range(layers):
            if settings.get("dilated"):
                fields["dilation"] = fields["kernel"] ** number
            found.append(build_layer(fields))
        return nn.Sequential(*found)

    return stack


def _most_layers(settings: Settings, length: int) -> int:
    """More than any of these layers can need: each sees at least one position farther than the one below."""
    layer = settings["layer"]
    reach = layer["kernel"] - 1 if "kernel" in layer else layer.get("neighbourhood", 2 * length) // 2
    if settings.get("dilated"):
        return math.ceil(math.log2(length)) + 1
    return max(1, math.ceil((length - 1) / reach) + 1)


def _model_path_rows(settings: Settings) -> Iterator[Row]:
    model = build_small_model(settings["model"])
    wrong = undeclared_in_model(model)
    if wrong:
        raise CannotTrace(wrong)
    for length in settings["lengths"]:
        yield from if_it_fits({"n": length}, partial(_rows_of_parts, model, length))


def _rows_of_parts(model: Seq2SeqModel, length: int) -> Iterator[Row]:
    paths = model_paths(model, length, length)
    for part, causal in (("encoder", False), ("source to target", False), ("target to target", True)):
        found: Paths | None = getattr(paths, part.replace(" ", "_"))
        if found is None:
            continue
        values = {
            "connects": (float(found.connects(causal=causal)), "0 or 1"),
            "hops": (found.longest("hops"), "hops"),
            "steps": (found.longest("steps"), "operations"),
            "leaks": (found.leaks(causal=causal), "pairs"),
        }
        for quantity, (value, unit) in values.items():
            yield Row(quantity=quantity, value=value, unit=unit, conditions={"n": length, "part": part})


# Signal


def signal_rows(settings: Settings) -> Iterator[Row]:
    """Of `layer` at `lengths`; or of `model`, from source and target words drawn at random.

    `forget_bias` is an LSTM's; output positions are the last one and the middle one, of a model the last.
    """
    for length in settings["lengths"]:
        yield from if_it_fits({"n": length}, partial(_signal_rows, settings, length))


def _signal_rows(settings: Settings, length: int) -> Iterator[Row]:
    for conditions, profile in _profiles(settings, length):
        yield from profile_rows(profile, {"n": length, "output": profile.output, **conditions})


def _profiles(settings: Settings, length: int) -> Iterator[tuple[dict[str, Any], Profile]]:
    outputs = [length // 2, length - 1]
    if "model" in settings:
        model = build_small_model(settings["model"])
        yield from model_profiles(model, VOCABULARY, length, outputs)
        return
    layer = build_layer(settings["layer"])
    bias = settings.get("forget_bias")
    if bias is not None:
        width = settings["layer"]["width"]
        with torch.no_grad():
            for module in layer.modules():
                if isinstance(module, Recurrence):
                    module.bias_ih_l0[width : 2 * width] = bias
    for profile in layer_signal(layer, length, settings["layer"]["width"], outputs):
        yield {}, profile


def model_profiles(
    model: Seq2SeqModel, words: int, length: int, outputs: Sequence[int]
) -> Iterator[tuple[dict[str, Any], Profile]]:
    """From random source and target words, of so many, with the side that they are from."""
    source, target = (random_words(length, words, seed=seed) for seed in (0, 1))
    for side in ("source", "target"):
        for profile in model_signal(model, source, target, outputs, side=side):
            yield {"from": side}, profile


def profile_rows(profile: Profile, conditions: dict[str, Any]) -> Iterator[Row]:
    """Its law with the interval, and the norms at some of its distances."""
    fit = decay(profile)
    law = {**conditions, "decay": fit.kind}
    for quantity, summary, unit in (
        ("rate", fit.rate, "ln per position"),
        ("exponent", fit.exponent, "ln per ln distance"),
    ):
        if math.isfinite(summary.mean):
            half = summary.half_width or 0.0
            yield Row(
                quantity=quantity,
                value=summary.mean,
                low=summary.mean - half,
                high=summary.mean + half,
                unit=unit,
                conditions=law,
            )
    yield Row(quantity="unreached", value=fit.unreached, unit="positions", conditions=law)
    mean = profile.mean
    count = len(profile.distances)
    kept = np.unique(np.round(np.geomspace(1, max(1, count), SHOWN_DISTANCES)).astype(int)) - 1
    for index in kept[:count]:
        yield Row(
            quantity="norm",
            value=float(mean[index]),
            unit="norm of d output / d input",
            conditions={**conditions, "distance": int(profile.distances[index])},
        )


# Complexity


def complexity_rows(settings: Settings) -> Iterator[Row]:
    """Of `layer` over `lengths` and `widths`: what is counted beside closed forms. A kernel may be `n`;
    `heads`, where there are some, are those of each width.
    """
    for number, width in enumerate(settings["widths"]):
        for length in settings["lengths"]:
            fields = {**settings["layer"], "width": width}
            if "heads" in settings:
                fields["heads"] = settings["heads"][number]
            if fields.get("kernel") == "n":
                fields["kernel"] = length
            layer = build_layer(fields)
            conditions = {"n": length, "d": width}
            if not _fits_in_memory(layer, 1, length, width, CPU, backward=True):
                yield _beyond_memory(conditions)
                continue
            theory = layer.theory(length)
            forward, both = _counted(layer, length, width)
            values = {
                "operations": (forward, "operations"),
                "operations_with_backward": (both, "operations"),
                "mixing_operations": (theory.mixing, "operations"),
                "projection_operations": (theory.projections, "operations"),
                "parameters": (theory.parameters, "parameters"),
                "saved_bytes": (saved_bytes(layer, length, width), "bytes"),
            }
            for quantity, (value, unit) in values.items():
                yield Row(quantity=quantity, value=value, unit=unit, conditions=conditions)


def _counted(layer: nn.Module, length: int, width: int) -> tuple[int, int]:
    """Of a forward pass, and of one with the gradients of input and parameters."""
    x = torch.zeros(1, length, width)
    forward = operations_of(_pass(layer, x, backward=False))
    return forward, operations_of(_pass(layer, x.requires_grad_(), backward=True))


def _fits_in_memory(
    layer: nn.Module, batch: int, length: int, width: int, device: torch.device, *, backward: bool
) -> bool:
    needed = forward_bytes(layer, batch, length, width)
    return (_BACKWARD_SHARE if backward else 1) * needed < available_bytes(device)


def if_it_fits(conditions: dict[str, Any], rows: Callable[[], Iterator[Row]]) -> list[Row]:
    """All of `rows`, or one that says that the memory of this machine is too small."""
    try:
        return list(rows())
    except (BeyondMemory, MemoryError):
        pass
    except RuntimeError as error:  # of PyTorch's allocator, which has no type of its own on a CPU
        if "can't allocate memory" not in str(error):
            raise
    return [_beyond_memory(conditions)]


def _beyond_memory(conditions: dict[str, Any]) -> Row:
    return Row(quantity="beyond_memory", value=1.0, unit="0 or 1", conditions=conditions)


# Time


def time_rows(settings: Settings, device: torch.device, sample: Callable[[], None]) -> Iterator[Row]:
    """Seconds of every one of `layers` at every one of `lengths` and one `width`, forward and forward with
    backward, for one sequence and for a batch of `tokens` positions; forward alone in evaluation mode.

    All are timed once in each of `rounds`, in an order drawn anew; `sample` is called before each timing. The
    first layer takes part twice, as `again`: what differs there is noise.
    """
    layers = _layers_of(settings, device)
    first = next(iter(layers))
    contest = _Contest(settings, device, sample)
    for name, layer in (*layers.items(), (f"{first} again", layers[first])):
        for length in settings["lengths"]:
            for batch in dict.fromkeys((1, max(1, settings["tokens"] // length))):
                for backward in (False, True):
                    contest.enter(name, layer, length, batch, backward, full=batch > 1)
    yield from contest.beyond_memory
    for conditions, samples in contest.seconds(settings):
        yield summarised("seconds", samples, "s", conditions)


def utilisation_rows(settings: Settings, device: torch.device, sample: Callable[[], None]) -> Iterator[Row]:
    """Of every one of `layers`, forward and backward, at one `length` and `width` over `batches`: as a share
    of the operations per second of matrix products that are timed in the same rounds.
    """
    contest = _Contest(settings, device, sample)
    length = settings["length"]
    operations = {}
    for name, layer in _layers_of(settings, device).items():
        operations[name] = (1 + _BACKWARD_OPERATIONS) * layer.theory(length).operations
        for batch in settings["batches"]:
            contest.enter(name, layer, length, batch, True)
    products = matrix_products(device, contest.clock, precision_of(settings))
    contest.add({"layer": PEAK}, _sampled(products.work, sample))
    found = list(contest.seconds(settings))
    per_second = [
        products.amount(0) / one
        for conditions, every in found
        if conditions["layer"] == PEAK
        for one in every
    ]
    yield from contest.beyond_memory
    yield summarised("peak", per_second, "operations/s", {"layer": PEAK})
    for conditions, samples in found:
        if conditions["layer"] != PEAK:
            amount = conditions["batch"] * operations[conditions["layer"]]
            shares = [amount / one / peak for one, peak in zip(samples, per_second, strict=True)]
            yield summarised("utilisation", shares, "share of peak", conditions)


def _layers_of(settings: Settings, device: torch.device) -> dict[str, Table1Layer]:
    return {
        name: build_layer({**fields, "width": settings["width"]}).to(device, DTYPES[precision_of(settings)])
        for name, fields in settings["layers"].items()
    }


def precision_of(settings: Settings) -> Literal["float32", "bfloat16"]:
    """In which the layers of a cell are timed, weights and inputs alike."""
    precision: Literal["float32", "bfloat16"] = settings.get("precision", "float32")
    return precision


def summarised(quantity: str, samples: list[float], unit: str, conditions: dict[str, Any]) -> Row:
    """The median of samples with its interval."""
    value = median(samples)
    return Row(
        quantity=quantity,
        value=value.value,
        low=value.low,
        high=value.high,
        unit=unit,
        samples=samples,
        conditions=conditions,
    )


class _Contest:
    """Passes through layers of one width that are timed in the same rounds."""

    def __init__(self, settings: Settings, device: torch.device, sample: Callable[[], None]) -> None:
        self.clock = Clock(device)
        self.beyond_memory: list[Row] = []
        self._width, self._device, self._sample = settings["width"], device, sample
        self._dtype = DTYPES[precision_of(settings)]
        self._works: list[tuple[dict[str, Any], Callable[[int], float]]] = []
        self._inputs: dict[tuple[int, int, bool], Tensor] = {}

    def enter(
        self, name: str, layer: nn.Module, length: int, batch: int, backward: bool, **further: Any
    ) -> None:
        """Have a layer take part, unless it needs more memory than there is."""
        conditions = {
            "layer": name,
            "n": length,
            "d": self._width,
            "batch": batch,
            "pass": "forward and backward" if backward else "forward",
            **further,
        }
        if not _fits_in_memory(layer, batch, length, self._width, self._device, backward=backward):
            self.beyond_memory.append(_beyond_memory(conditions))
            return
        shape = batch, length, backward
        if shape not in self._inputs:
            x = torch.randn(batch, length, self._width, device=self._device, dtype=self._dtype)
            self._inputs[shape] = x.requires_grad_(backward)
        work = _pass(layer, self._inputs[shape], backward)

        def begin() -> None:
            # A fused LSTM in training keeps what a backward pass needs, without one too.
            layer.train(backward)
            self._sample()

        self.add(conditions, _timed(work, self.clock, begin))

    def add(self, conditions: dict[str, Any], work: Callable[[int], float]) -> None:
        """Have something else take part, which returns its seconds."""
        self._works.append((conditions, work))

    def seconds(self, settings: Settings) -> Iterator[tuple[dict[str, Any], list[float]]]:
        """Of every participant in every round."""
        works = {str(number): work for number, (_, work) in enumerate(self._works)}
        found = interleaved(works, rounds=settings["rounds"], warmup=2, seed=settings["seed"])
        for (conditions, _), samples in zip(self._works, found.values(), strict=True):
            yield conditions, samples


def _pass(layer: nn.Module, x: Tensor, backward: bool) -> Callable[[], object]:
    wanted = [x, *layer.parameters()]

    def forward() -> object:
        with torch.no_grad():
            return layer(x)

    def both() -> object:
        return torch.autograd.grad(layer(x).sum(), wanted)

    return both if backward else forward


def _sampled(work: Callable[[int], float], sample: Callable[[], None]) -> Callable[[int], float]:
    def sampled(number: int) -> float:
        sample()
        return work(number)

    return sampled


def _timed(work: Callable[[], object], clock: Clock, begin: Callable[[], None]) -> Callable[[int], float]:
    """Seconds of one call, over as many calls as make a timing that the clock can tell; after `begin`."""
    repeats = 0

    def timed(_: int) -> float:
        nonlocal repeats
        begin()
        if not repeats:
            work()
            start = clock.mark()
            work()
            taken = clock.seconds(start, clock.mark())
            repeats = max(1, math.ceil(SHORTEST_SECONDS / max(taken, 1e-7)))
        start = clock.mark()
        for _ in range(repeats):
            work()
        return clock.seconds(start, clock.mark()) / repeats

    return timed


# Lengths


def lengths_rows(lengths: Mapping[str, NDArray[np.int32]]) -> Iterator[Row]:
    """How many sentences have how many tokens, by side."""
    for side, every in lengths.items():
        values, counts = np.unique(every, return_counts=True)
        for value, number in zip(values.tolist(), counts.tolist(), strict=True):
            conditions = {"side": side, "n": value}
            yield Row(quantity="sentences", value=number, unit="sentences", conditions=conditions)
