"""Every task is tested by existing: what lies in tasks/ must keep the contract of tasks/__init__.py."""

from __future__ import annotations

import importlib
import itertools
import os
import urllib.error
from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

import tasks
from tasks import TRAIN, VALIDATION, Task, TaskConfig
from tasks.data.corpus import Corpus, prepare
from tasks.data.module import DataModule

ROOT = Path(tasks.__file__).parent
NAMES = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "__init__")
PRESETS = sorted((ROOT.parent / "configs" / "tasks").glob("*.yaml"))


def config_class(name: str) -> type[TaskConfig]:
    found: type[TaskConfig] = importlib.import_module(f"tasks.{name}").Config
    return found


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Task:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("tests use no network")

    folder = os.environ.get("SEQBENCH_DATA") or tmp_path_factory.mktemp("empty")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib.request.urlopen", no_network)
        try:
            return config_class(request.param)().tiny().build(Path(folder))
        except ValueError as error:
            pytest.skip(f"needs files: {error}")


@pytest.fixture(scope="module")
def corpus(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepare(task, {}, maximum_tokens=256, cache_directory=tmp_path_factory.mktemp("corpora"))


def splits(task: Task) -> tuple[str, ...]:
    return (TRAIN, VALIDATION, *task.test_splits)


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_frozen_strict_and_documented(name: str) -> None:
    configuration = config_class(name)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        configuration.model_validate({"no_such_field": 1})
    assert configuration.model_config["frozen"]
    assert configuration.model_config["strict"]
    assert configuration.version >= 1
    assert configuration().tiny() == configuration().tiny()
    assert configuration.model_validate_json(configuration().model_dump_json()) == configuration()


def test_pairs_are_the_same_at_each_call(task: Task) -> None:
    for split in splits(task):
        first, second = (list(itertools.islice(task.pairs(split), 500)) for _ in range(2))
        assert first == second
        assert first


def test_texts_have_no_line_ends(task: Task) -> None:
    for split in splits(task):
        assert not any("\n" in text for pair in itertools.islice(task.pairs(split), 500) for text in pair)


def test_sources_that_are_scored_are_not_in_training(task: Task) -> None:
    training = set(task.pairs(TRAIN))
    for split in splits(task)[1:]:
        pairs = list(task.pairs(split))
        shared = sum(pair in training for pair in pairs)
        # Real captions repeat now and then ("A man in a blue shirt."); generated pairs never may.
        assert shared <= (0 if task.texts_may_be_copied else 0.01 * len(pairs))


def test_vocabulary_and_metrics_are_stated(task: Task) -> None:
    assert (task.vocabulary_size is None) == (task.vocabulary == "symbols")
    assert task.metrics
    assert len(set(splits(task))) == len(splits(task))


def test_every_split_becomes_batches_with_each_pair_once(corpus: Corpus, task: Task) -> None:
    data = DataModule(corpus, batch_tokens=768, seed=0)
    for split in splits(task)[1:]:
        seen = [pair for batch in data.evaluation_batches(split, batch_sentences=64) for pair in batch.own]
        assert sorted(seen) == list(range(corpus.counters[split]["pairs"]))
    batch = next(iter(data.train_dataloader()))
    assert batch.source.shape == batch.source_mask.shape
    assert batch.target_in.shape == batch.target_out.shape


def test_references_come_back_from_ids(corpus: Corpus, task: Task) -> None:
    for split in task.test_splits:
        _, references = corpus.texts(split)
        for number in range(min(50, len(references))):
            ids = corpus.splits[split].target[number].tolist()
            assert corpus.vocabulary.decode(ids) == references[number]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_say_what_they_are_and_are_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text.split("\n")[0]) <= 120
    document = YAML(typ="safe").load(text)
    assert set(document) <= {"task", "data", "evaluation"}
    fields = dict(document["task"])
    config_class(fields.pop("name")).model_validate(fields)
