"""Rules of dependence, one operation at a time, against the zeros of exact Jacobians.

Where a derivative is zero depends on the values (a ReLU, a maximum): what an element may depend on is what it
depends on at any of many random inputs. Backwards are followed from a gradient, which they are linear in.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.measure.graph import CannotTrace, Recorder
from benchmark.measure.span import layer_paths, layer_span

SHAPE = (1, 4, 3)
DRAWS = 32
INDEX = torch.tensor([2, 0, 2, 1])
PLACES = torch.tensor([[[0, 1, 3], [0, 0, 2], [1, 2, 2], [3, 2, 0]]])
SLOPES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def base():
    return torch.zeros(SHAPE, dtype=torch.float64)


def _halves(x):
    return torch.complex(x[:, :2], x[:, 2:])


WITH_BACKWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "leaky_relu": F.leaky_relu,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "silu": F.silu,
    "gelu": F.gelu,
    "logsigmoid": F.logsigmoid,
    "prelu": lambda x: F.prelu(x, SLOPES),
    "rrelu": F.rrelu,
    "hardshrink": F.hardshrink,
    "softshrink": F.softshrink,
    "cumprod": lambda x: x.cumprod(1),
    "cummax": lambda x: x.cummax(1).values,
    "cummin": lambda x: x.cummin(1).values,
    "max": lambda x: x.max(1).values,
    "min": lambda x: x.min(1, keepdim=True).values,
    "var_mean": lambda x: torch.cat(torch.var_mean(x, 1)),
    "std_mean": lambda x: torch.cat(torch.std_mean(x, 2)),
    "index_add": lambda x: (base() + x).index_add(1, INDEX, x[:, [3, 1, 2, 0]]),
    "index_copy": lambda x: (x * 2).index_copy(1, INDEX[:2], x[:, 2:]),
    "scatter": lambda x: (x * 2).scatter(1, PLACES, x),
    "scatter a value": lambda x: (x * 2).scatter(1, PLACES, 1.0),
    "scatter_add": lambda x: x.scatter_add(1, PLACES, x.flip(1)),
    "scatter_reduce": lambda x: (x * 2).scatter_reduce(1, PLACES, x.flip(1), "sum", include_self=False),
    "index_fill": lambda x: (x * 2).index_fill(1, INDEX[:2], x[0, 3, 0]),
    "index_put": lambda x: (x * 2).index_put((torch.tensor([0]), torch.tensor([1])), x[:, 0]),
    "index_put of one element": lambda x: (x * 2).index_put(tuple(torch.tensor([0, 1, 2])), x[0, 3, 0]),
    "index_put that adds": lambda x: x.index_put((torch.zeros(4).long(), INDEX), x[0], accumulate=True),
    "index": lambda x: x[:, [0, 2, 2]],
    "gather": lambda x: x.gather(1, PLACES),
    "rfft": lambda x: torch.fft.irfft(
        torch.fft.rfft(x, dim=1) * torch.tensor([1, 2, 3j])[:, None], n=4, dim=1
    ),
    "fft": lambda x: (
        torch.fft.ifft(torch.fft.fft(x, dim=1) * torch.tensor([1, 2, 3j, 5])[:, None], dim=1).real
    ),
    "fft over two dimensions": lambda x: torch.fft.fft2(x).abs(),
    "view_as_real": lambda x: torch.view_as_real(_halves(x)).flatten(2) * 2,
    "a complex product": lambda x: torch.view_as_real(_halves(x) * (2 + 1j)),
    "view_as_complex": lambda x: (
        torch.view_as_complex(x.mT.unflatten(2, (2, 2)).contiguous()).conj().imag * 2
    ),
}
FORWARD: dict[str, Callable[[Tensor], Tensor]] = {
    "batch norm in evaluation": lambda x: F.batch_norm(x, SLOPES, SLOPES),
    "scatter a part": lambda x: (
        (x * 2).scatter(1, PLACES[:, :2], 1.0) + x.scatter_add(1, PLACES[:, :2], x[:, 2:])
    ),
    "batch norm in training": lambda x: F.batch_norm(
        x.expand(2, 4, 3) * x[:, :, :1], None, None, training=True
    ),
    "batch norm by statistics": lambda x: F.batch_norm(x, base()[0, :, 0], SLOPES, training=True),
    "instance norm": F.instance_norm,
    "group norm": lambda x: F.group_norm(x, 2, SLOPES, SLOPES),
    "group norm of weights from the input": lambda x: F.group_norm(
        base().add(SLOPES[:, None]), 2, x[0, :, 0]
    ),
    "avg_pool1d": lambda x: F.avg_pool1d(x, 2, 1, 1),
    "avg_pool1d with steps": lambda x: F.avg_pool1d(x.mT, 2),
    "max_pool1d": lambda x: F.max_pool1d(x.mT, 2, 1),
    "max_pool1d with dilation": lambda x: F.max_pool1d(x.mT, 2, 1, dilation=2),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x.mT, 3),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x.mT, 3),
}


def inputs():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) * 2 for _ in range(DRAWS)]


def jacobian(function, x):
    """(outputs, inputs)"""
    found = torch.autograd.functional.jacobian(function, x)
    return found.reshape(-1, x.numel())


def dependent(function):
    return torch.stack([jacobian(function, x) != 0 for x in inputs()])


def reached_from_each(x, run):
    """(outputs, inputs) bool, of every element of `run(x)` and of x."""
    with Recorder(sources=x.numel()) as recorder:
        for number in range(x.numel()):
            recorder.source(number, x.view(-1)[number])
        y = run(x)
    return recorder.reached(y).steps.isfinite().flatten(1).T


@pytest.mark.parametrize("name", [*WITH_BACKWARD, *FORWARD])
def test_an_element_depends_on_what_its_jacobian_says(name):
    function = {**WITH_BACKWARD, **FORWARD}[name]
    with torch.no_grad():
        found = reached_from_each(inputs()[0], function)
    assert torch.equal(found, dependent(function).any(0))


@pytest.mark.parametrize("name", WITH_BACKWARD)
def test_a_gradient_goes_back_where_the_values_came_from(name):
    function = WITH_BACKWARD[name]
    x = inputs()[0].requires_grad_()
    every = dependent(function)

    def back(gradient):
        (found,) = torch.autograd.grad(function(x), x, gradient)
        return found

    found = reached_from_each(torch.randn_like(function(x)).contiguous(), back)
    assert bool(found[every[0].T].all()), "nothing is missing"
    assert not bool(found[~every.any(0).T].any()), "and nothing is there in addition"


@pytest.mark.parametrize("name", [*WITH_BACKWARD, *FORWARD])
def test_training_has_a_span(name):
    function = {**WITH_BACKWARD, **FORWARD}[name]

    def layer(x):
        return function(x.double())

    forward, both = (layer_span(layer, 4, 3, backward=backward) for backward in (False, True))
    assert both.kernel_depth >= forward.kernel_depth > 0 or name in ("index", "gather")


@pytest.mark.parametrize("function", [torch.sort, lambda x, dim: x.topk(2, dim), torch.median])
def test_what_is_ordered_by_its_values_is_refused_in_words(function):
    with pytest.raises(CannotTrace, match="puts values where their order says"):
        layer_paths(lambda x: function(x, 1)[0], 4, 3)


@pytest.mark.parametrize("function", [torch.scatter, torch.scatter_add])
def test_an_index_that_depends_on_the_input_may_point_anywhere(function):
    def layer(x):
        index = x[:, 1:2].argmax(2, keepdim=True)
        return function(x.new_zeros(1, 4, 1), 1, index, x[:, :1, :1])

    reached = layer_paths(layer, 4, 3).reached
    assert torch.equal(reached, torch.tensor([True, True, False, False])[:, None].expand(4, 4))
