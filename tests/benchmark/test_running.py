"""A worker's way through a study, with runs that are records at once."""

import signal
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from filelock import FileLock

from benchmark import running
from benchmark.config import RunOptions, dump_yaml
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
    ran: list[tuple[str, int | None, int, float]] = field(default_factory=list)
    speeds: list[list[str]] = field(default_factory=list)
    speed_end: str = "done"
    said: list[str] = field(default_factory=list)

    def run_cell(self, supervisor, cell, folder, options, devices=None):
        rate = cell.experiment.training.learning_rate
        self.ran.append((cell.model_preset, cell.trial, cell.experiment.seed, rate))
        end = self.ends.get((cell.model_preset, rate), self.ends.get(cell.model_preset, 1.0))
        if isinstance(end, type):
            raise end
        named = replace(options, model_preset=cell.model_preset, task_preset=cell.task_preset, study="s")
        record = failed_record(cell.experiment, named, "it broke")
        if end != "failed":
            loss = end if isinstance(end, float) else None
            status = "done" if loss is not None else end
            record = record.model_copy(update={"status": status, "failure": None, "validation_loss": loss})
        folder.run(cell.run_id).write_record(record)
        return record

    def run_speed_cell(self, supervisor, cell, folder, options):
        self.speeds.append(list(cell.experiments))
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

    def ask(chosen=None):
        return request_from([str(path)], chosen=chosen)

    options = RunOptions(
        results=folder.results, data_directory=folder.results, device="cpu", wandb="disabled"
    )
    machine.ran.clear()
    machine.speeds.clear()
    machine.said.clear()
    run = StudyRun(ask, folder, options, say=machine.said.append, fail_fast=fail_fast)
    return run.run(ask())


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

    def ask(chosen=None):
        return request_from([str(path)], chosen=chosen)

    before = planned(ask(), ask, folder)
    assert (len(before.trials), len(before.cells), before.undecided) == (6, 0, 4)
    start(machine, folder, study)
    after = planned(ask(), ask, folder)
    assert (len(after.trials), len(after.cells), after.undecided) == (6, 4, 0)
