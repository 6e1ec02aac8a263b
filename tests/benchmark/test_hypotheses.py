"""Stored sentences come back as they were, from bytes that depend on nothing else."""

import gzip
import hashlib

import pytest

from benchmark.hypotheses import compress_lines, lines_sha256, read_lines, without_line_ends

LINES = ["one", "", "U+2028 \u2028 U+0085 \u0085 VT \x0b FF \x0c CR \r", "last \x00 🙂"]


@pytest.mark.parametrize("lines", [LINES, [], [""], ["", ""]])
def test_sentences_come_back_as_they_were(tmp_path, lines):
    (tmp_path / "x.gz").write_bytes(compress_lines(lines))
    assert read_lines(tmp_path / "x.gz") == lines


def test_equal_sentences_give_equal_bytes_without_time_or_name(monkeypatch):
    first = compress_lines(LINES)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert compress_lines(LINES) == first
    assert first[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def test_the_hash_is_that_of_the_file_unpacked():
    assert lines_sha256(LINES) == hashlib.sha256(gzip.decompress(compress_lines(LINES))).hexdigest()


def test_a_line_end_inside_a_sentence_is_made_a_blank_first():
    with pytest.raises(AssertionError, match="without_line_ends"):
        compress_lines(["a\nb"])
    assert without_line_ends("a\nb\r\u2028c") == "a b\r\u2028c"


@pytest.mark.parametrize(
    "content",
    [
        compress_lines(LINES)[:-9],
        compress_lines(LINES)[:-2],
        b"plain text\n",
        gzip.compress(b"no end"),
        gzip.compress(b"\xff\xfe\n"),
        compress_lines(LINES)[:20] + b"\x00\x01" + compress_lines(LINES)[22:],
    ],
    ids=["cut in data", "cut in checksum", "not gzip", "no last end", "not UTF-8", "altered"],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.gz"):
        read_lines(tmp_path / "x.gz")
