"""Every number of the runs' own pages, read back against the files of the records."""

import json

import pytest

from benchmark.report.rounding import count, without_spread
from tests.benchmark.report.reading import METRICS, RESULTS, Reader, read_records

PAGES = sorted(RESULTS.glob("*/report/runs/*.html"))
STUDIES = sorted({path.parts[-4] for path in PAGES})
TITLES = {metric: title for title, metric in METRICS.items()}
NUMBERS = {
    "training, s": ("train_seconds", 1),
    "training, kJ": ("energy_joules", 1e-3),
    "training as run, target tokens/s": ("train_target_tokens_per_second", 1),
    "median step, ms": ("step_seconds_median", 1e3),
    "generation as run, sentences/s": ("generate_sentences_per_second", 1),
    "peak memory, MiB": ("peak_memory_bytes", 2**-20),
    "padding, % of positions": ("padding_share", 100),
    "validation loss, nats/token": ("validation_loss", 1),
    "validation perplexity per word": ("validation_perplexity_per_word", 1),
}
COUNTS = {
    "parameters": "parameters",
    "of them without the vocabulary": "body_parameters",
    "steps": "steps",
    "checkpoints averaged": "checkpoints_averaged",
    "resumed, times": "resumed_times",
}


def pairs(table):
    return {row["0"]: row["1"] for row in table.rows}


def facts_of(record):
    found = {name: count(record[key]) for name, key in COUNTS.items() if record.get(key) is not None}
    found |= {
        name: without_spread(record[key] * factor)
        for name, (key, factor) in NUMBERS.items()
        if record.get(key) is not None
    }
    if record["steady_state"] is not None:
        found["step times settled"] = "yes" if record["steady_state"] else "no"
    return found | {"finished": record["finished_at"]}


def scores_of(record):
    return [
        [one["split"], TITLES[one["metric"]], without_spread(one["value"]), count(one["sentences"]),
         one["signature"]]
        for one in record["scores"]
    ]  # fmt: skip


def validations_of(record):
    metrics = list(dict.fromkeys(one["metric"] for point in record["curve"] for one in point["scores"]))
    rows = []
    for point in record["curve"]:
        scores = {one["metric"]: one["value"] for one in point["scores"]}
        rows.append(
            [
                count(point["step"]),
                count(point["train_target_tokens"]),
                without_spread(point["train_seconds"]),
                without_spread(point["validation_loss"]),
                *(without_spread(scores[metric]) if metric in scores else "-" for metric in metrics),
            ]
        )
    return metrics, rows


def reached(document, path):
    for name in path.split("."):
        document = document[name]
    return document


def told(text, value):
    """Whether a text says a value as JSON has it."""
    return text == value if isinstance(value, str) else json.loads(text) == value


@pytest.mark.parametrize("study", STUDIES)
def test_the_page_of_a_run_is_that_of_its_record(study):
    records = read_records(study)
    paths = [path for path in PAGES if path.parts[-4] == study]
    trained = {run_id for run_id, one in records.items() if one["kind"] == "train"}
    assert {path.stem for path in paths} == trained
    for path in paths:
        record = records[path.stem]
        tables = list(Reader(path.read_text()).tables.values())
        scores, facts = tables[:2]
        assert [list(row.values()) for row in scores.rows] == scores_of(record), path
        assert pairs(facts) == facts_of(record), path
        metrics, rows = validations_of(record)
        shown = [table for table in tables if table.columns[:1] == ["step"]]
        assert len(shown) == (len(rows) > 1), "one validation alone is no curve"
        for table in shown:
            assert table.columns[4:] == [f"validation {TITLES[metric]}" for metric in metrics]
            assert [list(row.values()) for row in table.rows] == rows, path
        config, environment, hashes = map(pairs, tables[-3:])
        assert all(told(text, reached(record["experiment"], name)) for name, text in config.items()), path
        of_record = {name.replace("_", " "): value for name, value in record["provenance"].items()}
        assert environment.keys() == of_record.keys()
        assert all(told(text, of_record[name]) for name, text in environment.items()), path
        every = {
            **{name: record[name] for name in ("batch_stream_sha256", "loss_curve_sha256", "weights_sha256")},
            **{f"output of {name}, sha256": one for name, one in record["hypotheses_sha256"].items()},
        }
        assert hashes == {name.replace("_", " "): one for name, one in every.items()}, path
