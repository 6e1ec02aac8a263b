"""A task whose pairs a test writes down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from tasks import Task


class PairsTask(Task):
    """Splits as given; each call of `pairs` is counted."""

    metrics = ("token_accuracy",)

    def __init__(
        self,
        splits: Mapping[str, Sequence[tuple[str, str]]],
        vocabulary: Literal["symbols", "subwords"] = "symbols",
        vocabulary_size: int | None = None,
    ) -> None:
        self.splits = splits
        self.vocabulary = vocabulary
        self.vocabulary_size = vocabulary_size
        self.test_splits = tuple(split for split in splits if split not in ("train", "validation"))
        self.calls = 0

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        self.calls += 1
        return iter(self.splits[split])
