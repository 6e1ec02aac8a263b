"""Figures for papers: one for each quantity, the same bytes twice, and what they draw is in the records."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.report.charts import study_charts
from benchmark.report.curves import with_curves
from benchmark.report.figures import draw_chart, write_figures
from benchmark.report.study_results import load_study
from benchmark.store import StorageError
from tests.benchmark.report.records import speed_record
from tests.benchmark.report.test_html import runs


@pytest.fixture
def folder(study_folder):
    """Of a study with three models, their curves, and a speed record."""
    return study_folder(*runs(), speed_record())


def test_every_quantity_has_its_file_and_twice_gives_the_same_bytes(folder, tmp_path):
    study = load_study(folder)
    for form in ("svg", "png"):
        first = write_figures(study, folder, tmp_path / "a", form)
        second = write_figures(study, folder, tmp_path / "b", form)
        assert [one.name for one in first] == [one.name for one in second]
        assert [one.read_bytes() for one in first] == [one.read_bytes() for one in second]
    names = {path.stem for path in first}
    assert {"quality-1-test-bleu-by-train", "curves-1-validation-bleu-by-step"} <= names
    assert {"curves-1-validation-loss-by-step", "curves-1-validation-bleu-by-seconds"} <= names
    assert any(name.startswith("speed-") for name in names)
    for path in (tmp_path / "a").glob("*.svg"):
        width = re.search(r'width="([0-9.]+)pt"', path.read_text())
        assert width is not None and float(width[1]) / 72 in (pytest.approx(3.35), pytest.approx(6.7))


def test_what_is_drawn_is_what_the_charts_hold(folder):
    study = load_study(folder)
    charts = {chart.name: chart for chart in study_charts(study, with_curves(study.train_records, folder))}
    chart = charts["curves-1"]
    loss = next(axis for axis in chart.y if axis.field == "loss")
    figure = draw_chart(chart, chart.x[0], loss)
    (axis,) = figure.axes
    drawn = {
        str(line.get_label()): [float(y) for y in np.asarray(line.get_ydata())] for line in axis.get_lines()
    }
    expected: dict[str, list[object]] = {}
    for point in chart.points:
        expected.setdefault(str(point["series"]), []).append(point["loss"])
    assert drawn == expected and len(drawn) == 3
    assert axis.get_ylabel() == "validation loss, nats/token"
    plt.close(figure)


def test_the_command_writes_a_folder(folder, tmp_path):
    out = tmp_path / "figures"
    arguments = ["report", str(folder), "--format", "svg", "--output", str(out)]
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    assert sorted(ended.stdout.split()) == sorted(map(str, out.glob("*.svg")))


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file: cannot be written"):
        write_figures(load_study(folder), folder, Path(tmp_path / "file"), "svg")
