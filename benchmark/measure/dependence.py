"""Which elements of its inputs each element of an operation's output depends on.

Few families cover what PyTorch executes: element by element, moving, reducing along dimensions, mixing along
them, contracting, and the fused forms of attention. A new operation needs one line: its name under the rule
of its family.

Letters in shapes: R the rows of a shadow (`benchmark.measure.graph`), which come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.measure.graph import INFINITY, CannotTrace

if TYPE_CHECKING:
    from benchmark.measure.graph import Recorder

Rule = Callable[["Call"], Sequence[Tensor]]
"""The shadows of the outputs, in their order, with an axis more where the parts of complex numbers are apart.
Outputs behind them are not known, and nothing may use them."""

RULES: dict[str, Rule] = {}
"""By the name of the operation, without its overload."""
MOVES: set[str] = set()
"""Those that compute nothing, and cost nothing."""
CONTRACTIONS: set[str] = set()
"""Those that sum products."""
_CHUNK = 2**25
"""Elements that are held at a time where each output looks at each input."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    def named(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return named


def move(*names: str) -> Callable[[Rule], Rule]:
    MOVES.update(names)
    return rule(*names)


def contraction(*names: str) -> Callable[[Rule], Rule]:
    CONTRACTIONS.update(names)
    return rule(*names)


@dataclass
class Call:
    """One executed operation."""

    recorder: Recorder
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    given: list[Tensor]
    """Every tensor among the arguments."""
    made: list[Tensor]
    """Every tensor that came out."""

    @property
    def name(self) -> str:
        return str(self.func.overloadpacket.__name__)

    @property
    def is_view(self) -> bool:
        """Whether it computes nothing: what comes out lies in the storage of what went in."""
        if torch.Tag.inplace_view in self.func.tags:
            return True
        if self.func._schema.is_mutable or not self.made:
            return False
        there = {one.untyped_storage()._cdata for one in self.given}
        return all(one.untyped_storage()._cdata in there for one in self.made)

    @property
    def read(self) -> list[Tensor]:
        """The tensors whose values enter."""
        return self.given[1:] if self.name in ("copy_", "fill_") else self.given

    def again(self, *args: Any, **kwargs: Any) -> Any:
        """The same operation on other tensors, in its form that gives a new one."""
        return self.func.overloadpacket(*args, **kwargs)

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    def run(self) -> int:
        """Record what came out; 1 for a computation, 0 for a move."""
        name = self.name
        found = RULES.get(name) or RULES.get(name.removesuffix("_"))
        if found is None and torch.Tag.pointwise in self.func.tags:
            found = pointwise
        if found is None:
            raise CannotTrace(
                f"aten::{name} depends on the input in a way that is not known here; if it is one kernel for "
                "a whole sequence (a fused LSTM), run the unfused form, in float64; else add its name under "
                "the rule of its family in benchmark/measure/dependence.py"
            )
        shadows = found(self)
        for tensor, shadow in zip(self.made, shadows, strict=False):
            parts = self.recorder.parts(tensor)
            parts.copy_(shadow if shadow.dim() == parts.dim() else shadow[..., None])
        for number, tensor in enumerate(self.made[len(shadows) :], start=len(shadows)):
            self.recorder.forbid(tensor, name, number)
        return 0 if name in MOVES or name.removesuffix("_") in MOVES else 1

    def shadow(self, tensor: Tensor) -> Tensor:
        return self.recorder.read(tensor)

    def known(self, tensor: Any, value: float) -> Tensor | None:
        """(*shape) bool, where a tensor has a value for certain; None where nowhere."""
        if not isinstance(tensor, Tensor):
            return None
        where = self.recorder.unreached(tensor) & (tensor == value)
        return where if bool(where.any()) else None


def _broadcast(shadow: Tensor, shape: Sequence[int]) -> Tensor:
    missing = len(shape) - (shadow.dim() - 1)
    return shadow.reshape(shadow.shape[0], *[1] * missing, *shadow.shape[1:]).expand(-1, *shape)


def _of(call: Call, value: Any, shape: Sequence[int]) -> Tensor:
    """The shadow of a tensor or a number."""
    return (
        _broadcast(call.shadow(value), shape) if isinstance(value, Tensor) else call.recorder.nowhere(shape)
    )


