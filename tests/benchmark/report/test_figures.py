"""Figures for papers: one for each quantity, the same bytes twice, and what they draw is in the records."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.report import figures
from benchmark.report.charts import Axis, Chart, Point, front_field, mark_front, study_charts
from benchmark.report.curves import with_curves
from benchmark.report.drawing import BLUE, VERMILION, save
from benchmark.report.figures import draw_chart, write_figures
from benchmark.report.looks import looks
from benchmark.report.study_results import load_study
from benchmark.store import StorageError
from tests.benchmark.report.records import scores, speed_record, train_record
from tests.benchmark.report.test_charts import timed
from tests.benchmark.report.test_html import runs
from tests.benchmark.why import synthetic


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


def test_a_figure_is_as_wide_as_a_column_or_a_page(study_folder, tmp_path):
    layers = [
        record.model_copy(update={"run_id": f"{0xF000 + number:016x}"})
        for number, record in enumerate(synthetic.records())
    ]
    folder = study_folder(*runs(), speed_record(), *layers)
    written = write_figures(load_study(folder), folder, tmp_path / "out", "svg")
    assert {"depth", "time", "crossover"} <= {path.stem for path in written}
    for path in written:
        width = re.search(r'width="([0-9.]+)pt"', path.read_text())
        assert width is not None
        assert float(width[1]) / 72 in (pytest.approx(3.35), pytest.approx(6.7)), path.name


def test_what_is_drawn_is_what_the_charts_hold(folder):
    study = load_study(folder)
    charts = {chart.name: chart for chart in study_charts(study, with_curves(study.train_records, folder))}
    chart = charts["curves-1"]
    loss = next(axis for axis in chart.y if axis.field == "loss")
    figure = draw_chart(chart, chart.x[0], loss, looks(list(charts.values())))
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


def test_names_from_others_leave_a_drawing_well_formed(study_folder, tmp_path, recwarn):
    hostile = [
        train_record(f"{number:016x}", f"\x1b[31mred\x00{number}", scores=scores({("test", "bleu"): 30.0}))
        for number in range(2)
    ]
    for path in write_figures(load_study(study_folder(*hostile)), tmp_path, tmp_path / "out", "svg"):
        ElementTree.parse(path)
        assert r"\x1b[31mred\x000" in path.read_text()
    assert [str(one.message) for one in recwarn] == []


def test_points_on_the_front_are_filled_and_dominated_ones_hollow(study_folder):
    """Quality and speed of three rows: one is worse in both than another."""
    made = [
        train_record(
            f"{number:016x}", model, scores=scores({("test", "bleu"): quality}),
            train_target_tokens_per_second=speed, train_seconds=1e6 / speed,
        )
        for number, (model, quality, speed) in enumerate(
            [("lstm-small", 30.0, 100.0), ("convs2s-small", 31.0, 90.0), ("transformer-small", 29.0, 95.0)]
        )
    ]  # fmt: skip
    (chart,) = study_charts(load_study(study_folder(*made)), {})
    for x in chart.x:
        if x.field not in ("train", "seconds"):
            continue
        figure = draw_chart(chart, x, chart.y[0], looks([chart]))
        hollow = {
            str(bars.get_label()): bars.lines[0].get_markerfacecolor() == "white"
            for bars in figure.axes[0].containers
            if isinstance(bars, ErrorbarContainer)
        }
        assert hollow == {"lstm-small": False, "convs2s-small": False, "transformer-small": True}
        plt.close(figure)


def test_equal_points_do_not_dominate_each_other_and_fewer_seconds_are_better():
    x, y = Axis(field="x", label="training, s", less_is_better=True), Axis(field="y", label="y")
    values = ((1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (None, 5.0))
    points: list[Point] = [{"x": across, "y": up} for across, up in values]
    mark_front(points, x, y)
    assert [point.get(front_field(x, y)) for point in points] == [True, True, False, None]


def test_a_series_keeps_its_colour_in_all_charts_and_shares_it_with_its_layer():
    def chart(*series: tuple[str, str | None]) -> Chart:
        points: list[Point] = [{"series": name, "subject": subject} for name, subject in series]
        return Chart(
            name="", section="layers", title="", caption="", kind="curves", points=points,
            x=[Axis(field="x", label="")],
        )  # fmt: skip

    many = chart(*((f"model {number}", None) for number in range(12)))
    layers = chart(
        ("other, pass forward", "other"), ("other, pass backward", "other"),
        ("self-attention, pass forward", "self-attention"), ("recurrent", None),
        ("model 1", None),
        ("self-attention, pass backward", "self-attention"),
    )  # fmt: skip
    found = looks([many, layers])
    assert found["self-attention, pass forward"].color == found["self-attention, pass backward"].color == BLUE
    assert found["recurrent"].color == VERMILION
    assert found["other, pass forward"].color == found["other, pass backward"].color not in (BLUE, VERMILION)
    assert len({found[f"model {number}"].color for number in range(8)}) == 8
    for one in (many, layers):
        assert len({found[str(point["series"])] for point in one.points}) == len(one.points)


def test_the_interval_of_a_speed_is_drawn_across(study_folder):
    study = load_study(study_folder(*runs(), timed()))
    chart = next(one for one in study_charts(study, {}) if one.kind == "scatter")
    across = {axis.field: axis for axis in chart.x}
    for field, expected in (("compared", True), ("train", False)):
        figure = draw_chart(chart, across[field], chart.y[0], looks([chart]))
        bars = [one for one in figure.axes[0].containers if isinstance(one, ErrorbarContainer)]
        assert bars and all(one.has_xerr == expected and one.has_yerr for one in bars)
        plt.close(figure)


def test_a_long_name_leaves_room_for_its_interval():
    name = ", ".join(["a condition of many"] * 12)
    points: list[Point] = [{"series": "a", "label": name, "value": 2.0, "low": 1.0, "high": 3.0}]
    x = Axis(field="value", label="ratio", low="low", high="high")
    chart = Chart(name="a", section="speed", title="", caption="", kind="intervals", points=points, x=[x])
    figure = draw_chart(chart, x, None, looks([chart]))
    figure.canvas.draw()
    assert figure.axes[0].get_position().width > 0.3
    assert figure.axes[0].get_yticklabels()[0].get_text().replace("\n", " ") == name


def test_old_figures_stay_until_all_new_ones_are_drawn(study_folder, tmp_path, monkeypatch):
    folder, output = study_folder(*runs()), tmp_path / "figures"
    written = write_figures(load_study(folder), folder, output, "svg")
    before = {path: path.read_bytes() for path in written}
    study_folder(*runs(seeds=range(5)))
    drawn = []

    def stopped(figure, path, form):
        drawn.append(path)
        if len(drawn) == len(written):
            raise OSError(28, "No space left on device")
        save(figure, path, form)

    monkeypatch.setattr(figures, "save", stopped)
    with pytest.raises(StorageError, match="figures: cannot be written: No space left on device"):
        write_figures(load_study(folder), folder, output, "svg")
    assert {path: path.read_bytes() for path in output.iterdir()} == before
