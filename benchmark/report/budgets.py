"""What a comparison holds equal, as its records have it, and what it does not."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmark.record import TrainRecord
from benchmark.request import TOLERANCE

if TYPE_CHECKING:
    from benchmark.report.comparison import Cell, Group

QUANTITIES = {
    "parameters": "body parameters",
    "flops": "operations of training",
    "seconds": "seconds of training",
}
"""By match: what it holds equal."""
FURTHER = {"tokens": "target tokens of training"}
"""What no match holds equal, and a reader asks for."""


def quantity(records: Iterable[TrainRecord], match: str) -> float | None:
    """What a match holds equal, of the runs of a cell: the median; None where none has measured it."""
    values = [value for record in records if (value := _value(record, match)) is not None]
    return float(statistics.median(values)) if values else None


def _value(record: TrainRecord, match: str) -> float | None:
    if match == "parameters":
        return record.body_parameters
    if match == "seconds":
        return record.train_seconds
    if match == "tokens":
        return record.train_target_tokens
    if record.operations_per_step is None or record.steps is None:
        return None
    return record.operations_per_step * record.steps


def timed_seconds(cell: Cell) -> float | None:
    """What a match of seconds holds equal: the steps taken, at what one took when the study was made."""
    steps = cell.median("steps")
    return None if steps is None or cell.seconds_per_step is None else steps * cell.seconds_per_step


def _timed_ratio(cell: Cell, reference: Cell | None) -> float | None:
    """To what the study holds equal, or else to what the reference had when it was timed."""
    mine = timed_seconds(cell)
    theirs = cell.held or (None if reference is None else timed_seconds(reference))
    return mine / theirs if mine is not None and theirs else None


def broken_match(cell: Cell, match: str, group: Group) -> str:
    """Why a row is not what its match promises; empty where it is, has not ended, or is the reference.

    What the reference's runs have decides; before they have ended, what the study says of it. Seconds are
    those that were timed: what a run took on the day is reported, and breaks no match.
    """
    if not match or cell.held is None or not cell.done:
        return ""
    if match == "seconds":
        ratio = _timed_ratio(cell, None)
    else:
        mine, reference = quantity(cell.done, match), _reference(cell, group)
        theirs = None if reference is None else quantity(reference.done, match)
        ratio = None if mine is None else mine / (theirs or cell.held)
    if ratio is None:
        return f"its {QUANTITIES[match]} are not known"
    off = ratio - 1
    if abs(off) <= TOLERANCE:
        return ""
    return f"its {QUANTITIES[match]} are {off:+.1%} off what it is matched to"


def _reference(cell: Cell, group: Group) -> Cell | None:
    """What a row is matched to: the first reference on the same data; None where there is no row of it."""
    data = cell.records[0].experiment.get("data")
    for other in group.cells:
        if other.held is None and other.records[0].experiment.get("data") == data:
            return other
    return None


def match_lines(group: Group) -> list[str]:
    """For the heading of a table: what is held equal and how well, what else is equal, and how far the rest
    lies apart; nothing where no two models are compared.
    """
    match = group.conditions.match
    pairs = [
        (cell, reference)
        for cell in group.comparable
        if cell.held is not None and (reference := _reference(cell, group)) is not None
    ]
    if not match:
        leader = next(iter(group.comparable), None)
        pairs = [(cell, leader) for cell in group.comparable if leader and cell.model != leader.model]
    broken = dict.fromkeys(cell.model for cell in group.cells if cell.invalid)
    by_whom = f"; broken by {', '.join(broken)}" if broken else ""
    if not pairs:
        return [f"held equal: {QUANTITIES[match]}{by_whom}"] if match else []
    first, is_over_devices = pairs[0][1].model, pairs[0][1].is_over_devices
    by = match or _equal_by_budget(pairs)
    held = {"": "nothing, nor the number of steps", "steps": "the number of steps"}.get(by, "")
    also, rest = [], []
    for name, words in (QUANTITIES | FURTHER).items():
        if name == "seconds" and is_over_devices and by != name:
            continue  # they belong to one device
        ratios = [ratio for cell, reference in pairs if (ratio := _ratio(cell, reference, name)) is not None]
        times = f"({_span(ratios, '.2f')} times those of {first})" if ratios else "not known"
        if name == "seconds" == by:
            held = f"{words}, as timed {_share_off(_timed(pairs), first)}"
            held += "" if is_over_devices else f"; as run {times}"
        elif name == by:
            held = f"{words} {_share_off(ratios, first)}"
        elif ratios and max(abs(ratio - 1) for ratio in ratios) <= TOLERANCE:
            also.append(f"{words} {_share_off(ratios, first)}")
        elif ratios or name in QUANTITIES:
            rest.append(f"{words} {times}")
    held += by_whom
    also_equal = [f"also equal within {TOLERANCE:.0%}: {'; '.join(also)}"] if also else []
    return [f"held equal: {held}", *also_equal, *([f"not held equal: {'; '.join(rest)}"] if rest else [])]


def _equal_by_budget(pairs: Sequence[tuple[Cell, Cell]]) -> str:
    """What the budget of a study without a match has made equal; empty for nothing."""
    if all(cell.median("steps") == leader.median("steps") for cell, leader in pairs):
        return "steps"
    timed = _timed(pairs)
    are_equal = len(timed) == len(pairs) and max(abs(ratio - 1) for ratio in timed) <= TOLERANCE
    return "seconds" if are_equal else ""


def _timed(pairs: Sequence[tuple[Cell, Cell]]) -> list[float]:
    """Of the pairs that were timed."""
    return [ratio for pair in pairs if (ratio := _timed_ratio(*pair)) is not None]


def _share_off(ratios: Sequence[float], first: str) -> str:
    if not ratios:
        return "not known"
    off = [round(ratio - 1, 3) + 0.0 for ratio in ratios]  # so that none is -0.0
    return f"({_span(off, '+.1%')} against {first})"


def _span(values: Sequence[float], form: str) -> str:
    low, high = (format(value, form) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _ratio(cell: Cell, reference: Cell | None, name: str) -> float | None:
    mine = quantity(cell.done, name)
    theirs = None if reference is None else quantity(reference.done, name)
    return mine / theirs if mine and theirs else None


def matched_by_data(every: Sequence[Group]) -> list[list[Group]]:
    """The tables of matches, those together that differ in nothing but what is held equal."""
    by_data: dict[Any, list[Group]] = {}
    for group in every:
        if group.conditions.match:
            by_data.setdefault(replace(group.conditions, match="", signatures=()), []).append(group)
    return list(by_data.values())


def budget_rows(every: Sequence[Group]) -> list[dict[str, Any]]:
    """What each row cost, flat: equal names in each, None where nothing was measured."""
    rows = []
    for number, group in enumerate(every, start=1):
        for cell in group.cells:
            reference = _reference(cell, group)
            row: dict[str, Any] = {
                "table": number,
                "match": group.conditions.match or None,
                "model": cell.model,
                "settings": cell.label,
                "runs_done": len(cell.done),
                "steps": cell.median("steps"),
            }
            for name, words in QUANTITIES.items():
                column = words.replace(" ", "_")
                row[column] = quantity(cell.done, name)
                row[f"{column}_ratio_to_reference"] = _ratio(cell, reference, name)
            row["timed_seconds_of_training"] = timed_seconds(cell)
            row["timed_seconds_of_training_ratio_to_reference"] = _timed_ratio(cell, reference)
            row["invalid"] = cell.invalid or None
            rows.append(row)
    return rows
