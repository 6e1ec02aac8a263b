"""`seqbench doctor`: this machine in one page, and what on it would spoil a run or a comparison.

Each finding is `ok`, `look` (a comparison made here needs care) or `wrong` (runs fail, or are unsafe), and
says what to do. What is wrong is found before anything heavy is imported: two releases of Lightning stole
credentials from whoever imported them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from pydantic import JsonValue, TypeAdapter, ValidationError

from benchmark import tracking
from benchmark.config import ROOT, RunOptions, default_cache_directory, one_line
from benchmark.engines.local import child_environment
from benchmark.measure.capacity import Capacity
from benchmark.measure.machine import MachineState, container_cores, container_memory_bytes, governor
from benchmark.measure.timing import Interval
from benchmark.record import available_cores, memory_bytes, processor
from benchmark.report.rounding import without_spread
from benchmark.store import FREE_BYTES
from tasks.data.download import find_data_directory

Verdict = Literal["ok", "look", "wrong"]

MEASURING_SECONDS = 120.0
"""How long the measurement may take before it is given up; it takes about a tenth."""
LITTLE_DISK_BYTES = 2**30
LITTLE_MEMORY_BYTES = 2**30
"""A run of the small presets takes some 0.8 GiB."""
NOISE = 0.05
"""The A/A ratio and the drift may stray from 1 by this much."""
SCALING = 0.6
"""Of the speed of one thread, what each of all threads should add."""

SHOWN = ("torch", "pytorch-lightning", "wandb", "numpy", "sacrebleu", "sentencepiece")
"""Distributions that are shown even if nothing is wrong with them."""
NOT_NEEDED = ("wandb",)
"""Runs go on without them."""
ADVICE = {
    "pytorch-lightning": "2.6.2 and 2.6.3 carried malware: if one was ever imported, change every password "
    "and key of this account",
}
BFLOAT16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")


class MeasuringFailed(Exception):
    """Nothing was measured; one line says why."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the page."""

    section: str
    name: str
    value: str
    verdict: Verdict
    advice: str
    """What to do where the verdict is not `ok`."""
    figures: Mapping[str, JsonValue]
    """The numbers in `value`, unrounded, with units in their names."""

    @classmethod
    def of(
        cls,
        section: str,
        name: str,
        value: str,
        figures: Mapping[str, JsonValue] | None = None,
        *,
        look: str = "",
        wrong: str = "",
    ) -> Finding:
        """`wrong` or `look` is what to do, and empty where there is nothing to do."""
        verdict: Verdict = "wrong" if wrong else "look" if look else "ok"
        return cls(
            section=section,
            name=name,
            value=value,
            verdict=verdict,
            advice=wrong or look,
            figures=figures or {},
        )

    def line(self) -> str:
        advice = f": {self.advice}" if self.advice else ""
        return one_line(f"{self.name:21} {self.value:60} {self.verdict}{advice}")

    def document(self) -> dict[str, JsonValue]:
        return {**vars(self), "figures": dict(self.figures)}


def examine(
    results: Path, data_directory: Path | None, measure: Callable[[RunOptions], Capacity]
) -> Iterator[Finding]:
    """The findings, each as soon as it is known; the last ones take some ten seconds.

    `measure` is `measured_in_child`, or raises `MeasuringFailed` as that does.
    """
    options = RunOptions(results=results, data_directory=data_directory or Path())
    imports = list(versions(requirements(), installed_version))
    yield from imports
    if _usable(imports):
        devices = list(_devices())
        yield from devices
        imports += devices
    yield from _processor()
    if _usable(imports):
        yield _threads()
    yield from allocator_findings(options, os.environ)
    yield _memory()
    yield from folder_findings(results, data_directory)
    yield wandb_finding(os.environ)
    if not _usable(imports):
        yield Finding.of("measured", "all", "nothing", look="mend what is wrong above first")
        return
    try:
        capacity = measure(options)
    except MeasuringFailed as error:
        yield Finding.of("measured", "all", "nothing", wrong=str(error))
    else:
        yield from capacity_findings(capacity)


def _usable(imports: Iterable[Finding]) -> bool:
    return all(finding.verdict != "wrong" for finding in imports)


# What is installed


