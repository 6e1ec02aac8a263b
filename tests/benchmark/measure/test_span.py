"""Span and paths of the project's own layers and models, and of what a user may bring."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmark.config import model_module
from benchmark.measure.graph import Recorder
from benchmark.measure.signal import layer_signal
from benchmark.measure.span import (
    as_traced,
    generation_span,
    layer_paths,
    layer_span,
    model_paths,
    model_span,
    smallest_stack,
    undeclared,
    undeclared_in_model,
)
from models import convs2s, lstm, transformer
from models.layers import recurrent
from models.layers.mixing import mixed
from models.layers.recurrent import Recurrence
from models.layers.table1 import (
    Convolution,
    Recurrent,
    RestrictedSelfAttention,
    SelfAttention,
    SeparableConvolution,
)
from tests.benchmark.test_check import OWN_MODEL

WIDTH = 16


@pytest.mark.parametrize(
    ("layer", "kernel", "ideal"),
    [
        (SelfAttention(WIDTH, 2), lambda n: 6, lambda n: 21 + 3 * math.log2(n)),
        (RestrictedSelfAttention(WIDTH, 8, 2), lambda n: 7, lambda n: 34),
        (Recurrent(WIDTH), lambda n: 7 * n, lambda n: 12 * n),
        (Convolution(WIDTH, 3), lambda n: 1, lambda n: 8),
        (SeparableConvolution(WIDTH, 5), lambda n: 3, lambda n: 11),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, nn.Module) else "",
)
def test_only_the_recurrence_has_to_wait(layer, kernel, ideal):
    for length in (16, 32):
        span = layer_span(layer, length, WIDTH)
        assert (span.kernel_depth, span.ideal_depth) == (kernel(length), ideal(length))
        assert span.parallelism == span.work / span.kernel_depth
        backward = layer_span(layer, length, WIDTH, backward=True)
        assert backward.work >= 2 * span.work
        grows = layer_span(layer, 2 * length, WIDTH, backward=True).kernel_depth / backward.kernel_depth
        assert grows > 1.9 if isinstance(layer, Recurrent) else grows == 1.0


@pytest.mark.parametrize("length", [8, 32])
def test_parallelism_is_work_over_depth(length):
    """Twelve operations for each cell, seven of them in a row, and the first product with zeros is none."""
    span = layer_span(Recurrent(WIDTH), length, WIDTH)
    assert span.parallelism == (12 * length - 1) / (7 * length)
    assert layer_span(SelfAttention(WIDTH, 2), length, WIDTH).parallelism > 1.1


class Stack(nn.Sequential):
    pass


def test_the_smallest_depth_that_connects():
    def convolutions(layers):
        return Stack(*(Convolution(WIDTH, 3) for _ in range(layers)))

    def dilated(layers):
        return Stack(*(Convolution(WIDTH, 3, dilation=3**layer) for layer in range(layers)))

    def restricted(layers):
        return Stack(*(RestrictedSelfAttention(WIDTH, 8) for _ in range(layers)))

    def depth(stack, length, *, causal, most, alike=True):
        found = smallest_stack(stack, length, WIDTH, causal=causal, most=most, alike=alike)
        if found is None:
            return None
        layers, paths = found
        assert paths.connects(causal=causal)
        fewer = layer_paths(stack(layers - 1), length, WIDTH) if layers > 1 else None
        assert fewer is None or not fewer.connects(causal=causal)
        return layers

    assert depth(convolutions, 16, causal=True, most=16) == 8
    assert depth(dilated, 27, causal=True, most=8, alike=False) == 3
    assert depth(restricted, 16, causal=False, most=8) == 4
    assert depth(lambda layers: Stack(SelfAttention(WIDTH)), 16, causal=False, most=1) == 1
    assert depth(convolutions, 16, causal=True, most=3) is None


def test_ways_that_stay_in_their_channels_are_no_ways_of_positions():
    """By positions two layers reach three positions back to back; each moves a channel of its own."""

    class Shift(nn.Module):
        def __init__(self, channel):
            super().__init__()
            self.channel = channel

        def forward(self, x):
            y = x.clone()
            y[:, 1:, self.channel] = x[:, :-1, self.channel]
            y[:, 1:, 1 - self.channel] = x[:, 1:, 1 - self.channel]
            return y

    def stack(layers):
        return Stack(*(Shift(number % 2) for number in range(layers)))

    found = smallest_stack(stack, 3, 2, causal=True, most=8, alike=False)
    assert found is None or found[0] > 2


def test_a_sentence_of_as_many_words_as_the_model_is_wide():
    """What is as long as the sentence by chance is no position of it."""
    model = lstm.Config().tiny().build(50)
    assert lstm.Config().tiny().width == 16
    encoders = [model_paths(model, n, n).encoder for n in (15, 16, 17)]
    assert [one and one.longest("hops") for one in encoders] == [15, 16, 17]


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_paths_of_whole_models(module):
    """Two layers, teacher forced: the attention to the source makes one hop of every distance in it."""
    model = module.Config().tiny().build(50)
    paths = model_paths(model, 13, 12)
    assert paths.target_to_target.leaks(causal=True) == 0
    assert paths.source_to_target.longest("hops") == 1
    encoder, target = paths.encoder, paths.target_to_target
    assert encoder is not None
    if module is lstm:
        assert (encoder.longest("hops"), target.longest("hops")) == (13, 12)
        assert encoder.connects(causal=False) and target.connects(causal=True)
    elif module is transformer:
        assert (encoder.longest("hops"), target.longest("hops")) == (1, 1)
        assert encoder.connects(causal=False) and target.connects(causal=True)
    else:
        assert (encoder.longest("hops"), target.longest("hops")) == (2, 2)
        assert not encoder.connects(causal=False), "two layers of three do not see thirteen words"


@pytest.mark.parametrize(("module", "each"), [(transformer, 45), (convs2s, 34), (lstm, 24)])
def test_generation_costs_the_same_for_every_word(module, each):
    model = module.Config().tiny().build(50)
    words = [generation_span(model, 9, count).kernel_depth for count in (4, 8, 16)]
    assert (words[1] - words[0], words[2] - words[1]) == (4 * each, 8 * each)


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_training_is_parallel_but_for_the_recurrence_and_generation_is_not(module):
    model = module.Config().tiny().build(50)
    short, long = model_span(model, 9, 8), model_span(model, 17, 16)
    assert (long.kernel_depth == short.kernel_depth) == (module is not lstm)
    backward = [model_span(model, n + 1, n, backward=True).kernel_depth for n in (8, 16)]
    assert (backward[0] == backward[1]) == (module is not lstm)
    words = [generation_span(model, 9, count).kernel_depth for count in (2, 4, 6)]
    assert words[2] - words[1] == words[1] - words[0] > 0, "one word waits for the one before"


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_a_model_is_its_encoder_and_then_its_decoder(module):
    model = module.Config().tiny().build(50)
    whole, encoder, decoder = (model_span(model, 9, 8, part=one) for one in ("model", "encoder", "decoder"))
    assert encoder.work + decoder.work == whole.work
    longest = max(encoder.kernel_depth, decoder.kernel_depth)
    assert longest < whole.kernel_depth <= encoder.kernel_depth + decoder.kernel_depth
    both = {one: model_span(model, 9, 8, part=one, backward=True) for one in ("encoder", "decoder")}
    assert both["encoder"].work > 2 * encoder.work and both["decoder"].work > 2 * decoder.work
    longer = {one: model_span(model, 17, 16, part=one) for one in ("encoder", "decoder")}
    for part, short in (("encoder", encoder), ("decoder", decoder)):
        assert (longer[part].kernel_depth == short.kernel_depth) == (module is not lstm)


@pytest.mark.parametrize(("length", "ideal"), [(16, 1824), (64, 1926)])
def test_known_values_of_pytorch_s_transformer_at_base_size(length, ideal):
    model = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True)
    x, y = torch.randn(2, 1, length, 512).unbind(0)
    mask = nn.Transformer.generate_square_subsequent_mask(length)
    with torch.no_grad(), as_traced(model), Recorder(sources=3) as recorder:
        for number, position in enumerate((0, length // 2, length - 1)):
            recorder.source(number, x[:, position])
        encoded = model.encoder(x)
        hidden = model.decoder(y, encoded, tgt_mask=mask)
    assert int(recorder.reached(encoded).steps.max()) == 28
    reached = recorder.reached(hidden)
    assert recorder.chain(hidden) == int(reached.depth.max()) == 147
    assert (int(reached.ideal.max()), int(reached.steps.max())) == (ideal, 33)


def test_statistics_of_training_mix_no_positions():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(WIDTH)

        def forward(self, x):
            return self.norm(x.transpose(1, 2)).transpose(1, 2)

    assert torch.equal(layer_paths(Normalised(), 5, WIDTH).reached, torch.eye(5, dtype=torch.bool))


def test_a_parameter_of_zero_cuts_paths_until_it_is_moved():
    class ReZero(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.scale = SelfAttention(WIDTH), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x + self.scale * self.layer(x)

    layer = ReZero()
    paths = layer_paths(layer, 4, WIDTH)
    assert torch.equal(paths.reached, torch.eye(4, dtype=torch.bool)) and not paths.connects(causal=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    paths = layer_paths(layer, 4, WIDTH)
    assert paths.connects(causal=False) and paths.leaks(causal=True) == 6


def test_a_model_is_as_it_was_after_it_was_traced():
    model = lstm.Config().tiny().build(50).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model_span(model, 5, 4, backward=True)
    assert model.training and all(one.training for one in model.modules())
    assert all(one.fused for one in model.modules() if isinstance(one, Recurrence))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(RuntimeError), as_traced(model):
        raise RuntimeError
    assert model.training


class Hidden(nn.Module):
    """A recurrence that is declared as one hop."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x):
        state, outputs = x.new_zeros(1, WIDTH), []
        for position in x.unbind(1):
            state = self.cell(position, state)
            outputs.append(state)
        return mixed(torch.stack(outputs, 1))


