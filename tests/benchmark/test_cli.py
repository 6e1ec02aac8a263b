"""The command: what it prints where, its exit codes, and that mistakes cost one line and no waiting."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmark import checkpoint
from benchmark.cli import app
from benchmark.config import ROOT, dump_yaml
from benchmark.record import CurvePoint, available_cores, record_bytes
from benchmark.request import request_from
from benchmark.store import StudyFolder
from benchmark.study import Decision, Resolved, decide, make
from tests.benchmark.report.records import train_record
from tests.benchmark.report.test_budgets import cell as budget_cell
from tests.benchmark.report.test_wandb_table import tables_in, wandb_directory  # noqa: F401  (a fixture)
from tests.benchmark.test_history import rows_in, summary_in
from tests.benchmark.test_tracking import offline_run_configs

COMMANDS = ["run", "sweep", "report", "diff", "check", "doctor", "list"]


def seqbench(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-P", "-m", "benchmark", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True,
    )  # fmt: skip


def inside(*arguments):
    """The command in this process: exit code, stdout, stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def results(tmp_path):
    for number, status in enumerate(("done", "done", "diverged")):
        record = train_record(f"{number:016x}", seed=number, status=status)
        folder = tmp_path / "a-study" / "runs" / record.run_id
        folder.mkdir(parents=True)
        (folder / "record.json").write_bytes(record_bytes(record))
    document = {"study": "a-study", "schema_version": 1, "measure": ["train"], "cells": []}
    (tmp_path / "a-study" / "study.yaml").write_text(dump_yaml(document))
    return tmp_path


LIGHT = """
import sys, time
sys.argv[0] = "seqbench"
from benchmark.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "pandas", "pytorch_lightning", "wandb", "scipy", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


ENDING = """
import atexit, sys
from benchmark import cli

class Kept:
    def __del__(self):
        print("taken apart")

kept = Kept()

def main():
    atexit.register(print, "handled")
    print("said")
    {ends}

cli.main = main
cli.run_and_end()
"""


@pytest.mark.parametrize(
    ("ends", "code", "output"),
    [
        ("sys.exit(3)", 3, ["said", "handled"]),
        ("sys.exit('in words')", 1, ["said", "handled", "taken apart"]),
        ("raise OSError", 1, ["said", "handled", "taken apart"]),
    ],
)
def test_a_process_ends_with_its_code_and_all_it_said(ends, code, output):
    """Through a pipe, which Python keeps until it is full; what others left to do at the end is done."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDING.format(ends=ends)], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.splitlines()) == (code, output)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *([command, "--help"] for command in COMMANDS), ["list"], ["list", "models", "--json"]],
)
def test_help_and_list_load_no_heavy_library(arguments):
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


