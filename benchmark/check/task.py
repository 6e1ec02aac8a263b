"""What a task promises: the rules of `tasks/__init__.py`, each as a check.

Of a split with more than `MOST_PAIRS` pairs the first ones are looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from benchmark.check import CheckFailed
from benchmark.config import shown
from benchmark.measure.quality import METRICS
from tasks import TRAIN, VALIDATION, Task, TaskConfig
from tasks.data.vocabulary import SubwordVocabulary, SymbolVocabulary, Vocabulary

MOST_PAIRS = 100_000
FITTED_PAIRS = 20_000
"""Most pairs that a subword vocabulary is learned from here."""
LARGEST_OVERLAP = 0.1
"""Share of the sources of a split of real text that may occur in training."""


@dataclass(frozen=True)
class TaskUnderCheck:
    """A configuration, and tasks made of it."""

    name: str
    config: TaskConfig
    data_directory: Path

    def build(self) -> Task:
        """A fresh task."""
        task = self.config.build(self.data_directory)
        if not isinstance(task, Task):
            raise CheckFailed(f"build: expected a tasks.Task, got {type(task).__name__}")
        return task

    @cached_property
    def task(self) -> Task:
        return self.build()

    @cached_property
    def splits(self) -> tuple[str, ...]:
        return (TRAIN, VALIDATION, *self.task.test_splits)

    @cached_property
    def pairs(self) -> dict[str, list[tuple[str, str]]]:
        """The pairs of every split."""
        return {split: list(islice(self.task.pairs(split), MOST_PAIRS)) for split in self.splits}

    @cached_property
    def is_generated(self) -> bool:
        """Whether the data are made from the config; what reads files has no smaller self."""
        return self.task.fingerprint() == "" and type(self.config).tiny is not TaskConfig.tiny


def the_task_says_what_it_is(subject: TaskUnderCheck) -> str:
    """Version, fingerprint, vocabulary, names of splits and metrics are of the kinds that records hold."""
    task = subject.task
    if type(subject.config.version) is not int:
        raise CheckFailed(f"Config.version: expected an integer, got {type(subject.config.version).__name__}")
    if not isinstance(task.fingerprint(), str):
        raise CheckFailed(f"fingerprint: expected text, got {type(task.fingerprint()).__name__}")
    if task.vocabulary not in ("symbols", "subwords"):
        raise CheckFailed(f"vocabulary: expected 'symbols' or 'subwords', got {shown(task.vocabulary)}")
    if (task.vocabulary == "subwords") != (type(task.vocabulary_size) is int):
        raise CheckFailed(
            f"vocabulary_size: expected an integer for subwords and None for symbols, "
            f"got {shown(task.vocabulary_size)} for {task.vocabulary}"
        )
    if not task.metrics:
        raise CheckFailed(f"metrics: expected at least one of {', '.join(METRICS)}, got none")
    for metric in task.metrics:
        if metric not in METRICS:
            raise CheckFailed(f"metrics: expected names among {', '.join(METRICS)}, got {shown(metric)}")
    if len(set(subject.splits)) < len(subject.splits):
        raise CheckFailed(f"test_splits: expected different names, got {shown(subject.splits)}")
    return ""


def every_split_has_pairs_of_text(subject: TaskUnderCheck) -> str:
    """No split is empty; source and target are text that UTF-8 can hold, without line ends."""
    for split, pairs in subject.pairs.items():
        if not pairs:
            raise CheckFailed(f"pairs({split!r}): expected at least one pair, got none")
        for number, pair in enumerate(pairs):
            where = f"pairs({split!r}): pair {number}"
            if not isinstance(pair, tuple) or [type(text) for text in pair] != [str, str]:
                raise CheckFailed(f"{where}: expected source and target text, got {shown(pair)}")
            for text in pair:
                if "\n" in text:
                    raise CheckFailed(f"{where}: expected text without line ends, got {shown(text)}")
                try:
                    text.encode()
                except UnicodeEncodeError:
                    message = f"{where}: expected text that UTF-8 can hold, got {shown(text)}"
                    raise CheckFailed(message) from None
    return ""


def splits_are_the_same_each_time(subject: TaskUnderCheck) -> str:
    """The same pairs in the same order from one task asked twice, and from a fresh one."""
    again = {"asked twice": subject.task, "built afresh": subject.build()}
    for how, task in again.items():
        for split in subject.splits:
            if _digest(islice(task.pairs(split), MOST_PAIRS)) != _digest(subject.pairs[split]):
                raise CheckFailed(f"pairs({split!r}): {how}: expected the same pairs in order, got others")
    if again["built afresh"].fingerprint() != subject.task.fingerprint():
        raise CheckFailed("fingerprint: built afresh: expected the same, got another")
    return ""


def _digest(pairs: Iterable[tuple[str, str]]) -> bytes:
    digest = hashlib.sha256()
    for source, target in pairs:
        digest.update(f"{source}\n{target}\n".encode("utf-8", "surrogatepass"))
    return digest.digest()


def no_test_source_is_in_training(subject: TaskUnderCheck) -> str:
    """Sources of a generated task occur in one split only; of real text it is said how many do not, and a
    split that training mostly knows is refused.

    Compared without case and with blanks collapsed.
    """
    sources = {split: {_normalised(source) for source, _ in pairs} for split, pairs in subject.pairs.items()}
    remarks = []
    names = list(sources)
    for index, split in enumerate(names):
        for other in names[index + 1 :]:
            common = sources[split] & sources[other]
            if not common:
                continue
            total = len(sources[other])
            counted = f"{len(common):,} of {total:,} different sources of {other} are in {split}"
            if subject.is_generated or (split == TRAIN and len(common) > LARGEST_OVERLAP * total):
                what = "disjoint splits" if subject.is_generated else f"at most {LARGEST_OVERLAP:.0%} overlap"
                raise CheckFailed(f"pairs: expected {what}, got: {counted}, as {shown(min(common))}")
            remarks.append(counted)
    return "; ".join(remarks)


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def targets_survive_the_vocabulary(subject: TaskUnderCheck) -> str:
    """Encoding a target and decoding it gives it back; a symbol that training does not have is counted."""
    training = [pair for pair in subject.pairs[TRAIN] if all(text.strip() for text in pair)]
    vocabulary: Vocabulary
    if subject.task.vocabulary == "subwords":
        assert subject.task.vocabulary_size is not None
        try:
            vocabulary = SubwordVocabulary.fit(training[:FITTED_PAIRS], subject.task.vocabulary_size)
        except ValueError as error:
            raise CheckFailed(str(error)) from None
    else:
        vocabulary = SymbolVocabulary.fit(training)
    unknown = 0
    for split, pairs in subject.pairs.items():
        for number, (_, target) in enumerate(pairs):
            ids = vocabulary.encode(target)
            if isinstance(vocabulary, SymbolVocabulary) and any(vocabulary.tokens[i] == "<unk>" for i in ids):
                unknown += 1
            elif vocabulary.decode(ids) != target and "\u2581" not in target:
                raise CheckFailed(
                    f"pairs({split!r}): target {number}: expected {shown(target)} back from its token ids, "
                    f"got {shown(vocabulary.decode(ids))}"
                )
    return f"{unknown:,} targets have a symbol that training does not have" if unknown else ""


BEFORE_TRAINING: tuple[Callable[[TaskUnderCheck], str], ...] = (
    the_task_says_what_it_is,
    every_split_has_pairs_of_text,
    splits_are_the_same_each_time,
    no_test_source_is_in_training,
)
"""What is checked of a task of the user's own before anything is trained."""
TASK_CHECKS = (*BEFORE_TRAINING, targets_survive_the_vocabulary)
