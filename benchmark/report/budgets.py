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


def quantity(records: Iterable[TrainRecord], match: str) -> float | None:
    """What a match holds equal, of the runs of a cell: the median; None where none has measured it."""
    values = [value for record in records if (value := _value(record, match)) is not None]
    return float(statistics.median(values)) if values else None


def _value(record: TrainRecord, match: str) -> float | None:
    if match == "parameters":
        return record.body_parameters
    if match == "seconds":
        return record.train_seconds
    if record.operations_per_step is None or record.steps is None:
        return None
    return record.operations_per_step * record.steps


def timed_seconds(cell: Cell) -> float | None:
    """What a match of seconds holds equal: the steps taken, at what one took when the study was made."""
    steps = cell.median("steps")
    return None if steps is None or cell.seconds_per_step is None else steps * cell.seconds_per_step


def _timed_ratio(cell: Cell) -> float | None:
    """To what the reference had when this row was timed; 1 for the reference itself."""
    mine = timed_seconds(cell)
    return None if mine is None else mine / (cell.held or mine)


def broken_match(cell: Cell, match: str, group: Group) -> str:
    """Why a row is not what its match promises; empty where it is, has not ended, or is the reference.

    What the reference's runs have decides; before they have ended, what the study says of it. Seconds are
    those that were timed: what a run took on the day is reported, and breaks no match.
    """
    if not match or cell.held is None or not cell.done:
        return ""
    if match == "seconds":
        ratio = _timed_ratio(cell)
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


def held_equal(group: Group) -> str:
    """In a phrase: what is matched, and which models' rows break it."""
    match = group.conditions.match
    held = f"{QUANTITIES[match]} alone" if match else "nothing beyond the budget"
    broken = dict.fromkeys(cell.model for cell in group.cells if cell.invalid)
    return f"held equal: {held}" + (f"; broken by {', '.join(broken)}" if broken else "")


def match_lines(group: Group) -> list[str]:
    """For the heading of a table: what is matched, how well, and how far the rest lies apart."""
    match = group.conditions.match
    pairs = [
        (cell, reference)
        for cell in group.comparable
        if cell.held is not None and (reference := _reference(cell, group)) is not None
    ]
    if not match:
        leader = next(iter(group.comparable), None)
        pairs = [(cell, leader) for cell in group.comparable if leader and cell.model != leader.model]
    if not pairs:
        return []
    first, is_over_devices = pairs[0][1].model, pairs[0][1].is_over_devices
    held, rest = "nothing beyond the budget", []
    for name, words in QUANTITIES.items():
        ratios = [ratio for cell, reference in pairs if (ratio := _ratio(cell, reference, name)) is not None]
        times = f"({_span(ratios, '.2f')} times those of {first})" if ratios else "not known"
        if name == "seconds" and is_over_devices:
            times = ""  # they belong to one device
        if name == "seconds" == match:
            timed = [ratio for cell, _ in pairs if (ratio := _timed_ratio(cell)) is not None]
            held = f"{words}, as timed {_share_off(timed, first)}" + (f"; as run {times}" if times else "")
        elif name == match:
            held = f"{words} {_share_off(ratios, first)}"
        elif times:
            rest.append(f"{words} {times}")
    return [f"held equal: {held}", f"not held equal: {'; '.join(rest)}"]


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
            row["timed_seconds_of_training_ratio_to_reference"] = _timed_ratio(cell)
            row["invalid"] = cell.invalid or None
            rows.append(row)
    return rows
