"""Gated convolutions and the whole ConvS2S equal loops over positions, and PyTorch's Conv1d."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.convs2s import Config
from models.layers.convolution import GatedConvolution, NormalisedLinear
from tests.references.gradients import assert_equal_with_gradients
from tests.references.naive_convolution import convs2s, gated_convolution, linear

LENGTHS = [1, 2, 7, 63]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def drawn(layer):
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.4)
    return layer


def mask_of(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_normalised_layer_equals_the_formula(length):
    layer = drawn(NormalisedLinear(4, 3))
    x = torch.randn(length, 4, dtype=torch.float64, requires_grad=True)
    parameters = {f"it.{name}": parameter for name, parameter in layer.named_parameters()}
    assert_equal_with_gradients(layer(x), linear(x, parameters, "it"), [x, *layer.parameters()])


def test_a_normalised_layer_begins_as_what_was_drawn():
    layer = NormalisedLinear(400, 300, gain=4.0, dropout=0.25)
    weight = layer(torch.eye(400)).detach().t() - layer.bias.detach()[:, None]
    torch.testing.assert_close(weight, layer.direction.detach())
    assert float(weight.std()) == pytest.approx((4 * 0.75 / 400) ** 0.5, rel=0.02)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
def test_a_gated_convolution_equals_loops_and_conv1d(kernel, length):
    layer = drawn(GatedConvolution(4, 3, kernel, dropout=0.0))
    x = torch.randn(2, length, 4, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    parameters = {f"it.{name}": parameter for name, parameter in layer.linear.named_parameters()}
    got = layer(F.pad(x, (0, 0, kernel - 1, 0)))
    loops = torch.stack([gated_convolution(row, parameters, "it", kernel, kernel - 1) for row in x])
    assert_equal_with_gradients(got, loops, leaves)
    got = layer(F.pad(x, (0, 0, kernel - 1, 0)))
    direction, size = layer.linear.direction, layer.linear.length
    weight = size * direction / direction.square().sum(1, keepdim=True).sqrt()
    filters = weight.view(6, kernel, 4).transpose(1, 2)  # our windows lie position by position
    channels = F.conv1d(F.pad(x.transpose(1, 2), (kernel - 1, 0)), filters, layer.linear.bias)
    value, gate = channels.transpose(1, 2).chunk(2, -1)
    assert_equal_with_gradients(got, value * torch.sigmoid(gate), leaves)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "options",
    [
        {"encoder_layers": 2, "decoder_layers": 2, "scale_encoder_gradient": False},
        {
            "encoder_blocks": ((4, 3), (6, 1), (6, 5)),
            "decoder_blocks": ((5, 2), (7, 3)),
            "scale_encoder_gradient": True,
        },
    ],
    ids=["even", "widening"],
)
def test_convs2s_equals_loops_over_positions(options, length):
    config = Config(width=4, kernel=3, dropout=0.0, maximum_length=64, tied=False, **options)
    model = drawn(config.build(9))
    lengths = [length, max(1, length // 2)]
    source, target_in = torch.randint(4, 9, (2, length)), torch.randint(4, 9, (2, length))
    got = model.decode(target_in, model.encode(source, mask_of(lengths)))
    parameters = dict(model.named_parameters())
    expected = torch.stack(
        [
            convs2s(
                parameters,
                source[i, :words],
                target_in[i],
                encoder_blocks=config.blocks("encoder"),
                decoder_blocks=config.blocks("decoder"),
                encoder_gradient=0.5 if config.scale_encoder_gradient else 1.0,
            )
            for i, words in enumerate(lengths)
        ]
    )
    assert_equal_with_gradients(got, expected, list(model.parameters()))
