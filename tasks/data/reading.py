"""Text files, plain or .gz, as streams: lines end at "\\n" alone, and what is not text is named exactly.

Python's `splitlines` and text mode also end lines at U+2028, U+0085, "\\x0b", "\\x0c" or a lone "\\r", which
puts the two sides of parallel text out of step. Archives are not read: nothing is ever extracted.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 64 << 20
LARGEST_RATIO = 200
"""A .gz file that grows by more than this is refused; text grows by 3 to 10."""
UNSUSPECTED_BYTES = 64 << 20
"""What any .gz file may grow to, whatever its ratio."""
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".zip", ".tar.bz2", ".tar.xz", ".7z")


@dataclass(frozen=True)
class CheckedText:
    """A file that was read once from end to end and holds nothing but lines of UTF-8."""

    path: Path
    lines: int
    carriage_returns: bool
    """Every "\\n" has "\\r" before it: lines end so. Otherwise a "\\r" belongs to its line."""
    characters: array[int]
    """Of each line."""
    empty: array[int]
    """1 where a line is white space alone."""
    sha256: str
    """Of the uncompressed bytes."""


def check_text(path: Path) -> CheckedText:
    """Read the whole file; ValueError names file, line and byte (both counted from 1) of what is not text."""
    digest = hashlib.sha256()
    characters, empty = array("I"), array("B")
    carriage_returns = True
    lines = 0
    for line, ended in _lines(path):
        lines += 1
        digest.update(line + b"\n" * ended)
        if lines == 1 and line.startswith(b"\xef\xbb\xbf"):
            raise ValueError(f"{path}:1:1: begins with a byte order mark; save the file as UTF-8 without one")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{lines}:{error.start + 1}: not UTF-8 (byte 0x{line[error.start]:02x});"
                f" convert the file to UTF-8"
            ) from None
        if (position := line.find(b"\0")) >= 0:
            raise ValueError(f"{path}:{lines}:{position + 1}: holds a NUL byte; this is no text file")
        carriage_returns &= text.endswith("\r") or not ended
        characters.append(len(text))
        empty.append(not text.strip())
    if not lines:
        raise ValueError(f"{path}: is empty")
    # A single line without an end says nothing about how lines end.
    carriage_returns &= lines > 1 or ended
    return CheckedText(path, lines, carriage_returns, characters, empty, digest.hexdigest())


def read_text(text: CheckedText) -> Iterator[str]:
    """The lines, without "\\n", and without the "\\r" before it where every line has one."""
    for line, _ in _lines(text.path):
        decoded = line.decode()
        yield decoded.removesuffix("\r") if text.carriage_returns else decoded


def read_blocks(path: Path) -> Iterator[bytes]:
    """The bytes, decompressed where the name ends in .gz; ValueError where that is cut, altered or a bomb."""
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    if not path.is_file():
        raise ValueError(f"{path}: is not a file")
    if path.name.endswith(ARCHIVES):
        raise ValueError(f"{path}: archives are not read; name a text file, plain or .gz")
    allowed = max(UNSUSPECTED_BYTES, LARGEST_RATIO * path.stat().st_size)
    given = 0
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                yield block
                given += len(block)
                if path.name.endswith(".gz") and given > allowed:
                    raise ValueError(
                        f"{path}: grows to more than {LARGEST_RATIO} times its size; decompress it yourself"
                        f" if you trust it"
                    )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a complete gzip file after {given} bytes of text ({error})") from None


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Each line without "\\n", and whether it had one: the last may lack it."""
    number = 0
    parts: list[bytes] = []
    held = 0
    for block in read_blocks(path):
        *ended, rest = block.split(b"\n")
        for line in ended:
            number += 1
            yield b"".join([*parts, line]) if parts else line, True
            parts, held = [], 0
        if rest:
            parts.append(rest)
            held += len(rest)
        if held > LONGEST_LINE_BYTES:
            raise ValueError(f"{path}:{number + 1}: a line of more than {LONGEST_LINE_BYTES >> 20} MiB")
    if parts:
        yield b"".join(parts), False
