"""Every point of a page's charts, read back from its data against the files of the records."""

import math
import statistics
from typing import Any

import numpy as np
import pytest

from tests.benchmark.report.reading import (
    half_width,
    points_of,
    read_page,
    read_records,
    score,
    section,
    split_and_metric,
)
from tests.benchmark.report.test_page_numbers import TRAINED

TIMED = ("speed", "speed-base", "multi30k-en-de")
WHY = ("why", "why-h200")


def near(value):
    """A page holds seven digits of a number."""
    return None if value is None else pytest.approx(value, rel=1e-6, abs=1e-12)


def with_ends(name, values):
    middle, half = statistics.fmean(values), half_width(values)
    ends = (None, None) if half is None else (middle - half, middle + half)
    return {name: near(middle), f"{name}_low": near(ends[0]), f"{name}_high": near(ends[1])}


def charts_of(page, name):
    return {chart["title"]: chart for chart in page.charts.values() if chart["section"] == name}


def rows_of(table, records):
    """The runs of each row, by what charts call it."""
    return {
        f"{row['model']} {row.get('settings', '')}".strip(): [records[run_id] for run_id in ids]
        for row, ids in zip(table.rows, table.runs, strict=True)
    }


@pytest.fixture(params=TRAINED)
def study(request):
    page, records = read_page(request.param), read_records(request.param)
    return page, records


def test_quality_and_speed_are_those_of_the_table(study):
    page, records = study
    charts = charts_of(page, "quality")
    for table in section(page, "comparison"):
        if len(table.rows) < 2:
            assert table.title not in charts, "one row is no comparison"
            continue
        chart, rows = charts.pop(table.title), rows_of(table, records)
        points = {point["label"]: point for point in points_of(chart)}
        assert points.keys() == rows.keys()
        for name, mine in rows.items():
            point = points[name]
            for field, key in (
                ("train", "train_target_tokens_per_second"),
                ("generate", "generate_sentences_per_second"),
                ("parameters", "parameters"),
                ("seconds", "train_seconds"),
            ):
                values = [one[key] for one in mine if one[key] is not None]
                assert point[field] == (near(statistics.median(values)) if values else None)
            for axis in chart["y"]:
                values = [score(one, *split_and_metric(axis["label"])) for one in mine]
                expected = with_ends(axis["field"], values)
                assert {key: point[key] for key in expected} == expected
        timed = [one for one in records.values() if one["kind"] == "speed"]
        rates = {
            row["model"]: [row[end] for end in ("value", "low", "high")]
            for record in timed
            for row in record["rows"]
            if (row["phase"], row["quantity"]) == ("train", "target_tokens_per_second")
        }
        for point in points.values():
            found = [point[name] for name in ("compared", "compared_low", "compared_high")]
            assert found in ([None] * 3, [near(one) for one in rates.get(point["series"], [])])
        for across in chart["x"]:
            for up in chart["y"]:
                check_front(points.values(), across, up)
    assert not charts


def check_front(points, x, y):
    """That exactly those are marked which no other point dominates."""

    def goods(point):
        return [point[axis["field"]] * (-1 if axis["less_is_better"] else 1) for axis in (x, y)]

    placed = [point for point in points if point[x["field"]] is not None and point[y["field"]] is not None]
    for point in placed:
        mine = goods(point)
        dominated = any(
            all(theirs >= ours for theirs, ours in zip(goods(other), mine, strict=True))
            and goods(other) != mine
            for other in placed
        )
        assert point[f"front_{x['field']}_{y['field']}"] is not dominated


