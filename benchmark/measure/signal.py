"""What reaches a position from afar: norms of d output_j / d input_i against the distance from i to j.

A path that exists need not carry anything: a product of many Jacobians vanishes or explodes with their number
(Hochreiter 1991; Bengio et al. 1994). Measured in float64, in evaluation mode, at one output position after
another: for v from N(0, I) the mean square of v' J is the squared Frobenius norm of J, so that one backward
pass of a batch of independent inputs and v gives all distances at once.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmark.measure.significance import Summary, summarise
from benchmark.measure.span import SpanLayer, as_traced, output_of
from models import BEGIN, END, Seq2SeqModel

GROUPS = 8
"""Independent halves of an interval: each has inputs and projections of its own."""
BATCH = 16
"""Inputs and projections of a group: the root mean square over them has some 10 % of noise."""
FITS = 0.9
"""Least share of the variance of ln a that a law explains to be called one."""
FLAT = float(np.log(2))
"""Most by which ln a differs between octaves of distance, and scatters in them, where there is no decay."""

Kind = Literal["exponential", "power", "none", "undetermined"]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Norms at one output position."""

    output: int
    distances: NDArray[np.int64]
    """From 1 on: how far before the output position the input lies."""
    norms: NDArray[np.float64]
    """(groups, distances): root mean square over a group's batch."""

    @property
    def mean(self) -> NDArray[np.float64]:
        """(distances,): root mean square over all."""
        found: NDArray[np.float64] = np.sqrt((self.norms**2).mean(0))
        return found


@dataclass(frozen=True, kw_only=True)
class Decay:
    """How a profile falls with distance."""

    kind: Kind
    rate: Summary
    """Change of ln a for one more position; over groups."""
    exponent: Summary
    """Change of ln a for one more unit of ln distance; over groups."""
    exponential_share: float
    """Of the variance of ln a that an exponential explains."""
    power_share: float
    change: float
    """Of ln a between the octaves of distance in which it is highest and lowest on average; at least 0."""
    unreached: int
    """Distances whose norm is exactly 0, as outside of a kernel or after underflow; they are in no fit."""


def decay(profile: Profile) -> Decay:
    """Fit both laws by least squares on ln a, at every distance that is reached.

    The kind is `none` where the means of ln a over octaves of distance differ by no more than `FLAT`, and
    ln a scatters about them by no more than that; else a law is named that explains `FITS` of the variance
    and more than the other; else it is `undetermined`.
    """
    mean = profile.mean
    reached = (mean > 0) & (profile.norms > 0).all(0)
    distances = profile.distances[reached].astype(np.float64)
    if len(distances) < 3:
        nothing = Summary(number_of_seeds=0, mean=float("nan"), standard_deviation=None, half_width=None)
        return Decay(
            kind="undetermined",
            rate=nothing,
            exponent=nothing,
            exponential_share=0.0,
            power_share=0.0,
            change=float("nan"),
            unreached=int((~reached).sum()),
        )
    logs = np.log(profile.norms[:, reached])
    whole = np.log(mean[reached])
    _, exponential_share = _fitted(distances, whole)
    _, power_share = _fitted(np.log(distances), whole)
    change, scatter = _over_octaves(distances, whole)
    return Decay(
        kind="none" if max(change, scatter) <= FLAT else _kind(exponential_share, power_share),
        rate=summarise([_fitted(distances, one)[0] for one in logs]),
        exponent=summarise([_fitted(np.log(distances), one)[0] for one in logs]),
        exponential_share=exponential_share,
        power_share=power_share,
        change=change,
        unreached=int((~reached).sum()),
    )


def _over_octaves(distances: NDArray[np.float64], logs: NDArray[np.float64]) -> tuple[float, float]:
    """Largest difference between the means of octaves of distance, and standard deviation about them."""
    _, octave = np.unique(np.floor(np.log2(distances)), return_inverse=True)
    means = np.bincount(octave, logs) / np.bincount(octave)
    return float(np.ptp(means)), float((logs - means[octave]).std())


def _kind(exponential: float, power: float) -> Kind:
    if max(exponential, power) < FITS:
        return "undetermined"
    return "exponential" if exponential >= power else "power"


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float]:
    """Slope, and the share of the variance of y that the line explains."""
    x, y = x - x.mean(), y - y.mean()
    slope = float((x * y).sum() / (x * x).sum())
    total = float((y * y).sum())
    return slope, 1 - float(((y - slope * x) ** 2).sum()) / total if total > 0 else 1.0


