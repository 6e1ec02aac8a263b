"""What may be said of few seeds: intervals, exact tests, and what a test with so many seeds cannot see.

Everything here is about *paired* seeds where two models are compared: seed s decides the same batches for
both, so that part of what it does to one it does to the other. Units are those of the values that are given.
Nothing is ever decided by the best of the seeds.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

EXACT_SEEDS = 20
"""Most pairs whose sign flips are all looked at; a million patterns take less than a second."""
SAMPLED_FLIPS = 100_000
"""Of more pairs than those, how many assignments of signs are drawn."""
LEVEL = 0.05
"""Two-sided level of every test, and one less the confidence of every interval."""
POWER = 0.8
"""Chance of being seen that a minimum detectable difference has."""
SIMULATED_SEEDS = 10
"""Up to so many pairs the power of sign flips is simulated; with more it is nearly that of a t-test."""
SIMULATED_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A quantity over independent seeds."""

    number_of_seeds: int
    mean: float
    standard_deviation: float | None
    """Of the sample (n - 1); None with one seed."""
    half_width: float | None
    """The interval is mean +- this; None with one seed, of which nothing follows."""


def summarise(values: Sequence[float], *, confidence: float = 1 - LEVEL) -> Summary:
    """Mean, standard deviation and Student's t-interval of at least one value."""
    assert values and 0 < confidence < 1
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Summary(number_of_seeds=1, mean=mean, standard_deviation=None, half_width=None)
    deviation = 0.0  # exactly, for equal values
    if min(values) < max(values):  # statistics.stdev adds fractions, which takes ten times as long
        deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1))
    return Summary(
        number_of_seeds=len(values),
        mean=mean,
        standard_deviation=deviation,
        half_width=_quantile(len(values) - 1, (1 + confidence) / 2) * deviation / math.sqrt(len(values)),
    )


def _quantile(degrees_of_freedom: int, probability: float) -> float:
    """Of Student's t."""
    from scipy.special import stdtrit  # scipy.stats has the same and takes a second longer to import

    return float(stdtrit(degrees_of_freedom, probability))


def sign_flip_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of Fisher's sign-flip test that paired differences are symmetric about 0.

    The share of all 2^n assignments of signs whose sum is at least as far from 0 as the one that was seen
    (Fisher 1935, The Design of Experiments, section 21; Dror et al. 2018). Exact for up to `EXACT_SEEDS`
    pairs; beyond, `SAMPLED_FLIPS` assignments are drawn, with a fixed seed, and the one that was seen counts
    as one of them, so that p errs upwards (Phipson and Smyth 2010).
    """
    import numpy as np

    count = len(differences)
    assert count > 0
    seen = abs(math.fsum(differences))
    # Sums of equal patterns differ by rounding, and those count as equal.
    tolerance = 1e-9 * max(1e-300, math.fsum(abs(difference) for difference in differences))
    if count > EXACT_SEEDS:
        random, values, as_far = np.random.default_rng(0), np.array(differences), 0
        for _ in range(10):  # a tenth at a time, for memory
            signs = 2.0 * random.integers(0, 2, size=(SAMPLED_FLIPS // 10, count), dtype=np.int8) - 1
            as_far += int(np.count_nonzero(np.abs(signs @ values) >= seen - tolerance))
        return (1 + as_far) / (1 + SAMPLED_FLIPS)
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate((sums + difference, sums - difference))
    return float(np.mean(np.abs(sums) >= seen - tolerance))


def smallest_sign_flip_p(number_of_seeds: int) -> float:
    """The p-value where all differences have one sign: no result of so many seeds gives a smaller one."""
    return 2.0 ** (1 - number_of_seeds)


def seeds_to_decide(family: int = 1, level: float = LEVEL) -> int:
    """The fewest paired seeds with which a sign-flip test can reach `level` after Holm's correction."""
    seeds = 1
    while smallest_sign_flip_p(seeds) * family > level:
        seeds += 1
    return seeds


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm 1979): each may be compared with the level of the whole family."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, kw_only=True)
class Share:
    """A probability estimated by a share of trials, with its exact interval (Clopper and Pearson 1934)."""

    value: float
    low: float
    high: float


def probability_of_more(first: Sequence[float], second: Sequence[float]) -> Share:
    """Probability that `first` exceeds `second` with a new seed (Bouthillier et al. 2021), a tie half.

    The interval is that of the wins rounded down, and of the wins rounded up, where ties leave a half.
    """
    count = len(first)
    wins = sum((a > b) + 0.5 * (a == b) for a, b in zip(first, second, strict=True))
    low, _ = share_interval(math.floor(wins), count)
    _, high = share_interval(math.ceil(wins), count)
    return Share(value=wins / count, low=low, high=high)


def share_interval(part: float, whole: float) -> tuple[float, float]:
    """The exact 95 % interval of a share of trials (Clopper and Pearson 1934)."""
    from scipy.special import betaincinv

    low = float(betaincinv(part, whole - part + 1, LEVEL / 2)) if part else 0.0
    high = float(betaincinv(part + 1, whole - part, 1 - LEVEL / 2)) if part < whole else 1.0
    return low, high


