"""Lines end at line ends alone; what is no text is named by file, line and byte; nothing grows unbounded."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks.data import reading
from tasks.data.reading import check_text, read_text


def written(folder: Path, content: bytes, name: str = "text") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["text", "text.gz"])
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\n\na\n\n", ["", "", "a", ""]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"a\r\nb\n", ["a\r", "b"]),
        (b"a\r\r\nb\r\n", ["a\r", "b"]),
        (b"a\rb\nc\n", ["a\rb", "c"]),
        (b"a\r", ["a\r"]),
        ("a\u2028b\u2029\x85\x0b\x0c\x1c\nc\n".encode(), ["a\u2028b\u2029\x85\x0b\x0c\x1c", "c"]),
        (b" a  b \t\n", [" a  b \t"]),
    ],
)
def test_lines_end_at_line_ends_alone(tmp_path: Path, name: str, content: bytes, lines: list[str]) -> None:
    text = check_text(written(tmp_path, content, name))
    assert list(read_text(text)) == lines
    assert text.lines == len(lines)
    assert [bool(empty) for empty in text.empty] == [not line.strip() for line in lines]


def test_lines_longer_than_a_block_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 7)
    lines = ["x" * length for length in (0, 6, 7, 8, 13, 14, 30, 1)]
    path = written(tmp_path, "\n".join(lines).encode())
    assert list(read_text(check_text(path))) == lines


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "{path}: is empty"),
        (b"good\nbad \xff\n", "{path}:2:5: not UTF-8 (byte 0xff); convert the file to UTF-8"),
        ("gut\nschön\n".encode("latin-1"), "{path}:2:4: not UTF-8 (byte 0xf6); convert the file to UTF-8"),
        ("ab".encode("utf-16"), "{path}:1:1: not UTF-8 (byte 0xff); convert the file to UTF-8"),
        (b"a\nb\xe2\x80", "{path}:2:2: not UTF-8 (byte 0xe2); convert the file to UTF-8"),
        (b"\xed\xa0\x80\n", "{path}:1:1: not UTF-8 (byte 0xed); convert the file to UTF-8"),
        (b"\xef\xbb\xbfa\n", "{path}:1:1: begins with a byte order mark; save the file as UTF-8 without one"),
        (b"a\nb\0c\n", "{path}:2:2: holds a NUL byte; this is no text file"),
    ],
)
@pytest.mark.parametrize("name", ["text", "text.gz"])
def test_what_is_not_text_is_named(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    path = written(tmp_path, content, name)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        check_text(path)
    assert str(error.value) == text.format(path=path)


def test_a_byte_order_mark_inside_the_text_is_a_character(tmp_path: Path) -> None:
    assert list(read_text(check_text(written(tmp_path, "a\n\ufeffb\n".encode())))) == ["a", "\ufeffb"]


@pytest.mark.parametrize("quarter", [0.25, 0.5, 0.75])
def test_a_cut_gzip_file_is_refused(tmp_path: Path, quarter: float) -> None:
    whole = gzip.compress("\n".join(str(number**3) for number in range(5000)).encode())
    path = tmp_path / "text.gz"
    path.write_bytes(whole[: int(len(whole) * quarter)])
    with pytest.raises(ValueError, match=r"text\.gz: not a complete gzip file after \d+ bytes of text \("):
        check_text(path)


def test_an_altered_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress("\n".join(str(number**3) for number in range(5000)).encode()))
    path = tmp_path / "text.gz"
    for position in range(100, len(whole), len(whole) // 10):
        altered = whole.copy()
        altered[position] ^= 0x55
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=r"text.gz"):
            check_text(path)


def test_a_page_under_a_gzip_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(b"<!DOCTYPE html><html>Not found</html>")
    with pytest.raises(ValueError, match=r"text.gz: not a complete gzip file after 0 bytes of text"):
        check_text(path)


BOMB = """
import resource, sys
from pathlib import Path
from tasks.data.reading import check_text
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    check_text(Path(sys.argv[1]))
except ValueError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize(
    ("line", "text"),
    [(b"\n", "grows to more than 200 times its size"), (b"", ":1: a line of more than 64 MiB")],
)
def test_a_gzip_bomb_is_refused_in_bounded_memory(tmp_path: Path, line: bytes, text: str) -> None:
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(300):
            file.write(b"a" * (1 << 20) + line)
    assert path.stat().st_size < 400_000
    done = subprocess.run([sys.executable, "-c", BOMB, str(path)], capture_output=True, text=True, check=True)
    message, memory = done.stdout.strip().split("\n")
    assert text in message
    assert int(memory) < 250, f"{memory} MiB"


@pytest.mark.parametrize("name", ["evil.tar", "evil.tar.gz", "evil.tgz", "evil.zip"])
def test_an_archive_is_never_opened(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("../outside", "x")
            archive.writestr("/absolute", "x")
    else:
        with tarfile.open(path, "w") as archive:
            for member, kind in (
                ("../outside", tarfile.REGTYPE),
                ("/absolute", tarfile.REGTYPE),
                ("link", tarfile.SYMTYPE),
            ):
                information = tarfile.TarInfo(member)
                information.type, information.linkname, information.size = kind, "../../etc/passwd", 0
                archive.addfile(information, io.BytesIO())
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError, match=r"archives are not read; name a text file, plain or .gz$"):
        check_text(path)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_an_archive_under_another_name_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("member", "x")
    with pytest.raises(ValueError, match=r"holds a NUL byte|not UTF-8"):
        check_text(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing: no such file$"):
        check_text(tmp_path / "missing")
    with pytest.raises(ValueError, match=r": is not a file$"):
        check_text(tmp_path)
