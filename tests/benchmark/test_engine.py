"""The engine of one machine: whatever happens to a run's process, it ends in a record or can go on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.config import ROOT, RunOptions
from benchmark.engines import local
from benchmark.engines.child import failed_record
from benchmark.engines.local import child_environment
from benchmark.record import available_cores, read_record
from benchmark.request import request_from
from benchmark.store import StudyFolder
from benchmark.study import Resolved, make, remaining
from tests.benchmark.faults.kill_study import is_broken
from tests.benchmark.training_run import HANGS

STUB = Path(__file__).parent / "stub_trainer"
REQUEST = [
    "model=transformer-small",
    "task=reverse",
    "--study",
    "s",
    "--wandb",
    "disabled",
]


STEPS = ("training.steps=10", "training.precision=float32")


def surroundings(tmp_path, behaviour):
    return {
        "PYTHONPATH": f"{STUB}{os.pathsep}{ROOT}",
        "SEQBENCH_DATA": "",
        "SEQBENCH_TEST_BEHAVIOUR": json.dumps(behaviour),
        "WANDB_API_KEY": "sentinel-of-a-key",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command in this process, which saves its start; its exit code, and what it said."""

    def run(behaviour, *arguments):
        for name, value in surroundings(tmp_path, behaviour).items():
            monkeypatch.setenv(name, value)
        options = [*REQUEST, *STEPS, "--results", str(tmp_path), *arguments]
        result = CliRunner().invoke(app, ["run", *options])
        return result.exit_code, result.stderr

    return run