def test_reports_are_made_without_torch(results):
    program = LIGHT.replace('"scipy", "numpy"', '"sacrebleu"')
    ended = subprocess.run(
        [sys.executable, "-c", program, "report", results / "a-study"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "transformer-small" in ended.stdout


def test_help_answers_in_less_than_0_6_seconds():
    def seconds():
        started = time.perf_counter()
        assert seqbench("--help").returncode == 0
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.6


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_ends_with_examples(command):
    code, output, _ = inside(command, "--help")
    assert code == 0
    assert "Examples:" in output
    assert f"seqbench {command if command != 'sweep' else 'run'} " in output


@pytest.mark.parametrize(
    "arguments", [["rum"], ["run"], ["run", "--no-such-option"], ["report"], ["list", "nothing"]]
)
def test_a_wrong_command_line_ends_with_2(arguments):
    ended = seqbench(*arguments)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("seqbench: ")
    assert ended.stderr.endswith(" --help tells more\n")


MISTAKES = [
    (["run", "model=lstm-small", "task=reverse", "training.steps=1", "--threads", "4096"],
     f"seqbench: --threads: 4096 are asked for, and {available_cores()} cores may be used\n"),
    (["why", "--threads", "4096"],
     f"seqbench: --threads: 4096 are asked for, and {available_cores()} cores may be used\n"),
    (["run", "model=transformer-small", "task=reverse", "training.steps=1", "model.haeds=2"],
     "seqbench: model.haeds: unknown field; did you mean 'heads'?\n"),
    (["run", "model=transformer-small", "task=reverse", "training.steps=1", "model.heads=3"],
     "seqbench: model: heads must divide width, got 3 heads and width 160\n"),
    (["run", "model=convs2s-small", "task=reverse", "training.steps=1", "model.kernel=4"],
     "seqbench: model: kernel must be odd so that the encoder stays centred, got 4\n"),
    (["run", "model=transformer-small", "task=reverse"],
     "seqbench: training: set exactly one budget of steps, tokens, epochs, seconds; got none\n"),
    (["run", "model=transformer-small", "task=reverse", "training.steps=1", "--study", "../x"],
     "seqbench: study: '../x' cannot name a folder; use 1 to 64 of A-Z a-z 0-9 . _ - and no dot in front\n"),
    (["run", "model=transformer-small", "task=reverse", "training.steps=1", "--data-dir", "/nowhere"],
     "seqbench: --data-dir: there is no folder /nowhere\n"),
    (["run", "model=transformer-small", "task=reverse", "training.steps=1", "--results", "/proc/x"],
     "seqbench: /proc/x/try-reverse: cannot be made: No such file or directory\n"),
    (["run", "model=transformer-small", "task=reverse", "training.steps=1", "--device", "cpu",
      "--devices", "4097"],
     f"seqbench: --devices: 4097 are asked for, and there are {available_cores()} cores, one for each "
     "process\n"),
    (["run", "/nowhere/study.yaml"],
     "seqbench: /nowhere/study.yaml: cannot be read: No such file or directory\n"),
    (["report", "a-studi", "--results", "RESULTS"],
     "seqbench: study: RESULTS: no 'a-studi'; did you mean 'a-study'?; there are: a-study\n"),
    (["report", "/nowhere/x"], "seqbench: /nowhere/x: no such study\n"),
    (["report", "a-study", "--results", "RESULTS", "--output", "/nowhere/x.md"],
     "seqbench: --output: there is no folder /nowhere\n"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), MISTAKES)
def test_a_mistake_costs_one_line_and_ends_with_2(arguments, text, results):
    arguments = [argument.replace("RESULTS", str(results)) for argument in arguments]
    if arguments[0] == "run" and "--results" not in arguments:
        arguments += ["--results", str(results)]
    assert inside(*arguments) == (2, "", text.replace("RESULTS", str(results)))
    assert [path.name for path in results.iterdir()] == ["a-study"]


BAD_DATA = {
    "unequal": ("valid.de", b"a\n" * 3, "FOLDER/valid.en has 20 lines but FOLDER/valid.de has 3; the first 3 "
                "lines look like pairs; pairs must stand on equal lines"),
    "not UTF-8": ("train.de", b"a b\n" * 9 + b"\xff\n" * 11,
                  "FOLDER/train.de:10:1: not UTF-8 (byte 0xff); convert the file to UTF-8"),
    "empty": ("test.en", b"", "FOLDER/test.en: is empty"),
    "blank": ("train.en", b"\n" * 20,
              "train: no pair is left (20 with an empty side, 0 with more than data.maximum_tokens=256)"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "text"), BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_costs_one_line_and_leaves_nothing_behind(name, content, text, tmp_path):
    _write_text(tmp_path)
    (tmp_path / name).write_bytes(content)
    code, output, errors = _run_text(tmp_path)
    assert (code, output, errors) == (2, "", f"seqbench: {text.replace('FOLDER', str(tmp_path))}\n")
    assert not list(tmp_path.glob("results/*")), "no study came of it"


def test_bad_data_of_one_task_keep_the_others_from_beginning(tmp_path):
    _write_text(tmp_path)
    (tmp_path / "valid.en").write_bytes(b"")
    code, output, errors = _run_text(tmp_path, "task.name=rearrange,parallel_text")
    assert (code, output) == (2, "")
    assert errors.count("\n") == 1
    assert not list(tmp_path.glob("results/*"))


def test_what_is_done_stands_for_the_data_as_they_are(tmp_path):
    _write_text(tmp_path)
    assert _run_text(tmp_path)[0] == 0
    (record,) = tmp_path.glob("results/s/runs/*/record.json")
    before = record.read_bytes()
    (tmp_path / "train.de").write_bytes(b"d c b a\n" * 20)
    code, output, errors = _run_text(tmp_path, "seed=0,1")
    assert (code, output) == (2, "")
    assert errors == (
        f"seqbench: parallel_text: its data files have changed since run {record.parent.name} was made; "
        "put them back, or take another --study\n"
    )
    assert record.read_bytes() == before
    (tmp_path / "train.de").unlink()
    code, _, errors = _run_text(tmp_path)
    assert (code, "1 runs, 1 done, 0 to do" in errors) == (0, True), "what is done needs no data"


@pytest.mark.parametrize("device", ["cuda", "tpu"])
def test_a_device_that_is_not_there_costs_one_line(device, tmp_path):
    if device == "cuda" and torch_has_cuda():
        pytest.skip("there is one")
    code, output, errors = inside(
        "run", "model=lstm-small", "task=reverse", "training.steps=1", "training.precision=float32",
        "--device", device, "--results", tmp_path / "results",
    )  # fmt: skip
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert f"no '{device}' here" in errors
    assert not list(tmp_path.glob("results/*"))


def test_a_model_that_fails_at_the_size_asked_for_costs_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        (ROOT / "models" / "lstm.py").read_text()
        .replace("class Config(ModelConfig):", "class Config(ModelConfig):\n    shift: int = 0\n", 1)
        .replace("    def build(self, vocabulary_size: int) -> LSTM:",
                 "    def tiny(self):\n        return type(self)(width=16, shift=1)\n\n"
                 "    def build(self, vocabulary_size: int) -> LSTM:\n        1 / self.shift", 1)
    )  # fmt: skip
    code, output, errors = inside(
        "run", f"model.name={tmp_path}/mine.py", "task=reverse", "training.steps=1",
        "training.precision=float32", "--results", tmp_path / "results", "--wandb", "disabled",
    )  # fmt: skip
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert "ZeroDivisionError" in errors
    assert not list(tmp_path.glob("results/*"))


def torch_has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _write_text(tmp_path):
    for split in ("train", "valid", "test"):
        for language in ("en", "de"):
            (tmp_path / f"{split}.{language}").write_bytes(b"a b c d\n" * 20)


def _run_text(tmp_path, *fields):
    tasks = [] if any(one.startswith("task.name") for one in fields) else ["task.name=parallel_text"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return inside(
            "run", "model=lstm-small", "model.width=16", *tasks, *fields, "task.train=train",
            "task.validation=valid", "task.test=test", "task.source=en", "task.target=de",
            "task.vocabulary=symbols", "training.steps=1", "training.precision=float32", "--data-dir",
            tmp_path, "--results", tmp_path / "results", "--study", "s", "--wandb", "disabled",
        )  # fmt: skip


def test_a_copied_study_does_not_go_on_where_it_was_copied_from(tmp_path):
    code, _, errors = _run_tiny(tmp_path)
    assert code == 0, errors
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.json")}
    copy = tmp_path / "results" / "copy"
    shutil.copytree(tmp_path / "results" / "s", copy)
    code, output, errors = inside("run", copy / "study.yaml", "--results", tmp_path / "results")
    assert (code, output) == (2, "")
    assert errors == (
        f"seqbench: {copy}/study.yaml: is of study s, and would go on in {tmp_path}/results/s; say where "
        "with --study and --results\n"
    )
    assert {path: path.read_bytes() for path in before} == before
    study = copy / "study.yaml"
    text = study.read_text()
    for version, said in (("99", "reads up to 1"), ("0", "must be 1, got 0")):
        study.write_text(text.replace("schema_version: 1", f"schema_version: {version}"))
        for command in (["report", copy], ["diff", copy, tmp_path / "results" / "s"]):
            code, output, errors = inside(*command)
            assert (code, output, errors.count("\n")) == (2, "", 1)
            assert said in errors


def _run_tiny(tmp_path):
    return inside(
        "run", "model=lstm-small", "model.width=16", "task=reverse", "task.train_pairs=50",
        "task.validation_pairs=5", "task.test_pairs=5", "training.steps=1", "training.precision=float32",
        "--results", tmp_path / "results", "--study", "s", "--wandb", "disabled",
    )  # fmt: skip


@pytest.mark.parametrize("loader", ["!!python/object/apply:os.system", "!!python/name:os.system"])
def test_a_study_file_runs_no_code(tmp_path, loader):
    path = tmp_path / "s.yaml"
    path.write_text(f"study: s\nmodel: {loader} ['touch {tmp_path}/marker']\n")
    code, output, errors = inside("run", path, "--results", tmp_path / "results")
    assert (code, output, errors.count("\n")) == (2, "", 1)
    path.write_text(
        f"study: s\ntask: reverse\nmodel: {{_target_: os.system, name: lstm, x: 'touch {tmp_path}/marker'}}\n"
    )
    code, output, errors = inside("run", path, "training.steps=1", "--results", tmp_path / "results")
    assert (code, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("seqbench: model._target_: unknown field")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["s.yaml"]


def test_a_dry_run_shows_the_cells_and_makes_nothing(tmp_path):
    arguments = [
        "run",
        "model=transformer-small,lstm-small",
        "task=reverse",
        "training.seconds=9",
        "seed=0,1",
        "--device",
        "cpu",
    ]
    code, output, _ = inside(*arguments, "--results", tmp_path, "--dry-run", "--json")
    cells = json.loads(output)["cells"]
    assert code == 0
    assert [(one["model"], one["seed"], one["status"], one["run_id"]) for one in cells][:2] == [
        ("transformer-small", 0, "to do", None), ("lstm-small", 0, "to do", None),
    ]  # fmt: skip
    assert len(cells) == 4
    code, output, errors = inside(*arguments, "--results", tmp_path, "--dry-run")
    assert (code, output.count("\n")) == (0, 5)
    assert errors.splitlines() == [
        "seqbench: 4 runs: 4 to do", "seqbench: expected: 36 s, one after another",
        "seqbench: memory of a run: unknown until one is done",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_dry_run_shows_how_each_run_stands_and_what_the_rest_will_take(tmp_path):
    arguments = ["run", "model=lstm-small", "task=reverse", "training.steps=40", "training.precision=float32"]
    arguments += ["seed=0,1,2,3", "--study", "s", "--results", tmp_path, "--dry-run", "--device", "cpu"]
    cells = json.loads(inside(*arguments, "--json")[1])["cells"]
    folder = StudyFolder(tmp_path, "s")
    ends: tuple[dict[str, Any], ...] = (
        {"wall_seconds_total": 100.0, "peak_memory_bytes": 3 * 2**20},
        {"status": "failed", "failure": "x"},
    )
    for cell, fields in zip(cells, ends, strict=False):
        run = folder.run(cell["run_id"])
        run.path.mkdir(parents=True)
        run.write_record(train_record(run.run_id, "lstm-small", seed=cell["seed"], **fields))
    kept = folder.run(cells[2]["run_id"]).path / "checkpoints"
    kept.mkdir(parents=True)
    checkpoint.save({}, checkpoint.training_path(kept, 10))
    code, output, errors = inside(*arguments)
    assert code == 0
    rows = [re.split("  +", line) for line in output.splitlines()]
    assert [row[rows[0].index("status")] for row in rows] == [
        "status", "done", "failed", "interrupted, goes on at step 10", "to do",
    ]  # fmt: skip
    assert errors.splitlines() == [
        "seqbench: 4 runs: 1 done, 1 failed, 1 interrupted, 1 to do",
        "seqbench: expected: 5 min, one after another", "seqbench: memory of a run: up to 3 MiB so far",
    ]  # fmt: skip
    seen = [
        (one["status"], one["goes_on_at_step"])
        for one in json.loads(inside(*arguments, "--json")[1])["cells"]
    ]
    assert seen == [("done", None), ("failed", None), ("interrupted", 10), ("to do", None)]


def test_a_report_lists_what_it_cannot_read_and_ends_with_3(results):
    assert inside("report", "a-study", "--results", results)[0] == 0
    (results / "a-study" / "runs" / f"{0:016x}" / "record.json").write_bytes(b"{")
    code, output, _ = inside("report", "a-study", "--results", results)
    assert code == 3
    assert f"runs/{0:016x}/record.json" in output
    assert "transformer-small" in output


def test_a_row_that_is_not_what_its_match_promises_ends_run_and_report_with_3(tmp_path):
    """Its record says that it has 3 % more parameters than what it is matched to."""
    asked = ["model=transformer-small,lstm-small", "task=reverse", "training.steps=40", "match=parameters"]
    folder = StudyFolder(tmp_path, "s")
    folder.prepare()

    def resolve(asked):
        held = [None if one.match is None else 2_000_000.0 for one in asked]
        return [Resolved(experiment=one.experiment, held=own) for one, own in zip(asked, held, strict=True)]

    made = make(request_from([*asked, "training.precision=float32"], study="s"), folder, resolve)
    for off, code in ((1.01, 0), (1.03, 3)):
        for cell in made.cells:
            parameters = int(2_000_000 * (1 if cell.held is None else off))
            record = train_record(cell.run_id, cell.model_preset, body_parameters=parameters, steps=40)
            cell.open(folder.run(cell.run_id))
            folder.run(cell.run_id).write_record(
                record.model_copy(update={"experiment": cell.experiment.document()})
            )
        again = inside(
            "run", folder.study_path, "--results", tmp_path, "--wandb", "disabled", "--device", "cpu"
        )
        for ended in (again, inside("report", folder.path)):
            assert ended[0] == code, ended
            assert ("lstm-small (invalid)" in ended[1]) == (code == 3)


@pytest.mark.parametrize("damaged", ["trial", "of an earlier request"])
def test_a_damaged_record_that_is_not_run_again_ends_run_and_list_with_3(damaged, tmp_path):
    rate = {"training.learning_rate": [0.1]}
    search = {"trials": 1, "training": {"steps": 5}, "spaces": {"lstm-small": rate}}
    study = {"study": "s", "model": "lstm-small", "task": "reverse", "seed": [0, 1], "search": search}
    (tmp_path / "s.yaml").write_text(dump_yaml({**study, "training": {"steps": 40, "precision": "float32"}}))
    folder = StudyFolder(tmp_path / "results", "s")
    folder.prepare()

    def resolve(asked):
        return [Resolved(experiment=one.experiment) for one in asked]

    request = request_from([str(tmp_path / "s.yaml")])
    (trial,) = make(request, folder, resolve).cells
    recipe = Decision(
        model="lstm-small", task="reverse", trials=1, trial=1, run_id=trial.run_id, settings={}
    )  # fmt: skip
    decide([recipe], folder)
    assert request.after_search is not None
    made = make(request.after_search({recipe.key: {}}), folder, resolve)
    for cell in made.cells:
        record = train_record(cell.run_id, "lstm-small", seed=cell.experiment.seed)
        cell.open(folder.run(cell.run_id))
        folder.run(cell.run_id).write_record(
            record.model_copy(update={"experiment": cell.experiment.document()})
        )
    again = "run", tmp_path / "s.yaml", "seed=0", "--results", folder.results, "--wandb", "disabled"
    listed = "list", "runs", "--results", folder.results
    assert [inside(*command)[0] for command in (again, listed)] == [0, 0]
    run_id = trial.run_id if damaged == "trial" else made.cells[-1].run_id
    folder.run(run_id).record_path.write_bytes(b"{")
    for command in (again, (*again, "--json"), listed, (*listed, "--json")):
        code, output, errors = inside(*command)
        assert code == 3, errors
        assert f"{run_id}/record.json" in output + errors


def test_a_match_that_no_width_reaches_costs_one_line(tmp_path):
    coarse = {"name": "transformer", "width": 64, "heads": 64, "feed_forward": 64}
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    study = {
        "model": [{"name": "lstm", "width": 48}, {**coarse, **layers}], "task": "reverse",
        "training": {"steps": 10, "precision": "float32"}, "match": "parameters",
    }  # fmt: skip
    (tmp_path / "s.yaml").write_text(dump_yaml(study))
    code, output, errors = inside(
        "run", tmp_path / "s.yaml", "--results", tmp_path / "results", "--wandb", "disabled",
        "--device", "cpu",
    )  # fmt: skip
    assert (code, output, errors.count("\n")) == (2, "", 1)
    closest = (
        r"seqbench: match: transformer cannot have [0-9,]+ parameters within 2%: width [0-9]+ comes closest, "
    )
    assert re.match(closest, errors), errors
    assert not list(tmp_path.glob("results/*"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_report_to_wandb_has_every_run_and_table_once(tmp_path, wandb_directory, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WANDB_MODE", "offline")
    point = CurvePoint(step=5000, train_seconds=700.0, train_target_tokens=9, validation_loss=2.5)
    runs = {
        "done": train_record("1" * 16, curve=[point], body_parameters=2_000_000),
        "failed": train_record("2" * 16, seed=1, status="failed", failure="oom_host: MemoryError: "),
        "diverged": train_record("3" * 16, "lstm-small", status="diverged", failure="step 7"),
        "trial": train_record("4" * 16, "lstm-small", validation_loss=3.5),
    }
    folder = StudyFolder(tmp_path, "a-study")
    cells = []
    for name, record in runs.items():
        run = folder.run(record.run_id)
        run.path.mkdir(parents=True)
        run.write_record(record)
        cells.append(budget_cell(record, trial=1 if name == "trial" else None))
    document = {"study": "a-study", "schema_version": 1, "measure": ["train"], "cells": cells}
    folder.study_path.write_text(dump_yaml(document))
    code, output, errors = inside("report", folder.path, "--format", "wandb")
    assert (code, errors) == (0, "seqbench: wandb is offline (WANDB_MODE)\n")
    assert output.startswith("runs: 4 logged, 0 were there; tables: logged as report-")
    files = {path: path.read_bytes() for path in wandb_directory.glob("wandb/offline-run-*/*.wandb")}
    assert len(files) == 5
    code, output, _ = inside("report", folder.path, "--format", "wandb")
    assert (code, output) == (0, "runs: 0 logged, 4 were there; tables: were there, or have no rows\n")
    assert {path: path.read_bytes() for path in wandb_directory.glob("wandb/offline-run-*/*.wandb")} == files
    logged = {run.run_id: run for run in offline_run_configs(wandb_directory)}
    for name, record in runs.items():
        run = logged.pop(record.run_id)
        assert (run.job_type, run.run_group) == ("search" if name == "trial" else "train", "a-study")
        status = "done" if name == "trial" else name
        assert summary_in(wandb_directory, f"offline-run-*-{record.run_id}")["status"] == status
    assert [run.job_type for run in logged.values()] == ["report"]
    rows = rows_in(wandb_directory, f"offline-run-*-{'1' * 16}")
    assert [(row["trainer/global_step"], row["val/loss"]) for row in rows] == [(5000, 2.5)]
    tables = tables_in(wandb_directory)
    assert {"comparison", "budget", "search"} <= set(tables)
    budget = {row["model"]: row for row in tables["budget"]}
    assert set(budget) == {"transformer-small", "lstm-small"}
    first = budget["transformer-small"]
    assert (first["runs_done"], first["steps"], first["body_parameters"]) == (1, 5000, 2_000_000)
    assert budget["lstm-small"]["runs_done"] == 0
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "soon")
    code, output, errors = inside("report", folder.path, "--format", "wandb")
    assert (code, output, errors.count("\n")) == (2, "", 2)
    assert errors.splitlines()[1].startswith("seqbench: wandb does not start: init_timeout: ")


@pytest.mark.parametrize("form", ["terminal", "markdown", "json"])
def test_a_report_is_the_same_twice_and_goes_to_a_file(results, form, tmp_path):
    arguments = ["report", results / "a-study", "--format", form]
    code, output, errors = inside(*arguments)
    assert (code, errors) == (0, "")
    assert inside(*arguments) == (code, output, errors)
    path = tmp_path / "table"
    assert inside(*arguments, "--output", path)[:2] == (0, "")
    assert path.read_text() == output
    if form == "json":
        assert json.loads(output)["study"] == "a-study"


def test_list_names_presets_with_their_first_comment_and_runs(results):
    code, output, _ = inside("list", "--results", results)
    assert code == 0
    assert re.search(r"^  transformer-small +Transformer of ", output, re.M)
    assert f"a-study/{2:016x}" in output
    code, output, _ = inside("list", "runs", "--results", results, "--json")
    assert [one["status"] for one in json.loads(output)["runs"]] == ["done", "done", "diverged"]


def test_a_folder_that_was_copied_and_named_is_listed_as_unreadable(results):
    (results / "a-study").rename(results / "a-study (copy)")
    (results / "another" / "runs").mkdir(parents=True)
    (results / "another" / "study.yaml").write_text("study: another\n")
    code, output, _ = inside("list", "runs", "--results", results)
    assert code == 3
    assert "a-study (copy)" in output
    assert "cannot name a folder" in output


def test_a_list_longer_than_the_name_of_a_file_is_a_list(tmp_path):
    seeds = f"seed={','.join(map(str, range(100, 200)))}"
    assert len(seeds) > 255
    arguments = ["run", "quick", seeds, "--results", tmp_path, "--device", "cpu", "--dry-run"]
    code, _, errors = inside(*arguments)
    assert code == 0, errors
    assert "300 to do" in errors
    code, _, errors = inside("run", "x" * 300, "--results", tmp_path)
    assert code == 2
    assert "Traceback" not in errors


def test_a_folder_of_the_same_name_where_one_stands_is_not_picked_up(tmp_path):
    for name in ("models", "tasks", "benchmark"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit(99)")
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "benchmark", "list", "models"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    shadowed = seqbench("list", PYTHONPATH=f"{tmp_path / 'only'}{os.pathsep}{ROOT}")
    assert shadowed.returncode == 0
    (tmp_path / "only" / "tasks").mkdir(parents=True)
    (tmp_path / "only" / "tasks" / "__init__.py").write_text("")
    shadowed = seqbench("list", PYTHONPATH=f"{tmp_path / 'only'}{os.pathsep}{ROOT}")
    assert shadowed.returncode == 2
    assert shadowed.stderr.startswith("seqbench: tasks: Python would import ")


def test_a_reader_that_leaves_ends_the_command_quietly(results):
    writing = subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmark", "report", str(results / "a-study")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert writing.stdout is not None
    assert writing.stderr is not None
    writing.stdout.close()
    with writing.stderr:
        assert writing.stderr.read() == ""
    assert writing.wait() == 141


def test_output_has_no_colour_codes(results):
    for arguments in (["list"], ["report", str(results / "a-study")], ["run", "--help"]):
        ended = seqbench(*arguments, NO_COLOR="1", FORCE_COLOR="", TERM="xterm-256color")
        assert "\x1b" not in ended.stdout + ended.stderr


def test_the_presets_of_the_help_exist():
    text = Path(ROOT / "benchmark" / "cli.py").read_text(encoding="utf-8")
    for name in ("transformer-small", "lstm-small"):
        assert name in text
        assert (ROOT / "configs" / "models" / f"{name}.yaml").exists()
