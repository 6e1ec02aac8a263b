"""The doctor: what is wrong costs exit code 4, what needs care does not, and nothing unsafe is imported."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from typer.testing import CliRunner

from benchmark import doctor
from benchmark.cli import app
from benchmark.config import ROOT, RunOptions
from benchmark.engines.local import child_environment
from benchmark.measure import capacity as capacity_module
from benchmark.measure import speed
from benchmark.measure.capacity import Capacity, measured_capacity
from benchmark.measure.machine import MachineState
from benchmark.measure.timing import Interval

QUIET = MachineState(
    seconds=9.0, cores=2, others_share=0.01, steal_share=0.0, runnable=1.5, pressure_share=0.0,
    container_throttled=0, container_throttled_seconds=0.0, processor_throttled=None, gpu_slowdowns=None,
    gpu_processes=None, governor=None, reasons=(),
)  # fmt: skip
SOUND = Capacity(
    device="cpu",
    bfloat16_speed=0.04,
    precision="float32",
    peak_by_threads={1: 8e10, 2: 1.55e11},
    device_peak=None,
    noise=Interval(value=1.001, low=0.99, high=1.012),
    drift=Interval(value=0.99, low=0.97, high=1.01),
    machine=QUIET,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of the test's own, wandb's network left alone, and a measurement that takes no time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("SEQBENCH_DATA", raising=False)
    for name in ("GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "measured_in_child", lambda options: SOUND)


def examined(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and findings by name."""
    command = ["doctor", "--json", "--results", str(tmp_path / "results"), *arguments]
    result = CliRunner().invoke(app, command)
    return result.exit_code, {one["name"]: one for one in json.loads(result.stdout)["findings"]}


def test_every_line_ends_in_its_verdict_and_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--results", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (0, "")
    sections = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert sections == ["versions:", "devices:", "processor:", "folders:", "wandb:", "measured:"]
    for line in result.stdout.splitlines():
        if line.startswith(" "):
            head, found, advice = line.partition(" look: ")
            assert found or line.endswith(" ok"), line
            assert not found or (advice and head)


def test_json_has_the_numbers_behind_the_page(tmp_path: Path) -> None:
    code, found = examined(tmp_path)
    assert code == 0
    assert set(found["python"]) == {"section", "name", "value", "verdict", "advice", "figures"}
    assert found["threads"]["figures"]["seqbench_threads"] >= 1
    assert found["results"]["figures"]["free_bytes"] > 0
    assert found["precision"]["figures"] == {"precision": "float32", "bfloat16_speed": 0.04}
    assert found["matrix products"]["figures"] == {
        "operations_per_second_by_threads": {"1": 8e10, "2": 1.55e11}
    }
    assert found["machine now"]["figures"]["others_share"] == 0.01
    assert not any((tmp_path / name).exists() for name in ("results", "cache"))


def test_a_folder_that_takes_no_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results").write_text("a file")
    code, found = examined(tmp_path)
    assert (code, found["results"]["verdict"]) == (4, "wrong")
    assert "--results" in found["results"]["advice"]
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    code, found = examined(tmp_path / "else")
    assert (code, found["cache"]["verdict"], found["results"]["verdict"]) == (4, "wrong", "ok")


def test_data_that_cannot_be_written_to_need_a_look_and_missing_ones_are_wrong(tmp_path: Path) -> None:
    code, found = examined(tmp_path, "--data-dir", "/proc")
    assert (code, found["data"]["verdict"]) == (0, "look")
    code, found = examined(tmp_path, "--data-dir", "/nowhere")
    assert (code, found["data"]["verdict"]) == (4, "wrong")
    assert "there is no folder /nowhere" in found["data"]["advice"]


def test_a_full_disk_is_wrong_before_a_study_finds_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES", 2**62)
    assert doctor.folder_finding("results", tmp_path, "x").verdict == "wrong"
    monkeypatch.setattr(doctor, "FREE_BYTES", 0)
    monkeypatch.setattr(doctor, "LITTLE_DISK_BYTES", 2**62)
    assert doctor.folder_finding("results", tmp_path, "x").verdict == "look"


VERSIONS = [
    ("pytorch-lightning>=2.6.1,!=2.6.2,!=2.6.3,<3", "2.6.3", "wrong", "malware"),
    ("pytorch-lightning>=2.6.1,!=2.6.2,!=2.6.3,<3", "2.6.6", "ok", ""),
    ("torch>=2.11", "2.13.0+cpu", "ok", ""),
    ("torch>=2.11", "2.9.1+cu128", "wrong", "pip install 'torch>=2.11'"),
    ("torch>=2.11", None, "wrong", "pip install"),
    ("wandb>=0.31", None, "look", "pip install"),
    ("filelock>=3.16", "3.1", "wrong", "filelock>=3.16"),
]


@pytest.mark.parametrize(("requirement", "version", "verdict", "advice"), VERSIONS)
def test_versions_are_those_that_are_allowed(
    requirement: str, version: str | None, verdict: str, advice: str
) -> None:
    _, found = doctor.versions([Requirement(requirement)], lambda _: version)
    assert (found.verdict, found.value) == (verdict, version or "not installed")
    assert advice in found.advice


def test_the_requirements_are_those_of_the_project() -> None:
    lightning = next(one for one in doctor.requirements() if one.name == "pytorch-lightning")
    assert not lightning.specifier.contains("2.6.2")


