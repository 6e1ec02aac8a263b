"""What the recorder of dependencies gives, against known values and an independent method.

The independent method (`through_gradients`) has no rules: each gradient is multiplied by z where a cost of
one is due, so that it is a polynomial in z whose lowest power is the length of the shortest way.
"""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from benchmark.measure.graph import CannotTrace, Recorder
from benchmark.measure.span import layer_paths, layer_span
from models.layers.mixing import mixed
from models.layers.table1 import Convolution, SeparableConvolution

WIDTH = 16


class Attention(nn.Module):
    """Self-attention of two heads, in one kernel or written out."""

    def __init__(self, *, explicit=False, mask="none"):
        super().__init__()
        self.explicit, self.mask = explicit, mask
        self.inner, self.outer = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        batch, length, _ = x.shape
        query, key, value = self.inner(x).view(batch, length, 3, 2, -1).permute(2, 0, 3, 1, 4)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        if not self.explicit:
            y = F.scaled_dot_product_attention(query, key, value, is_causal=self.mask == "causal")
        else:
            scores = query @ key.transpose(-1, -2) * 0.3
            if self.mask == "fill":
                scores = scores.masked_fill(future, -math.inf)
            elif self.mask in ("add", "large"):
                value_there = -math.inf if self.mask == "add" else -1e9
                scores = scores + torch.zeros(length, length, dtype=x.dtype).masked_fill(future, value_there)
            y = scores.softmax(-1) @ value
        return self.outer(mixed(y.transpose(1, 2).flatten(2)))


class Cells(nn.Module):
    """A recurrent cell called at one position after another."""

    def __init__(self, cell, layers=1):
        super().__init__()
        self.cells = nn.ModuleList(cell(WIDTH, WIDTH) for _ in range(layers))

    def forward(self, x):
        for cell in self.cells:
            hidden = memory = x.new_zeros(x.shape[0], WIDTH)
            outputs = []
            for position in range(x.shape[1]):
                if isinstance(cell, nn.LSTMCell):
                    hidden, memory = map(mixed, cell(x[:, position], (hidden, memory)))
                else:
                    hidden = mixed(cell(x[:, position], hidden))
                outputs.append(hidden)
            x = torch.stack(outputs, 1)
        return x


