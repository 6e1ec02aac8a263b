"""Text from others (names, reasons of failures) acts in no terminal, Markdown, LaTeX or spreadsheet."""

from __future__ import annotations

import re

from benchmark.config import one_line

_MARKDOWN = re.compile(
    r"[\\`*\[\]<>#|~!$&{}]|@(?=\w)|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])|(?<=:)//|(?<=\bwww)\."
)


def for_terminal(text: str) -> str:
    """One line in which control characters, direction marks and line separators are shown, not obeyed."""
    return one_line(text)


def for_markdown(text: str) -> str:
    """One line that every Markdown reader shows as it is: no table cell, link, HTML, emphasis or mention."""

    def escaped(match: re.Match[str]) -> str:
        return "".join({"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, f"\\{c}") for c in match.group())

    return _MARKDOWN.sub(escaped, one_line(text))


_LATEX = {
    **{c: f"\\{c}" for c in "#$%&_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{\char34}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    "-": "{-}",  # no dashes from `--`, no ligatures
    "±": r"$\pm$",
    "×": r"$\times$",
    "…": r"\dots{}",
}


def for_latex(text: str) -> str:
    """One line that pdfLaTeX sets as it is; a character outside Latin 1 is given by its number."""

    def escaped(character: str) -> str:
        if character in _LATEX:
            return _LATEX[character]
        if " " <= character <= "~" or "\xa1" <= character <= "\xff":
            return character
        return f"U+{ord(character):04X}"

    return "".join(map(escaped, one_line(text)))


def for_csv(value: object) -> object:
    """A cell that a spreadsheet takes for no formula."""
    if isinstance(value, str):
        value = one_line(value)
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return value
