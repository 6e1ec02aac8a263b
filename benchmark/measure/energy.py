"""Joules that a device draws, where it counts them.

A GPU counts its own (NVML, from Volta on). A processor counts those of its packages (RAPL), whoever uses
them; Linux shows them to root alone.
"""

from __future__ import annotations

import time
from pathlib import Path

from benchmark.measure.machine import file_text, gpu_processes, number_in, nvml_reading

_ROOT = Path("/")
LOOK_SECONDS = 30.0
"""Between two looks at the counters: those of some processors are full after minutes."""


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
        self._looked = 0.0

    @property
    def joules(self) -> float | None:
        """Of all that was metered; None where some of it was not counted."""
        return self._joules if self._complete else None

    def restore(self, joules: float | None) -> None:
        """Go on from what an earlier meter of the same run had come to."""
        self._joules, self._complete = joules or 0.0, joules is not None

    def resume(self) -> None:
        self._begin, self._looked = self._counters(), time.monotonic()

    def look(self) -> None:
        """Call often enough: while it runs, no counter then gets full unseen."""
        if self._begin is not None and time.monotonic() - self._looked > LOOK_SECONDS:
            self.pause()
            self.resume()

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
            if drawn < 0:  # it was full, and began again from 0
                full = _microjoules(self._root / "sys/class/powercap" / name / "max_energy_range_uj")
                if full is None:
                    self._complete = False
                    return
                drawn += full
            self._joules += drawn

    def _counters(self) -> dict[str, float]:
        """Joules since any moment, by counter; empty where there is none, and for a GPU that is shared: it
        does not count for each program.
        """
        if self._gpu is not None:
            millijoules = nvml_reading(self._gpu, "nvmlDeviceGetTotalEnergyConsumption")
            alone = (gpu_processes(self._gpu) or 0) <= 1
            return {self._gpu: millijoules / 1e3} if alone and millijoules is not None else {}
        found = {}
        for folder in sorted((self._root / "sys/class/powercap").glob("intel-rapl:*")):
            # Packages alone: cores and memories lie within them, and `psys` is all of the machine.
            if not file_text(folder / "name").startswith("package"):
                continue
            value = _microjoules(folder / "energy_uj")
            if value is not None:
                found[folder.name] = value
        return found


def _microjoules(path: Path) -> float | None:
    value = number_in(file_text(path))
    return None if value is None else value / 1e6
