"""LaTeX, CSV and pandas: the same rows in other forms."""

import csv
import dataclasses
import io
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

from benchmark.config import UserError
from benchmark.record import Row
from benchmark.report.escaping import for_csv, for_latex
from benchmark.report.frame import COLUMNS, compare, load, plot
from benchmark.report.layout import Column, Table, latex_lines, on_one_line
from benchmark.report.study_results import load_study
from benchmark.report.tables import csv_tables, latex_table, markdown_table, train_tables, write_csv
from benchmark.store import StorageError
from tests.benchmark.report.records import layer_record, scores, speed_record, train_record
from tests.benchmark.report.test_budgets import cell as study_cell
from tests.benchmark.report.test_html import runs

HOSTILE = r"\input{/etc/passwd} 100% $x^2_i$ #1 ~a & {b} <c> |d| \"e` -- 'f' ± … é 中 \write18{ls}"


def test_latex_marks_and_escapes():
    assert for_latex("a_b 5 %") == r"a\_b 5 \%"
    assert for_latex("中") == "U+4E2D"
    assert "\\input" not in for_latex(HOSTILE)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("options", ["", "twocolumn"])
def test_the_latex_compiles_as_it_is(study_folder, tmp_path, options):
    hostile = train_record("e" * 16, "mine", scores=scores({("test", "bleu"): 1.0}), status="done")
    broken = train_record("f" * 16, "mine", seed=1, status="failed", failure=HOSTILE)
    layers = layer_record(0xA, "path", subject="hops", rows=[of_layers("hops")])
    folder = study_folder(*runs(), speed_record(), layers, hostile, broken)
    (folder / "runs" / ("d" * 16)).mkdir()
    (folder / "runs" / ("d" * 16) / "record.json").write_text("{")
    text = latex_table(load_study(folder))
    assert r"\begin{table}" in text and r"\begin{table*}" in text and ", continued}" in text
    head = rf"\documentclass[{options}]{{article}}\usepackage{{booktabs,graphicx,textcomp}}\begin{{document}}"
    (tmp_path / "t.tex").write_text(f"{head}\n{text}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert ended.returncode == 0, ended.stdout[-2000:]
    for complaint in ("Overfull \\hbox", "Float too large", "Too many unprocessed floats"):
        assert complaint not in ended.stdout


def test_latex_says_what_is_unreadable_and_what_is_missing(study_folder):
    made = runs(seeds=[0])
    missing = made[0].model_copy(update={"run_id": "9" * 16})
    folder = study_folder(*made, cells=[study_cell(record) for record in (*made, missing)])
    (folder / "runs" / ("d" * 16)).mkdir()
    (folder / "runs" / ("d" * 16) / "record.json").write_text("{")
    lines = latex_table(load_study(folder)).splitlines()
    assert any(line.startswith("unreadable, left out: runs/") for line in lines)
    assert any(line.startswith("missing: 1 run of the study: transformer{-}small seed 0") for line in lines)


def test_latex_has_the_cells_of_the_table(study_folder):
    study = load_study(study_folder(*runs()))
    (table,) = train_tables(study)
    text = latex_table(study)
    for row in table.rows:
        for cell in row:
            assert for_latex(cell) in text
    assert text.count(r"\textbf{") == 1
    assert text.count(r"\underline{") == 2


def test_sentences_in_latex_go_over_pages():
    texts = [
        ["S4.1", "a sentence of many words " * 5, "another one, as long as that " * 5] for _ in range(40)
    ]
    columns = [Column(title=(name,), is_text=True) for name in ("claim", "says", "measured")]
    table = Table(title="Claims", heading=["head"], columns=columns, rows=texts, labels=1)
    lines = latex_lines(table)
    parts = lines.count(r"\begin{table*}[htbp]")
    assert parts == lines.count(r"\begin{tabular}{lp{0.38\linewidth}p{0.38\linewidth}}") == 6
    assert lines.count(r"\caption{Claims}") == 1
    assert lines.count(r"\caption{Claims, continued}") == parts - 1
    assert sum(line.startswith("S4.1 & ") for line in lines) == 40
    assert lines.count(r"head\par") == 1


@pytest.mark.parametrize(("number", "name"), [(3, "table"), (9, "table*")])
def test_a_wide_table_goes_over_both_columns(number, name):
    columns = [Column(title=("tokens/s",)) for _ in range(number)]
    table = Table(title="t", heading=[], columns=columns, rows=[["1"] * number], labels=1)
    assert [line for line in latex_lines(table) if "{table" in line] == [
        rf"\begin{{{name}}}[htbp]", rf"\end{{{name}}}",
    ]  # fmt: skip


def test_markdown_marks_the_highest_mean_and_what_the_seeds_do_not_tell_from_it(study_folder):
    study = load_study(study_folder(*runs()))
    (table,) = train_tables(study)
    text = markdown_table(study)
    ((row, column),) = table.best
    assert f"| **{table.rows[row][column]}** |" in text
    for row, column in table.level:
        assert f"| *{table.rows[row][column]}* |" in text
    assert len(table.level) == 2 and text.count("**") == 2
    assert "\n- Bold: the highest mean; italic: what these seeds do not tell from it.\n" in text
    one_model = dataclasses.replace(study, train_records=study.train_records[:1])
    assert "**" not in markdown_table(one_model) and "Bold" not in markdown_table(one_model)


@pytest.mark.parametrize(
    ("title", "line"),
    [
        (("mixing", "operations", "n / d"), "mixing operations n / d"),
        (("runs", "done/failed/", "diverged"), "runs done/failed/diverged"),
        (("test_2016_", "flickr", "BLEU"), "test_2016_flickr BLEU"),
    ],
)
def test_a_title_in_one_line_goes_on_only_where_its_lines_ended(title, line):
    assert on_one_line(title) == line


def test_csv_has_full_precision_and_no_formula(study_folder):
    made = runs(models=("transformer-small", "=cmd()"))
    texts = csv_tables(load_study(study_folder(*made)))
    assert list(texts) == ["comparison", "significance", "budget"]
    rows = list(csv.DictReader(io.StringIO(texts["comparison"])))
    assert {row["model"] for row in rows} == {"transformer-small", "'=cmd()"}
    values = [record.scores[0].value for record in made if record.model_preset == "transformer-small"]
    found = next(row for row in rows if row["model"] == "transformer-small")
    assert float(found["test_bleu_mean"]) == pytest.approx(sum(values) / 3, abs=1e-12)
    assert for_csv(-1.5) == -1.5


def test_csv_leaves_no_row_out_and_its_old_files_go(study_folder, tmp_path):
    made = [*runs(), speed_record(), layer_record(0xA, "path", subject="hops", rows=[of_layers("hops")])]
    study = load_study(study_folder(*made))
    folder = tmp_path / "tables"
    folder.mkdir()
    for name in ("search.csv", "mine.csv"):
        (folder / name).touch()
    written = write_csv(study, folder)
    assert [path.stem for path in written] == [
        "comparison", "significance", "budget", "speed", "layers", "claims",
    ]  # fmt: skip
    lengths = {path.stem: len(list(csv.DictReader(io.StringIO(path.read_text())))) for path in written}
    assert lengths["comparison"] == lengths["budget"] == lengths["significance"] == 3
    assert (lengths["speed"], lengths["layers"]) == (len(speed_record().rows), 1)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["mine.csv", *(path.name for path in written)]
    )
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_csv(study, tmp_path / "file" / "tables")


