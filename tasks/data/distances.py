"""Generated tasks whose test splits each hold one distance."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator

from pydantic import Field, field_validator

from tasks import TRAIN, VALIDATION, Task, TaskConfig

SHARES = 8
"""Of 8 parts of all sources, one is for validation, one for the tests, the rest for training."""
MOST_FRUITLESS = 100_000
"""Pairs drawn in a row of which none is new: then there are no more."""


class DistanceConfig(TaskConfig):
    """What such tasks have in common."""

    distances: tuple[int, ...] = (1, 2, 4)
    """Of the test splits."""
    train_pairs: int = Field(default=20_000, ge=1)
    """Sentence pairs."""
    validation_pairs: int = Field(default=500, ge=1)
    test_pairs: int = Field(default=250, ge=1)
    """Of each test split."""
    seed: int = Field(default=0, ge=0)

    @field_validator("distances")
    @classmethod
    def _different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 1 or len(set(value)) < len(value):
            raise ValueError(f"distances must be different and at least 1, got {list(value)}")
        return value


class ByDistance(Task):
    """Pairs whose distance is drawn in training and fixed in each test split.

    A split that ends in `_trained` has a distance that training has too. A hash of the source decides which
    split it may be in, so that splits are disjoint.
    """

    metrics = ("sequence_accuracy", "token_accuracy")
    vocabulary = "symbols"

    def __init__(self, config: DistanceConfig, trained: int) -> None:
        """`trained` is the largest distance of training."""
        self._distances = {
            f"distance_{one}{'_trained' if one <= trained else ''}": one for one in config.distances
        }
        self.test_splits = tuple(self._distances)
        self._sizes = config.train_pairs, config.validation_pairs, config.test_pairs
        self._seed = config.seed

    @abstractmethod
    def drawn(self, chance: random.Random, distance: int | None) -> tuple[str, str]:
        """One pair of a distance, or of one that is drawn as well."""

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        number = {TRAIN: 0, VALIDATION: 1}.get(split, 2)
        parts = (range(2, SHARES), range(1), range(1, 2))[number]
        chance = random.Random(f"{self._seed} {split}")
        # Training may repeat a pair; what is scored is scored once.
        seen: set[str] = set()
        given, fruitless = 0, 0
        while given < self._sizes[number]:
            source, target = self.drawn(chance, self._distances.get(split))
            part = hashlib.blake2b(source.encode(), digest_size=1).digest()[0] % SHARES
            if part not in parts or source in seen:
                fruitless += 1
                if fruitless == MOST_FRUITLESS:
                    raise ValueError(
                        f"task: its fields make only {given} different sources for {split}, and "
                        f"{self._sizes[number]} are asked for; ask for fewer pairs, or for more to draw from"
                    )
                continue
            if split != TRAIN:
                seen.add(source)
            yield source, target
            given, fruitless = given + 1, 0
