"""Dropout drops as often as it says, by the seed alone, and its gradient is that of its mask."""

import math

import pytest
import torch

from models.layers.dropout import Dropout, dropout
from tests.references.gradients import assert_equal_with_gradients


def dropped_by_seed(seed, shape=(64, 63), probability=0.3):
    torch.manual_seed(seed)
    return dropout(torch.ones(shape, dtype=torch.float64), probability, True)


@pytest.mark.parametrize("length", [1, 2, 7, 63])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_values_and_gradients_are_those_of_the_mask(length, probability):
    torch.manual_seed(0)
    x = torch.randn(2, length, 5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    mask = dropout(torch.ones_like(x), probability, True).detach()
    torch.manual_seed(1)
    got = dropout(x, probability, True)
    assert_equal_with_gradients(got, x * mask, [x])


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_the_share_dropped_is_within_binomial_bounds(probability):
    count = 500_000
    got = dropped_by_seed(3, (count,), probability)
    share = float((got == 0).double().mean())
    assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / count) + 1 / 65536
    kept = got[got != 0]
    assert float(kept.min()) == float(kept.max()) == pytest.approx(1 / (1 - probability), rel=2e-3)


def test_the_scale_keeps_the_mean_exactly():
    # 0.1 is 6554 of 65536 levels: scale and chance of the rounded probability belong together.
    got = dropped_by_seed(0, (10_000,), 0.1)
    assert float(got.max()) == pytest.approx(65536 / (65536 - 6554), rel=1e-12)


def test_equal_seeds_give_equal_masks_and_others_do_not():
    assert torch.equal(dropped_by_seed(5), dropped_by_seed(5))
    assert not torch.equal(dropped_by_seed(5), dropped_by_seed(6))


def test_masks_of_one_seed_differ_from_call_to_call():
    torch.manual_seed(5)
    x = torch.ones(64, 63)
    assert not torch.equal(dropout(x, 0.3, True), dropout(x, 0.3, True))


def test_elements_are_dropped_independently_of_their_neighbours():
    kept = (dropped_by_seed(7, (100_000,), 0.5) != 0).double() - 0.5
    for lag in (1, 2, 3, 4, 5, 8, 64):
        # The mean of N products of two independent signs of 1/2 has a standard deviation of 1 / (4 sqrt(N)).
        assert abs(float((kept[lag:] * kept[:-lag]).mean())) < 4 * 0.25 / math.sqrt(len(kept) - lag)


def test_every_row_of_a_batch_has_a_mask_of_its_own():
    masks = dropped_by_seed(9, (50, 64)) == 0
    assert len({tuple(row) for row in masks.tolist()}) == 50


@pytest.mark.parametrize("shape", [(0,), (1,), (3,), (5, 1, 7)])
def test_any_shape_is_kept(shape):
    assert dropped_by_seed(0, shape).shape == shape


def test_it_does_nothing_outside_training_and_at_probability_zero():
    x = torch.randn(7)
    layer = Dropout(0.5)
    assert layer.eval()(x) is x
    assert Dropout(0.0)(x) is x
    assert not torch.equal(layer.train()(x), x)


def test_a_view_that_is_not_contiguous_is_dropped_element_by_element():
    torch.manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64).t().requires_grad_()
    torch.manual_seed(1)
    mask = dropout(torch.ones(5, 7, dtype=torch.float64), 0.5, True)
    torch.manual_seed(1)
    assert_equal_with_gradients(dropout(x, 0.5, True), x * mask, [x])
