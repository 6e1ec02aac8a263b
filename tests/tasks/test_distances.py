"""Recall and agreement: what is asked for follows from the source, and each test split has its distance."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks import agreement, recall
from tasks.data import distances


def distance_of(split: str) -> int:
    return int(split.split("_")[1])


def test_the_value_of_the_key_is_recalled_at_the_distance_of_the_split() -> None:
    config = recall.Config()
    task = config.build(Path())
    assert task.test_splits[0] == "distance_1_trained" and task.test_splits[-1] == "distance_32"
    for split in ("train", "validation", *task.test_splits):
        found = set()
        for source, target in itertools.islice(task.pairs(split), 250):
            said, asked = source.split(" ? ")
            words = said.split(" ")
            keys, values = words[::2], words[1::2]
            assert len(set(keys)) == len(keys)
            place = keys.index(asked)
            assert target == values[place]
            found.add((len(keys) - place, len(keys)))
        distances = {distance for distance, _ in found}
        if split.startswith("distance"):
            is_trained = distance_of(split) <= config.maximum_pairs
            pairs = config.maximum_pairs if is_trained else max(config.distances)
            assert found == {(distance_of(split), pairs)}
            assert split.endswith("_trained") == is_trained
        else:
            assert distances <= set(range(1, config.maximum_pairs + 1))


def test_each_key_of_a_source_is_asked_for_as_often_as_every_other() -> None:
    task = recall.Config(keys=8, minimum_pairs=1, maximum_pairs=4, distances=(1, 4)).build(Path())
    asked: Counter[tuple[int, int]] = Counter()
    for source, _ in task.pairs("train"):
        *said, _, key = source.split(" ")
        asked[len(said) // 2, said.index(key) // 2] += 1
    assert len(asked) == 1 + 2 + 3 + 4
    for (count, _), times in asked.items():
        assert times == pytest.approx(20_000 / 4 / count, rel=0.15)


def test_the_verb_agrees_with_the_first_noun_across_the_distance_of_the_split() -> None:
    config = agreement.Config()
    task = config.build(Path())
    for split in ("train", "validation", *task.test_splits):
        distances, places, fooled = set(), set(), 0
        for source, target in itertools.islice(task.pairs(split), 250):
            words = source.split(" ")
            nouns = [word for word in words if word.startswith("noun")]
            number = "plural" if nouns[0].endswith("s") else "singular"
            assert target == f"{words[-1]}-{number}"
            distances.add(len(nouns) - 1)
            places.add(words.index(nouns[0]))
            fooled += nouns[-1].endswith("s") != nouns[0].endswith("s")
        assert places == set(range(1, config.maximum_leading + 2)), "the subject has no place of its own"
        if split.startswith("distance"):
            assert distances == {distance_of(split)}
            assert fooled == 250, "the nearest noun is never a clue"
        else:
            assert distances == set(range(config.maximum_attached + 1))


@pytest.mark.parametrize("module", [recall, agreement])
def test_splits_are_disjoint_and_as_large_as_asked(module) -> None:
    for seed in range(30):
        task = module.Config(seed=seed).tiny().build(Path())
        splits = {
            split: [s for s, _ in task.pairs(split)] for split in ("train", "validation", *task.test_splits)
        }
        assert [len(sources) for sources in splits.values()] == [200, *[20] * (len(splits) - 1)]
        for one, other in itertools.combinations(splits, 2):
            assert not set(splits[one]) & set(splits[other])


def pairs_hash(name: str, seed: int) -> str:
    module = {"recall": recall, "agreement": agreement}[name]
    task = module.Config(seed=seed).build(Path())
    pairs = [list(itertools.islice(task.pairs(split), 100)) for split in ("train", *task.test_splits)]
    return hashlib.sha256(repr(pairs).encode()).hexdigest()


@pytest.mark.parametrize("name", ["recall", "agreement"])
def test_pairs_depend_on_the_seed_alone(name) -> None:
    assert pairs_hash(name, 0) != pairs_hash(name, 1)
    code = f"from tests.tasks.test_distances import pairs_hash; print(pairs_hash({name!r}, 1))"
    again = subprocess.check_output(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": "7"}, text=True
    )
    assert again.strip() == pairs_hash(name, 1)


def test_a_task_of_too_few_sources_is_refused_and_no_loop_for_ever(monkeypatch) -> None:
    monkeypatch.setattr(distances, "MOST_FRUITLESS", 5_000)
    few = recall.Config(keys=4, values=2, maximum_pairs=4, distances=(1, 2, 4)).build(Path())
    text = r"^task: its fields make only \d+ different sources for validation, and 500 are asked for"
    with pytest.raises(ValueError, match=text):
        list(few.pairs("validation"))


@pytest.mark.parametrize(
    ("module", "fields", "reason"),
    [
        (recall, {"keys": 20}, "20 keys are too few for 32 pairs with different ones; set keys higher"),
        (recall, {"minimum_pairs": 17}, "minimum_pairs 17 is more than maximum_pairs 16"),
        (recall, {"distances": (1, 1)}, r"distances must be different and at least 1, got \[1, 1\]"),
        (agreement, {"distances": ()}, r"distances must be different and at least 1, got \[\]"),
    ],
)
def test_what_cannot_be_is_refused(module, fields, reason) -> None:
    with pytest.raises(ValidationError, match=reason):
        module.Config(**fields)
