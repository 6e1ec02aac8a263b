"""Token ids of a task on disk, memory-mapped, so that memory does not grow with the number of pairs.

    <cache>/<key>/corpus.json                       what it is, counters, size and SHA-256 of every file
                  vocabulary/                       fitted on train alone
                  <split>.<side>.tokens             all sentences end to end, each with END; uint16 or int32
                  <split>.<side>.offsets            int64, where each sentence begins, and the end of the last
                  <split>.<side>.txt                raw text of scored splits; lines end at "\\n" only

The key hashes what the ids depend on. A folder is built under a lock in a temporary place and renamed when
complete; one whose checksums do not hold is built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tasks import TRAIN, VALIDATION, Task
from tasks.data.vocabulary import (
    END,
    FITTED_CHARACTERS,
    SubwordVocabulary,
    SymbolVocabulary,
    Vocabulary,
    load_vocabulary,
)

FORMAT = 1
LONGEST_TOKENS = 16_383
"""Of a sentence: batching sorts by three lengths of 14 bits in one number."""
SIDES = ("source", "target")
CHUNK_PAIRS = 4096
CHUNK_CHARACTERS = 2_000_000
FITTED_PAIRS = 400_000
"""Most pairs that a subword vocabulary is learned from, evenly spaced: sentencepiece keeps them in memory."""


@dataclass(frozen=True)
class Sentences:
    """One side of one split."""

    tokens: NDArray[Any]
    """All sentences end to end, memory-mapped."""
    offsets: NDArray[np.int64]
    """(N + 1,), memory-mapped."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[Any]:
        """Token ids of one sentence, END included."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def lengths(self) -> NDArray[np.int32]:
        """(N,) tokens of each sentence, END included."""
        return np.diff(self.offsets).astype(np.int32)


@dataclass(frozen=True)
class Split:
    """Pairs of one split as token ids; pair i of a split that is scored is line i of its raw text."""

    source: Sentences
    target: Sentences

    def __len__(self) -> int:
        return len(self.source)


@dataclass(frozen=True)
class Corpus:
    """A task as token ids, with its vocabulary."""

    folder: Path
    vocabulary: Vocabulary
    splits: dict[str, Split]
    counters: dict[str, dict[str, int]]
    """For each split: `pairs` kept, `dropped_empty` and `dropped_long` (training), `truncated_sources` and
    `truncated_targets` (the others), `source_tokens` and `target_tokens` with END."""

    def texts(self, split: str) -> tuple[list[str], list[str]]:
        """Raw sources and references of a split that is scored."""
        sources, references = (
            (self.folder / f"{split}.{side}.txt").read_bytes().decode().split("\n")[:-1] for side in SIDES
        )
        return sources, references


def prepare(
    task: Task, task_identity: dict[str, Any], *, maximum_tokens: int, cache_directory: Path
) -> Corpus:
    """The corpus of a task, from the cache or built into it.

    Args:
        task_identity: name, config and version of the task, as JSON can hold them.
        maximum_tokens: of a sentence, END included. A training pair with a longer side is dropped; in the
        other
            splits the ids of a longer side are cut there (the raw text that is scored stays whole). Training
            pairs of which a side is white space are dropped; elsewhere they are kept.

    Raises:
        ValueError: a split without pairs, or a vocabulary that cannot be learned.
    """
    if not 2 <= maximum_tokens <= LONGEST_TOKENS:
        raise ValueError(f"data.maximum_tokens: must be 2 to {LONGEST_TOKENS}, got {maximum_tokens}")
    identity = {
        "task": task_identity,
        "fingerprint": task.fingerprint(),
        "maximum_tokens": maximum_tokens,
        "format": FORMAT,
    }
    key = hashlib.sha256(_canonical(identity)).hexdigest()[:32]
    folder = cache_directory / key
    cache_directory.mkdir(parents=True, exist_ok=True)
    with FileLock(cache_directory / f"{key}.lock"):
        for leftover in cache_directory.glob(f"{key}.tmp*"):
            shutil.rmtree(leftover)
        description = _read_description(folder)
        if description is None:
            building = cache_directory / f"{key}.tmp{os.getpid()}"
            try:
                _build(task, identity, maximum_tokens, building)
                if folder.exists():
                    # Renamed, not deleted in place: another process may have its files mapped.
                    folder.rename(cache_directory / f"{key}.tmp{os.getpid()}.damaged")
                building.rename(folder)
            finally:
                for leftover in cache_directory.glob(f"{key}.tmp*"):
                    shutil.rmtree(leftover, ignore_errors=True)
            description = _read_description(folder)
            assert description is not None, f"{folder} does not hold what was just written"
    return _open(folder, description)


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_description(folder: Path) -> dict[str, Any] | None:
    """corpus.json, or None where anything is missing, cut or altered."""
    try:
        description: dict[str, Any] = json.loads((folder / "corpus.json").read_bytes())
        checksum = description.pop("checksum")
        if checksum != hashlib.sha256(_canonical(description)).hexdigest():
            return None
        for name, (size_bytes, sha256) in description["files"].items():
            if (folder / name).stat().st_size != size_bytes or _sha256(folder / name) != sha256:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return description


def _open(folder: Path, description: dict[str, Any]) -> Corpus:
    def array(name: str, dtype: str) -> NDArray[Any]:
        # Plain arrays over the mapping: indexing a numpy.memmap builds a new memmap each time, several times
        # slower.
        return np.asarray(np.memmap(folder / name, dtype=dtype, mode="r"))

    def sentences(split: str, side: str) -> Sentences:
        return Sentences(
            array(f"{split}.{side}.tokens", description["dtype"]), array(f"{split}.{side}.offsets", "<i8")
        )

    splits = {split: Split(*(sentences(split, side) for side in SIDES)) for split in description["counters"]}
    vocabulary = load_vocabulary(description["vocabulary"], folder / "vocabulary")
    return Corpus(folder, vocabulary, splits, description["counters"])


def _build(task: Task, identity: dict[str, Any], maximum_tokens: int, folder: Path) -> None:
    (folder / "vocabulary").mkdir(parents=True)
    vocabulary = _fit(task)
    vocabulary.save(folder / "vocabulary")
    dtype = "<u2" if len(vocabulary) <= 1 << 16 else "<i4"
    counters = {}
    for split in (TRAIN, VALIDATION, *task.test_splits):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", split), f"{split!r} cannot name a file"
        counters[split] = _write_split(task, split, vocabulary, maximum_tokens, dtype, folder)
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, _sha256(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    description = {
        "identity": identity,
        "vocabulary": task.vocabulary,
        "dtype": dtype,
        "counters": counters,
        "files": files,
    }
    description["checksum"] = hashlib.sha256(_canonical(description)).hexdigest()
    (folder / "corpus.json").write_bytes(_canonical(description))


def _fit(task: Task) -> Vocabulary:
    def filled() -> Iterator[tuple[str, str]]:
        return (pair for pair in task.pairs(TRAIN) if pair[0].strip() and pair[1].strip())

    if task.vocabulary == "symbols":
        return SymbolVocabulary.fit(filled())
    assert task.vocabulary_size is not None, "a task with subwords says how many"
    sample = _evenly_spaced(filled())
    if not sample:
        raise ValueError("train: every pair has an empty side, so that there is nothing to learn from")
    return SubwordVocabulary.fit(sample, task.vocabulary_size)


def _evenly_spaced(pairs: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """All pairs, or every 2nd, 4th, ... of them, so that no more than `FITTED_PAIRS` are held; read once."""
    sample: list[tuple[str, str]] = []
    stride = 1
    for number, pair in enumerate(pairs):
        if number % stride == 0:
            sample.append((pair[0][:FITTED_CHARACTERS], pair[1][:FITTED_CHARACTERS]))
            if len(sample) > FITTED_PAIRS:
                del sample[1::2]
                stride *= 2
    return sample


class _Writer:
    """Appends sentences to the two files of one side."""

    def __init__(self, stack: ExitStack, folder: Path, name: str, dtype: str) -> None:
        self._tokens = stack.enter_context((folder / f"{name}.tokens").open("wb"))
        self._offsets = stack.enter_context((folder / f"{name}.offsets").open("wb"))
        self._dtype = dtype
        self.position = 0
        self._offsets.write(np.zeros(1, "<i8").tobytes())

    def write(self, sentences: list[list[int]]) -> None:
        lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
        flat = np.fromiter(chain.from_iterable(sentences), np.int64, int(lengths.sum()))
        self._tokens.write(flat.astype(self._dtype).tobytes())
        self._offsets.write((self.position + np.cumsum(lengths)).astype("<i8").tobytes())
        self.position += len(flat)


def _chunks(pairs: Iterator[tuple[str, str]], split: str) -> Iterator[list[tuple[str, str]]]:
    """Lists of pairs, bounded in number and in characters."""
    chunk: list[tuple[str, str]] = []
    characters = 0
    for number, (source, target) in enumerate(pairs):
        if "\n" in source or "\n" in target:
            raise ValueError(f"{split}: pair {number} holds a line end; a task gives texts without")
        chunk.append((source, target))
        characters += len(source) + len(target)
        if len(chunk) == CHUNK_PAIRS or characters > CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _write_split(
    task: Task, split: str, vocabulary: Vocabulary, maximum_tokens: int, dtype: str, folder: Path
) -> dict[str, int]:
    counters = dict.fromkeys(
        ("pairs", "dropped_empty", "dropped_long", "truncated_sources", "truncated_targets"), 0
    )
    words = maximum_tokens - 1
    with ExitStack() as stack:
        writers = [_Writer(stack, folder, f"{split}.{side}", dtype) for side in SIDES]
        texts = []
        if split != TRAIN:
            texts = [stack.enter_context((folder / f"{split}.{side}.txt").open("wb")) for side in SIDES]
        for chunk in _chunks(task.pairs(split), split):
            for file, lines in zip(texts, zip(*chunk, strict=True), strict=False):
                file.write("".join(line + "\n" for line in lines).encode())
            if split == TRAIN:
                number = len(chunk)
                chunk = [pair for pair in chunk if pair[0].strip() and pair[1].strip()]
                counters["dropped_empty"] += number - len(chunk)
            # One id more than may stay tells a sentence that is too long.
            sources, targets = (
                vocabulary.encode_batch([pair[side] for pair in chunk], words + 1) for side in range(2)
            )
            if split == TRAIN:
                number = len(sources)
                short = [
                    (source, target)
                    for source, target in zip(sources, targets, strict=True)
                    if len(source) <= words and len(target) <= words
                ]
                counters["dropped_long"] += number - len(short)
                sources, targets = [source for source, _ in short], [target for _, target in short]
            else:
                counters["truncated_sources"] += sum(len(source) > words for source in sources)
                counters["truncated_targets"] += sum(len(target) > words for target in targets)
            for writer, sentences in zip(writers, (sources, targets), strict=True):
                writer.write([[*ids[:words], END] for ids in sentences])
            counters["pairs"] += len(sources)
    if not counters["pairs"]:
        raise ValueError(
            f"{split}: no pair is left ({counters['dropped_empty']} with an empty side,"
            f" {counters['dropped_long']} with more than data.maximum_tokens={maximum_tokens})"
        )
    return counters | {f"{side}_tokens": writer.position for side, writer in zip(SIDES, writers, strict=True)}
