"""Tables say what they are, what failed and what numbers count; text from others does nothing in them."""

import hashlib
import json
import re
import subprocess
import sys

import pytest

from benchmark.config import ROOT, UserError, canonical_json
from benchmark.record import CAPTURED, Row, record_bytes, record_from_bytes
from benchmark.report.study_results import StudyResults, load_study
from benchmark.report.tables import markdown_table, terminal_table
from tests.benchmark.report.records import BLEU, layer_record, provenance, scores, speed_record, train_record

FLICKR = "test_2016_flickr"
MODELS = ("transformer-small", "convs2s-small", "lstm-small")


def all_scores(bleu):
    return scores({(FLICKR, "bleu"): bleu, (FLICKR, "chrf"): bleu + 20, ("validation", "bleu"): bleu - 1})


def three_models(seeds):
    return [
        train_record(f"{m}{seed}" * 8, model, seed=seed, scores=all_scores(30.0 + m + 0.3 * seed))
        for m, model in enumerate(MODELS)
        for seed in range(seeds)
    ]


def study(*records, **fields):
    return StudyResults(name="a-study", train_records=tuple(records), model_order=MODELS, **fields)


def row_of(text, model):
    return next(line for line in text.split("\n") if line.startswith(model))


def test_one_seed_fits_a_terminal_of_120_columns_in_one_block():
    text = terminal_table(study(*three_models(1)), width=120)
    assert max(map(len, text.split("\n"))) <= 120
    assert len(re.findall("^transformer-small", text, re.MULTILINE)) == 1
    assert [one for one in row_of(text, "transformer-small").split() if one not in "*≈"] == [
        *("transformer-small", "1/0/0", "30.0", "50.0", "29.0"),
        *("4,000", "251", "1,230", "2.99/4.01", "722"),
    ]
    assert "seeds: one seed for each row" in text
    assert "\n*: the highest mean; ≈: what these seeds do not tell from it.\n" in text
    # in the study's order
    assert text.index("transformer-small") < text.index("convs2s-small") < text.index("lstm-small")


def test_several_seeds_show_half_a_t_interval():
    text = terminal_table(study(*three_models(3)))
    # 30, 30.3, 30.6: deviation 0.3, t(2) = 4.303
    assert "30.30 ± 0.75" in row_of(text, "transformer-small")
    assert "seeds: 3 for each row" in text


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_what_is_wider_than_the_terminal_goes_on_below_with_its_labels(width):
    text = terminal_table(study(*three_models(3)), width=width)
    table = text[: text.index("Runs:")]
    heading, _, cells = table.partition("\n\n")
    assert max(map(len, cells.split("\n"))) <= width
    assert all(len(line) <= width or " " not in line.partition(": ")[2] for line in heading.split("\n"))
    assert len(re.findall("^lstm-small", table, re.MULTILINE)) == (
        1 if width == 200 else {60: 4, 80: 3, 120: 2}[width]
    )


