"""A machine that is shared, throttled or oversubscribed is marked, and one that says nothing is unknown."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from benchmark.config import ROOT
from benchmark.measure import machine
from benchmark.measure.machine import (
    MachineState,
    MachineWatch,
    container_cores,
    container_memory_bytes,
    governor,
    gpu_uuid,
)
from benchmark.record import available_cores

QUIET = {
    "others": 0,
    "own": 1000,
    "steal": 0,
    "runnable": 1,
    "pressure_us": 0,
    "throttled": 0,
    "throttled_us": 0,
    "thermal": 0,
    "children": 0,
}
SECONDS = 10
HERTZ, CORES = 100, 2


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def counters(root: Path, *, after: bool = False, **fields: int) -> None:
    """The files of a Linux machine with two cores; `fields` are what was added in `SECONDS` seconds."""
    added = (
        {**QUIET, **fields} if after else dict.fromkeys(QUIET, 0) | {"runnable": fields.get("runnable", 1)}
    )
    busy = added["others"] + added["own"] + added["children"]
    idle = SECONDS * HERTZ * CORES * after - busy - added["steal"]
    ticks = [5000 + busy, 10, 20, 90000 + idle, 5, 6, 7, added["steal"], 3, 0]
    lines = [f"cpu  {' '.join(map(str, ticks))}", "cpu0 1 2 3 4", "cpu1 1 2 3 4", "intr 12 0"]
    write(root, "proc/stat", "\n".join(lines))
    write(root, "proc/uptime", f"{777 + SECONDS * after}.25 99.0\n")
    write(root, "proc/loadavg", f"3.00 2.00 1.00 {added['runnable']}/123 4567\n")
    averages = "avg10=99.00 avg60=99.00 avg300=99.00"  # of the time before; not what is asked
    total = 10**6 + added["pressure_us"]
    write(root, "proc/pressure/cpu", f"some {averages} total={total}\nfull {averages} total=0\n")
    own = f"41 (a) name) S 1 41 41 0 -1 4194560 1 2 3 4 {100 + added['own']} 7 11 13 20 0\n"
    write(root, "proc/self/stat", own)
    write(root, "proc/41/stat", own)
    child = f"42 (worker) R 41 41 41 0 -1 4194560 1 2 3 4 {added['children']} 0 0 0 20 0\n"
    write(root, "proc/42/stat", child)
    write(root, "proc/43/stat", f"43 (other) R 1 41 41 0 -1 4194560 1 2 3 4 {added['others']} 0 0 0 20 0\n")
    write(root, "proc/self/cgroup", "0::/\n")
    throttled = f"nr_throttled {3 + added['throttled']}\nthrottled_usec {500 + added['throttled_us']}\n"
    write(root, "sys/fs/cgroup/cpu.stat", f"usage_usec 5\n{throttled}")
    cpu = "sys/devices/system/cpu/cpu0/"
    write(root, f"{cpu}thermal_throttle/core_throttle_count", f"{4 + added['thermal']}\n")
    write(root, f"{cpu}cpufreq/scaling_governor", "performance\n")


def watched(root: Path, *, threads: int = 2, **fields: int) -> MachineState:
    counters(root, runnable=fields.get("runnable", 1))
    watch = MachineWatch(threads=threads, cores=CORES, root=root)
    watch.start()
    counters(root, after=True, **fields)
    return watch.stop()


def test_a_quiet_machine_gives_no_reason(tmp_path: Path) -> None:
    seen = watched(tmp_path)
    assert seen == MachineState(
        seconds=10.0, cores=2, others_share=0.0, steal_share=0.0, runnable=1.0, pressure_share=0.0,
        container_throttled=0, container_throttled_seconds=0.0, processor_throttled=0, gpu_slowdowns=None,
        gpu_processes=None, governor="performance", reasons=(),
    )  # fmt: skip
    assert seen.noisy is False


LOUD = [
    ({"others": 101}, "other processes took 5% of the processor time"),
    ({"others": 600}, "other processes took 30% of the processor time"),
    ({"steal": 200}, "the host of this virtual machine took 10% of the processor time"),
    ({"runnable": 5}, "5.00 tasks shared 2 cores"),
    ({"pressure_us": 2_000_000}, "tasks waited for a core during 20% of the time"),
    ({"throttled": 12, "throttled_us": 340_000},
     "the container used up its processor time 12 times, for 0.34 s"),
    ({"thermal": 2}, "the processor slowed down for heat (2 events)"),
    ({"threads": 8}, "8 threads computed where 2 cores may be used"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "reason"), LOUD, ids=[" ".join(fields) for fields, _ in LOUD])
def test_each_disturbance_is_the_one_reason(fields: dict[str, int], reason: str, tmp_path: Path) -> None:
    seen = watched(tmp_path, **fields)
    assert seen.reasons == (reason,)
    assert seen.noisy is True


@pytest.mark.parametrize(
    "fields",
    [{"others": 99}, {"steal": 99}, {"runnable": 2}, {"pressure_us": 499_000}, {"own": 2000}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_stays_below_its_threshold_is_no_reason(fields: dict[str, int], tmp_path: Path) -> None:
    assert watched(tmp_path, **fields).reasons == ()


def test_work_of_the_own_children_is_not_that_of_others(tmp_path: Path) -> None:
    assert watched(tmp_path, children=900).others_share == 0


def test_a_child_that_has_ended_is_still_an_own_one(tmp_path: Path) -> None:
    """Its time moves to its parent's fields for children, behind those of the parent itself."""
    counters(tmp_path)
    watch = MachineWatch(root=tmp_path)
    watch.start()
    counters(tmp_path, after=True, children=900)
    (tmp_path / "proc/42/stat").unlink()
    own = "41 (a) name) S 1 41 41 0 -1 4194560 1 2 3 4 1100 7 911 13 20 0\n"
    write(tmp_path, "proc/self/stat", own)
    write(tmp_path, "proc/41/stat", own)
    assert watch.stop().others_share == 0


