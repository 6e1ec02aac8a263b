"""A worker's way through a study, with runs that are records at once."""

import re
import signal
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from benchmark import device, running
from benchmark.cli import app
from benchmark.config import RunOptions, UserError, dump_yaml
from benchmark.engines import local
from benchmark.engines.child import failed_record, failed_speed_record
from benchmark.engines.local import Refused
from benchmark.lease import Leases
from benchmark.request import request_from
from benchmark.running import StudyRun, planned
from benchmark.store import StudyFolder
from benchmark.study import Resolved, decisions

STUDY = {
    "study": "s",
    "model": ["transformer-small", "lstm-small"],
    "task": "reverse",
    "seed": [0, 1],
    "training": {"steps": 20, "precision": "float32"},
}
SEARCH = {
    "trials": 3,
    "training": {"steps": 5},
    "spaces": {
        "transformer-small": {"training.learning_rate": [0.1, 0.2, 0.3]},
        "lstm-small": {"training.learning_rate": [0.1, 0.2, 0.3]},
    },
}


@dataclass
class Machine:
    """What stands in for processes: each run ends as its learning rate and model say."""

    ends: dict[Any, Any] = field(default_factory=dict)
    """By model and learning rate, or by model: a status, a validation loss, or an exception."""
    wandb_mode: str | None = None
    """What each run has found wandb to be."""
    asked_of_wandb: list[str] = field(default_factory=list)
    """How each run was told to start it."""
    ran: list[tuple[str, int | None, int, float]] = field(default_factory=list)
    speeds: list[list[str]] = field(default_factory=list)
    speed_devices: list[int] = field(default_factory=list)
    speed_end: str = "done"
    said: list[str] = field(default_factory=list)

    def run_cell(self, supervisor, cell, folder, options, devices=None):
        rate = cell.experiment.training.learning_rate
        self.ran.append((cell.model_preset, cell.trial, cell.experiment.seed, rate))
        self.asked_of_wandb.append(options.wandb)
        end = self.ends.get((cell.model_preset, rate), self.ends.get(cell.model_preset, 1.0))
        if isinstance(end, type):
            raise end
        named = replace(options, model_preset=cell.model_preset, task_preset=cell.task_preset, study="s")
        record = failed_record(cell.experiment, named, "it broke")
        if end != "failed":
            loss = end if isinstance(end, float) else None
            status = "done" if loss is not None else end
            found = {"validation_loss": loss, "wandb_mode": self.wandb_mode}
            record = record.model_copy(update={"status": status, "failure": None, **found})
        folder.run(cell.run_id).write_record(record)
        return record

    def run_speed_cell(self, supervisor, cell, folder, options):
        self.speeds.append(list(cell.experiments))
        self.speed_devices.append(options.devices)
        if self.speed_end == "refused":
            raise Refused
        record = failed_speed_record(cell.run_id, cell.experiments, options, "it broke")
        if self.speed_end == "done":
            record = record.model_copy(update={"status": "done", "failure": None})
        folder.run(cell.run_id).write_record(record)
        return record


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(local, "run_cell", machine.run_cell)
    monkeypatch.setattr(running, "run_speed_cell", machine.run_speed_cell)
    monkeypatch.setattr(
        running, "resolve", lambda _, asked, options: [Resolved(experiment=one.experiment) for one in asked]
    )
    return machine


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    folder.prepare()
    return folder


def start(machine, folder, study, *, fail_fast=False):
    path = folder.results / "s.yaml"
    path.write_text(dump_yaml(study))

    options = RunOptions(
        results=folder.results, data_directory=folder.results, device="cpu", wandb="disabled"
    )
    machine.ran.clear()
    machine.speeds.clear()
    machine.said.clear()
    run = StudyRun(folder, options, say=machine.said.append, fail_fast=fail_fast)
    return run.run(request_from([str(path)]))


def test_what_is_missing_runs_and_nothing_twice(machine, folder):
    outcome = start(machine, folder, STUDY)
    assert outcome.exit_code == 0
    assert [one[:3] for one in machine.ran] == [
        ("transformer-small", None, 0), ("lstm-small", None, 0),
        ("transformer-small", None, 1), ("lstm-small", None, 1),
    ]  # fmt: skip
    assert start(machine, folder, STUDY).exit_code == 0
    assert machine.ran == []
    wider = {**STUDY, "seed": [1, 2]}
    start(machine, folder, wider)
    assert [one[2] for one in machine.ran] == [2, 2]
    assert machine.said[0].endswith("s: 4 runs, 2 done, 2 to do; 2 of earlier requests are kept")


