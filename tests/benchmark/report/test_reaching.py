"""Steps, tokens and seconds to a quality."""

import pytest

from benchmark.record import CurvePoint
from benchmark.report.comparison import groups
from benchmark.report.reaching import reaching_tables
from tests.benchmark.report.records import scores, train_record


def curve(*values, every=100, metric="bleu"):
    return [
        CurvePoint(
            step=every * number,
            train_seconds=2.0 * every * number,
            train_target_tokens=700 * every * number,
            validation_loss=2.0,
            scores=[] if value is None else scores({("validation", metric): value}),
        )
        for number, value in enumerate(values, 1)
    ]


def tables(*records):
    found = groups(records)
    return reaching_tables(found, ["title"] * len(found), {one.run_id: one for one in records})


def two_models(*curves, models=("transformer-small", "lstm-small")):
    return [
        train_record(f"{number:016x}", models[number % 2], seed=number // 2, curve=one)
        for number, one in enumerate(curves)
    ]


def test_the_first_validation_with_the_quality_that_all_reach_counts():
    records = two_models(
        curve(10.0, 20.7, 30.0), curve(20.0, 20.6, 20.9), curve(21.0, 25.0, 30.0), curve(1.0, 2.0, 24.0)
    )
    (table,) = tables(*records)
    assert table.title == "title: training to validation BLEU 20"
    assert table.rows == [
        ["lstm-small", "2", "200 ± 1,300", "140,000 ± 890,000", "400 ± 2,500"],
        ["transformer-small", "2", "150 ± 640", "100,000 ± 440,000", "300 ± 1,300"],
    ]


def test_one_seed_has_no_interval_and_what_falls_again_counts_from_when_it_was_there():
    (table,) = tables(*two_models(curve(25.0, 15.0, 21.0), curve(1.0, 2.0, 30.0)))
    assert [row[1:] for row in table.rows] == [["1", "300", "210,000", "600"], ["1", "100", "70,000", "200"]]


@pytest.mark.parametrize(
    "curves",
    [
        (curve(10.0), curve(0.4)),
        (curve(10.0), curve(None)),
        (curve(10.0), []),
        (curve(10.0),),
    ],
    ids=["one learns nothing", "one is not scored", "one has no curve", "one model"],
)
def test_without_a_quality_that_all_reach_there_is_no_table(curves):
    assert tables(*two_models(*curves)) == []
