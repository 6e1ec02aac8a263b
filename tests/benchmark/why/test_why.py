"""`seqbench why` from nothing to the page, at a size that takes seconds."""

import dataclasses
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmark.checkpoint import AVERAGED, load, save, weights_sha256
from benchmark.cli import app
from benchmark.config import ROOT, UserError, experiment_from
from benchmark.engines.child import NOT_STORED, failed_layer_record
from benchmark.engines.local import Ended, NotStored, Supervisor, run_layer_cells
from benchmark.measure.layer_records import measured as record_of
from benchmark.measure.layers import span_rows
from benchmark.measure.signal import model_signal, random_words
from benchmark.measure.span import model_paths, model_span
from benchmark.measure.timing import median
from benchmark.measure.trained_rows import trained_signal_rows
from benchmark.record import LayerRecord
from benchmark.report import drawing
from benchmark.report.html import index_page
from benchmark.report.study_results import load_study
from benchmark.store import RunFolder, StorageError, StudyFolder
from benchmark.trained import trained_model, trained_record
from benchmark.why import cells, figures, measuring
from benchmark.why.cells import Grid
from benchmark.why.facts import Facts
from benchmark.why.figures import draw
from benchmark.why.page import findings, terminal_page, write_page
from models import convs2s, lstm, transformer
from tasks import recall
from tests.benchmark.test_check import OWN_MODEL
from tests.benchmark.training_run import HANGS, experiment, options, run
from tests.benchmark.why.synthetic import records

