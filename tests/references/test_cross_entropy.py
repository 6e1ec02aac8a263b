"""The fused projection and cross-entropy equal the definition, word by word, and so do their gradients."""

import pytest
import torch

from models.layers.embedding import Words, cross_entropy, cross_entropy_without_waiting
from tests.references.gradients import assert_equal_with_gradients


def naive_cross_entropy(hidden, weight, target, smoothing):
    """-sum_v q(v) log p(v), where q is (1 - e) on the word plus e / V on every word (Szegedy et al. 2016)."""
    total = torch.zeros((), dtype=torch.float64)
    for state, word in zip(hidden, target.tolist(), strict=True):
        exponentials = [torch.exp(state @ row) for row in weight]
        for other, exponential in enumerate(exponentials):
            share = smoothing / len(weight) + (1 - smoothing) * (other == word)
            total = total - share * torch.log(exponential / sum(exponentials))
    return total


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("length", [0, 1, 2, 7, 63])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_cross_entropy_equals_the_definition(length, smoothing, chunk):
    hidden = torch.randn(length, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 6, (length,))
    got = cross_entropy(hidden, weight, target, smoothing, chunk)
    expected = naive_cross_entropy(hidden, weight, target, smoothing)
    if length == 0:
        expected = expected + 0.0 * (hidden.sum() + weight.sum())
    assert_equal_with_gradients(got, expected, [hidden, weight])


def test_no_gradient_is_made_where_none_is_asked_for():
    hidden, weight = torch.randn(3, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    target = torch.tensor([4, 0, 5])
    with torch.no_grad():
        got = cross_entropy(hidden, weight, target, 0.1)
    torch.testing.assert_close(got, naive_cross_entropy(hidden, weight, target, 0.1))


@pytest.mark.parametrize("tied", [False, True])
def test_padding_counts_nothing_and_gets_no_gradient(tied):
    words = Words(6, 5, tied=tied, dropout=0.0).double()
    hidden = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    target_out = torch.tensor([[4, 5, 3], [3, 0, 0]])
    real = torch.stack([hidden[0, 0], hidden[0, 1], hidden[0, 2], hidden[1, 0]])
    expected = naive_cross_entropy(real, words.output, torch.tensor([4, 5, 3, 3]), 0.1)
    assert_equal_with_gradients(
        words.cross_entropy(hidden, target_out, 0.1), expected, [hidden, words.output]
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_accelerator_that_does_not_wait_comes_to_the_same(smoothing):
    hidden = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([4, 0, 5, 3, 0, 0, 1])
    real = [0, 2, 3, 6]
    expected = naive_cross_entropy(hidden[real], weight, target[real], smoothing)
    got = cross_entropy_without_waiting(hidden, weight, target, smoothing)
    assert_equal_with_gradients(got, expected, [hidden, weight])


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[1000.0, 0.0]], requires_grad=True)
    weight = torch.eye(2, requires_grad=True)
    loss = cross_entropy(hidden, weight, torch.tensor([1]), 0.0)
    assert loss.item() == 1000.0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, [hidden, weight]))


def test_under_autocast_chunks_are_summed_in_the_precision_of_the_weights():
    """512 equal chunks: a sum in bfloat16 stops growing at 256 times a chunk's gradient."""
    hidden, weight = torch.randn(1, 4).expand(512, 4), torch.randn(6, 4, requires_grad=True)
    target = torch.full((512,), 3)
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(hidden, weight, target, 0.0, chunk=1)
    (got,) = torch.autograd.grad(loss, weight)
    exact = weight.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(naive_cross_entropy(hidden[:1].double(), exact, target[:1], 0.0), exact)
    torch.testing.assert_close(got.double(), 512 * expected, rtol=0.03, atol=0.03 * 512)
