"""What a comparison holds equal, as its records have it, and what it does not."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
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


def broken_match(cell: Cell, reference: Cell, match: str) -> str:
    """Why a row is not what its match promises; empty where it is, or has not ended.

    Seconds are what they were on the day, and are reported; what they were matched by is the number of steps.
    """
    if match not in ("parameters", "flops"):
        return ""
    mine, theirs = quantity(cell.done, match), quantity(reference.done, match)
    if mine is None or theirs is None:
        return f"its {QUANTITIES[match]} are not known" if cell.done and reference.done else ""
    off = mine / theirs - 1
    if abs(off) <= TOLERANCE:
        return ""
    return f"its {QUANTITIES[match]} are {off:+.1%} off those of {reference.model}"


def match_lines(group: Group) -> list[str]:
    """For the heading of a table: what is matched, how well, and how far the rest lies apart."""
    match = group.conditions.match
    if not match or not group.cells:
        return []
    reference = group.cells[0]
    others = [cell for cell in group.cells[1:] if cell.done]
    parts = []
    for name, words in QUANTITIES.items():
        ratios = [
            mine / theirs
            for cell in others
            if (mine := quantity(cell.done, name)) and (theirs := quantity(reference.done, name))
        ]
        if not ratios:
            parts.append((name, f"{words} not known"))
        elif name == match:
            worst = max(abs(ratio - 1) for ratio in ratios)
            parts.append((name, f"{words}, within {worst:.1%} of {reference.model}"))
        else:
            low, high = min(ratios), max(ratios)
            span = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"
            parts.append((name, f"{words} ({span} times those of {reference.model})"))
    held = [text for name, text in parts if name == match]
    rest = [text for name, text in parts if name != match]
    return [f"held equal: {held[0]}", f"not held equal: {'; '.join(rest)}"]


def ranking_remarks(every: Sequence[Group]) -> list[str]:
    """Where the order of two models depends on what is held equal; by means, which are no test."""
    remarks = []
    by_data: dict[Any, list[Group]] = {}
    for group in every:
        conditions = group.conditions
        if conditions.match:
            key = (conditions.task, conditions.task_settings, conditions.device, conditions.precision)
            by_data.setdefault(key, []).append(group)
    for groups_of_data in by_data.values():
        if len(groups_of_data) < 2:
            continue
        split_and_metrics = [key for key in groups_of_data[0].scored if key[0] != "validation"][:1]
        for split, metric in split_and_metrics:
            remarks += _flips(groups_of_data, split, metric)
    return remarks


def _flips(every: Sequence[Group], split: str, metric: str) -> list[str]:
    means: dict[str, dict[str, float]] = {}
    for group in every:
        for cell in group.cells:
            score = cell.score(split, metric)
            if score is not None and not cell.invalid and not cell.settings:
                means.setdefault(group.conditions.match, {})[cell.model] = score.mean
    if len(means) < 2:
        return []
    models = list(next(iter(means.values())))
    flips = []
    for index, first in enumerate(models):
        for second in models[index + 1 :]:
            ahead: dict[str, list[str]] = {}
            for match, scores in means.items():
                if first in scores and second in scores and scores[first] != scores[second]:
                    ahead.setdefault(first if scores[first] > scores[second] else second, []).append(match)
            if len(ahead) == 2:
                said = "; ".join(
                    f"{model} leads at equal {' and '.join(matches)}" for model, matches in ahead.items()
                )
                flips.append(f"ranking by {split} {metric} flips with what is held equal: {said}")
    if flips:
        return flips
    return [f"ranking by {split} {metric} is the same at equal {', '.join(means)}"]


def budget_rows(every: Sequence[Group]) -> list[dict[str, Any]]:
    """What each row cost, flat: equal names in each, None where nothing was measured."""
    rows = []
    for number, group in enumerate(every, start=1):
        reference = group.cells[0] if group.cells else None
        for cell in group.cells:
            row: dict[str, Any] = {
                "table": number,
                "match": group.conditions.match or None,
                "model": cell.model,
                "settings": cell.label,
                "runs_done": len(cell.done),
                "steps": cell.median("steps"),
            }
            for name, words in QUANTITIES.items():
                mine = quantity(cell.done, name)
                theirs = quantity(reference.done, name) if reference is not None else None
                column = words.replace(" ", "_")
                row[column] = mine
                row[f"{column}_ratio_to_first"] = mine / theirs if mine and theirs else None
            row["invalid"] = cell.invalid or None
            rows.append(row)
    return rows
