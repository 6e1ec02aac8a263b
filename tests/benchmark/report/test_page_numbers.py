"""Every number of a page's tables, read back by row and column, against the files of the records.

What is expected is computed here from the JSON, by formulas of its own; only the number of digits is that of
`rounding.py`.
"""

import itertools
import math
import statistics
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML
from scipy import stats

from benchmark.config import ROOT
from benchmark.report.rounding import count, mean_text, with_half_width, without_spread
from tests.benchmark.report.reading import (
    half_width,
    mean_of,
    over_seeds,
    read_page,
    read_records,
    score,
    section,
    split_and_metric,
)

STUDY = "multi30k-en-de"
TRAINED = [
    *("grammar-translation", "multi30k-en-de", "multi30k-en-de-gpu", "multi30k-en-de-long"),
    *("multi30k-en-de-search", "why"),
]
METRICS = {"BLEU": "bleu", "chrF": "chrf"}
CONDITIONS = ("device", "devices", "threads", "precision", "torch_version", "harness_version")
BUDGETS = {
    "body parameters": "body_parameters",
    "seconds of training": "train_seconds",
    "target tokens of training": "train_target_tokens",
}


@pytest.fixture(scope="module")
def pages():
    """By study: its page, and its records by run id."""
    return {name: (read_page(name), read_records(name)) for name in TRAINED}


@pytest.fixture
def page(pages):
    return pages[STUDY][0]


@pytest.fixture
def records(pages):
    return pages[STUDY][1]


@pytest.mark.parametrize("study", TRAINED)
def test_the_comparison_is_that_of_the_records(study, pages):
    page, records = pages[study]
    seen = []
    for table in section(page, "comparison"):
        for row, ids in zip(table.rows, table.runs, strict=True):
            mine = [records[run_id] for run_id in ids]
            seen += ids
            assert len({tuple(one["provenance"][name] for name in CONDITIONS) for one in mine}) == 1
            assert {one["model_preset"] for one in mine} == {row["model"]}
            assert row["runs|by seed"] == ", ".join(str(one["seed"]) for one in mine)
            assert all(is_setting_of(one, row.get("settings", "")) for one in mine)
            million = [
                without_spread(statistics.median(one[name] for one in mine) / 1e6)
                for name in ("body_parameters", "parameters")
            ]
            expected = {
                "model": row["model"],
                "runs|by seed": row["runs|by seed"],
                "runs|done/failed/|diverged": f"{len(mine)}/0/0",
                "training|as run|target|tokens/s": over_seeds(mine, "train_target_tokens_per_second"),
                "peak|memory|MiB": without_spread(max(one["peak_memory_bytes"] for one in mine) / 2**20),
                "parameters|million|body/all": "/".join(million),
                "training|s": over_seeds(mine, "train_seconds"),
            }
            if any(one["generate_sentences_per_second"] for one in records.values() if is_run(one)):
                generated = over_seeds(mine, "generate_sentences_per_second")
                expected["generation|as run|sentences/s"] = generated
            if "seeds" in table.columns:
                expected["seeds"] = str(len(mine))
            if "settings" in table.columns:
                expected["settings"] = row["settings"]
            for column in table.columns:
                if (one_score := split_and_metric(column)) is not None:
                    expected[column] = mean_of([score(one, *one_score) for one in mine])
            assert row == expected
    compared = [run_id for run_id, one in records.items() if is_run(one)]
    assert set(seen) == set(compared) - trials(page)


def is_run(record):
    return record["kind"] == "train"


def trials(page):
    return {run_id for table in section(page, "search") for ids in table.runs for run_id in ids}


def flat(value, path=""):
    if not isinstance(value, dict):
        return {path: value}
    return {name: one for key, below in value.items() for name, one in flat(below, f"{path}.{key}").items()}


def is_setting_of(record, text):
    """Whether an experiment has all that `learning_rate=0.001 dropout=0.1` says."""
    fields = flat(record["experiment"])
    return all(
        any(path.endswith(f".{name}") and str(one) == value for path, one in fields.items())
        for name, _, value in (part.partition("=") for part in text.split())
    )


def quantity(records, name):
    """What a match can hold equal, of the runs of a row."""
    if name == "operations of training":
        return statistics.median(one["operations_per_step"] * one["steps"] for one in records)
    return statistics.median(one[BUDGETS[name]] for one in records)


def of_old(records):
    """Whether it was not counted yet what a step takes."""
    return any(one.get("operations_per_step") is None for one in records)