TINY = Grid(
    spans=(4, 8, 16),
    powers=(3, 9, 27),
    signals=(16,),
    model_lengths=(2, 4, 6),
    lengths=(8, 16, 32),
    widths=(16, 32, 64),
    timed_lengths=(8, 16),
    timed_widths=(64,),
    tokens=32,
    batches=(1, 2),
    rounds=6,
    scales=False,
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    for module in (cells, measuring):  # both have it by name
        monkeypatch.setattr(module, "GRIDS", dict.fromkeys(cells.GRIDS, TINY))
    monkeypatch.setenv("SEQBENCH_DATA", str(tmp_path / "nothing"))
    (tmp_path / "nothing").mkdir()
    return tmp_path / "results"


def why(results, *arguments):
    result = CliRunner().invoke(app, ["why", "--results", str(results), "--device", "cpu", *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_from_nothing_to_the_page_and_nothing_twice(tiny):
    code, out, said = why(tiny, "--json")
    assert code == 3, said  # there are no sentences here to count
    claims = {one["claim"]: one for one in json.loads(out)["claims"]}
    for number in ("S4.1", "S4.3", "S4.4", "S4.9", "S4.11", "S4.12", "I.1", "I.4", "I.5"):
        assert claims[number]["verdict"] == "supported", claims[number]
    assert claims["S4.10"]["verdict"] == "contradicted"
    assert claims["S4.7"]["verdict"] == "not decidable here"
    assert claims["S4.7"]["effect"].startswith("lengths of multi30k-en-de failed: ")
    folder = tiny / "why"
    page = (folder / "report" / "why.md").read_text()
    assert "| self-attention | n^2 d | 2.00 / 1.00 | 1 | 6 |" in page
    pictures = sorted(path.name for path in (folder / "report").glob("*.svg"))
    names = ("crossover", "depth", "matrices", "paths", "signal", "time")
    assert pictures == [f"{name}.svg" for name in names]
    index = (folder / "report" / "index.html").read_text()
    assert all(number in index for number in claims), "the page of the study is written as well"
    assert index == index_page(load_study(folder), {}), "and is that of a report"
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/record.json")}
    bytes_before = {path: path.read_bytes() for path in (folder / "report").glob("*.svg")}
    code, _, said = why(tiny)
    assert code == 3
    assert "1 to do" in said, "what failed is tried again, and nothing else"
    again = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/record.json")}
    assert len(again) == len(stamps) and sum(again[path] != stamps[path] for path in stamps) == 1
    for path, content in bytes_before.items():
        assert path.read_bytes() == content, path.name


def test_its_page_is_of_this_machine_where_the_folder_holds_larger_records_of_another(tiny, monkeypatch):
    """The same verdicts, from the same runs, on the terminal and in both pages."""
    measured = ("span", "time", "lengths")
    some = [one for one in cells.cells("quick", "cpu") if one.kind in measured]
    monkeypatch.setattr(measuring, "cells", lambda *arguments: some)
    for number, record in enumerate(records()):
        run_id = f"{0xF000 + number:016x}"
        timing = "a clock" if record.kind == "time" else None
        of_another = record.model_copy(update={"run_id": run_id, "timing_method": timing})
        folder = RunFolder(tiny / "why" / "runs" / run_id)
        folder.path.mkdir(parents=True)
        folder.write_record(of_another)
    _, out, said = why(tiny, "--json")
    claims = {one["claim"]: one for one in json.loads(out)["claims"]}
    assert claims["S4.7"]["verdict"] == "not decidable here", said
    text, page = ((tiny / "why" / "report" / name).read_text() for name in ("why.md", "index.html"))
    verdicts = re.findall(r'data-verdict="([^"]*)" id="([^"]*)"', page)
    assert {claim: verdict for verdict, claim in verdicts} == {n: one["verdict"] for n, one in claims.items()}
    assert all(f"### {number}: {one['verdict']}\n" in text for number, one in claims.items())
    for other in ("A Processor @ 2.00GHz", "000000000000f0"):
        assert other not in page and other not in text
    everything = load_study(tiny / "why")
    assert "A Processor @ 2.00GHz" in index_page(everything, {}), "a report is of the whole folder"


def test_what_it_cannot_read_is_named_and_ends_it_with_3(tiny, monkeypatch):
    """In a study beside as in its own."""
    some = [cells.LayerCell(kind="span", subject="good", settings=GOOD)]
    monkeypatch.setattr(measuring, "cells", lambda *arguments: some)
    beside = tiny / "speed" / "runs" / ("a" * 16)
    beside.mkdir(parents=True)
    (tiny / "speed" / "study.yaml").write_text("study: speed\nschema_version: 1\ncells: []\n")
    code, _, said = why(tiny)
    assert code == 0, said
    (beside / "record.json").write_text("{}")
    code, _, said = why(tiny)
    assert (code, said.count(f"left out: speed, beside this study: runs/{'a' * 16}/record.json: ")) == (3, 1)
    assert "unreadable, left out: speed, beside" in (tiny / "why" / "report" / "index.html").read_text()
    (beside / "record.json").unlink()
    own = tiny / "why" / "runs" / ("b" * 16)
    own.mkdir()
    (own / "record.json").write_text("{}")
    assert why(tiny)[0] == 3


def test_another_seed_has_other_weights_and_the_same_verdicts(tiny, tmp_path):
    untimed = ("span", "path", "signal")
    verdicts, signals = [], []
    for seed in (0, 1):
        every = [one for one in cells.cells("quick", "cpu", seed=seed) if one.kind in untimed]
        found = [record_of(one.document(), options(tmp_path)) for one in every]
        assert len({record.run_id for record in found}) == len(every)
        signals.append([row.value for record in found if record.kind == "signal" for row in record.rows])
        verdicts.append({claim.number: finding.verdict for claim, finding in findings(Facts(found))})
    assert verdicts[0] == verdicts[1] and list(verdicts[0].values()).count("supported") >= 6
    assert signals[0] != signals[1]
    ids = [{one.run_id for one in cells.cells("quick", "cpu", seed=seed)} for seed in (0, 1)]
    assert not ids[0] & ids[1]


STUDY = """
study: any
model:
- {name: transformer, width: 16, heads: 2, feed_forward: 24, encoder_layers: 1, decoder_layers: 1}
- {name: lstm, width: 16}
task: {name: recall, keys: 8, values: 4, maximum_pairs: 4, distances: [1, 4, 6], train_pairs: 300,
       validation_pairs: 20, test_pairs: 20}
training: {steps: 6, validations: 1, precision: float32}
search:
  trials: 1
  training: {steps: 3}
  spaces: {transformer: {training.learning_rate: [1.0e-3]}, lstm: {training.learning_rate: [1.0e-3]}}
"""


def test_what_it_trains_is_an_ordinary_study_whose_models_are_measured(tiny, monkeypatch):
    """Trained in the same folder, looked into, the trials of its search apart, and shown; started again,
    nothing is done twice.
    """
    file = tiny.parent / "trains.yaml"
    file.write_text(STUDY)
    grid = dataclasses.replace(TINY, study=str(file))
    monkeypatch.setattr(measuring, "GRIDS", dict.fromkeys(cells.GRIDS, grid))
    monkeypatch.setattr(measuring, "cells", lambda *arguments: [])
    code, out, said = why(tiny, "--wandb", "disabled", "--threads", "1", "--json")
    assert code == 0, said
    claims = {one["claim"]: one for one in json.loads(out)["claims"]}
    assert "undecidable with 1 seed (needs 6)" in claims["S4.13"]["effect"]
    found = StudyFolder(tiny, "why").contents().records
    assert sorted(record.kind for record in found) == ["attention"] * 2 + ["signal"] * 2 + ["train"] * 4
    attention = next(one for one in found if one.kind == "attention" and "transformer" in one.subject)
    parts = {row.conditions["part"] for row in attention.rows if row.quantity == "attention"}
    assert parts == {"encoder", "decoder", "source"}
    (words,) = [row for row in attention.rows if row.quantity == "words"]
    source, target = (words.conditions[side] for side in ("source", "target"))
    assert isinstance(source, list) and isinstance(target, list)
    assert source[-1] == "</s>" and target[0] == "<s>"
    for row in attention.rows:
        if row.quantity == "attention":
            assert sum(row.samples) == pytest.approx(1.0, abs=0.01)
    pictures = {path.name for path in (tiny / "why" / "report").glob("*.svg")}
    assert {"heads.svg", "sources.svg", "signal-trained.svg"} <= pictures
    stamps = {path: path.stat().st_mtime_ns for path in tiny.glob("why/runs/*/record.json")}
    code, _, said = why(tiny, "--wandb", "disabled", "--threads", "1")
    assert code == 0 and "2 runs, 2 done, 0 to do" in said, said
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_interrupted_it_loses_nothing(tiny):
    code = (
        "import sys; from benchmark import cli; from benchmark.why import cells; "
        "from tests.benchmark.why.test_why import TINY; "
        "cells.GRIDS = dict.fromkeys(cells.GRIDS, TINY); sys.argv = ['seqbench', *sys.argv[1:]]; cli.main()"
    )
    command = [sys.executable, "-c", code, "why", "--results", str(tiny), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    records_there = lambda: len(list(tiny.glob("why/runs/*/record.json")))  # noqa: E731
    while records_there() < 3 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=HANGS)
    assert child.returncode == 130, said
    assert "started again, it goes on where it stopped" in said
    kept = records_there()
    assert kept >= 3
    study = StudyFolder(tiny, "why")
    every = cells.cells("quick", "cpu")
    assert len(list(measuring.found(every, study))) >= 3


KILLS = """
import builtins, os
imported = builtins.__import__
def importing(name, *arguments, **keywords):
    module = imported(name, *arguments, **keywords)
    if name == "benchmark.measure.layer_records":
        measured = module.measured
        def killing(document, options):
            return os.kill(os.getpid(), 9) if document["subject"] == "deadly" else measured(document, options)
        module.measured = killing
    return module
builtins.__import__ = importing
"""


def test_a_cell_that_ends_its_process_or_raises_fails_alone(tiny, monkeypatch):
    """Its record says how, the cells after it are measured, and only it is tried again."""
    (tiny.parent / "sitecustomize.py").write_text(KILLS)
    monkeypatch.setenv("PYTHONPATH", str(tiny.parent))
    wrong = {**GOOD, "layer": {"name": "self-attention", "width": 4, "heads": 3}}
    some = [
        cells.LayerCell(kind="span", subject=subject, settings=settings)
        for subject, settings in {
            "good": GOOD,
            "deadly": {**GOOD, "lengths": [3]},
            "wrong": wrong,
            "after": {**GOOD, "lengths": [2, 3]},
        }.items()
    ]
    monkeypatch.setattr(measuring, "cells", lambda *arguments: some)
    code, _, said = why(tiny)
    assert code == 3, said
    every = StudyFolder(tiny, "why").contents().records
    found = {one.subject: one for one in every if isinstance(one, LayerRecord)}
    assert {name: one.status for name, one in found.items()} == {
        "good": "done", "deadly": "failed", "wrong": "failed", "after": "done",
    }  # fmt: skip
    assert found["deadly"].failure == "killed (9)"
    assert found["wrong"].failure is not None and "RuntimeError" in found["wrong"].failure
    (tiny.parent / "sitecustomize.py").write_text("")
    _, _, said = why(tiny)
    assert "4 measurements, 2 done, 2 to do" in said
    mended = StudyFolder(tiny, "why").contents().records
    assert sum(one.status == "failed" for one in mended) == 1


GOOD = {"layer": {"name": "self-attention", "width": 4}, "lengths": [2, 4], "backward_to": 0}


def test_the_page_shows_every_claim_and_figures_are_the_same_twice(tmp_path):
    facts = Facts(records())
    page = write_page(facts, tmp_path / "a", "quick").read_text()
    assert write_page(facts, tmp_path / "b", "quick").read_text() == page
    for claim, finding in findings(facts):
        assert f"### {claim.number}: {finding.verdict}" in page
        assert claim.sentence in terminal_page(facts, 10_000)
    assert "## Memory against length" in page
    names = [name for name, _ in draw(facts, tmp_path / "a")]
    assert "crossover.svg" in names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert f"]({name})" in page


def test_an_old_page_stays_whole_until_the_new_one_is_and_its_figures_go_with_it(tmp_path, monkeypatch):
    write_page(Facts(records()), tmp_path, "quick")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    fewer = Facts([one for one in records() if one.kind != "path"])
    saved = []

    def stopped(figure, path, form):
        saved.append(path)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        drawing.save(figure, path, form)

    monkeypatch.setattr(figures, "save", stopped)
    with pytest.raises(StorageError, match=f"{tmp_path}: cannot be written: No space left on device"):
        write_page(fewer, tmp_path, "quick")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    (tmp_path / "mine.svg").write_text("")
    write_page(fewer, tmp_path, "quick")
    assert {path.name for path in before} - {path.name for path in tmp_path.iterdir()} == {"paths.svg"}
    assert (tmp_path / "mine.svg").exists(), "what a user laid beside it stays"


def test_a_folder_that_takes_no_page_is_named_before_anything_is_measured(tiny):
    (tiny / "why").mkdir(parents=True)
    (tiny / "why" / "report").write_text("")
    code, _, said = why(tiny)
    assert (code, said.splitlines()[-1]) == (
        1,
        f"seqbench: {tiny / 'why' / 'report'}: cannot be written: File exists",
    )
    assert list((tiny / "why" / "runs").iterdir()) == []


def test_without_records_all_is_undecided_and_the_page_is_written_all_the_same(tmp_path):
    page = write_page(Facts([]), tmp_path, "quick").read_text()
    assert page.count("not decidable here") > len(findings(Facts([])))
    assert list(tmp_path.glob("*.svg")) == []


def test_a_trained_run_is_measured_with_the_weights_that_were_scored(tmp_path):
    folder = trained(tmp_path, "lstm")
    words = trained_record(folder).vocabulary_size
    settings = {"run": f"study/runs/{folder.name}", "vocabulary_size": words, "lengths": [8]}
    rows = list(trained_signal_rows(settings, options(tmp_path)))
    sides = {(row.conditions["from"], row.conditions["training"]) for row in rows}
    assert sides == set(itertools.product(("source", "target"), ("before", "after")))
    (cell,) = cells.trained_cells(tmp_path / "results", [folder])
    assert cell.settings["weights_sha256"] == trained_record(folder).weights_sha256
    assert cell.settings["run"] == f"study/runs/{folder.name}", "where it lies is told within the results"
    model = trained_model(folder)
    assert weights_sha256(model.state_dict()) == trained_record(folder).weights_sha256
    assert not model.training


def test_a_run_that_is_missing_changed_or_of_another_version_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="has no record; give the folder of a run that is done"):
        trained_record(tmp_path / "nothing")
    folder = trained(tmp_path, "lstm")
    monkeypatch.setattr(lstm.Config, "version", 99)
    with pytest.raises(UserError, match=r"was trained by version \d+ of lstm; this is version 99"):
        trained_model(folder)
    monkeypatch.undo()
    path = folder / "checkpoints" / AVERAGED
    weights = load(path)
    save({name: tensor + 1 for name, tensor in weights.items()}, path)
    with pytest.raises(UserError, match="holds other weights than those that were scored"):
        trained_model(folder)
    path.unlink()
    with pytest.raises(UserError, match="is not there; checkpoints lie where a run was trained"):
        trained_model(folder)


@pytest.mark.parametrize("scale", cells.GRIDS)
def test_every_scale_has_rounds_enough_for_an_interval(scale):
    """Of a median: with fewer, hours of measuring would end without one."""
    assert median([1.0] * cells.GRIDS[scale].rounds).value == 1.0


@pytest.mark.parametrize("scale", cells.GRIDS)
def test_attention_has_as_many_heads_where_it_is_counted_as_where_it_is_timed(scale):
    every = {(one.kind, one.subject): one.settings for one in cells.cells(scale, "cpu")}
    counted = every["complexity", cells.ATTENTION]
    heads = dict(zip(counted["widths"], counted["heads"], strict=True))
    for width in cells.GRIDS[scale].timed_widths:
        timed = every["time", f"layers, d = {width}"]["layers"][cells.ATTENTION]["heads"]
        assert heads.get(width, timed) == timed
    assert max(heads.values()) > 1, "at the widest, whose memory is shown"


def test_a_run_that_cannot_be_measured_is_refused_before_anything_is(tiny, tmp_path):
    code, _, said = why(tiny, "--run", str(tmp_path / "nothing"))
    assert (code, said.count("has no record")) == (2, 1)
    folder = trained(tmp_path, "lstm")
    (folder / "checkpoints" / AVERAGED).unlink()
    code, _, said = why(tiny, "--run", str(folder))
    assert (code, said.count("is not there; checkpoints lie where")) == (2, 1), said
    assert not (tiny / "why").exists()


def test_a_run_of_a_users_own_model_and_task_is_measured_where_their_code_is_trusted(tiny, monkeypatch):
    monkeypatch.setattr(measuring, "cells", lambda *arguments: [])
    (tiny.parent / "mine.py").write_text(OWN_MODEL)
    (tiny.parent / "asked.py").write_text(Path(recall.__file__).read_text())
    sections = {
        "model": {"name": str(tiny.parent / "mine.py"), "width": 8},
        "task": {"name": str(tiny.parent / "asked.py"), **recall.Config().tiny().model_dump()},
        "training": {"steps": 2, "validations": 1, "precision": "float32"},
    }
    folder = kept(experiment_from(sections, files_allowed=True), tiny.parent, trust_code=True)
    code, _, said = why(tiny, "--run", str(folder))
    assert (code, said.count("--trust-code")) == (2, 1), said
    code, _, said = why(tiny, "--run", str(folder), "--trust-code")
    assert code == 0, said
    found = StudyFolder(tiny, "why").contents().records
    assert {(record.kind, record.status) for record in found} == {("signal", "done"), ("attention", "done")}


@pytest.mark.parametrize("module", [transformer, convs2s, lstm])
def test_measuring_changes_nothing_in_a_model(module):
    """Losses of training are the same bits whether spans, paths and signals were measured between or not."""
    losses = []
    for measured in (False, True):
        torch.manual_seed(3)
        model = module.Config().tiny().model_copy(update={"dropout": 0.1}).build(50).train()
        optimizer = torch.optim.Adam(model.parameters())
        source, target = torch.full((2, 6), 5), torch.randint(3, 50, (2, 5))
        mask = torch.ones(2, 6, dtype=torch.bool)
        for _ in range(3):
            if measured:
                model_span(model, 3, 3, backward=True)
                model_paths(model, 3, 3)
                words = random_words(4, 50)
                model_signal(model, words, words, side="source")
                name = module.__name__.rpartition(".")[2]
                list(span_rows({"model": name, "lengths": [2, 3], "backward_to": 3}))
            loss = model.cross_entropy(model.decode(target, model.encode(source, mask)), target, 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == losses[3:]


def trained(tmp_path, model):
    return kept(experiment(model, training={"steps": 2, "validations": 1}), tmp_path)


def kept(one, tmp_path, **fields):
    """The folder of an experiment that was run, with its record."""
    record = run(one, tmp_path, **fields)
    assert record is not None
    folder = RunFolder(tmp_path / "results" / "study" / "runs" / one.run_id())
    folder.write_record(record)
    return folder.path


def a_cell(kind):
    return next(one for one in cells.cells("quick", "a device") if one.kind == kind)


def test_a_full_disk_ends_the_measuring_and_is_no_failure_of_a_measurement(tiny, tmp_path, monkeypatch):
    folder = StudyFolder(tmp_path, "why")
    cell, supervisor = a_cell("span"), Supervisor()
    ended = Ended(NOT_STORED, b"", "", False, None)
    monkeypatch.setattr(supervisor, "run", lambda *_, **__: ended)
    with pytest.raises(NotStored):
        run_layer_cells(supervisor, [cell.document()], folder, options(tmp_path))
    assert folder.result(cell.run_id) is None
    assert not folder.run(cell.run_id).record_path.exists()


def test_what_a_newer_seqbench_has_measured_is_left_and_not_measured_again(tiny, tmp_path):
    folder = StudyFolder(tmp_path, "why")
    newer, missing = (one for one in cells.cells("quick", "a device")[:2])
    for one in (newer, missing):
        folder.run(one.run_id).open(one.document())
    document = {"schema_version": 99, "kind": newer.kind}
    folder.run(newer.run_id).record_path.write_text(json.dumps(document))
    said: list[str] = []
    assert measuring._remaining([newer, missing], folder, said.append) == [missing]
    assert "has schema version 99" in said[0]


def test_a_failure_is_recorded_with_what_it_would_have_been_measured_on(tmp_path):
    timed = {**a_cell("time").document(), "experiment": {"precision": "bfloat16"}}
    record = failed_layer_record(timed, options(tmp_path), "it broke")
    assert record.provenance.precision == "bfloat16"
    exact = failed_layer_record(a_cell("span").document(), options(tmp_path), "it broke")
    assert (exact.provenance.precision, exact.provenance.device_class) == ("float32", "cpu")
