"""Generated tasks whose test splits each hold one distance."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterator, Sequence

from tasks import TRAIN, VALIDATION, Task

SHARES = 8
"""Of 8 parts of all sources, one is for validation, one for the tests, the rest for training."""


class ByDistance(Task):
    """Pairs whose distance is drawn in training and fixed in each test split.

    A split that ends in `_trained` has a distance that training has too. A hash of the source decides which
    split it may be in, so that splits are disjoint.
    """

    metrics = ("sequence_accuracy", "token_accuracy")
    vocabulary = "symbols"

    def __init__(
        self, distances: Sequence[int], trained: int, pairs: tuple[int, int, int], seed: int
    ) -> None:
        """`trained` is the largest distance of training, `pairs` how many there are in training, validation
        and each test split.
        """
        self._distances = {f"distance_{one}{'_trained' if one <= trained else ''}": one for one in distances}
        self.test_splits = tuple(self._distances)
        self._sizes, self._seed = pairs, seed

    @abstractmethod
    def drawn(self, chance: random.Random, distance: int | None) -> tuple[str, str]:
        """One pair of a distance, or of one that is drawn as well."""

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        number = {TRAIN: 0, VALIDATION: 1}.get(split, 2)
        parts = (range(2, SHARES), range(1), range(1, 2))[number]
        chance = random.Random(f"{self._seed} {split}")
        # Training may repeat a pair; what is scored is scored once.
        seen: set[str] = set()
        given = 0
        while given < self._sizes[number]:
            source, target = self.drawn(chance, self._distances.get(split))
            part = hashlib.blake2b(source.encode(), digest_size=1).digest()[0] % SHARES
            if part not in parts or source in seen:
                continue
            if split != TRAIN:
                seen.add(source)
            yield source, target
            given += 1


def checked_distances(distances: Sequence[int]) -> None:
    """Raises ValueError where two are equal or one is below 1."""
    if not distances or min(distances) < 1 or len(set(distances)) < len(distances):
        raise ValueError(f"distances must be different and at least 1, got {list(distances)}")
