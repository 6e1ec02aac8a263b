"""Recurrent layers that stay inside PyTorch's fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.layers.mixing import mixed


def reversal(mask: Tensor) -> Tensor:
    """Flat row numbers (B * S,) that reverse each sentence in place; padding stays where it is.

    `mask` (B, S) bool, True at words, padding at the right.
    """
    batch, length = mask.shape
    position = torch.arange(length, device=mask.device).expand(batch, length)
    last = mask.sum(1, keepdim=True) - 1
    turned = torch.where(mask, last - position, position)
    return (turned + length * torch.arange(batch, device=mask.device)[:, None]).flatten()


class _Reverse(torch.autograd.Function):
    """Gather by a permutation that is its own inverse, so its gradient is the same gather and no scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return x.flatten(0, 1).index_select(0, rows).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return gradient[0].flatten(0, 1).index_select(0, rows).view(gradient[0].shape), None


def reverse(x: Tensor, rows: Tensor) -> Tensor:
    """(B, S, D) with every sentence back to front; `rows` from `reversal`."""
    return _Reverse.apply(x, rows)


class Recurrence(nn.LSTM):
    """One LSTM layer (Hochreiter and Schmidhuber 1997; equations of torch.nn.LSTM) over (B, T, in) to (B, T,
    D).

    Weights are uniform in +-1 / sqrt(D); the forget gate starts open, with a bias of 1 (Jozefowicz et al.
    2015).
    """

    fused = True
    """Whether a sequence is one kernel; else it is one cell after another, equal to rounding."""
    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__(inputs, width, batch_first=True)
        with torch.no_grad():
            for bias in (self.bias_ih_l0, self.bias_hh_l0):
                bias.zero_()
            self.bias_ih_l0[width : 2 * width] = 1.0

    def sequence(self, x: Tensor, start: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Hidden states (B, T, D) of the whole sequence from `start`, h and c (B, D), else zeros."""
        if not self.fused:
            return self._cell_by_cell(x, start)
        if torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
            # Left to itself, autocast casts inside oneDNN's kernel, which fails on a processor without bf16.
            x = x.to(torch.get_autocast_dtype("cpu"))
            start = start and (start[0].to(x.dtype), start[1].to(x.dtype))
        if start is None:
            zeros = x.new_zeros(x.shape[0], self.hidden_size)
            start = zeros, zeros
        # Without dropout the modes are one, but only in training does cuDNN keep what a backward pass needs.
        training = self.training or torch.is_grad_enabled()
        state = start[0][None].contiguous(), start[1][None].contiguous()
        weights = [self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0]
        return torch.lstm(x, state, weights, True, 1, 0.0, training, False, True)[0]

    def step(self, x: Tensor, past: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """h and c (B, D) after one more input (B, in)."""
        h, c = torch.lstm_cell(
            x, past, self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        )
        return mixed(h), mixed(c)

    def _cell_by_cell(self, x: Tensor, start: tuple[Tensor, Tensor] | None) -> Tensor:
        if start is None:
            zeros = x.new_zeros(x.shape[0], self.hidden_size)
            start = zeros, zeros
        outputs, state = [], start
        for position in x.unbind(1):
            state = self.step(position, state)
            outputs.append(state[0])
        return torch.stack(outputs, 1)


class BidirectionalRecurrence(nn.Module):
    """Two LSTM layers over both directions, brought back to D (Schuster and Paliwal 1997).

    A packed sequence leaves the fused kernel on a CPU; reversing within the lengths and running two plain
    layers does not, and padding at the right cannot reach the words before it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.forwards = Recurrence(width, width)
        self.backwards = Recurrence(width, width)
        self.merge = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D); `rows` from `reversal`."""
        backwards = reverse(self.backwards.sequence(reverse(x, rows)), rows)
        return self.merge(torch.cat((self.forwards.sequence(x), backwards), -1))
