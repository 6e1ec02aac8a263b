"""Which differences between the rows of a table are significant, as far as seeds can tell.

Every two rows are compared over the seeds that both have. A family, within which p-values are adjusted, is
the pairs of one metric on one split. Nothing is chosen by its outcome: all pairs are in the table, those that
so few seeds cannot decide as well.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmark.measure.significance import (
    EXACT_SEEDS,
    LEVEL,
    SAMPLED_FLIPS,
    PairedComparison,
    compare_pairs,
    seeds_to_decide,
)
from benchmark.report.comparison import Cell, Group
from benchmark.report.heading import group_heading, plural
from benchmark.report.layout import NOT_MEASURED, Column, Table, metric_title
from benchmark.report.rounding import count, mean_text, without_spread
from tasks import VALIDATION

LARGEST_FAMILY = 45
"""Pairs of ten rows. More of them are a search, in which pairs are no question and no few seeds decide."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Two rows and the seeds that both have."""

    first: Cell
    second: Cell
    seeds: tuple[int, ...]
    comparison: PairedComparison | None
    """None without a common seed."""

    @property
    def words(self) -> str:
        """What the seeds allow to say, by name."""
        if self.comparison is None:
            return "no seed in common"
        words = self.comparison.words()
        higher = {"first higher": self.first, "second higher": self.second}
        return f"{row_name(higher[words])} higher" if words in higher else words


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """The pairs of one metric on one split."""

    split: str
    metric: str
    pairs: tuple[Pair, ...]


def row_name(cell: Cell) -> str:
    """A row's model and settings."""
    return f"{cell.model} {cell.label}".strip()


def score_name(split: str, metric: str) -> str:
    """A score as tables call it."""
    return f"{split} {metric_title(metric)}"


@functools.lru_cache(maxsize=16)
def families(group: Group) -> list[Family]:
    """All families of a group in the order of its scores and rows; none where `untested_because` says why.

    Test splits where there are any, else validation: settings are chosen on it, which makes it no test.
    """
    if untested_because(group):
        return []
    return [
        Family(
            split=split, metric=metric, pairs=_compared(group, _pairs(group, split, metric), split, metric)
        )
        for split, metric in _tested(group)
    ]


def leaders(family: Family) -> tuple[Cell, list[Cell]]:
    """The row with the highest mean, and those that the seeds do not tell from it."""
    cells = dict.fromkeys(cell for pair in family.pairs for cell in (pair.first, pair.second))
    means = {
        cell: score.mean for cell in cells if (score := cell.score(family.split, family.metric)) is not None
    }
    best = max(means, key=lambda cell: means[cell])
    level = []
    for pair in family.pairs:
        if best in (pair.first, pair.second):
            other = pair.second if pair.first is best else pair.first
            decided = pair.comparison is not None and pair.comparison.words().endswith(" higher")
            if other in means and not decided:
                level.append(other)
    return best, level


def untested_because(group: Group) -> str:
    """Why a group's differences are not tested; empty where they are."""
    if len({cell.model for cell in group.comparable}) < 2:
        return "there is one model"
    number = math.comb(len(group.comparable), 2)
    if number > LARGEST_FAMILY:
        return f"{len(group.comparable):,} rows make {number:,} pairs, and up to {LARGEST_FAMILY} are tested"
    every = [pair for split, metric in _tested(group) for pair in _pairs(group, split, metric)]
    if not any(pair.seeds and pair.first.model != pair.second.model for pair in every):
        return "no two models have a seed in common"
    return ""


def undecided_because(group: Group) -> str:
    """Why no test could decide anything, whatever its outcome; empty where one could."""
    reason = untested_because(group)
    if reason:
        return reason
    every = [_pairs(group, split, metric) for split, metric in _tested(group)]
    needed = min(seeds_to_decide(sum(bool(pair.seeds) for pair in pairs)) for pairs in every)
    counts = sorted(len(pair.seeds) for pairs in every for pair in pairs)
    if counts[-1] >= needed:
        return ""
    few = f"{counts[0]} to {counts[-1]} seeds" if counts[0] < counts[-1] else plural(counts[-1], "seed")
    return f"there {'is' if counts == [1] * len(counts) else 'are'} {few} in common, and it takes {needed}"


def _tested(group: Group) -> list[tuple[str, str]]:
    return [key for key in group.scored if key[0] != VALIDATION] or group.scored


def _pairs(group: Group, split: str, metric: str) -> list[Pair]:
    """Every two rows, not yet compared."""
    seeds = {cell: cell.values(split, metric).keys() for cell in group.comparable}
    return [
        Pair(
            first=first,
            second=second,
            seeds=tuple(sorted(seeds[first] & seeds[second])),
            comparison=None,
        )
        for first, second in itertools.combinations(group.comparable, 2)
    ]


def _compared(group: Group, pairs: Sequence[Pair], split: str, metric: str) -> tuple[Pair, ...]:
    values = {cell: cell.values(split, metric) for cell in group.comparable}

    def seed_by_seed(cell: Cell, pair: Pair) -> list[float]:
        return [values[cell][seed] for seed in pair.seeds]

    found = iter(
        compare_pairs(
            [
                (seed_by_seed(pair.first, pair), seed_by_seed(pair.second, pair))
                for pair in pairs
                if pair.seeds
            ]
        )
    )
    return tuple(replace(pair, comparison=next(found)) if pair.seeds else pair for pair in pairs)


