"""Signal against distance: against exact Jacobians and finite differences, and on profiles that are known."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.measure import signal
from benchmark.measure.signal import BATCH, GROUPS, Profile, decay, layer_signal, model_signal, random_words
from models import BEGIN, convs2s, lstm, transformer
from models.layers.mixing import mixed
from models.layers.table1 import Convolution, Recurrent, SelfAttention

WIDTH = 16


def exact(layer, x, output):
    """(n,): Frobenius norms of one Jacobian."""
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0, output], x)
    return jacobian[:, 0].square().sum((0, 2)).sqrt()


@pytest.mark.parametrize("layer", [SelfAttention(WIDTH, 2), Recurrent(WIDTH), Convolution(WIDTH, 5)])
def test_norms_are_those_of_exact_jacobians(layer, monkeypatch):
    """One input many times over, so that nothing but the projections is random: some 2 % of noise."""
    monkeypatch.setattr(signal, "BATCH", 500)
    layer = copy.deepcopy(layer).double()
    x = torch.randn(1, 8, WIDTH, dtype=torch.float64)
    many = x.repeat(GROUPS * 500, 1, 1).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    found = signal._norms(layer(many)[:, 7], [many], generator).square().mean(0).sqrt()
    expected = exact(layer, x, 7)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0)


def test_gradients_are_finite_differences():
    torch.manual_seed(0)
    layer = Recurrent(WIDTH).double()
    x, step = torch.randn(1, 6, WIDTH).double(), 1e-6
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0, 5], x)
    for position in (0, 3, 5):
        moved = x.clone()
        moved[0, position, 2] += step
        back = x.clone()
        back[0, position, 2] -= step
        difference = (layer(moved)[0, 5] - layer(back)[0, 5]) / (2 * step)
        torch.testing.assert_close(jacobian[:, 0, position, 2], difference, rtol=1e-5, atol=1e-9)


def made(values, noise=0.02):
    distances = np.arange(1, len(values) + 1)
    random = np.random.default_rng(0)
    return Profile(
        output=len(values),
        distances=distances,
        norms=np.asarray(values) * np.exp(random.normal(0, noise, (GROUPS, len(values)))),
    )


DISTANCES = np.arange(1, 65)
FAR = np.arange(1, 512)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.exp(-0.3 * DISTANCES), "exponential"),
        (DISTANCES**-2.0, "power"),
        (np.full(64, 0.01), "none"),
        (np.exp(np.sin(DISTANCES) * 2 - 0.05 * DISTANCES), "undetermined"),
        (FAR**-0.22, "power"),
        (np.exp(0.02 * DISTANCES), "exponential"),
        (np.where(FAR < 3, 1.0, 0.01), "undetermined"),
        (np.exp(np.abs(FAR - 256) / 100), "undetermined"),
        (np.where(FAR % 2, 1.0, 1e-3), "undetermined"),
        (np.exp(np.random.default_rng(1).normal(0, 0.25, 511)), "none"),
    ],
    ids=[
        "exponential",
        "power",
        "constant",
        "waves",
        "slow power",
        "growth",
        "step",
        "valley",
        "sawtooth",
        "noise",
    ],
)
def test_the_law_of_a_known_profile_is_named(values, kind):
    found = decay(made(values))
    assert (found.kind, found.unreached) == (kind, 0)
    if kind == "exponential" and values[0] > values[-1]:
        assert found.rate.half_width is not None and found.rate.half_width < 0.01
        assert abs(found.rate.mean + 0.3) <= 2 * found.rate.half_width
        assert found.change == pytest.approx(0.3 * 63, rel=0.01)
    if kind == "power" and len(values) == len(DISTANCES):
        assert found.exponent.half_width is not None and found.exponent.half_width < 0.05
        assert abs(found.exponent.mean + 2) <= 2 * found.exponent.half_width


def test_what_is_not_reached_is_in_no_fit():
    values = np.exp(-0.3 * DISTANCES)
    values[40:] = 0
    found = decay(made(values))
    assert (found.kind, found.unreached) == ("exponential", 24)
    assert decay(made([1.0, 0.0, 0.0])).kind == "undetermined"


def test_recurrence_decays_exponentially_and_attention_does_not():
    """Known values at this initialisation: the open forget gate halves the rate of the decay."""
    torch.manual_seed(0)
    open_gate = Recurrent(32)
    closed = Recurrent(32)
    with torch.no_grad():
        closed.recurrence.bias_ih_l0.zero_()
    rates = {}
    for name, layer in {"open": open_gate, "closed": closed}.items():
        (profile,) = layer_signal(layer, 64, 32)
        found = decay(profile)
        assert found.kind == "exponential" and found.exponential_share > 0.99
        rates[name] = found.rate.mean
    assert rates["closed"] < 1.5 * rates["open"] < 0
    profiles = layer_signal(SelfAttention(32, 2), 64, 32, outputs=[63, 31])
    assert [decay(one).kind for one in profiles] == ["none", "none"]
    assert [one.output for one in profiles] == [63, 31]


class Fused(nn.Module):
    """A recurrence of PyTorch with its own initialisation, at width 32."""

    def __init__(self, kind, *, seed=0, forget_bias=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.recurrence = kind(32, 32, batch_first=True)
        if forget_bias:
            with torch.no_grad():
                self.recurrence.bias_ih_l0[32:64] += forget_bias

    def forward(self, x):
        return self.recurrence(x)[0]


@pytest.mark.parametrize(
    ("kind", "forget_bias", "rate", "within"),
    [
        (nn.LSTM, 0.0, -0.479, 0.05),
        (nn.LSTM, 1.0, -0.208, 0.05),
        (nn.GRU, 0.0, -0.457, 0.07),
        (nn.RNN, 0.0, -0.661, 0.25),  # hangs on one matrix and nothing else, so that draws differ most
    ],
)
def test_recurrences_of_pytorch_decay_at_their_known_rates(kind, forget_bias, rate, within):
    found = [
        decay(layer_signal(Fused(kind, seed=seed, forget_bias=forget_bias), 48, 32)[0]) for seed in range(3)
    ]
    assert {one.kind for one in found} == {"exponential"}
    assert np.mean([one.rate.mean for one in found]) == pytest.approx(rate, rel=within)


def test_the_rate_of_an_lstm_does_not_depend_on_the_length():
    found = [decay(layer_signal(Fused(nn.LSTM), length, 32)[0]).rate.mean for length in (64, 256)]
    assert found[1] == pytest.approx(found[0], rel=0.02)


class Dilated(nn.Module):
    """Causal convolutions of three positions, 1, 3, 9, ... apart, each beside a residual path."""

    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv1d(32, 32, 3, dilation=3**layer) for layer in range(layers))

    def forward(self, x):
        x = x.transpose(1, 2)
        for number, layer in enumerate(self.layers):
            x = x + layer(nn.functional.pad(x, (2 * 3**number, 0)))
        return x.transpose(1, 2)


def test_dilated_convolutions_with_residuals_follow_neither_law():
    """A sawtooth: the signal hangs on how many steps of powers of three a distance takes."""
    (profile,) = layer_signal(Dilated(6), 512, 32)
    found = decay(profile)
    assert (found.kind, found.unreached) == ("undetermined", 0)
    assert (found.rate.mean, found.exponent.mean) == pytest.approx((-0.0045, -0.74), rel=0.05)
    assert (found.exponential_share, found.power_share) == pytest.approx((0.24, 0.29), abs=0.02)
    assert profile.mean[[0, 255, 510]] == pytest.approx([2.5, 0.07, 0.08], rel=0.2)


class Blocks(nn.Module):
    """A Transformer's encoder of six layers, with sinusoids for positions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, x):
        _, length, width = x.shape
        angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        return self.layers(x + torch.stack((angles.sin(), angles.cos()), -1).flatten(1).to(x))