def _least(shadows: Iterable[Tensor]) -> Tensor:
    first, *others = shadows
    for other in others:
        first = torch.minimum(first, other)
    return first


def _log2(count: int) -> int:
    return math.ceil(math.log2(count)) if count > 1 else 0


# Element by element


def pointwise(call: Call) -> Sequence[Tensor]:
    made = call.made[0]
    least = _least(_broadcast(call.shadow(one), made.shape) for one in call.given)
    return [least + call.recorder.cost(1, made.dim())] * len(call.made)


# PyTorch marks most of them as such; not these.
rule(
    *("hardswish", "log_sigmoid_forward", "_prelu_kernel", "rrelu_with_noise"),
    *("softplus_backward", "elu_backward", "leaky_relu_backward", "hardtanh_backward", "mish_backward"),
    *("hardsigmoid_backward", "hardswish_backward", "log_sigmoid_backward", "_prelu_kernel_backward"),
    *("hardshrink_backward", "softshrink_backward", "rrelu_with_noise_backward"),
)(pointwise)


def _cut(call: Call, value: float) -> Sequence[Tensor]:
    """Pointwise, but where an operand has this value for certain no other gets through."""
    (shadow, *_) = pointwise(call)
    for operand in call.given:
        where = call.known(operand, value)
        if where is not None:
            shadow = shadow.masked_fill(where.expand(call.made[0].shape), INFINITY)
    return [shadow]


@rule("mul")
def _multiplied(call: Call) -> Sequence[Tensor]:
    return _cut(call, 0.0)


@rule("add", "sub")
def _added(call: Call) -> Sequence[Tensor]:
    return _cut(call, -INFINITY)


@rule("div")
def _divided(call: Call) -> Sequence[Tensor]:
    (shadow, *_) = pointwise(call)
    where = call.known(call.args[0], 0.0)
    return [shadow if where is None else shadow.masked_fill(where.expand(call.made[0].shape), INFINITY)]


@rule("where")
def _chosen(call: Call) -> Sequence[Tensor]:
    condition, *sides = call.args
    if call.recorder.is_reached(condition):
        return pointwise(call)
    shape = call.made[0].shape
    one, other = (_of(call, side, shape) for side in sides)
    return [torch.where(condition, one, other) + call.recorder.cost(1, len(shape))]


@rule("masked_fill")
def _filled(call: Call) -> Sequence[Tensor]:
    x, mask, value = call.args
    if call.recorder.is_reached(mask):
        return pointwise(call)
    shape = call.made[0].shape
    fill = _of(call, value, shape)
    return [torch.where(mask, fill, _broadcast(call.shadow(x), shape)) + call.recorder.cost(1, len(shape))]


@rule("glu")
def _gated(call: Call) -> Sequence[Tensor]:
    dim = call.argument(1, "dim", -1) % call.args[0].dim() + 1
    return [_least(call.shadow(call.args[0]).chunk(2, dim)) + call.recorder.cost(2, call.made[0].dim())]


# Moving


@move("clone", "_to_copy", "contiguous", "lift_fresh_copy", "alias_copy")
def _same(call: Call) -> Sequence[Tensor]:
    x, made = call.args[0], call.made[0]
    return [call.recorder.parts(x).clone() if x.dtype == made.dtype else call.shadow(x).clone()]


@move("complex")
def _of_parts(call: Call) -> Sequence[Tensor]:
    shape = call.made[0].shape
    return [torch.stack([_broadcast(call.shadow(one), shape) for one in call.given], -1)]


@move("copy_")
def _written(call: Call) -> Sequence[Tensor]:
    target, value = call.args[:2]
    return [_broadcast(call.shadow(value), target.shape)]


@move("zero_", "fill_")
def _emptied(call: Call) -> Sequence[Tensor]:
    return [_of(call, call.argument(1, "value"), call.args[0].shape)]


@move(
    *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "bernoulli"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
)
def _created(call: Call) -> Sequence[Tensor]:
    """Of the form of another tensor, and of nothing else of it."""
    return [call.recorder.nowhere(call.made[0].shape)]


