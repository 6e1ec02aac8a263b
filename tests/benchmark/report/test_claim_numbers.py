"""Numbers that the claims of `results/why` are decided by, read back against the files of the records."""

import html
import math
import re
import statistics
from typing import Any

import numpy as np
import pytest

from benchmark.report.rounding import count, with_half_width, with_interval, without_spread
from tests.benchmark.report.reading import (
    RESULTS,
    first_test_split,
    half_width,
    mean_of,
    read_page,
    read_records,
    score,
    section,
)
from tests.benchmark.report.test_chart_numbers import measured
from tests.benchmark.report.test_why_page_numbers import at, of_sizes, series

LAYERS = ("self-attention", "recurrent", "convolution, k = 3", "restricted self-attention, r = 8")
CLAIM = re.compile(r'<article class="claim"[^>]* id="([^"]*)">.*?</span>: (.*?)</p>', re.DOTALL)


@pytest.fixture(scope="module")
def effects():
    """By the number of a claim, what was measured."""
    text = (RESULTS / "why" / "report" / "index.html").read_text()
    return {number: html.unescape(effect) for number, effect in CLAIM.findall(text)}


@pytest.fixture(scope="module")
def articles():
    """By the number of a claim, all that is said of it."""
    text = (RESULTS / "why" / "report" / "index.html").read_text()
    found = re.findall(r'<article class="claim"[^>]* id="([^"]*)">(.*?)</article>', text, re.DOTALL)
    return {number: html.unescape(article) for number, article in found}


@pytest.fixture(scope="module")
def records():
    return read_records("why")


def test_depth_over_length(effects, records):
    spans = measured(records, "span")
    for layer in LAYERS:
        depth = series(spans[layer], "kernel_depth", **{"pass": "forward"})
        assert f"{layer} {count(depth[min(depth)])} to {count(depth[max(depth)])}" in effects["S4.3"]
    ideal, depth = (
        series(spans["recurrent"], quantity, **{"pass": "forward"})
        for quantity in ("ideal_depth", "kernel_depth")
    )
    longest = max(depth)
    assert effects["I.1"] == (
        f"at n = {longest} a chain of {count(depth[longest])} operations, "
        f"{without_spread(depth[longest] / longest)} for each position; with ideally many processors "
        f"{count(ideal[longest])} steps"
    )


def test_paths_over_length(effects, records):
    paths = measured(records, "path")
    for layer in (
        "self-attention",
        "recurrent",
        "restricted self-attention, r = 8",
        "dilated convolution, k = 3",
    ):
        hops = series(paths[layer], "hops")
        assert f"{layer} {'/'.join(map(count, hops.values()))}" in effects["S4.4"]


def test_depth_of_models(effects, records):
    for model in ("transformer", "lstm"):
        passes = [
            series(measured(records, "span")[model], "kernel_depth", **{"pass": name})
            for name in ("teacher forcing", "backward of teacher forcing")
        ]
        both = series(
            measured(records, "span")[model],
            "kernel_depth",
            **{"pass": "teacher forcing, forward and backward"},
        )
        found = both or {n: passes[0][n] + passes[1][n] for n in passes[0]}
        assert f"{model} {'/'.join(map(count, found.values()))}" in effects["I.5"]


def test_cost_of_convolutions(effects, records):
    counted = measured(records, "complexity")
    for kernel in (3, 5, 9):
        one, other = (
            {
                (row["conditions"]["n"], row["conditions"]["d"]): row["value"]
                for row in counted[layer]
                if row["quantity"] == "mixing_operations"
            }
            for layer in (f"convolution, k = {kernel}", "recurrent")
        )
        (ratio,) = {one[point] / other[point] for point in one.keys() & other.keys()}
        assert f"k = {kernel}: {without_spread(ratio)}" in effects["S4.10"]


def test_restricted_attention_at_the_longest(effects, records):
    rows = [
        row
        for row in of_sizes(records)
        if row["quantity"] == "seconds"
        and at(row, full=True, n=1024, d=512, **{"pass": "forward and backward"})
    ]
    by_layer = {row["conditions"]["layer"]: row["samples"] for row in rows}
    logs = np.log(
        np.array(by_layer["self-attention"]) / np.array(by_layer["restricted self-attention, r = 32"])
    ).tolist()
    low, high = (math.exp(statistics.fmean(logs) + sign * half_width(logs)) for sign in (-1, 1))
    text = with_half_width(math.exp(statistics.fmean(logs)), (high - low) / 2)
    assert f"full attention takes {text} times as long as r = 32" in effects["S4.8"]


def test_accuracies_at_the_ends_of_the_trained_distances(effects, records):
    checked = 0
    for table in section(read_page("why"), "comparison"):
        task = table.title.removeprefix("why: ").partition(",")[0]
        for row, ids in zip(table.rows, table.runs, strict=True):
            mine = [records[run_id] for run_id in ids]
            trained = [
                int(one["split"].split("_")[1])
                for one in mine[0]["scores"]
                if one["split"].endswith("_trained") and one["metric"] == "sequence_accuracy"
            ]
            far, near = (
                mean_of([score(one, f"distance_{end(trained)}_trained", "sequence_accuracy") for one in mine])
                for end in (max, min)
            )
            if row["model"] in ("transformer", "lstm"):
                assert f"{row['model']} {far} (from {near})" in effects["S4.5"], task
                checked += 1
    assert checked == 4


def test_quality_and_cost_of_translation(articles):
    """BLEU over all devices; seconds of the one on which all models were trained. A study whose models took
    other seconds is among the conditions.
    """
    for study, at_equal in (("multi30k-en-de", ""), ("grammar-translation", "equal seconds")):
        page, found = read_page(study), read_records(study)
        tables = [one for one in section(page, "comparison") if one.title.endswith(at_equal)]
        by_model: dict[str, list[Any]] = {}
        for table in tables:
            for row, ids in zip(table.rows, table.runs, strict=True):
                by_model.setdefault(row["model"], []).extend(found[run_id] for run_id in ids)
        assert len(by_model) == 3
        for model, mine in by_model.items():
            bleu = mean_of([score(one, first_test_split(one), "bleu") for one in mine])
            assert f"{model} {bleu}" in articles["C.1"]
        (whole,) = (table for table in tables if len(table.rows) == 3)
        for row, ids in zip(whole.rows, whole.runs, strict=True):
            seconds = statistics.median(found[run_id]["train_seconds"] for run_id in ids)
            assert f"{row['model']} {without_spread(seconds)}" in articles["C.1"]


def test_speed_of_training(effects):
    parts = []
    for study in ("multi30k-en-de", "speed", "speed-base"):
        for record in read_records(study).values():
            if record["kind"] != "speed":
                continue
            noise = max(
                max(row["value"], 1 / row["value"])
                for row in record["rows"]
                if row["quantity"] == "noise_floor"
            )
            for row in record["rows"]:
                baseline = str(row["conditions"].get("baseline"))
                is_train = (row["phase"], row["quantity"]) == ("train", "speed_ratio")
                if (
                    is_train
                    and baseline.startswith("transformer")
                    and not row["model"].startswith("transformer")
                ):
                    interval = with_interval(row["value"], row["low"], row["high"])
                    device = record["provenance"]["device"]
                    parts.append(f"{study}: {row['model']} {interval} times (A/A {noise:.3f}, {device})")
    assert effects["C.2"].partition(": ")[2].split("; ") == parts
