"""Equal outputs and equal gradients: how every reference is compared."""

import torch


def assert_equal_with_gradients(actual, expected, leaves):
    """Float64 values are equal, and so are gradients at all `leaves` of a random linear function of them."""
    assert actual.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    got, wanted = (
        torch.autograd.grad((values * weights).sum(), leaves, allow_unused=True, materialize_grads=True)
        for values in (actual, expected)
    )
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def sentence_lengths(longest):
    """Three lengths, the longest among them."""
    return [longest, max(1, longest // 2), 1]