@move(
    *("cat", "stack", "constant_pad_nd", "flip", "roll", "repeat", "tril", "triu", "im2col", "diagonal_copy"),
    *("unfold_copy", "slice_backward", "select_backward", "split_with_sizes_copy"),
    *("slice_scatter", "select_scatter", "diag_embed", "rot90", "reflection_pad1d", "replication_pad1d"),
)
def _moved(call: Call) -> Sequence[Tensor]:
    """What went where is found by moving numbers in place of values: 0 is what no input has given."""
    numbers: dict[int, Tensor] = {}
    shadows, first = [call.recorder.nowhere((1,))], 1
    for one in call.given:
        numbers[id(one)] = torch.arange(first, first + one.numel(), dtype=torch.float64).view(one.shape)
        shadows.append(call.shadow(one).reshape(call.recorder.rows, -1))
        first += one.numel()

    def numbered(value: Any) -> Any:
        if isinstance(value, Tensor):
            return numbers[id(value)]
        if isinstance(value, list | tuple):
            return [numbered(one) for one in value]
        return value

    args, kwargs = [numbered(one) for one in call.args], dict(call.kwargs)
    if call.name == "constant_pad_nd":
        args = args[:2]  # padded with 0
    came = call.again(*args, **kwargs)
    together = torch.cat(shadows, 1)
    return [together[:, one.long()] for one in ([came] if isinstance(came, Tensor) else came)]


@move("index_select", "gather")
def _selected(call: Call) -> Sequence[Tensor]:
    x, dim, index = call.args[:3]
    dim %= x.dim()
    made = call.made[0]
    if call.recorder.is_reached(x):
        moved = call.again(torch.arange(x.numel()).view(x.shape), dim, index)
        shadow = call.shadow(x).flatten(1)[:, moved]
    else:
        shadow = call.recorder.nowhere(made.shape)
    if call.recorder.is_reached(index):
        if call.recorder.is_reached(x):  # what is taken depends on the index: it may be anything along `dim`
            shadow = call.shadow(x).amin(dim + 1, keepdim=True).expand(-1, *made.shape)
        where = call.shadow(index)
        if call.name == "index_select":
            where = where.view(-1, *[-1 if d == dim else 1 for d in range(made.dim())])
        shadow = torch.minimum(shadow, where)
    return [shadow]


@move("index")
def _indexed(call: Call) -> Sequence[Tensor]:
    x, indices = call.args
    if any(one is not None and call.recorder.is_reached(one) for one in indices):
        raise CannotTrace("aten::index with an index that depends on the input; use index_select or gather")
    return [call.shadow(x).flatten(1)[:, call.again(torch.arange(x.numel()).view(x.shape), indices)]]


@move("index_put")
def _put(call: Call) -> Sequence[Tensor]:
    x, indices, values = call.args[:3]
    if any(one is not None and call.recorder.is_reached(one) for one in indices):
        raise CannotTrace(
            "aten::index_put with an index that depends on the input; use scatter or index_copy"
        )
    where = tuple(slice(None) if one is None else one for one in indices)
    places = torch.arange(x.numel()).view(x.shape)[where]
    come = _broadcast(call.shadow(values), places.shape).reshape(call.recorder.rows, -1)
    adds = call.argument(3, "accumulate", False)
    shadow = _put_at(call.shadow(x).flatten(1), 1, places.flatten(), come, adds=adds)
    return [shadow.view(-1, *x.shape) + (call.recorder.cost(1, x.dim()) if adds else 0)]


@move("scatter", "index_copy", "index_fill")
def _scattered(call: Call) -> Sequence[Tensor]:
    return [_placed(call, adds=False)]


def _put_at(shadow: Tensor, dim: int, places: Tensor, come: Tensor, *, adds: bool) -> Tensor:
    """What comes to the places (along `dim`, as `come` but for its rows) alone, or beside what was there."""
    places = places.expand(come.shape)
    shadow = shadow.clone() if adds else shadow.scatter(dim, places, INFINITY)
    return shadow.scatter_reduce_(dim, places, come, "amin")