@pytest.mark.parametrize("study", TRAINED)
def test_what_is_held_equal_and_what_is_not_is_that_of_the_records(study, pages):
    page, records = pages[study]
    checked = 0
    for table in section(page, "comparison"):
        lines = [one.split(": ", 1) for one in table.notes]
        by_row = [[records[run_id] for run_id in ids] for ids in table.runs]
        others = [one for one in by_row if one[0]["model_preset"] != table.rows[0]["model"]]
        for held, text in lines:
            for name in (*BUDGETS, "operations of training"):
                if name == "operations of training" and any(of_old(one) for one in by_row):
                    assert held != "not held equal" or f"{name} not known" in text
                    continue
                ratios = [quantity(one, name) / quantity(by_row[0], name) for one in others]
                is_equal = held == "held equal" and text.startswith(f"{name} (")
                if is_equal or (held == "also equal within 2%" and f"{name} (" in text):
                    assert max(abs(one - 1) for one in ratios) <= 0.02
                    ends = [f"{round(one - 1, 3) + 0.0:+.1%}" for one in (min(ratios), max(ratios))]
                    assert f"{name} ({spanned(ends)} against {table.rows[0]['model']})" in text
                    checked += 1
                elif held == "not held equal" and f"{name} (" in text:
                    ends = [f"{one:.2f}" for one in (min(ratios), max(ratios))]
                    assert f"{name} ({spanned(ends)} times those of {table.rows[0]['model']})" in text
                    checked += 1
    assert checked >= 2


def spanned(ends):
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def test_the_rankings_are_those_of_the_comparisons_means(pages):
    page, records = pages["grammar-translation"]
    by_match = {table.title.rpartition(", ")[2]: table for table in section(page, "comparison")}
    assert len(by_match) == 3
    rankings = section(page, "ranking")
    for ranking in rankings:
        split, metric = split_and_metric(ranking.title.partition("ranking by ")[2])
        for match in ranking.columns[1:]:
            table = by_match[match]
            values = {
                row["model"]: [score(records[run_id], split, metric) for run_id in ids]
                for row, ids in zip(table.rows, table.runs, strict=True)
            }
            places = sorted(values, key=lambda model: -statistics.fmean(values[model]))
            expected = {model: f"{places.index(model) + 1}. ({mean_of(values[model])})" for model in values}
            assert {row["model"]: row[match] for row in ranking.rows} == expected
    assert len({one.title for one in rankings}) == len(rankings) == 3


@pytest.mark.parametrize("study", ["grammar-translation", "why"])
def test_the_trials_are_those_of_the_records(study, pages):
    page, records = pages[study]
    (table,) = section(page, "search")
    groups: dict[Any, Any] = {}
    for row, (run_id,) in zip(table.rows, table.runs, strict=True):
        groups.setdefault((row["model"], row["task"]), []).append((row, records[run_id]))
    for (model, task), trials in groups.items():
        best = min((record["validation_loss"], record["run_id"]) for _, record in trials)
        assert [row["trial"] for row, _ in trials] == [str(one + 1) for one in range(len(trials))]
        assert len({row["settings"] for row, _ in trials}) == len(trials) > 1
        for row, record in trials:
            assert is_setting_of(record, row["settings"])
            expected = {
                **{name: row[name] for name in ("settings", "trial", "runs|by seed")},
                "model": model,
                "task": task,
                "status": record["status"],
                "steps": f"{record['steps']:,}",
                "validation|loss|nats/token": without_spread(record["validation_loss"]),
                "": "chosen" if record["run_id"] == best[1] else "",
            }
            for column in table.columns:
                if column not in expected:
                    expected[column] = without_spread(score(record, *split_and_metric(column)))
            assert row == expected
            assert (record["model_preset"], record["task_preset"]) == (model, task)
            assert not any(one["split"].startswith("test") for one in record["scores"])


