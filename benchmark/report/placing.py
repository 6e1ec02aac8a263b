"""Files that are made out of sight and come to their place when all of them are whole."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmark.store import StorageError

STALE_SECONDS = 3600.0
"""After so long without a new file, what is made belongs to a process that was killed."""


@contextlib.contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """A new folder inside `folder`, which is made where it is missing; at the end it goes, with all that was
    not moved out of it, and so do those that killed processes left.

    Raises:
        StorageError: it cannot be made, or what is made in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".report.*.tmp"):
            with contextlib.suppress(FileNotFoundError):  # another process has just taken it away
                if time.time() - _last_written(path) > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=".report.", suffix=".tmp", dir=folder))
        try:
            yield new
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror}") from error


def _last_written(folder: Path) -> float:
    """When a file was last put into it, or into a folder of it."""
    return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