def significance_tables(every: Sequence[Group], titles: Sequence[str]) -> list[Table]:
    """A table for each group whose differences are tested; `titles` are those of the groups."""
    return [
        _table(group, found, f"{title}, significance")
        for group, title in zip(every, titles, strict=True)
        if (found := families(group))
    ]


def _table(group: Group, every: Sequence[Family], title: str) -> Table:
    pairs = [(family, pair) for family in every for pair in family.pairs]
    remarks = []
    if any(len(pair.seeds) > EXACT_SEEDS for _, pair in pairs):
        remarks.append(
            f"of more than {EXACT_SEEDS} seeds in common, {SAMPLED_FLIPS:,} flips of signs are drawn"
        )
    return Table(
        title=title,
        heading=[
            *group_heading(group),
            "every two rows over the seeds that both have; seed s gives both the same batches",
        ],
        columns=_COLUMNS,
        rows=[
            [
                score_name(family.split, family.metric),
                row_name(pair.first),
                row_name(pair.second),
                *_texts(pair),
            ]
            for family, pair in pairs
        ],
        labels=3,
        remarks=remarks,
    )


PAIR_COLUMNS = [
    Column(title=("score",), is_text=True),
    Column(title=("first",), is_text=True),
    Column(title=("second",), is_text=True),
    Column(title=("seeds in", "common")),
]
"""What is compared, in every table of pairs."""

_COLUMNS = [
    *PAIR_COLUMNS,
    Column(
        title=("first less", "second"),
        note="First less second: mean over seeds ± half its 95 % t-interval, which is for other seeds on the "
        "same sentences. It takes differences to be normal and is not adjusted for the pairs: away from 0 is "
        "no verdict, which the test gives, that takes them to be symmetric alone.",
    ),
    Column(title=("p",), note="p: of the two-sided sign-flip test over the paired seeds."),
    Column(
        title=("p after", "Holm"),
        note="p after Holm: adjusted for the pairs of one score; not for there being several scores, nor for "
        "several things held equal.",
    ),
    Column(
        title=("these seeds say",),
        is_text=True,
        note=f"These seeds say: at {100 * LEVEL:.0f} % after Holm; for all scores higher is better. "
        "Undecidable: no outcome of so few seeds would reach that, which is no sign that the two are alike.",
    ),
    Column(
        title=("probability", "of first", "higher"),
        note="Probability: that the first is higher with a new seed with which both end, ties half; exact "
        "95 % interval. It counts who won, not by how much.",
    ),
    Column(
        title=("detectable", "difference"),
        note="Detectable difference: the true one that this test calls significant four times out of five, "
        "as the clearest of the pairs, with as many seeds of this spread, itself estimated; none where so "
        "few decide nothing. No threshold: a smaller one that was found can be significant.",
    ),
    Column(
        title=("seeds", "needed"),
        note="Seeds needed: for a difference as large as this one to be detectable.",
    ),
]


def _texts(pair: Pair) -> list[str]:
    found = pair.comparison
    if found is None:
        return ["0", *[NOT_MEASURED] * 3, pair.words, *[NOT_MEASURED] * 3]
    share = found.first_better
    return [
        count(found.number_of_seeds),
        mean_text(found.mean_difference, found.half_width),
        p_text(found.p),
        p_text(found.p_adjusted),
        pair.words,
        f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})",
        without_spread(found.minimum_detectable_difference)
        if math.isfinite(found.minimum_detectable_difference)
        else NOT_MEASURED,
        _seeds_text(found),
    ]


def _seeds_text(found: PairedComparison) -> str:
    if found.seeds_to_see is not None:
        return count(found.seeds_to_see)
    return ">1,000" if found.half_width else NOT_MEASURED


def p_text(p: float) -> str:
    """A p-value at three decimals."""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def significance_rows(all_groups: Sequence[Group]) -> list[dict[str, Any]]:
    """All pairs at full precision, flat, None where seeds are too few; `table` is that of their rows."""
    return [
        {
            "table": number,
            "match": group.conditions.match or None,
            "split": family.split,
            "metric": family.metric,
            "first": pair.first.model,
            "first_settings": pair.first.label,
            "second": pair.second.model,
            "second_settings": pair.second.label,
            "seeds": " ".join(map(str, pair.seeds)),
            "number_of_seeds": len(pair.seeds),
            "seeds_to_decide": seeds_to_decide(pair.comparison.family) if pair.comparison else None,
            **_numbers(pair.comparison),
            "words": pair.words,
        }
        for number, group in enumerate(all_groups, start=1)
        for family in families(group)
        for pair in family.pairs
    ]


def _numbers(found: PairedComparison | None) -> dict[str, Any]:
    detectable = found.minimum_detectable_difference if found else math.inf
    return {
        "mean_difference": found.mean_difference if found else None,
        "half_width_95": found.half_width if found else None,
        "p_sign_flips": found.p if found else None,
        "p_holm": found.p_adjusted if found else None,
        "family": found.family if found else None,
        "probability_first_higher": found.first_better.value if found else None,
        "probability_first_higher_low_95": found.first_better.low if found else None,
        "probability_first_higher_high_95": found.first_better.high if found else None,
        "minimum_detectable_difference": detectable if math.isfinite(detectable) else None,
        "seeds_to_see": found.seeds_to_see if found else None,
    }
