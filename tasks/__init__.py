"""The contract of a task; every other file in this folder is one task or a family of tasks.

A task file exports `Config`, whose `build(data_directory)` gives the task: pairs of texts for each split, how
they become words of a vocabulary, and the metrics that judge the output. Everything after that (token ids on
disk, batches, order) is the same for all tasks and lives in `tasks/data/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

TRAIN, VALIDATION = "train", "validation"
"""The splits that every task has; the others, in `Task.test_splits`, are for the final score alone."""


class TaskConfig(BaseModel):
    """All that determines a task's data."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    version: ClassVar[int] = 1
    """Raised when the data that a config gives change; part of every run's identity."""
    reads_files: ClassVar[bool] = False
    """Whether the data lie in files, which may be missing or wrong."""

    def build(self, data_directory: Path) -> Task:
        """The task. Reads from, or downloads to, `data_directory`; a generated task ignores it."""
        raise NotImplementedError(f"{type(self).__module__}.Config has no build(data_directory)")

    def tiny(self) -> TaskConfig:
        """The same options with few and short pairs, for tests. A task that reads files returns itself."""
        return self


class Task(ABC):
    """Pairs of source and target text, and how they are judged."""

    metrics: tuple[str, ...]
    """Names of `benchmark.measure.quality.METRICS`, the one to rank by first."""

    vocabulary: Literal["symbols", "subwords"]
    """`symbols`: words between blanks are the tokens. `subwords`: sentencepiece BPE of `vocabulary_size`
    pieces.
    """

    vocabulary_size: int | None = None
    """Pieces of a subword vocabulary, special ones included; None for symbols, whose number is what training
    has.
    """

    test_splits: tuple[str, ...] = ("test",)

    texts_may_be_copied: bool = True
    """Whether the licence lets source and reference texts lie beside the results."""

    @abstractmethod
    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        """Source and target of `split` as raw text without line ends, streamed, the same at each call."""

    def fingerprint(self) -> str:
        """What the data are beyond the config: a hash of the files read; empty where the config says all."""
        return ""


class Batch(NamedTuple):
    """Sentence pairs as token ids, padded at the right with 0; B is this process's share of them."""

    source: Tensor
    """(B, S) int64, each ends with END."""
    source_mask: Tensor
    """(B, S) bool, True at words."""
    target_in: Tensor
    """(B, T) int64, begins with BEGIN."""
    target_out: Tensor
    """(B, T) int64, ends with END: `target_in` shifted by one."""
    target_tokens: int
    """Words of `target_out` in the *global* batch, END included: what the summed loss is divided by."""
    source_tokens: int
    """Words of `source` in the global batch, END included."""
    padded_tokens: int
    """Positions of source and target in the global batch, padding included."""
    indices: np.ndarray
    """Which pairs of the split the global batch holds, in its order."""
    own: np.ndarray
    """Which pairs this process holds, row by row."""

    def to(self, device: torch.device) -> Batch:
        """With its tensors on a device; itself where they are there. The trainer calls it at each step."""
        if self.source.device == device:
            return self
        return self._replace(
            source=self.source.to(device, non_blocking=True),
            source_mask=self.source_mask.to(device, non_blocking=True),
            target_in=self.target_in.to(device, non_blocking=True),
            target_out=self.target_out.to(device, non_blocking=True),
        )