def test_six_blocks_of_attention_with_sinusoids_do_not_decay():
    found = decay(layer_signal(Blocks(), 128, 32)[0])
    assert found.kind == "none"
    assert abs(found.rate.mean) < 1e-3 and abs(found.exponent.mean) < 0.05


def test_an_lstm_whose_gates_are_nearly_all_open_hardly_decays():
    """The rate is a hundredth of that of the default, and neither law holds."""
    (profile,) = layer_signal(Fused(nn.LSTM, forget_bias=3.0), 256, 32)
    found = decay(profile)
    assert found.kind in ("none", "undetermined")
    assert -0.03 < found.rate.mean < 0 and profile.mean[-1] > 0.05


@pytest.mark.parametrize(("length", "level"), [(64, 3.5e-2), (256, 7.7e-3), (512, 3.8e-3)])
def test_attention_thins_out_with_the_length_and_not_with_the_distance(length, level):
    torch.manual_seed(0)
    inner, outer = nn.Linear(32, 96).double(), nn.Linear(32, 32).double()

    def attention(x):
        query, key, value = inner(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(query, key, value)
        return outer(y.transpose(1, 2).flatten(2))

    (profile,) = layer_signal(attention, length, 32)
    found = decay(profile)
    assert found.kind == "none" and abs(found.rate.mean) < 1e-3
    np.testing.assert_allclose(np.median(profile.mean), level, rtol=0.1)


class Gated(nn.Module):
    """Gated convolutions as ConvS2S has them, each residual block by the square root of a half."""

    def __init__(self, layers):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv1d(8, 16, 3) for _ in range(layers))

    def forward(self, x):
        x = x.transpose(1, 2)
        for layer in self.layers:
            x = (x + nn.functional.glu(layer(nn.functional.pad(x, (2, 0))), 1)) * 0.5**0.5
        return x.transpose(1, 2)


