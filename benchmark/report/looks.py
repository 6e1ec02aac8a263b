"""How the series of a study look: one colour and one mark over all charts, on the page and in files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from benchmark.report.charts import Chart
from benchmark.report.drawing import (
    BLUE,
    BROWN,
    COLOR_OF,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
)

COLORS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, GREY, BROWN)
NUMBER_OF_MARKS = 7


class Look(NamedTuple):
    """Of a series. Which mark has which number is each drawing's own."""

    color: str
    mark: int


def looks(charts: Sequence[Chart]) -> dict[str, Look]:
    """By series, the same in every chart. Those of one chart have colours of their own while there are enough
    of them, and then at least marks of their own.

    Series of one layer share its colour, which is also that of the figures of `benchmark.why`.
    """
    series_of = [_subjects(chart) for chart in charts]
    found: dict[str, Look] = {}
    colors: dict[str, str] = {}
    # what each chart has already
    used_colors = [Counter[str]() for _ in charts]
    used_looks = [Counter[Look]() for _ in charts]
    every = {name: subject for names in series_of for name, subject in names.items()}
    # fixed colours first, so that others avoid them
    for series, subject in sorted(every.items(), key=lambda one: one[1] not in COLOR_OF):
        own = [number for number, names in enumerate(series_of) if series in names]

        def times_of_color(color: str, own: list[int] = own) -> int:
            return sum(used_colors[number][color] for number in own)

        def times_of_look(look: Look, own: list[int] = own) -> int:
            return sum(used_looks[number][look] for number in own)

        if subject not in colors:
            colors[subject] = COLOR_OF.get(subject) or min(COLORS, key=times_of_color)
        color = colors[subject]
        first = COLORS.index(color)
        marks = ((first + turn) % NUMBER_OF_MARKS for turn in range(NUMBER_OF_MARKS))
        found[series] = min((Look(color, mark) for mark in marks), key=times_of_look)
        for number in own:
            used_colors[number][color] += 1
            used_looks[number][found[series]] += 1
    return found


def _subjects(chart: Chart) -> dict[str, str]:
    """By series: what its colour stands for."""
    return {str(point["series"]): str(point.get("subject") or point["series"]) for point in chart.points}
