"""A table of texts as lines of a terminal or of Markdown. The texts are escaped here, and nowhere before."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmark.report.escaping import for_latex, for_markdown, for_terminal

BETWEEN = "  "
LONG = 60
"""Characters of a text from which on its column is broken into lines on paper."""
CHARACTERS_OF_A_COLUMN, CHARACTERS_OF_A_LINE, LINES_OF_A_PAGE = 45, 80, 36
"""On paper: of one of two columns, and of a whole page less its notes."""
NOT_MEASURED = "-"

METRIC_TITLES = {
    "bleu": ("BLEU",),
    "chrf": ("chrF",),
    "sequence_accuracy": ("sequence", "accuracy %"),
    "token_accuracy": ("token", "accuracy %"),
}
"""Metrics as tables call them, line by line."""


def metric_title(metric: str) -> str:
    """A metric as tables call it, in one line."""
    return " ".join(METRIC_TITLES.get(metric, (metric,)))


Place = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table."""

    title: tuple[str, ...]
    """The lines that a terminal shows above each other; what ends in `_` or `/` goes on in the next."""
    note: str = ""
    """What exactly the column counts, in whole sentences."""
    is_text: bool = False
    begins_part: bool = False
    """Whether a table that is too wide is cut before this column first."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as plain text. The first `labels` columns say what a row is."""

    title: str
    heading: list[str]
    columns: list[Column]
    rows: list[list[str]]
    labels: int
    remarks: list[str] = field(default_factory=list)
    """What is not in the rows and should be seen: runs that failed."""
    last_notes: list[str] = field(default_factory=list)
    """What is to be explained and belongs to no column."""
    best: frozenset[Place] = frozenset()
    """Row and column of the highest mean of each column whose differences are tested, or of what `marks`
    says.
    """
    level: frozenset[Place] = frozenset()
    """Of what the seeds do not tell from that."""
    marks: str = "the highest mean"
    runs: Sequence[Sequence[tuple[str, str]]] = ()
    """For each row, the runs behind it: what a reader calls them, and their ids."""
    records: Sequence[str] = ()
    """Ids of the runs whose records all rows together are made from, where no row has runs of its own."""

    @property
    def notes(self) -> list[str]:
        """Those of the columns, each once, and the last ones."""
        return [*dict.fromkeys(column.note for column in self.columns if column.note), *self.last_notes]


def _marks_told(table: Table, best: str, level: str) -> list[str]:
    """What the two marks of a form mean."""
    if not table.best:
        return []
    return [
        f"{best}: {table.marks}"
        + (f"; {level}: what these seeds do not tell from it." if table.level else ".")
    ]