def requirements() -> list[Requirement]:
    """What seqbench needs, from its project file, else from what was installed."""
    with contextlib.suppress(OSError):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return [Requirement(text) for text in project["dependencies"]]
    found = map(Requirement, metadata.requires("seqbench") or [])
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def versions(needed: Iterable[Requirement], version_of: Callable[[str], str | None]) -> Iterator[Finding]:
    """Python, and what seqbench needs: those in `SHOWN`, and any other that is missing or not allowed."""
    yield Finding.of("versions", "python", platform.python_version())
    for requirement in needed:
        name, version = requirement.name, version_of(requirement.name)
        advice = f"needed is {requirement}: pip install {str(requirement)!r}"
        if version is None and name in NOT_NEEDED:
            yield Finding.of("versions", name, "not installed", look=advice)
        elif version is None:
            yield Finding.of("versions", name, "not installed", wrong=advice)
        elif not requirement.specifier.contains(version, prereleases=True):
            advice += f"; {ADVICE[name]}" if name in ADVICE else ""
            yield Finding.of("versions", name, version, wrong=advice)
        elif name in SHOWN:
            yield Finding.of("versions", name, version)


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding.of("devices", "torch", "cannot be imported", wrong=f"install it again; {error}")
        return
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        value = f"{found.name}, {_gib(found.total_memory)}, compute capability {found.major}.{found.minor}"
        yield Finding.of("devices", f"cuda {number}", value, {"memory_bytes": found.total_memory})
    if torch.cuda.device_count() == 0:
        look = ""
        if Path("/proc/driver/nvidia/version").exists():
            look = (
                f"an NVIDIA driver is here, and torch {torch.__version__} does not use it; install a build "
                "of torch for CUDA, or look at CUDA_VISIBLE_DEVICES"
            )
        yield Finding.of("devices", "accelerator", "none; runs use the processor", look=look)


# The processor and its memory


def _threads() -> Finding:
    import torch

    return threads_finding(ours=available_cores(), torch_alone=torch.get_num_threads())


def threads_finding(*, ours: int, torch_alone: int) -> Finding:
    """Threads of a run against those that torch takes when nobody tells it."""
    look = ""
    if ours != torch_alone:
        look = (
            f"runs are right; for other programs set OMP_NUM_THREADS={ours}: more threads than cores cost a "
            "multiple of the time"
        )
    value = f"seqbench uses {ours}, torch by itself {torch_alone}"
    figures: dict[str, JsonValue] = {"seqbench_threads": ours, "torch_threads": torch_alone}
    return Finding.of("processor", "threads", value, figures, look=look)


def _processor() -> Iterator[Finding]:
    model, features = processor()
    speed = governor()
    yield Finding.of("processor", "model", model + (f", governor {speed}" if speed else ""))
    without = "" if any(one in features for one in BFLOAT16_FEATURES) else ", nothing for bfloat16"
    yield Finding.of("processor", "instructions", ", ".join(features) + without if features else "unknown")
    every, quota = os.cpu_count() or 1, container_cores()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every
    limit = "no quota of a container" if quota is None else f"a container's quota of {quota:g}"
    yield Finding.of(
        "processor",
        "cores",
        f"{every}, by affinity {affinity}, {limit}",
        {"cores": every, "affinity_cores": affinity, "quota_cores": quota},
        look="even one thread is throttled; give the container a whole core" if (quota or 1) < 1 else "",
    )


def allocator_findings(options: RunOptions, environment: Mapping[str, str]) -> Iterator[Finding]:
    """The variables that make large tensors cheap to allocate, as runs get them."""
    given, usual = child_environment(options, environment), child_environment(options, {})
    for name in ("GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE"):
        look = ""
        if given[name] != usual[name]:
            look = f"runs keep this value, which you set; without it they get {usual[name]}"
        elif name == "GLIBC_TUNABLES" and platform.libc_ver()[0] != "glibc":
            look = "not heeded, for this system has no glibc; large tensors may be slow to allocate"
        yield Finding.of("processor", name, given[name].replace("glibc.malloc.", ""), look=look)


def _memory() -> Finding:
    import psutil

    whole, limit, available = memory_bytes(), container_memory_bytes(), psutil.virtual_memory().available
    limited = "no limit of a container" if limit is None else f"a container's limit of {_gib(limit)}"
    little = min(available, limit or available) < LITTLE_MEMORY_BYTES
    return Finding.of(
        "processor",
        "memory",
        f"{'unknown' if whole is None else _gib(whole)}, {_gib(available)} available, {limited}",
        {"memory_bytes": whole, "available_bytes": available, "container_limit_bytes": limit},
        look="even the small presets take some 0.8 GiB; make room, or lower data.batch_tokens"
        if little
        else "",
    )


# Where files go


def folder_findings(results: Path, data_directory: Path | None) -> Iterator[Finding]:
    """Results, cache and data."""
    yield folder_finding("results", results, "name another with --results")
    yield folder_finding("cache", default_cache_directory(), "set XDG_CACHE_HOME to a folder of yours")
    try:
        data = find_data_directory(data_directory)
    except ValueError as error:
        yield Finding.of("folders", "data", "missing", wrong=f"{error}; make it, or name another")
        return
    found = folder_finding("data", data, "tasks that download need another --data-dir")
    # Shared data are often read-only.
    yield Finding.of("folders", "data", found.value, found.figures, look=found.advice)


