"""Joules that a device draws, where it counts them.

A GPU counts its own (NVML, from Volta on). A processor counts those of its packages (RAPL), whoever uses
them; Linux shows them to root alone.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

_ROOT = Path("/")


class EnergyMeter:
    """Adds up what is drawn between each `resume` and the `pause` after it.

    Args:
        gpu: the UUID of the GPU that is measured (`gpu_uuid`); None for the processor.
        root: where sys/ lies.
    """

    def __init__(self, gpu: str | None, root: Path = _ROOT) -> None:
        self._gpu, self._root = gpu, root
        self._joules, self._complete = 0.0, True
        self._begin: dict[str, float] | None = None

    @property
    def joules(self) -> float | None:
        """Of all that was metered; None where some of it was not counted."""
        return self._joules if self._complete else None

    def restore(self, joules: float | None) -> None:
        """Go on from what an earlier meter of the same run had come to."""
        self._joules, self._complete = joules or 0.0, joules is not None

    def resume(self) -> None:
        self._begin = self._counters()

    def pause(self) -> None:
        """Nothing where it is not running."""
        if self._begin is None:
            return
        begin, end = self._begin, self._counters()
        self._begin = None
        if not begin or begin.keys() != end.keys():
            self._complete = False
            return
        for name, value in end.items():
            drawn = value - begin[name]
            self._joules += drawn if drawn >= 0 else drawn + self._range(name)

    def _counters(self) -> dict[str, float]:
        """Joules since any moment, by counter; empty where there is none."""
        if self._gpu is not None:
            joules = _gpu_joules(self._gpu)
            return {} if joules is None else {self._gpu: joules}
        found = {}
        for folder in sorted((self._root / "sys/class/powercap").glob("intel-rapl:*")):
            # Packages alone: their cores and memories, such as intel-rapl:0:0, are counted in them.
            if folder.name.count(":") == 1 and (value := _microjoules(folder / "energy_uj")) is not None:
                found[folder.name] = value
        return found

    def _range(self, name: str) -> float:
        """At which a counter starts again from 0."""
        return _microjoules(self._root / "sys/class/powercap" / name / "max_energy_range_uj") or 0.0


def _microjoules(path: Path) -> float | None:
    try:
        return int(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def _gpu_joules(uuid: str) -> float | None:
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    with contextlib.suppress(pynvml.NVMLError, AttributeError):
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    return None
