"""How many steps, tokens and seconds of training a model takes to a quality that all of a table reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from benchmark.measure.significance import summarise
from benchmark.record import CurvePoint, TrainRecord
from benchmark.report.comparison import SEVERAL, Cell, Group
from benchmark.report.heading import runs_heading
from benchmark.report.layout import Column, Table, metric_title
from benchmark.report.rounding import count, mean_text
from benchmark.report.significance import row_name


def reaching_tables(
    groups: Sequence[Group], titles: Sequence[str], curves: Mapping[str, TrainRecord]
) -> list[Table]:
    """One for each group whose runs were scored while they trained; `curves` are records with their curve."""
    found = (_table(group, title, curves) for group, title in zip(groups, titles, strict=True))
    return [table for table in found if table is not None]


def _table(group: Group, title: str, curves: Mapping[str, TrainRecord]) -> Table | None:
    by_cell = [(cell, _curves(cell, curves)) for cell in group.comparable]
    every = [curve for _, mine in by_cell for curve in mine]
    metric = next((score.metric for curve in every for point in curve for score in point.scores), None)
    ends = [_value(curve[-1], metric) for curve in every]
    if metric is None or len(by_cell) < 2 or not all(mine for _, mine in by_cell) or None in ends:
        return None
    level = math.floor(min(end for end in ends if end is not None))
    if level <= 0:
        return None
    rows = []
    for cell, mine in by_cell:
        first = [next(point for point in curve if (_value(point, metric) or 0) >= level) for curve in mine]
        rows.append([row_name(cell), count(len(first)), *_means(first)])
    columns = [
        Column(title=("model",), is_text=True),
        Column(title=("seeds",)),
        Column(title=("steps",)),
        Column(title=("target", "tokens")),
        Column(title=("training,", "s")),
    ]
    if group.conditions.device == SEVERAL:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return Table(
        title=f"{title}: training to validation {metric_title(metric)} {level}",
        heading=runs_heading(group.records),
        columns=columns,
        rows=rows,
        labels=1,
        last_notes=[
            f"To the first validation with {metric_title(metric)} {level} or more, greedy output, weights as "
            "they are at that step: mean over seeds ± half the 95 % t-interval. It is the highest whole "
            "number that every run of this table has in the end; who is validated more seldom is seen to "
            "reach it later."
        ],
    )


def _curves(cell: Cell, curves: Mapping[str, TrainRecord]) -> list[list[CurvePoint]]:
    """Of a row's runs, the validations that were scored."""
    found = [curves[record.run_id].curve for record in cell.done if record.run_id in curves]
    return [scored for curve in found if (scored := [point for point in curve if point.scores])]


def _value(point: CurvePoint, metric: str | None) -> float | None:
    return next((score.value for score in point.scores if score.metric == metric), None)


def _means(points: Sequence[CurvePoint]) -> list[str]:
    quantities = (
        [point.step for point in points],
        [point.train_target_tokens for point in points],
        [point.train_seconds for point in points],
    )
    every = (summarise([float(value) for value in values]) for values in quantities)
    return [mean_text(one.mean, one.half_width) if one.half_width else count(one.mean) for one in every]