def minimum_detectable_difference(
    standard_deviation: float, number_of_seeds: int, *, family: int = 1
) -> float:
    """The true difference that the sign-flip test sees with probability `POWER`, at `LEVEL` after Holm.

    Of normal differences whose `standard_deviation` is given, as the clearest of a `family` of comparisons:
    its p has to be `LEVEL` / `family` at most. Infinite where no outcome of so many seeds decides anything.
    """
    if number_of_seeds < seeds_to_decide(family):
        return math.inf
    return standard_deviation * _detectable(number_of_seeds, family)


@functools.cache
def _detectable(seeds: int, family: int) -> float:
    """In standard deviations of the differences."""
    level = LEVEL / family
    if seeds > SIMULATED_SEEDS:
        from scipy.special import nctdtrinc

        # The noncentrality at which t exceeds its critical value with probability POWER.
        found = float(nctdtrinc(seeds - 1, 1 - POWER, _quantile(seeds - 1, 1 - level / 2)))
        return found / math.sqrt(seeds)
    import numpy as np

    # A pattern and its opposite have one absolute sum, so the first sign may stay; the first is all plus.
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=seeds)))[: 2 ** (seeds - 1)]
    draws = np.random.default_rng(0).normal(size=(SIMULATED_DRAWS, seeds))
    noise, shift = draws @ signs.T, signs.sum(1)

    def power(difference: float) -> float:
        sums = np.abs(noise + difference * shift)
        p = np.mean(sums >= sums[:, :1] * (1 - 1e-12), axis=1)
        return float(np.mean(p <= level))

    low, high = 0.0, 10.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def seeds_to_see(difference: float, standard_deviation: float, *, family: int = 1) -> int | None:
    """The fewest paired seeds whose minimum detectable difference is `difference` or less.

    None where a thousand would not do.
    """
    for seeds in range(seeds_to_decide(family), 1001):
        if minimum_detectable_difference(standard_deviation, seeds, family=family) <= abs(difference):
            return seeds
    return None


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """One model against another over the seeds that both have."""

    number_of_seeds: int
    mean_difference: float
    """First less second."""
    half_width: float | None
    """Of the t-interval of the differences; None with one seed."""
    p: float
    """Of the sign-flip test, as it is."""
    p_adjusted: float
    """After Holm's correction for the family; equal to `p` in a family of one."""
    family: int
    first_better: Share
    minimum_detectable_difference: float
    seeds_to_see: int | None
    """That a difference as large as this one would need; None where more than a thousand."""
    decidable: bool
    """Whether any outcome of so many seeds could reach `LEVEL`, beside the other pairs as they are."""

    @property
    def different(self) -> bool:
        """Whether the difference is significant at `LEVEL` in its family."""
        return self.decidable and self.p_adjusted <= LEVEL

    def words(self) -> str:
        """What the seeds allow to say."""
        if not self.decidable:
            needed = seeds_to_decide(self.family)
            return f"undecidable with {_seeds(self.number_of_seeds)} (needs {needed})"
        if self.different:
            return "first higher" if self.mean_difference > 0 else "second higher"
        return f"not distinguishable with {_seeds(self.number_of_seeds)}"


def _seeds(number: int) -> str:
    return f"{number} seed" if number == 1 else f"{number} seeds"


def compare_pairs(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[PairedComparison]:
    """Compare in a family: each entry holds the values of two models, seed by seed.

    A family is what is looked at together (the three pairs of three architectures, at one match and metric);
    p-values are adjusted for its size.
    """
    every = [[a - b for a, b in zip(first, second, strict=True)] for first, second in pairs]
    p_values = [sign_flip_p(differences) for differences in every]
    adjusted = holm(p_values)
    return [
        _comparison(
            first,
            second,
            every[at],
            p_values[at],
            adjusted[at],
            len(pairs),
            _could_differ(p_values, every, at),
        )
        for at, (first, second) in enumerate(pairs)
    ]


def _could_differ(p_values: Sequence[float], every: Sequence[Sequence[float]], at: int) -> bool:
    """Whether the clearest outcome of a pair's seeds would be significant, the other pairs being as they are.

    Pairs may have different numbers of seeds, where runs were lost.
    """
    clearest = list(p_values)
    clearest[at] = smallest_sign_flip_p(len(every[at]))
    return holm(clearest)[at] <= LEVEL


def _comparison(
    first: Sequence[float],
    second: Sequence[float],
    differences: Sequence[float],
    p: float,
    p_adjusted: float,
    family: int,
    decidable: bool,
) -> PairedComparison:
    summary = summarise(differences)
    deviation = summary.standard_deviation
    return PairedComparison(
        number_of_seeds=summary.number_of_seeds,
        mean_difference=summary.mean,
        half_width=summary.half_width,
        p=p,
        p_adjusted=p_adjusted,
        family=family,
        first_better=probability_of_more(first, second),
        minimum_detectable_difference=math.inf
        if deviation is None
        else minimum_detectable_difference(deviation, summary.number_of_seeds, family=family),
        seeds_to_see=None if not deviation else seeds_to_see(summary.mean, deviation, family=family),
        decidable=decidable,
    )