class Convolutions(nn.Module):
    def __init__(self, kernel, layers, *, dilated=False, causal=True):
        super().__init__()
        self.causal, self.kernel = causal, kernel
        self.dilations = [kernel**layer if dilated else 1 for layer in range(layers)]
        self.layers = nn.ModuleList(nn.Conv1d(WIDTH, WIDTH, kernel, dilation=one) for one in self.dilations)

    def forward(self, x):
        x = x.transpose(1, 2)
        for layer, dilation in zip(self.layers, self.dilations, strict=True):
            wide = (self.kernel - 1) * dilation
            x = mixed(layer(F.pad(x, (wide, 0) if self.causal else (wide // 2, wide - wide // 2))))
        return x.transpose(1, 2)


def recorded(layer, length, *, sources=None):
    torch.manual_seed(0)
    x = torch.randn(1, length, WIDTH)
    sources = range(length) if sources is None else sources
    with torch.no_grad(), Recorder(sources=len(sources)) as recorder:
        for number, position in enumerate(sources):
            recorder.source(number, x[:, position])
        y = layer(x)
    return recorder, recorder.reached(y), y


def pairs(costs):
    """(sources, positions): the least over features."""
    return costs[:, 0].amin(-1)


def longest(costs):
    found = pairs(costs)
    return int(found[found < math.inf].max())


def unreached(reached):
    return int((pairs(reached.hops) == math.inf).sum())


def log2(count):
    return math.ceil(math.log2(count))


KNOWN = {
    # storage depth, depth, ideal depth, steps, hops
    "attention": (Attention(), lambda n: (3, 3, 21 + 3 * log2(n), 3, 1)),
    "causal attention": (Attention(mask="causal"), lambda n: (3, 3, 21 + 3 * log2(n), 3, 1)),
    "written out": (Attention(explicit=True, mask="fill"), lambda n: (7, 7, 22 + 3 * log2(n), 3, 1)),
    "LSTM": (Cells(nn.LSTMCell), lambda n: (10 * n, 7 * n, 12 * n, 2 * n + 5, n)),
    "GRU": (Cells(nn.GRUCell), lambda n: (11 * n, 9 * n, 14 * n, 3 * n + 1, n)),
    "RNN": (Cells(nn.RNNCell), lambda n: (3 * n, 3 * n, 8 * n, 3 * n, n)),
    "two LSTMs": (Cells(nn.LSTMCell, 2), lambda n: (20 * n, 7 * n + 7, 12 * n + 12, 2 * n + 9, n + 1)),
}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("length", [16, 32])
def test_known_depths_and_paths(name, length):
    layer, expected = KNOWN[name]
    recorder, reached, y = recorded(layer, length)
    found = (
        recorder.chain(y), int(reached.depth.max()), int(reached.ideal.max()),
        longest(reached.steps), longest(reached.hops),
    )  # fmt: skip
    assert found == expected(length)
    assert unreached(reached) == (0 if name == "attention" else length * (length - 1) / 2)


def test_the_work_of_a_recurrence_is_that_of_its_cells():
    recorder, _, _ = recorded(Cells(nn.LSTMCell), 16)
    assert recorder.work == 12 * 16 - 1, "the first cell's product with a state of zeros does not count"


@pytest.mark.parametrize(("kernel", "power"), [*((3, power) for power in range(2, 8)), (5, 2), (2, 5)])
def test_dilated_convolutions_connect_in_the_logarithm(kernel, power):
    length = kernel**power
    _, reached, _ = recorded(Convolutions(kernel, power, dilated=True), length, sources=[0, length // 2])
    assert longest(reached.hops) == power
    assert math.isfinite(pairs(reached.hops)[0, -1])
    _, shallower, _ = recorded(Convolutions(kernel, power - 1, dilated=True), length, sources=[0])
    assert pairs(shallower.hops)[0, -1] == math.inf


@pytest.mark.parametrize(("kernel", "causal", "depth"), [(3, True, 8), (5, True, 4), (3, False, 15)])
def test_contiguous_convolutions_connect_step_by_step(kernel, causal, depth):
    _, reached, _ = recorded(Convolutions(kernel, depth, causal=causal), 16)
    assert longest(reached.hops) == depth
    assert unreached(reached) == (120 if causal else 0)
    _, shallower, _ = recorded(Convolutions(kernel, depth - 1, causal=causal), 16)
    assert unreached(shallower) > (120 if causal else 0)


def test_thirteen_layers_of_three_see_twenty_seven_words():
    _, reached, _ = recorded(Convolutions(3, 13, causal=False), 64, sources=[32])
    assert int((pairs(reached.hops)[0] < math.inf).sum()) == 27


@pytest.mark.parametrize(("mask", "expected"), [("fill", 120), ("add", 120), ("large", 0)])
def test_a_mask_of_large_numbers_is_none(mask, expected):
    _, reached, _ = recorded(Attention(explicit=True, mask=mask), 16)
    assert unreached(reached) == expected


class Average(nn.Module):
    """An exponential moving average: one function, three programs."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        length, keep = x.shape[1], 0.9
        if self.form == "loop":
            state, outputs = x[:, 0], [x[:, 0]]
            for position in range(1, length):
                state = state * keep + x[:, position]
                outputs.append(state)
            return torch.stack(outputs, 1)
        powers = keep ** torch.arange(length, dtype=x.dtype)[:, None]
        if self.form == "sum":
            return torch.cumsum(x / powers, 1) * powers
        distance = torch.arange(length)[:, None] - torch.arange(length)
        return torch.where(distance >= 0, keep ** distance.clamp(min=0), 0.0) @ x


@pytest.mark.parametrize(("form", "steps"), [("loop", 30), ("sum", 3), ("product", 1)])
def test_depth_and_path_belong_to_the_program_and_not_to_the_function(form, steps):
    _, reached, y = recorded(Average(form), 16)
    assert (longest(reached.steps), int(reached.depth.max())) == (steps, steps)
    assert unreached(reached) == 120
    torch.testing.assert_close(y, recorded(Average("loop"), 16)[2])


def test_a_convolution_that_leaks_is_seen():
    class Leaking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(WIDTH, WIDTH, 3)

        def forward(self, x):
            return self.layer(F.pad(x.transpose(1, 2), (1, 1))).transpose(1, 2)

    _, reached, _ = recorded(Leaking(), 16)
    found = pairs(reached.steps).isfinite()
    assert not torch.equal(found, found.triu())
    masked = Leaking()
    with torch.no_grad():
        masked.layer.weight[:, :, 2] = 0
    _, reached, _ = recorded(masked, 16)
    found = pairs(reached.steps).isfinite()
    assert torch.equal(found, found.triu()), "a weight of zero lets nothing through"


def _windows(x):
    padded = F.pad(x, (0, 0, 2, 0))
    return sum(
        mixed(padded[:, first : first + x.shape[1]]) * weight for first, weight in enumerate((0.2, 0.3, 0.5))
    )


def _shifted(x):
    return torch.cat((torch.zeros_like(x[:, :1]), mixed(x[:, :-1])), 1) * 0.7 + x * 0.3


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        pytest.param(_windows, lambda back: ((back >= 0) & (back <= 2), torch.ones(())), id="windows"),
        pytest.param(
            _shifted, lambda back: ((back == 0) | (back == 1), (back == 1).float()), id="a shift of tokens"
        ),
        pytest.param(
            lambda x: mixed(F.pad(x, (0, 0, 2, 0)).unfold(1, 3, 1)).sum(-1),
            lambda back: ((back >= 0) & (back <= 2), torch.ones(())),
            id="overlapping views",
        ),
        pytest.param(
            lambda x: x + mixed(x.mean(1, keepdim=True).expand_as(x)),
            lambda back: (back < math.inf, (back != 0).float()),
            id="an expanded mean",
        ),
    ],
)
def test_a_hop_is_on_what_is_marked_and_not_on_what_shares_its_storage(layer, expected):
    _, reached, _ = recorded(layer, 7)
    back = torch.arange(7) - torch.arange(7)[:, None]
    seen, hops = expected(back)
    assert torch.equal(pairs(reached.hops), torch.where(seen, hops, math.inf))


def test_a_copy_is_not_written_to_in_the_place_of_its_original():
    def kept(x):
        y = x * 2
        mixed(y[:, 1:]).mul_(3)
        return y

    with pytest.raises(CannotTrace, match=r"aten::mul_ writes to what mixed\(\) has given, which is a copy"):
        recorded(kept, 4)
    _, reached, y = recorded(lambda x: mixed(x * 2).mul_(3), 4)
    assert longest(reached.hops) == 1 and longest(reached.steps) == 2
    torch.manual_seed(0)
    torch.testing.assert_close(y, torch.randn(1, 4, WIDTH) * 6)
    with Recorder(sources=0) as recorder:
        x = torch.randn(1, 4, WIDTH)
        recorder.source(0, x)
        assert mixed(x) is x, "no hops are recorded, so that nothing is copied"


def test_a_mark_costs_nothing_where_nothing_is_recorded():
    x = torch.randn(2, 3)
    assert mixed(x) is x


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, z):
        ctx.z = z
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.z, None


class _Marks(TorchFunctionMode):
    def __init__(self, z):
        super().__init__()
        self.z = z

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _Scaled.apply(args[0], self.z) if func is mixed else func(*args, **(kwargs or {}))


_FREE = (
    *("AccumulateGrad", "View", "Transpose", "Permute", "Cat", "Stack", "ConstantPadNd", "Slice", "Select"),
    *("Unbind", "Clone", "Split", "Expand", "UnsafeView", "ReshapeAlias", "TBackward", "Squeeze"),
    *("Unsqueeze", "UnsafeSplit", "_Scaled", "Copy", "Unfold", "Flip", "Alias"),
)


def through_gradients(layer, length, output, unit, bits):
    """Of all input positions to one output position, with z = 2^-bits."""
    layer = layer.double()

    def gradient(z):
        torch.manual_seed(1)
        x = torch.randn(1, length, WIDTH, dtype=torch.float64, requires_grad=True)
        with _Marks(z if unit == "hops" else 1.0):
            y = layer(x)
        cotangent = torch.randn(WIDTH, dtype=torch.float64)
        if unit == "steps":
            seen, todo = set(), [y.grad_fn]
            while todo:
                node = todo.pop()
                if node is None or node in seen:
                    continue
                seen.add(node)
                todo += [one for one, _ in node.next_functions]
                if not node.name().startswith(_FREE):
                    node.register_prehook(lambda grads: tuple(None if g is None else g * z for g in grads))
        (found,) = torch.autograd.grad((y[0, output] * cotangent).sum(), x)
        return found[0].abs().amax(-1)

    z = 2.0**-bits
    value = torch.log2(gradient(z) / gradient(z / 2))
    return torch.where(value.isnan(), torch.inf, value)


@pytest.mark.parametrize("unit", ["hops", "steps"])
@pytest.mark.parametrize(
    "layer",
    [
        Attention(), Attention(mask="causal"), Attention(explicit=True, mask="fill"), Cells(nn.LSTMCell),
        Cells(nn.GRUCell), Cells(nn.RNNCell), Cells(nn.LSTMCell, 2), Convolutions(3, 4), Convolutions(5, 2),
        Convolutions(3, 3, dilated=True), Convolutions(3, 5, causal=False),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_every_path_is_that_of_an_independent_method(layer, unit):
    check_by_gradients(layer, 12, unit, bits=20)


def check_by_gradients(layer, length, unit, *, bits):
    """Whether every path of every pair of positions is as long as by the other method."""
    _, reached, _ = recorded(layer.float(), length)
    found = pairs(getattr(reached, unit))
    for output in range(length):
        expected = through_gradients(layer, length, output, unit, bits=bits)
        finite = expected.isfinite()
        assert torch.equal(found[:, output].isfinite(), finite)
        assert bool(((expected - expected.round()).abs()[finite] < 0.1).all()), "resolved"
        assert torch.equal(found[finite, output], expected[finite].round().float())
    layer.float()


@pytest.mark.parametrize(
    ("leaves", "text"),
    [
        (
            lambda x: x * x.sum().item(),
            r"item\(\) takes a value that depends on the input out of the tensors",
        ),
        (lambda x: x * x.tolist()[0][0][0], r"tolist\(\) takes"),
        (lambda x: x * float(x.sum()), "takes a value that depends on the input"),
        (lambda x: x * int(x.sum()), r"int\(\) takes a value that depends on the input"),
        (lambda x: x + torch.from_numpy(np.asarray(x)), "numpy's conversion takes a value"),
        (lambda x: x + np.multiply(x, 2), "numpy's conversion takes a value"),
        (lambda x: (x, -x)[(x.sum() > 0).long()], "its use as an index in Python takes a value"),
        (lambda x: x[:, : (x.sum() > 0).long()], "aten::_local_scalar_dense depends on the input"),
        (lambda x: x if 1.0 in x else -x, "`in` takes a value that depends on the input"),
        (lambda x: x if x.sum() > 0 else -x, r"a decision in Python \(if, while, and\) takes"),
        (lambda x: torch.from_numpy(x.numpy()), r"numpy\(\) takes"),
        (lambda x: nn.LSTM(WIDTH, WIDTH, batch_first=True)(x)[0], "run the unfused form, in float64"),
        (lambda x: torch.cdist(x, x), "aten::_cdist_forward depends on the input in a way that is not known"),
        (lambda x: x.view(torch.int16) * 2, "aten::mul: a view in another type of another size"),
    ],
)
def test_what_cannot_be_followed_says_so(leaves, text):
    with pytest.raises(CannotTrace, match=text):
        recorded(leaves, 4)


def _fused_attention(x):
    heads = x.view(1, -1, 2, 8).transpose(1, 2)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(heads, heads, heads)


@pytest.mark.parametrize("use", [lambda y, log: y + log.sum(), lambda y, log: log, lambda y, log: log[0, :1]])
def test_an_output_that_no_rule_describes_is_no_independent_one(use):
    text = "output 1 of aten::_scaled_dot_product_flash_attention_for_cpu is used, and what it depends on"
    with pytest.raises(CannotTrace, match=text):
        recorded(lambda x: use(*_fused_attention(x)), 4)
    _, reached, _ = recorded(lambda x: _fused_attention(x)[0].transpose(1, 2).flatten(2), 4)
    assert unreached(reached) == 0, "the first output is known"


class Sorting(nn.Module):
    def forward(self, x):
        return x.topk(2).values


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("kind", [Sorting, Deciding])
def test_what_cannot_be_followed_says_where(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Linear(WIDTH, WIDTH), nn.Sequential(nn.Tanh(), kind())])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x))

    line = kind.forward.__code__.co_firstlineno + 1
    place = f"in blocks.1.1 \\({kind.__name__}\\), at {__file__}:{line}\\]$"
    with pytest.raises(CannotTrace, match=place):
        recorded(Model(), 4)
    with pytest.raises(CannotTrace, match=f"\\[in {kind.__name__}, at "):
        layer_paths(kind(), 4, WIDTH)


def test_the_parts_of_complex_numbers_are_apart_until_they_are_multiplied():
    def halves(x):
        first, second = x[:, :4], x[:, 4:]
        return torch.complex(first, second)

    def both(x):
        return torch.cat((halves(x).clone().real, torch.view_as_real(halves(x)).unbind(-1)[1]), 1)

    def turned(x):
        return torch.cat((halves(x).conj().imag, torch.view_as_real(halves(x) * 2j).unbind(-1)[1]), 1)

    _, reached, _ = recorded(both, 8)
    assert torch.equal(pairs(reached.steps).isfinite(), torch.eye(8, dtype=torch.bool))
    _, reached, _ = recorded(turned, 8)
    four, none = torch.eye(4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    expected = torch.cat((torch.cat((none, four), 1), torch.cat((four, four), 1)))
    assert torch.equal(pairs(reached.steps).isfinite(), expected)


def test_rotated_positions_stay_where_they_are():
    def rotated(x):
        """RoPE with complex numbers, as many implementations have it."""
        angles = torch.outer(torch.arange(x.shape[1]), torch.ones(WIDTH // 2))
        turns = torch.polar(torch.ones_like(angles), angles)
        pairwise = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(mixed(pairwise) * turns).flatten(2)

    _, reached, _ = recorded(rotated, 5)
    assert torch.equal(pairs(reached.hops).isfinite(), torch.eye(5, dtype=torch.bool))
    assert longest(reached.hops) == longest(reached.steps) == 1


def test_slices_buffers_and_views_need_no_rules():
    def layer(x):
        out = torch.empty_like(x)
        for position in range(x.shape[1]):
            out[:, position] = x[:, position] * 2
        out.transpose(1, 2).unsqueeze(0)[0].add_(1)
        return out.flip(1).roll(1, 1)[:, :, None].squeeze(2)

    recorder, reached, y = recorded(layer, 8)
    found = pairs(reached.steps)
    assert int(found.isfinite().sum()) == 8
    assert {int(value) for value in found[found.isfinite()]} == {2}
    assert int(reached.depth.max()) == 2 and recorder.chain(y) == 2


def _doubled_into_one_buffer(x, buffer):
    outputs = []
    for position in range(x.shape[1]):
        torch.mul(x[:, position], 2.0, out=buffer)
        outputs.append(buffer.clone())
    return torch.stack(outputs, 1)


def _joined_into_one_buffer(x, buffer):
    outputs = []
    for position in range(x.shape[1]):
        torch.cat((x[:, position, :8] * 2.0, x[:, position, 8:] * 2.0), -1, out=buffer)
        outputs.append(buffer.clone())
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("layer", [_doubled_into_one_buffer, _joined_into_one_buffer])
@pytest.mark.parametrize("elements", [0, WIDTH])
def test_a_tensor_that_out_names_is_written_and_not_read(layer, elements):
    _, reached, y = recorded(lambda x: layer(x, torch.empty(1 if elements else 0, elements)), 8)
    assert torch.equal(pairs(reached.steps), torch.eye(8).log().neg() + torch.eye(8))
    assert int(reached.depth.max()) == 1
    torch.manual_seed(0)
    torch.testing.assert_close(y, torch.randn(1, 8, WIDTH) * 2)


def test_a_mask_that_depends_on_the_input_lets_it_through():
    """Queries, keys and values are fixed here: what comes out depends on the mask alone."""
    torch.manual_seed(1)
    fixed = torch.randn(1, 1, 8, WIDTH)

    def masked(mask):
        return lambda x: F.scaled_dot_product_attention(fixed, fixed, fixed, attn_mask=mask(x)[:, None])[:, 0]

    by_key = [lambda x: x[:, None, :, 0].expand(1, 8, 8), lambda x: (x[:, None, :, 0] > 0).expand(1, 8, 8)]
    for mask in by_key:
        assert unreached(recorded(masked(mask), 8)[1]) == 0
    _, reached, _ = recorded(masked(lambda x: x[:, :, :1].expand(1, 8, 8)), 8)
    assert torch.equal(pairs(reached.steps).isfinite(), torch.eye(8, dtype=torch.bool))


def test_what_is_added_to_a_buffer_in_parts_makes_a_chain_of_storages_alone():
    def layer(x):
        out = torch.zeros_like(x)
        for position in range(x.shape[1]):
            out[:, position] += x[:, position] * 2
        return out

    recorder, reached, y = recorded(layer, 16)
    assert (recorder.chain(y), int(reached.depth.max())) == (17, 2)


@pytest.mark.parametrize(
    ("layer", "depth"),
    [
        (Attention(), lambda n: 4), (Attention(explicit=True, mask="fill"), lambda n: 10),
        (Convolutions(3, 8), lambda n: 15), (Cells(nn.LSTMCell), lambda n: 14 * n - 3),
        (Cells(nn.RNNCell), lambda n: 6 * n),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_a_backward_pass_has_its_exact_depth(layer, depth):
    """Of the sum of what comes out, whose gradient of ones waits for nothing."""
    for length in (16, 32):
        assert layer_span(layer, length, WIDTH, backward=True).kernel_depth == depth(length)


@pytest.mark.parametrize("layer", [Attention(), Cells(nn.LSTMCell), Convolutions(3, 4)])
def test_another_precision_and_a_checkpoint_are_no_operations(layer):
    expected, (_, paths, _) = layer_span(layer, 16, WIDTH), recorded(layer, 16)
    half = copy.deepcopy(layer).bfloat16()

    def cast(x):
        return half(x.bfloat16()).float()

    def automatic(x):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(x).float()

    def recomputed(x):
        return checkpoint(layer, x, use_reentrant=False)

    for form in (cast, automatic, recomputed):
        _, reached, _ = recorded(form, 16)
        assert torch.equal(pairs(reached.hops), pairs(paths.hops))
        assert torch.equal(pairs(reached.steps), pairs(paths.steps))
        assert layer_span(form, 16, WIDTH).kernel_depth == expected.kernel_depth


@pytest.mark.parametrize("layer", [Convolution(WIDTH, 1), SeparableConvolution(WIDTH, 1)])
def test_a_kernel_of_one_is_no_hop(layer):
    paths = layer_paths(layer, 4, WIDTH)
    assert torch.equal(paths.reached, torch.eye(4, dtype=torch.bool)) and paths.longest("hops") == 0


def test_recording_changes_no_value():
    layer = Cells(nn.LSTMCell)
    _, _, y = recorded(layer, 8)
    torch.manual_seed(0)
    x = torch.randn(1, 8, WIDTH)
    with torch.no_grad():
        assert torch.equal(layer(x), y)