def test_without_proc_and_sys_all_is_unknown(tmp_path: Path) -> None:
    watch = MachineWatch(root=tmp_path)
    watch.start()
    watch.sample()
    seen = watch.stop()
    assert (seen.noisy, seen.reasons) == (None, ())
    assert {value for name, value in vars(seen).items() if name != "reasons"} == {None}


MISSING = [
    "proc/pressure/cpu",
    "proc/loadavg",
    "proc/uptime",
    "proc/stat",
    "proc/self/stat",
    "proc/self/cgroup",
    "sys/fs/cgroup/cpu.stat",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count",
]


@pytest.mark.parametrize("content", [None, "", "nonsense\n", "cpu a b\nsome total=x\nnr_throttled -\n"])
@pytest.mark.parametrize("name", MISSING)
def test_a_file_that_is_missing_or_odd_is_no_error(name: str, content: str | None, tmp_path: Path) -> None:
    counters(tmp_path)
    watch = MachineWatch(root=tmp_path)
    watch.start()
    counters(tmp_path, after=True)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    assert watch.stop().reasons == ()


def test_a_moment_is_too_short_for_shares(tmp_path: Path) -> None:
    counters(tmp_path)
    watch = MachineWatch(root=tmp_path)
    watch.start()
    counters(tmp_path, after=True, others=600, pressure_us=900_000)
    write(tmp_path, "proc/uptime", "777.75 99.0\n")
    seen = watch.stop()
    assert (seen.others_share, seen.pressure_share, seen.noisy) == (None, None, None)


def test_the_run_queue_is_averaged_over_the_samples(tmp_path: Path) -> None:
    counters(tmp_path)
    watch = MachineWatch(root=tmp_path)
    watch.start()
    for runnable in (1, 6):
        counters(tmp_path, runnable=runnable)
        watch.sample()
    counters(tmp_path, after=True)
    assert watch.stop().runnable == (1 + 1 + 6 + 1) / 4


@pytest.mark.parametrize(
    ("samples", "reasons"),
    [((2, 2, 2, 3), ()), ((3, 3, 2, 3), ("2.75 tasks shared 2 cores",))],
    ids=["two threads of one process", "and another process"],
)
def test_threads_that_fill_the_cores_are_no_other_load(
    samples: tuple[int, ...], reasons: tuple[str, ...], tmp_path: Path
) -> None:
    counters(tmp_path, runnable=samples[0])
    watch = MachineWatch(threads=2, cores=CORES, root=tmp_path)
    watch.start()
    for runnable in samples[1:-1]:
        counters(tmp_path, runnable=runnable)
        watch.sample()
    counters(tmp_path, after=True, own=2000, runnable=samples[-1])
    assert watch.stop().reasons == reasons


def cgroup(root: Path, lines: str, **files: str) -> None:
    write(root, "proc/self/cgroup", lines)
    for path, text in files.items():
        write(root, f"sys/fs/cgroup/{path}", text)


