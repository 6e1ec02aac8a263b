"""Dropout whose mask is drawn fast on a CPU.

PyTorch draws a CPU mask serially, element by element. Here 16 random bits for each element come from NumPy's
SFC64 in one call. Its seed is taken from PyTorch's generator, so that `torch.manual_seed` still decides every
mask.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 1 << 16


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each element with `probability` and scale the others so that the mean stays (Srivastava et al.
    2014).

    On a CPU the probability is rounded to a multiple of 1/65536, and the scale fits the rounded one.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, probability, training=True)
    dropped = round(probability * _LEVELS)
    seed = int(torch.randint(1 << 62, ()))
    words = -(-x.numel() // 4)
    bits = np.random.Generator(np.random.SFC64(seed)).integers(0, 1 << 64, words, dtype=np.uint64)
    uniform = torch.from_numpy(bits.view(np.int16)[: x.numel()]).view(x.shape)
    kept = uniform >= dropped - _LEVELS // 2
    # Scaled once, in the type of x: the backward pass then is one product.
    return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


class Dropout(nn.Module):
    """`dropout` as a module: active while training."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability, self.training)

    def extra_repr(self) -> str:
        return f"probability={self.probability}"