def test_a_line_names_what_varies(machine, folder):
    """Among the runs of one model, not what differs between models."""
    own = {"lstm-small": {"training.learning_rate": 0.5, "model.dropout": [0.1, 0.2]}}
    study = {**STUDY, "seed": 0, "per_model": own}
    machine.ends["lstm-small"] = "failed"
    start(machine, folder, study)
    failed = [one for one in machine.said if "failed" in one]
    assert [one.partition("  run ")[0].rstrip() for one in failed] == [
        f"[{number}/3] lstm-small, reverse, model.dropout={dropout}, seed 0"
        for number, dropout in ((2, 0.1), (3, 0.2))
    ]
    assert any(one.startswith("[1/3] transformer-small, reverse, seed 0 (run ") for one in machine.said)


def test_speeds_are_of_one_device_whatever_a_run_takes(machine, folder):
    path = folder.results / "s.yaml"
    path.write_text(dump_yaml({**STUDY, "measure": ["speed"]}))
    options = RunOptions(
        results=folder.results, data_directory=folder.results, device="cpu", devices=2, wandb="disabled"
    )
    assert StudyRun(folder, options, say=machine.said.append).run(request_from([str(path)])).exit_code == 0
    assert machine.speed_devices == [1]


@pytest.mark.parametrize("found", ["offline", "disabled", "online"])
def test_what_the_first_run_finds_of_wandb_is_remembered_for_the_study(machine, folder, found):
    machine.wandb_mode = found
    path = folder.results / "s.yaml"
    path.write_text(dump_yaml({**STUDY, "search": SEARCH}))
    options = RunOptions(results=folder.results, data_directory=folder.results, device="cpu", wandb="online")
    run = StudyRun(folder, options, say=machine.said.append)
    run.run(request_from([str(path)]))
    assert machine.asked_of_wandb == ["online", *[found] * 9], "the trials and the comparison after them"
    assert run.options.wandb == found


def test_a_search_decides_once_and_its_choice_is_compared(machine, folder):
    study = {**STUDY, "search": SEARCH}
    machine.ends = {
        ("transformer-small", 0.2): 0.5, ("transformer-small", 0.3): "diverged", ("lstm-small", 0.3): 0.25,
        ("lstm-small", 0.1): "failed",
    }  # fmt: skip
    outcome = start(machine, folder, study)
    trials = [one for one in machine.ran if one[1] is not None]
    compared = {(one[0], one[3]) for one in machine.ran if one[1] is None}
    for model in study["model"]:
        mine = [(number, rate) for name, number, _, rate in trials if name == model]
        assert [number for number, _ in mine] == [1, 2, 3]
        losses = {rate: machine.ends.get((model, rate), 1.0) for _, rate in mine}
        best = min((loss, rate) for rate, loss in losses.items() if isinstance(loss, float))[0]
        assert [losses[rate] for name, rate in compared if name == model] == [best]
    tried = {rate for name, _, _, rate in trials if name == "lstm-small"}
    assert outcome.exit_code == (3 if 0.1 in tried else 0)
    found = decisions(folder)
    assert {key: one.trials for key, one in found.items()} == {
        ("transformer-small", "reverse"): 3, ("lstm-small", "reverse"): 3,
    }  # fmt: skip
    machine.ends = {}  # all would end otherwise now, and the failed trial too
    start(machine, folder, study)
    assert machine.ran == [], "what is decided stays"
    start(machine, folder, {**study, "seed": [7]})
    assert {(one[0], one[3]) for one in machine.ran} == compared
    assert decisions(folder) == found


def test_where_no_trial_ends_well_the_recipe_is_compared_and_it_is_said(machine, folder):
    machine.ends = {"lstm-small": "diverged"}
    outcome = start(machine, folder, {**STUDY, "search": SEARCH})
    assert outcome.exit_code == 0, "a run that diverges is a result"
    assert (
        "search: lstm-small on reverse: none of the 3 trials ended well; its recipe is compared"
        in machine.said
    )
    rates = {trial: rate for model, trial, _, rate in machine.ran if model == "lstm-small"}
    assert rates[None] == rates[1]
    assert decisions(folder)["lstm-small", "reverse"].trial == 1


