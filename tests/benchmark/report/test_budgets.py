"""Matches and searches in a report: what is held equal, what breaks it, what was tried."""

import dataclasses

import pytest

from benchmark.report.budgets import budget_rows
from benchmark.report.comparison import groups, rows
from benchmark.report.escaping import for_latex, for_markdown
from benchmark.report.html import index_page
from benchmark.report.matrices import ranking_remarks
from benchmark.report.search import search_rows, search_tables
from benchmark.report.significance import significance_rows
from benchmark.report.study_results import load_study
from benchmark.report.tables import latex_table, markdown_table, terminal_table
from benchmark.report.wandb_table import log_comparison
from tests.benchmark.report.records import scores, train_record
from tests.benchmark.report.test_wandb_table import tables_in, wandb_directory  # noqa: F401  (a fixture)


def cell(record, *, match=None, held=None, trial=None, seconds_per_step=None):
    measured = None if seconds_per_step is None else {"seconds_per_step": seconds_per_step}
    optional = {"match": match, "held": held, "trial": trial, "measured": measured}
    return {
        "run_id": record.run_id,
        "asked": "0" * 16,
        "model": record.model_preset,
        "task": record.task_preset,
        "experiment": {"seed": record.seed},
        **{name: value for name, value in optional.items() if value is not None},
    }


def one(number, model, bleu, *, seed=0, body=2_000_000, steps=100, per_step=1e9, seconds=50.0):
    return train_record(
        f"{number:016x}",
        model,
        seed=seed,
        body_parameters=body,
        steps=steps,
        operations_per_step=per_step,
        train_seconds=seconds,
        scores=scores({("test", "bleu"): bleu}),
    )


@pytest.fixture
def matched(study_folder):
    """Two models at equal parameters and operations; the first is one run for both."""
    first = [one(seed, "transformer-small", 30.0 + seed, seed=seed) for seed in range(2)]
    wide = [
        one(10 + seed, "lstm-small", 29.0 + seed, seed=seed, body=2_020_000, per_step=2e9, seconds=75.0)
        for seed in range(2)
    ]
    long = [
        one(20 + seed, "lstm-small", 33.0 + seed, seed=seed, body=2_500_000, steps=50, per_step=2.01e9)
        for seed in range(2)
    ]
    cells = [
        *(cell(record, match=match) for match in ("parameters", "flops") for record in first),
        *(cell(record, match="parameters", held=2_000_000) for record in wide),
        *(cell(record, match="flops", held=1e11) for record in long),
    ]
    return study_folder(*first, *wide, *long, cells=cells)


def test_each_match_is_a_table_that_says_what_is_equal_and_what_is_not(matched):
    study = load_study(matched)
    every = groups(study.train_records, study.model_order, study.matches)
    assert [(group.conditions.match, [c.model for c in group.cells]) for group in every] == [
        ("flops", ["transformer-small", "lstm-small"]),
        ("parameters", ["transformer-small", "lstm-small"]),
    ]
    assert not any(c.invalid or c.settings for group in every for c in group.cells)
    text = terminal_table(study)
    assert "equal parameters" in text and "equal flops" in text
    assert "held equal: body parameters (+1.0% against transformer-small)\n" in text
    assert (
        "not held equal: operations of training (2.00 times those of transformer-small); "
        "seconds of training (1.50 times"
    ) in text.replace("\n", " ").replace("  ", " ").replace("those of\n", "those of ")
    assert "held equal: operations of training (+0.5% against transformer-small)\n" in text
    assert [row["match"] for row in rows(study.groups)] == [
        "flops", "flops", "parameters", "parameters",
    ]  # fmt: skip


@pytest.fixture
def in_seconds(study_folder):
    """The first took 40 seconds when it was timed with the second, and 50 with the third, on another day;
    as run, they took half as long again, and twice as long.
    """

    def folder(third_steps=400):
        made = [
            (one(0, "transformer-small", 30.0, steps=100, seconds=50.0), {"seconds_per_step": 0.4}),
            (
                one(1, "lstm-small", 31.0, steps=200, seconds=75.0),
                {"seconds_per_step": 0.19999, "held": 40.0},
            ),
            (
                one(2, "convs2s-small", 32.0, steps=third_steps, seconds=100.0),
                {"seconds_per_step": 0.12, "held": 50.0},
            ),
        ]
        cells = [cell(record, match="seconds", **timed) for record, timed in made]
        return study_folder(*(record for record, _ in made), cells=cells)

    return folder


