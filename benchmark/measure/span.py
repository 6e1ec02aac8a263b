"""Span and path length of layers and models, by running them: what has to run in order, and how far apart
positions are.

    work            operations that depend on the input, as executed
    kernel depth    the longest chain of them, each of which has to wait for the one before
    ideal depth     the same chain with each operation as deep as ideally many processors make it
    hops, steps     the shortest way from one position to another: in calls that mix positions (Table 1's
                    unit), and in operations, which needs no declaration

These belong to a program and not to a function: an average over all positions is a loop of n steps, a
cumulative sum, or one matrix product. Recurrences run cell by cell here, with the same weights, since a fused
kernel would look like one operation. Nothing is trained, and no parameter is touched.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter

from benchmark.measure.graph import Reached, Recorder
from models import BEGIN, END, Memory, Seq2SeqModel

MOST_GROWTH = 1.5
"""Of operations for each hop, from a length to its fourfold."""

Part = Literal["model", "encoder", "decoder"]

SpanLayer = Callable[[Tensor], Tensor]
"""(1, n, D) to (1, n, D)."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """How much there is to do, and how much of it in order."""

    work: int
    kernel_depth: int
    ideal_depth: int
    storage_depth: int
    """The kernel depth by tensor in place of element: larger where a buffer is written in parts."""

    @property
    def parallelism(self) -> float:
        """Work over kernel depth: how many operations could run side by side, on average."""
        return self.work / self.kernel_depth if self.kernel_depth else math.nan


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The shortest ways from sources to positions; infinity where there is none."""

    sources: tuple[int, ...]
    """Positions of the input."""
    hops: Tensor
    """(sources, positions)"""
    steps: Tensor
    """(sources, positions)"""

    def longest(self, unit: str) -> int:
        """The largest finite one, of `hops` or `steps`; 0 where there is no way at all."""
        found: Tensor = getattr(self, unit)
        finite = found[found.isfinite()]
        return int(finite.max()) if finite.numel() else 0

    @property
    def reached(self) -> Tensor:
        """(sources, positions) bool."""
        return self.hops.isfinite()

    def connects(self, *, causal: bool) -> bool:
        """Whether every source reaches every position, or every one from itself on."""
        return bool(self.reached[self._admissible(causal)].all())

    def leaks(self, *, causal: bool) -> int:
        """How many pairs are connected that must not be."""
        return int(self.reached[~self._admissible(causal)].sum())

    def _admissible(self, causal: bool) -> Tensor:
        here = torch.arange(self.hops.shape[1])
        every = torch.ones_like(self.reached)
        return here >= torch.tensor(self.sources)[:, None] if causal else every


@contextlib.contextmanager
def as_traced(module: Any) -> Iterator[None]:
    """In evaluation mode, recurrences cell by cell, no kernel in the place of a layer; then as it was."""
    modules = list(module.modules()) if isinstance(module, nn.Module) else []
    training = [one.training for one in modules]
    fused: list[Any] = [one for one in modules if getattr(one, "fused", None) is True]
    fast = torch.backends.mha.get_fastpath_enabled()
    for one in modules:
        one.training = False
    for one in fused:
        one.fused = False
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")  # said by flags() itself
            with torch.backends.mkldnn.flags(enabled=False):  # whose LSTM is one kernel
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for one in fused:
            one.fused = True
        for one, was in zip(modules, training, strict=True):
            one.training = was


def output_of(layer: SpanLayer, x: Tensor) -> Tensor:
    """Of a layer of the form that is measured.

    Raises:
        ValueError: it gives something else than one tensor.
    """
    y: object = layer(x)
    if not isinstance(y, Tensor):
        raise ValueError(
            f"the layer gives a {type(y).__name__} and not a tensor (1, n, D); return the tensor of its "
            "positions alone, as in lambda x: layer(x)[0]"
        )
    return y


def layer_span(layer: SpanLayer, length: int, width: int, *, backward: bool = False) -> Span:
    """Of a layer on one sequence; with `backward`, of the gradients of its input and parameters as well.

    Raises:
        CannotTrace: an operation whose dependencies are not known, or a value that leaves for Python.
        BeyondMemory: what would be recorded does not fit into the memory that is free.
        ValueError: the layer gives something else than one tensor.
    """
    x = _input(layer, length, width).requires_grad_(backward)
    return _span(layer, [x], lambda: [output_of(layer, x)], backward)


def layer_paths(layer: SpanLayer, length: int, width: int, *, sources: Sequence[int] | None = None) -> Paths:
    """Of a layer on one sequence, from all positions or from `sources`; errors as `layer_span`."""
    x = _input(layer, length, width)
    chosen = tuple(range(length) if sources is None else sources)
    with torch.no_grad(), as_traced(layer), Recorder(sources=len(chosen)) as recorder:
        for number, position in enumerate(chosen):
            recorder.source(number, x[:, position])
        y = output_of(layer, x)
    return _paths(chosen, recorder.reached(y), 1)


