"""The layers of Table 1: what they compute, what they cost, and how far apart they leave positions."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmark.measure.graph import Recorder
from models.layers.recurrent import Recurrence
from models.layers.table1 import (
    Convolution,
    Recurrent,
    RestrictedSelfAttention,
    SelfAttention,
    SeparableConvolution,
)

WIDTH = 16
LAYERS = {
    "self-attention": lambda: SelfAttention(WIDTH, 2),
    "restricted": lambda: RestrictedSelfAttention(WIDTH, 8, 2),
    "recurrent": lambda: Recurrent(WIDTH),
    "convolution": lambda: Convolution(WIDTH, 3),
    "dilated": lambda: Convolution(WIDTH, 3, dilation=3),
    "separable": lambda: SeparableConvolution(WIDTH, 5),
}


def made(name):
    torch.manual_seed(0)
    return LAYERS[name]().double()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("length", [1, 2, 7, 16, 63])
def test_operations_and_parameters_are_those_that_are_counted(name, length):
    layer = made(name)
    x = torch.randn(1, length, WIDTH, dtype=torch.float64)
    for module in layer.modules():
        if isinstance(module, Recurrence):
            module.fused = False
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert layer(x).shape == x.shape
    theory = layer.theory(length)
    assert counter.get_total_flops() == theory.operations
    assert theory.parameters == sum(parameter.numel() for parameter in layer.parameters())


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize("length", [1, 2, 7, 16])
def test_a_convolution_is_that_of_pytorch(kernel, dilation, length):
    """Whose weights are (out, in, kernel), with the oldest position first."""
    torch.manual_seed(0)
    layer = Convolution(WIDTH, kernel, dilation).double()
    x = torch.randn(3, length, WIDTH, dtype=torch.float64, requires_grad=True)
    weight = layer.linear.weight.unflatten(1, (kernel, WIDTH)).transpose(1, 2)
    padded = F.pad(x.transpose(1, 2), ((kernel - 1) * dilation, 0))
    expected = F.conv1d(padded, weight, layer.linear.bias, dilation=dilation).transpose(1, 2)
    y = layer(x)
    torch.testing.assert_close(y, expected)
    gradients = (torch.autograd.grad(one.square().sum(), x)[0] for one in (y, expected))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("neighbourhood", [2, 8, 64])
@pytest.mark.parametrize("length", [1, 5, 16, 33])
def test_restricted_attention_is_attention_under_a_band(neighbourhood, length):
    torch.manual_seed(0)
    layer = RestrictedSelfAttention(WIDTH, neighbourhood, 2).double()
    x = torch.randn(3, length, WIDTH, dtype=torch.float64)
    distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    far = distance > neighbourhood // 2
    band = torch.zeros(length, length, dtype=torch.float64).masked_fill(far, -math.inf)
    torch.testing.assert_close(layer(x), layer.projections(x, band))


def test_restricted_attention_is_linear_in_the_length():
    layer = RestrictedSelfAttention(WIDTH, 8)
    mixing = [layer.theory(length).mixing for length in (64, 128, 256)]
    assert mixing == [6 * 8 * length * WIDTH for length in (64, 128, 256)]
    with pytest.raises(ValueError, match="neighbourhood: must be even and at least 2, got 3"):
        RestrictedSelfAttention(WIDTH, 3)


@pytest.mark.parametrize(("length", "blocks"), [(1, 1), (5, 1), (16, 1), (17, 2), (33, 3), (48, 3)])
def test_restricted_attention_takes_whole_blocks(length, blocks):
    """6 r n d holds of the length that is rounded up, here to a multiple of 16."""
    layer = RestrictedSelfAttention(WIDTH, 32).double()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(torch.randn(1, length, WIDTH, dtype=torch.float64))
    theory = layer.theory(length)
    assert counter.get_total_flops() == theory.operations
    assert theory.mixing == 6 * 32 * (16 * blocks) * WIDTH < 6 * 32 * (length + 16) * WIDTH


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_recurrence_is_the_same_cell_by_cell(start, dtype):
    """In float32 the fused kernel is oneDNN's, in float64 PyTorch's own."""
    torch.manual_seed(0)
    layer = Recurrence(WIDTH, WIDTH).to(dtype)
    x = torch.randn(3, 9, WIDTH, dtype=dtype, requires_grad=True)
    state = (torch.randn(3, WIDTH, dtype=dtype), torch.randn(3, WIDTH, dtype=dtype)) if start else None
    fused = layer.sequence(x, state)
    (gradient,) = torch.autograd.grad(fused.square().sum(), x)
    layer.fused = False
    apart = layer.sequence(x, state)
    torch.testing.assert_close(apart, fused)
    torch.testing.assert_close(torch.autograd.grad(apart.square().sum(), x)[0], gradient)


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_sees(name):
    """One call is one hop, and a recurrence one for each position on the way."""
    length = 16
    layer = made(name)
    for module in layer.modules():
        if isinstance(module, Recurrence):
            module.fused = False
    x = torch.randn(1, length, WIDTH, dtype=torch.float64)
    with torch.no_grad(), Recorder(sources=length) as recorder:
        for position in range(length):
            recorder.source(position, x[:, position])
        y = layer(x)
    hops = recorder.reached(y).hops[:, 0].amin(-1)
    here, there = torch.arange(length), torch.arange(length)[:, None]
    back = here - there  # how far the source lies behind
    seen = {
        "self-attention": back.abs() < length,
        "restricted": back.abs() <= 4,
        "recurrent": back >= 0,
        "convolution": (back >= 0) & (back <= 2),
        "dilated": (back >= 0) & (back <= 6) & (back % 3 == 0),
        "separable": (back >= 0) & (back <= 4),
    }[name]
    assert torch.equal(hops.isfinite(), seen)
    expected = (back + 1.0) if name == "recurrent" else torch.ones(length, length)
    assert torch.equal(hops[seen], expected[seen])
    assert layer.causal == bool((back[seen] >= 0).all())
