"""The figures of the section: growth with length, paths, signal against distance, times and crossovers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import markers, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmark.report.drawing import (
    BLUE,
    COLOR_OF,
    GUIDE,
    ORANGE,
    OTHER,
    STYLE,
    VERMILION,
    WIDTH,
    Form,
    figure_of,
    panels,
    plain_ticks,
    save,
)
from benchmark.report.escaping import for_terminal
from benchmark.why import trained_figures
from benchmark.why.cells import (
    ATTENTION,
    CELLS,
    CONVOLUTION,
    DILATED,
    RECURRENT,
    RESTRICTED,
    SEPARABLE,
    TIMED,
    TIMED_RESTRICTED,
)
from benchmark.why.facts import (
    BOTH,
    FORWARD,
    Facts,
    Missing,
    crossover,
    for_one_sequence,
    number,
    untrained_signals,
)

MARKS = {
    ATTENTION: "o",
    RECURRENT: "s",
    CELLS: "D",
    CONVOLUTION: "^",
    DILATED: "v",
    RESTRICTED: "P",
    TIMED_RESTRICTED: "P",
    SEPARABLE: "X",
}
LOOKS = {name: (COLOR_OF[name], mark) for name, mark in MARKS.items()} | trained_figures.MODELS
PLAIN = StrMethodFormatter("{x:,.0f}")
LENGTH, DISTANCE = "length n, positions", "distance, positions"

MAPS = ("matrices", "heads", "sources")
"""Figures whose colours are values; those of the others only tell things apart."""
INTERACTIVE = ("depth", "paths", "signal", "time")
"""Figures whose quantities have a chart of their own in the page of a report."""


def draw(
    facts: Facts, folder: Path, form: Form = "svg", without: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """The figures that the records allow, as SVG or PNG; each file's name and caption."""
    made = []
    with rc_context(STYLE):
        for name, figure in FIGURES.items():
            if name in without:
                continue
            try:
                drawn, caption = figure(facts)
            except Missing:
                continue
            save(drawn, folder / f"{name}.{form}", form)
            made.append((f"{name}.{form}", caption))
    return made


Drawn = tuple[Figure, str]


def _lines(axis: Any, series: Iterator[tuple[str, dict[float, float]]], x: str, y: str) -> None:
    for name, values in series:
        color, mark = LOOKS.get(name, (OTHER, "."))
        axis.plot(list(values), list(values.values()), color=color, marker=mark, markersize=4, label=name)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.set_yscale("log")
    plain_ticks(axis.yaxis)
    _doubling(axis)


def _doubling(axis: Any) -> None:
    """A horizontal axis of powers of 2, in plain numbers."""
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(PLAIN)


def _legend(figure: Figure, axis: Any, columns: int = 3) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncol=columns)


def _each(
    subjects: Sequence[str], find: Callable[[str], dict[float, float]]
) -> Iterator[tuple[str, dict[float, float]]]:
    found = 0
    for subject in subjects:
        try:
            series = find(subject)
        except Missing:
            continue
        found += 1
        yield subject, series
    if not found:
        raise Missing("nothing was measured")


def _depth(facts: Facts) -> Drawn:
    figure, axes = panels(2, 2, 3.2)
    layers = (ATTENTION, RECURRENT, CONVOLUTION, RESTRICTED, SEPARABLE)
    for axis, quantity, title in zip(
        axes, ("kernel_depth", "ideal_depth"), ("kernel depth", "ideal (PRAM) depth"), strict=True
    ):
        series = _each(
            layers,
            lambda name, q=quantity: facts.series("span", name, q, **FORWARD),  # type: ignore[misc]
        )
        _lines(axis, series, LENGTH, f"{title}, operations")
    _legend(figure, axes[0])
    return figure, "Operations that have to wait for each other, against length, of one layer."


def _paths(facts: Facts) -> Drawn:
    figure = figure_of(WIDTH, 3.4)
    axis = figure.subplots()
    layers = (ATTENTION, RECURRENT, CONVOLUTION, DILATED, RESTRICTED)
    _lines(axis, _each(layers, lambda name: facts.series("path", name, "hops")), LENGTH, "path, hops")
    _legend(figure, axis, 1)
    return figure, "The longest of the shortest paths between two positions, against length."


def _matrices(facts: Facts) -> Drawn:
    found = []
    for name in (ATTENTION, RECURRENT, CONVOLUTION, DILATED, RESTRICTED):
        try:
            found.append((name, facts.rows("path", name, "hops_between")))
        except Missing:
            continue
    if not found:
        raise Missing("no matrices were kept")
    figure, axes = panels(len(found), 3, 2.2)
    figure.set_layout_engine("compressed")  # squares leave room that the others do not know of
    for axis, (name, rows) in zip(axes, found, strict=True):
        length = int(max(number(row, "n") for row in rows))
        matrix = np.full((length, length), np.nan)
        for row in rows:
            matrix[int(number(row, "to")), int(number(row, "from"))] = row.value
        image = axis.imshow(matrix, cmap="viridis_r", vmin=0)
        axis.set_title(name.replace(", ", "\n"))
        axis.set_xlabel("from position")
        axis.set_ylabel("to position")
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, shrink=0.7, label="hops")
    return figure, (
        "Hops from every position to every other in the smallest stack that connects all, with residual "
        "paths around its layers; white: no path."
    )