GROUPS = [
    ("0::/\n", {"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 2**30),
    ("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
    ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000", "a/b/memory.max": "4096"},
     0.5, 4096),
    ("0::/with blanks\n", {"with blanks/cpu.max": "100000 100000"}, 1.0, None),
    ("0::/not/seen/from/inside\n", {"cpu.max": "200000 100000\n"}, 2.0, None),
    ("0::/../elsewhere\n", {"cpu.max": "200000 100000\n"}, 2.0, None),
    ("3:cpu,cpuacct:/x\n2:memory:/x\n0::/\n",
     {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
      "cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
      "memory/x/memory.limit_in_bytes": "8192\n", "memory/memory.limit_in_bytes": "9223372036854771712\n"},
     3.0, 8192),
    ("", {}, None, None),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "files", "cores", "memory"), GROUPS)
def test_limits_of_the_container_are_those_of_the_narrowest_group(
    lines: str, files: dict[str, str], cores: float | None, memory: int | None, tmp_path: Path
) -> None:
    cgroup(tmp_path, lines, **files)
    assert container_cores(tmp_path) == cores
    assert container_memory_bytes(tmp_path) == memory


def test_throttling_is_read_from_version_1_groups_too(tmp_path: Path) -> None:
    counters(tmp_path)
    stat = "nr_periods 5\nnr_throttled {}\nthrottled_time {}\n"
    cgroup(tmp_path, "1:cpu:/\n0::/\n", **{"cpu/cpu.stat": stat.format(2, 10**9)})
    (tmp_path / "sys/fs/cgroup/unified").mkdir()
    watch = MachineWatch(root=tmp_path)
    watch.start()
    cgroup(tmp_path, "1:cpu:/\n0::/\n", **{"cpu/cpu.stat": stat.format(5, 3 * 10**9)})
    seen = watch.stop()
    assert (seen.container_throttled, seen.container_throttled_seconds) == (3, 2.0)


def test_the_governor_is_that_of_all_cores(tmp_path: Path) -> None:
    assert governor(tmp_path) is None
    for core, name in enumerate(("powersave", "performance", "powersave")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", f"{name}\n")
    assert governor(tmp_path) == "performance, powersave"


def fake_nvml(monkeypatch: pytest.MonkeyPatch, *reasons: int) -> list[str]:
    asked: list[str] = []
    left = list(reasons)

    class NVMLError(Exception):
        pass

    def handle(uuid: str) -> str:
        if not uuid.startswith("GPU-"):
            raise NVMLError
        asked.append(uuid)
        return uuid

    module = types.ModuleType("pynvml")
    fields = {"nvmlInit": lambda: None, "NVMLError": NVMLError, "nvmlDeviceGetHandleByUUID": handle,
              "nvmlDeviceGetCurrentClocksEventReasons": lambda _: left.pop(0)}  # fmt: skip
    vars(module).update(fields)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return asked


def test_a_gpu_that_was_hot_at_any_sample_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_nvml(monkeypatch, 0x1, 0x40 | 0x4, 0x1)
    watch = MachineWatch(gpu="GPU-1", root=tmp_path)
    watch.start()
    watch.sample()
    seen = watch.stop()
    assert seen.gpu_slowdowns == ("hardware thermal slowdown",)
    assert seen.reasons == ("the GPU slowed down: hardware thermal slowdown",)
    assert asked == ["GPU-1"] * 3


@pytest.mark.parametrize(("gpu", "slowdowns"), [("GPU-1", ()), ("MIG-1", None)])
def test_a_gpu_at_its_power_cap_or_one_that_nvml_does_not_know_is_not_marked(
    gpu: str, slowdowns: tuple[str, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_nvml(monkeypatch, 0x4, 0x5)
    watch = MachineWatch(gpu=gpu, root=tmp_path)
    watch.start()
    seen = watch.stop()
    assert (seen.gpu_slowdowns, seen.reasons) == (slowdowns, ())


def test_a_gpu_that_others_compute_on_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, 0x1, 0x1, 0x1)
    numbers = [1, 3, 1]
    processes = {"nvmlDeviceGetComputeRunningProcesses": lambda _: [object()] * numbers.pop(0)}
    vars(sys.modules["pynvml"]).update(processes)
    watch = MachineWatch(gpu="GPU-1", root=tmp_path)
    watch.start()
    watch.sample()
    seen = watch.stop()
    assert (seen.gpu_processes, seen.reasons) == (3, ("3 processes computed on the GPU",))


def test_without_nvml_a_gpu_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    watch = MachineWatch(gpu="GPU-1", root=tmp_path)
    watch.start()
    assert watch.stop().gpu_slowdowns is None
    assert gpu_uuid(torch.device("cpu")) is None


BUSY = "while True: pass"
WATCH = """
import json, sys, time
from benchmark.measure.machine import MachineWatch
watch = MachineWatch()
watch.start()
for _ in range(20):
    time.sleep(0.1)
    watch.sample()
seen = watch.stop()
assert "torch" not in sys.modules
print(json.dumps([seen.others_share, seen.noisy, seen.reasons]))
"""


def seen_beside_busy_loops(number: int) -> tuple[float, bool, list[str]]:
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        ended = subprocess.run(
            [sys.executable, "-c", WATCH], cwd=ROOT, capture_output=True, text=True, check=True
        )
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    others_share, noisy, reasons = json.loads(ended.stdout)
    return others_share, noisy, reasons


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs Linux's /proc")
def test_a_busy_loop_in_another_process_is_seen() -> None:
    # More than the threshold of however many cores there are, in siblings of the one that watches.
    number = math.ceil(3 * machine.OTHERS_SHARE * (os.cpu_count() or 1))
    if number > available_cores():
        pytest.skip("this container may use too little of the machine to be seen on it")
    others_share, noisy, reasons = seen_beside_busy_loops(number)
    assert others_share > machine.OTHERS_SHARE
    assert noisy is True
    assert any(reason.startswith("other processes took") for reason in reasons)


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="needs Linux's /proc")
@pytest.mark.skipif((os.cpu_count() or 1) > 8, reason="would load a large machine")
def test_busy_loops_on_every_core_are_seen_in_the_run_queue() -> None:
    _, _, reasons = seen_beside_busy_loops((os.cpu_count() or 1) + 1)
    assert any(" tasks shared " in reason for reason in reasons)
