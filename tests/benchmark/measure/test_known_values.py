"""Depths and paths of whole stacks at n = 16 to 256: closed forms, and values found by other means."""

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.measure.span import as_traced, layer_paths, model_paths
from models import Memory, Seq2SeqModel
from models.layers.mixing import mixed
from models.layers.table1 import (
    Convolution,
    Recurrent,
    RestrictedSelfAttention,
    SelfAttention,
    SeparableConvolution,
)
from tests.benchmark.measure.test_graph import (
    KNOWN,
    WIDTH,
    Cells,
    Convolutions,
    check_by_gradients,
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
    assert int(reached.ideal.max()) == 12 * length + 7
    assert (longest(reached.steps), longest(reached.hops)) == (2 * length + 6, length)
    assert unreached(reached) == 0


@pytest.mark.parametrize(
    ("length", "unit", "bits"),
    [(16, "hops", 20), (16, "steps", 20), (32, "hops", 20), (32, "steps", 12), (64, "hops", 12)],
)
@pytest.mark.parametrize(
    "layer",
    [
        SelfAttention(WIDTH, 2), RestrictedSelfAttention(WIDTH, 8, 2), Recurrent(WIDTH),
        Convolution(WIDTH, 3), SeparableConvolution(WIDTH, 5), Both(),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_every_path_of_a_layer_of_table_1_is_that_of_an_independent_method(layer, length, unit, bits):
    """Powers of z up to n in hops and 2n + 6 in steps have to fit into the exponents of float64."""
    with as_traced(layer):
        check_by_gradients(layer, length, unit, bits=bits)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kernel", [3, 5])
def test_contiguous_convolutions(length, kernel):
    depth = math.ceil((length - 1) / (kernel - 1))
    _, reached, _ = recorded(Convolutions(kernel, depth), length, sources=sources(length))
    assert longest(reached.hops) == longest(reached.steps) == depth
    assert int(reached.depth.max()) == depth
    assert int(reached.ideal.max()) == depth * IDEAL[kernel]
    assert math.isfinite(pairs(reached.hops)[0, -1])


IDEAL = {3: 8, 5: 9}
"""Depth of a convolution of so wide a kernel over 16 channels on ideally many processors: 2 + log2(16 k)."""
DILATED = {3: (3, 4, 4, 5, 6), 5: (2, 3, 3, 4, 4)}


@pytest.mark.parametrize(("length", "number"), [(length, number) for number, length in enumerate(LENGTHS)])
@pytest.mark.parametrize("kernel", DILATED)
def test_dilated_convolutions(length, number, kernel):
    depth = DILATED[kernel][number]
    _, reached, _ = recorded(
        Convolutions(kernel, depth, dilated=True), length, sources=range(0, length, max(1, length // 64))
    )
    assert longest(reached.hops) == longest(reached.steps) == int(reached.depth.max()) == depth
    assert int(reached.ideal.max()) == depth * IDEAL[kernel]
    assert math.isfinite(pairs(reached.hops)[0, -1])
    _, shallower, _ = recorded(Convolutions(kernel, depth - 1, dilated=True), length, sources=[0])
    assert pairs(shallower.hops)[0, -1] == math.inf


@pytest.mark.parametrize("length", [16, 32, 64])
@pytest.mark.parametrize(
    ("layers", "depths"),
    [
        pytest.param(lambda depth: Convolutions(3, depth), (8, 16, 32), id="kernel 3"),
        pytest.param(lambda depth: Convolutions(5, depth), (4, 8, 16), id="kernel 5"),
        pytest.param(lambda depth: Convolutions(3, depth, causal=False), (15, 31, 63), id="centred"),
        pytest.param(lambda depth: Convolutions(3, depth, dilated=True), (3, 4, 4), id="dilated"),
        pytest.param(lambda depth: Convolutions(2, depth, dilated=True), (4, 5, 6), id="dilated, kernel 2"),
        pytest.param(lambda depth: restricted(depth, 8), (4, 8, 16), id="4 on each side"),
        pytest.param(lambda depth: restricted(depth, 16), (2, 4, 8), id="8 on each side"),
    ],
)
def test_the_smallest_depth_that_connects_all_pairs(length, layers, depths):
    depth = depths[(16, 32, 64).index(length)]
    stack, ends = layers(depth), [0, length // 2, length - 1]
    never = sum(ends) if getattr(stack, "causal", False) else 0  # so many positions lie before them
    _, reached, _ = recorded(stack, length, sources=ends)
    assert (unreached(reached), longest(reached.hops)) == (never, depth)
    _, shallower, _ = recorded(layers(depth - 1), length, sources=ends)
    assert unreached(shallower) > never


def restricted(depth, neighbours):
    return nn.Sequential(*(RestrictedSelfAttention(WIDTH, neighbours, 2) for _ in range(depth)))


class Gated(nn.Module):
    """Gated convolutions with weight norm and a residual connection, as ConvS2S has them."""

    def __init__(self, layers):
        super().__init__()
        convolution = torch.nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(convolution(nn.Conv1d(WIDTH, 2 * WIDTH, 3)) for _ in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = (x + mixed(F.glu(layer(F.pad(x.transpose(1, 2), (2, 0))), 1)).transpose(1, 2)) * 0.5**0.5
        return x


@pytest.mark.parametrize("length", LENGTHS)
def test_gated_convolutions_of_a_full_field(length):
    recorder, reached, y = recorded(Gated(length // 2), length, sources=[0])
    assert longest(reached.hops) == length // 2
    assert recorder.chain(y) == int(reached.depth.max()) == longest(reached.steps) == 2 * length
    assert int(reached.ideal.max()) == 6 * length
    assert math.isfinite(pairs(reached.hops)[0, -1])


@dataclass
class Encoded(Memory):
    last: Tensor
    """h (B, D) after the last source word."""


class WithoutAttention(Seq2SeqModel):
    """An LSTM that reads the source, and one whose hidden state begins in the last of the first."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(8, WIDTH)
        self.encoder, self.decoder = (nn.LSTMCell(WIDTH, WIDTH) for _ in range(2))

    def encode(self, source, source_mask):
        zeros = torch.zeros(len(source), WIDTH)
        return Encoded(source_mask, self.read(self.encoder, source, zeros)[:, -1])

    def decode(self, target_in, memory):
        return self.read(self.decoder, target_in, memory.last)

    def read(self, cell, words, hidden):
        outputs, memory = [], torch.zeros_like(hidden)
        for word in self.words(words).unbind(1):
            hidden, memory = (mixed(one) for one in cell(word, (hidden, memory)))
            outputs.append(hidden)
        return torch.stack(outputs, 1)

    def start(self, memory):
        raise NotImplementedError

    def decode_step(self, token, state):
        raise NotImplementedError

    def logits(self, hidden):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("length", "across", "within"), [(16, (74, 32), (37, 16)), (32, (138, 64), (69, 32))]
)
def test_an_lstm_without_attention_between_its_two_sides(length, across, within):
    """All that its decoder reads is one state: there is no position of the source in it."""
    paths = model_paths(WithoutAttention(), length, length)
    assert paths.encoder is None
    found = [
        (one.longest("steps"), one.longest("hops"))
        for one in (paths.source_to_target, paths.target_to_target)
    ]
    assert found == [across, within]
    assert paths.source_to_target.connects(causal=False) and paths.target_to_target.leaks(causal=True) == 0


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("neighbours", [8, 16])
def test_restricted_attention(length, neighbours):
    depth = math.ceil((length - 1) / (neighbours / 2))
    paths = layer_paths(restricted(depth, neighbours), length, WIDTH, sources=[0, length - 1])
    assert (paths.longest("hops"), paths.longest("steps")) == (depth, 3 * depth)
    assert paths.connects(causal=False)


@pytest.mark.parametrize("length", [16, 64])
def test_a_separable_convolution_over_everything(length):
    """With k = n each position reaches all from itself on, in one hop."""
    paths = layer_paths(SeparableConvolution(WIDTH, length), length, WIDTH)
    assert paths.connects(causal=True) and paths.leaks(causal=True) == 0
    assert (paths.longest("hops"), paths.longest("steps")) == (1, 3)


@pytest.mark.parametrize(("length", "ideal"), [(16, 13), (64, 15)])
def test_a_centred_separable_convolution_over_everything(length, ideal):
    """With k = 2n - 1 each position reaches all, in two operations."""
    layer = nn.Sequential(
        nn.Conv1d(WIDTH, WIDTH, 2 * length - 1, padding=length - 1, groups=WIDTH), nn.Conv1d(WIDTH, WIDTH, 1)
    )
    recorder, reached, y = recorded(lambda x: layer[1](mixed(layer[0](x.mT))).mT, length)
    assert recorder.chain(y) == int(reached.depth.max()) == longest(reached.steps) == 2
    assert (int(reached.ideal.max()), longest(reached.hops), unreached(reached)) == (ideal, 1, 0)


@pytest.mark.parametrize(("length", "missing"), [(16, 30), (32, 208), (64, 782)])
@pytest.mark.parametrize("depth", [4, 6])
@pytest.mark.parametrize("residual", [False, True])
def test_centred_dilated_convolutions_never_connect_all(length, missing, depth, residual):
    """There is one way in balanced ternary, and near the ends it leaves the sequence."""
    stack = Cycle(depth, 6) if residual else Convolutions(3, depth, dilated=True, causal=False)
    _, reached, _ = recorded(stack, length)
    assert unreached(reached) == missing


class Cycle(nn.Module):
    """Centred convolutions with dilations 1, 3, 9, 27, 1, 3, ... and residual connections."""

    def __init__(self, layers, period=4):
        super().__init__()
        self.dilations = [3 ** (layer % period) for layer in range(layers)]
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