FORBIDDEN = """
import sys
from importlib import metadata
real = metadata.version
metadata.version = lambda name: "2.6.3" if name == "pytorch-lightning" else real(name)
sys.argv = ["seqbench", "doctor", "--results", sys.argv[1]]
from benchmark.cli import main
try:
    main()
except SystemExit as end:
    assert end.code == 4, end.code
assert not {"pytorch_lightning", "torch"} & set(sys.modules)
"""


def test_a_lightning_that_carries_malware_is_never_imported(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "2.6.3" in ended.stdout
    assert "mend what is wrong above first" in ended.stdout


def test_a_torch_that_would_take_other_threads_needs_a_look() -> None:
    assert doctor.threads_finding(ours=4, torch_alone=4).verdict == "ok"
    found = doctor.threads_finding(ours=4, torch_alone=64)
    assert found.verdict == "look"
    assert "OMP_NUM_THREADS=4" in found.advice


def test_an_allocator_of_the_users_own_needs_a_look(tmp_path: Path) -> None:
    options = RunOptions(results=tmp_path, data_directory=tmp_path)
    usual = child_environment(options, {})
    for environment, verdict in ({"GLIBC_TUNABLES": "x"}, "look"), (usual, "ok"):
        _, found = doctor.allocator_findings(options, {"GLIBC_TUNABLES": "y", **environment})
        assert found.verdict == "ok"
        first = next(doctor.allocator_findings(options, environment))
        if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
            assert first.verdict == verdict


WANDB = [
    ({"WANDB_MODE": "disabled"}, "ok"),
    ({"WANDB_MODE": "dryrun"}, "ok"),
    ({"HOME": "/nowhere"}, "look"),
    ({"HOME": "/nowhere", "WANDB_MODE": "online"}, "look"),
    ({"WANDB_MODE": "never"}, "wrong"),
    ({"WANDB_BASE_URL": "ftp://x"}, "wrong"),
]


@pytest.mark.parametrize(("environment", "verdict"), WANDB)
def test_a_mode_of_wandb_that_nobody_asked_for_needs_a_look(
    environment: dict[str, str], verdict: str
) -> None:
    found = doctor.wandb_finding(environment)
    assert found.verdict == verdict
    assert bool(found.advice) == (verdict != "ok")


DISTURBED: list[tuple[str, dict[str, Any]]] = [
    ("noise (A/A)", {"noise": Interval(value=1.0, low=0.93, high=1.08)}),
    ("noise (A/A)", {"noise": Interval(value=1.1, low=1.09, high=1.11)}),
    ("drift", {"drift": Interval(value=1.2, low=1.1, high=1.3)}),
    ("drift", {"drift": Interval(value=2.7, low=0.9, high=5.0)}),
    ("matrix products", {"peak_by_threads": {1: 8e10, 4: 9e10}}),
    ("machine now", {"machine": replace(QUIET, reasons=("other processes took 30% of the time",))}),
    ("machine now", {"machine": replace(QUIET, others_share=None)}),
]


@pytest.mark.parametrize(("name", "fields"), DISTURBED)
def test_a_disturbed_measurement_needs_a_look_and_fails_nothing(
    name: str, fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "measured_in_child", lambda options: replace(SOUND, **fields))
    code, found = examined(tmp_path)
    measured = [one["name"] for one in found.values() if one["section"] == "measured"]
    assert code == 0
    assert [one for one in measured if found[one]["verdict"] != "ok"] == [name]
    assert found[name]["advice"]


@pytest.mark.parametrize(
    "fields",
    [
        {"drift": Interval(value=1.03, low=1.02, high=1.04)},
        {"peak_by_threads": {1: 8e10}},
        {"device": "cuda", "device_peak": 4e14, "precision": "bfloat16", "bfloat16_speed": 2.0},
    ],
)
def test_what_is_within_noise_is_well(fields: dict[str, Any]) -> None:
    assert {one.verdict for one in doctor.capacity_findings(replace(SOUND, **fields))} == {"ok"}


def test_a_measurement_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(doctor.MeasuringFailed, match="ended with code 1"):
        doctor.measured_in_child(RunOptions(results=tmp_path, data_directory=tmp_path))

    def failing(options: RunOptions) -> Capacity:
        raise doctor.MeasuringFailed("for a reason")

    monkeypatch.setattr(doctor, "measured_in_child", failing)
    code, found = examined(tmp_path)
    assert (code, found["all"]["verdict"], found["all"]["advice"]) == (4, "wrong", "for a reason")


def test_a_capacity_survives_its_way_from_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured at toy size inside the hidden command, and read as the parent reads it."""
    monkeypatch.undo()
    monkeypatch.setattr(speed, "PEAK_SIZE", 64)
    monkeypatch.setattr(capacity_module, "NOISE_SECONDS", 0.005)
    taken: list[Capacity] = []

    def measured() -> Capacity:
        taken.append(measured_capacity())
        return taken[-1]

    monkeypatch.setattr(capacity_module, "measured_capacity", measured)
    monkeypatch.setattr("benchmark.engines.child.die_with_parent", lambda: None)
    threads = torch.get_num_threads()
    output = CliRunner().invoke(app, ["capacity"]).stdout
    torch.set_num_threads(threads)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, output, ""))
    found = doctor.measured_in_child(RunOptions(results=tmp_path, data_directory=tmp_path))
    assert [found] == taken
    assert min(found.peak_by_threads.values()) > 0
    assert found.noise.low <= found.noise.value <= found.noise.high
    assert found.bfloat16_speed > 0
