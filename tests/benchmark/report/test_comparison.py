"""Which runs share a row, which rows share a table, and what a row holds at full precision."""

import statistics

import pytest

from benchmark.report.comparison import group_titles, groups, rows
from benchmark.report.study_results import StudyResults
from benchmark.report.tables import tables
from tests.benchmark.report.records import BLEU, provenance, scores, speed_record, train_record

TEST = ("test", "bleu")


def test_a_row_is_one_model_over_its_seeds():
    records = [
        train_record("a" * 16, "transformer-small", seed=0),
        train_record("b" * 16, "transformer-small", seed=1),
        train_record("c" * 16, "lstm-small", seed=0, experiment={"model": {"layers": 2}}),
    ]
    (group,) = groups(records, ["transformer-small", "lstm-small"])
    assert [(cell.model, cell.settings, len(cell.done)) for cell in group.cells] == [
        ("transformer-small", {}, 2),
        ("lstm-small", {}, 1),
    ]


def test_the_runs_of_a_row_are_in_the_order_of_seeds_whatever_code_made_them():
    records = [
        train_record(run * 16, seed=seed, provenance=provenance(commit=commit * 40))
        for run, seed, commit in [("a", 2, "c"), ("b", 0, "d"), ("c", 1, "c"), ("d", 3, "d")]
    ]
    (group,) = groups(records)
    assert [record.seed for record in group.cells[0].done] == [0, 1, 2, 3]


def test_fields_that_vary_within_a_model_make_rows_and_name_them():
    records = [
        train_record(run * 16, "lstm-small", experiment={"training": {"learning_rate": rate, "steps": steps}})
        for run, rate, steps in [("a", 0.01, 50), ("b", 0.002, 50), ("c", 0.01, 600)]
    ]
    # what another model varies is no setting of this one
    records.append(train_record("d" * 16, "transformer-small"))
    (group,) = groups(records)
    assert [cell.label for cell in group.cells] == [
        "steps=50 learning_rate=0.002",
        "steps=50 learning_rate=0.01",
        "steps=600 learning_rate=0.01",
        "",
    ]


def test_two_settings_of_one_name_keep_their_sections():
    records = [
        train_record(run * 16, experiment={"model": {"dropout": value}, "training": {"dropout": value}})
        for run, value in [("a", 0.1), ("b", 0.2)]
    ]
    (group,) = groups(records)
    assert group.cells[0].label == "model.dropout=0.1 training.dropout=0.1"


OTHER_CONDITIONS = {
    "device": {"provenance": provenance(device="Another Processor")},
    "threads": {"provenance": provenance(threads=4)},
    "number of devices": {"provenance": provenance(devices=2)},
    "precision": {"provenance": provenance(precision="bfloat16")},
    "torch version": {"provenance": provenance(torch_version="2.14.0")},
    "harness version": {"provenance": provenance(harness_version=2)},
    "task version": {"task_version": 2},
    "data files": {"task_fingerprint": "f" * 64},
    "data settings": {"experiment": {"task": {"language_pair": "en-fr"}}},
    "metric signature": {"scores": scores({TEST: 30.0}, bleu_signature=BLEU.replace("13a", "intl"))},
    "metrics": {"scores": scores({("test", "chrf"): 50.0})},
}


@pytest.mark.parametrize("fields", OTHER_CONDITIONS.values(), ids=OTHER_CONDITIONS)
def test_what_must_not_be_compared_is_another_table(fields):
    plain = train_record("a" * 16, scores=scores({TEST: 30.0}))
    other = train_record("b" * 16, **{"scores": scores({TEST: 30.0}), **fields})
    assert len(groups([plain, other])) == 2
    assert [row["table"] for row in rows(groups([plain, other]))] == [1, 2]


def test_tables_of_one_task_are_told_apart_by_the_fields_in_which_they_differ():
    def of(task, **fields):
        return train_record(fields.pop("run") * 16, experiment={"task": task}, **fields)

    every = groups(
        [
            of({"maximum_length": 10}, run="a"),
            of({"maximum_length": 20}, run="b"),
            of({"maximum_length": 20}, run="c", task_fingerprint="f" * 64),
        ]
    )
    name = "s: multi30k-en-de"
    assert sorted(group_titles("s", every)) == [
        f"{name}, maximum_length=10, data files= (float32, A Processor @ 2.00GHz, 2 threads)",
        f"{name}, maximum_length=20, data files= (float32, A Processor @ 2.00GHz, 2 threads)",
        f"{name}, maximum_length=20, data files=ffffffffffff (float32, A Processor @ 2.00GHz, 2 threads)",
    ]
    told = {(row["task_settings"], row["task_fingerprint"]) for row in rows(every)}
    assert len(told) == 3
    assert group_titles("s", every[:1]) == [name]


def test_a_run_without_scores_stays_in_the_table_of_its_conditions():
    done = train_record("a" * 16, seed=0, scores=scores({TEST: 30.0}))
    diverged = train_record("b" * 16, seed=1, status="diverged", diverged_step=3)
    (group,) = groups([done, diverged])
    (cell,) = group.cells
    assert (cell.done, cell.diverged) == ((done,), (diverged,))
    elsewhere = train_record("c" * 16, seed=1, status="failed", provenance=provenance(threads=4))
    assert len(groups([done, diverged, elsewhere])) == 2


