"""A model's hooks with every answer checked, so that what is wrong is said where it begins.

Letters in shapes: B batch, S source, T target, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from benchmark.check import CheckFailed, described
from models import Batched, Memory, Seq2SeqModel, State

BatchedT = TypeVar("BatchedT", bound=Batched)


def called(hook: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)`; what it raises becomes a `CheckFailed` that names the hook."""
    try:
        return function(*arguments)
    except CheckFailed:
        raise
    except Exception as error:  # of the code under check, which may do anything
        raise CheckFailed(f"{hook} raised {described(error)}") from error


def _form(shape: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> str:
    sizes = ", ".join(map(str, shape))
    return f"{str(dtype).removeprefix('torch.')} ({sizes}) on {device.type}"


class Hooks:
    """The hooks of `model`; type, shape, dtype, device and finiteness of each answer are checked."""

    def __init__(self, model: Seq2SeqModel, vocabulary_size: int) -> None:
        self.model, self.vocabulary_size = model, vocabulary_size
        parameter = next(iter(model.parameters()), None)
        if parameter is None:
            raise CheckFailed("build: expected a model with parameters, got none")
        self.dtype, self.device = parameter.dtype, parameter.device
        self.width: int | None = None
        """D, known after the first answer."""

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        memory: Memory = called("encode", self.model.encode, source, source_mask)
        self._check_record("encode", memory, Memory, len(source))
        mask = memory.source_mask
        if mask.shape != source_mask.shape or mask.dtype != torch.bool:
            expected = _form(source_mask.shape, torch.bool, self.device)
            got = _form(mask.shape, mask.dtype, mask.device)
            raise CheckFailed(f"encode: expected Memory.source_mask as given, {expected}, got {got}")
        return memory

    def decode(self, target_in: Tensor, memory: Memory) -> Tensor:
        hidden: Tensor = called("decode", self.model.decode, target_in, memory)
        self._check_hidden("decode", hidden, *target_in.shape)
        return hidden

    def start(self, memory: Memory) -> State:
        state: State = called("start", self.model.start, memory)
        self._check_record("start", state, State, len(memory.source_mask))
        return state

    def decode_step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        answer = called("decode_step", self.model.decode_step, token, state)
        if not isinstance(answer, tuple) or len(answer) != 2:
            got = type(answer).__name__ + (f" of {len(answer)}" if isinstance(answer, tuple) else "")
            raise CheckFailed(f"decode_step: expected a tuple of hidden state (B, D) and State, got {got}")
        hidden, after = answer
        self._check_hidden("decode_step", hidden, len(token))
        self._check_record("decode_step", after, State, len(token))
        return hidden, after

    def logits(self, hidden: Tensor) -> Tensor:
        scores: Tensor = called("logits", self.model.logits, hidden)
        self._check_tensor("logits", scores, (*hidden.shape[:-1], self.vocabulary_size))
        return scores

    def cross_entropy(self, hidden: Tensor, target_out: Tensor, label_smoothing: float) -> Tensor:
        loss: Tensor = called("cross_entropy", self.model.cross_entropy, hidden, target_out, label_smoothing)
        self._check_tensor("cross_entropy", loss, ())
        return loss

    def _check_hidden(self, hook: str, hidden: Any, *leading: int) -> None:
        self._check_tensor(hook, hidden, (*leading, "D" if self.width is None else self.width))
        self.width = hidden.shape[-1]

    def _check_tensor(self, hook: str, got: Any, shape: tuple[Any, ...]) -> None:
        expected = _form(shape, self.dtype, self.device)
        if not isinstance(got, Tensor):
            raise CheckFailed(f"{hook}: expected {expected}, got {type(got).__name__}")
        fits = got.dim() == len(shape) and all(
            wanted in ("D", size) for size, wanted in zip(got.shape, shape, strict=True)
        )
        if not fits or got.dtype != self.dtype or got.device.type != self.device.type:
            form = _form(got.shape, got.dtype, got.device)
            raise CheckFailed(f"{hook}: expected {expected}, got {form}")
        if got.device.type != "meta" and not bool(torch.isfinite(got).all()):
            wrong = int((~torch.isfinite(got)).sum())
            first = float(got.detach()[~torch.isfinite(got)][0])
            places = f"{wrong} of {got.numel()} places"
            raise CheckFailed(f"{hook}: expected finite numbers, got {first} in {places}")

    def _check_record(self, hook: str, got: Any, kind: type[BatchedT], batch: int) -> None:
        if not isinstance(got, kind) or not dataclasses.is_dataclass(got):
            expected = f"a dataclass derived from models.{kind.__name__}"
            raise CheckFailed(f"{hook}: expected {expected}, got {type(got).__name__}")
        self._check_batch_axis(hook, type(got).__name__, got, batch)

    def _check_batch_axis(self, hook: str, name: str, value: Any, batch: int) -> None:
        if isinstance(value, Tensor):
            if value.dim() == 0 or len(value) != batch:
                shape = tuple(value.shape)
                raise CheckFailed(f"{hook}: expected {name} to begin with the batch ({batch}), got {shape}")
            if value.device.type != self.device.type:
                raise CheckFailed(f"{hook}: expected {name} on {self.device.type}, got {value.device.type}")
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                self._check_batch_axis(hook, f"{name}[{index}]", item, batch)
        elif isinstance(value, Batched) and dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                self._check_batch_axis(hook, f"{name}.{field.name}", getattr(value, field.name), batch)
