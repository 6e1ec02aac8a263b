"""The layers that Table 1 compares (Vaswani et al. 2017, section 4), each on its own: (B, n, D) to (B, n, D).

Letters as in the table: n positions, d the width, k a kernel, r a neighbourhood. An operation is one
multiplication or one addition of an executed contraction, forward, for one sequence.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.attention import MultiHeadAttention
from models.layers.mixing import mixed
from models.layers.recurrent import Recurrence


@dataclass(frozen=True, kw_only=True)
class LayerTheory:
    """Closed forms of one layer at one length."""

    parameters: int
    mixing: int
    """Operations that bring positions together."""
    projections: int
    """Operations at each position by itself, which Table 1 leaves out."""

    @property
    def operations(self) -> int:
        return self.mixing + self.projections


class Table1Layer(nn.Module, ABC):
    """A layer that Table 1 compares."""

    causal: ClassVar[bool] = False
    """Whether a position sees none after it."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, n, D) to (B, n, D)."""

    @abstractmethod
    def theory(self, length: int) -> LayerTheory:
        """Closed forms for one sequence of `length` positions."""

    def _theory(self, mixing: int, projections: int) -> LayerTheory:
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return LayerTheory(parameters=parameters, mixing=mixing, projections=projections)


class SelfAttention(Table1Layer):
    """Every position looks at every one: 4 projections around 2 products of n x n."""

    def __init__(self, width: int, heads: int = 1) -> None:
        super().__init__()
        self.width = width
        self.attention = MultiHeadAttention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.attention(x)
        return y

    def theory(self, length: int) -> LayerTheory:
        return self._theory(4 * length**2 * self.width, 8 * length * self.width**2)


class RestrictedSelfAttention(Table1Layer):
    """Every position looks at `neighbourhood` others, half of them on each side, and at itself.

    Queries are taken in blocks of half a neighbourhood, of which each needs three blocks of keys: 6 r n' d
    operations without the projections, where n' is n rounded up to whole blocks, by less than r / 2. One
    window for each query would take 4 r n d, in products that are too thin to be fast, and a mask over all
    pairs 4 n^2 d, which is less where n < 1.5 r.
    """

    def __init__(self, width: int, neighbourhood: int, heads: int = 1) -> None:
        super().__init__()
        if neighbourhood < 2 or neighbourhood % 2:
            raise ValueError(f"neighbourhood: must be even and at least 2, got {neighbourhood}")
        self.width, self.side = width, neighbourhood // 2
        self.projections = MultiHeadAttention(width, heads)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        side, blocks = self.side, -(-length // self.side)
        query, key, value = self.projections.queries_keys_values(x)  # (B, H, n, d)
        more = blocks * side - length
        query = F.pad(query, (0, 0, 0, more)).unflatten(2, (blocks, side))
        key, value = (
            F.pad(one, (0, 0, side, more + side)).unfold(2, 3 * side, side) for one in (key, value)
        )  # (B, H, blocks, d, 3 side)
        scores = query @ key * query.shape[-1] ** -0.5 + self._bias(length, blocks, x)
        y = (torch.softmax(scores, -1) @ value.transpose(-1, -2)).flatten(2, 3)[:, :, :length]
        return self.projections.merge(mixed(y))

    def _bias(self, length: int, blocks: int, x: Tensor) -> Tensor:
        """(blocks, side, 3 side): what is added to scores, -infinity where a key is too far or is none."""
        side = self.side
        there = torch.arange(3 * side, device=x.device) - side
        here = torch.arange(side, device=x.device)[:, None]
        first = torch.arange(blocks, device=x.device)[:, None, None] * side
        near = (there - here).abs() <= side
        exists = (first + there >= 0) & (first + there < length)
        # A query beyond the end sees what is near, so that none sees nothing; it is cut off.
        allowed = near & (exists | (first + here >= length))
        return torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill_(~allowed, -math.inf)

    def theory(self, length: int) -> LayerTheory:
        padded = -(-length // self.side) * self.side
        return self._theory(12 * self.side * padded * self.width, 8 * length * self.width**2)


class Recurrent(Table1Layer):
    """An LSTM: four gates from the input, which need no order, and four from the state, which do."""

    causal = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.recurrence = Recurrence(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrence.sequence(x)

    def theory(self, length: int) -> LayerTheory:
        return self._theory(8 * length * self.width**2, 8 * length * self.width**2)


class Convolution(Table1Layer):
    """Each position from the `kernel` positions up to it, `dilation` apart."""

    causal = True

    def __init__(self, width: int, kernel: int, dilation: int = 1) -> None:
        super().__init__()
        self.width, self.kernel, self.dilation = width, kernel, dilation
        self.linear = nn.Linear(kernel * width, width)

    def forward(self, x: Tensor) -> Tensor:
        length, reach = x.shape[1], (self.kernel - 1) * self.dilation
        padded = F.pad(x, (0, 0, reach, 0))
        offsets = range(0, reach + 1, self.dilation)
        y = self.linear(torch.cat([padded[:, offset : offset + length] for offset in offsets], -1))
        return mixed(y) if self.kernel > 1 else y

    def theory(self, length: int) -> LayerTheory:
        return self._theory(2 * self.kernel * length * self.width**2, 0)


class SeparableConvolution(Table1Layer):
    """A convolution within each channel, then a product across channels at each position."""

    causal = True

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.width, self.kernel = width, kernel
        self.depthwise = nn.Conv1d(width, width, kernel, groups=width)
        self.pointwise = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x.transpose(1, 2), (self.kernel - 1, 0))
        y = self.depthwise(padded)
        y = self.pointwise((mixed(y) if self.kernel > 1 else y).transpose(1, 2))
        return y

    def theory(self, length: int) -> LayerTheory:
        return self._theory(2 * self.kernel * length * self.width, 2 * length * self.width**2)


LAYERS: dict[str, type[Table1Layer]] = {
    "self-attention": SelfAttention,
    "restricted self-attention": RestrictedSelfAttention,
    "recurrent": Recurrent,
    "convolution": Convolution,
    "separable convolution": SeparableConvolution,
}
"""By what reports call them."""
