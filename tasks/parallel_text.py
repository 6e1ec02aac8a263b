"""Your own parallel text: two files for each split, or one TSV file for each, plain or .gz.

    train.en       A dog runs .                two files: train=train source=en target=de
    train.de       Ein Hund läuft .

    train.tsv      A dog runs .<tab>Ein Hund läuft .          one file: train=train.tsv

Everything is read once and checked before anything starts. Lines end at "\\n" only; "\\r\\n" where every line
of a file ends so. Pairs with an empty side, an empty line of a TSV file among them, are left out of training
and kept elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks import TRAIN, VALIDATION, Task, TaskConfig
from tasks.data.reading import CheckedText, check_text, read_text

SUSPICIOUS_RATIO = 4
"""How far the lengths of two lines may be from the usual ratio before they look like no pair."""


class Config(TaskConfig):
    """Names of files are relative to the data directory, or absolute."""

    reads_files: ClassVar[bool] = True

    train: str = "train.tsv"
    """A TSV file; or, with `source` and `target`, what the names of two files begin with."""
    validation: str = "validation.tsv"
    """Likewise."""
    test: str | None = None
    """Likewise; without one, nothing but validation is scored."""
    source: str | None = None
    """Ending of the source files, `en` or `en.gz`; .gz is also found by itself. None: TSV, source first."""
    target: str | None = None
    """Ending of the target files."""
    vocabulary: Literal["subwords", "symbols"] = "subwords"
    """Subwords (scored by BLEU), or the words between blanks as they are (scored by accuracy)."""
    vocabulary_size: int = Field(default=8000, ge=300)
    """Subwords of both sides together, 260 of them bytes and special ones; means nothing for symbols."""
    texts_may_be_copied: bool = False
    """Whether test sources and references may lie beside the results."""

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.source is None) != (self.target is None):
            raise ValueError("source and target name the endings of two files: set both, or none for TSV")
        return self

    def build(self, data_directory: Path) -> ParallelText:
        return ParallelText(self, data_directory)


class ParallelText(Task):
    """Pairs from files, which were checked when this was made."""

    def __init__(self, config: Config, data_directory: Path) -> None:
        self.vocabulary = config.vocabulary
        symbols = config.vocabulary == "symbols"
        self.vocabulary_size = None if symbols else config.vocabulary_size
        self.metrics = ("sequence_accuracy", "token_accuracy") if symbols else ("bleu", "chrf")
        self.texts_may_be_copied = config.texts_may_be_copied
        self.test_splits = () if config.test is None else ("test",)
        self._files: dict[str, list[CheckedText]] = {}
        for split, name in ((TRAIN, config.train), (VALIDATION, config.validation), ("test", config.test)):
            if name is None:
                continue
            if config.source is None or config.target is None:
                text = check_text(_find(data_directory, name, f"task.{split}"))
                _check_columns(text)
                self._files[split] = [text]
            else:
                names = (f"{name}.{config.source}", f"{name}.{config.target}")
                texts = [check_text(_find(data_directory, name, f"task.{split}")) for name in names]
                check_alignment(*texts)
                self._files[split] = texts

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        texts = self._files[split]
        if len(texts) == 2:
            yield from zip(*(read_text(text) for text in texts), strict=True)
        else:
            for line in read_text(texts[0]):
                source, _, target = line.partition("\t")
                yield source, target

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for split, texts in self._files.items():
            digest.update(f"{split} {' '.join(text.sha256 for text in texts)}\n".encode())
        return digest.hexdigest()


def _find(data_directory: Path, name: str, field: str) -> Path:
    path = data_directory / name
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        raise ValueError(f"{field}: {path} is a folder, not a file")
    if not path.parent.is_dir():
        raise ValueError(f"{field}: there is no folder {path.parent}")
    raise ValueError(f"{field}: there is no file {path} (nor {path.name}.gz)")


def _check_columns(text: CheckedText) -> None:
    for number, line in enumerate(read_text(text), start=1):
        if (tabs := line.count("\t")) != 1 and line:  # an empty line is a pair of empty texts
            raise ValueError(
                f"{text.path}:{number}: must have one tab, between source and target; got {tabs or 'none'}"
            )


def check_alignment(source: CheckedText, target: CheckedText) -> None:
    """ValueError with both counts and the first suspicious line where two files are not of equal length."""
    if source.lines == target.lines:
        return
    shorter = min(source.lines, target.lines)
    where = f"the first {shorter} lines look like pairs"
    usual = sum(target.characters) / max(1, sum(source.characters))
    for number, (left, right) in enumerate(zip(source.characters, target.characters, strict=False)):
        one_is_empty = source.empty[number] != target.empty[number]
        # Ten characters of grace: short lines differ in length by nature.
        expected = left * usual
        longer = max(expected, right) + 10
        if one_is_empty or longer > SUSPICIOUS_RATIO * (min(expected, right) + 10):
            where = f"the first suspicious line is {number + 1} ({left} characters against {right})"
            break
    raise ValueError(
        f"{source.path} has {source.lines} lines but {target.path} has {target.lines}; {where};"
        f" pairs must stand on equal lines"
    )