def layer_signal(
    layer: SpanLayer, length: int, width: int, outputs: Sequence[int] | None = None, *, seed: int = 0
) -> list[Profile]:
    """Of a layer on inputs from N(0, I), at `outputs`, by default at the last one.

    A layer (1, n, D) to (1, n, D) will do; one that takes batches takes less time.

    Raises:
        ValueError: the layer gives something else than one tensor, or fails in float64.
    """
    if isinstance(layer, nn.Module):
        layer = copy.deepcopy(layer).double()
    generator = torch.Generator().manual_seed(seed)

    def norms(output: int) -> Tensor:
        x = torch.randn(GROUPS * BATCH, length, width, dtype=torch.float64, generator=generator)
        x.requires_grad_()
        y = output_of(layer, x) if batches else _row_by_row(layer, x)
        return _norms(y[:, output], [x], generator)

    with as_traced(layer), _double_by_default():
        batches = _takes_batches(layer, length, width)
        return [_profile(output, norms(output)) for output in ([length - 1] if outputs is None else outputs)]


def _takes_batches(layer: SpanLayer, length: int, width: int) -> bool:
    """Whether a batch of two gives what each of the two gives by itself."""
    x = torch.randn(2, length, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        try:
            layer(x[:1])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the layer fails on (1, {length}, {width}) in float64, in which signals are measured "
                f"({error}); give an nn.Module, which is converted, or a function in the type of its input"
            ) from error
        apart = _row_by_row(layer, x)
        try:
            together = layer(x)
        except (RuntimeError, ValueError, IndexError, AssertionError):  # whatever it says to a batch
            return False
    return together.shape == apart.shape and torch.allclose(together, apart)


def _row_by_row(layer: SpanLayer, x: Tensor) -> Tensor:
    return torch.cat([output_of(layer, one) for one in x.split(1)])


@contextlib.contextmanager
def _double_by_default() -> Iterator[None]:
    """In which a layer makes its states; then as it was."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def model_signal(
    model: Seq2SeqModel,
    source: Tensor,
    target: Tensor,
    outputs: Sequence[int] | None = None,
    *,
    side: Literal["source", "target"],
    seed: int = 0,
) -> list[Profile]:
    """Of a model's hidden states under teacher forcing, from the embedded words of one side.

    `source` and `target` are token ids (GROUPS * BATCH, length) without padding. From the source the distance
    is counted from its end backwards, since the two sides have no positions in common.

    Raises:
        ValueError: the model embeds these words in another order, or without `torch.nn.functional.embedding`.
    """
    model = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(source.shape, dtype=torch.bool)
    shifted = torch.cat((torch.full_like(target[:, :1], BEGIN), target[:, :-1]), 1)
    length = target.shape[1]

    def norms(output: int) -> Tensor:
        embedded = _Embedded(source if side == "source" else shifted)
        with embedded:
            hidden = model.decode(shifted, model.encode(source, mask))
        if not embedded.found:
            raise ValueError(
                f"the {side}'s words are embedded nowhere as they are given, each at its position: reverse "
                "or shift what torch.nn.functional.embedding or nn.Embedding gives, and not the ids"
            )
        return _norms(hidden[:, output], embedded.found, generator)

    for module in model.modules():
        if hasattr(module, "gradient_factor"):  # ConvS2S trains with another gradient than that of its loss
            setattr(module, "gradient_factor", 1.0)  # noqa: B010
    with as_traced(model):
        wanted = [length - 1] if outputs is None else outputs
        if side == "target":
            return [_profile(output, norms(output)) for output in wanted]
        return [_profile(source.shape[1], norms(output)) for output in wanted]


def random_words(length: int, vocabulary_size: int, *, seed: int = 0) -> Tensor:
    """(GROUPS * BATCH, length) int64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(END + 1, vocabulary_size, (GROUPS * BATCH, length), generator=generator)


def _norms(y: Tensor, inputs: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """(groups, positions): root mean squares of v' d y / d input; y (B, D), inputs (B, n, D) each."""
    projection = torch.randn(y.shape, dtype=y.dtype, generator=generator)
    gradients = torch.autograd.grad((y * projection).sum(), inputs, allow_unused=True)
    found = [one for one in gradients if one is not None]
    if not found:
        return torch.zeros(GROUPS, inputs[0].shape[1], dtype=y.dtype)
    square = torch.stack(found).sum(0).square().sum(-1)  # (B, n)
    return square.unflatten(0, (GROUPS, BATCH)).mean(1).sqrt()


def _profile(output: int, norms: Tensor) -> Profile:
    distances = np.arange(1, min(output, norms.shape[1]) + 1)
    return Profile(output=output, distances=distances, norms=norms.numpy()[:, output - distances])


class _Embedded(TorchFunctionMode):
    """Catches what these words were embedded as, whichever module did it."""

    def __init__(self, words: Tensor) -> None:
        super().__init__()
        self._words = words
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.embedding and torch.equal(args[0], self._words):
            self.found.append(result)
        return result
