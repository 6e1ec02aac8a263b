"""How much memory a layer needs, and how much there is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmark.measure.machine import memory_available_bytes


class _Allocations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if not func._schema.is_mutable and not func.is_view:
            self.bytes += sum(one.nbytes for one in tree_iter(made) if isinstance(one, Tensor))
        return made


def forward_bytes(layer: nn.Module, batch: int, length: int, width: int) -> int:
    """What a forward pass allocates in all, at most what it holds at a time; nothing is computed."""
    there = copy.deepcopy(layer).to("meta")
    dtype = next(layer.parameters()).dtype
    with torch.no_grad(), _Allocations() as allocations:
        there(torch.empty(batch, length, width, device="meta", dtype=dtype))
    return allocations.bytes


def saved_bytes(layer: nn.Module, length: int, width: int) -> int:
    """What a forward pass on one sequence keeps for the backward pass, without the parameters."""
    found: dict[int, torch.UntypedStorage] = {}
    own = {one.untyped_storage()._cdata for one in layer.parameters()}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage
        return tensor

    x = torch.randn(1, length, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        y = layer(x)
    del y
    return sum(storage.nbytes() for storage in found.values())


def available_bytes(device: torch.device) -> int:
    """Of the device: what can be allocated now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return memory_available_bytes()
