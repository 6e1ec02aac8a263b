"""Where a layer mixes positions: the one thing about it that cannot be seen from its operations."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary


def mixed(x: Tensor) -> Tensor:
    """`x` itself, declared as one step of Table 1 (Vaswani et al. 2017, section 4): it has just been made of
    other positions, by one call of attention, of a convolution or of a recurrent cell.

    Costs nothing; the measurement of path lengths counts these calls. While it runs, a copy comes out:
    go on with that, and write to it in place only where `x` is gone.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(mixed, (x,), x)
    return x
