"""Matrices say what the pairs say, from both sides; rankings say where the order depends on the match."""

from benchmark.report.comparison import Matched, group_titles, groups
from benchmark.report.matrices import ranking_remarks, ranking_tables, significance_matrices
from benchmark.report.search import search_tables
from benchmark.report.significance import significance_rows, significance_tables
from benchmark.report.study_results import StudyResults, load_study
from benchmark.report.tables import latex_table, markdown_table, terminal_table
from tests.benchmark.report.records import provenance, scores, train_record
from tests.benchmark.report.test_budgets import cell


def records(match, seeds=7, **bleu):
    return [
        train_record(
            f"{match} {model} {seed}", f"{model}-small", seed=seed,
            scores=scores(
                {
                    ("test", "bleu"): mean + 0.1 * seed + 0.01 * (len(model) * seed % 3),
                    ("validation", "bleu"): 1.0,
                }
            ),
        )
        for model, mean in bleu.items()
        for seed in range(seeds)
    ]  # fmt: skip


def test_every_row_against_every_other():
    (group,) = groups(records("", transformer=30.0, lstm=34.0, convs2s=33.99))
    (table,) = significance_matrices([group], group_titles("s", [group]))
    assert "held equal: the number of steps" in table.heading
    names = [row[0] for row in table.rows]
    place = {name.partition("-")[0]: number for number, name in enumerate(names)}
    assert [column.title[0] for column in table.columns[1:]] == names
    transformer, lstm = place["transformer"], place["lstm"]
    assert table.rows[transformer][1 + lstm].startswith("-4.0")
    assert table.rows[lstm][1 + transformer].startswith("4.0")
    assert table.rows[lstm][1 + lstm] == "-"
    assert {(lstm, 1 + transformer), (transformer, 1 + lstm)} <= table.best


def test_three_seeds_mark_nothing():
    (group,) = groups(records("", 3, transformer=30.0, lstm=34.0))
    (table,) = significance_matrices([group], group_titles("s", [group]))
    assert not table.best and table.rows[0][2] != "-"


def test_places_under_each_match():
    every = [
        *records("parameters", transformer=30.0, lstm=34.0),
        *records("seconds", transformer=36.0, lstm=34.0),
    ]
    matches = {record.run_id: {record.run_id.split()[0]: Matched()} for record in every}
    (table,) = ranking_tables(groups(every, ("transformer-small", "lstm-small"), matches))
    assert table.title.endswith("ranking by test BLEU")
    names = [row[0] for row in table.rows]
    assert [column.title for column in table.columns[1:]] == [("equal parameters",), ("equal seconds",)]
    assert {row[0]: [text[:2] for text in row[1:]] for row in table.rows} == {
        "transformer-small": ["2.", "1."], "lstm-small": ["1.", "2."],
    }  # fmt: skip
    assert (
        table.best == {(names.index("lstm-small"), 1), (names.index("transformer-small"), 2)}
        and not table.level
    )


def test_rankings_stand_in_every_form_of_paper():
    every = [
        *records("parameters", transformer=30.0, lstm=34.0),
        *records("seconds", transformer=36.0, lstm=34.0),
    ]
    matches = {record.run_id: {record.run_id.split()[0]: Matched()} for record in every}
    study = StudyResults(name="a-study", train_records=tuple(every), matches=matches)
    for form in (terminal_table, markdown_table, latex_table):
        text = form(study)
        assert text.count("ranking by test BLEU") == 1 and "shaded" not in text


def test_an_order_is_claimed_no_further_than_the_tests_decide_it():
    def remarks(seeds, lstm):
        every = [
            *records("parameters", seeds, transformer=30.0, lstm=34.0),
            *records("seconds", seeds, transformer=30.0, lstm=lstm),
        ]
        matches = {record.run_id: {record.run_id.split()[0]: Matched()} for record in every}
        return ranking_remarks(groups(every, ("transformer-small", "lstm-small"), matches))

    same = "test BLEU: the means are in the same order at equal parameters, seconds; these seeds decide "
    assert remarks(8, 34.0) == [f"{same}2 of the 2 differences between two models"]
    assert remarks(8, 30.01) == [f"{same}1 of the 2 differences between two models"]
    assert remarks(3, 34.0) == [f"{same}none of the 2 differences between two models"]
    assert remarks(8, 30.0) == [
        "test BLEU: the order of means flips with what is held equal: lstm-small is higher at equal "
        "parameters; transformer-small is higher at equal seconds (these seeds do not decide it)"
    ]


def test_one_match_has_no_ranking_to_compare():
    every = records("seconds", transformer=36.0, lstm=34.0)
    matches = {record.run_id: {"seconds": Matched()} for record in every}
    assert ranking_tables(groups(every, (), matches)) == []


def test_every_table_names_device_budget_failed_runs_and_what_is_held_equal(study_folder):
    every = [
        *records("parameters", transformer=30.0, lstm=34.0),
        *records("seconds", transformer=36.0, lstm=34.0),
    ]
    failed = train_record("parameters f", "lstm-small", seed=8, status="failed")
    diverged = train_record("parameters d", "lstm-small", seed=9, status="diverged")
    cheat = train_record("b" * 16, "convs2s-small", seed=0, body_parameters=4_000_000)
    every = [
        record.model_copy(update={"run_id": f"{number:016x}", "study": record.run_id.split()[0]})
        for number, record in enumerate([*every, failed, diverged])
    ]
    elsewhere = train_record(
        "e" * 16, experiment={"training": {"steps": 400}}, provenance=provenance(device="Another", threads=1)
    )
    cells = [cell(record, match=record.study) for record in every if record.study != "a-study"]
    cells += [cell(record, match="parameters") for record in every[-2:]]
    cells.append(cell(cheat, match="parameters", held=2_987_654))
    trials = [elsewhere, elsewhere.model_copy(update={"run_id": "d" * 16, "provenance": provenance()})]
    cells += [cell(record, trial=number) for number, record in enumerate(trials)]
    study = load_study(study_folder(*every, cheat, *trials, cells=cells))
    titles = group_titles("s", study.groups)
    matrices = significance_matrices(study.groups, titles)
    device = "device: A Processor @ 2.00GHz, 2 threads, float32, torch 2.13.0+cpu"
    counts = {"parameters": "15 done, 1 failed, 1 diverged", "seconds": "14 done, 0 failed, 0 diverged"}
    held = {
        "parameters": "held equal: body parameters; broken by convs2s-small",
        "seconds": "held equal: seconds of training",
    }
    for one in (*matrices, *significance_tables(study.groups, titles)):
        match = "parameters" if "parameters" in one.title else "seconds"
        assert one.heading[:4] == [device, "budget: 5,000 steps", f"runs: {counts[match]}", held[match]]
    assert {row["match"] for row in significance_rows(study.groups)} == {"parameters", "seconds"}
    (ranking,) = ranking_tables(study.groups)
    runs = "runs: 29 done, 1 failed, 1 diverged"
    said = [f"equal {match}: {line.removeprefix('held equal: ')}" for match, line in held.items()]
    assert ranking.heading == [device, "budget: 5,000 steps", runs, *said]
    (search,) = search_tables(study)
    assert search.heading == [
        "device: 1 run on Another, 1 thread, float32, torch 2.13.0+cpu; 1 run on A Processor @ 2.00GHz, "
        "2 threads, float32, torch 2.13.0+cpu",
        "budget: 400 steps",
        "runs: 2 done, 0 failed, 0 diverged",
    ]