def test_a_recurrence_that_is_declared_as_one_hop_is_caught():
    assert layer_paths(Hidden(), 16, WIDTH).longest("hops") == 1
    text = undeclared(Hidden(), WIDTH)
    assert text.startswith("operations on the shortest way grow to 25.0, 49.0, 97.0 for each declared hop")
    for layer in (
        SelfAttention(WIDTH), RestrictedSelfAttention(WIDTH, 8), Recurrent(WIDTH), Convolution(WIDTH, 3),
        SeparableConvolution(WIDTH, 5),
    ):  # fmt: skip
        assert undeclared(layer, WIDTH) == ""


@pytest.mark.parametrize(("length", "steps"), [(12, "29.0, 53.0, 101.0"), (8, "21.0, 37.0, 69.0")])
def test_a_fused_recurrence_that_is_declared_as_one_hop_is_caught(length, steps):
    lstm_of_pytorch = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def layer(x):
        return mixed(lstm_of_pytorch(x)[0])

    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrence = lstm_of_pytorch

        def forward(self, x):
            return layer(x)

    assert layer_paths(Fused(), length, WIDTH).longest("hops") == 1
    assert f"grow to {steps} for each declared hop at {length}, " in undeclared(Fused(), WIDTH, length=length)


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_whole_models_declare_what_they_mix_and_one_that_does_not_is_caught(module, monkeypatch):
    model = module.Config().tiny().build(50)
    assert undeclared_in_model(model) == ""
    if module is lstm:
        monkeypatch.setattr(recurrent, "mixed", lambda x: x)
        assert undeclared_in_model(model).startswith("operations on the shortest way grow to ")


