"""Gated convolutions with weight normalisation (Gehring et al. 2017, section 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.mixing import mixed


class NormalisedLinear(nn.Module):
    """A linear layer whose rows have a learned length: w = g v / |v| (Salimans and Kingma 2016).

    Weights are drawn from N(0, `gain` * keep / inputs), where keep is the chance that an input survives the
    dropout before it, so that variances stay (Gehring et al. 2017, section 3.5).
    """

    def __init__(self, inputs: int, outputs: int, *, gain: float = 1.0, dropout: float = 0.0) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(outputs, inputs) * math.sqrt(gain * (1 - dropout) / inputs))
        self.length = nn.Parameter(self.direction.detach().norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return F.linear(x, torch._weight_norm(self.direction, self.length, 0), self.bias)


class GatedConvolution(nn.Module):
    """Convolution over `kernel` positions to 2 D channels and a gated linear unit (Dauphin et al. 2017) to D.

    The windows are laid side by side and go through one matrix product, which is faster than `conv1d` on a
    CPU.
    """

    def __init__(self, inputs: int, width: int, kernel: int, *, dropout: float) -> None:
        super().__init__()
        self.kernel = kernel
        self.linear = NormalisedLinear(kernel * inputs, 2 * width, gain=4.0, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T + kernel - 1, inputs) to (B, T, D); the caller pads, and so decides what is seen."""
        length = x.shape[1] - self.kernel + 1
        windows = torch.cat([x[:, offset : offset + length] for offset in range(self.kernel)], -1)
        y = F.glu(self.linear(windows), -1)
        return mixed(y) if self.kernel > 1 else y
