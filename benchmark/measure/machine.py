"""What else the machine did while something was measured: other load, stolen time, throttling.

A time says something about a model only where the model had the machine to itself. The kernel counts all of
this anyway, so watching means to read its counters before and after (Linux: /proc and /sys). What a machine
does not offer is None, and what was seen beyond the thresholds here is a reason to doubt the measurement.
"""

from __future__ import annotations

import contextlib
import importlib
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

if TYPE_CHECKING:
    import torch

OTHERS_SHARE = 0.05
"""Of the time of all cores that other processes may take."""
STEAL_SHARE = 0.05
"""Of the time of all cores that the host of a virtual machine may give to others."""
PRESSURE_SHARE = 0.05
"""Of the time that some task, ours or another's, may wait for a core."""
WAITING = 0.5
"""Tasks beyond the cores, on average, that are no other load: our own threads fill all cores, and those that
change places for a moment are counted, too.
"""
SHORTEST_SECONDS = 1.0
"""Below this, counters in hundredths of a second give no shares."""

GPU_SLOWDOWNS = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
"""Bits of NVML's clocks-event reasons that are no part of normal work; a power cap is."""

_ROOT = Path("/")
_UNLIMITED_BYTES = 2**60
"""cgroup v1 writes no limit as the largest multiple of a page."""


@dataclass(frozen=True, kw_only=True)
class MachineState:
    """What was seen during a measurement; None where it cannot be known here."""

    seconds: float | None
    cores: int | None
    """Of the machine, whoever may use them."""
    others_share: float | None
    """Of the time of all cores, what processes other than this and its children used."""
    steal_share: float | None
    """Of the same, what the host of a virtual machine took."""
    runnable: float | None
    """Tasks that ran or wanted to, this one included; mean of the samples."""
    pressure_share: float | None
    """Of the time, that in which some task waited for a core (PSI)."""
    container_throttled: int | None
    """Times that the container's quota was used up."""
    container_throttled_seconds: float | None
    """Summed over cores."""
    processor_throttled: int | None
    """Events of the processor's thermal counters."""
    gpu_slowdowns: tuple[str, ...] | None
    gpu_processes: int | None
    """The most that computed on the GPU at a time, this one included."""
    governor: str | None
    """Of the cores' frequencies."""
    reasons: tuple[str, ...]
    """Why the measurement is to be doubted, in plain words; empty for a quiet machine."""

    @property
    def noisy(self) -> bool | None:
        """None where nothing tells whether others used the machine."""
        return True if self.reasons else None if self.others_share is None else False


class MachineWatch:
    """Started before a measurement and stopped after it; `sample` may be called in between.

    Args:
        threads: that this process computes with.
        cores: that it may use.
        gpu: the UUID of the GPU that is measured (`gpu_uuid`).
        root: where proc/ and sys/ lie.
    """

    def __init__(
        self, *, threads: int = 1, cores: int | None = None, gpu: str | None = None, root: Path = _ROOT
    ) -> None:
        self._threads, self._cores, self._gpu, self._root = threads, cores, gpu, root

    def start(self) -> None:
        self._runnable: list[int] = []
        self._gpu_bits: int | None = None
        self._gpu_processes: int | None = None
        self.sample()
        self._begin = _counters(self._root)

    def sample(self) -> None:
        """Look at what is only there for the moment: the run queue, why a GPU's clock is as it is, and who
        computes on it.
        """
        fields = file_text(self._root / "proc/loadavg").split()
        if len(fields) >= 4 and (running := fields[3].partition("/")[0]).isdecimal():
            self._runnable.append(int(running))
        bits = _gpu_bits(self._gpu) if self._gpu is not None else None
        if bits is not None:
            self._gpu_bits = (self._gpu_bits or 0) | bits
        processes = gpu_processes(self._gpu) if self._gpu is not None else None
        if processes is not None:
            self._gpu_processes = max(self._gpu_processes or 0, processes)

    def stop(self) -> MachineState:
        """What was seen since `start`."""
        begin, end = self._begin, _counters(self._root)
        self.sample()
        seconds = _between(begin.uptime_seconds, end.uptime_seconds)
        long_enough = seconds is not None and seconds >= SHORTEST_SECONDS
        all_ticks = _between(begin.all_ticks, end.all_ticks) if long_enough else None
        others = None
        if begin.own_ticks is not None and end.own_ticks is not None:
            others = _between(begin.busy_ticks - begin.own_ticks, end.busy_ticks - end.own_ticks)
        pressure = _between(begin.pressure_seconds, end.pressure_seconds)
        throttled = _between(begin.container_throttled, end.container_throttled)
        throttled_seconds = _between(begin.container_throttled_seconds, end.container_throttled_seconds)
        state = MachineState(
            seconds=seconds,
            cores=end.cores or None,
            others_share=_share(others, all_ticks),
            steal_share=_share(_between(begin.steal_ticks, end.steal_ticks), all_ticks),
            runnable=statistics.fmean(self._runnable) if self._runnable else None,
            pressure_share=_share(pressure, seconds if long_enough else None),
            container_throttled=throttled,
            container_throttled_seconds=throttled_seconds,
            processor_throttled=_between(begin.processor_throttled, end.processor_throttled),
            gpu_slowdowns=None if self._gpu_bits is None else _slowdowns(self._gpu_bits),
            gpu_processes=self._gpu_processes,
            governor=governor(self._root),
            reasons=(),
        )
        return replace(state, reasons=tuple(self._reasons(state)))

    def _reasons(self, seen: MachineState) -> Iterator[str]:
        if seen.others_share is not None and seen.others_share > OTHERS_SHARE:
            yield f"other processes took {seen.others_share:.0%} of the processor time"
        if seen.steal_share is not None and seen.steal_share > STEAL_SHARE:
            yield f"the host of this virtual machine took {seen.steal_share:.0%} of the processor time"
        if seen.runnable is not None and seen.cores is not None and seen.runnable > seen.cores + WAITING:
            yield f"{seen.runnable:.2f} tasks shared {seen.cores} cores"
        if seen.pressure_share is not None and seen.pressure_share > PRESSURE_SHARE:
            yield f"tasks waited for a core during {seen.pressure_share:.0%} of the time"
        if self._cores is not None and self._threads > self._cores:
            yield f"{self._threads} threads computed where {self._cores} cores may be used"
        if seen.container_throttled:
            seconds = seen.container_throttled_seconds
            lost = "" if seconds is None else f", for {seconds:.2f} s"
            yield f"the container used up its processor time {seen.container_throttled} times{lost}"
        if seen.processor_throttled:
            yield f"the processor slowed down for heat ({seen.processor_throttled} events)"
        if seen.gpu_slowdowns:
            yield f"the GPU slowed down: {', '.join(seen.gpu_slowdowns)}"
        if seen.gpu_processes is not None and seen.gpu_processes > 1:
            yield f"{seen.gpu_processes} processes computed on the GPU"