def folder_finding(name: str, folder: Path, advice: str) -> Finding:
    """Whether a run can write there, tried with a file that leaves no trace."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"\0")
        free = shutil.disk_usage(there).free
    except OSError as error:
        reason = f"{there}: {error.strerror}; {advice}"
        return Finding.of("folders", name, f"{folder}, cannot be written to", wrong=reason)
    little = f"little room for records and checkpoints; make some, or {advice}"
    return Finding.of(
        "folders",
        name,
        f"{folder}, {_gib(free)} free" + ("" if folder.exists() else ", made when needed"),
        {"free_bytes": free},
        wrong=little if free < FREE_BYTES else "",
        look=little if free < LITTLE_DISK_BYTES else "",
    )


def wandb_finding(environment: Mapping[str, str]) -> Finding:
    """The mode that runs get, and why."""
    try:
        mode, why = tracking.choose_mode("auto", environment)
    except ValueError as error:
        return Finding.of("wandb", "mode", "none", wrong=str(error))
    asked = {"dryrun": "offline"}.get(variable := environment.get("WANDB_MODE", ""), variable)
    meant = mode in ("online", asked)
    look = "" if meant else f"records are whole without it; WANDB_MODE={mode} says that this is meant"
    return Finding.of("wandb", "mode", why.removeprefix("wandb is "), look=look)


# What is measured


def measured_in_child(options: RunOptions) -> Capacity:
    """Measure in a process like that of a run, whose allocator and threads are settled before it starts.

    Raises:
        MeasuringFailed: the process ended without a measurement.
    """
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "benchmark", "capacity"],
            env=child_environment(options, os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=MEASURING_SECONDS,
            encoding="utf-8",
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise MeasuringFailed(f"no end after {MEASURING_SECONDS:.0f} s; is the machine overloaded?") from None
    try:
        return TypeAdapter(Capacity).validate_json(ended.stdout)
    except ValidationError:
        last = ended.stderr.strip().rpartition("\n")[2]
        raise MeasuringFailed(f"the process ended with code {ended.returncode}: {last}") from None


def capacity_findings(capacity: Capacity) -> Iterator[Finding]:
    """What a measurement says about comparisons on this machine."""
    speed = capacity.bfloat16_speed
    yield Finding.of(
        "measured",
        "precision",
        f"{capacity.precision}; bfloat16 trains {without_spread(speed)} times as fast",
        {"precision": capacity.precision, "bfloat16_speed": speed},
    )
    yield _products_finding(capacity.peak_by_threads)
    if capacity.device_peak is not None:
        value = f"{_billions(capacity.device_peak)} operations/s in {capacity.precision}"
        figures: dict[str, JsonValue] = {"operations_per_second": capacity.device_peak}
        yield Finding.of("measured", "products, device", value, figures)
    yield _noise_finding(capacity.noise)
    yield _drift_finding(capacity.drift)
    yield _machine_finding(capacity.machine)


def _products_finding(peak_by_threads: Mapping[int, float]) -> Finding:
    most = max(peak_by_threads)
    scaling = peak_by_threads[most] / peak_by_threads[1]
    counted = [
        f"{_billions(peak)} with {threads} thread{'s' if threads > 1 else ''}"
        for threads, peak in peak_by_threads.items()
    ]
    look = ""
    if scaling < 1 + SCALING * (most - 1):
        look = (
            f"all threads are {scaling:.2f} times as fast as one; they share cores with each other or with "
            "other programs: try fewer with --threads"
        )
    return Finding.of(
        "measured",
        "matrix products",
        f"{', '.join(counted)}, operations/s",
        {"operations_per_second_by_threads": {str(one): peak for one, peak in peak_by_threads.items()}},
        look=look,
    )


def _noise_finding(noise: Interval) -> Finding:
    away = max(abs(noise.low - 1), abs(noise.high - 1))
    look = f"differences in speed below {away:.0%} cannot be seen; close other programs"
    value = f"{noise.value:.3f} ({noise.low:.3f} to {noise.high:.3f})"
    return Finding.of("measured", "noise (A/A)", value, vars(noise), look=look if away > NOISE else "")


def _drift_finding(drift: Interval) -> Finding:
    look = ""
    if abs(drift.value - 1) > NOISE:
        look = "compare speeds in interleaved rounds only (measure=speed)"
        if drift.low <= 1 <= drift.high:
            look = f"what disturbs hides whether it drifts; {look}"
    value = f"equal work took {drift.value:.2f} times as long in the end"
    return Finding.of("measured", "drift", value, vars(drift), look=look)


def _machine_finding(machine: MachineState) -> Finding:
    value = {True: "shared or throttled", False: "quiet", None: "unknown"}[machine.noisy]
    look = "" if machine.noisy is False else "this system does not say what others use; keep them closed"
    if machine.reasons:
        look = f"{'; '.join(machine.reasons)}; wait for it to end before speeds are measured"
    figures: dict[str, JsonValue] = TypeAdapter(MachineState).dump_python(machine, mode="json")
    return Finding.of("measured", "machine now", value, figures, look=look)


def _billions(operations_per_second: float) -> str:
    return f"{without_spread(operations_per_second / 1e9)} billion"


def _gib(size_bytes: float) -> str:
    return f"{without_spread(size_bytes / 2**30)} GiB"
