"""How many digits a number keeps: as many as its spread supports, and never more than a reader can use."""

from __future__ import annotations

import math

DIGITS_OF_SPREAD = 2
DIGITS_WITHOUT_SPREAD = 3
MOST_DECIMALS = 6


def with_half_width(value: float, half_width: float) -> str:
    """`34.91 ± 0.52`: the half width at two digits, the value to the same decimal."""
    if not (math.isfinite(value) and math.isfinite(half_width)):
        return f"{without_spread(value)} ± {without_spread(half_width)}"
    # equal seeds have a spread of zero, which supports any number of digits
    decimals = 2 if half_width == 0 else _decimals(half_width, DIGITS_OF_SPREAD)
    return f"{_fixed(value, decimals)} ± {_fixed(half_width, decimals)}"


def with_interval(value: float, low: float, high: float) -> str:
    """`34.91 (34.39 to 35.43)`: all three to the decimal that half of the interval allows."""
    ends = (with_half_width(one, (high - low) / 2).partition(" ")[0] for one in (value, low, high))
    return "{} ({} to {})".format(*ends)


def mean_text(mean: float, half_width: float | None) -> str:
    """A mean and half its interval, to the digits that this allows; one seed has none."""
    return without_spread(mean) if half_width is None else with_half_width(mean, half_width)


def without_spread(value: float) -> str:
    """`34.9`, `2,510`, `0.00123`: three digits."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    return _fixed(value, _decimals(value, DIGITS_WITHOUT_SPREAD))


def count(value: float) -> str:
    """`12,345`: a count is exact; a median between two counts keeps its half."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def _decimals(value: float, digits: int) -> int:
    """Decimals that show `digits` digits of `value`; negative left of the point."""
    # through the printed form, so that 9.99 at two digits counts as 10
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    return min(digits - 1 - exponent, MOST_DECIMALS)


def _fixed(value: float, decimals: int) -> str:
    text = f"{round(value, decimals):,.{max(0, decimals)}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
