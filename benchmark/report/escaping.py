"""Text from others (names, reasons of failures) cannot act in a terminal or in Markdown."""

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