def test_a_search_of_which_another_worker_has_a_trial_is_not_decided(machine, folder):
    study = {**STUDY, "search": SEARCH}
    made = start(machine, folder, study).made
    trial = next(cell for cell in made.cells if cell.trial == 2)
    folder.run(trial.run_id).record_path.unlink()
    folder.study_path.unlink()
    with Leases(folder.path) as other:
        assert other.take(trial.run_id) is None
        outcome = start(machine, folder, study)
    assert outcome.exit_code == 75
    assert machine.said[-1] == "the search is not finished; started again, it goes on"
    assert decisions(folder) == {}
    assert start(machine, folder, study).exit_code == 0
    assert [one[1] for one in machine.ran] == [2]


def test_the_first_failure_ends_a_search_too(machine, folder):
    machine.ends = {"transformer-small": "failed"}
    outcome = start(
        machine, folder, {**STUDY, "search": SEARCH, "measure": ["train", "speed"]}, fail_fast=True
    )
    assert (outcome.exit_code, len(machine.ran), machine.speeds) == (3, 1, [])


@pytest.mark.parametrize(
    ("end", "code", "fast"), [("failed", 3, False), (Refused, 3, False), (Refused, 3, True)]
)
def test_failed_and_refused_runs_are_in_the_exit_code(machine, folder, end, code, fast):
    machine.ends = {"lstm-small": end}
    outcome = start(machine, folder, {**STUDY, "measure": ["train", "speed"]}, fail_fast=fast)
    assert outcome.exit_code == code
    assert len(machine.ran) == (2 if fast else 4)
    assert machine.speeds == ([] if fast else [STUDY["model"]])


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("failed", 3), ("refused", 2)])
def test_speeds_alone_are_in_the_exit_code(machine, folder, end, code):
    machine.speed_end = end
    assert start(machine, folder, {**STUDY, "measure": "speed"}).exit_code == code
    assert (machine.ran, machine.speeds) == ([], [STUDY["model"]])


def test_one_worker_measures_speeds_at_a_time(machine, folder):
    study = {**STUDY, "measure": "speed"}
    with FileLock(folder.path / ".speed.lock"):
        outcome = start(machine, folder, study)
    assert (outcome.exit_code, machine.speeds) == (75, [])
    assert machine.said[-1] == "speeds are being measured by another worker"
    assert start(machine, folder, study).exit_code == 0
    assert start(machine, folder, study).exit_code == 0
    assert machine.speeds == [], "they are there"


def test_trials_of_another_length_leave_the_budget_of_the_comparison(machine, folder, monkeypatch):
    """A search in seconds, whose trials are of several widths and so of several numbers of steps."""

    def resolve(_, asked, options):
        found = []
        for one in asked:
            steps = one.experiment.training.steps or 1000 * int(dict(one.experiment.model)["width"])
            training = one.experiment.training.model_copy(update={"steps": steps, "seconds": None})
            found.append(Resolved(experiment=replace(one.experiment, training=training)))
        return found

    monkeypatch.setattr(running, "resolve", resolve)
    spaces = {"lstm-small": {"model.width": [64, 96]}, "transformer-small": {"model.dropout": [0.1, 0.2]}}
    search = {"trials": 2, "training": {"seconds": 5}, "spaces": spaces}
    outcome = start(machine, folder, {**STUDY, "search": search})
    cells = [cell for cell in outcome.made.cells if cell.trial is None]
    assert {cell.experiment.training.steps for cell in cells} == {20}
    assert set(decisions(folder)["lstm-small", "reverse"].settings) == {"model.width"}


def test_equal_seconds_go_on_where_they_were_timed_and_nowhere_else(machine, folder, monkeypatch):
    def resolve(_, asked, options):
        measured = {"seconds_per_step": 0.1, "device": device.device_in_use(options)}
        return [Resolved(experiment=one.experiment, measured=measured) for one in asked]

    monkeypatch.setattr(running, "resolve", resolve)
    study = {**STUDY, "match": "seconds"}
    start(machine, folder, study)
    assert start(machine, folder, {**study, "seed": [2]}).exit_code == 0
    assert len(machine.ran) == 2
    before = folder.study_path.read_bytes()
    monkeypatch.setattr(device, "device_in_use", lambda options: "Another, 1 threads, 1 devices")
    arguments = ["run", folder.results / "s.yaml", "seed=3", "--results", folder.results, "--device", "cpu"]
    ended = CliRunner().invoke(app, [*map(str, arguments), "--wandb", "disabled"])
    assert ended.exit_code == 2
    here = "and this is Another, 1 threads, 1 devices; go on there, or take another --study"
    assert re.fullmatch(f"seqbench: match: seconds were measured on .+, {here}\n", ended.stderr)
    assert (len(machine.ran), folder.study_path.read_bytes()) == (2, before)


