"""Public files, fetched once: nothing gets its final name before its length and SHA-256 are right.

The SHA-256 is that of the uncompressed content, so that a file that somebody compressed again is still known.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from tasks.data.reading import BLOCK_BYTES, read_blocks

ATTEMPTS = 2
TIMEOUT_SECONDS = 30.0
ELSEWHERE = "or put the file into a folder and name that with --data-dir or SEQBENCH_DATA"


def find_data_directory(named: Path | None) -> Path:
    """The folder that `--data-dir` names, else SEQBENCH_DATA, else seqbench's own in the user's cache.

    Raises:
        ValueError: a folder that was named does not exist.
    """
    source, folder = "--data-dir", named
    if folder is None and os.environ.get("SEQBENCH_DATA"):
        source, folder = "SEQBENCH_DATA", Path(os.environ["SEQBENCH_DATA"])
    if folder is None:
        return user_cache_path("seqbench") / "data"
    if not folder.is_dir():
        raise ValueError(f"{source}: there is no folder {folder}")
    return folder


def content_sha256(path: Path) -> str:
    """SHA-256 of the content, decompressed where the name says .gz; ValueError where it cannot be."""
    digest = hashlib.sha256()
    for block in read_blocks(path):
        digest.update(block)
    return digest.hexdigest()


def verify(path: Path, sha256: str) -> None:
    """ValueError, naming both hashes, where the content is another."""
    try:
        found = content_sha256(path)
    except ValueError as error:
        raise ValueError(
            f"{error}; expected content of SHA-256 {sha256}, got a file of {_raw_sha256(path)}"
        ) from None
    if found != sha256:
        raise ValueError(f"{path}: expected content of SHA-256 {sha256}, got {found}")


def fetch(url: str, path: Path, *, sha256: str, maximum_bytes: int) -> None:
    """Fetch a file to `path`, unless it is there.

    Args:
        sha256: of the uncompressed content.
        maximum_bytes: a longer answer is cut off and refused.

    Raises:
        ValueError: no connection, what came twice was not the file, or the disk did not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            failure = ""
            for _ in range(ATTEMPTS):
                if path.exists():
                    return
                # The name ends as the final one does, for that says how to read it.
                partial = path.with_name(f".partial.{path.name}")
                try:
                    _stream(url, partial, maximum_bytes)
                    verify(partial, sha256)
                    partial.replace(path)
                except (
                    ValueError,
                    urllib.error.URLError,
                    http.client.HTTPException,
                    TimeoutError,
                    ConnectionError,
                ) as error:
                    failure = " ".join(str(error).replace(str(partial), "the answer").split())
                finally:
                    partial.unlink(missing_ok=True)
            if not path.exists():
                raise ValueError(f"{url}: {failure}; try again, {ELSEWHERE}")
    except PermissionError:
        raise ValueError(f"{path}: not there, and the folder cannot be written to; fetch {url}") from None
    except OSError as error:
        problem = f"could not be written: {error.strerror} (it takes {maximum_bytes:,} bytes at most)"
        raise ValueError(f"{path}: {problem}; fetch {url} elsewhere, {ELSEWHERE}") from None


def _stream(url: str, path: Path, maximum_bytes: int) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as file:
        announced = answer.headers.get("Content-Length")
        received = 0
        while block := answer.read(BLOCK_BYTES):
            file.write(block)
            received += len(block)
            if received > maximum_bytes:
                raise ValueError(f"the answer is longer than {maximum_bytes} bytes")
        file.flush()
        os.fsync(file.fileno())
    # `read` returns what there is when a connection ends early.
    if announced is not None and int(announced) != received:
        raise ValueError(
            f"the answer ended after {received} of {announced} bytes (SHA-256 of those {_raw_sha256(path)})"
        )


def _raw_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