def test_a_row_holds_full_precision_and_failed_runs_enter_no_value():
    values = [30.123456789, 31.987654321, 33.0]
    records = [
        train_record(f"{i}" * 16, seed=i, scores=scores({TEST: value})) for i, value in enumerate(values)
    ]
    unfinished = {"scores": scores({TEST: 1.0}), "train_target_tokens_per_second": 1.0}
    records += [
        train_record(run * 16, seed=seed, status="diverged", diverged_step=7, **unfinished)
        for run, seed in [("c", 3), ("d", 4), ("e", 5), ("f", 6)]
    ]
    (row,) = rows(groups(records))
    assert row["test_bleu_mean"] == statistics.fmean(values)
    assert row["test_bleu_standard_deviation"] == pytest.approx(statistics.stdev(values), rel=1e-14)
    assert row["test_bleu_half_width_95"] == pytest.approx(
        4.3027 * statistics.stdev(values) / 3**0.5, rel=1e-4
    )
    assert row["test_bleu_seeds"] == 3
    assert row["bleu_signature"] == BLEU
    assert row["train_target_tokens_per_second_median_over_seeds"] == 4001.7
    assert (row["runs_done"], row["runs_failed"], row["runs_diverged"], row["seeds"]) == (3, 0, 4, "0 1 2")


def test_speed_is_the_median_and_memory_the_largest_over_seeds():
    records = [
        train_record(
            f"{i}" * 16,
            seed=i,
            train_target_tokens_per_second=speed,
            peak_memory_bytes=memory,
            train_seconds=seconds,
        )
        for i, (speed, memory, seconds) in enumerate([(10.0, 7, 1.0), (1000.0, 9, None), (20.0, 8, 3.0)])
    ]
    (row,) = rows(groups(records))
    assert row["train_target_tokens_per_second_median_over_seeds"] == 20.0
    assert row["peak_memory_bytes"] == 9
    assert row["train_seconds_median_over_seeds"] == 2.0


def test_all_rows_have_equal_names_and_none_where_nothing_was_measured():
    records = [
        train_record("a" * 16, "lstm-small", scores=scores({TEST: 30.0})),
        train_record("b" * 16, "transformer-small", scores=scores({("test", "token_accuracy"): 90.0})),
        train_record("c" * 16, "convs2s-small", status="failed", failure="oom_host"),
    ]
    result = rows(groups(records))
    assert len({tuple(row) for row in result}) == 1
    by_model = {row["model"]: row for row in result}
    assert by_model["lstm-small"]["test_token_accuracy_mean"] is None
    assert by_model["convs2s-small"]["parameters"] is None


def test_order_of_records_changes_nothing():
    records = [
        train_record(f"{i:x}" * 16, model, seed=seed, scores=scores({TEST: 30.0 + i}))
        for i, (model, seed) in enumerate(
            (m, s) for m in ("lstm-small", "transformer-small") for s in range(3)
        )
    ]
    assert rows(groups(records)) == rows(groups(records[::-1]))


def test_speed_rows_carry_what_they_belong_to():
    from benchmark.report.comparison import speed_rows

    result = speed_rows([speed_record()])
    assert [row["quantity"] for row in result] == [row.quantity for row in speed_record().rows]
    assert result[1]["threads"] == 2 and result[1]["low_95"] == 3950.0


def test_runs_on_several_devices_are_one_table_of_scores_where_that_is_asked_for():
    records = [
        train_record("a" * 16, seed=0, scores=scores({TEST: 30.0})),
        train_record("b" * 16, seed=1, scores=scores({TEST: 31.0}), provenance=provenance(device="Another")),
        train_record("c" * 16, seed=2, scores=scores({TEST: 32.0}), provenance=provenance(threads=1)),
    ]
    assert len(groups(records)) == 3
    (group,) = groups(records, across_devices=True)
    (cell,) = group.cells
    assert cell.values(*TEST) == {0: 30.0, 1: 31.0, 2: 32.0}
    for field in ("train_target_tokens_per_second", "generate_sentences_per_second", "train_seconds"):
        assert cell.median(field) is None
    assert cell.largest("peak_memory_bytes") is None
    assert cell.median("parameters") == 4_012_345
    study = StudyResults(name="s", train_records=tuple(records), across_devices=True)
    (table, *_) = tables(study)
    assert "scores alone are compared over devices: 1 run on A Processor @ 2.00GHz, 2 threads, " in "".join(
        table.heading
    )
    assert not any("tokens/s" in column.title for column in table.columns)


def test_other_precision_and_signatures_stay_apart_over_devices_too():
    records = [
        train_record("a" * 16, seed=0, scores=scores({TEST: 30.0})),
        train_record(
            "b" * 16, seed=1, scores=scores({TEST: 31.0}), provenance=provenance(precision="bfloat16")
        ),
        train_record("c" * 16, seed=2, scores=scores({TEST: 32.0}, bleu_signature=f"{BLEU}|other")),
    ]
    assert len(groups(records, across_devices=True)) == 3
