"""Operations of any code, counted while it runs: 2 for each multiply-add of every executed contraction.

Fused kernels count as what they stand for, so that a fused LSTM or attention is never 0. An operation that is
known neither as a contraction nor as none raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from benchmark.measure.dependence import CONTRACTIONS, RULES
from benchmark.measure.graph import CannotTrace

Formula = Callable[[tuple[Any, ...]], int]
"""From the arguments of an operation."""

_FREE = {
    *("empty", "zeros", "ones", "full", "arange", "scalar_tensor", "rand", "randn", "randperm", "eye"),
    *("_local_scalar_dense", "equal", "is_same_size", "resize_", "set_", "normal_", "uniform_", "random_"),
    *("native_dropout", "native_dropout_backward", "unsafe_split", "split_with_sizes", "nonzero", "sort"),
    *("_weight_norm_interface", "topk", "empty_strided", "bernoulli_", "isin", "unique_dim", "record_stream"),
}
"""What computes no contraction and has no rule of dependence, since nothing that is traced needs one."""


def operations_of(run: Callable[[], object]) -> int:
    """What `run()` executes, backward passes in it included.

    Raises:
        CannotTrace: an operation that may hide a contraction.
    """
    with _Counter() as counter:
        run()
    return counter.operations


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        packet = func.overloadpacket
        name = packet.__name__
        if func.namespace == "aten" and name.endswith("_"):  # addmm_ multiplies as much as addmm
            packet = getattr(torch.ops.aten, name.removesuffix("_"), packet)
        if packet.__name__ in _FORMULAS:
            self.operations += _FORMULAS[packet.__name__](args)
        elif packet in flop_registry:
            self.operations += int(flop_registry[packet](*args, **kwargs, out_val=made))
        elif not _is_free(func, name, args, made):
            raise CannotTrace(
                f"aten::{name} may multiply matrices in a way that is not counted here; add it to "
                "benchmark/measure/counting.py, with its formula or as free of contractions"
            )
        return made


def _is_free(func: Any, name: str, args: Any, made: Any) -> bool:
    if name in CONTRACTIONS:
        return False
    if name in _FREE or name in RULES or name.removesuffix("_") in RULES:
        return True
    if torch.Tag.pointwise in func.tags or torch.Tag.inplace_view in func.tags:
        return True
    if func._schema.is_mutable:
        return False
    outputs = [one for one in tree_iter(made) if isinstance(one, Tensor)]
    there = {one.untyped_storage()._cdata for one in tree_iter(args) if isinstance(one, Tensor)}
    return all(one.untyped_storage()._cdata in there for one in outputs)  # a view


def _attention(args: tuple[Any, ...]) -> int:
    query, key, value = args[:3]
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(args: tuple[Any, ...]) -> int:
    gradient, query, key, value = args[:4]
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


def _convolution_backward(args: tuple[Any, ...]) -> int:
    """Also of grouped ones, which PyTorch's counter takes for whole."""
    gradient, x, weight = args[:3]
    transposed, wanted = args[7], args[10]
    outer = x if transposed else gradient  # each of its elements meets the weights of one channel
    return int(2 * outer.numel() * (weight.numel() // weight.shape[0]) * sum(wanted[:2]))


def _one_layer(args: tuple[Any, ...]) -> int:
    """oneDNN's LSTM (T, B, in) with weights (4 D, in) and (4 D, D)."""
    x, inner, outer = args[:3]
    return 2 * (x.numel() // x.shape[-1]) * (inner.numel() + outer.numel())


def _all_layers(args: tuple[Any, ...]) -> int:
    """cuDNN's: any number of layers, whose matrices are in a list."""
    x, weights = args[:2]
    return 2 * (x.numel() // x.shape[-1]) * sum(one.numel() for one in weights if one.dim() == 2)


_FORMULAS: dict[str, Formula] = {
    "linear": lambda args: 2 * args[0].numel() * args[1].shape[0],
    "mv": lambda args: 2 * args[0].numel(),
    "addmv": lambda args: 2 * args[1].numel(),
    "dot": lambda args: 2 * args[0].numel(),
    "vdot": lambda args: 2 * args[0].numel(),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "convolution_backward": _convolution_backward,
    "mkldnn_rnn_layer": _one_layer,
    "mkldnn_rnn_layer_backward": lambda args: 2 * _one_layer(args),
    "_cudnn_rnn": _all_layers,
    "_cudnn_rnn_backward": lambda args: 2 * _all_layers(args),
}
"""By name: what PyTorch's own counter takes for nothing."""