def test_a_mistake_in_the_comparison_is_told_before_its_search(machine, folder):
    for wrong in (
        {"settings": [{"model.dropuot": 0.1}]}, {"training": {"steps": "many"}},
        {"match": "flops", "settings": [{"training.steps": 10}, {"training.steps": 20}]},
    ):  # fmt: skip
        with pytest.raises(UserError):
            start(machine, folder, {**STUDY, "search": SEARCH, **wrong})
        assert machine.ran == []


def test_a_study_file_that_changes_while_trials_run_is_that_of_the_start(machine, folder):
    plain = machine.run_cell

    def changing(*arguments):
        (folder.results / "s.yaml").write_text(dump_yaml({**STUDY, "model": ["convs2s-small"]}))
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_cell", changing)
        outcome = start(machine, folder, {**STUDY, "search": SEARCH})
    assert outcome.exit_code == 0
    assert {cell.model_preset for cell in outcome.made.cells} == set(STUDY["model"])


def test_a_model_that_is_added_later_has_the_same_search(machine, folder):
    start(machine, folder, {**STUDY, "model": "transformer-small", "search": SEARCH})
    with pytest.raises(UserError, match=r"search\.trials is 2, was 3; a search with other settings needs"):
        start(machine, folder, {**STUDY, "search": {**SEARCH, "trials": 2}})
    assert start(machine, folder, {**STUDY, "search": SEARCH}).exit_code == 0
    assert [one[1] for one in machine.ran if one[1]] == [1, 2, 3]


def test_a_frozen_study_of_which_one_search_is_open_is_no_request(machine, folder):
    start(machine, folder, {**STUDY, "model": "transformer-small", "search": SEARCH})
    machine.ends = {"lstm-small": Refused}
    start(machine, folder, {**STUDY, "search": SEARCH})
    with pytest.raises(UserError, match="the search of lstm-small on reverse is not decided"):
        request_from([str(folder.study_path)])


def test_what_another_worker_has_finished_meanwhile_is_not_left(machine, folder):
    study = {**STUDY, "measure": ["train", "speed"]}
    made = start(machine, folder, study).made
    first = folder.run(made.runs[0].run_id)
    record = first.record_path.read_bytes()
    first.record_path.unlink()
    for cell in made.runs[1:]:
        folder.run(cell.run_id).record_path.unlink()
    plain = machine.run_cell

    def finishing(*arguments):
        first.record_path.write_bytes(record)
        return plain(*arguments)

    with Leases(folder.path) as other, pytest.MonkeyPatch.context() as patch:
        assert other.take(first.run_id) is None
        patch.setattr(local, "run_cell", finishing)
        outcome = start(machine, folder, study)
    assert (outcome.exit_code, outcome.leased) == (0, 0)


def test_a_search_runs_whatever_is_measured(machine, folder):
    outcome = start(machine, folder, {**STUDY, "search": SEARCH, "measure": "speed"})
    assert outcome.exit_code == 0
    assert {one[1] for one in machine.ran} == {1, 2, 3}
    assert machine.speeds == [STUDY["model"]]


def test_a_signal_is_an_end_that_can_go_on(machine, folder):
    def interrupted(*_):
        signal.raise_signal(signal.SIGTERM)

    machine.run_speed_cell, before = interrupted, machine.run_speed_cell
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_speed_cell", interrupted)
        with pytest.raises(local.Interrupted):
            start(machine, folder, {**STUDY, "measure": ["train", "speed"]})
    machine.run_speed_cell = before
    assert len(machine.ran) == 4
    assert start(machine, folder, {**STUDY, "measure": ["train", "speed"]}).exit_code == 0
    assert (machine.ran, len(machine.speeds)) == ([], 1)


def test_the_plan_has_the_comparison_once_its_search_is_decided(machine, folder):
    study = {**STUDY, "search": SEARCH}
    path = folder.results / "s.yaml"
    path.write_text(dump_yaml(study))

    before = planned(request_from([str(path)]), folder)
    assert (len(before.trials), len(before.cells), before.undecided) == (6, 0, 4)
    start(machine, folder, study)
    after = planned(request_from([str(path)]), folder)
    assert (len(after.trials), len(after.cells), after.undecided) == (6, 4, 0)