def test_learning_curves_are_those_of_the_records(study):
    page, records = study
    charts = charts_of(page, "curves")
    for table in section(page, "comparison"):
        chart = charts.pop(table.title)
        points = {(point["series"], point["step"]): point for point in points_of(chart)}
        expected: dict[Any, Any] = {}
        for name, mine in rows_of(table, records).items():
            for record in mine:
                for validation in record["curve"]:
                    expected.setdefault((name, validation["step"]), []).append(validation)
        assert points.keys() == expected.keys()
        for key, found in expected.items():
            point = points[key]
            assert point["seeds"] == len(found)
            assert point["tokens"] == near(statistics.fmean(one["train_target_tokens"] for one in found))
            assert point["seconds"] == near(statistics.fmean(one["train_seconds"] for one in found))
            of_loss = with_ends("loss", [one["validation_loss"] for one in found])
            assert {name: point[name] for name in of_loss} == of_loss
            metrics = {score["metric"] for one in found for score in one["scores"]}
            for metric in metrics:
                values = [
                    score["value"] for one in found for score in one["scores"] if score["metric"] == metric
                ]
                of_metric = with_ends(f"metric_{metric}", values)
                assert {name: point[name] for name in of_metric} == of_metric
    assert not charts


def test_accuracy_against_distance_is_that_of_the_records():
    page, records = read_page("why"), read_records("why")
    charts = charts_of(page, "distance")
    for table in section(page, "comparison"):
        chart, rows = charts.pop(table.title), rows_of(table, records)
        points = points_of(chart)
        splits = {one["split"] for mine in rows.values() for one in mine[0]["scores"]} - {"validation"}
        assert len(points) == len(rows) * len(splits)
        for point in points:
            inside = "_trained" if point["label"] == "trained" else ""
            split = f"distance_{point['distance']:.0f}{inside}"
            for axis in chart["y"]:
                metric = axis["field"].removeprefix("metric_")
                values = [score(one, split, metric) for one in rows[point["series"]]]
                expected = with_ends(axis["field"], values)
                assert {name: point[name] for name in expected} == expected
    assert not charts


@pytest.mark.parametrize("name", TIMED)
def test_the_bars_of_speeds_are_those_of_the_record(name):
    page, records = read_page(name), read_records(name)
    charts = [chart for chart in page.charts.values() if chart["section"] == "speed"]
    assert charts
    for record in (one for one in records.values() if one["kind"] == "speed"):
        for chart in [one for one in charts if record["run_id"] in one["name"]]:
            quantity = chart["title"].removeprefix("Speed: ").replace(" ", "_")
            rows = [row for row in record["rows"] if row["quantity"] == quantity and row["low"] is not None]
            points = points_of(chart)
            for point, row in zip(points, rows, strict=True):
                assert point["series"] == row["model"]
                assert point["label"].startswith(f"{row['model']}, {row['phase']}")
                assert [point[end] for end in ("value", "low", "high")] == [
                    near(row[end]) for end in ("value", "low", "high")
                ]
            charts.remove(chart)
    assert not charts


def measured(records, kind):
    """By subject, the rows of the largest record of a kind."""
    found: dict[Any, Any] = {}
    for record in records.values():
        if record["kind"] == kind and record["status"] == "done":
            known = found.get(record["subject"], [])
            found[record["subject"]] = max(known, record["rows"], key=len)
    return found


@pytest.mark.parametrize("name", WHY)
def test_depth_paths_and_operations_of_layers_are_those_of_the_records(name):
    page, records = read_page(name), read_records(name)
    for kind, quantity in (("span", "kernel_depth"), ("path", "hops"), ("complexity", "operations")):
        chart, by_subject = page.charts[f"layers-{kind}"], measured(records, kind)
        seen = set()
        for point in points_of(chart):
            subject = max((one for one in by_subject if point["series"].startswith(one)), key=len)
            told = point["series"].removeprefix(subject).strip(", ")
            conditions = dict(part.split(" ", 1) for part in told.split(", ") if part)
            widths = [row["conditions"].get("d", 0) for row in by_subject[subject]]
            values = {
                row["value"]
                for row in by_subject[subject]
                if row["quantity"] == quantity
                and row["conditions"]["n"] == point["x"]
                and row["conditions"].get("d", 0) == max(widths)
                and all(str(row["conditions"][one]) == value for one, value in conditions.items())
            }
            assert [near(one) for one in values] == [point["value"]], point
            seen.add(subject)
        assert seen == set(by_subject)


