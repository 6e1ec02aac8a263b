"""Where a model looks: the weights of its attention, read while it runs.

Weights are what a softmax over positions gives, so that a model of a user's needs no line of its own: every
softmax is watched whose last axis is as long as the source or the target, and PyTorch's own attention.
How far heads are apart is the generalised Jensen-Shannon divergence of their weights (Lin 1991).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models import Seq2SeqModel

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
        kwargs = dict(kwargs or {})
        if func is F.multi_head_attention_forward:
            wanted = kwargs.get("need_weights", True), kwargs.get("average_attn_weights", True)
            output, weights = func(*args, **{**kwargs, "need_weights": True, "average_attn_weights": False})
            self.seen.append(weights.detach())
            if not wanted[0]:
                return output, None
            return output, weights.mean(-3) if wanted[1] else weights
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
