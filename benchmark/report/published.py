"""What the literature reports, in tables of its own beside those that were measured."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, model_validator
from ruamel.yaml import YAML

from benchmark.report.layout import NOT_MEASURED, Column, Table

_KNOWN = {
    "read": "Read in the source.",
    "computed": "Computed from figures that were read in the source.",
    "collected": "Collected as later papers quote them.",
}


class Published(BaseModel):
    """One table of `published.yaml`. Figures are texts, with the digits of their source; `null` is one that
    was not given there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    beside: tuple[str, ...]
    """Presets of tasks, or parts of the reproduction of section 4."""
    known: Literal["read", "computed", "collected"]
    """How the figures are known; what is only remembered has no place here."""
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_regular(self) -> Published:
        if not self.source or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: has no source, or a row of another length than its columns")
        return self


@functools.cache
def published() -> tuple[Published, ...]:
    """All of them."""
    text = resources.files("benchmark.report").joinpath("published.yaml").read_text(encoding="utf-8")
    return TypeAdapter(tuple[Published, ...]).validate_python(YAML(typ="base", pure=True).load(text))


def published_tables(topics: Iterable[str]) -> list[Table]:
    """Those that stand beside one of the topics."""
    wanted = set(topics)
    return [_table(one) for one in published() if wanted & set(one.beside)]


def _table(one: Published) -> Table:
    return Table(
        title=one.title,
        heading=["not measured here"],
        columns=[Column(title=(name,), is_text=number == 0) for number, name in enumerate(one.columns)],
        rows=[[NOT_MEASURED if text == "null" else text for text in row] for row in one.rows],
        labels=1,
        remarks=[f"Source: {one.source}. {_KNOWN[one.known]}"],
        last_notes=list(one.remarks),
    )
