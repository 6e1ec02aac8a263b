"""What a model produced, kept beside its record, so that it can be scored again without the model.

A file is gzipped UTF-8 with one sentence per line. A line ends at "\\n" and nowhere else, so a sentence that
holds a carriage return or U+2028 comes back as it was. Equal sentences give equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable
from pathlib import Path


def without_line_ends(text: str) -> str:
    """`text` with every "\\n" made a blank: done to what a model produces before it is scored and stored.

    Raw references have no line end inside; a vocabulary of bytes can still produce one.
    """
    return text.replace("\n", " ")


def compress_lines(lines: Iterable[str]) -> bytes:
    """The content of a text file that holds `lines`."""
    buffer = io.BytesIO()
    # gzip.compress writes a header that differs between Python versions; this one does not
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, compresslevel=9, mtime=0) as stream:
        for line in lines:
            assert "\n" not in line, f"a sentence holds a line end: {line!r}; see without_line_ends"
            stream.write(line.encode("utf-8") + b"\n")
    return buffer.getvalue()


def lines_sha256(lines: Iterable[str]) -> str:
    """SHA-256 of `lines` as UTF-8, each ended by a line feed: what a record keeps of its output."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8") + b"\n")
    return digest.hexdigest()


def read_lines(path: Path) -> list[str]:
    """The sentences of a text file. ValueError if it is cut off, not gzip or not UTF-8."""
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise
        raise ValueError(f"{path}: not a complete gzip file of UTF-8 text ({error})") from error
    if text and not text.endswith("\n"):
        raise ValueError(f"{path}: the last line has no end; the file was cut off")
    return text.split("\n")[:-1]


def hypotheses_path(run_folder: Path, split: str) -> Path:
    """Where a run keeps what it produced for `split`."""
    return run_folder / f"hypotheses.{split}.txt.gz"
