"""The one data module: every task and architecture trains on batches that come from here.

What step k of a run trains on depends on (seed, k) alone, so that architectures see the same batches, a run
that is resumed sees what an undisturbed one does, and several processes see their shares of the same global
batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from pytorch_lightning import LightningDataModule

from tasks import TRAIN, VALIDATION, Batch
from tasks.data import batching
from tasks.data.batching import Batching, Plan
from tasks.data.corpus import Corpus, Split

VALIDATION_TOKENS = 4096
"""Positions of a batch whose loss alone is asked for; the summed loss does not depend on it."""


class TrainingBatches:
    """Batches without end, epoch after epoch, from the step at which iteration begins."""

    def __init__(
        self, split: Split, plan: Batching, *, first_step: Callable[[], int], rank: int, world: int
    ) -> None:
        self._split, self._plan = split, plan
        self._first_step, self._rank, self._world = first_step, rank, world

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = divmod(self._first_step(), len(self._plan))
        while True:
            order = self._plan.epoch(epoch)
            for number in range(first, len(order)):
                yield batching.collate(self._split, order[number], rank=self._rank, world=self._world)
            epoch, first = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Nothing, for the trainer's step says it all; but Lightning asks whether a loader can resume."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do; see `state_dict`."""


class EvaluationBatches:
    """Every pair of a split exactly once over all processes, each of which gets equally many batches.

    A process whose share of a batch is empty gets one row that counts nothing, and `own` is empty.
    """

    def __init__(self, split: Split, plan: Plan, *, rank: int, world: int) -> None:
        self._split, self._plan, self._rank, self._world = split, plan, rank, world

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        for number in range(len(self)):
            yield batching.collate(self._split, self._plan[number], rank=self._rank, world=self._world)


class DataModule(LightningDataModule):
    """Batches of a corpus.

    Args:
        batch_tokens: sentences x longest side of a global batch, END included.
        seed: of the order; with the step, it decides a batch.
    """

    def __init__(self, corpus: Corpus, *, batch_tokens: int, seed: int) -> None:
        super().__init__()
        self.corpus = corpus
        self.training = batching.by_tokens(corpus.splits[TRAIN], batch_tokens, seed)

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> TrainingBatches:
        """Starts at the trainer's step, read when iteration begins: after a checkpoint is loaded."""
        rank, world = self._process()
        return TrainingBatches(
            self.corpus.splits[TRAIN],
            self.training,
            first_step=lambda: self.trainer.global_step if self.trainer else 0,
            rank=rank,
            world=world,
        )

    def val_dataloader(self) -> EvaluationBatches:
        """The validation split, for its loss."""
        rank, world = self._process()
        split = self.corpus.splits[VALIDATION]
        plan = batching.by_tokens(split, VALIDATION_TOKENS, 0).in_order()
        return EvaluationBatches(split, plan, rank=rank, world=world)

    def evaluation_batches(
        self, split: str, *, batch_sentences: int, rank: int = 0, world: int = 1
    ) -> EvaluationBatches:
        """A split in batches of equally many sentences, for generation."""
        pairs = self.corpus.splits[split]
        plan = batching.by_sentences(pairs, batch_sentences).in_order()
        return EvaluationBatches(pairs, plan, rank=rank, world=world)

    def steps_of_epochs(self, epochs: float) -> int:
        """Steps that see the training split `epochs` times; a started batch counts."""
        return int(np.ceil(epochs * len(self.training)))

    def steps_of_tokens(self, tokens: int) -> int:
        """The fewest steps whose batches hold `tokens` target tokens, END included, padding left out."""
        epochs, rest = divmod(tokens, int(self.training.target_lengths.sum(dtype=np.int64)))
        steps = epochs * len(self.training)
        if rest:
            plan = self.training.epoch(epochs)
            ends = np.cumsum(self.training.target_lengths[plan.order], dtype=np.int64)
            held = ends[plan.ends - 1] - np.where(plan.starts > 0, ends[plan.starts - 1], 0)
            steps += 1 + int(np.searchsorted(np.cumsum(held), rest))
        return steps