def test_the_heading_names_device_threads_precision_budget_task_and_signatures():
    text = terminal_table(study(*three_models(1)))
    for part in (
        "A Processor @ 2.00GHz, 2 threads, float32, torch 2.13.0+cpu",
        "budget: 5,000 steps",
        "task: multi30k-en-de, version 1",
        f"BLEU: {BLEU}",
        "chrF: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    ):
        assert part in text


def test_a_budget_that_is_other_steps_for_each_model_is_spelled_out():
    records = [
        train_record(f"{i}" * 16, model, experiment={"training": {"steps": 1000 * (i + 1)}})
        for i, model in enumerate(MODELS)
    ]
    text = terminal_table(study(*records))
    assert "budget: transformer-small 1,000, convs2s-small 2,000, lstm-small 3,000 steps" in text


def test_steps_are_shown_where_a_run_stopped_before_its_budget():
    text = terminal_table(study(train_record("a" * 16, steps=4321, stopped_early=True)))
    assert "4,321" in row_of(text, "transformer-small") and "budget: 5,000 steps" in text
    assert "steps taken" not in markdown_table(study(train_record("a" * 16)))


@pytest.mark.parametrize("form", [terminal_table, markdown_table])
def test_what_was_left_out_of_the_data_or_cut_stands_below_the_table(form):
    counted = {"pairs_dropped_empty": 1234, "pairs_dropped_long": 5, "sources_truncated": 0}
    text = " ".join(form(study(train_record("a" * 16, **counted, targets_truncated=2))).split())
    assert (
        "data: 1,234 training pairs with an empty side left out, 5 longer than data.maximum_tokens left out, "
        "2 validation targets cut there" in text
    )
    assert "data: " not in form(study(train_record("a" * 16, pairs_dropped_long=0)))


def test_what_must_not_be_compared_stands_in_tables_of_its_own():
    other = train_record("f" * 16, provenance=provenance(precision="bfloat16"), scores=all_scores(31.0))
    text = terminal_table(study(*three_models(1), other))
    first, second, *_ = text.split("\n\n\n")
    assert ("bfloat16" in first, "float32" in first) == (True, False)
    assert ("bfloat16" in second, "float32" in second) == (False, True)


@pytest.mark.parametrize("form", [terminal_table, markdown_table])
def test_failed_and_diverged_runs_are_counted_and_named_with_their_reason(form):
    text = form(
        study(
            *three_models(1),
            train_record("d" * 16, "lstm-small", seed=1, status="failed", failure="oom_host: 9 GiB"),
            train_record(
                "e" * 16, "lstm-small", seed=2, status="diverged", diverged_step=1234, last_finite_loss=5.4321
            ),
            train_record(
                "f" * 16,
                "lstm-small",
                seed=3,
                status="failed",
                failure="oom_host",
                peak_memory_bytes=9 * 2**30,
            ),
        )
    )
    assert "1/2/1" in text
    assert f"failed: lstm-small seed 1, run {'d' * 16}: oom_host: 9 GiB\n" in text
    assert f"failed: lstm-small seed 3, run {'f' * 16}: oom_host (peak memory 9,220 MiB)\n" in text
    assert f"diverged at step 1,234 (last loss 5.43): lstm-small seed 2, run {'e' * 16}" in text


def test_a_model_of_which_all_runs_failed_keeps_its_row():
    text = terminal_table(
        study(*three_models(1)[:1], train_record("d" * 16, "lstm-small", status="failed", failure="x"))
    )
    assert row_of(text, "lstm-small").split()[:4] == ["lstm-small", "0/1/0", "none", "-"]


def test_a_score_that_some_seeds_lack_says_of_how_many_it_is():
    records = three_models(3)[:3]
    records[1] = records[1].model_copy(update={"scores": records[1].scores[:1]})
    text = terminal_table(study(*records))
    assert "(of 2)" not in text  # other metrics make another table
    records[1] = train_record(
        "01" * 8, seed=1, scores=scores({(FLICKR, "bleu"): 31.0, ("validation", "chrf"): 5.0})
    )
    assert "(of 2)" in terminal_table(study(*records))


def test_symbol_tasks_have_accuracies_in_place_of_bleu():
    values = {("test", "sequence_accuracy"): 88.25, ("test", "token_accuracy"): 97.5}
    values[("validation", "sequence_accuracy")] = 90.0
    text = terminal_table(study(train_record("a" * 16, task_preset="reverse", scores=scores(values))))
    assert "BLEU" not in text and "88.2" in text and "97.5" in text
    assert re.search(r"accuracy % +accuracy %", text)


def test_without_validation_scores_the_loss_stands_there():
    text = terminal_table(study(train_record("a" * 16, validation_loss=1.2345)))
    assert "nats/token" in text and "1.23" in text


def test_unreadable_and_missing_runs_are_named():
    text = terminal_table(study(unreadable=("runs/x/record.json: cut",), missing=("lstm-small seed 2",)))
    assert "no records yet" in text
    assert "unreadable, left out: runs/x/record.json: cut" in text
    assert "missing: 1 run of the study: lstm-small seed 2" in text


def test_a_speed_record_has_a_row_for_each_model():
    text = terminal_table(study(speed_records=(speed_record(noisy=True),)))
    lines = [re.split(r" {2,}", line.strip()) for line in text.split("\n")]
    assert [
        *["transformer-small", "4,002 (3,950 to 4,050)", "-"],
        *["1.200 (1.150 to 1.250)", "0.610 (0.600 to 0.620)"],
    ] in lines
    assert ["lstm-small", "4,400 (4,350 to 4,450)", "1.099 (1.081 to 1.120)", "-", "-"] in lines
    assert ["transformer-small", "6,000 (5,900 to 6,100)", "6.40 (6.20 to 6.60)"] in lines
    assert "noise (A/A): transformer-small against itself 1.012 (0.990 to 1.030)" in text
    assert "peak of matrix products: 180 (170 to 190) billion" in text
    assert "timing: perf_counter, median of rounds" in text
    assert "noisy: other load" in text


def test_steps_as_graphs_have_columns_of_their_own():
    on_gpu = speed_record()
    made = on_gpu.rows[1].model_copy(
        update={"phase": CAPTURED, "value": 8123.0, "low": 8000.0, "high": 8200.0}
    )
    against = {"phase": CAPTURED, "quantity": "speed_ratio", "value": 2.034, "low": 2.0, "high": 2.1}
    faster = made.model_copy(update={**against, "conditions": {"baseline": "kernels launched one by one"}})
    rows = [*on_gpu.rows, made, faster]
    text = terminal_table(study(speed_records=(on_gpu.model_copy(update={"rows": rows}),)), 200)
    lines = [re.split(r" {2,}", line.strip()) for line in text.split("\n")]
    (first,) = (line for line in lines if line[0] == "transformer-small" and "(8,000 to 8,200)" in line[-2])
    assert first[-2:] == ["8,120 (8,000 to 8,200)", "2.034 (2.000 to 2.100)"]
    assert any(line[0] == "lstm-small" and line[-2:] == ["-", "-"] for line in lines)
    assert "As graphs: the same steps as CUDA graphs" in text
    assert "graphs" not in terminal_table(study(speed_records=(on_gpu,)), 200)


def test_a_noisy_speed_record_says_what_was_seen_and_an_older_one_has_no_remark():
    noise = ["other processes took 31% of the processor time", "3.0 tasks shared 2 cores"]
    text = terminal_table(study(speed_records=(speed_record(noisy=True, noise=noise),)), 200)
    assert f"noisy: {noise[0]}; {noise[1]}, while this was timed" in text
    document = json.loads(record_bytes(speed_record()))
    del document["noise"], document["noisy"], document["checksum_sha256"]
    document["schema_version"] = 1
    document["checksum_sha256"] = hashlib.sha256(canonical_json(document).encode()).hexdigest()
    older = record_from_bytes(json.dumps(document).encode(), "older")
    assert "noisy" not in terminal_table(study(speed_records=(older,)))


def test_a_failed_speed_record_says_why():
    failed = speed_record(status="failed", failure="killed (9)", rows=[])
    assert f"failed: speed, run {failed.run_id}: killed (9)" in terminal_table(study(speed_records=(failed,)))


PAYLOAD = "\x1b[2J|<script>alert(1)</script>[x](http://evil)\u202e\n# `x`"


def records_of_payloads():
    fields = {"model_preset": PAYLOAD, "task_preset": PAYLOAD, "provenance": provenance(device=PAYLOAD)}
    speed = {**fields, "timing_method": PAYLOAD}
    del speed["model_preset"]
    return StudyResults(
        name=PAYLOAD,
        train_records=(
            train_record(
                "a" * 16, seed=0, experiment={"model": {"x": PAYLOAD}}, scores=all_scores(1.0), **fields
            ),
            train_record("b" * 16, seed=1, status="failed", failure=PAYLOAD, **fields),
        ),
        speed_records=(speed_record(**speed),),
        unreadable=(PAYLOAD,),
        missing=(PAYLOAD,),
    )


def test_names_and_reasons_do_nothing_in_a_terminal():
    for width in (60, 400):
        text = terminal_table(records_of_payloads(), width)
        assert all(line.isprintable() for line in text.split("\n"))


def test_names_and_reasons_do_nothing_in_markdown():
    text = markdown_table(records_of_payloads())
    assert all(line.isprintable() for line in text.split("\n"))
    assert "<" not in text and not re.search(r"(?<!\\)[`\[\]]", text) and "http://" not in text
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 4, "runs, significance, speed, and what is published beside it"
    for table in tables:
        # a pipe in a name would give its row more cells than its header
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.split("\n")}) == 1
    assert all(line[:2] in ("# ", "##", "- ", "| ", "|:", "") for line in text.split("\n"))