def test_equal_seconds_are_those_that_were_timed_and_the_day_s_stand_beside_them(in_seconds):
    study = load_study(in_seconds(420))
    assert not study.is_broken
    held = (
        "held equal: seconds of training, as timed (+0.0% to +0.8% against transformer-small); as run "
        "(1.50 to 2.00 times those of transformer-small)\n"
    )
    text = terminal_table(study, width=250)
    assert held in text
    (also,) = {line for line in text.splitlines() if line.startswith("also equal within 2%: ")}
    assert also.startswith("also equal within 2%: body parameters (") and "seconds" not in also
    assert "\nnot held equal: operations of training" in text and "not held equal: seconds" not in text
    names = ("timed_seconds_of_training", "seconds_of_training")
    found = {
        row["model"]: tuple(row[f"{name}{end}"] for name in names for end in ("", "_ratio_to_reference"))
        for row in budget_rows(study.groups)
    }
    assert found == {
        "transformer-small": (pytest.approx(40.0), 1.0, 50.0, 1.0),
        "lstm-small": (pytest.approx(39.998), pytest.approx(0.99995), 75.0, 1.5),
        "convs2s-small": (pytest.approx(50.4), pytest.approx(1.008), 100.0, 2.0),
    }
    over_devices = dataclasses.replace(study, across_devices=True)
    assert "as timed (+0.0% to +0.8% against" in terminal_table(over_devices, width=250)
    assert "as run (" not in terminal_table(over_devices, width=250)


def test_a_row_whose_timed_seconds_are_not_the_reference_s_breaks_its_match(in_seconds):
    study = load_study(in_seconds(400))
    assert [c.invalid for group in study.groups for c in group.cells] == [
        "", "", "its seconds of training are -4.0% off what it is matched to",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("timed", "held"),
    [
        (
            (0.1, 0.05),
            "seconds of training, as timed (+0.5% against transformer-small); as run (1.00 times those of "
            "transformer-small)",
        ),
        ((0.1, 0.1), "nothing, nor the number of steps"),
        ((0.1, None), "nothing, nor the number of steps"),
        ((None, None), "nothing, nor the number of steps"),
    ],
)
def test_without_a_match_the_budget_is_what_is_held_equal(study_folder, timed, held):
    """Steps, or seconds as timed: those are in `study.yaml`."""
    made = [
        one(0, "transformer-small", 30.0, steps=400),
        one(1, "lstm-small", 29.0, steps=804),
    ]
    cells = [
        cell(record, **({} if seconds is None else {"seconds_per_step": seconds}))
        for record, seconds in zip(made, timed, strict=True)
    ]
    study = load_study(study_folder(*made, cells=cells))
    study = dataclasses.replace(study, model_order=("transformer-small", "lstm-small"))
    assert f"\nheld equal: {held}\n" in terminal_table(study, width=250)


def test_without_a_match_it_says_how_far_the_models_lie_apart(study_folder):
    folder = study_folder(
        one(0, "transformer-small", 30.0),
        one(1, "lstm-small", 29.0, body=2_400_000, per_step=2e9, seconds=75.0),
        one(2, "convs2s-small", 31.0, body=1_800_000, per_step=2e9, seconds=60.0),
    )
    study = load_study(folder)
    study = dataclasses.replace(study, model_order=("transformer-small", "lstm-small", "convs2s-small"))
    held = "held equal: the number of steps"
    rest = (
        "not held equal: body parameters (0.90 to 1.20 times those of transformer-small); operations of "
        "training (2.00 times those of transformer-small); seconds of training (1.20 to 1.50 times those of "
        "transformer-small)"
    )
    assert f"\n{held}\n{rest}\n" in terminal_table(study, width=250)
    assert f"\n- {held}\n- {for_markdown(rest)}\n" in markdown_table(study)
    assert f"\n{for_latex(held)}\\par\n{for_latex(rest)}\\par\n" in latex_table(study)
    assert f"<li>{held}</li><li>{rest}</li>" in index_page(study, {})
    over_devices = dataclasses.replace(study, across_devices=True)
    assert "operations of training (2.00 times" in terminal_table(over_devices)
    assert "seconds of training (" not in terminal_table(over_devices)
    alone = dataclasses.replace(study, train_records=study.train_records[:1])
    assert "held equal" not in terminal_table(alone)