def undeclared(layer: SpanLayer, width: int, *, length: int = 8) -> str:
    """Why the hops of a layer cannot be believed; empty where they can.

    Operations on the shortest way are as many for each hop whatever the length. Where their number grows, as
    in a recurrence that is declared as one call, positions are mixed more often than is said. Seen from the
    first, the middle and the last position, for each way by itself: what is declared in one direction, or in
    one part of the sequence, is no excuse for another.
    """
    lengths = [times * length for times in (1, 2, 4)]
    return _grown([[layer_paths(layer, n, width, sources=[0, n // 2, n - 1])] for n in lengths], lengths)


def undeclared_in_model(model: Seq2SeqModel, *, length: int = 4) -> str:
    """The same of a model, from all words to what its decoder reads and gives."""
    lengths = [times * length for times in (1, 2, 4)]
    paths = [model_paths(model, n, n) for n in lengths]
    parts = [(one.encoder, one.source_to_target, one.target_to_target) for one in paths]
    return _grown([[part for part in every if part is not None] for every in parts], lengths)


def _grown(paths: Sequence[Sequence[Paths]], lengths: Sequence[int]) -> str:
    """By how much the steps for each hop grow over three lengths, where it is too much."""
    ratios = []
    for every in paths:
        each = torch.cat([(one.steps / one.hops.clamp(min=1))[one.reached] for one in every])
        ratios.append(max(1.0, float(each.max())) if each.numel() else 1.0)
    if ratios[-1] <= MOST_GROWTH * ratios[0]:
        return ""
    shown = ", ".join(f"{ratio:.1f}" for ratio in ratios)
    return (
        f"operations on the shortest way grow to {shown} for each declared hop at {lengths[0]}, "
        f"{lengths[1]} and {lengths[2]} positions: it mixes positions more often than "
        "models.layers.mixing.mixed says"
    )


def smallest_stack(
    stack: Callable[[int], nn.Sequential], length: int, width: int, *, causal: bool, most: int, alike: bool
) -> tuple[int, Paths] | None:
    """The fewest layers of `stack(layers)` that connect all positions, and their paths; None if none do.

    A way through a stack is a way through its layers: what the layers reach one after another, as positions,
    is at least what the stack reaches. So no fewer layers can do; that these do is seen by recording them.

    Args:
        alike: whether one layer reaches what every other does, so that one is recorded for all.
    """
    layers = list(stack(most))
    reached = torch.eye(length)
    one: Tensor | None = None
    for depth, layer in enumerate(layers, start=1):
        if one is None or not alike:
            one = layer_paths(layer, length, width).reached.float()
        reached = (reached @ one > 0).float()
        if not _of_positions(reached).connects(causal=causal):
            continue
        paths = layer_paths(nn.Sequential(*layers[:depth]), length, width)
        if paths.connects(causal=causal):
            return depth, paths
    return None


def _of_positions(reached: Tensor) -> Paths:
    ways = torch.where(reached > 0, 0.0, math.inf)
    return Paths(sources=tuple(range(len(reached))), hops=ways, steps=ways)


@dataclass(frozen=True, kw_only=True)
class ModelPaths:
    """Of an encoder-decoder under teacher forcing."""

    encoder: Paths | None
    """From source words to positions of what the decoder reads; None where that has no position for each."""
    source_to_target: Paths
    """From source words to the decoder's hidden states."""
    target_to_target: Paths
    """From target words to the decoder's hidden states."""


def model_paths(model: Seq2SeqModel, source_length: int, target_length: int) -> ModelPaths:
    """Of a model on one sentence pair; errors as `layer_span`."""
    source, mask, target = _words(source_length, target_length)
    longer, longer_mask, _ = _words(source_length + 1, target_length)
    with torch.no_grad(), as_traced(model):
        other = model.encode(longer, longer_mask)
    with torch.no_grad(), as_traced(model), Recorder(sources=source_length + target_length) as recorder:
        for position in range(source_length):
            recorder.source(position, source[:, position])
        for position in range(target_length):
            recorder.source(source_length + position, target[:, position])
        memory = model.encode(source, mask)
        hidden = model.decode(target, memory)
    words, before = range(source_length), range(target_length)
    reached = _paths((*words, *before), recorder.reached(hidden), 1)
    encoded = _of_memory(recorder, memory, other)
    return ModelPaths(
        encoder=None if encoded is None else _some(encoded, 0, source_length),
        source_to_target=_some(reached, 0, source_length),
        target_to_target=_some(reached, source_length, source_length + target_length),
    )


def model_span(
    model: Seq2SeqModel,
    source_length: int,
    target_length: int,
    *,
    part: Part = "model",
    backward: bool = False,
) -> Span:
    """Of a model under teacher forcing, to the logits; or of its `part` alone. Errors as `layer_span`.

    The encoder ends in what the decoder reads; the decoder begins there, as at its words, and its gradient
    goes back to there.
    """
    source, mask, target = _words(source_length, target_length)
    if part == "encoder":
        return _span(model, [source], lambda: _tensors(model.encode(source, mask)), backward)
    if part == "model":
        run = lambda: [model.logits(model.decode(target, model.encode(source, mask)))]  # noqa: E731
        return _span(model, [source, target], run, backward)
    with torch.no_grad(), as_traced(model):
        memory = model.encode(source, mask)
    read = [one for one in _tensors(memory) if one.is_floating_point()]
    for one in read:
        one.requires_grad_(backward)
    return _span(model, [target, *read], lambda: [model.logits(model.decode(target, memory))], backward)


def generation_span(model: Seq2SeqModel, source_length: int, words: int) -> Span:
    """Of greedy generation of so many words, each fed back; errors as `layer_span`."""
    source, mask, begin = _words(source_length, 1)

    def run() -> list[Tensor]:
        state = model.start(model.encode(source, mask))
        token, logits = begin[:, 0], torch.empty(0)
        for _ in range(words):
            hidden, state = model.decode_step(token, state)
            logits = model.logits(hidden)
            token = logits.argmax(-1)
        return [logits]

    return _span(model, [source], run, backward=False)


def _span(traced: Any, inputs: Sequence[Tensor], run: Callable[[], Iterable[Tensor]], backward: bool) -> Span:
    with torch.set_grad_enabled(backward), as_traced(traced), Recorder(sources=0) as recorder:
        recorder.source(0, *inputs)
        ends = [one for one in run() if recorder.is_known(one)]
        if backward:
            parameters = traced.parameters() if isinstance(traced, nn.Module) else ()
            wanted = [one for one in (*inputs, *parameters) if one.requires_grad]
            of = [one.sum() for one in ends if one.requires_grad]
            gradients = torch.autograd.grad(of, wanted, allow_unused=True)
            ends += [one for one in gradients if one is not None]
    reached = [recorder.reached(one) for one in ends]
    return Span(
        work=recorder.work,
        kernel_depth=max(int(one.depth.max()) for one in reached),
        ideal_depth=max(int(one.ideal.max()) for one in reached),
        storage_depth=max(recorder.chain(one) for one in ends),
    )


def _input(layer: SpanLayer, length: int, width: int) -> Tensor:
    parameters = list(layer.parameters()) if isinstance(layer, nn.Module) else []
    dtype = parameters[0].dtype if parameters else torch.get_default_dtype()
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, length, width, generator=generator, dtype=torch.float64).to(dtype)


def _words(source_length: int, target_length: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.full((1, source_length), END + 1)
    target = torch.full((1, target_length), END + 1)
    target[:, 0] = BEGIN
    return source, torch.ones(1, source_length, dtype=torch.bool), target


def _paths(sources: tuple[int, ...], reached: Reached, axis: int) -> Paths:
    """Of a tensor whose positions lie along `axis`."""
    others = [dim + 1 for dim in range(reached.depth.dim()) if dim != axis]
    return Paths(sources=sources, hops=reached.hops.amin(others), steps=reached.steps.amin(others))


def _some(paths: Paths, first: int, last: int) -> Paths:
    return Paths(
        sources=paths.sources[first:last], hops=paths.hops[first:last], steps=paths.steps[first:last]
    )


def _of_memory(recorder: Recorder, memory: Memory, other: Memory) -> Paths | None:
    """To what the decoder reads of each source position, whichever fields hold it; None where none does.

    `other` is that of a source of one word more: what grows with it are the positions.
    """
    found: list[Paths] = []
    every = tuple(range(recorder.sources))
    for tensor, longer in zip(_tensors(memory), _tensors(other), strict=True):
        axes = [axis for axis in range(1, tensor.dim()) if tensor.shape[axis] != longer.shape[axis]]
        if axes and recorder.is_reached(tensor):
            found.append(_paths(every, recorder.reached(tensor), axes[0]))
    if not found:
        return None
    return Paths(
        sources=every,
        hops=torch.stack([one.hops for one in found]).amin(0),
        steps=torch.stack([one.steps for one in found]).amin(0),
    )


def _tensors(memory: Memory) -> Iterable[Tensor]:
    return (one for one in tree_iter(list(vars(memory).values())) if isinstance(one, Tensor))
