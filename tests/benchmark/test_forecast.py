"""What a study is expected to take, from what is done of it."""

import json
from dataclasses import replace

import pytest

from benchmark import checkpoint
from benchmark.config import UserError
from benchmark.forecast import Pace, duration, forecast, summary
from benchmark.lease import Holder, Leases
from benchmark.request import request_from
from benchmark.store import StudyFolder
from benchmark.study import Resolved, known_runs, make
from tests.benchmark.report.records import train_record

REQUEST = ["task=reverse", "training.precision=float32", "model=transformer-small,lstm-small", "seed=0,1"]


def resolve(asked):
    return [
        Resolved(
            experiment=replace(one.experiment, training=one.experiment.training.model_copy(update=STEPS)),
            measured={"seconds_per_step": 0.5},
        )
        for one in asked
    ]


STEPS = {"steps": 40, "seconds": None}


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    folder.prepare()
    return folder


def write(folder, cell, **fields):
    record = train_record(cell.run_id, cell.model_preset, **fields)
    run = folder.run(cell.run_id)
    cell.open(run)
    run.write_record(record.model_copy(update={"experiment": cell.experiment.document()}))


def test_before_anything_is_made_a_budget_in_seconds_says_what_it_takes(folder):
    request = request_from([*REQUEST, "training.seconds=100"])
    plan = forecast(known_runs(request, folder), folder)
    assert [(one.run_id, one.status, one.seconds) for one in plan] == [(None, "to do", 100.0)] * 4
    todo, memory = "4 runs: 4 to do", "memory of a run: unknown until one is done"
    for number, text in (
        (1, "7 min, one after another"),
        (3, "2 min, 3 side by side"),
        (9, "2 min, 4 side by side"),
    ):
        assert summary(plan, side_by_side=number) == [todo, f"expected: {text}", memory]
    unknown = forecast(known_runs(request_from([*REQUEST, "training.steps=40"]), folder), folder)
    assert summary(unknown, side_by_side=2) == [todo, "expected: unknown until a run is done", memory]


def test_what_was_timed_gives_way_to_what_runs_took(folder):
    request = request_from([*REQUEST, "training.seconds=100"])
    made = make(request, folder, resolve)
    assert [one.seconds for one in forecast(known_runs(request, folder), folder)] == [20.0] * 4
    first, second, third, fourth = made.cells
    write(folder, first, wall_seconds_total=80.0, peak_memory_bytes=3 * 2**20)
    write(folder, second, status="failed")
    plan = forecast(known_runs(request, folder), folder)
    assert [(one.status, one.seconds, one.memory_bytes) for one in plan] == [
        ("done", None, None), ("failed", 20.0, None), ("to do", 80.0, 3 * 2**20), ("to do", 20.0, None),
    ]  # fmt: skip
    assert summary(plan, side_by_side=1) == [
        "4 runs: 1 done, 1 failed, 2 to do", "expected: 2 min, one after another",
        "memory of a run: up to 3 MiB so far",
    ]  # fmt: skip
    write(folder, third, status="diverged")
    folder.run(fourth.run_id).path.mkdir(parents=True)
    folder.run(fourth.run_id).record_path.write_bytes(b"{")
    plan = forecast(known_runs(request, folder), folder)
    assert [one.status for one in plan] == ["done", "failed", "diverged", "unreadable"]


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint_and_one_that_works_is_told_apart(folder):
    request = request_from([*REQUEST, "training.seconds=100"])
    first, second, third, _ = make(request, folder, resolve).cells
    for cell in (first, second):
        cell.open(folder.run(cell.run_id))
        kept = folder.run(cell.run_id).path / "checkpoints"
        kept.mkdir()
        for step in (20, 30):
            checkpoint.save({"step": step}, checkpoint.training_path(kept, step))
        checkpoint.training_path(kept, 40).write_bytes(b"half of one")
    third.open(folder.run(third.run_id))
    with Leases(folder.path) as leases:
        leases.take(second.run_id)
        leases.take(third.run_id)
        plan = forecast(known_runs(request, folder), folder)
    assert [(one.status, one.step, one.seconds) for one in plan] == [
        ("interrupted", 30, 5.0), ("running", 30, 5.0), ("running", None, 20.0), ("to do", None, 20.0),
    ]  # fmt: skip
    assert summary(plan, side_by_side=1)[0] == "4 runs: 2 running, 1 interrupted, 1 to do"
    dead = json.dumps({"holder": {**vars(Holder.me()), "started": 1.0}, "beats": 3})
    (folder.run(second.run_id).path / "lease.json").write_text(dead)
    again = forecast(known_runs(request, folder), folder)
    assert [one.status for one in again] == ["interrupted", "interrupted", "to do", "to do"]


def test_a_model_of_which_none_has_run_takes_as_long_as_the_others(folder):
    one, other, *_ = request_from([*REQUEST, "training.steps=40"]).cells
    pace = Pace()
    assert pace.together([other]) is None
    pace.add(one, 30.0)
    assert pace.together([one, other]) == 60.0
    pace.add(one, 50.0)
    assert (pace.seconds(one), pace.seconds(other)) == (40.0, 40.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (91, "2 min"), (5400, "1.5 h")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


def test_a_folder_that_was_edited_is_refused_before_anything_is_planned(folder):
    request = request_from([*REQUEST, "training.seconds=100"])
    make(request, folder, resolve)
    text = folder.study_path.read_text()
    folder.study_path.write_text(text.replace('"steps": 40', '"steps": 41', 1))
    with pytest.raises(UserError, match="was edited"):
        known_runs(request, folder)
