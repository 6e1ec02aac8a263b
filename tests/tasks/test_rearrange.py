"""Targets are the sources rearranged; splits are disjoint, deterministic, and as large as asked."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from tasks.rearrange import SPLITS, Config

OPERATIONS: tuple[Literal["copy", "reverse", "sort"], ...] = ("copy", "reverse", "sort")
EXPECTED: dict[str, Callable[[list[int]], list[int]]] = {
    "copy": lambda numbers: numbers,
    "reverse": lambda numbers: numbers[::-1],
    "sort": sorted,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_targets_are_the_sources_rearranged(operation: Literal["copy", "reverse", "sort"]) -> None:
    config = Config(operation=operation)
    task = config.build(Path())
    for split in SPLITS:
        shortest, longest = (21, 40) if split == "test_longer" else (5, 20)
        lengths = set()
        for source, target in itertools.islice(task.pairs(split), 400):
            numbers = [int(number) for number in source.split(" ")]
            assert [int(number) for number in target.split(" ")] == EXPECTED[operation](numbers)
            assert all(0 <= number < config.symbols for number in numbers)
            lengths.add(len(numbers))
        assert lengths == set(range(shortest, longest + 1))


def test_splits_are_as_large_as_asked_and_disjoint_for_many_seeds() -> None:
    for seed in range(100):
        task = Config(seed=seed).tiny().build(Path())
        splits = {split: [source for source, _ in task.pairs(split)] for split in SPLITS}
        assert [len(sources) for sources in splits.values()] == [200, 20, 20, 20]
        for one, other in itertools.combinations(SPLITS, 2):
            assert not set(splits[one]) & set(splits[other])
        for split in SPLITS[1:]:
            assert len(set(splits[split])) == 20


def test_a_larger_split_begins_with_the_smaller_one() -> None:
    small, large = (Config(train_pairs=pairs).build(Path()) for pairs in (100, 10_000))
    assert list(small.pairs("train")) == list(itertools.islice(large.pairs("train"), 100))


def pairs_hash(seed: int) -> str:
    task = Config(seed=seed, operation="sort").build(Path())
    pairs = [list(itertools.islice(task.pairs(split), 300)) for split in SPLITS]
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


def test_pairs_depend_on_the_seed_alone() -> None:
    assert pairs_hash(0) != pairs_hash(1)
    code = "from tests.tasks.test_rearrange import pairs_hash; print(pairs_hash(1))"
    again = subprocess.check_output(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "7"}, text=True
    )
    assert again.strip() == pairs_hash(1)


def test_pairs_are_those_of_this_version() -> None:
    # Other pairs are another task: raise Config.version.
    assert (Config.version, pairs_hash(0)[:16]) == (1, "520ccd14d6d8cea4")


def test_the_example_of_the_docstring_holds() -> None:
    import tasks.rearrange

    lines = [line.split("  ") for line in (tasks.rearrange.__doc__ or "").splitlines()]
    examples = [[part.strip() for part in line if part.strip()] for line in lines if len(line) > 3]
    shown = {name: (source, target) for name, source, target in examples[1:]}
    assert set(shown) == set(OPERATIONS)
    for operation, (source, target) in shown.items():
        numbers = [int(number) for number in source.split(" ")]
        assert [int(number) for number in target.split(" ")] == EXPECTED[operation](numbers)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"minimum_length": 9, "maximum_length": 8}, "minimum_length 9 is more than maximum_length 8"),
        (
            {"symbols": 2, "minimum_length": 1, "maximum_length": 3},
            "2 symbols at lengths 1 to 3 make only 14 different sources, fewer than the 64000 that disjoint"
            " splits of this size need; set symbols or maximum_length higher",
        ),
        ({"symbols": 1}, "greater than or equal to 2"),
        ({"train_pairs": 0}, "greater than or equal to 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(fields: dict[str, int], text: str) -> None:
    with pytest.raises(ValidationError) as error:
        Config.model_validate(fields)
    assert text in str(error.value)
