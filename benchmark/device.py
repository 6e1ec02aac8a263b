"""Which device a run computes on."""

from __future__ import annotations

import warnings

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


def use_device(name: str, threads: int) -> torch.device:
    """`choose_device`, set up for this process: so many CPU threads, float32 in full, no cuDNN attention, and
    numbers that are subnormal in float32 are 0 on the CPU.

    Processors calculate with subnormal numbers many times slower, and saturated gates have such gradients: an
    LSTM that learns nothing would train at a fifth of its speed. Threads take this over when they are made,
    so it is to come before the first calculation.

    PyTorch lets cuDNN, so convolutions and recurrences but not attention, multiply float32 in TF32, whose
    fraction has 10 bits for 23: models would be compared in two precisions under one name. cuDNN's attention,
    which it prefers on some GPUs in bfloat16, is planned anew for every shape of batch, in tens of
    milliseconds, and the batches here have many shapes (pytorch/pytorch pull request 155958).
    """
    device = choose_device(name)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # where the processor can
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    # PyTorch leaves bfloat16 out of `flatten_parameters`: nothing that a user could do about it.
    warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk")
    return device


def check_devices(options: RunOptions) -> None:
    """UserError where a run would need more devices than there are."""
    there = devices_there(options)
    if options.devices > there:
        on_cuda = choose_device(options.device).type == "cuda"
        what = "CUDA devices" if on_cuda else "cores, one for each process"
        raise UserError(f"--devices: {options.devices} are asked for, and there are {there} {what}")


def devices_there(options: RunOptions) -> int:
    """How many processes can compute at a time: CUDA devices, or cores."""
    on_cuda = choose_device(options.device).type == "cuda"
    return torch.cuda.device_count() if on_cuda else available_cores()


def device_in_use(options: RunOptions) -> str:
    """The device by name, with the threads and processes used of it: what speed belongs to."""
    name = device_name(choose_device(options.device))
    return f"{name}, {threads_of(options)} threads, {options.devices} devices"
