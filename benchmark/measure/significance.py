"""What may be said of few seeds: their mean, their spread, and the interval that the mean lies in."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A quantity over independent seeds."""

    number_of_seeds: int
    mean: float
    standard_deviation: float | None
    """Of the sample (n - 1); None with one seed."""
    half_width: float | None
    """The interval is mean +- this; None with one seed, of which nothing follows."""


def summarise(values: Sequence[float], *, confidence: float = 0.95) -> Summary:
    """Mean, standard deviation and Student's t-interval of at least one value."""
    assert values and 0 < confidence < 1
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Summary(number_of_seeds=1, mean=mean, standard_deviation=None, half_width=None)
    from scipy.special import stdtrit  # scipy.stats has the same and takes a second longer to import

    deviation = statistics.stdev(values)
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return Summary(
        number_of_seeds=len(values),
        mean=mean,
        standard_deviation=deviation,
        half_width=quantile * deviation / math.sqrt(len(values)),
    )
