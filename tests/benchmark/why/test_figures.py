"""The looks of the figures: a layer has one colour, and every line can be told from the others."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from matplotlib.colors import to_hex

from benchmark.record import LayerRecord, Row
from benchmark.report.drawing import COLOR_OF
from benchmark.report.escaping import for_terminal
from benchmark.why import figures
from benchmark.why.facts import Facts
from tests.benchmark.report.records import provenance


def signals(subject: str, *sides: str | None) -> LayerRecord:
    rows = [
        Row(
            quantity="norm", value=0.5**distance, unit="1",
            conditions={"n": 8, "output": 7, "distance": distance, **({"from": side} if side else {})},
        )
        for side in sides
        for distance in range(1, 8)
    ]  # fmt: skip
    fields: dict[str, Any] = {"run_id": f"{sum(subject.encode()):016x}", "study": "why", "kind": "signal"}
    return LayerRecord(
        **fields, subject=subject, settings={}, status="done", provenance=provenance(), rows=rows
    )


def test_signals_have_the_colours_of_their_layers_and_no_two_lines_look_alike():
    records = [signals(name, None) for name in ("self-attention", "recurrent", "recurrent, forget bias 0")]
    records += [signals(name, "source", "target") for name in ("transformer", "lstm")]
    figure, _ = figures._signal(Facts(records))
    for axis, count in zip(figure.axes, (3, 4), strict=True):
        lines = axis.get_lines()
        for line in lines:
            name = str(line.get_label()).partition(",")[0].partition(" from")[0]
            assert to_hex(line.get_color()) == COLOR_OF[name]
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines}
        assert len(looks) == len(lines) == count


HOSTILE = {"\x1b[31mred": r"\x1b[31mred", r"$\x$": r"$\x$", "costs $5, or $6": "costs $5, or $6"}
"""Names, and how a figure shows them."""


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_others_act_in_no_figure(name, tmp_path):
    records = [signals(name, None), signals("recurrent", None), trained_signals(name), attention(name)]
    made = figures.draw(Facts(records), tmp_path)
    assert [file for file, _ in made] == ["signal.svg", "signal-trained.svg", "heads.svg", "sources.svg"]
    for file, caption in made:
        if file == "heads.svg":  # the words alone: the subject is in the caption
            assert HOSTILE[name] in for_terminal(caption)
        texts = "".join(ElementTree.parse(tmp_path / file).getroot().itertext())
        assert HOSTILE[name] in texts, file


def trained_signals(name: str) -> LayerRecord:
    rows = [
        Row(
            quantity="norm", value=0.5**distance, unit="1",
            conditions={"n": 8, "from": "source", "training": training, "distance": distance},
        )
        for training in ("before", "after")
        for distance in range(1, 8)
    ]  # fmt: skip
    return signals(name, None).model_copy(
        update={"subject": f"{name}, seed 0", "settings": {"run": "a"}, "rows": rows, "run_id": "a" * 16}
    )


def attention(word: str) -> LayerRecord:
    rows = [Row(quantity="words", value=2, unit="1", conditions={"source": [word] * 2, "target": [word] * 2})]
    rows += [
        Row(
            quantity="attention", value=1, unit="1", samples=[0.25, 0.75],
            conditions={"part": part, "layer": 1, "head": 1, "query": query},
        )
        for part in ("encoder", "source")
        for query in range(2)
    ]  # fmt: skip
    return signals("transformer", None).model_copy(
        update={"kind": "attention", "subject": f"transformer on {word}, seed 0", "rows": rows}
    )