def terminal_lines(table: Table, width: int) -> list[str]:
    """The table in lines of `width` characters; what is wider goes on below, with the labels again."""
    lines = [for_terminal(table.title)]
    for line in table.heading:
        # names and signatures stay whole
        lines += textwrap.wrap(
            for_terminal(line), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    for block in _blocks(table, width):
        height = max(len(table.columns[i].title) for i in block)
        columns = [_padded(table, i, height) for i in block]
        lines += ["", *(BETWEEN.join(cells).rstrip() for cells in zip(*columns, strict=True))]
    if table.remarks:
        lines += ["", *map(for_terminal, table.remarks)]
    lines.append("")
    for note in [*table.notes, *_marks_told(table, "*", "≈")]:
        lines += textwrap.wrap(for_terminal(note), width, subsequent_indent="  ")
    return lines


def markdown_lines(table: Table) -> list[str]:
    """The table in GitHub-flavoured Markdown, under a heading of the second level.

    Bold is the highest mean, italic what the seeds do not tell from it.
    """

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(row: int, column: int, text: str) -> str:
        mark = "**" if (row, column) in table.best else "*" if (row, column) in table.level else ""
        return f"{mark}{for_markdown(text)}{mark}"

    def items(texts: Sequence[str]) -> list[str]:
        return ["", *(f"- {for_markdown(text)}" for text in texts)] if texts else []

    notes = table.notes
    notes += _marks_told(table, "Bold", "italic")
    return [
        f"## {for_markdown(table.title)}",
        *items(table.heading),
        "",
        line(for_markdown(on_one_line(column.title)) for column in table.columns),
        "|" + "|".join(":---" if column.is_text else "---:" for column in table.columns) + "|",
        *(
            line(cell(row, column, text) for column, text in enumerate(texts))
            for row, texts in enumerate(table.rows)
        ),
        *items(table.remarks),
        *items(notes),
        *items(runs_lines(table)),
    ]


def runs_lines(table: Table) -> list[str]:
    """For each row the runs that it comes from, or those of all rows."""
    lines = [
        f"runs of {' '.join(row[: table.labels]).strip()}: {', '.join(run_id for _, run_id in runs)}"
        for row, runs in zip(table.rows, table.runs, strict=False)
        if runs
    ]
    return [*lines, *([f"from the records of {', '.join(table.records)}"] if table.records else [])]


def latex_lines(table: Table) -> list[str]:
    """The table as a float of LaTeX, over both columns of a page where it is wide, and as several floats
    where its sentences fill more than a page; the packages are booktabs, graphicx and textcomp.

    Bold is the highest mean, underlined what the seeds do not tell from it.
    """

    def head(column: Column) -> str:
        side = "l" if column.is_text else "r"
        lines = r" \\ ".join(map(for_latex, column.title))
        return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{lines}\end{{tabular}}"

    def width(number: int) -> str:
        if number in shares:
            return rf"p{{{shares[number]:.2f}\linewidth}}"
        return "l" if table.columns[number].is_text else "r"

    def cell(row: int, column: int, text: str) -> str:
        text = for_latex(text) if table.columns[column].is_text else _latex_number(text)
        if (row, column) in table.best:
            return rf"\textbf{{{text}}}"
        return rf"\underline{{{text}}}" if (row, column) in table.level else text

    shares = _shares(table)
    is_wide = bool(shares) or _characters(table) > CHARACTERS_OF_A_COLUMN
    float_name = "table*" if is_wide else "table"
    notes = [*table.heading, *table.remarks, *table.notes]
    notes += _marks_told(table, "Bold", "underlined")
    columns = "".join(map(width, range(len(table.columns))))
    parts = _pages(table, shares)
    lines = []
    for number, part in enumerate(parts):
        caption = for_latex(table.title if not number else f"{table.title}, continued")
        lines += [
            rf"\begin{{{float_name}}}[htbp]",
            r"\centering",
            *([r"\small"] if shares else []),
            rf"\caption{{{caption}}}",
            r"\sbox0{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(head, table.columns)) + r" \\",
            r"\midrule",
            *(
                " & ".join(cell(row, column, text) for column, text in enumerate(table.rows[row])) + r" \\"
                for row in part
            ),
            r"\bottomrule",
            r"\end{tabular}}",
            # no wider than the text, and not blown up to it
            r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi",
            *(latex_notes(notes) if part is parts[-1] else []),
            rf"\end{{{float_name}}}",
        ]
    return [*lines, *(f"% {for_latex(line)}" for line in runs_lines(table))]


def latex_notes(notes: Sequence[str]) -> list[str]:
    """Small lines of LaTeX."""
    if not notes:
        return []
    lines = [rf"{for_latex(note)}\par" for note in notes]
    return [r"\par\smallskip{\footnotesize\raggedright", *lines, "}"]


def _shares(table: Table) -> dict[int, float]:
    """By the number of a column with sentences: its share of the line."""
    long = [
        number
        for number, column in enumerate(table.columns)
        if column.is_text and max((len(row[number]) for row in table.rows), default=0) > LONG
    ]
    # a fifth of the line for each column beside them
    rest = max(0.4, 0.95 - 0.2 * (len(table.columns) - len(long)))
    return {number: rest / len(long) for number in long}


def _characters(table: Table) -> int:
    """Of the longest cell or line of a title in every column, and what is between them."""
    return sum(
        2 + max(map(len, (*column.title, *(row[number] for row in table.rows))))
        for number, column in enumerate(table.columns)
    )


def _pages(table: Table, shares: Mapping[int, float]) -> list[list[int]]:
    """Rows that a page has room for, by what their sentences are estimated to take; at least one part."""
    parts: list[list[int]] = [[]]
    used = 0
    for number, row in enumerate(table.rows):
        lines = max(
            (-(-len(row[one]) // int(CHARACTERS_OF_A_LINE * share)) for one, share in shares.items()),
            default=0,
        )
        if parts[-1] and used + lines > LINES_OF_A_PAGE:
            parts.append([])
            used = 0
        parts[-1].append(number)
        used += lines
    return parts


def _latex_number(text: str) -> str:
    """With a minus sign, and powers of ten written out."""
    text = re.sub(r"(?<![\w.])-(?=[0-9])", "MINUS", text)
    found = re.fullmatch(r"([0-9.]+)e([+-]?)0*([0-9]+)", text)
    if found is not None:
        return rf"${found[1]}\times10^{{{found[2].strip('+')}{found[3]}}}$"
    return for_latex(text).replace("MINUS", "$-$")


def on_one_line(title: Sequence[str]) -> str:
    """A column's title without its line ends."""
    return "".join(line if line.endswith(("_", "/")) else f"{line} " for line in title).rstrip()


def _blocks(table: Table, width: int) -> list[list[int]]:
    """Columns of the blocks below each other. Each has the labels; none is wider than it need be."""
    widths = [_width(_padded(table, i, 0)[0]) + len(BETWEEN) for i in range(len(table.columns))]
    labels = list(range(table.labels))
    if sum(widths) - len(BETWEEN) <= width:
        return [list(range(len(table.columns)))]
    blocks = [list(labels)]
    for column in range(table.labels, len(table.columns)):
        used = sum(widths[i] for i in blocks[-1]) + widths[column] - len(BETWEEN)
        if len(blocks[-1]) > len(labels) and (used > width or table.columns[column].begins_part):
            blocks.append(list(labels))
        blocks[-1].append(column)
    return blocks


def _padded(table: Table, index: int, height: int) -> list[str]:
    """Title lines (at least `height`), a rule and the cells of a column, all equally wide."""
    column = table.columns[index]
    title = [for_terminal(line) for line in column.title]
    title = [""] * (height - len(title)) + title
    cells = [for_terminal(row[index]) for row in table.rows]
    marks = [
        "*" if (row, index) in table.best else "≈" if (row, index) in table.level else " "
        for row in range(len(cells))
    ]
    if set(marks) - {" "}:
        cells = [f"{cell} {mark}" for cell, mark in zip(cells, marks, strict=True)]
    width = max(map(_width, (*title, *cells)))

    def pad(text: str) -> str:
        blanks = " " * (width - _width(text))
        return text + blanks if column.is_text else blanks + text

    return [*map(pad, title), "-" * width, *map(pad, cells)]


def _width(text: str) -> int:
    """Terminal columns that `text` takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
