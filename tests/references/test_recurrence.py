"""The LSTM, both directions and the whole model equal loops over cells, and PyTorch's packed LSTM."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers.recurrent import BidirectionalRecurrence, Recurrence, reversal, reverse
from models.lstm import Config
from tests.references.gradients import assert_equal_with_gradients, sentence_lengths
from tests.references.naive_recurrence import cell, lstm_seq2seq, recurrence

LENGTHS = [1, 2, 7, 63]
WIDTH = 5


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
@pytest.mark.parametrize("started", [False, True])
def test_a_recurrence_equals_loops_over_its_equations(length, started):
    layer = drawn(Recurrence(3, WIDTH))
    x = torch.randn(2, length, 3, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = list(layer.parameters())
    got = layer.sequence(x, (h, c)) if started else layer.sequence(x)
    expected = torch.stack(
        [recurrence(x[i], weights, (h[i], c[i]) if started else None) for i in range(len(x))]
    )
    assert_equal_with_gradients(got, expected, [x, h, c, *weights])


def test_one_step_equals_one_cell():
    layer = drawn(Recurrence(3, WIDTH))
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(2, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = list(layer.parameters())
    got = torch.cat(layer.step(x, (h, c)))
    cells = [cell(x[i], h[i], c[i], weights) for i in range(2)]
    expected = torch.stack([*(h for h, _ in cells), *(c for _, c in cells)])
    assert_equal_with_gradients(got, expected, [x, h, c, *weights])


@pytest.mark.parametrize("length", LENGTHS)
def test_reversal_turns_words_and_leaves_padding(length):
    lengths = sentence_lengths(length)
    x = torch.randn(3, length, 2, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([torch.cat((x[i, :n].flip(0), x[i, n:])) for i, n in enumerate(lengths)])
    assert_equal_with_gradients(reverse(x, reversal(mask_of(lengths))), expected, [x])


@pytest.mark.parametrize("length", LENGTHS)
def test_both_directions_equal_pytorchs_packed_lstm(length):
    layer = drawn(BidirectionalRecurrence(WIDTH))
    reference = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True, dtype=torch.float64)
    ours = {
        f"{name}{suffix}": parameter
        for direction, suffix in ((layer.forwards, ""), (layer.backwards, "_reverse"))
        for name, parameter in direction.named_parameters()
    }
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            parameter.copy_(ours[name])
    lengths = sentence_lengths(length)
    mask = mask_of(lengths).unsqueeze(-1)
    x = torch.randn(3, length, WIDTH, dtype=torch.float64)
    weights = torch.randn(3, length, WIDTH, dtype=torch.float64)

    got_x, expected_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = layer(got_x, reversal(mask.squeeze(-1))) * mask
    packed = reference(pack_padded_sequence(expected_x, lengths, batch_first=True))[0]
    states = pad_packed_sequence(packed, batch_first=True)[0]
    expected = (states @ layer.merge.weight.t() + layer.merge.bias) * mask
    torch.testing.assert_close(got, expected)
    (got * weights).sum().backward()
    got_gradients = {name: parameter.grad for name, parameter in ours.items()}
    layer.merge.zero_grad()
    (expected * weights).sum().backward()
    torch.testing.assert_close(got_x.grad, expected_x.grad)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(got_gradients[name], parameter.grad)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("input_feeding", [False, True], ids=["fused", "fed"])
@pytest.mark.parametrize("attention", ["dot", "general", "additive"])
def test_the_lstm_equals_loops_over_cells(attention, input_feeding, length):
    config = Config(
        width=WIDTH,
        encoder_layers=1 + input_feeding,
        decoder_layers=3 - input_feeding,
        attention=attention,
        input_feeding=input_feeding,
        dropout=0.0,
        tied=False,
    )
    model = drawn(config.build(9))
    lengths = [length, max(1, length // 2)]
    source, target_in = torch.randint(4, 9, (2, length)), torch.randint(4, 9, (2, length))
    got = model.decode(target_in, model.encode(source, mask_of(lengths)))
    parameters = dict(model.named_parameters())
    expected = torch.stack(
        [
            lstm_seq2seq(
                parameters,
                source[i, :words],
                target_in[i],
                encoder_layers=config.encoder_layers,
                decoder_layers=config.decoder_layers,
                attention=attention,
                input_feeding=input_feeding,
            )
            for i, words in enumerate(lengths)
        ]
    )
    assert_equal_with_gradients(got, expected, list(model.parameters()))


def test_the_recurrence_runs_under_bf16_autocast_with_and_without_a_start():
    layer = Recurrence(3, WIDTH)
    x, h, c = torch.randn(2, 7, 3), torch.randn(2, WIDTH), torch.randn(2, WIDTH)
    for start in (None, (h, c)):
        with torch.autocast("cpu", torch.bfloat16):
            got = layer.sequence(x, start)
        got.float().sum().backward()
        torch.testing.assert_close(got.float(), layer.sequence(x, start), rtol=0.05, atol=0.05)
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()