def cell(run_id, model, seed):
    return {"run_id": run_id, "asked": "x", "model": model, "task": "t", "experiment": {"seed": seed}}


def test_a_studys_folder_gives_records_unreadable_ones_and_missing_cells(study_folder):
    folder = study_folder(
        train_record("a" * 16, "transformer-small"),
        train_record("b" * 16, "lstm-small"),
        speed_record("c" * 16),
        cells=[
            cell("b" * 16, "lstm-small", 0),
            cell("a" * 16, "transformer-small", 0),
            cell("d" * 16, "lstm-small", 1),
        ],
    )
    (folder / "runs" / ("e" * 16)).mkdir()
    (folder / "runs" / ("e" * 16) / "record.json").write_text("{")
    results = load_study(folder)
    assert [r.run_id[0] for r in results.train_records] == ["a", "b"]
    assert [r.run_id[0] for r in results.speed_records] == ["c"]
    assert results.model_order == ("lstm-small", "transformer-small")
    assert results.missing == (f"lstm-small seed 1 (run {'d' * 16})",)
    (line,) = results.unreadable
    assert line.startswith(f"runs/{'e' * 16}/record.json: ")
    assert str(folder) not in line


def test_records_of_layers_are_in_the_order_of_what_was_measured(study_folder):
    subjects = ("layers, d = 128", "layers, d = 64", "attention")
    made = [layer_record(number, "time", subject=subject) for number, subject in enumerate(subjects)]
    folder = study_folder(*made, layer_record(9, "path", subject="recurrent"))
    found = [(one.kind, one.subject) for one in load_study(folder).layer_records]
    assert found == [("path", "recurrent"), *(("time", subject) for subject in reversed(subjects))]


