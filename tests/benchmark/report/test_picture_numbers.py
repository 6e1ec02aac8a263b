"""What the pictures of `seqbench why` show, read from the drawn figures against the files of the records.

That the committed pages hold these pictures is tested where pages are made again.
"""

import itertools
import math
import statistics

import numpy as np
import pytest
from matplotlib import rc_context

from benchmark.report.drawing import STYLE
from benchmark.report.study_results import load_study
from benchmark.why.facts import Facts
from benchmark.why.figures import FIGURES
from tests.benchmark.report.reading import RESULTS, half_width, read_records
from tests.benchmark.report.test_chart_numbers import WHY, measured
from tests.benchmark.report.test_learned_claim_numbers import TASKS, accuracies, ends
from tests.benchmark.report.test_timed_claim_numbers import (
    ATTENTION,
    BOTH,
    CELLS,
    RECURRENT,
    crossing_values,
    widths,
)
from tests.benchmark.report.test_why_page_numbers import of_sizes

MODELS = ("transformer", "convs2s", "lstm")


@pytest.fixture(scope="module")
def facts():
    return {name: Facts.of(load_study(RESULTS / name)) for name in WHY}


def drawn(facts, name):
    with rc_context(STYLE):
        figure, _ = FIGURES[name](facts)
    return figure


@pytest.mark.parametrize("study", WHY)
def test_matrices_of_hops(facts, study):
    paths = measured(read_records(study), "path")
    axes = [axis for axis in drawn(facts[study], "matrices").axes if axis.get_title()]
    assert len(axes) == 5
    for axis in axes:
        rows = [
            one for one in paths[axis.get_title().replace("\n", ", ")] if one["quantity"] == "hops_between"
        ]
        (image,) = axis.get_images()
        shown = np.ma.filled(image.get_array(), np.nan)
        expected = np.full_like(shown, np.nan)
        for row in rows:
            expected[row["conditions"]["to"], row["conditions"]["from"]] = row["value"]
        np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("study", WHY)
def test_crossovers(facts, study):
    times = {
        tuple(row["conditions"][name] for name in ("layer", "full", "d", "n")): row
        for row in of_sizes(read_records(study))
        if row["quantity"] == "seconds" and row["conditions"]["pass"] == BOTH
    }
    (axis,) = drawn(facts[study], "crossover").axes
    points, beyond = {}, set()
    for container in axis.containers:
        line, caps, _ = container.lines
        low, high = (cap.get_ydata() for cap in caps)
        points[container.get_label()] = dict(
            zip(line.get_xdata(), zip(line.get_ydata(), low, high, strict=True), strict=True)
        )
    for line in axis.get_lines():
        if len(line.get_xdata()) == 1 and line.get_marker() in (6, 7, "6", "7"):
            beyond.add((line.get_xdata()[0], line.get_ydata()[0]))
    expected, outside = {}, set()
    for (other, what), full in itertools.product(
        ((RECURRENT, "fused LSTM"), (CELLS, "LSTM cell by cell")), (True, False)
    ):
        if (other, full) == (CELLS, False):
            continue
        mine = {}
        for width in widths(times):
            (middle, low, high), shortest, longest = crossing_values(times, ATTENTION, other, full, width)
            if 0 < middle < math.inf:
                mine[width] = tuple(map(pytest.approx, (middle, max(low, shortest), min(high, longest))))
            else:
                outside.add((width, longest if middle else shortest))
        if mine:
            expected[f"{what}, {'full batches' if full else 'one sequence'}"] = mine
    assert points == expected
    assert beyond == outside


def test_accuracy_against_distance(facts):
    axes = drawn(facts["why"], "accuracy").axes
    records = read_records("why")
    for axis, task in zip(axes, TASKS, strict=True):
        assert axis.get_title() == f"{task} (trained up to distance {ends(records, task, 'lstm')[3]})"
        assert {container.get_label() for container in axis.containers} == set(MODELS)
        for container in axis.containers:
            found = accuracies(records, task, container.get_label())
            line, (low, high), _ = container.lines
            assert list(line.get_xdata()) == [distance for _, distance in found]
            for middle, bottom, top, values in zip(
                line.get_ydata(), low.get_ydata(), high.get_ydata(), found.values(), strict=True
            ):
                each = list(values.values())
                assert middle == pytest.approx(statistics.fmean(each))
                assert (top - bottom) / 2 == pytest.approx(half_width(each), abs=1e-9)


def test_signals_of_trained_models(facts):
    by_subject = measured(read_records("why"), "signal")
    axes = drawn(facts["why"], "signal-trained").axes
    assert len(axes) == len(MODELS) * len(TASKS)
    for axis in axes:
        name = axis.get_title().replace("\n", " ")
        expected = []
        for subject, rows in by_subject.items():
            if subject.startswith(f"{name}, seed "):
                longest = max(row["conditions"]["n"] for row in rows)
                for training in ("before", "after"):
                    points = [
                        (row["conditions"]["distance"], row["value"])
                        for row in rows
                        if row["quantity"] == "norm"
                        and row["value"] > 0
                        and (row["conditions"]["n"], row["conditions"]["training"]) == (longest, training)
                        and row["conditions"]["from"] == "source"
                    ]
                    expected.append(("-" if training == "after" else "--", points))
        shown = [
            (line.get_linestyle(), list(zip(*line.get_data(), strict=True))) for line in axis.get_lines()
        ]
        assert sorted(shown) == sorted(expected)


def weights(rows, part, layer, head):
    mine = [
        row
        for row in rows
        if row["quantity"] == "attention"
        and (row["conditions"]["part"], row["conditions"]["layer"], row["conditions"]["head"])
        == (part, layer, head)
    ]
    return [row["samples"] for row in sorted(mine, key=lambda row: row["conditions"]["query"])]


def test_heads_of_an_encoder(facts):
    by_subject = measured(read_records("why"), "attention")
    with rc_context(STYLE):
        figure, caption = FIGURES["heads"](facts["why"])
    subject = caption.rpartition("(")[2].rstrip(").")
    axes = [axis for axis in figure.axes if axis.get_title()]
    assert axes
    for axis in axes:
        layer, head = (int(word.split()[1]) for word in axis.get_title().split(", "))
        (image,) = axis.get_images()
        np.testing.assert_array_equal(image.get_array(), weights(by_subject[subject], "encoder", layer, head))


def test_where_targets_look(facts):
    by_subject = measured(read_records("why"), "attention")
    axes = drawn(facts["why"], "sources").axes
    assert [axis.get_title().partition(" on ")[0] for axis in axes] == list(MODELS)
    for axis in axes:
        rows = by_subject[axis.get_title()]
        where = [row["conditions"] for row in rows if row["quantity"] == "attention"]
        where = [one for one in where if one["part"] == "source"]
        last = max(one["layer"] for one in where)
        heads = sorted({one["head"] for one in where if one["layer"] == last})
        mean = np.mean([weights(rows, "source", last, head) for head in heads], axis=0)
        (image,) = axis.get_images()
        np.testing.assert_allclose(image.get_array(), mean)
        (words,) = (row["conditions"] for row in rows if row["quantity"] == "words")
        assert [text.get_text() for text in axis.get_xticklabels()] == words["source"]
        assert [text.get_text() for text in axis.get_yticklabels()] == words["target"]