@pytest.mark.parametrize("name", WHY)
def test_times_of_layers_are_those_of_the_records(name):
    page, records = read_page(name), read_records(name)
    expected = {}
    for subject, rows in measured(records, "time").items():
        for row in rows if subject.startswith("layers, d = ") else []:
            at = row["conditions"]
            if row["quantity"] == "seconds" and at["pass"] == "forward and backward":
                own = f"{'full' if at['full'] else 'one'}_{at['d']}"
                for end, field in (("value", own), ("low", f"{own}_low"), ("high", f"{own}_high")):
                    expected[at["layer"], at["n"], field] = near(row[end] / at["batch"])
    points = points_of(page.charts["layers-time"])
    found = {
        (point["series"], point["x"], field): value
        for point in points
        for field, value in point.items()
        if field.startswith(("full_", "one_")) and value is not None
    }
    assert found.keys() <= expected.keys()
    assert {key: expected[key] for key in found} == found
    drawn = {point["series"] for point in points}
    assert found.keys() == {key for key in expected if key[0] in drawn}


@pytest.mark.parametrize("name", WHY)
def test_shares_of_the_peak_are_those_of_the_records(name):
    page, records = read_page(name), read_records(name)
    of_all = measured(records, "utilisation")
    charts = [chart for key, chart in page.charts.items() if key.startswith("layers-utilisation")]
    assert len(charts) == len(of_all)
    for rows in of_all.values():
        shares = [row for row in rows if row["quantity"] == "utilisation"]
        width = shares[0]["conditions"]["d"]
        points = points_of(page.charts[f"layers-utilisation-{width}"])
        for point, row in zip(points, shares, strict=True):
            at = row["conditions"]
            assert (point["series"], point["batch"]) == (at["layer"], at["batch"])
            found = [point[one] for one in ("share", "share_low", "share_high")]
            assert found == [near(row[one]) for one in ("value", "low", "high")]


def times_as_fast(records):
    """By model, devices and scaling: geometric mean over rounds, and its t-interval."""
    found = {}
    for subject, rows in measured(records, "scaling").items():
        samples = {
            (row["conditions"]["devices"], row["conditions"]["beside"], row["conditions"]["scaling"]): row[
                "samples"
            ]
            for row in rows
            if row["quantity"] == "target_tokens_per_second"
        }
        for (devices, beside, scaling), mine in samples.items():
            if devices > 1:
                logs = np.log(np.array(mine) / np.array(samples[beside, devices, scaling])).tolist()
                ends = (statistics.fmean(logs) + sign * half_width(logs) for sign in (0, -1, 1))
                key = subject.removeprefix("training, "), devices, scaling
                found[key] = [math.exp(one) for one in ends]
    return found


def test_scaling_is_that_of_the_records():
    page, records = read_page("why"), read_records("why")
    expected = times_as_fast(records)
    points = points_of(page.charts["layers-scaling"])
    assert len(points) == len(expected) == 6
    for (model, devices, scaling), interval in expected.items():
        (point,) = (one for one in points if one["label"] == f"{model}, {devices} devices, {scaling}")
        assert [point[end] for end in ("value", "low", "high")] == [near(one) for one in interval]


@pytest.mark.parametrize("name", WHY)
def test_signals_are_those_of_the_records(name):
    page, records = read_page(name), read_records(name)
    chart = page.charts.get("layers-signal")
    untrained = {key: one for key, one in records.items() if "run" not in one.get("settings", {})}
    of_all = measured(untrained, "signal")
    if chart is None:
        assert not of_all
        return
    expected = {}
    for subject, rows in of_all.items():
        norms = [row for row in rows if row["quantity"] == "norm"]
        for side in {row["conditions"].get("from") for row in norms}:
            mine = [row for row in norms if row["conditions"].get("from") == side]
            longest = max(row["conditions"]["n"] for row in norms)
            mine = [row for row in mine if row["conditions"]["n"] == longest]
            last = max(row["conditions"]["output"] for row in mine)
            series = f"{subject} from the {side}" if side else subject
            for row in mine:
                if row["conditions"]["output"] == last and row["value"] > 0:
                    expected[series, row["conditions"]["distance"]] = near(row["value"])
    assert {(point["series"], point["distance"]): point["norm"] for point in points_of(chart)} == expected