def command(tmp_path, behaviour, *arguments, budget=STEPS, group=None):
    """Started in a process, and in a control group where one is given."""
    environment = {**os.environ, **surroundings(tmp_path, behaviour)}
    options = [*REQUEST, *budget, "--results", str(tmp_path), *arguments]
    join = [] if group is None else ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]
    return subprocess.Popen(
        [*join, sys.executable, "-P", "-m", "benchmark", "run", *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def records(tmp_path):
    found = [read_record(path) for path in tmp_path.glob("s/runs/*/record.json")]
    return {record.seed: record for record in found if record.kind == "train"}


def starts(tmp_path):
    return {path.parent.name: path.read_text().count("\n") for path in tmp_path.glob("s/runs/*/starts")}


def test_one_run_s_end_is_its_own(tmp_path):
    behaviour = {
        1: "raise", 2: "oom_device", 3: "oom_host", 4: "kill at 1 GiB", 5: "exit 0", 6: "diverged", 7: "done",
        8: "oom_limit",
    }  # fmt: skip
    # A budget in seconds, so that the cells are resolved in a process of their own.
    seeds, budget = "seed=0,1,2,3,4,5,6,7,8", ["training.seconds=1"]
    process = command(tmp_path, behaviour, seeds, "--json", budget=budget)
    output, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 3, errors
    found = records(tmp_path)
    assert {seed: record.status for seed, record in found.items()} == {
        0: "done", 1: "failed", 2: "failed", 3: "failed", 4: "failed", 5: "failed", 6: "diverged", 7: "done",
        8: "failed",
    }  # fmt: skip
    assert found[1].failure == "RuntimeError: the loss\\nhas two lines"
    assert found[2].failure == "oom_device: OutOfMemoryError: CUDA out of memory"
    assert found[2].peak_memory_bytes > 2**20
    assert found[3].failure.startswith("oom_host: MemoryError")
    assert found[8].failure.startswith("oom_host: RuntimeError: ")
    assert "can't allocate memory: you tried to allocate 1073741824 bytes" in found[8].failure
    assert found[4].failure in ("killed (9)", "oom_host: killed (9) by the kernel")
    assert found[4].peak_memory_bytes > 2**30, "as its parent has seen"
    assert found[5].failure == "ended with code 0 and no record: last words"
    assert {one["seed"]: one["status"] for one in json.loads(output)["runs"]} == {
        seed: record.status for seed, record in found.items()
    }
    log = next(tmp_path.glob(f"s/runs/{found[5].run_id}/log.txt")).read_text()
    assert log.split("\n")[-2] == "last words"
    assert "sentinel-of-a-key" not in "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    )

    again = command(tmp_path, {}, "seed=0,1,4,6", budget=budget)
    output, errors = again.communicate(timeout=HANGS)
    assert again.returncode == 3, errors  # one diverged, and would again
    started, found = starts(tmp_path), records(tmp_path)
    assert {seed: started[record.run_id] for seed, record in found.items()} == {
        0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1,
    }  # fmt: skip
    assert [found[seed].status for seed in (0, 1, 4, 6)] == ["done", "done", "done", "diverged"]
    assert "transformer-small" in output


@pytest.fixture
def memory_group():
    """A control group of 1 GiB, for what is to be killed by the kernel."""
    versions = ((Path("/sys/fs/cgroup/memory"), "limit_in_bytes"), (Path("/sys/fs/cgroup"), "max"))
    root, limit = next((one for one in versions if one[0].is_dir()), (None, ""))
    if root is None:
        pytest.skip("there are no control groups here")
    group = root / f"seqbench-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"control groups are not ours to make: {error}")
    try:
        (group / f"memory.{limit}").write_text(str(2**30))
    except OSError as error:
        pytest.skip(f"control groups of memory are not ours to make: {error}")
    else:
        yield group
    finally:
        group.rmdir()


def test_a_run_that_the_kernel_kills_for_its_memory_is_told_apart(memory_group, tmp_path):
    process = command(tmp_path, {0: "oom_kernel", 1: "kill"}, "seed=0,1", group=memory_group)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 3, errors
    failures = {seed: record.failure for seed, record in records(tmp_path).items()}
    assert failures == {0: "oom_host: killed (9) by the kernel", 1: "killed (9)"}
    assert 2**28 < records(tmp_path)[0].peak_memory_bytes <= 2**30


def test_a_folder_that_vanishes_while_a_run_works_is_named(run, tmp_path):
    code, errors = run({0: "vanish"}, "seed=0")
    assert code == 1
    assert "Traceback" not in errors
    assert errors.rstrip().split("\n")[-1].startswith(f"seqbench: {tmp_path}/s/runs/"), errors
    assert "could not be written: No such file or directory" in errors


def test_a_disk_that_is_full_while_a_run_works_ends_the_study_and_is_no_failure_of_the_run(run, tmp_path):
    code, errors = run({0: "full"}, "seed=0,1")
    assert code == 1, errors
    assert errors.splitlines()[-1] == "seqbench: x: 5 bytes could not be written: No space left on device"
    assert "Traceback" not in errors
    assert records(tmp_path) == {}
    code, errors = run({}, "seed=0,1")
    assert code == 0, errors
    assert {record.status for record in records(tmp_path).values()} == {"done"}


def test_a_damaged_record_is_kept_and_made_again_and_one_of_a_newer_seqbench_stays(run, tmp_path):
    asked = "seed=0,1,2", "measure=train,speed"
    run({2: "raise"}, *asked)
    paths: dict[int | str, Path] = {}
    for path in tmp_path.glob("s/runs/*/record.json"):
        record = read_record(path)
        paths[record.seed if record.kind == "train" else record.kind] = path
    damaged = paths[0].read_bytes().replace(b"float32", b"float64")
    paths[0].write_bytes(damaged)
    for name in (1, "speed"):
        paths[name].write_bytes(paths[name].read_bytes().replace(b'schema_version": ', b'schema_version": 9'))
    newer = paths[1].read_bytes(), paths["speed"].read_bytes()
    code, errors = run({}, *asked)
    assert code == 3, errors
    lines = errors.splitlines()
    kept = "the file was changed or damaged; kept as record.unreadable.json, and the run is made again"
    assert sum(f"{paths[0]}: its checksum does not hold: {kept}" in line for line in lines) == 1
    for name in (1, "speed"):
        assert sum(f"left out: {paths[name]}: has schema version 9" in line for line in lines) == 1
    assert paths[0].with_name("record.unreadable.json").read_bytes() == damaged
    assert (paths[1].read_bytes(), paths["speed"].read_bytes()) == newer
    assert [read_record(paths[seed]).status for seed in (0, 2)] == ["done", "done"]
    assert [starts(tmp_path)[paths[seed].parent.name] for seed in (0, 1, 2)] == [2, 1, 2]


def test_a_mistake_of_the_user_in_a_run_leaves_no_record_and_the_others_run(run, tmp_path):
    code, errors = run({0: "user"}, "seed=0,1")
    assert code == 3
    assert "seqbench: task.train: no such file\n" in errors
    assert "Traceback" not in errors
    assert list(records(tmp_path)) == [1]


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _wait(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def _descendants(pid):
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found += [int(path.parent.name), *_descendants(int(path.parent.name))]
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("signals", "to_group", "behaviour", "code"),
    [
        ([signal.SIGTERM], False, "sleep", 143),
        ([signal.SIGINT], False, "sleep", 130),
        ([signal.SIGINT], True, "sleep", 130),
        ([signal.SIGINT, signal.SIGINT], False, "stubborn", 130),
        ([signal.SIGKILL], False, "sleep", -9),
        ([signal.SIGKILL], False, "stubborn", -9),
    ],
    ids=["SIGTERM", "SIGINT", "Ctrl-C", "Ctrl-C twice", "SIGKILL", "SIGKILL, and the run hears nothing"],
)
def test_a_signal_ends_the_children_and_leaves_the_run_to_go_on(tmp_path, signals, to_group, behaviour, code):
    process = command(tmp_path, {0: behaviour}, "seed=0")
    _wait(lambda: any(path.read_text() for path in tmp_path.glob("s/runs/*/sleeping")))
    children = _descendants(process.pid)
    assert len(children) >= 2
    for number in signals:
        (os.killpg if to_group else os.kill)(process.pid, number)
        time.sleep(0.3)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == code
    assert "Traceback" not in errors
    if code > 0:
        assert not [child for child in children if _alive(child)]
        assert "goes on where it stopped" in errors
    _wait(lambda: not any(map(_alive, children)), HANGS)
    assert records(tmp_path) == {}
    if not to_group and code == 143:
        again = command(tmp_path, {}, "seed=0")
        again.communicate(timeout=HANGS)
        assert again.returncode == 0
        assert records(tmp_path)[0].status == "done"


def test_workers_on_one_folder_run_each_cell_once(tmp_path):
    workers = [command(tmp_path, {}, "seed=0,1,2,3,4,5", "measure=train,speed") for _ in range(4)]
    ends = [worker.communicate(timeout=HANGS)[1] for worker in workers]
    codes = [worker.returncode for worker in workers]
    assert set(codes) <= {0, 75}, ends
    assert 0 in codes
    for code, said in zip(codes, ends, strict=True):
        waits = " is run by process " in said or "measured by another" in said or "no other worker" in said
        assert waits or code == 0
    assert starts(tmp_path) == dict.fromkeys(starts(tmp_path), 1)
    assert len(starts(tmp_path)) == 6
    assert sorted(records(tmp_path)) == [0, 1, 2, 3, 4, 5]
    kinds = [read_record(path).kind for path in tmp_path.glob("s/runs/*/record.json")]
    assert kinds.count("speed") == 1
    assert not list(tmp_path.glob("s/runs/*/lease.json"))


def test_two_requests_that_start_together_make_one_study_of_both(tmp_path):
    workers = [command(tmp_path, {}, seeds) for seeds in ("seed=0,1", "seed=1,2")]
    ends = [worker.communicate(timeout=HANGS)[1] for worker in workers]
    assert {worker.returncode for worker in workers} <= {0, 75}, ends
    cells = StudyFolder(tmp_path, "s").document()["cells"]
    assert sorted(cell["experiment"]["seed"] for cell in cells) == [0, 1, 2]
    assert {seed: one.status for seed, one in records(tmp_path).items()} == dict.fromkeys(range(3), "done")
    assert sorted(starts(tmp_path).values()) == [1, 1, 1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_cell_of_a_worker_that_was_killed_is_taken_by_another(tmp_path):
    first = command(tmp_path, {0: "sleep"}, "seed=0,1")
    _wait(lambda: list(tmp_path.glob("s/runs/*/sleeping")))
    second = command(tmp_path, {}, "seed=0,1")
    _, said = second.communicate(timeout=HANGS)
    assert second.returncode == 75, said
    assert f"is run by process {first.pid} on " in said
    assert list(records(tmp_path)) == [1]
    first.kill()
    first.communicate(timeout=HANGS)
    third = command(tmp_path, {}, "seed=0,1")
    _, said = third.communicate(timeout=HANGS)
    assert third.returncode == 0, said
    assert {seed: record.status for seed, record in records(tmp_path).items()} == {0: "done", 1: "done"}
    assert sorted(starts(tmp_path).values()) == [1, 2]


def resolve(asked):
    return [Resolved(experiment=one.experiment) for one in asked]


@pytest.fixture
def two_cells(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    folder.prepare()
    made = make(request_from([*REQUEST[:2], *STEPS, "seed=0,1"]), folder, resolve)
    return folder, remaining(made.cells, folder)


def test_a_run_knows_whether_a_search_tries_it(two_cells, monkeypatch):
    folder, cells = two_cells
    options = RunOptions(results=folder.results, data_directory=folder.results, device="cpu")
    seen = []
    monkeypatch.setattr(local, "_run_to_record", lambda *given: seen.append(given[3].is_trial))
    for trial in (None, 1):
        local.run_cell(local.Supervisor(), replace(cells[0], trial=trial), folder, options)
    assert seen == [False, True]


def test_a_cell_that_failed_in_another_worker_meanwhile_has_had_its_try(two_cells, monkeypatch):
    folder, cells = two_cells
    options = RunOptions(results=folder.results, data_directory=folder.results, device="cpu")
    for cell in cells:  # of an earlier start, which gives both another try
        cell.open(folder.run(cell.run_id))
        folder.run(cell.run_id).write_record(failed_record(cell.experiment, options, "before"))
    ran = []

    def run_cell(supervisor, cell, *_):
        ran.append(cell.run_id)
        other = cells[1]
        folder.run(other.run_id).write_record(failed_record(other.experiment, options, "in another worker"))
        return failed_record(cell.experiment, options, "here")

    monkeypatch.setattr(local, "run_cell", run_cell)
    engine = local.LocalEngine(local.Supervisor(), folder, options)
    ends = list(engine.run(cells, lambda cell: None))
    assert ran == [cells[0].run_id]
    assert [end.record and end.record.failure for end in ends] == ["here", "in another worker"]


def test_a_run_whose_lease_was_taken_ends_without_a_record(tmp_path):
    process = command(tmp_path, {0: "sleep"}, "seed=0")
    _wait(lambda: list(tmp_path.glob("s/runs/*/sleeping")))
    lease = next(tmp_path.glob("s/runs/*/lease.json"))
    forged = json.loads(lease.read_text())
    forged["holder"]["token"] = "of a worker that took this one for dead"
    lease.write_text(json.dumps(forged))
    _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 75, said
    assert "is run by process" in said
    assert records(tmp_path) == {}
    assert json.loads(lease.read_text()) == forged


def test_a_signal_is_heard_while_another_worker_makes_the_study(tmp_path):
    (tmp_path / "s").mkdir()
    with FileLock(tmp_path / "s" / ".study.lock"):
        process = command(tmp_path, {}, "seed=0")
        line = "seqbench: waits for another worker, which is making the study\n"
        assert process.stderr.readline() == line
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert "goes on where it stopped" in said and "Traceback" not in said


@pytest.mark.skipif(available_cores() < 2, reason="needs two cores for two cells at once")
def test_the_first_failure_ends_the_runs_beside_it(tmp_path):
    process = command(
        tmp_path,
        {0: "sleep", 1: "raise beside one that sleeps"},
        "seed=0,1,2",
        "--threads",
        "1",
        "--fail-fast",
    )
    _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 3, said
    assert list(records(tmp_path)) == [1], "what was cut off can go on, and is no failure"
    sleeping = int(next(tmp_path.glob("s/runs/*/sleeping")).read_text())
    _wait(lambda: not _alive(sleeping), 10)


def test_what_is_dismissed_before_it_starts_does_not_start(tmp_path):
    options = RunOptions(results=tmp_path, data_directory=tmp_path)
    supervisor = local.Supervisor()
    supervisor.dismiss("one")
    with pytest.raises(local.Dismissed):
        supervisor.run(["list"], options, name="one")
    supervisor.recall("one")
    assert supervisor.run(["list", "models"], options, name="one").exit_code == 0
    supervisor.dismiss_all()
    with pytest.raises(local.Dismissed):
        supervisor.run(["list"], options, name="another")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_a_child_whose_parent_died_before_it_could_watch_ends(tmp_path):
    dead = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    dead.wait()
    code = (
        "import os, time; from benchmark.engines.child import die_with_parent; die_with_parent();"
        "assert 'SEQBENCH_PARENT' not in os.environ; print('lives')"
    )
    for parent, ended, output in ((dead.pid, -signal.SIGTERM, ""), (os.getpid(), 0, "lives\n")):
        environment = {**os.environ, "SEQBENCH_PARENT": str(parent), "PYTHONPATH": str(ROOT)}
        child = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=HANGS
        )
        assert (child.returncode, child.stdout) == (ended, output)


@pytest.mark.parametrize(("option", "made"), [("--fail-fast", [0, 1]), ("--keep-going", [0, 1, 2])])
def test_the_first_failure_ends_the_study_where_that_is_asked(run, tmp_path, option, made):
    code, said = run({1: "raise"}, "seed=0,1,2", option)
    assert code == 3
    assert sorted(records(tmp_path)) == made
    assert ("stopped at the first failure" in said) == (option == "--fail-fast")


def test_cells_run_side_by_side_where_threads_leave_room(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "available_cores", lambda: 8)
    options = RunOptions(results=tmp_path, data_directory=tmp_path, device="cpu")
    assert local.slots(options) == [None]
    assert local.slots(replace(options, threads=3)) == [None, None]
    assert local.slots(replace(options, threads=3, devices=2)) == [None]
    assert local.slots(replace(options, threads=16)) == [None]
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    anywhere = replace(options, device="auto")
    assert local.slots(anywhere) == ["0", "1", "2", "3", "4"]
    assert local.slots(replace(anywhere, devices=2)) == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9,1,3")
    assert local.slots(replace(anywhere, devices=2)) == ["4,7", "9,1"]
    assert local.threads_of_each(anywhere, 5) == 1, "they share the cores"
    assert local.threads_of_each(replace(anywhere, devices=2), 2) == 2
    assert local.threads_of_each(anywhere, 1) is None, "all it may use"
    assert local.threads_of_each(replace(anywhere, threads=3), 5) == 3
    for device in range(4):
        (tmp_path / "gpus" / f"{device}").mkdir(parents=True)
    monkeypatch.setattr(local, "_DEVICES", tmp_path / "gpus")
    assert local.threads_of_each(anywhere, 1) == 2, "as many, whichever of the machine's devices are seen"
    assert local.threads_of_each(replace(anywhere, device="cpu"), 1) is None


def test_kills_that_no_run_went_on_from_prove_nothing():
    whole = {"0" * 16: {"status": "done", "weights": "a"}}
    assert not is_broken(whole, dict(whole), 1)
    assert is_broken(whole, dict(whole), 0)
    assert is_broken(whole, {}, 1)
    assert is_broken(whole, {"0" * 16: {"status": "done", "weights": "b"}}, 1)


def test_a_line_for_each_run_and_what_is_left(run):
    _, said = run({1: "raise"}, "model=transformer-small,lstm-small", "seed=0,1")
    lines = [line for line in said.splitlines() if line.startswith("seqbench: [")]
    assert len(lines) == 8
    assert lines[0].startswith("seqbench: [1/4] transformer-small, reverse, seed 0 (run ")
    assert " failed: RuntimeError: the loss\\nhas two lines" in lines[5]


def test_speed_is_compared_once_after_the_runs_and_belongs_to_its_threads(run, tmp_path):
    def speeds(*arguments):
        code, errors = run({}, "model=transformer-small,lstm-small", "measure=train,speed", *arguments)
        assert code == 0, errors
        found = [read_record(path) for path in tmp_path.glob("s/runs/*/record.json")]
        return [list(record.experiments) for record in found if record.kind == "speed"]

    both = ["transformer-small", "lstm-small"]
    assert speeds("--threads", "1") == [both]
    assert speeds("--threads", "1") == [both]
    assert sorted(starts(tmp_path).values()) == [1, 1]
    assert speeds("--threads", "2") == [both, both]


def test_a_changed_config_of_a_finished_run_is_refused(run, tmp_path):
    assert run({})[0] == 0
    config = next(tmp_path.glob("s/runs/*/config.yaml"))
    config.write_text(config.read_text().replace("learning_rate: 0.002", "learning_rate: 0.003"))
    code, errors = run({})
    assert code == 2
    assert "training.learning_rate is 0.003, was 0.002" in errors
    assert "Traceback" not in errors


def test_children_of_all_models_start_with_the_same_allocator_and_threads(tmp_path):
    options = RunOptions(results=tmp_path, data_directory=tmp_path, threads=3)
    environment = child_environment(options, {"PATH": "p", "PYTHONPATH": "x", "OMP_NUM_THREADS": "9"})
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert "mmap_threshold" in environment["GLIBC_TUNABLES"]
    assert environment["THP_MEM_ALLOC_ENABLE"] == "1"
    assert environment["PYTHONPATH"] == f"{ROOT}{os.pathsep}x"
    assert child_environment(options, {"GLIBC_TUNABLES": "mine"})["GLIBC_TUNABLES"] == "mine"