def of_layers(quantity):
    return Row(quantity=quantity, value=1.0, unit=quantity, conditions={"n": 8})


def test_csv_of_a_study_without_records_is_the_header(study_folder):
    empty = csv_tables(load_study(study_folder()))
    (header,) = csv.reader(io.StringIO(empty.pop("comparison")))
    assert empty == {}
    made = [record.model_copy(update={"scores": []}) for record in runs()]
    full = csv_tables(load_study(study_folder(*made)))
    assert header == next(csv.reader(io.StringIO(full["comparison"])))


def test_runs_on_other_data_of_one_task_are_never_in_one_mean(study_folder):
    made = [
        train_record(
            f"{10 * length + seed:016x}",
            seed=seed,
            experiment={"task": {"maximum_length": length}},
            scores=scores({("test", "bleu"): float(length)}),
        )
        for length in (10, 20)
        for seed in (0, 1)
    ]
    found = compare(load(study_folder(*made)), "bleu", "test")
    assert sorted(found["mean"]) == [10, 20]
    assert list(found["seeds"]) == [2, 2]


def test_a_frame_has_every_value_and_documented_columns(study_folder):
    made = runs()
    frame = load(study_folder(*made, speed_record()))
    assert list(frame.columns)[: len(COLUMNS)] == list(COLUMNS)
    assert str(frame["value"].dtype) == "float64"
    assert str(frame["seed"].dtype) == "Int64"
    bleu = frame[(frame["quantity"] == "bleu") & (frame["split"] == "test")]
    assert sorted(bleu["value"]) == sorted(record.scores[0].value for record in made)
    curve = frame[(frame["quantity"] == "validation_loss") & (frame["run_id"] == made[0].run_id)]
    assert list(curve["step"]) == [1000, 2000, 3000]
    assert set(frame[frame["kind"] == "speed"]["baseline"].dropna()) >= {"whole prefix", "plain form"}