def gpu_uuid(device: torch.device) -> str | None:
    """How NVML calls a CUDA device; None for the CPU."""
    if device.type != "cuda":
        return None
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def governor(root: Path = _ROOT) -> str | None:
    """What decides the frequency of the cores, such as `performance`; several where they differ."""
    paths = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return ", ".join(sorted({text for path in paths if (text := file_text(path).strip())})) or None


def container_cores(root: Path = _ROOT) -> float | None:
    """Cores whose time the container may use; None without a quota."""
    quotas = []
    for folder in _cgroups(root, "cpu"):
        fields = file_text(folder / "cpu.max").split() or [
            file_text(folder / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        ]
        if len(fields) == 2 and all(one.isdecimal() for one in fields) and int(fields[1]) > 0:
            quotas.append(int(fields[0]) / int(fields[1]))
    return min(quotas, default=None)


def container_memory_bytes(root: Path = _ROOT) -> int | None:
    """What the container may use; None without a limit."""
    limits = [
        int(text)
        for folder in _cgroups(root, "memory")
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := file_text(folder / name).strip()).isdecimal() and int(text) < _UNLIMITED_BYTES
    ]
    return min(limits, default=None)


def memory_available_bytes(root: Path = _ROOT) -> int:
    """What this process may still allocate."""
    found = [psutil.virtual_memory().available]
    limit = container_memory_bytes(root)
    for folder in _cgroups(root, "memory"):
        used = file_text(folder / "memory.current").strip()
        if limit is not None and used.isdecimal():
            found.append(max(0, limit - int(used)))
    return min(found)


def out_of_memory_kills(root: Path = _ROOT) -> int:
    """How many processes of the container the kernel has killed for its memory; it only grows."""
    kills = 0
    for folder in _cgroups(root, "memory"):
        for name in ("memory.events", "memory.oom_control"):
            for line in file_text(folder / name).split("\n"):
                field, _, value = line.partition(" ")
                if field == "oom_kill" and value.strip().isdecimal():
                    kills += int(value)
    return kills


class _Counters(NamedTuple):
    """What only grows; None where it is not there."""

    uptime_seconds: float | None
    cores: int
    all_ticks: int | None
    busy_ticks: int
    steal_ticks: int | None
    own_ticks: int | None
    pressure_seconds: float | None
    container_throttled: int | None
    container_throttled_seconds: float | None
    processor_throttled: int | None


def _counters(root: Path) -> _Counters:
    lines = file_text(root / "proc/stat").split("\n")
    total = next((line.split()[1:] for line in lines if line.startswith("cpu ")), [])
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in the first two.
    ticks = [int(field) for field in total[:8]] if all(field.isdecimal() for field in total) else []
    whole = len(ticks) == 8
    throttled, throttled_seconds = _container_throttled(root)
    uptime = file_text(root / "proc/uptime").split()
    return _Counters(
        uptime_seconds=number_in(uptime[0]) if uptime else None,
        cores=sum(line.startswith("cpu") and not line.startswith("cpu ") for line in lines),
        all_ticks=sum(ticks) if whole else None,
        busy_ticks=sum(ticks[:3]) + sum(ticks[5:7]) if whole else 0,
        steal_ticks=ticks[7] if whole else None,
        own_ticks=_own_ticks(root) if whole else None,
        pressure_seconds=_pressure_seconds(root),
        container_throttled=throttled,
        container_throttled_seconds=throttled_seconds,
        processor_throttled=_processor_throttled(root),
    )


