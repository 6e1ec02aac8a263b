"""Thresholds on a difference: `bleu:-0.5` and `train_target_tokens_per_second:-5%` guard against falls, and
`peak_memory_bytes:10%` against a rise, of the mean over common seeds in any cell.

A metric means its score on test splits. What was not measured on both sides, or must not be compared, holds
no threshold: a guard that saw nothing would let everything pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.config import UserError, nearest, shown
from benchmark.measure.quality import METRICS
from benchmark.report.difference import NUMBERS, Difference, ResultDifference, SpeedDifference
from tasks import VALIDATION

_FORM = re.compile(r"([+-]?)(\d+(?:\.\d*)?|\.\d+)(%?)")


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The most that a field may change."""

    text: str
    field: str
    change: float
    """Its sign is the direction that is guarded."""
    is_relative: bool
    """Whether `change` is a share of the first side's mean."""

    def holds(self, first: float, second: float) -> bool:
        change = self.of(first, second)
        return change >= self.change if math.copysign(1, self.change) < 0 else change <= self.change

    def of(self, first: float, second: float) -> float:
        """The change of a mean in the unit of the threshold."""
        change = second - first
        if not self.is_relative or change == 0:
            return change
        return change / abs(first) if first else math.copysign(math.inf, change)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a threshold says of one cell, or of all where there is none to say it of."""

    threshold: str
    where: str
    first_mean: float | None
    second_mean: float | None
    holds: bool
    words: str


def parse_threshold(text: str) -> Threshold:
    """`FIELD:THRESHOLD`; UserError where it has another form."""
    field, colon, threshold = text.rpartition(":")
    match = _FORM.fullmatch(threshold.strip())
    if not colon or not field.strip() or match is None:
        raise UserError(
            f"--fail-on: {shown(text)}: must have the form FIELD:THRESHOLD, as in bleu:-0.5 or "
            "train_target_tokens_per_second:-5%"
        )
    sign, number, percent = match.groups()
    change = float(number) * (-1 if sign == "-" else 1)
    return Threshold(
        text=text,
        field=field.strip(),
        change=change / 100 if percent else change,
        is_relative=percent != "",
    )


def check_thresholds(thresholds: Sequence[Threshold], difference: Difference) -> list[Check]:
    """Every threshold in every cell.

    Raises:
        UserError: a threshold's field is none of a record.
    """
    measured = {one.quantity for one in difference.results} | {one.quantity for one in difference.one_sided}
    known = dict.fromkeys((*METRICS, *NUMBERS, *sorted(measured), *map(_speed_name, difference.speeds)))
    for threshold in thresholds:
        if threshold.field not in known:
            near = nearest(threshold.field, known) or f"; there are: {', '.join(known)}"
            raise UserError(f"--fail-on: {shown(threshold.field)}: unknown field{near}")
    return [check for threshold in thresholds for check in _checks(threshold, difference)]


def _speed_name(row: SpeedDifference) -> str:
    return f"{row.phase}_{row.quantity}"


def _checks(threshold: Threshold, difference: Difference) -> list[Check]:
    def guarded(quantity: str, split: str | None) -> bool:
        return quantity == threshold.field and split != VALIDATION

    checks = [
        _check(threshold, f"{one.cell.label}{_on(one.split)}", one.first_mean, one.second_mean, one)
        for one in difference.results
        if guarded(one.quantity, one.split)
    ]
    checks += [
        _check(threshold, f"speed of {one.model} on {one.task}", one.first, one.second, one)
        for one in difference.speeds
        if _speed_name(one) == threshold.field
    ]
    checks += [
        _unmeasured(threshold, f"{one.cell.label}{_on(one.split)}, seed {', '.join(map(str, one.seeds))}")
        for one in difference.one_sided
        if guarded(one.quantity, one.split)
    ]
    return checks or [_unmeasured(threshold, "no cell")]


def _on(split: str | None) -> str:
    return "" if split is None else f", {split}"


def _check(
    threshold: Threshold, where: str, first: float, second: float, one: ResultDifference | SpeedDifference
) -> Check:
    change = threshold.of(first, second)
    shown_change = f"{100 * change:+.3g}%" if threshold.is_relative else f"{change:+.3g}"
    return Check(
        threshold=threshold.text,
        where=where,
        first_mean=first,
        second_mean=second,
        holds=one.is_comparable and threshold.holds(first, second),
        words=shown_change if one.is_comparable else one.words,
    )


def _unmeasured(threshold: Threshold, where: str) -> Check:
    where_scored = ", on a test split" if threshold.field in METRICS else ""
    return Check(
        threshold=threshold.text,
        where=where,
        first_mean=None,
        second_mean=None,
        holds=False,
        words=f"{threshold.field} was not measured in both{where_scored}",
    )
