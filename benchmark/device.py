"""Which device a run computes on."""

from __future__ import annotations

import torch

from benchmark.config import RunOptions, UserError
from benchmark.record import available_cores, device_name, threads_of


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where it is, else the CPU. UserError for a device that is not there."""
    present = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if name == "auto":
        return torch.device(present[-1])
    if name not in present:
        raise UserError(f"device: no {name!r} here; there are: auto, {', '.join(present)}")
    return torch.device(name)


def check_devices(options: RunOptions) -> None:
    """UserError where a run would need more devices than there are."""
    on_cuda = choose_device(options.device).type == "cuda"
    there = torch.cuda.device_count() if on_cuda else available_cores()
    if options.devices > there:
        what = "CUDA devices" if on_cuda else "cores, one for each process"
        raise UserError(f"--devices: {options.devices} are asked for, and there are {there} {what}")


def device_in_use(options: RunOptions) -> str:
    """The device by name, with the threads and processes used of it: what speed belongs to."""
    name = device_name(choose_device(options.device))
    return f"{name}, {threads_of(options)} threads, {options.devices} devices"
