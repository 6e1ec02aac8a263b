"""`seqbench diff`, and what `seqbench run RECORD` says of its reproduction: texts and exit codes."""

import json
import subprocess
import sys

import pytest

from benchmark import cli
from benchmark.config import ROOT, dump_yaml
from benchmark.record import record_bytes
from benchmark.request import request_from
from benchmark.store import StudyFolder
from tests.benchmark.report.records import provenance, scores, speed_record, train_record
from tests.benchmark.test_cli import LIGHT, inside

HASHES = {"batch_stream_sha256": "1" * 64, "loss_curve_sha256": "2" * 64, "weights_sha256": "3" * 64}


def runs(values, **fields):
    return [
        train_record(f"{seed:016x}", seed=seed, scores=scores({("test", "bleu"): value}), **HASHES, **fields)
        for seed, value in enumerate(values)
    ]


@pytest.fixture
def results(tmp_path):
    elsewhere = {"provenance": provenance(threads=4)}
    studies = {
        "before": runs([30.0] * 7),
        "after": runs([29.0] * 7, train_target_tokens_per_second=3500.0),
        "elsewhere": runs([30.5] * 7, **elsewhere),
        "other-model": [train_record("f" * 16, "lstm-small")],
        "other-data": runs([30.0] * 7, task_version=2),
        "speeds": [speed_record()],
    }
    for name, records in studies.items():
        for record in records:
            folder = tmp_path / name / "runs" / record.run_id
            folder.mkdir(parents=True)
            (folder / "record.json").write_bytes(record_bytes(record))
        document = {"study": name, "schema_version": 1, "measure": ["train"], "cells": []}
        (tmp_path / name / "study.yaml").write_text(dump_yaml(document))
    return tmp_path


def diff(results, *arguments):
    return inside("diff", *arguments, "--results", results)


def test_whatever_differs_the_code_is_0_without_a_threshold(results):
    code, output, errors = diff(results, "before", "after")
    assert (code, errors) == (0, "")
    assert output.startswith("A: before: study before, 7 runs\nB: after: study after, 7 runs\n")
    assert "A higher" in output
    code, output, errors = diff(results, "before", results / "before")
    assert (code, errors) == (0, "")
    assert "identical: A and B have the same config, environment and results\n" in output


def test_a_record_is_named_by_file_folder_or_study_and_run(results):
    names = [
        "before/0000000000000001",
        results / "before" / "runs" / "0000000000000001",
        results / "before" / "runs" / "0000000000000001" / "record.json",
    ]
    for name in names:
        code, output, _ = diff(results, name, "after/0000000000000001")
        assert code == 0
        assert output.startswith(
            f"A: {name}: transformer-small on multi30k-en-de, seed 1, run 0000000000000001\n"
        )
        assert "one run against one: nothing about noise follows from one seed\n" in output


@pytest.mark.parametrize(
    ("threshold", "code", "line"),
    [
        ("bleu:-2", 0, "holds  bleu:-2  transformer-small on multi30k-en-de, test: -1"),
        ("bleu:-0.5", 4, "FAILS  bleu:-0.5  transformer-small on multi30k-en-de, test: -1"),
        ("train_target_tokens_per_second:-5%", 4, ": -12.5%"),
        ("validation_loss:1%", 4, "no cell: validation_loss was not measured in both"),
    ],
)
def test_a_threshold_that_does_not_hold_ends_with_4(results, threshold, code, line):
    found = diff(results, "before", "after", "--fail-on", threshold)
    assert found[0] == code
    assert line in found[1]
    assert diff(results, "before", "after", "--fail-on", "bleu:-2", "--fail-on", threshold)[0] == code


def test_json_has_the_same_at_full_precision(results):
    code, output, errors = diff(results, "before", "after", "--json", "--fail-on", "bleu:-0.5")
    assert (code, errors) == (4, "")
    document = json.loads(output)
    (bleu,) = [one for one in document["results"] if one["quantity"] == "bleu"]
    assert (bleu["difference"], bleu["p_adjusted"], bleu["words"]) == (-1.0, 2 / 2**7, "first higher")
    assert [check["holds"] for check in document["checks"]] == [False]
    assert document["identical"] is False


def test_studies_with_nothing_in_common_end_with_5(results):
    text = "seqbench: before and other-model have no model, task, settings and seed in common\n"
    assert diff(results, "before", "other-model") == (5, "", text)
    assert diff(results, "before", "speeds")[0] == 5
    assert diff(results, "speeds", "speeds")[0] == 0


