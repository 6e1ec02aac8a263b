"""Recall a value by its key: accuracy against the distance at which the pair stands.

    source     k3 v17 k9 v4 k1 v22 ? k9          target     v4

Pairs of a key and a value, all keys different, and at the end the key that is asked for. Its distance is the
number of pairs from its own to the end, itself counted: 2 here. Each test split holds one distance. Those
that training has too are asked for in sources of the longest length of training, larger ones in sources of as
many pairs as the largest distance: so a pair's place from the start is no clue to it.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from tasks.data.distances import ByDistance, DistanceConfig

ASK = "?"


class Config(DistanceConfig):
    """Keys, values and lengths are drawn evenly, and of each source one of its keys to ask for."""

    version: ClassVar[int] = 3
    keys: int = Field(default=64, ge=2, le=4096)
    """Different keys."""
    values: int = Field(default=64, ge=2, le=4096)
    """Different values."""
    minimum_pairs: int = Field(default=2, ge=1)
    maximum_pairs: int = Field(default=16, ge=1)
    """Pairs of the longest source in training, and so the largest distance there."""
    distances: tuple[int, ...] = (1, 2, 4, 8, 12, 16, 20, 24, 32)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.minimum_pairs > self.maximum_pairs:
            raise ValueError(
                f"minimum_pairs {self.minimum_pairs} is more than maximum_pairs {self.maximum_pairs}"
            )
        longest = max(self.maximum_pairs, *self.distances)
        if self.keys < longest:
            raise ValueError(
                f"{self.keys} keys are too few for {longest} pairs with different ones; set keys higher"
            )
        return self

    def build(self, data_directory: Path) -> Recall:
        return Recall(self)

    def tiny(self) -> Config:
        sizes = {"keys": 8, "values": 8, "maximum_pairs": 4, "distances": (1, 4, 6)}
        return self.model_copy(update=sizes | {"train_pairs": 200, "validation_pairs": 20, "test_pairs": 20})


class Recall(ByDistance):
    """Keys and values in, the value of one key out."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.maximum_pairs)
        self.config = config

    def drawn(self, chance: random.Random, distance: int | None) -> tuple[str, str]:
        config = self.config
        if distance is None:
            count = chance.randint(config.minimum_pairs, config.maximum_pairs)
            distance = chance.randint(1, count)
        else:
            longest = max(config.distances)
            count = config.maximum_pairs if distance <= config.maximum_pairs else longest
        keys = chance.sample(range(config.keys), count)
        values = [chance.randrange(config.values) for _ in keys]
        said = [f"k{key} v{value}" for key, value in zip(keys, values, strict=True)]
        return f"{' '.join(said)} {ASK} k{keys[-distance]}", f"v{values[-distance]}"
