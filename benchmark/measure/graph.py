"""Operations and their dependencies, recorded while any code runs: what depends on what, and how far.

Each element of each tensor has a shadow: for each quantity that is recorded, the least cost over all ways
from an input to that element. Shadows lie beside the storage and not beside the tensor, so that views, slices
and writes into a buffer need no rules. Every other operation belongs to a family in
`benchmark.measure.dependence`; one that does not raises.

    hops   for each source, calls that mix positions (`models.layers.mixing.mixed`) on the shortest way
    steps  for each source, operations on the shortest way
    depth  operations on the longest way from any source: what has to run one after another (kernel depth)
    ideal  the same with each operation as deep as ideally many processors of fan-in 2 make it (PRAM depth)

Longest ways are kept as least negative costs, so that one arithmetic serves all four. An element that no
source reaches costs infinity. A value is zero for certain where it is zero and no source reaches it, as under
a mask; what is multiplied by it does not get through. A mask of large negative numbers is no such mask.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmark.measure.machine import memory_available_bytes
from models.layers.mixing import mixed

INFINITY = math.inf
LARGE = 2**26
"""Bytes from which on memory is asked for before it is taken."""
SWEEP = 32
"""Operations between two looks for tensors that are gone, whose shadows go with them."""
_HERE = Path(__file__).parent
_TORCH = Path(torch.__file__).parent


class BeyondMemory(Exception):
    """What would be recorded does not fit into the memory that is free."""


class CannotTrace(Exception):
    """Code whose dependencies cannot be followed: the operation, why, and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What a tensor costs to reach from the sources, infinity (for depths: 0) where nothing reaches it."""

    hops: Tensor
    """(sources, *shape)"""
    steps: Tensor
    """(sources, *shape)"""
    depth: Tensor
    """(*shape)"""
    ideal: Tensor
    """(*shape)"""


class Recorder:
    """Follows what depends on the sources while the block runs.

        with Recorder(sources=3) as recorder:
            recorder.source(x, 0, x[:, 4])
            y = layer(x)
        recorder.reached(y).hops

    Values are computed as ever. Memory is some 4 bytes for each element and source, twice, as long as the
    element's tensor is there.

    Raises:
        BeyondMemory: before memory is taken that is not free, since the system kills who takes it.
    """

    def __init__(self, sources: int = 1) -> None:
        self.sources = sources
        self.rows = 2 * sources + 2
        self.work = 0
        """Operations that depend on a source."""
        # A weak reference keeps the storage's address from being used again, and not its memory.
        self._shadows: dict[int, tuple[StorageWeakRef, Tensor, int]] = {}
        self._chains: dict[int, int] = {}
        self._marked: dict[int, StorageWeakRef] = {}
        """Of what `mixed` has given in the place of what, which it is a copy of."""
        self._forbidden: dict[int, tuple[StorageWeakRef, str, int]] = {}
        self._recorded = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(_Functions(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    # What callers ask

    def source(self, number: int, *tensors: Tensor) -> None:
        """All elements of these tensors are source `number`."""
        for tensor in tensors:
            shadow = self.parts(tensor)
            for row in (number, self.sources + number, *range(2 * self.sources, self.rows)):
                shadow[row].zero_()

    def reached(self, tensor: Tensor) -> Reached:
        self._check_allowed(tensor)
        self.need(2 * tensor.numel())
        shadow = self.read(tensor)
        depth, ideal = shadow[2 * self.sources :].clone()
        zero = torch.zeros(())
        return Reached(
            hops=shadow[: self.sources].clone(),
            steps=shadow[self.sources : 2 * self.sources].clone(),
            depth=torch.where(depth == INFINITY, zero, -depth),
            ideal=torch.where(ideal == INFINITY, zero, -ideal),
        )

    def chain(self, tensor: Tensor) -> int:
        """Kernel depth by storage in place of element: larger where a buffer is written in parts."""
        return self._chains.get(_key(tensor), 0)

    # What rules use

    def need(self, elements: int) -> None:
        """Memory for the shadows of so many elements, beside what is held.

        Raises:
            BeyondMemory: less is free.
        """
        needed = elements * self.rows * torch.float32.itemsize
        if needed < LARGE:
            return
        self._sweep()
        free = memory_available_bytes()
        if needed > free:
            raise BeyondMemory(
                f"recording {self.sources} sources needs {needed / 2**30:.1f} GiB more, and "
                f"{free / 2**30:.1f} GiB are free; take fewer positions or fewer sources"
            )

    def is_known(self, tensor: Tensor) -> bool:
        """Whether anything was ever recorded of its storage; if not, no source reaches it."""
        return _key(tensor) in self._shadows

    def parts(self, tensor: Tensor) -> Tensor:
        """(rows, *shape, 1), of complex numbers 2 at the end; a view: what is written to it is recorded."""
        storage = tensor.untyped_storage()
        parts = 2 if tensor.is_complex() else 1
        size = tensor.element_size() // parts
        elements = max(1, storage.nbytes() // size)
        known = self._shadows.get(_key(tensor))
        if known is not None and known[2] != size:
            raise CannotTrace(
                "a view in another type of another size: its elements are not those of its base"
            )
        if known is None or known[1].shape[1] < elements:  # new, or resized by `out=`
            self.need(elements)
            shadow = self.nowhere((elements,))
            if known is not None:
                shadow[:, : known[1].shape[1]] = known[1]
            known = StorageWeakRef(storage), shadow, size
            self._shadows[_key(tensor)] = known
        strides = (known[1].stride(0), *(parts * one for one in tensor.stride()), 1)
        return known[1].as_strided(
            (self.rows, *tensor.shape, parts), strides, parts * tensor.storage_offset()
        )

    def nowhere(self, shape: Sequence[int]) -> Tensor:
        """The shadow of what no source reaches."""
        return torch.full((self.rows, *shape), INFINITY)

    def forbid(self, tensor: Tensor, operation: str, number: int) -> None:
        """Have whoever uses this output of an operation, which no rule knows, be told so."""
        self._forbidden[_key(tensor)] = StorageWeakRef(tensor.untyped_storage()), operation, number

    def _check_allowed(self, tensor: Tensor, user: str = "") -> None:
        """An operation's own backward may use all that it gave: together they are as deep as its result."""
        storage, operation, number = self._forbidden.get(_key(tensor), (None, "", 0))
        if storage is not None and not storage.expired() and not user.startswith(operation):
            raise CannotTrace(
                f"output {number} of aten::{operation} is used, and what it depends on is not known; add its "
                "shadow to the rule of the operation in benchmark/measure/dependence.py"
            )

    def read(self, tensor: Tensor) -> Tensor:
        """(rows, *shape): of a complex number, what reaches either part."""
        if not self.is_known(tensor):
            return self.nowhere(tensor.shape)
        parts = self.parts(tensor)
        return parts.amin(-1) if tensor.is_complex() else parts[..., 0]

    def unreached(self, tensor: Tensor) -> Tensor:
        """(*shape) bool: no source reaches the element."""
        if not self.is_known(tensor):
            return torch.ones(tensor.shape, dtype=torch.bool)
        return self.read(tensor)[2 * self.sources] == INFINITY

    def is_reached(self, tensor: Tensor) -> bool:
        return self.is_known(tensor) and not bool(self.unreached(tensor).all())

    def cost(self, ideal: int, dimensions: int) -> Tensor:
        """Of one operation whose depth on ideally many processors is `ideal`, to be added to a shadow."""
        values = torch.zeros(self.rows)
        values[self.sources : 2 * self.sources] = 1
        values[-2], values[-1] = -1, -ideal
        return values.view(-1, *[1] * dimensions)

    # What the modes tell

    def hop(self, tensor: Tensor) -> Tensor:
        """The tensor one hop farther, in a storage of its own: what shares its old one was not mixed."""
        if not self.sources or not self.is_known(tensor):
            return tensor
        marked = tensor.clone()
        self.parts(marked)[: self.sources] += 1
        self._marked[_key(marked)] = StorageWeakRef(tensor.untyped_storage())
        return marked

    def operation(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any) -> None:
        from benchmark.measure.dependence import Call

        self._recorded += 1
        if self._recorded % SWEEP == 0:
            self._sweep()
        # What `out=` names is written and not read, and comes back among the outputs.
        written = {one.name for one in func._schema.arguments if one.is_out}
        kwargs = {name: value for name, value in kwargs.items() if name not in written}
        given = [one for one in tree_iter((args, kwargs)) if isinstance(one, Tensor)]
        made = [one for one in tree_iter(outputs) if isinstance(one, Tensor)]
        call = Call(self, func, args, kwargs, given, made)
        if call.is_view:
            return
        for tensor in call.read:
            self._check_allowed(tensor, call.name)
        if func._schema.is_mutable and any(map(self._is_copy, made)):
            raise CannotTrace(
                f"aten::{call.name} writes to what mixed() has given, which is a copy while paths are "
                "recorded, and what it was given is still there; compute a new tensor"
            )
        if not any(map(self.is_reached, given)):
            for tensor in made:  # a buffer that is overwritten with what no source reaches
                if self.is_known(tensor):
                    self.parts(tensor).fill_(INFINITY)
            return
        # Rules hold the shadows of what goes in and what comes out some three times over.
        self.need(3 * (sum(one.numel() for one in made) + max(one.numel() for one in given)))
        counted = call.run()
        chain = max(self.chain(tensor) for tensor in call.read) + counted
        self.work += counted
        for tensor in made:
            key = _key(tensor)
            self._chains[key] = max(self._chains.get(key, 0), chain)

    def _is_copy(self, tensor: Tensor) -> bool:
        origin = self._marked.get(_key(tensor))
        return origin is not None and not origin.expired()

    def _sweep(self) -> None:
        for key in [key for key, (storage, *_) in self._shadows.items() if storage.expired()]:
            del self._shadows[key]
            self._chains.pop(key, None)
            self._marked.pop(key, None)
        for key in [key for key, (storage, *_) in self._forbidden.items() if storage.expired()]:
            del self._forbidden[key]


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _place() -> str:
    """Where the running code is: the innermost module, by its name in the outermost, and the user's line."""
    modules: list[nn.Module] = []
    line = ""
    frame = inspect.currentframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.parent == _HERE and path.name not in ("graph.py", "dependence.py"):
            break  # who measures; beyond lies who asked for it
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module):
            modules.append(module)
        if not line and path.parent != _HERE and _TORCH not in path.parents:
            line = f"{path}:{frame.f_lineno}"
        frame = frame.f_back
    parts = [f"at {line}"] if line else []
    if modules:
        names = {id(one): name for name, one in modules[-1].named_modules()}
        name = names.get(id(modules[0]), "")
        kind = type(modules[0]).__name__
        parts.insert(0, f"in {name} ({kind})" if name else f"in {kind}")
    return f" [{', '.join(parts)}]" if parts else ""


class _Operations(TorchDispatchMode):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        try:
            self._recorder.operation(func, args, kwargs or {}, outputs)
        except CannotTrace as error:
            name = f"aten::{func.overloadpacket.__name__}"
            text = str(error) if name in str(error) else f"{name}: {error}"
            raise CannotTrace(text + _place()) from None
        return outputs


_LEAVING = {
    Tensor.tolist: "tolist()",
    Tensor.numpy: "numpy()",
    Tensor.item: "item()",
    Tensor.__array__: "numpy's conversion",
    Tensor.__bool__: "a decision in Python (if, while, and)",
    Tensor.__float__: "float()",
    Tensor.__int__: "int()",
    Tensor.__index__: "its use as an index in Python",
    Tensor.__contains__: "`in`",
}


class _Functions(TorchFunctionMode):
    """Sees what the operations below do not: declared mixing, and values that leave for Python."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is mixed:
            return self._recorder.hop(*args)
        if func in _LEAVING and self._recorder.is_reached(args[0]):
            raise CannotTrace(
                f"{_LEAVING[func]} takes a value that depends on the input out of the tensors, and what "
                "follows from it cannot be seen; keep it on the device (torch.where, argmax, index_select)"
                + _place()
            )
        return func(*args, **kwargs)
