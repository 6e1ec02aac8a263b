"""Whole runs through the command: what surrounds a run changes nothing of its record."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmark.config import ROOT
from benchmark.measure.steps import StepLog
from benchmark.record import TrainRecord, available_cores, read_record, record_bytes
from tests.benchmark.test_history import rows_in
from tests.benchmark.training_run import STEPS, experiment, run

RUN = [
    "model=lstm-small", "model.width=16", "task=reverse", "task.train_pairs=300", "task.validation_pairs=20",
    "task.test_pairs=20", "data.batch_tokens=300", "training.steps=60", "training.validations=3",
    "training.precision=float32", "--study", "s", "--device", "cpu", "--threads", "1",
]  # fmt: skip
OF_TIME = re.compile(
    r"second|joules|wandb|peak_memory|finished_at|environment|steady_state|warmup_steps|resumed|checksum"
)
"""Fields that tell of time, of this process, or of what was asked of wandb; the checksum is of all."""


KEY = "5ec2e7" + "a7b0c1d2e3" * 3 + "5e1f"
"""Of the form of a key of wandb."""


def start(results: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return command(results, *RUN, *arguments, **variables)


def command(results: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    own = {
        name: str(results / name.lower())
        for name in ("XDG_CACHE_HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR")
    }
    environment = {
        **os.environ, **own, "PYTHONPATH": str(ROOT), "WANDB_ERROR_REPORTING": "false", "WANDB_API_KEY": KEY,
        **variables,
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmark", "run", "--results", str(results), *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def measured(results: Path, study: str = "s") -> dict[str, Any]:
    [path] = results.glob(f"{study}/runs/*/record.json")
    record: dict[str, Any] = without_time(json.loads(path.read_text()))
    return record


def without_time(value: Any) -> Any:
    if isinstance(value, list):
        return [without_time(one) for one in value]
    if isinstance(value, dict):
        return {name: without_time(one) for name, one in value.items() if not OF_TIME.search(name)}
    return value


class Slow(http.server.BaseHTTPRequestHandler):
    """A server that is there, and never answers what it is sent."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.over.wait()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def slow_server() -> Iterator[str]:
    Slow.over.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Slow.over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_record_is_the_same_whatever_wandb_does_however_python_hashes_and_without_a_temporary_folder(
    slow_server: str, tmp_path: Path
) -> None:
    surroundings = {
        "disabled": {"WANDB_MODE": "disabled", "PYTHONHASHSEED": "0"},
        "offline": {"WANDB_MODE": "offline", "PYTHONHASHSEED": "1", "TMPDIR": "/proc"},  # takes no file
        "slow": {"WANDB_MODE": "online", "WANDB_BASE_URL": slow_server, "PYTHONHASHSEED": "2"},
        "no network": {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"},
    }
    started = {name: start(tmp_path / name, **variables) for name, variables in surroundings.items()}
    for name, process in started.items():
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
        assert ("wandb is online" in errors) == (name == "slow"), errors
    records = {name: measured(tmp_path / name) for name in surroundings}
    expected = records.pop("disabled")
    assert len(expected["scores"]) >= 4 and expected["weights_sha256"]
    for name, record in records.items():
        assert record == expected, name
        kept = list((tmp_path / name).rglob(f"offline-run-*-{expected['run_id']}"))
        assert len(kept) == 1, f"{name}: kept for later"
    hold_no_key(tmp_path)


def hold_no_key(folder: Path) -> None:
    """Nothing below a folder, which holds runs, has the key that they were started with."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"record.json", "config.yaml", "log.txt", "study.yaml"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        assert KEY.encode() not in content, path


BROKEN = {
    "short": ({"WANDB_API_KEY": "short"}, "offline", "WANDB_API_KEY has 5 characters"),
    "no folder": ({"WANDB_DIR": "/proc/wandb"}, "disabled", "FileNotFoundError: "),
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs a place where no folder can be made")
@pytest.mark.parametrize(("variables", "mode", "line"), BROKEN.values(), ids=BROKEN)
def test_runs_do_not_notice_what_is_wrong_with_wandb_s_settings(
    variables: dict[str, str], mode: str, line: str, tmp_path: Path
) -> None:
    surroundings = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "WANDB_BASE_URL": "http://127.0.0.1:9"}
    one_at_a_time = ("--threads", str(available_cores()))
    process = start(tmp_path, "seed=0,1", *one_at_a_time, **{**surroundings, **variables})
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert errors.count(line) == 1, "one line says what is wrong, for all runs"
    assert "Traceback" not in errors
    records = [json.loads(path.read_text()) for path in tmp_path.glob("s/runs/*/record.json")]
    assert [(record["status"], record["wandb_mode"]) for record in records] == [("done", mode)] * 2


def test_a_record_is_run_again_and_compared_with_what_comes_of_it(tmp_path: Path) -> None:
    first = start(tmp_path, "--wandb", "disabled")
    assert first.communicate() and first.returncode == 0
    [path] = tmp_path.glob("s/runs/*/record.json")
    record = read_record(path)
    assert isinstance(record, TrainRecord)
    options = ("--wandb", "disabled", "--device", "cpu", "--threads", "1")
    again = command(tmp_path, str(path), *options)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    assert "seqbench: reproduced" in errors
    [made] = tmp_path.glob("rerun-*/runs/*/record.json")
    assert measured(made.parents[3], made.parents[2].name)["weights_sha256"] == record.weights_sha256
    altered = tmp_path / "altered.json"
    altered.write_bytes(record_bytes(record.model_copy(update={"weights_sha256": "0" * 64})))
    held = command(tmp_path, str(altered), *options)
    _, errors = held.communicate()
    assert held.returncode == 4, errors
    assert "weights" in errors and "seqbench: reproduced" not in errors


def test_an_offline_run_that_was_cut_off_is_one_whole_run_for_wandb(tmp_path: Path) -> None:
    arguments = ("training.steps=300", "--wandb", "offline")
    undisturbed = start(tmp_path / "undisturbed", *arguments)
    cut = start(tmp_path / "cut", *arguments)
    assert cut.stderr is not None
    while "validation loss" not in cut.stderr.readline():
        assert cut.poll() is None
    cut.terminate()
    cut.communicate()
    assert cut.returncode == 143
    for process in (start(tmp_path / "cut", *arguments), undisturbed):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert measured(tmp_path / "cut") == measured(tmp_path / "undisturbed")
    [whole] = losses_by_step(tmp_path / "undisturbed")
    one, other = losses_by_step(tmp_path / "cut")
    assert one and other and one != whole
    assert all(one[step] == other[step] for step in one.keys() & other.keys())
    assert one | other == whole
    hold_no_key(tmp_path)


def test_batches_come_from_no_other_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader's process could die apart from its run."""
    children: list[list[psutil.Process]] = []
    taken = StepLog.on_train_batch_end

    def watching(*arguments: Any) -> None:
        children.append(psutil.Process().children(recursive=True))
        taken(*arguments)

    monkeypatch.setattr(StepLog, "on_train_batch_end", watching)
    before = psutil.Process().children(recursive=True)
    run(experiment("lstm"), tmp_path)
    assert children == [before] * STEPS


def losses_by_step(results: Path) -> list[dict[int, dict[str, float]]]:
    """Of every run in wandb's own files: the losses that were logged at each step."""
    found = []
    for folder in results.glob(f"s/wandb/offline-run-*-{measured(results)['run_id']}"):
        by_step: dict[int, dict[str, float]] = {}
        for row in rows_in(results / "s", folder.name):
            losses = {name: value for name, value in row.items() if "loss" in name}
            by_step.setdefault(int(row["trainer/global_step"]), {}).update(losses)
        found.append(by_step)
    return found