def test_compare_is_the_report_s_mean_and_interval(study_folder):
    folder = study_folder(*runs())
    found = compare(load(folder), "bleu", split="test")
    (group,) = load_study(folder).groups
    for cell in group.cells:
        row = found.xs(cell.model, level="model").iloc[0]
        expected = cell.score("test", "bleu")
        assert expected is not None and expected.half_width is not None
        assert row["mean"] == pytest.approx(expected.mean, abs=1e-12)
        assert row["high"] - row["mean"] == pytest.approx(expected.half_width, abs=1e-12)
        assert row["seeds"] == 3
    with pytest.raises(UserError, match="no quantity 'blue'"):
        compare(load(folder), "blue")
    with pytest.raises(UserError, match="bleu: not measured on split 'dev'"):
        compare(load(folder), "bleu", split="dev")


def test_plot_draws_a_line_for_each_model(study_folder):
    frame = load(study_folder(*runs()))
    axes = plot(frame, "validation_bleu")
    assert [line.get_label() for line in axes.get_lines()] == [
        "transformer-small",
        "convs2s-small",
        "lstm-small",
    ]
    assert list(np.asarray(axes.get_lines()[0].get_xdata())) == [1000, 2000, 3000]
    assert axes.get_ylabel() == "validation bleu, of 100"
    with pytest.raises(UserError, match="no column 'stepp'"):
        plot(frame, "bleu", x="stepp")
    with pytest.raises(UserError, match="bleu: not measured over 'step'"):
        plot(frame, "bleu")


def of_operations(records, per_step):
    return [one.model_copy(update={"operations_per_step": per_step}) for one in records]


@pytest.fixture
def matched(study_folder):
    """The frame of a study of two matches, of which both have the transformer, a trial and a diverged run."""
    made = of_operations(runs(models=("transformer-small", "lstm-small", "lstm-small")), 1e9)
    shared, by_seconds, by_flops = made[:3], made[3:6], made[6:]
    trial = made[0].model_copy(update={"run_id": "a" * 16})
    diverged = made[3].model_copy(update={"run_id": "b" * 16, "status": "diverged", "seed": 9})
    cells = [
        *(study_cell(record, match=match) for match in ("seconds", "flops") for record in shared),
        *(
            study_cell(record, match="seconds", held=1.0, seconds_per_step=1 / 5000)
            for record in (*by_seconds, diverged)
        ),
        *(study_cell(record, match="flops", held=1.0) for record in by_flops),
        study_cell(trial, match="seconds", trial=0),
    ]
    return load(study_folder(*made, trial, diverged, cells=cells))


