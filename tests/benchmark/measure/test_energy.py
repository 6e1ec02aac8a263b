"""Joules are those between resume and pause, over all attempts, and none where a counter is missing."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from benchmark.measure import energy
from benchmark.measure.energy import EnergyMeter
from tests.benchmark.training_run import experiment, run


def counter(root: Path, name: str, joules: float, *, full: float = 1000.0) -> None:
    folder = root / "sys/class/powercap" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text(f"{round(full * 1e6)}\n")


def test_packages_of_a_processor_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    counter(tmp_path, "intel-rapl:0", 10)
    counter(tmp_path, "intel-rapl:0:0", 5)
    counter(tmp_path, "intel-rapl:1", 20)
    meter = EnergyMeter(None, tmp_path)
    meter.resume()
    counter(tmp_path, "intel-rapl:0", 13)
    counter(tmp_path, "intel-rapl:0:0", 7)
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
    left = [5_000, 12_500]
    module = types.ModuleType("pynvml")
    fields = {
        "nvmlInit": lambda: None,
        "NVMLError": RuntimeError,
        "nvmlDeviceGetHandleByUUID": lambda uuid: uuid,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: left.pop(0),
    }
    for name, value in fields.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    meter = EnergyMeter("GPU-1", tmp_path)
    meter.resume()
    meter.pause()
    assert meter.joules == 7.5
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter.resume()
    meter.pause()
    assert meter.joules is None


def test_a_run_meters_its_steps_and_not_its_validations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter(range(100))
    monkeypatch.setattr(energy.EnergyMeter, "_counters", lambda _: {"one": float(next(readings))})
    record = run(experiment("lstm"), tmp_path)
    assert record is not None
    # A joule is drawn from each look to the next: up to each of three validations, and to the end.
    assert record.energy_joules == 4.0
