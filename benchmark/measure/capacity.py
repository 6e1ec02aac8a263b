"""What this machine computes in a second, and what difference it makes up by itself, in some ten seconds.

The noise floor is an A/A comparison: the same work twice, in interleaved rounds. A difference between two
models that is smaller than its interval cannot be seen here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from benchmark.measure.machine import MachineState, MachineWatch, gpu_uuid
from benchmark.measure.timing import Clock, Interval, drift, interleaved, ratio
from benchmark.record import available_cores

if TYPE_CHECKING:
    import torch

PEAK_ROUNDS = 4
NOISE_ROUNDS, NOISE_WARMUP_ROUNDS = 15, 2
NOISE_SECONDS = 0.1
"""Of the work that is compared with itself, in each round."""


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What was measured, and what was seen of the machine meanwhile."""

    device: str
    """`cpu` or `cuda`; the peaks by threads are always the CPU's."""
    bfloat16_speed: float
    """Against float32, in training a linear layer."""
    precision: Literal["float32", "bfloat16"]
    """The one worth using."""
    peak_by_threads: dict[int, float]
    """Operations per second of float32 matrix products, with one thread and with all."""
    device_peak: float | None
    """The same of the accelerator, in `precision`."""
    noise: Interval
    """Ratio of the same work to itself (A/A)."""
    drift: Interval
    """Duration of the last round against the first."""
    machine: MachineState


def measured_capacity() -> Capacity:
    """Of the device that runs get, with the threads that they get."""
    import torch

    from benchmark.device import use_device
    from benchmark.resolution import bfloat16_speed, worthwhile_precision
    from benchmark.trainer import quiet

    quiet()
    threads = available_cores()
    device, cpu = use_device("auto", threads), torch.device("cpu")
    watch = MachineWatch(threads=threads, cores=threads, gpu=gpu_uuid(device))
    watch.start()
    speed = bfloat16_speed(device)
    precision = worthwhile_precision(speed)
    watch.sample()
    peaks = {}
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        peaks[count] = _peak(cpu, "float32")
    watch.sample()
    device_peak = None if device == cpu else _peak(device, precision)
    noise, over_time = _noise(device, watch)
    return Capacity(
        device=device.type,
        bfloat16_speed=speed,
        precision=precision,
        peak_by_threads=peaks,
        device_peak=device_peak,
        noise=noise,
        drift=over_time,
        machine=watch.stop(),
    )


def _peak(device: torch.device, precision: str) -> float:
    """Operations per second; the best of a few rounds, after one that warms up."""
    from benchmark.measure.speed import matrix_products

    products = matrix_products(device, Clock(device), precision)
    products.work(0)
    return products.amount(0) / min(products.work(number) for number in range(PEAK_ROUNDS))


def _noise(device: torch.device, watch: MachineWatch) -> tuple[Interval, Interval]:
    """A/A ratio of the training of a linear layer, and how its duration moved meanwhile."""
    import torch

    clock = Clock(device)
    layer = torch.nn.Linear(512, 512).to(device)
    x = torch.randn(1024, 512, device=device)

    def seconds(steps: int) -> float:
        begin = clock.mark()
        for _ in range(steps):
            loss: torch.Tensor = layer(x).square().mean()
            loss.backward()
        return clock.seconds(begin, clock.mark())

    seconds(3)
    steps = max(1, math.ceil(10 * NOISE_SECONDS / seconds(10)))

    def work(_: int) -> float:
        watch.sample()
        return seconds(steps)

    times = interleaved({"a": work, "again": work}, rounds=NOISE_ROUNDS, warmup=NOISE_WARMUP_ROUNDS, seed=0)
    together = [a + again for a, again in zip(times["a"], times["again"], strict=True)]
    return ratio(times["again"], times["a"]), drift(together)
