"""Scaled dot-product attention with many heads (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.mixing import mixed

_EXPLICIT_SCORES = 256 * 256
"""Scores of one head up to which the written-out form is used on a CPU, where it beats the fused kernel."""


def padding_bias(mask: Tensor) -> Tensor:
    """What is added to scores so that padding gets no weight: (B, 1, 1, S) float from (B, S) bool, True at
    words.
    """
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -math.inf)[:, None, None, :]


def causal_bias(length: int, device: torch.device) -> Tensor:
    """What is added to scores so that no position sees its future: (T, T) float."""
    return torch.full((length, length), -math.inf, device=device).triu_(1)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale query key^T + bias) value, as (B, H, T, d).

    `query` (B, H, T, d), `key` and `value` (B, H, S, d), `bias` broadcastable to (B, H, T, S); `causal` lets
    position t see keys up to t. `scale` is 1 / sqrt(d) where not given.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    batch, heads, length, _ = query.shape
    keys = key.shape[2]
    if query.device.type != "cpu" or length * keys > _EXPLICIT_SCORES:
        if bias is not None:
            bias = bias.to(query.dtype)
            if causal:
                bias, causal = bias + causal_bias(length, query.device).to(bias.dtype), False
        return mixed(
            F.scaled_dot_product_attention(query, key, value, attn_mask=bias, is_causal=causal, scale=scale)
        )
    if causal and length > 1:
        future = causal_bias(length, query.device)
        bias = future if bias is None else bias + future
    query, key, value = (x.reshape(batch * heads, -1, x.shape[-1]) for x in (query, key, value))
    if bias is None:
        scores = torch.bmm(query * scale, key.transpose(1, 2))
    else:
        rows = bias.shape[-2] if bias.dim() > 1 else 1
        bias = bias.to(query.dtype).expand(batch, heads, rows, keys).reshape(batch * heads, rows, keys)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)  # (BH, T, S)
    return mixed(torch.bmm(torch.softmax(scores, -1), value).view(batch, heads, length, -1))


class MultiHeadAttention(nn.Module):
    """Projections around `attention`; `query` sees `memory`, or itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_weight = nn.Parameter(torch.empty(width, width))
        self.key_value_weight = nn.Parameter(torch.empty(2 * width, width))
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.key_value_bias = nn.Parameter(torch.zeros(2 * width))
        self.output = nn.Linear(width, width)
        for matrix in (self.query_weight, *self.key_value_weight.chunk(2), self.output.weight):
            nn.init.xavier_uniform_(matrix)
        nn.init.zeros_(self.output.bias)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, T, c D) to c tensors (B, H, T, d)."""
        batch, length, _ = x.shape
        width = self.query_bias.shape[0]
        parts = x.view(batch, length, -1, self.heads, width // self.heads).permute(2, 0, 3, 1, 4).contiguous()
        return parts.unbind(0)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, S, d) each, from (B, S, D): what later queries need of the memory."""
        key, value = self._split(F.linear(memory, self.key_value_weight, self.key_value_bias))
        return key, value

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, H, T, d) each, from (B, T, D)."""
        (query,) = self._split(F.linear(x, self.query_weight, self.query_bias))
        return query, *self.keys_and_values(x)

    def merge(self, x: Tensor) -> Tensor:
        """(B, T, D) from what the heads found, (B, H, T, d)."""
        merged: Tensor = self.output(x.transpose(1, 2).flatten(2))
        return merged

    def forward(self, x: Tensor, bias: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """Self-attention (B, T, D) to (B, T, D)."""
        return self.look(x, *self.keys_and_values(x), bias, causal=causal)

    def look(
        self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, *, causal: bool = False
    ) -> Tensor:
        """Attention from (B, T, D) to keys and values made by `keys_and_values`, as (B, T, D)."""
        (query,) = self._split(F.linear(x, self.query_weight, self.query_bias))
        return self.merge(attention(query, key, value, bias, causal=causal))