@pytest.mark.parametrize("study", TRAINED)
def test_training_to_a_quality_is_that_of_the_curves(study, pages):
    page, records = pages[study]
    comparisons = {table.title: table for table in section(page, "comparison")}
    tables = section(page, "curves")
    assert tables
    for table in tables:
        title, _, goal = table.title.partition(": training to ")
        goal, _, level = goal.rpartition(" ")
        split, metric = split_and_metric(goal)
        comparison, ends = comparisons[title], []
        for row, ids in zip(table.rows, comparison.runs, strict=True):
            first = []
            for run_id in ids:
                curve = [
                    (point, one["value"])
                    for point in records[run_id]["curve"]
                    for one in point["scores"]
                    if one["metric"] == metric
                ]
                first.append(next(point for point, value in curve if value >= float(level)))
                ends.append(curve[-1][1])
            expected = [row["model"], str(len(ids))]
            for name in ("step", "train_target_tokens", "train_seconds"):
                values = [float(point[name]) for point in first]
                is_spread = len(values) > 1 and len(set(values)) > 1
                expected.append(mean_of(values) if is_spread else count(statistics.fmean(values)))
            assert list(row.values()) == expected[: len(row)]
        assert split == "validation"
        assert float(level) == math.floor(min(ends)), "the highest that all reach in the end"


@pytest.mark.parametrize("study", TRAINED)
def test_the_facts_on_top_are_those_of_the_records(study, pages):
    page, records = pages[study]
    runs = [one for one in records.values() if is_run(one)]
    hours = sum(one["train_seconds"] for one in runs) / 3600
    searched, every = len(trials(page)), {one["seed"] for one in runs if one["run_id"] not in trials(page)}
    expected = {
        "runs done, failed, diverged": f"{len(runs)} / 0 / 0",
        "seed" if len(every) == 1 else "seeds": str(len(every)),
        "hours of training": f"{hours:,.1f}",
        **({"of them trials of the search": str(searched)} if searched else {}),
    }
    layers = sum(one["kind"] not in ("train", "speed") for one in records.values())
    if layers:
        expected["measurements of layers"] = str(layers)
    assert page.facts == expected


