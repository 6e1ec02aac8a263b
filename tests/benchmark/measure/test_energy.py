"""Joules are those between resume and pause, over all attempts, and none where a counter is missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from benchmark import trainer
from benchmark.measure import energy
from benchmark.measure.energy import EnergyMeter
from tests.benchmark.training_run import experiment, run


def counter(root: Path, name: str, joules: float, *, full: float = 1000.0, what: str = "package-0") -> None:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{what}\n")
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{round(full * 1e6)}\n")


def test_packages_of_a_processor_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 10)
    counter(tmp_path, "intel-rapl:0:0", 5, what="core")
    counter(tmp_path, "intel-rapl:2", 5, what="psys")
    counter(tmp_path, "intel-rapl:1", 20)
    meter = EnergyMeter(None, tmp_path)
    meter.resume()
    counter(tmp_path, "intel-rapl:0", 13)
    counter(tmp_path, "intel-rapl:0:0", 7, what="core")
    counter(tmp_path, "intel-rapl:2", 55, what="psys")
    counter(tmp_path, "intel-rapl:1", 24)
    meter.pause()
    assert meter.joules == pytest.approx(3 + 4)
    counter(tmp_path, "intel-rapl:0", 100)  # while it pauses
    meter.pause()
    meter.resume()
    counter(tmp_path, "intel-rapl:0", 102)
    meter.pause()
    assert meter.joules == pytest.approx(3 + 4 + 2)


def test_a_counter_that_is_full_starts_again(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 990)
    meter = EnergyMeter(None, tmp_path)
    meter.resume()
    counter(tmp_path, "intel-rapl:0", 5)
    meter.pause()
    assert meter.joules == pytest.approx(15)
    meter.resume()
    counter(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    meter.pause()
    assert meter.joules is None


def test_a_meter_looks_before_a_counter_can_be_full_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(energy, "time", clock)
    counter(tmp_path, "intel-rapl:0", 900)
    meter = EnergyMeter(None, tmp_path)
    meter.look()  # it does not run
    meter.resume()
    for clock.now, joules in ((20.0, 950), (40.0, 100), (60.0, 600), (80.0, 50)):
        counter(tmp_path, "intel-rapl:0", joules)
        meter.look()
    counter(tmp_path, "intel-rapl:0", 60)
    meter.pause()
    # 200 until second 40, then 950 until second 80, then 10.
    assert meter.joules == pytest.approx(200 + 950 + 10)


def test_what_was_not_counted_in_part_is_unknown_as_a_whole(tmp_path: Path) -> None:
    meter = EnergyMeter(None, tmp_path)
    meter.resume()
    meter.pause()
    assert meter.joules is None
    counter(tmp_path, "intel-rapl:0", 1)
    meter.resume()
    counter(tmp_path, "intel-rapl:0", 2)
    meter.pause()
    assert meter.joules is None
    again = EnergyMeter(None, tmp_path)
    again.restore(meter.joules)
    assert again.joules is None
    again.restore(41.0)
    assert again.joules == 41.0


def test_a_gpu_counts_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 990)
    left = [5_000, 12_500, 20_000, 30_000]
    processes = ["own"]
    module = types.ModuleType("pynvml")
    fields = {
        "nvmlInit": lambda: None,
        "NVMLError": RuntimeError,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: left.pop(0),
        "nvmlDeviceGetComputeRunningProcesses": lambda _: processes,
    }
    for name, value in fields.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    meter = EnergyMeter("GPU-1", tmp_path)
    meter.resume()
    meter.pause()
    assert meter.joules == 7.5
    shared = EnergyMeter("GPU-1", tmp_path)
    shared.resume()
    processes.append("another")
    shared.pause()
    assert shared.joules is None, "the GPU counts what both draw"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter.resume()
    meter.pause()
    assert meter.joules is None


def test_a_run_meters_its_steps_and_not_its_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter(range(100))
    monkeypatch.setattr(energy.EnergyMeter, "_counters", lambda _: {"one": float(next(readings))})
    monkeypatch.setattr(trainer, "available_cores", lambda: 1)
    record = run(experiment("lstm"), tmp_path / "all")
    assert record is not None
    # A joule is drawn from each look to the next: up to each of three validations, and to the end.
    assert record.energy_joules == 4.0
    monkeypatch.setattr(trainer, "available_cores", lambda: 2)
    record = run(experiment("lstm"), tmp_path / "one of two")
    assert record is not None and record.energy_joules is None