MISTAKES = [
    (["before", "other-data"],
     "transformer-small on multi30k-en-de: A and B must not be compared: task.version: 1 in A, 2 in B"),
    (["before", "befor"],
     "study: RESULTS: no 'befor'; did you mean 'before'?; there are: after, before, elsewhere, other-data, "
     "other-model, speeds"),
    (["before", "after/0000000000000009"],
     "after/0000000000000009: RESULTS/after has no run 0000000000000009"),
    (["before", "after/0000000000000001"],
     "before is a study and after/0000000000000001 a train record; give two of one kind: study, train or "
     "speed"),
    (["before", "/nowhere/record.json"], "/nowhere/record.json: cannot be read: No such file or directory"),
    (["before", "after", "--fail-on", "bleu"],
     "--fail-on: 'bleu': must have the form FIELD:THRESHOLD, as in bleu:-0.5 or "
     "train_target_tokens_per_second:-5%"),
    (["before", "after", "--fail-on", "blue:-0.5"], "--fail-on: 'blue': unknown field; did you mean 'bleu'?"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), MISTAKES)
def test_a_mistake_costs_one_line_and_ends_with_2(results, arguments, text):
    expected = f"seqbench: {text.replace('RESULTS', str(results))}\n"
    assert diff(results, *arguments) == (2, "", expected)


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(results):
    (results / "after" / "runs" / f"{0:016x}" / "record.json").write_bytes(b"{")
    code, output, _ = diff(results, "before", "after")
    assert code == 3
    assert f"unreadable in B, left out: runs/{0:016x}/record.json" in output.replace("\n  ", " ")
    assert "only in A: transformer-small on multi30k-en-de seed 0\n" in output


def test_a_guard_on_speeds_of_another_machine_does_not_hold(results):
    code, output, _ = diff(results, "before", "elsewhere", "--fail-on", "train_target_tokens_per_second:-50%")
    assert code == 4
    assert "not comparable: threads\n" in output


def test_differences_are_shown_without_torch(results):
    program = LIGHT.replace('"scipy", "numpy"', '"sacrebleu"')
    names = [str(results / name) for name in ("before", "after")]
    ended = subprocess.run(
        [sys.executable, "-c", program, "diff", *names], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "A higher" in ended.stdout


# run RECORD

SMALL = ["model=transformer-small", "task=reverse", "training.steps=10", "training.precision=float32"]


@pytest.fixture
def given():
    experiment = request_from(SMALL).cells[0].experiment
    record = train_record(experiment.run_id(), scores=scores({("test", "bleu"): 30.0}), **HASHES)
    return record.model_copy(update={"experiment": experiment.document()})


@pytest.fixture
def rerun(given, tmp_path, monkeypatch):
    """Run the record again, where the run leaves it with other fields: exit code and what was said."""
    path = tmp_path / "record.json"
    path.write_bytes(record_bytes(given))

    def run(*options, code=0, **fields):
        def leave(*arguments):
            folder = next(one for one in arguments if isinstance(one, StudyFolder))
            again = folder.run(given.run_id)
            again.path.mkdir(parents=True, exist_ok=True)
            again.write_record(given.model_copy(update=fields))
            return code

        monkeypatch.setattr(cli, "_run_study", leave)
        found = inside("run", path, "--results", tmp_path, "--wandb", "disabled", *options)
        return found[0], found[2]

    return run


def test_a_record_that_reproduces_is_said_to(rerun, given):
    code, said = rerun(train_seconds=1.0)
    assert code == 0
    assert said == (
        f"seqbench: reproduced: equal to run {given.run_id} in batch_stream_sha256, loss_curve_sha256, "
        "weights_sha256, test bleu\n"
    )


def test_a_record_that_does_not_reproduce_ends_with_4(rerun, given):
    code, said = rerun(weights_sha256="9" * 64, scores=scores({("test", "bleu"): 29.5}))
    assert code == 4
    assert said == (
        f"seqbench: did not reproduce run {given.run_id}: on an equal machine differ weights_sha256, "
        "test bleu\nseqbench: test bleu: 30.00, again 29.50 (-0.50)\n"
    )


def test_on_another_machine_the_batch_stream_decides(rerun):
    elsewhere = {"weights_sha256": "9" * 64, "provenance": provenance(processor="Another")}
    code, said = rerun(**elsewhere)
    assert code == 0
    assert "not bitwise comparable (processor A Processor @ 2.00GHz against Another)" in said
    assert rerun(**elsewhere, batch_stream_sha256="9" * 64)[0] == 4


def test_a_run_that_failed_keeps_its_code_and_nothing_is_said_of_one_that_was_interrupted(rerun):
    code, said = rerun(code=3, status="failed", failure="oom_host")
    assert code == 3
    assert "cannot be said: the run failed" in said
    assert rerun(code=130) == (130, "")


def test_a_record_is_no_evidence_of_itself(rerun, given, tmp_path):
    rerun("--study", "s")
    path = tmp_path / "s" / "runs" / given.run_id / "record.json"
    code, _, said = inside("run", path, "--results", tmp_path, "--study", "s", "--wandb", "disabled")
    assert (code, said) == (0, "")
