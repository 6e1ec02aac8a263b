"""The looks of the figures: a layer has one colour, and every line can be told from the others."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from matplotlib.colors import to_hex

from benchmark.record import LayerRecord, Row
from benchmark.report.drawing import COLOR_OF
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


def test_a_subject_from_others_leaves_a_figure_well_formed(tmp_path):
    figures.draw(Facts([signals("\x1b[31mred", None), signals("recurrent", None)]), tmp_path)
    ElementTree.parse(tmp_path / "signal.svg")
    assert r"\x1b[31mred" in (tmp_path / "signal.svg").read_text()
