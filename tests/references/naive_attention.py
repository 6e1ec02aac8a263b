"""Attention and the Transformer written out: one query at a time (Vaswani et al. 2017, section 3)."""

import math

import torch
import torch.nn.functional as F


def attend(query, keys, values, scale):
    """Mean of `values` (S, d) weighted by the softmax of scale * query . key; `query` (d,), `keys` (S, d)."""
    scores = torch.stack([(query * key).sum() * scale for key in keys])
    exponentials = torch.exp(scores - scores.max().detach())
    weights = exponentials / exponentials.sum()
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


def multi_head(x, memory, weights, heads, *, causal=False):
    """One sentence: (T, D) looks at `memory` (S, D). `weights`: query, key, value, output; (matrix, bias)."""
    query, key, value = (
        source @ matrix.t() + bias
        for source, (matrix, bias) in zip((x, memory, memory), weights[:3], strict=True)
    )
    width = x.shape[1] // heads
    rows = []
    for position in range(len(x)):
        seen = position + 1 if causal else len(memory)
        parts = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            parts.append(
                attend(
                    query[position, columns],
                    key[:seen, columns],
                    value[:seen, columns],
                    1 / math.sqrt(width),
                )
            )
        rows.append(torch.cat(parts))
    matrix, bias = weights[3]
    return torch.stack(rows) @ matrix.t() + bias


def position_encoding(length, width):
    """PE(pos, 2i) = sin(pos / 10000^(2i / d)), PE(pos, 2i + 1) = cos(pos / 10000^(2i / d))."""
    return [
        [
            (math.cos if channel % 2 else math.sin)(position / 10_000 ** (2 * (channel // 2) / width))
            for channel in range(width)
        ]
        for position in range(length)
    ]


def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:], weight, bias)