def test_where_the_ranking_depends_on_what_is_equal_it_is_said(matched):
    study = load_study(matched)
    every = groups(study.train_records, study.model_order, study.matches)
    assert ranking_remarks(every) == [
        "test BLEU: the order of means flips with what is held equal: lstm-small is higher at equal flops "
        "(these seeds do not decide it); transformer-small is higher at equal parameters (these seeds do not "
        "decide it)"
    ]
    assert "flips with what is held equal" in terminal_table(study)


def test_a_row_that_breaks_its_match_is_marked_and_compared_with_none(study_folder):
    first = [one(seed, "transformer-small", 30.0, seed=seed) for seed in range(2)]
    cheat = [one(10 + seed, "lstm-small", 40.0, seed=seed, body=2_060_000) for seed in range(2)]
    records = [*first, *cheat]
    cells = [
        *(cell(record, match="parameters") for record in first),
        *(cell(record, match="parameters", held=2_000_000) for record in cheat),
    ]
    folder = study_folder(*records, cells=cells)
    study = load_study(folder)
    (group,) = groups(study.train_records, study.model_order, study.matches)
    assert [c.invalid for c in group.cells] == [
        "", "its body parameters are +3.0% off what it is matched to",
    ]  # fmt: skip
    text = terminal_table(study)
    assert "lstm-small (invalid)" in text
    assert "invalid, in no comparison: lstm-small: its body parameters are +3.0% off what it" in text
    assert significance_rows(study.groups) == []
    unknown = groups(
        [*first, *(record.model_copy(update={"body_parameters": None}) for record in cheat)],
        study.model_order,
        study.matches,
    )
    assert unknown[0].cells[1].invalid == "its body parameters are not known"


def test_a_changed_study_file_makes_no_row_valid(study_folder):
    first = one(0, "transformer-small", 30.0)
    cheat = one(10, "lstm-small", 40.0, body=2_500_000)
    honest = one(11, "convs2s-small", 35.0)
    for held in (2_000_000, 2_500_000):
        cells = [
            cell(first, match="parameters"),
            *(cell(record, match="parameters", held=held) for record in (cheat, honest)),
        ]
        study = load_study(study_folder(first, cheat, honest, cells=cells))
        (group,) = groups(study.train_records, study.model_order, study.matches)
        assert [c.invalid for c in group.cells] == [
            "", "its body parameters are +25.0% off what it is matched to", "",
        ]  # fmt: skip
        assert study.is_broken
        assert "held equal: body parameters (+0.0% against transformer-small)" in terminal_table(study)


def test_each_row_is_held_to_its_own_reference(study_folder):
    """Two batch sizes: the references differ in their operations, and each row is equal to one of them."""

    def at(record, batch_tokens):
        experiment = {**record.experiment, "data": {"batch_tokens": batch_tokens}}
        return record.model_copy(update={"experiment": experiment})

    references = [at(one(size, "transformer-small", 30.0, per_step=size * 1e6), size) for size in (500, 900)]
    others = [at(one(10 + size, "lstm-small", 31.0, per_step=size * 1e6), size) for size in (500, 900)]
    cells = [
        *(cell(record, match="flops") for record in references),
        *(cell(other, match="flops", held=held) for other, held in zip(others, (5e10, 9e10), strict=True)),
    ]
    study = load_study(study_folder(*references, *others, cells=cells))
    (group,) = groups(study.train_records, study.model_order, study.matches)
    assert [c.invalid for c in group.cells] == ["", "", "", ""]
    assert [row["operations_of_training_ratio_to_reference"] for row in budget_rows([group])] == [1.0] * 4
    assert "held equal: operations of training (+0.0% against transformer-small)" in terminal_table(study)