def _signal(facts: Facts) -> Drawn:
    signals = untrained_signals(facts)
    layers = [one for one in signals if one.subject.startswith((ATTENTION, RECURRENT))]
    models = [one for one in signals if one not in layers]
    kinds = [(title, some) for title, some in (("layers", layers), ("models", models)) if some]
    figure, axes = panels(len(kinds), 2, 3.8)
    for axis, (title, some) in zip(axes, kinds, strict=True):
        drawn: Counter[str] = Counter()
        for one in some:
            # variants of a layer and both sides of a model share its colour
            kind = one.subject.partition(",")[0]
            color, mark = LOOKS.get(kind, (OTHER, "."))
            variants = (("-", color, mark), ("--", "white", mark), (":", color, "v"))
            line, face, mark = variants[drawn[kind] % len(variants)]
            drawn[kind] += 1
            axis.plot(
                *zip(*one.norms, strict=True), color=color, linestyle=line, marker=mark, markersize=4,
                markerfacecolor=face, markevery=0.1, label=for_terminal(one.name),
            )  # fmt: skip
        axis.set_yscale("log")
        plain_ticks(axis.yaxis)
        axis.set_title(title)
        axis.set_xlabel(DISTANCE)
        axis.set_ylabel("norm of d output / d input")
        _doubling(axis)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure, "What reaches a position from afar before training, against distance (float64)."


def _time(facts: Facts) -> Drawn:
    widths = sorted({number(row, "d") for row in facts.seconds(ATTENTION)})
    figure, axes = panels(2, 2, 3.2)
    width = widths[-1]
    for axis, full, title in zip(axes, (True, False), ("full batches", "one sequence"), strict=True):
        for name in TIMED:
            rows = for_one_sequence(facts.seconds(name, d=width, full=full, **BOTH))
            rows.sort(key=lambda row: number(row, "n"))
            x = [number(row, "n") for row in rows]
            low, high = [row.low or row.value for row in rows], [row.high or row.value for row in rows]
            color, mark = LOOKS[name]
            axis.plot(x, [row.value for row in rows], color=color, marker=mark, markersize=4, label=name)
            axis.fill_between(x, low, high, color=color, alpha=0.2)
        axis.set_yscale("log")
        plain_ticks(axis.yaxis)
        axis.set_title(f"{title}, d = {width:,.0f}")
        axis.set_xlabel(LENGTH)
        axis.set_ylabel("s for each sequence")
        _doubling(axis)
    _legend(figure, axes[0])
    return figure, "Time of one layer, forward and backward, against length; bands: 95 % intervals."


def _crossover(facts: Facts) -> Drawn:
    figure = figure_of(WIDTH, 3.6)
    axis = figure.subplots()
    widths = sorted({number(row, "d") for row in facts.seconds(ATTENTION)})
    for (other, full), (color, mark) in _CROSSED.items():
        label = f"{'fused LSTM' if other == RECURRENT else 'LSTM cell by cell'}, "
        label += "full batches" if full else "one sequence"
        found = []
        for width in widths:
            where = {"full": full, "d": width, **BOTH}
            found.append(crossover(facts.seconds(ATTENTION, **where), facts.seconds(other, **where)))
        crossed = [(w, c) for w, c in zip(widths, found, strict=True) if 0 < c.value < math.inf]
        if crossed:
            x = [width for width, _ in crossed]
            y = [one.value for _, one in crossed]
            below = [one.value - max(one.low, one.lengths[0]) for _, one in crossed]
            above = [min(one.high, one.lengths[1]) - one.value for _, one in crossed]
            error = [[max(0.0, each) for each in side] for side in (below, above)]
            axis.errorbar(x, y, yerr=error, color=color, marker=mark, markersize=5, capsize=3, label=label)
        else:
            axis.plot([], [], color=color, marker=mark, label=label)
        # where the times do not cross within the lengths that were timed
        for width, one in zip(widths, found, strict=True):
            if one.value == math.inf:
                axis.plot(width, one.lengths[1], color=color, marker=markers.CARETUP, markersize=8)
            elif one.value == 0:
                axis.plot(width, one.lengths[0], color=color, marker=markers.CARETDOWN, markersize=8)
    axis.plot(widths, widths, color=GUIDE, linestyle=":", label="n = d")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(PLAIN)
    axis.set_xlabel("width d, channels")
    axis.set_ylabel("attention is slower from n, positions")
    _doubling(axis)
    _legend(figure, axis, 1)
    return figure, (
        "Length from which self-attention takes longer than a recurrent layer, against width; triangles "
        "without an interval: beyond the lengths that were timed."
    )


_CROSSED = {
    (RECURRENT, True): (VERMILION, "s"),
    (CELLS, True): (ORANGE, "D"),
    (RECURRENT, False): (BLUE, "o"),
}

FIGURES: Mapping[str, Callable[[Facts], Drawn]] = {
    "depth": _depth,
    "paths": _paths,
    "matrices": _matrices,
    "signal": _signal,
    "time": _time,
    "crossover": _crossover,
    "accuracy": trained_figures.accuracy,
    "signal-trained": trained_figures.signal,
    "heads": trained_figures.heads,
    "sources": trained_figures.sources,
}
"""By the name of the file."""