def ranged(row):
    half = (row["high"] - row["low"]) / 2
    value, low, high = (with_half_width(row[name], half).split(" ")[0] for name in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def speed_column(row):
    lines = [part.strip() for part in row["phase"].removeprefix("generate ").split(",")]
    in_training = row["phase"] == "train"
    if row["quantity"] == "speed_ratio":
        return "|".join([*([] if in_training else lines), "against", row["conditions"]["baseline"]])
    if row["quantity"] == "share_of_matrix_product_limit":
        return "share of|limit" if in_training else "|".join([*lines, "share of limit"])
    if row["quantity"] == "sentences_per_second":
        return "|".join([*lines, "sentences/s"])
    return "target|tokens/s" if in_training else "|".join(lines)


def test_the_speeds_are_those_of_the_record(page, records):
    (record,) = (one for one in records.values() if one["kind"] == "speed")
    training, generation = section(page, "speed")
    quantities = (
        *("target_tokens_per_second", "sentences_per_second", "speed_ratio"),
        "share_of_matrix_product_limit",
    )
    for table, is_phase in ((training, "train".__eq__), (generation, lambda name: "generate" in name)):
        rows = [one for one in record["rows"] if is_phase(one["phase"]) and one["quantity"] in quantities]
        expected = {(one["model"], speed_column(one)): ranged(one) for one in rows}
        found = {
            (row["model"], column): text
            for row in table.rows
            for column, text in row.items()
            if column != "model" and text != "-"
        }
        assert found == expected
        assert len(expected) == len(rows) > 0


@pytest.mark.parametrize("study", [*TRAINED, "speed", "speed-base"])
def test_what_others_published_is_as_the_data_file_has_it(study):
    path = ROOT / "benchmark" / "report" / "published.yaml"
    every = {one["title"]: one for one in YAML(typ="base", pure=True).load(path.read_text())}
    for table in read_page(study).tables.values():
        if table.title.startswith("Published"):
            one = every[table.title]
            assert table.columns == one["columns"]
            expected = [["-" if text == "null" else text for text in row] for row in one["rows"]]
            assert [list(row.values()) for row in table.rows] == expected


@pytest.mark.parametrize("study", TRAINED)
def test_every_difference_of_two_rows_is_that_of_the_records(study, pages):
    """In the matrices: mean over the seeds that both have, of the same score."""
    page, records = pages[study]
    comparisons = {table.title: table for table in section(page, "comparison")}
    checked = 0
    for matrix in section(page, "significance"):
        title, _, name = matrix.title.rpartition(": ")
        if not name.endswith(", row less column"):
            continue
        split, metric = split_and_metric(name.removesuffix(", row less column"))
        table = comparisons[title]
        values = {
            f"{row['model']} {row.get('settings', '')}".strip(): {
                records[run_id]["seed"]: score(records[run_id], split, metric) for run_id in ids
            }
            for row, ids in zip(table.rows, table.runs, strict=True)
        }
        for row in matrix.rows:
            for column in matrix.columns[1:]:
                one, other = values[row["row"]], values[column]
                mine = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
                assert row[column] == ("-" if column == row["row"] else mean_of(mine))
                checked += 1
    assert checked or not section(page, "significance")


def by_seed(records, table, model, split, metric):
    """Scores of the row of the comparison that has this model."""
    ((_, ids),) = (one for one in zip(table.rows, table.runs, strict=True) if one[0]["model"] == model)
    return {records[run_id]["seed"]: score(records[run_id], split, METRICS[metric]) for run_id in ids}


def paired(records, table, name, first, second):
    """Differences over the seeds that both have; `name` is a score's, such as `test BLEU`."""
    one, other = (by_seed(records, table, model, *name.split(" ")) for model in (first, second))
    return [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]


def sign_flip_p(differences):
    seen = abs(sum(differences))
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(one >= seen - 1e-9 for one in sums) / len(sums)


def holm(p_values):
    ordered = sorted(p_values)
    steps = [min(1.0, (len(ordered) - rank) * p) for rank, p in enumerate(ordered)]
    return {p: max(steps[: ordered.index(p) + ordered.count(p)]) for p in ordered}


def seeds_to_decide(pairs):
    return next(seeds for seeds in itertools.count(1) if 2.0 ** (1 - seeds) * pairs <= 0.05)


def power(effect, seeds, pairs):
    """How often sign flips call normal differences significant, of so many standard deviations."""
    signs = np.array(list(itertools.product((1, -1), repeat=seeds)))
    draws = np.random.default_rng(99).normal(effect, 1, (5000, seeds))
    sums = np.abs(draws @ signs.T)
    return np.mean(np.mean(sums >= sums[:, :1] - 1e-9, axis=1) * pairs <= 0.05)


def test_the_significance_is_that_of_the_records(page, records):
    *matrices, pairs = section(page, "significance")
    comparison = section(page, "comparison")[0]
    models = [row["model"] for row in comparison.rows]
    names = ["".join(split) + f" {metric}" for *split, metric in (c.split("|") for c in comparison.columns)]
    names = [name for name in names if name.startswith("test") and name.rpartition(" ")[2] in METRICS]
    assert len(names) == len(matrices) == 4
    texts = {}
    for name in names:
        sides = list(itertools.combinations(models, 2))
        differences = {pair: paired(records, comparison, name, *pair) for pair in sides}
        p_values = {pair: sign_flip_p(mine) for pair, mine in differences.items()}
        adjusted = holm(list(p_values.values()))
        for pair, mine in differences.items():
            wins, seeds, least = sum(one > 0 for one in mine), len(mine), seeds_to_decide(len(sides))
            share = stats.binomtest(wins, seeds).proportion_ci(0.95, method="exact")
            others = [p for one, p in p_values.items() if one != pair]
            clearest = 2.0 ** (1 - seeds)
            says = f"not distinguishable with {seeds} seeds"
            if holm([*others, clearest])[clearest] > 0.05:
                says = f"undecidable with {seeds} seeds (needs {least})"
            elif adjusted[p_values[pair]] <= 0.05:
                says = f"{pair[0] if statistics.fmean(mine) > 0 else pair[1]} higher"
            texts[name, *pair] = {
                "seeds in|common": str(seeds),
                "first less|second": mean_text(statistics.fmean(mine), half_width(mine)),
                "p": f"{p_values[pair]:.3f}",
                "p after|Holm": f"{adjusted[p_values[pair]]:.3f}",
                "these seeds say": says,
                "probability|of first|higher": f"{wins / seeds:.2f} ({share.low:.2f} to {share.high:.2f})",
            }
    found = {(row.pop("score"), row.pop("first"), row.pop("second")): row for row in map(dict, pairs.rows)}
    for where, row in found.items():
        mine, needed = paired(records, comparison, *where), int(row.pop("seeds|needed").replace(",", ""))
        effect = abs(statistics.fmean(mine)) / statistics.stdev(mine)
        detectable = row.pop("detectable|difference")
        if len(mine) < seeds_to_decide(len(sides)):
            assert detectable == "-", where
        else:
            seen = power(float(detectable) / statistics.stdev(mine), len(mine), len(sides))
            assert 0.77 < seen < 0.83, where
        if needed <= 10:
            assert power(effect, needed, len(sides)) > 0.78, where
        if 8 <= needed <= 11:
            assert power(effect, needed - 1, len(sides)) < 0.82, where
    assert found == texts