def test_what_underflows_is_counted_and_in_no_fit(monkeypatch):
    """A path through every gated convolution exists, and what it carries is too little for float64."""
    monkeypatch.setattr(signal, "BATCH", 1)
    (profile,) = layer_signal(Gated(256), 512, 8)
    found = decay(profile)
    assert profile.mean[-1] == 0 and found.unreached > 0
    assert found.kind == "exponential" and found.rate.mean == pytest.approx(-0.76, rel=0.05)
    assert 1e-37 < profile.mean[0] < 1e-35, "each block halves the power of what passes by it"


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_model_s_signal_is_that_of_its_embedded_words(module, side):
    torch.manual_seed(0)
    model = module.Config().tiny().build(50)
    source, target = random_words(9, 50), random_words(7, 50, seed=1)
    (profile,) = model_signal(model, source, target, side=side)
    assert len(profile.distances) == (9 if side == "source" else 6)
    assert (profile.norms > 0).any()
    assert all(parameter.grad is None for parameter in model.parameters())
    # One embedded word moved a little, which moves what comes out as its gradient says.
    double = module.Config().tiny().build(50).double().eval()
    double.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    if hasattr(double, "gradient_factor"):
        double.gradient_factor = 1.0
    shifted = torch.cat((torch.full_like(target[:, :1], BEGIN), target[:, :-1]), 1)
    mask = torch.ones(source.shape, dtype=torch.bool)
    words = source if side == "source" else shifted

    class Moved(torch.overrides.TorchFunctionMode):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func is torch.nn.functional.embedding and torch.equal(args[0], words):
                result = result.clone()
                result[:, 2, 0] += self.by
            return result

    def output(by):
        with torch.no_grad(), Moved(by):
            return double.decode(shifted, double.encode(source, mask))[:, -1]

    difference = (output(1e-5) - output(-1e-5)) / 2e-5
    with signal._Embedded(words) as embedded:
        hidden = double.decode(shifted, double.encode(source, mask))[:, -1]
    projection = torch.randn_like(hidden)
    gradients = torch.autograd.grad((hidden * projection).sum(), embedded.found, allow_unused=True)
    found = sum(one[:, 2, 0] for one in gradients if one is not None)
    torch.testing.assert_close(found, (difference * projection).sum(-1), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_model_that_moves_its_words_before_it_embeds_them_is_told_so(side):
    class Moving(lstm.LSTM):
        def encode(self, source, source_mask):
            return super().encode(source.flip(1), source_mask)

        def decode(self, target_in, memory):
            return super().decode(target_in.roll(1, 1), memory)

    model, words = Moving(lstm.Config().tiny(), 50), random_words(6, 50)
    with pytest.raises(
        ValueError, match=f"^the {side}'s words are embedded nowhere as they are given, .*ids$"
    ):
        model_signal(model, words, words, side=side)


class OneSequence(nn.Module):
    """A recurrence with a state of its own for one sequence, as a layer (1, n, D) may have it."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(WIDTH, WIDTH)

    def forward(self, x):
        state, outputs = torch.zeros(1, WIDTH), []
        for position in x.unbind(1):
            state = self.cell(position, state)
            outputs.append(state)
        return torch.stack(outputs, 1)


class Batches(OneSequence):
    def forward(self, x):
        return torch.cat([super(Batches, self).forward(one) for one in x.split(1)])


def test_a_layer_of_one_sequence_has_the_signal_of_its_batches():
    torch.manual_seed(0)
    layer, batches = OneSequence(), Batches()
    batches.load_state_dict(layer.state_dict())
    found, expected = layer_signal(layer, 6, WIDTH), layer_signal(batches, 6, WIDTH)
    np.testing.assert_allclose(found[0].norms, expected[0].norms)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: mixed(x.cumsum(1)), id="of batches"),
        pytest.param(lambda x: mixed(x[0].cumsum(0))[None], id="of the first of a batch"),
        pytest.param(lambda x: mixed(x.squeeze(0).cumsum(0)).view(x.shape), id="of one sequence"),
    ],
)
def test_any_callable_has_a_signal(function):
    (profile,) = layer_signal(function, 16, 4)
    np.testing.assert_allclose(profile.mean, np.sqrt(4), rtol=0.2)


def test_a_function_that_needs_float32_is_told_what_to_give():
    layer = Recurrent(WIDTH)
    with pytest.raises(ValueError, match=r"fails on \(1, 4, 16\) in float64, in which signals are measured"):
        layer_signal(lambda x: layer(x), 4, WIDTH)


def test_the_layer_that_is_measured_stays_as_it_was():
    layer = Recurrent(WIDTH)
    assert isinstance(layer, nn.Module)
    layer_signal(layer, 5, WIDTH)
    assert layer.recurrence.weight_hh_l0.dtype == torch.float32 and layer.recurrence.fused
    assert GROUPS * BATCH == 128
