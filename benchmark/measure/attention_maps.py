"""Where a model looks: the weights of its attention, read while it runs.

Weights are what a softmax over positions gives, in whatever module it stands, so that a model of a user's
needs no line of its own: every softmax is watched whose last axis is as long as the source or the target.
How far heads are apart is the generalised Jensen-Shannon divergence of their weights (Lin 1991).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmark.config import RunOptions, experiment_from
from benchmark.record import Row
from benchmark.trained import run_folder, trained_model, trained_record, untrained_model
from benchmark.trainer import corpus_of
from models import BEGIN, Seq2SeqModel
from tasks.data.corpus import Split
from tasks.data.vocabulary import SPECIAL, Vocabulary

REACH = 4
"""Distances up to which a head may look at one of them most of the time."""

Part = Literal["encoder", "decoder", "source"]


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """One attention over one sentence pair."""

    part: Part
    """Where: among source words, among target words, or from the target to the source."""
    layer: int
    """From 1 on, in the order of computing."""
    weights: Tensor
    """(H, queries, keys): for each head and query a distribution over keys."""


def attention_maps(model: Seq2SeqModel, source: Tensor, target_in: Tensor) -> list[AttentionMap]:
    """Every attention of a model in evaluation mode, over one pair: `source` (S,), `target_in` (T,), int64.

    A decoder that computes word by word, as with input feeding, gives a map of one query for each word.

    Raises:
        ValueError: both are equally long, so that keys do not tell source from target.
    """
    if len(source) == len(target_in):
        raise ValueError(f"source and target must differ in length, both have {len(source)} words")
    model.eval()
    mask = torch.ones(1, len(source), dtype=torch.bool)
    with torch.no_grad():
        with _Watch() as encoding:
            memory = model.encode(source[None], mask)
        with _Watch() as decoding:
            model.decode(target_in[None], memory)
    found = list(_numbered(encoding.seen, {len(source): "encoder"}))
    return [*found, *_numbered(decoding.seen, {len(source): "source", len(target_in): "decoder"})]


def _numbered(seen: Sequence[Tensor], parts: Mapping[int, Part]) -> Iterator[AttentionMap]:
    layers = dict.fromkeys(parts.values(), 0)
    for weights in seen:
        part = parts.get(weights.shape[-1])
        if part is None or weights.dim() < 2:
            continue
        layers[part] += 1
        heads = weights.reshape(-1, *weights.shape[-2:])
        yield AttentionMap(part=part, layer=layers[part], weights=heads)


class _Watch(TorchFunctionMode):
    """Keeps what every softmax gives while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _SOFTMAX:
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if dim in (-1, result.dim() - 1):
                self.seen.append(result.detach())
        elif func is F.scaled_dot_product_attention:
            self.seen.append(_weights(*args, **kwargs).detach())
        return result


_SOFTMAX = frozenset((torch.softmax, F.softmax, Tensor.softmax))


def _weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What the fused kernel weighs values with and does not give; arguments as there."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf)
    if attn_mask is not None:
        allowed = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if allowed else scores + attn_mask
    return torch.softmax(scores, -1)


def entropy(weights: Tensor) -> Tensor:
    """Bits of each distribution of (..., keys), as (...)."""
    return -torch.special.xlogy(weights, weights).sum(-1) / math.log(2)


def head_divergence(weights: Tensor) -> float:
    """How far the heads of (H, queries, keys) are from each other, in bits, as the mean over queries.

    The generalised Jensen-Shannon divergence: the entropy of the mean less the mean of the entropies; 0 where
    all heads look at the same, log2 H where no two look at one position.
    """
    weights = weights.double()
    return float((entropy(weights.mean(0)) - entropy(weights).mean(0)).mean().clamp_min(0.0))


def offset_shares(weights: Tensor, reach: int = REACH) -> Tensor:
    """How much of its weight each head of self-attention (H, n, n) puts at each distance, (H, 2 reach + 1).

    Column `reach` is the position itself, the one before it the word before. Each is the mean over the
    queries that have a key there; 0 where none has.
    """
    offsets = [weights.diagonal(offset, -2, -1) for offset in range(-reach, reach + 1)]
    return torch.stack([one.mean(-1) if one.shape[-1] else one.new_zeros(len(one)) for one in offsets], -1)


def attention_rows(settings: Mapping[str, Any], options: RunOptions) -> Iterator[Row]:
    """Of a trained `run`: how its heads differ on `sentences` pairs of a test `split`, before training and
    after; and all weights on the first of these pairs.

    Raises:
        UserError: the run is not done, or its weights are not there.
    """
    folder = run_folder(settings["run"], options.results)
    experiment = experiment_from(trained_record(folder).experiment, files_allowed=False)
    _, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
    split = corpus.splits[settings["split"]]
    pairs = [_pair(split, number) for number in range(min(settings["sentences"], len(split)))]
    pairs = [(source, target) for source, target in pairs if len(source) != len(target)]
    after = trained_model(folder)
    for when, model in (("before", untrained_model(folder)), ("after", after)):
        every = [attention_maps(model, source, target) for source, target in pairs]
        yield from _differences(every, when)
    if pairs:
        source, target = pairs[0]
        words = [[_word(corpus.vocabulary, index) for index in side.tolist()] for side in (source, target)]
        yield from _shown(attention_maps(after, source, target), *words)


def _pair(split: Split, number: int) -> tuple[Tensor, Tensor]:
    """Source, and target as the decoder reads it: its end is only to be written."""
    source, target = (torch.from_numpy(side[number].astype("int64")) for side in (split.source, split.target))
    return source, torch.cat((torch.tensor([BEGIN]), target[:-1]))


def _word(vocabulary: Vocabulary, index: int) -> str:
    return SPECIAL[index] if index < len(SPECIAL) else vocabulary.decode([index])


def _differences(every: Sequence[Sequence[AttentionMap]], when: str) -> Iterator[Row]:
    """Of each attention with several heads: how far they are apart, and what each does most."""
    for maps in zip(*every, strict=True):
        part, layer, heads = maps[0].part, maps[0].layer, len(maps[0].weights)
        if heads == 1:
            continue
        where = {"part": part, "layer": layer, "training": when}
        samples = [head_divergence(one.weights) for one in maps]
        yield Row(
            quantity="head divergence", value=statistics.fmean(samples), unit="bits", samples=samples,
            conditions={**where, "heads": heads},
        )  # fmt: skip
        if part == "source":
            continue
        shares = torch.stack([offset_shares(one.weights) for one in maps]).mean(0)
        for head, (share, column) in enumerate(zip(*(x.tolist() for x in shares.max(-1)), strict=True), 1):
            yield Row(
                quantity="share at one distance", value=share, unit="share",
                conditions={**where, "head": head, "offset": column - REACH},
            )  # fmt: skip


def _shown(maps: Sequence[AttentionMap], source: list[str], target: list[str]) -> Iterator[Row]:
    """The words of a pair, and for each head and query its weights on them, with their entropy."""
    words: dict[str, Any] = {"source": source, "target": target}
    yield Row(quantity="words", value=len(source) + len(target), unit="words", conditions=words)
    for one in maps:
        for head, rows in enumerate(one.weights, 1):
            for query, weights in enumerate(rows):
                yield Row(
                    quantity="attention",
                    value=float(entropy(weights.double())),
                    unit="bits",
                    samples=[round(weight, 4) for weight in weights.tolist()],
                    conditions={"part": one.part, "layer": one.layer, "head": head, "query": query},
                )