def test_a_run_of_several_matches_has_its_rows_in_each(matched):
    assert set(matched["match"]) == {"seconds", "flops"}
    found = compare(matched, "bleu", split="test")
    assert list(found["seeds"]) == [3] * 4
    for match in ("seconds", "flops"):
        by_model = found.xs(match, level="match")
        assert set(by_model.index.get_level_values("model")) == {"transformer-small", "lstm-small"}
    for match, mean in (("seconds", 32.0 + 1 / 7), ("flops", 34.0 + 1 / 7)):
        assert found.xs((match, "lstm-small"), level=("match", "model"))["mean"].item() == pytest.approx(mean)


def test_a_plot_has_a_line_for_each_match_and_neither_trials_nor_runs_that_diverged(matched):
    lines = {
        line.get_label(): list(np.asarray(line.get_ydata()))
        for line in plot(matched, "validation_bleu").get_lines()
    }
    assert set(lines) == {
        f"{model}, match {match}"
        for model in ("transformer-small", "lstm-small")
        for match in ("seconds", "flops")
    }
    assert lines["lstm-small, match seconds"] == pytest.approx([11.1, 21.1, 31.1])
    assert lines["lstm-small, match flops"] == pytest.approx([12.1, 22.1, 32.1])
    one_match = plot(matched[matched["match"] == "seconds"], "validation_bleu")
    assert {line.get_label() for line in one_match.get_lines()} == {"transformer-small", "lstm-small"}


def test_a_run_that_breaks_its_match_says_so_and_is_not_compared(study_folder):
    made = runs(models=("transformer-small", "lstm-small"))
    references, others = of_operations(made[:3], 1e9), of_operations(made[3:], 2e9)
    cells = [
        *(study_cell(record, match="flops") for record in references),
        *(study_cell(record, match="flops", held=1.0) for record in others),
    ]
    frame = load(study_folder(*references, *others, cells=cells))
    assert set(frame[frame["invalid"].notna()]["model"]) == {"lstm-small"}
    found = compare(frame, "bleu", split="test")
    assert list(found.index.get_level_values("model")) == ["transformer-small"]


def test_other_versions_are_never_in_one_mean(study_folder):
    frame = load(study_folder(*runs()))
    for name, value in (("torch_version", "2.99"), ("harness_version", 99), ("task_version", 99)):
        both = pd.concat([frame, frame.assign(**{name: value})])
        assert set(compare(both, "bleu", split="test")["seeds"]) == {3}


def test_studies_are_never_in_one_mean(study_folder):
    frame = load(study_folder(*runs()))
    both = pd.concat([frame, frame.assign(study="longer")])
    assert set(compare(both, "bleu", split="test")["seeds"]) == {3}
    labels = [line.get_label() for line in plot(both, "validation_loss").get_lines()]
    assert len(labels) == 6 and "lstm-small, study longer" in labels


def test_phases_and_steps_are_never_in_one_mean(study_folder):
    frame = load(study_folder(*runs(), speed_record()))
    speeds = compare(frame, "target_tokens_per_second")
    assert set(speeds["seeds"]) == {1} and "train" in speeds.index.get_level_values("phase")
    curves = compare(frame, "validation_bleu")
    assert set(curves["seeds"]) == {3} and set(curves.index.get_level_values("step")) == {1000, 2000, 3000}


def test_scores_of_several_signatures_are_refused(study_folder):
    made = runs(seeds=[0])
    other = train_record(
        "c" * 16, "lstm-small", seed=1, scores=scores({("test", "bleu"): 50.0}, bleu_signature="lower")
    )
    frame = load(study_folder(*made, other))
    with pytest.raises(ValueError, match=r"several signatures do not compare \(nrefs:1.*, lower\)"):
        compare(frame, "bleu", split="test")
    with pytest.raises(ValueError, match="several signatures"):
        plot(frame.assign(n=1), "bleu", x="n", split="test")
    alone = compare(frame[frame["signature"] == "lower"], "bleu", split="test")
    assert list(alone["mean"]) == [50.0] and list(alone["signature"]) == ["lower"]


def test_without_a_run_that_is_done_it_says_so(study_folder):
    (record,) = runs(models=["lstm-small"], seeds=[0])
    frame = load(study_folder(record.model_copy(update={"status": "diverged"})))
    with pytest.raises(UserError, match="bleu: no run outside of a search is done"):
        compare(frame, "bleu")
