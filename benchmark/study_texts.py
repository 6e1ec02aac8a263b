"""The sources and references of a study's test splits, kept once, so that scores can be made again.

    texts/<task>-<hash of its data>/<split>.source.txt.gz
    texts/<task>-<hash of its data>/<split>.reference.txt.gz

A study may hold several tasks, or one with several settings, whose splits have equal names. Where a licence
does not let texts be copied, they are read from the task again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.config import canonical_json
from benchmark.hypotheses import compress_lines, read_lines
from benchmark.store import write_atomic

if TYPE_CHECKING:
    from tasks import Task

SOURCE, REFERENCE = "source", "reference"


def texts_folder(study_folder: Path, task: Mapping[str, Any], *, version: int, fingerprint: str) -> Path:
    """Where the texts of a task lie; `task` is the section of an experiment's document, its name included."""
    data = hashlib.sha256(canonical_json([dict(task), version, fingerprint]).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9_-]", "", Path(str(task.get("name"))).stem)[:40]
    return study_folder / "texts" / f"{name or 'task'}-{data}"


def keep_texts(folder: Path, task: Task, splits: Iterable[str]) -> None:
    """Write the texts of `splits` that are not in `folder` yet; none where the licence does not allow it."""
    if not task.texts_may_be_copied:
        return
    for split in splits:
        paths = [_path(folder, split, side) for side in (SOURCE, REFERENCE)]
        if all(path.exists() for path in paths):
            continue
        folder.mkdir(parents=True, exist_ok=True)
        for path, lines in zip(paths, zip(*task.pairs(split), strict=True), strict=True):
            write_atomic(path, compress_lines(lines))


def kept_references(folder: Path, split: str) -> list[str] | None:
    """The references of a split; None if they are not kept. ValueError if the file is damaged."""
    path = _path(folder, split, REFERENCE)
    return read_lines(path) if path.exists() else None


def kept_sources(folder: Path, split: str) -> list[str] | None:
    """The sources of a split; as `kept_references`."""
    path = _path(folder, split, SOURCE)
    return read_lines(path) if path.exists() else None


def _path(folder: Path, split: str, side: str) -> Path:
    return folder / f"{split}.{side}.txt.gz"
