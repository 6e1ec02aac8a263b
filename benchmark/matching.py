"""What a comparison holds equal, and how: a width for `parameters`, a number of steps for the other two.

    parameters  of the body, without matrices that have a row for each word: the width moves
    flops       operations of all training steps together: the number of steps moves
    seconds     of training on the device where the study is made: the number of steps moves

Each is a comparison of its own, and the first model of the study is what the others are matched to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from benchmark.config import UserError
from benchmark.request import TOLERANCE
from models import ModelConfig

WIDTHS = range(1, 8193)
_ALIGNMENTS = (32, 16, 8, 4, 2, 1)
"""Widths that are multiples of these run at full speed on most devices: the first that will do is taken."""


def body_parameters(config: ModelConfig, name: str) -> int:
    """By the model's closed form; UserError where it has none."""
    try:
        return config.theory(0, 1, 1).body_parameters
    except NotImplementedError:
        raise UserError(f"match: {name} has no theory(), so its parameters cannot be matched") from None
    except Exception as error:  # of the user's code, which may do anything
        raise UserError(f"match: theory() of {name} raised {type(error).__name__}: {error}") from None


def at_equal_parameters(config: ModelConfig, wanted: int, name: str) -> ModelConfig:
    """The config with as many body parameters as `wanted`, within `TOLERANCE`.

    As it is where it has that many already, else with the width, among those that will do, that is a multiple
    of the largest power of two, and then the closest.

    Raises:
        UserError: no width will do; the closest is named.
    """
    if _off(body_parameters(config, name), wanted) <= TOLERANCE:
        return config
    fields: dict[str, Any] = config.model_dump()
    if not isinstance(fields.get("width"), int):
        raise UserError(f"match: {name} has no field width that could be moved to match its parameters")
    found: list[tuple[float, int, ModelConfig]] = []
    for width in WIDTHS:
        try:
            one = type(config).model_validate({**fields, "width": width})
        except ValidationError:  # heads that do not divide it
            continue
        count = body_parameters(one, name)
        found.append((_off(count, wanted), width, one))
        if count > 2 * wanted:
            break
    if not found:
        raise UserError(f"match: {name}: no width between {WIDTHS.start} and {WIDTHS.stop - 1} is valid")
    for alignment in _ALIGNMENTS:
        fitting = [one for one in found if one[0] <= TOLERANCE and one[1] % alignment == 0]
        if fitting:
            return min(fitting, key=lambda one: one[:2])[2]
    off, width, one = min(found, key=lambda one: one[:2])
    raise UserError(
        f"match: {name} cannot have {wanted:,} parameters within {TOLERANCE:.0%}: width {width} comes "
        f"closest, with {body_parameters(one, name):,} ({off:.1%} off)"
    )


def _off(count: float, wanted: float) -> float:
    return abs(count - wanted) / wanted


def steps_of_seconds(wanted: float, seconds_per_step: float, name: str) -> int:
    """How many steps take `wanted` seconds, as nearly as whole steps can.

    Raises:
        UserError: they are too few to come within `TOLERANCE`.
    """
    steps = max(1, round(wanted / seconds_per_step))
    return _near_enough(steps, steps * seconds_per_step, wanted, "seconds", name)


def steps_of_operations(wanted: float, operations: Callable[[int], NDArray[np.float64]], name: str) -> int:
    """How many steps cost `wanted` operations, as nearly as whole steps can.

    `operations` gives the cost of each of the first N steps.

    Raises:
        UserError: they are too few to come within `TOLERANCE`.
    """
    steps = max(1, round(wanted / float(operations(1)[0])))
    while True:
        total = np.cumsum(operations(steps))
        if total[-1] >= wanted:
            break
        steps = round(steps * max(1.1, 1.05 * wanted / total[-1])) + 1
    last = int(np.searchsorted(total, wanted))
    if last > 0 and wanted - total[last - 1] < total[last] - wanted:
        last -= 1
    return _near_enough(last + 1, float(total[last]), wanted, "operations", name)


def _near_enough(steps: int, found: float, wanted: float, what: str, name: str) -> int:
    off = _off(found, wanted)
    if off > TOLERANCE:
        raise UserError(
            f"match: {name} cannot have equal {what} within {TOLERANCE:.0%}: {steps} steps come closest "
            f"({off:.1%} off); give the study a larger budget"
        )
    return steps
