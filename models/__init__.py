"""The contract of an architecture; every other file in this folder is one.

A model file exports `Config`, whose `build(vocabulary_size)` gives the model. The harness knows nothing else:
training uses `encode`, `decode` and `cross_entropy`; generation uses `encode`, `start`, `decode_step` and
`logits`. Letters in shapes: B batch, S source, T target, D width, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

PADDING, UNKNOWN, BEGIN, END = range(4)
"""The token ids that every vocabulary reserves."""


@dataclass(frozen=True, kw_only=True)
class Theory:
    """Closed forms of a model for one sentence pair without padding.

    An operation is one multiplication or one addition of an executed contraction: 2 per multiply-add, forward
    pass, output projection included; element-wise work is left out.
    """

    parameters: int
    vocabulary_parameters: int
    """Those in matrices with a row for each word: embeddings, and a projection that is not tied to them."""
    operations: int

    @property
    def body_parameters(self) -> int:
        """What a comparison at equal parameters holds equal."""
        return self.parameters - self.vocabulary_parameters


class ModelConfig(BaseModel):
    """All that determines an architecture but its vocabulary. Every field has a default."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    version: ClassVar[int] = 1
    """Raised when the model's function or initialisation changes; part of every run's identity."""

    def build(self, vocabulary_size: int) -> Seq2SeqModel:
        """The model with freshly drawn weights."""
        raise NotImplementedError(f"{type(self).__module__}.Config has no build(vocabulary_size)")

    def tiny(self) -> Self:
        """The same options at a size for tests: a width below 32, two layers, no dropout."""
        raise NotImplementedError(f"{type(self).__module__}.Config has no tiny()")

    def theory(self, vocabulary_size: int, source_length: int, target_length: int) -> Theory:
        """Closed forms, lengths in tokens as the model gets them (end or begin of sentence included)."""
        raise NotImplementedError(f"{type(self).__module__}.Config has no theory(...)")


def _select(value: Any, index: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value.index_select(0, index)
    if isinstance(value, list | tuple):
        return type(value)(_select(item, index) for item in value)
    if isinstance(value, Batched):
        return value.select(index)
    return value


@dataclass
class Batched:
    """A record of tensors whose first axis is the batch; lists, tuples and records of them may nest."""

    def select(self, index: Tensor) -> Self:
        """Rows `index` (int64) of every tensor: reorders, repeats or drops sentences."""
        values = {field.name: _select(getattr(self, field.name), index) for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **values)


@dataclass
class Memory(Batched):
    """What the decoder reads of the source. Architectures add their own fields."""

    source_mask: Tensor
    """(B, S) bool, True at words."""


@dataclass
class State(Batched):
    """What generation carries from step to step. Architectures add their own fields."""

    memory: Memory


class Seq2SeqModel(nn.Module, ABC):
    """An encoder and decoder over one joint vocabulary."""

    @abstractmethod
    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        """Read the source (B, S) int64; `source_mask` (B, S) bool is True at words, padding comes after."""

    @abstractmethod
    def decode(self, target_in: Tensor, memory: Memory) -> Tensor:
        """Hidden states (B, T, D) under teacher forcing; position t sees `target_in[:, :t + 1]` only."""

    @abstractmethod
    def start(self, memory: Memory) -> State:
        """The state before the first target word."""

    @abstractmethod
    def decode_step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        """Hidden state (B, D) at the next position; equals `decode` there.

        `token` (B,) int64 is the word just produced. `state` is used up: its storage may be written to, so a
        caller that wants to go on from it twice takes two copies with `select` first.
        """

    @abstractmethod
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores (..., V) of the next word, from hidden states (..., D)."""

    def cross_entropy(self, hidden: Tensor, target_out: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over words of the cross-entropy in nats, a scalar; padding counts nothing.

        `hidden` (B, T, D), `target_out` (B, T). With smoothing e the expected distribution is (1 - e) on the
        word plus e / V on every word (Szegedy et al. 2016). This plain form holds all logits in memory; a
        model that ends in `models.layers.embedding.OutputProjection` overrides it with that layer's fused
        form.
        """
        logits = self.logits(hidden).flatten(0, 1)
        return F.cross_entropy(
            logits.to(torch.promote_types(logits.dtype, torch.float32)),
            target_out.flatten(),
            ignore_index=PADDING,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
