"""What figures have in common: widths, colours that the colour-blind tell apart, the same bytes each time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

Form = Literal["svg", "png"]
DOTS_PER_INCH = 300
WIDTH = 3.35
"""Inches: one column of two on a page of A4 or letter; what is wider takes both."""
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "text.parse_math": False,  # names may hold any character
    "axes.grid": True,
    "grid.alpha": 0.25,
}
"""Of everything that is drawn: it takes effect where a text is made, and so has to hold all the while."""

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, GREY, BROWN = "#e69f00", "#56b4e9", "#7f7f7f", "#a6761d"
"""Okabe and Ito's, and two; as on the page."""
GUIDE = "#999999"
"""Of lines that are not measured."""
OTHER = "#555555"
COLOR_OF = {
    "self-attention": BLUE,
    "recurrent": VERMILION,
    "recurrent, cell by cell": ORANGE,
    "convolution, k = 3": GREEN,
    "dilated convolution, k = 3": GREEN,
    "restricted self-attention, r = 8": SKY,
    "restricted self-attention, r = 32": SKY,
    "separable convolution, k = 3": PURPLE,
    "transformer": BLUE,
    "convs2s": GREEN,
    "lstm": VERMILION,
}
"""Of layers and models that several figures of one page show."""

SAVING: Any = {"svg.hashsalt": "seqbench", "svg.fonttype": "none"}


def figure_of(width: float, height: float) -> Figure:
    """An empty one, in inches; pyplot, which keeps every figure, knows nothing of it."""
    return Figure(figsize=(width, height), layout="constrained")


def panels(number: int, columns: int, height: float, sharey: bool = False) -> tuple[Figure, list[Any]]:
    """A figure as wide as a page with so many axes, `columns` in a row; `height` inches of a row."""
    rows = -(-number // columns)
    figure = figure_of(2 * WIDTH, height * rows)
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flat
    for unused in axes[number:]:
        unused.remove()
    return figure, list(axes[:number])


def plain_ticks(side: Any) -> None:
    """On a logarithmic axis numbers as they are, in place of powers of ten; also where it is shorter than one
    of ten.
    """
    low, high = side.get_view_interval()
    is_short = math.log10(high / low) <= 3
    side.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_short else (1.0,)))
    side.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,g}"))
    side.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path, form: Form) -> None:
    """Write a figure: the same bytes for the same figure, without a date.

    Raises:
        OSError: the file cannot be written.
    """
    metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
    with rc_context(SAVING):
        figure.savefig(path, format=form, dpi=DOTS_PER_INCH, metadata=metadata)