def _placed(call: Call, *, adds: bool) -> Tensor:
    """The shadow of x, dim, index, and what is put there (along `dim`) or added."""
    x, dim, index, values = call.args[:4]
    if call.func._overloadname.endswith("reduce"):
        raise CannotTrace("aten::scatter with reduce=; use scatter_add or scatter_reduce")
    dim %= x.dim()
    index_shadow = call.shadow(index)
    if call.name.startswith("index"):  # one index along `dim`, for all that lies across
        shape = [index.numel() if d == dim else size for d, size in enumerate(x.shape)]
        along = [index.numel() if d == dim else 1 for d in range(x.dim())]
        index = index.view(along).expand(shape)
        index_shadow = index_shadow.view(-1, *along).expand(-1, *shape)
    if isinstance(values, Tensor) and values.dim():
        come = call.shadow(values)[(slice(None), *(slice(size) for size in index.shape))]
    else:
        come = _of(call, values, index.shape)
    shadow = call.shadow(x)
    if not bool(index_shadow.isfinite().any()):
        return _put_at(shadow, dim + 1, index, come, adds=adds)
    # The index depends on the input: what comes may lie anywhere along `dim`, and so may what is left.
    shadow = shadow.clone()
    region = (slice(None), *(slice(None if d == dim else size) for d, size in enumerate(index.shape)))
    anywhere = torch.minimum(come, index_shadow).amin(dim + 1, keepdim=True)
    shadow[region] = torch.minimum(shadow[region], anywhere)
    return shadow


@move("embedding")
def _looked_up(call: Call) -> Sequence[Tensor]:
    weight, index = call.args[:2]
    if call.recorder.is_reached(weight):
        raise CannotTrace("aten::embedding in a matrix that depends on the input")
    return [call.shadow(index)[..., None].expand(-1, *call.made[0].shape)]


# Along dimensions


def _dimensions(x: Tensor, dim: Any) -> list[int]:
    """Of the shadow."""
    given = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return [one % max(1, x.dim()) + 1 for one in given or range(x.dim())]


@rule(
    *("sum", "mean", "amax", "amin", "prod", "any", "all", "argmax", "argmin", "logsumexp", "max", "min"),
    *("var", "std", "var_mean", "std_mean", "nansum", "count_nonzero", "aminmax"),
)
def _reduced(call: Call) -> Sequence[Tensor]:
    x = call.args[0]
    if len(call.given) > 1:  # maximum of two tensors under the name of max
        return pointwise(call)
    dims = _dimensions(x, call.argument(1, "dim"))
    made = call.made[0]
    least = call.shadow(x).amin(dims)
    ideal = _log2(math.prod(x.shape[dim - 1] for dim in dims))
    return [least.reshape(-1, *made.shape) + call.recorder.cost(ideal, made.dim())] * len(call.made)


@rule("linalg_vector_norm")
def _norm(call: Call) -> Sequence[Tensor]:
    x, made = call.args[0], call.made[0]
    dims = _dimensions(x, call.argument(2, "dim"))
    ideal = 2 + _log2(math.prod(x.shape[dim - 1] for dim in dims))
    return [call.shadow(x).amin(dims).reshape(-1, *made.shape) + call.recorder.cost(ideal, made.dim())]


@rule("_softmax", "_safe_softmax", "_log_softmax", "softmax", "log_softmax")
def _normalised(call: Call) -> Sequence[Tensor]:
    x, dim = call.args[0], call.args[1]
    shadow = call.shadow(x)
    cost = call.recorder.cost(2 * _log2(x.shape[dim]) + 3, x.dim())
    result = shadow.amin(dim % x.dim() + 1, keepdim=True).expand_as(shadow) + cost
    masked = call.known(x, -INFINITY)
    return [result if masked is None else result.masked_fill(masked, INFINITY)]


@rule("native_layer_norm")
def _layer_norm(call: Call) -> Sequence[Tensor]:
    x, shape = call.args[:2]
    dims = list(range(x.dim() - len(shape) + 1, x.dim() + 1))
    cost = call.recorder.cost(2 * _log2(math.prod(shape)) + 5, x.dim())
    least = _least(
        [call.shadow(x).amin(dims, keepdim=True)]
        + [call.shadow(one).amin(tuple(range(1, one.dim() + 1))).view(-1, *[1] * x.dim())
           for one in call.given[1:] if call.recorder.is_reached(one)]
    )  # fmt: skip
    return [(least + cost).expand(-1, *one.shape) for one in call.made]


