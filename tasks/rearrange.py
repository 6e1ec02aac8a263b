"""Copy, reverse or sort numbers: a check that a model learns at all, and of lengths it has not seen.

    operation   source            target
    copy        17 4 23 4 9       17 4 23 4 9
    reverse     17 4 23 4 9       9 4 23 4 17
    sort        17 4 23 4 9       4 4 9 17 23

`test` has the lengths of training; `test_longer` has those from there to twice as long. A hash of the source
decides which split it may be in, so that splits are disjoint whatever their sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tasks import TRAIN, VALIDATION, Task, TaskConfig

SPLITS = (TRAIN, VALIDATION, "test", "test_longer")
CHUNK_PAIRS = 4096
SHARES = 16
"""Of 16 parts of all sources, one is for validation, one for test, the rest for training."""


class Config(TaskConfig):
    """Lengths and symbols are drawn evenly."""

    operation: Literal["copy", "reverse", "sort"] = "copy"
    symbols: int = Field(default=32, ge=2, le=4096)
    """Different numbers that may occur."""
    minimum_length: int = Field(default=5, ge=1)
    """Numbers of the shortest source."""
    maximum_length: int = Field(default=20, ge=1, le=1024)
    """Numbers of the longest source; `test_longer` goes to twice this."""
    train_pairs: int = Field(default=20_000, ge=1, le=2_000_000_000)
    validation_pairs: int = Field(default=500, ge=1, le=1_000_000)
    test_pairs: int = Field(default=500, ge=1, le=1_000_000)
    """Pairs of `test`, and of `test_longer`."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _enough_sources(self) -> Self:
        if self.minimum_length > self.maximum_length:
            raise ValueError(
                f"minimum_length {self.minimum_length} is more than maximum_length {self.maximum_length}"
            )
        sources = sum(
            self.symbols**length for length in range(self.minimum_length, min(self.maximum_length, 64) + 1)
        )
        needed = 8 * SHARES * max(self.validation_pairs, self.test_pairs)
        if sources < needed:
            raise ValueError(
                f"{self.symbols} symbols at lengths {self.minimum_length} to {self.maximum_length} make only"
                f" {sources} different sources, fewer than the {needed} that disjoint splits of this"
                f" size need; set symbols or maximum_length higher"
            )
        return self

    def build(self, data_directory: Path) -> Rearrange:
        return Rearrange(self)

    def tiny(self) -> Config:
        return self.model_copy(
            update={
                "symbols": 8,
                "minimum_length": 4,
                "maximum_length": 6,
                "train_pairs": 200,
                "validation_pairs": 20,
                "test_pairs": 20,
            }
        )


class Rearrange(Task):
    """Numbers in, the same numbers out in the order that the operation says."""

    metrics = ("sequence_accuracy", "token_accuracy")
    vocabulary = "symbols"
    test_splits = ("test", "test_longer")

    def __init__(self, config: Config) -> None:
        self.config = config

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        config = self.config
        wanted = {TRAIN: config.train_pairs, VALIDATION: config.validation_pairs}.get(
            split, config.test_pairs
        )
        names = np.array([str(number) for number in range(config.symbols)], dtype=object)
        # Training may repeat a pair, and need not remember 5 million; what is scored is scored once.
        seen: set[str] | None = None if split == TRAIN else set()
        chunk = given = 0
        while True:
            numbers, lengths = self._chunk(split, chunk)
            chunk += 1
            sources = names[numbers].tolist()
            targets = self._sorted(numbers, lengths, names) if config.operation == "sort" else sources
            for source_row, target_row, length in zip(sources, targets, lengths.tolist(), strict=True):
                source = " ".join(source_row[:length])
                if seen is not None:
                    if source in seen:
                        continue
                    seen.add(source)
                if config.operation == "reverse":
                    target = " ".join(source_row[length - 1 :: -1])
                else:
                    target = " ".join(target_row[:length])
                yield source, target
                given += 1
                if given == wanted:
                    return

    def _chunk(self, split: str, chunk: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers (N, longest) and lengths (N,) of candidates that belong to the split."""
        config = self.config
        shortest, longest = config.minimum_length, config.maximum_length
        if split == "test_longer":
            shortest, longest = longest + 1, 2 * longest
        # Raw words of the generator, whose stream numpy promises to keep.
        random = np.random.PCG64(np.random.SeedSequence([config.seed, SPLITS.index(split), chunk]))
        words = random.random_raw(CHUNK_PAIRS * (longest + 1)).reshape(CHUNK_PAIRS, longest + 1)
        lengths = (words[:, 0] % np.uint64(longest - shortest + 1)).astype(np.int64) + shortest
        numbers = (words[:, 1:] % np.uint64(config.symbols)).astype(np.int64)
        if split == "test_longer":
            return numbers, lengths
        share = _hash(numbers, lengths) % np.uint64(SHARES)
        own = {VALIDATION: share == 0, "test": share == 1}.get(split, share > 1)
        return numbers[own], lengths[own]

    @staticmethod
    def _sorted(
        numbers: NDArray[np.int64], lengths: NDArray[np.int64], names: NDArray[np.object_]
    ) -> list[list[str]]:
        beyond = np.arange(numbers.shape[1]) >= lengths[:, None]
        ordered = np.sort(np.where(beyond, len(names), numbers), axis=1)
        rows: list[list[str]] = names[np.minimum(ordered, len(names) - 1)].tolist()
        return rows


def _hash(numbers: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 bits for each row of numbers up to its length (multiply and xor-shift, as in splitmix64)."""
    state = lengths.astype(np.uint64)
    for position in range(numbers.shape[1]):
        mixed = (state ^ numbers[:, position].astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = np.where(position < lengths, mixed ^ (mixed >> np.uint64(31)), state)
    return state
