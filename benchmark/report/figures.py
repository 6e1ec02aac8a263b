"""The charts of a report as files for a paper: SVG or PNG, as wide as a column or a page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmark.report.charts import Axis, Chart, Point, front_field, study_charts
from benchmark.report.curves import with_curves
from benchmark.report.drawing import STYLE, WIDTH, Form, figure_of, plain_ticks, save
from benchmark.report.escaping import for_terminal
from benchmark.report.looks import Look, looks
from benchmark.report.placing import made_aside
from benchmark.report.study_results import StudyResults

HEIGHT = 2.7
"""Inches, less a long legend."""
LEGEND_HEIGHT = 0.16
"""Inches of one of many lines of a legend."""
LINE_HEIGHT = 0.17
"""Inches of one of many intervals below each other, and of a line of its name."""
LABEL_CHARACTERS = 56
"""Of a line of an interval's name: half of the picture."""
MARKS = ("o", "s", "^", "D", "v", "P", "X")
"""Those of a page, as far as both have them."""


def write_figures(study: StudyResults, study_folder: Path, folder: Path, form: Form) -> list[Path]:
    """One file for each chart of the study's page, and each quantity that a reader could choose there; the
    same bytes for the same records. Those that are there stay until all new ones are drawn.

    Raises:
        StorageError: the folder cannot be written.
    """
    curves = with_curves((*study.train_records, *study.trials), study_folder)
    names = []
    with made_aside(folder) as new, rc_context(STYLE):
        charts = study_charts(study, curves)
        look = looks(charts)
        for chart in charts:
            for name, x, y in _views(chart):
                save(draw_chart(chart, x, y, look), new / f"{name}.{form}", form)
                names.append(f"{name}.{form}")
        if study.layer_records:
            from benchmark.why.facts import Facts
            from benchmark.why.figures import draw

            names += [name for name, _ in draw(Facts.of(study), new, form)]
        for name in names:
            (new / name).replace(folder / name)
    return [folder / name for name in names]


def _views(chart: Chart) -> list[tuple[str, Axis, Axis | None]]:
    """Every quantity of `y` against the first of `x`, and the first of `y` against the others."""
    if not chart.y:
        return [(chart.name, x, None) for x in chart.x]
    views = [(chart.x[0], y) for y in chart.y] + [(x, chart.y[0]) for x in chart.x[1:]]
    return [(f"{chart.name}-{_slug(y.label)}-by-{x.field}", x, y) for x, y in views]


def _slug(label: str) -> str:
    """What a quantity is called, without its unit, as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.partition(",")[0].lower()).strip("-")


def draw_chart(chart: Chart, x: Axis, y: Axis | None, look: Mapping[str, Look]) -> Figure:
    """One chart on the axes that are chosen; `look` is by series, of all charts of the study."""
    if y is None:
        return _intervals(chart.points, x, look)
    own = _names(chart.points)
    figure = figure_of(WIDTH, HEIGHT)
    axis = figure.subplots()
    for name in own:
        color, mark = look[name].color, MARKS[look[name].mark]
        mine = [point for point in chart.points if point["series"] == name]
        mine = [point for point in mine if point.get(x.field) is not None and point.get(y.field) is not None]
        if not mine:
            continue
        if chart.kind == "curves":
            across, up = ([_number(point, one.field) for point in mine] for one in (x, y))
            label = for_terminal(name)
            axis.plot(across, up, color=color, marker=mark, markersize=3, linewidth=1, label=label)
            low, high = ([_end(point, end, y) for point in mine] for end in (y.low, y.high))
            axis.fill_between(across, low, high, color=color, alpha=0.15, linewidth=0)
        else:
            unsaid: str | None = for_terminal(name)
            for on_front in (True, False):
                alike = [point for point in mine if bool(point.get(front_field(x, y))) == on_front]
                if not alike:
                    continue
                axis.errorbar(
                    [_number(point, x.field) for point in alike],
                    [_number(point, y.field) for point in alike],
                    yerr=_errors(alike, y), xerr=_errors(alike, x), capsize=2,
                    color=color, marker=mark, markersize=4, linestyle="",
                    markerfacecolor=color if on_front else "white", label=unsaid,
                )  # fmt: skip
                unsaid = None  # one line of the legend for both
    axis.set_xlabel(for_terminal(x.label))
    axis.set_ylabel(for_terminal(y.label))
    for one, side, scale in ((x, axis.xaxis, axis.set_xscale), (y, axis.yaxis, axis.set_yscale)):
        if one.log:
            scale("log")
            plain_ticks(side)
        elif max(map(abs, side.get_view_interval())) >= 1e5:
            side.set_major_formatter(EngFormatter())  # 2.5 M, in place of 2.5 and 1e6 somewhere else
    columns = 2 if max(map(len, own), default=0) < 28 else 1
    lines = -(-len(own) // columns)
    # as much taller as a long legend needs
    figure.set_size_inches(WIDTH, HEIGHT + LEGEND_HEIGHT * max(0, lines + (chart.kind == "scatter") - 2))
    told = "filled: on the Pareto front; hollow: dominated" if chart.kind == "scatter" else None
    figure.legend(loc="outside lower center", ncol=columns, title=told, title_fontsize=7)
    return figure


def _intervals(points: Sequence[Point], x: Axis, look: Mapping[str, Look]) -> Figure:
    """A line for each point, named at the left."""
    labels = [
        textwrap.fill(for_terminal(str(point["label"])), LABEL_CHARACTERS, break_on_hyphens=False)
        for point in points
    ]
    longest = max(label.count("\n") + 1 for label in labels)
    height = max(HEIGHT / 2, 0.6 + LINE_HEIGHT * longest * len(points))
    figure = figure_of(2 * WIDTH, height)
    axis = figure.subplots()
    for place, point in enumerate(points):
        color, number = look[str(point["series"])]
        value, low, high = (_number(point, name) for name in (x.field, x.low, x.high))
        axis.errorbar(
            [value], [place], xerr=[[value - low], [high - value]], color=color, marker=MARKS[number],
            markersize=4, capsize=2,
        )  # fmt: skip
    axis.set_yticks(range(len(points)), labels)
    axis.invert_yaxis()
    axis.set_xlabel(for_terminal(x.label))
    if x.log:
        axis.set_xscale("log")
        plain_ticks(axis.xaxis)
    return figure


def _names(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(str(point["series"]) for point in points))


def _number(point: Point, name: str) -> float:
    value = point[name]
    assert isinstance(value, int | float)
    return float(value)


def _errors(points: Sequence[Point], axis: Axis) -> list[list[float]] | None:
    """How far the ends of the intervals are from their values, below and above; None where there are none."""
    if not axis.low:
        return None
    ends = (axis.low, axis.high)
    return [[abs(_end(point, end, axis) - _number(point, axis.field)) for point in points] for end in ends]


def _end(point: Point, name: str, axis: Axis) -> float:
    """An end of an interval; the value itself where there is none."""
    value = point.get(name) if name else None
    return float(value) if isinstance(value, int | float) else _number(point, axis.field)
