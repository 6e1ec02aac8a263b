"""The one clock of the project, and comparisons of time that hold on a machine whose speed drifts."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.measure.significance import summarise

if TYPE_CHECKING:
    import torch


STEADY = 0.05
"""Drift over a whole series, as a share, that is not worth a word."""
LEAST_STEADY = 6
"""Values of which one can say that they are steady."""


class Clock:
    """Marks in the device's own order of work, and the seconds between two of them.

    On a CPU a mark is `time.perf_counter`, which does not jump with the wall clock. CUDA works behind the
    program's back, so there a mark is an event in its stream, and `seconds` waits until the device has passed
    it.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.name = "torch.cuda.Event" if self.on_cuda else "time.perf_counter"

    def mark(self) -> float | torch.cuda.Event:
        if not self.on_cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: float | torch.cuda.Event, end: float | torch.cuda.Event) -> float:
        """From `begin` to `end`, both from `mark`."""
        if isinstance(begin, float):
            assert isinstance(end, float)
            return end - begin
        assert not isinstance(end, float)
        end.synchronize()
        return begin.elapsed_time(end) / 1000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and the 95 % interval around it."""

    value: float
    low: float
    high: float


def interleaved(
    contestants: Mapping[str, Callable[[int], float]], *, rounds: int, warmup: int, seed: int
) -> dict[str, list[float]]:
    """Seconds of every contestant in every round; all take part in each round, in an order drawn anew.

    A contestant gets the number of the round, does its work for it and returns the seconds. Drift of the
    machine is then shared by all, and so cancels in ratios within rounds. The `warmup` rounds before round 0
    are not returned.
    """
    order = list(contestants)
    shuffle = random.Random(seed)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for number in range(-warmup, rounds):
        shuffle.shuffle(order)
        for name in order:
            taken = contestants[name](max(number, 0))
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Interval:
    """Geometric mean of the ratios within rounds, and its t-interval: on logarithms, so that it inverts."""
    logs = [math.log(a / b) for a, b in zip(numerators, denominators, strict=True)]
    summary = summarise(logs)
    half = summary.half_width if summary.half_width is not None else math.inf
    return Interval(
        value=math.exp(summary.mean), low=math.exp(summary.mean - half), high=math.exp(summary.mean + half)
    )


def drift(seconds: Sequence[float]) -> Interval:
    """How many times as long the last round took as the first, by a line through the logarithms of all.

    At least 3 rounds, in the order in which they were made.
    """
    from scipy.special import stdtrit

    count, logs = len(seconds), [math.log(one) for one in seconds]
    line = statistics.linear_regression(range(count), logs)
    residuals = [log - line.intercept - line.slope * number for number, log in enumerate(logs)]
    deviation = math.sqrt(sum(one * one for one in residuals) / (count - 2))
    # Of n equidistant rounds, the sum of squares around the middle is n (n^2 - 1) / 12.
    error = deviation / math.sqrt(count * (count**2 - 1) / 12)
    half = float(stdtrit(count - 2, 0.975)) * error
    value, low, high = (math.exp((count - 1) * (line.slope + one)) for one in (0, -half, half))
    return Interval(value=value, low=low, high=high)


def steady_from(seconds: Sequence[float]) -> int | None:
    """Where the steady part of a series begins: the first place, in its first half, from which on no drift of
    more than `STEADY` is certain. None where there is no such place: it never settled (Barrett et al. 2017).

    At least `LEAST_STEADY` values.
    """
    for first in range(len(seconds) - max(len(seconds) // 2, LEAST_STEADY) + 1):
        found = drift(seconds[first:])
        if found.low <= 1 + STEADY and found.high >= 1 / (1 + STEADY):
            return first
    return None


def median(values: Sequence[float]) -> Interval:
    """Median and a 95 % interval from order statistics, whatever the distribution (at least 6 values)."""
    ordered = sorted(values)
    count = len(ordered)
    # The largest rank r with P(Binomial(n, 1/2) < r) <= 2.5 %: values r and n + 1 - r enclose the median.
    below, rank = 0.0, 0
    while below + math.comb(count, rank) / 2**count <= 0.025:
        below += math.comb(count, rank) / 2**count
        rank += 1
    assert rank > 0, "too few values for an interval"
    return Interval(value=statistics.median(ordered), low=ordered[rank - 1], high=ordered[count - rank])