def _own_ticks(root: Path) -> int | None:
    """Of this process and all below it, those that have ended included."""
    own = _process(root / "proc/self/stat")
    if own is None:
        return None
    found = [process for path in (root / "proc").glob("[0-9]*/stat") if (process := _process(path))]
    children: dict[int, list[_Process]] = {}
    for process in found:
        children.setdefault(process.parent, []).append(process)
    total, waiting = 0, [own]
    while waiting:
        process = waiting.pop()
        total += process.ticks
        waiting += children.pop(process.number, [])
    return total


class _Process(NamedTuple):
    number: int
    parent: int
    ticks: int
    """Its own, and those of children that it waited for."""


def _process(path: Path) -> _Process | None:
    number, _, rest = file_text(path).partition(" ")
    fields = rest.rpartition(")")[2].split()  # the name before it may hold anything
    try:
        return _Process(int(number), int(fields[1]), sum(int(field) for field in fields[11:15]))
    except (ValueError, IndexError):  # it ended while it was read
        return None


def _pressure_seconds(root: Path) -> float | None:
    # The total, because the averages beside it look back beyond the start of a measurement.
    for line in file_text(root / "proc/pressure/cpu").split("\n"):
        kind, _, rest = line.partition(" ")
        if kind == "some" and (microseconds := number_in(rest.partition("total=")[2])) is not None:
            return microseconds / 1e6
    return None


def _container_throttled(root: Path) -> tuple[int | None, float | None]:
    """Times and seconds, over this process' cgroup and those above it."""
    times: list[int] = []
    seconds: list[float] = []
    for folder in _cgroups(root, "cpu"):
        fields = [line.split() for line in file_text(folder / "cpu.stat").split("\n")]
        values = {pair[0]: int(pair[1]) for pair in fields if len(pair) == 2 and pair[1].isdecimal()}
        if "nr_throttled" in values:
            times.append(values["nr_throttled"])
        if "throttled_usec" in values:
            seconds.append(values["throttled_usec"] / 1e6)
        elif "throttled_time" in values:  # version 1
            seconds.append(values["throttled_time"] / 1e9)
    return sum(times) if times else None, sum(seconds) if seconds else None


def _processor_throttled(root: Path) -> int | None:
    counts = [
        int(text)
        for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
        if (text := file_text(path).strip()).isdecimal()
    ]
    return sum(counts) if counts else None


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' cgroup and of those above it, as far as they can be seen here."""
    mount = root / "sys/fs/cgroup"
    lines = [line for line in file_text(root / "proc/self/cgroup").split("\n") if line.count(":") >= 2]
    for line in lines or ["0::/"]:
        _, controllers, inner = line.split(":", 2)
        if not controllers:
            tops = [mount / "unified", mount]
        elif controller in controllers.split(","):
            tops = [mount / controllers, mount / controller]
        else:
            continue
        top = next((folder for folder in tops if folder.is_dir()), mount)
        folder = top / inner.lstrip("/")
        yield top
        while folder != top and ".." not in folder.parts:
            yield folder
            folder = folder.parent


def _gpu_bits(uuid: str) -> int | None:
    """NVML's reasons for the clock of a GPU as it is now."""
    bits = nvml_reading(uuid, "nvmlDeviceGetCurrentClocksEventReasons")
    return None if bits is None else int(bits)


def gpu_processes(uuid: str) -> int | None:
    """How many processes compute on a GPU; None where NVML does not know."""
    processes = nvml_reading(uuid, "nvmlDeviceGetComputeRunningProcesses")
    return None if processes is None else len(processes)


def nvml_reading(uuid: str, function: str) -> Any:
    """What a function of NVML says of a GPU; None where it does not know, or without its Python package."""
    try:
        pynvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    with contextlib.suppress(pynvml.NVMLError, AttributeError):
        pynvml.nvmlInit()
        return getattr(pynvml, function)(pynvml.nvmlDeviceGetHandleByUUID(uuid))
    return None


def _slowdowns(bits: int) -> tuple[str, ...]:
    return tuple(name for bit, name in GPU_SLOWDOWNS.items() if bits & bit)


def _between(begin: Any, end: Any) -> Any:
    return None if begin is None or end is None else end - begin


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or not whole or whole < 0:
        return None
    return min(1.0, max(0.0, part / whole))  # the kernel rounds what it counts for a process


def number_in(text: str) -> float | None:
    """None where it is no number."""
    try:
        return float(text)
    except ValueError:
        return None


def file_text(path: Path) -> str:
    """Empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