def test_a_row_is_held_to_what_it_is_matched_to_before_that_has_run(study_folder):
    cheat = one(10, "lstm-small", 40.0, body=2_060_000)
    study = load_study(study_folder(cheat, cells=[cell(cheat, match="parameters", held=2_000_000)]))
    (group,) = groups(study.train_records, study.model_order, study.matches)
    assert group.cells[0].invalid == "its body parameters are +3.0% off what it is matched to"


def test_budgets_are_flat_rows(matched):
    study = load_study(matched)
    found = budget_rows(groups(study.train_records, study.model_order, study.matches))
    ratio = "operations_of_training_ratio_to_reference"
    assert [(row["match"], row["model"], row[ratio]) for row in found] == [
        ("flops", "transformer-small", 1.0), ("flops", "lstm-small", 50 * 2.01e9 / 1e11),
        ("parameters", "transformer-small", 1.0), ("parameters", "lstm-small", 2.0),
    ]  # fmt: skip
    assert found[3]["seconds_of_training"] == 75.0
    assert found[3]["timed_seconds_of_training"] is None


def trial(number, model, rate, loss, **fields):
    record = train_record(f"{number:016x}", model, validation_loss=loss, **fields)
    experiment = {**record.experiment, "training": {"steps": 20, "learning_rate": rate}}
    return record.model_copy(update={"experiment": experiment})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_trials_are_all_shown_and_stand_apart_from_the_comparison(study_folder, wandb_directory):  # noqa: F811
    trials = [
        trial(100, "transformer-small", 1e-3, 3.0),
        trial(101, "transformer-small", 2e-3, 2.5),
        trial(102, "transformer-small", 9e-1, None, status="diverged"),
        trial(103, "lstm-small", 1e-3, 2.8),
        trial(104, "lstm-small", 2e-3, 2.9),
        trial(105, "lstm-small", 3e-3, None, status="failed"),
    ]
    final = [one(1, "transformer-small", 30.0), one(2, "lstm-small", 31.0)]
    numbers = [1, 2, 3, 1, 2, 3]
    cells = [
        *(cell(record, trial=number) for record, number in zip(trials, numbers, strict=True)),
        *map(cell, final),
    ]
    chosen = [{"run_id": trials[number].run_id} for number in (1, 3)]
    folder = study_folder(*trials, *final, cells=cells, chosen=chosen)
    study = load_study(folder)
    assert [record.run_id for record in study.trials] == [record.run_id for record in trials]
    assert [record.run_id for record in study.train_records] == [record.run_id for record in final]
    found = search_rows(study)
    assert [(row["model"], row["trial"], row["chosen"], row["settings"]) for row in found] == [
        ("transformer-small", 1, False, "training.learning_rate=0.001"),
        ("transformer-small", 2, True, "training.learning_rate=0.002"),
        ("transformer-small", 3, False, "training.learning_rate=0.9"),
        ("lstm-small", 1, True, "training.learning_rate=0.001"),
        ("lstm-small", 2, False, "training.learning_rate=0.002"),
        ("lstm-small", 3, False, "training.learning_rate=0.003"),
    ]
    undecided = load_study(study_folder(*trials, *final, cells=cells))
    assert not any(row["chosen"] for row in search_rows(undecided)), "the search decides, and not the report"
    study_folder(*trials, *final, cells=cells, chosen=chosen)
    text = terminal_table(study)
    assert text.startswith("a-study: search\n")
    assert text.count("chosen") >= 2 and "diverged" in text
    assert log_comparison(folder, "offline") is not None
    assert tables_in(wandb_directory)["search"] == found


def test_trials_have_scores_named_as_in_the_comparison(study_folder):
    values = scores({("validation", "bleu"): 20.0, ("validation", "sequence_accuracy"): 50.0})
    record = trial(100, "transformer-small", 1e-3, 3.0, scores=values)
    study = load_study(study_folder(record, cells=[cell(record, trial=1)]))
    (table,) = search_tables(study)
    titles = [column.title for column in table.columns]
    assert ("validation", "BLEU") in titles
    assert ("validation", "sequence", "accuracy %") in titles
