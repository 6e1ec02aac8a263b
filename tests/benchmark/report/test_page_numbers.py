"""Every number of a page's tables, read back by row and column, against the files of the records.

What is expected is computed here from the JSON, by formulas of its own; only the number of digits is that of
`rounding.py`.
"""

import itertools
import json
import math
import statistics
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
import pytest
from scipy import stats

from benchmark.config import ROOT
from benchmark.report.curves import with_curves
from benchmark.report.html import index_page
from benchmark.report.rounding import mean_text, with_half_width, without_spread
from benchmark.report.study_results import load_study

STUDY = ROOT / "results" / "multi30k-en-de"
CONDITIONS = ("device", "devices", "threads", "precision", "torch_version", "harness_version")
METRICS = {"BLEU": "bleu", "chrF": "chrf"}


@dataclass
class ReadTable:
    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    """By the column's title, its lines joined by |."""
    runs: list[list[str]] = field(default_factory=list)
    """The run ids that each row leads to."""


class Reader(HTMLParser):
    """The tables of a page by their ids."""

    def __init__(self, page):
        super().__init__()
        self.tables = {}
        self._table, self._cells, self._text, self._links = ReadTable(), [], None, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "table":
            self._table = self.tables[given["id"]] = ReadTable()
        elif tag == "tr":
            self._cells, self._links = [], []
        elif tag in ("td", "th"):
            self._text = ""
        elif tag == "br" and self._text is not None:
            self._text += "|"
        elif tag == "a" and self._text is not None:
            self._links.append(given["href"].removeprefix("runs/").removesuffix(".html"))

    def handle_data(self, text):
        if self._text is not None:
            self._text += text

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cells.append(" ".join((self._text or "").split()).removesuffix(" ≈"))
            self._text = None
        elif tag == "tr" and not self._table.columns:
            self._table.columns = self._cells
        elif tag == "tr":
            self._table.rows.append(dict(zip(self._table.columns, self._cells, strict=True)))
            self._table.runs.append(self._links)


@pytest.fixture(scope="module")
def page():
    study = load_study(STUDY)
    return Reader(index_page(study, with_curves(study.train_records, STUDY))).tables


@pytest.fixture(scope="module")
def records():
    """By run id, as JSON has them."""
    found = [json.loads(path.read_text()) for path in STUDY.glob("runs/*/record.json")]
    return {one["run_id"]: one for one in found}


def section(page, name):
    return [table for key, table in page.items() if key.startswith(f"{name}-")]


def half_width(values):
    if len(values) == 1:
        return None
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * statistics.stdev(values) / math.sqrt(len(values)))


def score(record, split, metric):
    (value,) = (
        one["value"] for one in record["scores"] if (one["split"], one["metric"]) == (split, METRICS[metric])
    )
    return value


def over_seeds(records, name):
    values = [record[name] for record in records]
    middle = without_spread(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({without_spread(min(values))} to {without_spread(max(values))})"


def test_the_comparison_is_that_of_the_records(page, records):
    seen = []
    for table in section(page, "comparison"):
        for row, ids in zip(table.rows, table.runs, strict=True):
            mine = [records[run_id] for run_id in ids]
            seen += ids
            assert len({tuple(one["provenance"][name] for name in CONDITIONS) for one in mine}) == 1
            assert {one["model_preset"] for one in mine} == {row["model"]}
            assert row["runs|by seed"] == ", ".join(str(one["seed"]) for one in mine)
            million = [
                without_spread(statistics.median(one[name] for one in mine) / 1e6)
                for name in ("body_parameters", "parameters")
            ]
            expected = {
                "model": row["model"],
                "runs|by seed": row["runs|by seed"],
                "runs|done/failed/|diverged": f"{len(mine)}/0/0",
                "training|as run|target|tokens/s": over_seeds(mine, "train_target_tokens_per_second"),
                "generation|as run|sentences/s": over_seeds(mine, "generate_sentences_per_second"),
                "peak|memory|MiB": without_spread(max(one["peak_memory_bytes"] for one in mine) / 2**20),
                "parameters|million|body/all": "/".join(million),
                "training|s": over_seeds(mine, "train_seconds"),
                **({"seeds": str(len(mine))} if "seeds" in table.columns else {}),
            }
            for column in table.columns:
                *name, metric = column.split("|")
                if metric in METRICS:
                    values = [score(one, "".join(name), metric) for one in mine]
                    expected[column] = mean_text(statistics.fmean(values), half_width(values))
            assert row == expected
    trained = [run_id for run_id, one in records.items() if one["kind"] == "train"]
    assert sorted(seen) == sorted(trained)


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
    return "target|tokens/s" if in_training else "|".join(lines)


def test_the_speeds_are_those_of_the_record(page, records):
    (record,) = (one for one in records.values() if one["kind"] == "speed")
    training, generation = section(page, "speed")
    quantities = ("target_tokens_per_second", "speed_ratio", "share_of_matrix_product_limit")
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


def by_seed(records, table, model, split, metric):
    """Scores of the row of the comparison that has this model."""
    ((_, ids),) = (one for one in zip(table.rows, table.runs, strict=True) if one[0]["model"] == model)
    return {records[run_id]["seed"]: score(records[run_id], split, metric) for run_id in ids}


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
            assert seeds < least, "the words are those of seeds that decide nothing"
            texts[name, *pair] = {
                "seeds in|common": str(seeds),
                "first less|second": mean_text(statistics.fmean(mine), half_width(mine)),
                "p": f"{p_values[pair]:.3f}",
                "p after|Holm": f"{adjusted[p_values[pair]]:.3f}",
                "these seeds say": f"undecidable with {seeds} seeds (needs {least})",
                "probability|of first|higher": f"{wins / seeds:.2f} ({share.low:.2f} to {share.high:.2f})",
                "detectable|difference": "-",
            }
    found = {(row.pop("score"), row.pop("first"), row.pop("second")): row for row in map(dict, pairs.rows)}
    for where, row in found.items():
        mine, needed = paired(records, comparison, *where), int(row.pop("seeds|needed").replace(",", ""))
        effect = abs(statistics.fmean(mine)) / statistics.stdev(mine)
        if needed <= 10:
            assert power(effect, needed, len(sides)) > 0.78, where
        if 8 <= needed <= 11:
            assert power(effect, needed - 1, len(sides)) < 0.82, where
    assert found == texts
    for name, matrix in zip(names, matrices, strict=True):
        for row in matrix.rows:
            for column in models:
                mine = paired(records, comparison, name, row["row"], column)
                expected = mean_text(statistics.fmean(mine), half_width(mine))
                assert row[column] == ("-" if column == row["row"] else expected)
