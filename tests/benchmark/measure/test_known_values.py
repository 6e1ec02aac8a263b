"""Depths and paths of whole stacks at n = 16 to 256: closed forms, and values found by other means."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.measure.span import layer_paths
from models.layers.mixing import mixed
from models.layers.table1 import RestrictedSelfAttention, SeparableConvolution
from tests.benchmark.measure.test_graph import (
    KNOWN,
    WIDTH,
    Cells,
    Convolutions,
    longest,
    pairs,
    recorded,
    unreached,
)

LENGTHS = (16, 32, 64, 128, 256)
ALL_SOURCES = 64
"""Length up to which every position is a source."""


def sources(length):
    """All, or both ends and the middle, between which the longest paths of these stacks run."""
    return range(length) if length <= ALL_SOURCES else [0, length // 2, length - 1]


@pytest.mark.parametrize("length", LENGTHS[2:])
@pytest.mark.parametrize("name", KNOWN)
def test_cells_and_attention_at_every_length(name, length):
    layer, expected = KNOWN[name]
    recorder, reached, y = recorded(layer, length, sources=sources(length))
    found = (
        recorder.chain(y), int(reached.depth.max()), int(reached.ideal.max()),
        longest(reached.steps), longest(reached.hops),
    )  # fmt: skip
    assert found == expected(length)


class Both(nn.Module):
    """An LSTM in either direction, and a projection of both."""

    def __init__(self):
        super().__init__()
        self.forwards, self.backwards = Cells(nn.LSTMCell), Cells(nn.LSTMCell)
        self.output = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return self.output(torch.cat((self.forwards(x), self.backwards(x.flip(1)).flip(1)), -1))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_bidirectional_recurrence(length):
    recorder, reached, y = recorded(Both(), length, sources=sources(length))
    assert (recorder.chain(y), int(reached.depth.max())) == (10 * length + 1, 7 * length + 1)
    assert (longest(reached.steps), longest(reached.hops)) == (2 * length + 6, length)
    assert unreached(reached) == 0


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kernel", [3, 5])
def test_contiguous_convolutions(length, kernel):
    depth = math.ceil((length - 1) / (kernel - 1))
    _, reached, _ = recorded(Convolutions(kernel, depth), length, sources=sources(length))
    assert longest(reached.hops) == longest(reached.steps) == depth
    assert int(reached.depth.max()) == depth
    assert math.isfinite(pairs(reached.hops)[0, -1])


class Gated(nn.Module):
    """Gated convolutions with weight norm and a residual connection, as ConvS2S has them."""

    def __init__(self, layers):
        super().__init__()
        convolution = torch.nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(convolution(nn.Conv1d(WIDTH, 2 * WIDTH, 3)) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = x + mixed(F.glu(layer(F.pad(x.transpose(1, 2), (2, 0))), 1)).transpose(1, 2)
        return x


@pytest.mark.parametrize("length", LENGTHS[:4])
def test_gated_convolutions_of_a_full_field(length):
    _, reached, _ = recorded(Gated(length // 2), length, sources=[0])
    assert longest(reached.hops) == length // 2
    assert math.isfinite(pairs(reached.hops)[0, -1])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("neighbours", [8, 16])
def test_restricted_attention(length, neighbours):
    depth = math.ceil((length - 1) / (neighbours / 2))
    stack = nn.Sequential(*(RestrictedSelfAttention(WIDTH, neighbours, 2) for _ in range(depth)))
    paths = layer_paths(stack, length, WIDTH, sources=[0, length - 1])
    assert paths.longest("hops") == depth
    assert paths.connects(causal=False)


@pytest.mark.parametrize("length", [16, 64])
def test_a_separable_convolution_over_everything(length):
    """With k = n each position reaches all from itself on, in one hop."""
    paths = layer_paths(SeparableConvolution(WIDTH, length), length, WIDTH)
    assert paths.connects(causal=True) and paths.leaks(causal=True) == 0
    assert (paths.longest("hops"), paths.longest("steps")) == (1, 3)


@pytest.mark.parametrize(("length", "missing"), [(16, 30), (32, 208), (64, 782)])
@pytest.mark.parametrize("depth", [4, 6])
def test_centred_dilated_convolutions_never_connect_all(length, missing, depth):
    _, reached, _ = recorded(Convolutions(3, depth, dilated=True, causal=False), length)
    assert unreached(reached) == missing


class Cycle(nn.Module):
    """Centred convolutions with dilations 1, 3, 9, 27, 1, 3, ... and residual connections."""

    def __init__(self, layers):
        super().__init__()
        self.dilations = [3 ** (layer % 4) for layer in range(layers)]
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, 3, dilation=one) for one in self.dilations)

    def forward(self, x):
        x = x.transpose(1, 2)
        for layer, dilation in zip(self.layers, self.dilations, strict=True):
            x = x + mixed(layer(F.pad(x, (dilation, dilation))))
        return x.transpose(1, 2)


@pytest.mark.parametrize(("length", "depth", "hops"), [(16, 6, 4), (32, 7, 4), (64, 8, 5)])
def test_a_repeated_cycle_of_dilations_connects(length, depth, hops):
    _, reached, _ = recorded(Cycle(depth), length)
    assert (unreached(reached), longest(reached.hops)) == (0, hops)
    _, shallower, _ = recorded(Cycle(depth - 1), length)
    assert unreached(shallower) > 0