def _by_channel(call: Call, parameters: Iterable[Any]) -> list[Tensor]:
    """The shadows of those (C,) that the input reaches, for values (B, C, ...)."""
    axes = [1] * (call.args[0].dim() - 2)
    return [
        call.shadow(one).view(call.recorder.rows, 1, -1, *axes)
        for one in parameters
        if isinstance(one, Tensor) and call.recorder.is_reached(one)
    ]


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(call: Call) -> Sequence[Tensor]:
    """By the statistics of training what is at one position stays there; by its own, all of a channel mix."""
    x, shadow = call.args[0], call.shadow(call.args[0])
    own = call.args[3 if call.func._overloadname == "no_stats" else 5] is True
    ideal, statistics = 2, call.args[1:5]
    if own:
        others = [dim + 1 for dim in range(x.dim()) if dim != 1]
        shadow = shadow.amin(others, keepdim=True)
        ideal, statistics = 2 * _log2(x.numel() // x.shape[1]) + 5, call.args[1:3]
    result = _least([shadow, *_by_channel(call, statistics)]) + call.recorder.cost(ideal, x.dim())
    saved = [
        result.amin([dim + 1 for dim in range(x.dim()) if dim != 1])[:, : one.numel()]
        for one in call.made[1:]
    ]
    return [result.expand(-1, *x.shape), *saved]


@rule("native_group_norm")
def _group_norm(call: Call) -> Sequence[Tensor]:
    x, groups = call.args[0], call.args[6]
    apart = call.shadow(x).reshape(call.recorder.rows, x.shape[0], groups, -1)
    size = apart.shape[-1]
    cost = call.recorder.cost(2 * _log2(size) + 5, x.dim())
    least = apart.amin(-1)
    mixed = least[..., None].expand_as(apart).reshape(-1, *x.shape)
    result = _least([mixed, *_by_channel(call, call.args[1:3])]) + cost
    return [result, *[least + cost.flatten(1)[..., None]] * 2]


def _least_of_windows(call: Call, pool: Callable[[Tensor], Tensor], count: int) -> Sequence[Tensor]:
    """The least of a window is the negative of what the largest of negatives is."""
    x, made = call.args[0], call.made[0]
    flat = -call.shadow(x).reshape(-1, *x.shape[-3:])
    least = -pool(flat).reshape(-1, *made.shape)
    return [least + call.recorder.cost(_log2(count), made.dim())] * len(call.made)


@rule("avg_pool2d", "max_pool2d_with_indices")
def _pooled(call: Call) -> Sequence[Tensor]:
    kernel = call.args[1]
    stride = call.argument(2, "stride") or kernel
    padding = call.argument(3, "padding", 0)
    dilation, ceil = 1, call.argument(4, "ceil_mode", False)
    if call.name != "avg_pool2d":
        dilation, ceil = call.argument(4, "dilation", 1), call.argument(5, "ceil_mode", False)

    def pool(shadow: Tensor) -> Tensor:
        return F.max_pool2d(shadow, kernel, stride, padding, dilation, ceil)

    return _least_of_windows(call, pool, math.prod(kernel) if len(kernel) > 1 else kernel[0] ** 2)


@rule("_adaptive_avg_pool2d", "adaptive_max_pool2d")
def _pooled_to_size(call: Call) -> Sequence[Tensor]:
    size = call.args[1]
    count = math.prod(-(-whole // part) for whole, part in zip(call.args[0].shape[-2:], size, strict=True))
    return _least_of_windows(call, lambda shadow: F.adaptive_max_pool2d(shadow, size), count)


@rule("scatter_add", "scatter_reduce", "index_add")
def _added_at(call: Call) -> Sequence[Tensor]:
    adds = bool(call.argument(5, "include_self", True)) or call.name != "scatter_reduce"
    return [_placed(call, adds=adds) + call.recorder.cost(1, call.made[0].dim())]


@rule("sort", "topk", "kthvalue", "mode", "median", "nanmedian")
def _ordered(call: Call) -> Sequence[Tensor]:
    raise CannotTrace(
        f"aten::{call.name} puts values where their order says, and which of them come to a place, no path "
        "can say; measure with an order that does not depend on the input"
    )


@rule("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin")
def _scanned(call: Call) -> Sequence[Tensor]:
    x, dim = call.args[0], call.args[1] % call.args[0].dim()
    least = call.shadow(x).cummin(dim + 1).values
    return [least + call.recorder.cost(_log2(x.shape[dim]), x.dim())] * len(call.made)


# Contractions


def _through(kept: Tensor, shadow: Tensor) -> Tensor:
    """(R, ..., i, j): the least over the k with `kept` (..., i, k) of `shadow` (R, ..., k, j)."""
    narrow = bool((shadow == shadow[..., :1]).all())
    columns = shadow[..., :1] if narrow else shadow
    rows, inner, width = kept.shape[-2], kept.shape[-1], columns.shape[-1]
    batch = torch.broadcast_shapes(kept.shape[:-2], columns.shape[1:-2])
    kept = kept.expand(*batch, rows, inner)
    columns = columns.expand(columns.shape[0], *batch, inner, width)
    step = max(1, _CHUNK // max(1, columns.numel()))
    parts = []
    for first in range(0, rows, step):
        some = kept[..., first : first + step, :, None]
        parts.append(torch.where(some, columns[..., None, :, :], INFINITY).amin(-2))
    found = torch.cat(parts, -2)
    return found.expand(*found.shape[:-1], shadow.shape[-1]) if narrow else found


def contracted(call: Call, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """The shadow of a (..., i, k) times b (..., k, j), and of a bias."""
    parts = []
    for one, other, flipped in ((b, a, False), (a, b, True)):
        if not call.recorder.is_reached(one):
            continue
        shadow = call.shadow(one)
        zero = call.known(other, 0.0)
        if zero is None:
            parts.append(shadow.amin(-1 if flipped else -2, keepdim=True))
        elif flipped:
            parts.append(_through(~zero.transpose(-1, -2), shadow.transpose(-1, -2)).transpose(-1, -2))
        else:
            parts.append(_through(~zero, shadow))
    shape = call.made[0].shape
    ideal = 1 + _log2(a.shape[-1]) + (bias is not None)
    if bias is not None and call.recorder.is_reached(bias):
        parts.append(_broadcast(call.shadow(bias), shape))
    return _least(part.expand(-1, *shape) for part in parts) + call.recorder.cost(ideal, len(shape))


@contraction("mm", "bmm")
def _product(call: Call) -> Sequence[Tensor]:
    return [contracted(call, *call.args[:2])]


@contraction("addmm", "baddbmm")
def _product_and_bias(call: Call) -> Sequence[Tensor]:
    bias, a, b = call.args[:3]
    shadow = contracted(call, a, b, bias)
    masked = call.known(bias, -INFINITY)
    return [shadow if masked is None else shadow.masked_fill(masked.expand(call.made[0].shape), INFINITY)]


@contraction("mv", "addmv", "dot", "vdot", "linear")
def _thin_product(call: Call) -> Sequence[Tensor]:
    made = call.made[0]
    if call.name == "linear":
        x, weight = call.args[:2]
        bias = call.argument(2, "bias")
        return [contracted(call, x, weight.t(), bias)]
    *bias, a, b = call.args[: 3 if call.name == "addmv" else 2]
    least = [call.shadow(b).amin(1).view(-1, *[1] * made.dim()), call.shadow(a).amin(-1)]
    least += [call.shadow(one) for one in bias]
    cost = call.recorder.cost(1 + _log2(a.shape[-1]) + len(bias), made.dim())
    return [_least(_broadcast(one, made.shape) for one in least) + cost]


@contraction("convolution")
def _convolved(call: Call) -> Sequence[Tensor]:
    x, weight, bias, stride, padding, dilation, transposed, _, groups = call.args
    if transposed or call.recorder.is_reached(weight) or x.dim() not in (3, 4):
        raise CannotTrace(
            "aten::convolution that is transposed, over three dimensions, or with weights made of the input"
        )
    flat = x.dim() == 3
    numbers = torch.arange(1, x.numel() + 1, dtype=torch.float64).view(x.shape)
    sizes = [list(one) for one in (weight.shape[2:], dilation, padding, stride)]
    if flat:
        numbers = numbers[:, :, None]
        sizes = [[first, *one] for first, one in zip((1, 1, 0, 1), sizes, strict=True)]
    windows = F.unfold(numbers, *map(tuple, sizes)).long()  # (B, channels kernel, places)
    windows = windows.unflatten(1, (groups, -1))
    call.recorder.need(2 * windows.numel())
    together = torch.cat((call.recorder.nowhere((1,)), call.shadow(x).flatten(1)), 1)
    shadow = together[:, windows]  # (R, B, groups, channels kernel, places)
    matrix = weight.flatten(1).unflatten(0, (groups, -1))
    kept = matrix != 0
    if bool(kept.all()):
        least = shadow.amin(-2, keepdim=True).expand(*shadow.shape[:-2], matrix.shape[1], shadow.shape[-1])
    else:
        least = _through(kept, shadow)
    ideal = 1 + _log2(matrix.shape[-1]) + (bias is not None)
    made = call.made[0]
    return [least.reshape(-1, *made.shape) + call.recorder.cost(ideal, made.dim())]


@contraction("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _transformed(call: Call) -> Sequence[Tensor]:
    """Every frequency of every place."""
    x, made = call.args[0], call.made[0]
    dims = _dimensions(x, call.args[1])
    ideal = 1 + _log2(math.prod(x.shape[dim - 1] for dim in dims))
    least = call.shadow(x).amin(dims, keepdim=True)
    return [least.expand(-1, *made.shape) + call.recorder.cost(ideal, made.dim())]


# Attention in one kernel


@contraction("_scaled_dot_product_flash_attention_for_cpu")
def _attention(call: Call) -> Sequence[Tensor]:
    query, key, value = call.args[:3]
    causal = call.argument(4, "is_causal", False)
    return _attended(call, query, key, value, call.argument(5, "attn_mask"), causal)


@contraction("_scaled_dot_product_efficient_attention")
def _efficient_attention(call: Call) -> Sequence[Tensor]:
    query, key, value, mask = call.args[:4]
    return _attended(call, query, key, value, mask, call.argument(6, "is_causal", False))


@contraction("_scaled_dot_product_flash_attention")
def _flash_attention(call: Call) -> Sequence[Tensor]:
    query, key, value = call.args[:3]
    return _attended(call, query, key, value, None, call.argument(4, "is_causal", False))


def _attended(
    call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> Sequence[Tensor]:
    length, keys = query.shape[-2], key.shape[-2]
    memory = torch.minimum(call.shadow(key).amin(-1, keepdim=True), call.shadow(value))
    kept = torch.ones(length, keys, dtype=torch.bool)
    if causal:
        kept = kept.tril()
    least = [call.shadow(query).amin(-1, keepdim=True)]
    if mask is not None:
        hidden = call.known(mask, -INFINITY) if mask.is_floating_point() else call.known(mask, 0.0)
        kept = kept if hidden is None else kept & ~hidden
        if call.recorder.is_reached(mask):
            least.append(_broadcast(call.shadow(mask), (*query.shape[:-1], keys)).amin(-1, keepdim=True))
    least.append(memory.amin(-2, keepdim=True) if bool(kept.all()) else _through(kept, memory))
    made = call.made[0]
    ideal = (1 + _log2(query.shape[-1])) + 1 + (2 * _log2(keys) + 3) + (1 + _log2(keys))
    shadow = _least(one.expand(-1, *made.shape) for one in least) + call.recorder.cost(ideal, made.dim())
    return [shadow]


# Backwards, whose operations are followed for their depth alone


@rule(
    *("_softmax_backward_data", "_log_softmax_backward_data", "native_layer_norm_backward"),
    *("embedding_dense_backward", "unfold_backward", "glu_backward", "_weight_norm_interface_backward"),
    *("nll_loss_forward", "nll_loss_backward", "nll_loss2d_forward"),
    *("native_batch_norm_backward", "native_group_norm_backward", "avg_pool2d_backward"),
    *("max_pool2d_with_indices_backward", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward"),
    *("reflection_pad1d_backward", "replication_pad1d_backward"),
)
@contraction("convolution_backward", "_scaled_dot_product_flash_attention_for_cpu_backward")
def _whole(call: Call) -> Sequence[Tensor]:
    """Every output of every input: too many ways, and none too few."""
    if call.recorder.sources > 0:
        raise CannotTrace(f"aten::{call.name} is followed for its depth alone; record with no sources")
    rows = call.recorder.rows
    least = _least(call.shadow(one).reshape(rows, -1).amin(1) for one in call.given if one.numel())
    ideal = 1 + _log2(max(one.numel() for one in call.given))
    return [
        (least.view(-1, *[1] * one.dim()) + call.recorder.cost(ideal, one.dim())).expand(-1, *one.shape)
        for one in call.made
    ]