def test_in_a_study_of_speeds_alone_no_run_is_missing(study_folder):
    cells = [cell("d" * 16, "lstm-small", 0)]
    assert load_study(study_folder(speed_record("c" * 16), cells=cells, measure=["speed"])).missing == ()


def test_no_such_study_is_one_line(tmp_path):
    with pytest.raises(UserError, match="nothing: no such study"):
        load_study(tmp_path / "nothing")


def test_every_form_is_the_same_bytes_twice_and_needs_no_torch(study_folder, tmp_path):
    row = Row(quantity="hops", value=1.0, unit="hops", conditions={"n": 8, "path": "whole"})
    measured = layer_record(0xD, "path", subject="self-attention", rows=[row])
    folder = study_folder(*three_models(3), speed_record("f" * 16), measured)
    program = (
        "import sys; from pathlib import Path\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] not in ('torch', 'pytorch_lightning', 'models'), name\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from benchmark.report.frame import load\n"
        "from benchmark.report.html import write_pages\n"
        "from benchmark.report.samples import Samples\n"
        "from benchmark.report.study_results import load_study\n"
        "from benchmark.report.tables import latex_table, markdown_table, terminal_table, write_csv\n"
        "from benchmark.rescore import References\n"
        "folder, output = map(Path, sys.argv[1:])\n"
        "study = load_study(folder)\n"
        "write_pages(study, folder, output / 'page', Samples(folder, References(folder, folder)))\n"
        "for form in (terminal_table, markdown_table, latex_table):\n"
        "    (output / form.__name__).write_text(form(study))\n"
        "load(folder).to_csv(output / 'frame')\n"
        "write_csv(study, output / 'tables')\n"
    )
    made = []
    for seed in ("1", "2"):
        output = tmp_path / seed
        output.mkdir()
        subprocess.run(
            [sys.executable, "-c", program, str(folder), str(output)],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PATH": "", "MPLCONFIGDIR": str(tmp_path)},
            check=True,
        )
        files = sorted(path for path in output.rglob("*") if path.is_file())
        made.append({path.relative_to(output).as_posix(): path.read_bytes() for path in files})
    assert made[0] == made[1]
    texts = {name: text for name, text in made[0].items() if not name.startswith(("page/runs/", "tables/"))}
    assert list(texts) == ["frame", "latex_table", "markdown_table", "page/index.html", "terminal_table"]
    assert all(b"transformer" in text for text in texts.values())
    assert sum(name.startswith("tables/") for name in made[0]) == 6
    assert sum(name.startswith("page/runs/") for name in made[0]) == len(three_models(3))
