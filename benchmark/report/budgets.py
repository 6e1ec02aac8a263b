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


def broken_match(cell: Cell, match: str, group: Group) -> str:
    """Why a row is not what its match promises; empty where it is, has not ended, or is the reference.

    What the reference's runs have decides; before they have ended, what the study says of it.

    Seconds are what they were on the day, and are reported; what they were matched by is the number of steps.
    """
    if match not in ("parameters", "flops") or cell.held is None or not cell.done:
        return ""
    mine = quantity(cell.done, match)
    if mine is None:
        return f"its {QUANTITIES[match]} are not known"
    reference = _reference(cell, group)
    theirs = None if reference is None else quantity(reference.done, match)
    off = mine / (theirs or cell.held) - 1
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
    first = pairs[0][1].model
    parts = []
    for name, words in QUANTITIES.items():
        if name == "seconds" != match and pairs[0][1].is_over_devices:
            continue  # they belong to one device
        ratios = [ratio for cell, reference in pairs if (ratio := _ratio(cell, reference, name)) is not None]
        if not ratios:
            parts.append((name, f"{words} not known"))
        elif name == match:
            low, high = min(ratios) - 1, max(ratios) - 1
            span = f"{low:+.1%}" if f"{low:.1%}" == f"{high:.1%}" else f"{low:+.1%} to {high:+.1%}"
            parts.append((name, f"{words} ({span} against {first})"))
        else:
            low, high = min(ratios), max(ratios)
            span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
            parts.append((name, f"{words} ({span} times those of {first})"))
    held = [text for name, text in parts if name == match] or ["nothing beyond the budget"]
    rest = [text for name, text in parts if name != match]
    return [f"held equal: {held[0]}", f"not held equal: {'; '.join(rest)}"]


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
            row["invalid"] = cell.invalid or None
            rows.append(row)
    return rows