@pytest.mark.parametrize("measure", [layer_span, layer_paths, layer_signal])
def test_a_layer_that_gives_more_than_a_tensor_is_told_to_give_the_tensor(measure):
    with pytest.raises(ValueError, match=r"^the layer gives a tuple and not a tensor .*: layer\(x\)\[0\]$"):
        measure(nn.GRU(WIDTH, WIDTH, batch_first=True), 4, WIDTH)


class Undeclared(nn.Module):
    """What hides from a look at the first position alone."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.cell = nn.GRUCell(WIDTH, WIDTH)
        self.declared = Recurrent(WIDTH)

    def recurrence(self, x):
        state, outputs = x.new_zeros(1, WIDTH), []
        for position in x.unbind(1):
            state = self.cell(position, state)
            outputs.append(state)
        return torch.stack(outputs, 1)

    def forward(self, x):
        backwards = mixed(self.recurrence(x.flip(1)).flip(1))
        if self.order == "backwards":
            return backwards
        if self.order == "beside one that is declared":
            return self.declared(x) + backwards
        return mixed(torch.cat((x[:, :1], self.recurrence(x[:, 1:])), 1))


@pytest.mark.parametrize("order", ["backwards", "beside one that is declared", "from the second position on"])
def test_a_recurrence_that_the_first_position_does_not_show_is_caught(order):
    assert undeclared(Undeclared(order), WIDTH).startswith("operations on the shortest way grow")


def _one_after_another(x):
    """A state-space layer, of one state for each channel."""
    state, outputs = torch.zeros_like(x[:, 0]), []
    for position in range(x.shape[1]):
        state = state * 0.9 + x[:, position] * 0.5
        outputs.append(state * 2.0)
    return torch.stack(outputs, 1)


def _in_pairs(x):
    """The same as a scan: after each pass a state sums twice as many positions."""
    state, distance = x * 0.5, 1
    while distance < x.shape[1]:
        before = nn.functional.pad(state, (0, 0, distance, 0))[:, : x.shape[1]]
        state, distance = state + before * 0.9**distance, 2 * distance
    return state * 2.0


def _of_frequencies(x):
    """The same as a convolution with the powers of its decay."""
    length = x.shape[1]
    kernel = (0.9 ** torch.arange(length))[:, None]
    product = torch.fft.rfft(x, n=2 * length, dim=1) * torch.fft.rfft(kernel, n=2 * length, dim=0)
    return torch.fft.irfft(product, n=2 * length, dim=1)[:, :length]


@pytest.mark.parametrize(
    ("layer", "depth", "leaks"),
    [
        # The first product with a state of zeros does not count.
        (_one_after_another, lambda n: 2 * n + 1, 0),
        (_in_pairs, lambda n: 2 * math.log2(n) + 2, 0),
        (_of_frequencies, lambda n: 3, 1),  # a transform mixes all, and what would come back cancels
    ],
)
def test_a_state_space_layer_is_three_programs(layer, depth, leaks):
    x = torch.randn(1, 16, WIDTH)
    torch.testing.assert_close(layer(x), _one_after_another(x))
    for length in (16, 64):
        assert layer_span(layer, length, WIDTH).kernel_depth == depth(length)
        paths = layer_paths(layer, length, WIDTH)
        assert paths.connects(causal=True)
        assert paths.leaks(causal=True) == leaks * length * (length - 1) / 2


def model_of_file(path, text):
    path.write_text(text)
    return model_module(str(path), files_allowed=True).module.Config().tiny().build(50)


def test_a_model_file_of_the_users_own_is_measured_as_ours_are(tmp_path):
    mean = model_of_file(tmp_path / "mean.py", OWN_MODEL)
    spans = [model_span(mean, n, n) for n in (4, 8)]
    assert [(span.work, span.kernel_depth) for span in spans] == [(7, 5)] * 2
    words = [generation_span(mean, 4, count).kernel_depth for count in (3, 6, 9)]
    assert words[2] - words[1] == words[1] - words[0] > 0
    paths = model_paths(mean, 5, 4)
    assert paths.encoder is None, "what its decoder reads is one mean of all source words"
    assert paths.source_to_target.connects(causal=False) and paths.source_to_target.longest("steps") == 4
    assert paths.target_to_target.connects(causal=True) and paths.target_to_target.leaks(causal=True) == 0
    assert undeclared_in_model(mean) == ""
    text = Path(transformer.__file__).read_text(encoding="utf-8")
    paths = model_paths(model_of_file(tmp_path / "mine.py", text), 5, 4)
    expected = model_paths(transformer.Config().tiny().build(50), 5, 4)
    for part in ("encoder", "source_to_target", "target_to_target"):
        assert torch.equal(getattr(paths, part).steps, getattr(expected, part).steps)


def test_a_layer_without_a_line_of_its_own_has_span_and_steps():
    def skipping(x):
        """A gated recurrence whose state comes from two positions back."""
        states = [x[:, 0], x[:, 1]]
        for position in range(2, x.shape[1]):
            states.append(torch.sigmoid(x[:, position]) * states[-2])
        return torch.stack(states, 1)

    paths = layer_paths(skipping, 16, WIDTH)
    assert paths.longest("hops") == 0, "nothing is declared"
    assert paths.longest("steps") == 8, "a gate, and then a product at every second position"
    assert undeclared(skipping, WIDTH).endswith("than models.layers.mixing.mixed says")
    assert layer_span(skipping, 16, WIDTH).kernel_depth == 8
