"""Counted operations: every contraction, fused or not, and nothing that is not known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.measure.counting import operations_of
from benchmark.measure.graph import CannotTrace
from models import convs2s, lstm, transformer
from models.layers.table1 import (
    Convolution,
    Recurrent,
    RestrictedSelfAttention,
    SelfAttention,
    SeparableConvolution,
)

WIDTH = 16
LAYERS = {
    "self-attention": SelfAttention(WIDTH, 2),
    "restricted": RestrictedSelfAttention(WIDTH, 8, 2),
    "recurrent": Recurrent(WIDTH),
    "convolution": Convolution(WIDTH, 3),
    "dilated": Convolution(WIDTH, 3, dilation=3),
    "separable": SeparableConvolution(WIDTH, 5),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("length", [1, 7, 64, 300])
def test_every_layer_counts_as_its_closed_form_on_the_kernels_that_run(layer, length):
    """At 300 positions attention is PyTorch's fused kernel, and the LSTM is oneDNN's at every length."""
    x = torch.randn(2, length, WIDTH)
    assert operations_of(lambda: layer(x)) == 2 * layer.theory(length).operations


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_backwards_each_product_is_two(layer):
    x = torch.randn(2, 300, WIDTH, requires_grad=True)
    y = layer(x)
    forward = operations_of(lambda: layer(x))
    backward = operations_of(lambda: y.sum().backward())
    # Fused attention computes the scores once more.
    again = 300 * 300 * WIDTH * 2 * 2 if isinstance(layer, SelfAttention) else 0
    assert backward == 2 * forward + again


def test_a_product_that_is_added_in_place_counts_as_one_that_is_not():
    a, b, made = torch.randn(3, 4), torch.randn(4, 5), torch.zeros(3, 5)
    assert (
        operations_of(lambda: made.addmm_(a, b)) == operations_of(lambda: made.addmm(a, b)) == 2 * 3 * 4 * 5
    )


def test_what_writes_in_place_and_is_not_known_is_no_view():
    batches, made = (torch.randn(2, 3, 4), torch.randn(2, 4, 5)), torch.zeros(3, 5)
    with pytest.raises(CannotTrace, match="aten::addbmm_ may multiply"):
        operations_of(lambda: made.addbmm_(*batches))


def test_a_fused_lstm_is_as_much_as_one_of_cells():
    layer, x = Recurrent(WIDTH), torch.randn(3, 9, WIDTH)
    fused = operations_of(lambda: layer(x))
    layer.recurrence.fused = False
    assert operations_of(lambda: layer(x)) == fused == 3 * 16 * 9 * WIDTH**2


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_whole_models_count_as_their_closed_forms(module):
    config = module.Config().tiny()
    model = config.build(50).eval()
    source, target = torch.full((1, 9), 5), torch.full((1, 7), 5)
    mask = torch.ones(1, 9, dtype=torch.bool)

    def run():
        return model.logits(model.decode(target, model.encode(source, mask)))

    assert operations_of(run) == config.theory(50, 9, 7).operations


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_the_parts_of_a_model_count_as_much_as_the_whole(module):
    model = module.Config().tiny().build(50).eval()
    source, target = torch.full((2, 9), 5), torch.full((2, 7), 5)
    mask = torch.ones(2, 9, dtype=torch.bool)
    memory = model.encode(source, mask)
    hidden = model.decode(target, memory)
    parts = [
        operations_of(lambda: model.encode(source, mask)),
        operations_of(lambda: model.decode(target, memory)),
        operations_of(lambda: model.logits(hidden)),
    ]
    assert min(parts) > 0
    whole = operations_of(lambda: model.logits(model.decode(target, model.encode(source, mask))))
    assert sum(parts) == whole


@pytest.mark.parametrize(
    ("run", "operations"),
    [
        (lambda: torch.randn(3, 4) @ torch.randn(4), 24),
        (lambda: torch.addmv(torch.randn(3), torch.randn(3, 4), torch.randn(4)), 24),
        (lambda: torch.randn(4) @ torch.randn(4), 8),
        (lambda: torch.einsum("bij,bjk->bik", torch.randn(2, 3, 4), torch.randn(2, 4, 5)), 2 * 2 * 3 * 4 * 5),
        (lambda: F.linear(torch.randn(2, 3, 4), torch.randn(5, 4)), 2 * 6 * 20),
        (lambda: nn.Conv1d(4, 6, 3, groups=2)(torch.randn(2, 4, 9)), 2 * 2 * 7 * 6 * 2 * 3),
        (lambda: torch.randn(5, 5).softmax(-1).sum(), 0),
        (lambda: torch.randn(5, 5).sort(-1), 0),
    ],
)
def test_contractions_of_every_form(run, operations):
    assert operations_of(run) == operations


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda: torch.fft.rfft(torch.randn(8)), "_fft_r2c"),
        (lambda: torch.linalg.inv(torch.eye(3)), "linalg_inv_ex"),
        (lambda: torch.cdist(torch.randn(3, 4), torch.randn(3, 4)), "_cdist_forward"),
    ],
)
def test_what_may_hide_a_contraction_is_refused(run, name):
    with pytest.raises(CannotTrace, match=f"aten::{name} may multiply matrices"):
        operations_of(run)
