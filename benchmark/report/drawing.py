"""What figures have in common: colours that the colour-blind tell apart, and the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure

Form = Literal["svg", "png"]
DOTS_PER_INCH = 300

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


def save(figure: Figure, path: Path, form: Form, **options: Any) -> None:
    """Write a figure: the same bytes for the same figure, without a date.

    Raises:
        OSError: the file cannot be written.
    """
    metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
    with rc_context(SAVING):
        figure.savefig(path, format=form, dpi=DOTS_PER_INCH, metadata=metadata, **options)
