"""A user's files are read as they are, and every fault is named before anything starts."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.data.corpus import prepare
from tasks.parallel_text import Config, ParallelText

SOURCE = [f"this is line number {number} of the source" for number in range(50)]
TARGET = [f"dies ist Zeile {number} des Zieltexts" for number in range(50)]


def write(path: Path, lines: list[str], end: str = "\n") -> None:
    content = "".join(line + end for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


def files(folder: Path, source: list[str] = SOURCE, target: list[str] = TARGET, gz: str = "") -> None:
    for split in ("train", "valid", "test"):
        write(folder / f"{split}.en{gz}", source)
        write(folder / f"{split}.de{gz}", target)


def build(folder: Path, **fields: object) -> ParallelText:
    names = {"train": "train", "validation": "valid", "test": "test", "source": "en", "target": "de"}
    return Config.model_validate(names | fields).build(folder)


def refusal(folder: Path, **fields: object) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        build(folder, **fields)
    return str(error.value)


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_two_files_for_each_split(tmp_path: Path, gz: str) -> None:
    files(tmp_path, gz=gz)
    task = build(tmp_path)
    for split in ("train", "validation", "test"):
        assert list(task.pairs(split)) == list(zip(SOURCE, TARGET, strict=True))
    assert task.test_splits == ("test",)
    assert build(tmp_path, source=f"en{gz}", target=f"de{gz}").fingerprint() == task.fingerprint()


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_one_tsv_for_each_split(tmp_path: Path, gz: str) -> None:
    for split in ("train", "valid", "test"):
        rows = [f"{source}\t{target}" for source, target in zip(SOURCE, TARGET, strict=True)]
        write(tmp_path / f"{split}.tsv{gz}", rows)
    task = build(tmp_path, train="train.tsv", validation="valid.tsv", test=None, source=None, target=None)
    assert list(task.pairs("train")) == list(zip(SOURCE, TARGET, strict=True))
    assert task.test_splits == ()


def test_absolute_names_leave_the_data_directory(tmp_path: Path) -> None:
    files(tmp_path)
    absolute = {
        "train": str(tmp_path / "train"),
        "validation": str(tmp_path / "valid"),
        "test": str(tmp_path / "test"),
    }
    assert len(list(build(Path("/nowhere"), **absolute).pairs("train"))) == 50


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    files(tmp_path)
    before = build(tmp_path).fingerprint()
    assert build(tmp_path).fingerprint() == before
    write(tmp_path / "test.de", [*TARGET[:-1], "anders"])
    assert build(tmp_path).fingerprint() != before


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\r", "\x1c", "\x1e"])
def test_a_separator_inside_a_line_keeps_the_pairs_aligned(tmp_path: Path, separator: str) -> None:
    source = [*SOURCE[:7], f"one{separator}two{separator}", *SOURCE[8:]]
    files(tmp_path, source)
    task = build(tmp_path, vocabulary_size=380)
    assert list(task.pairs("test")) == list(zip(source, TARGET, strict=True))
    corpus = prepare(task, {}, maximum_tokens=64, cache_directory=tmp_path / "cache")
    assert corpus.texts("test") == (source, TARGET)
    ids = corpus.splits["train"].source[7].tolist()
    assert corpus.vocabulary.decode(ids) == source[7]


def test_windows_line_ends_on_one_side_are_no_text(tmp_path: Path) -> None:
    files(tmp_path)
    write(tmp_path / "test.de", TARGET, end="\r\n")
    assert list(build(tmp_path).pairs("test")) == list(zip(SOURCE, TARGET, strict=True))


def test_a_missing_line_end_at_the_end_changes_nothing(tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / "test.de").write_bytes("\n".join(TARGET).encode())
    assert list(build(tmp_path).pairs("test")) == list(zip(SOURCE, TARGET, strict=True))


def test_unequal_files_give_both_counts_and_the_first_empty_line(tmp_path: Path) -> None:
    files(tmp_path)
    write(tmp_path / "train.de", [*TARGET[:30], "", *TARGET[30:]])
    assert refusal(tmp_path) == (
        f"{tmp_path}/train.en has 50 lines but {tmp_path}/train.de has 51; the first suspicious line is 31"
        f" (36 characters against 0); pairs must stand on equal lines"
    )


def test_unequal_files_give_the_first_line_of_odd_length(tmp_path: Path) -> None:
    source = [("long " * 30 if number % 5 == 0 else "short ") + str(number) for number in range(50)]
    files(tmp_path, source, source)
    write(tmp_path / "valid.de", [*source[:22], *source[23:]])
    assert refusal(tmp_path) == (
        f"{tmp_path}/valid.en has 50 lines but {tmp_path}/valid.de has 49; the first suspicious line is 25"
        f" (8 characters against 152); pairs must stand on equal lines"
    )


def test_unequal_files_without_a_suspicious_line_say_so(tmp_path: Path) -> None:
    files(tmp_path)
    write(tmp_path / "test.en", SOURCE[:-1])
    assert refusal(tmp_path) == (
        f"{tmp_path}/test.en has 49 lines but {tmp_path}/test.de has 50; the first 49 lines look like pairs;"
        f" pairs must stand on equal lines"
    )


def test_empty_lines_are_kept_and_an_empty_file_is_refused(tmp_path: Path) -> None:
    files(tmp_path, ["", *SOURCE[1:]], [*TARGET[:-1], ""])
    task = build(tmp_path, vocabulary="symbols")
    assert next(task.pairs("test")) == ("", TARGET[0])
    corpus = prepare(task, {}, maximum_tokens=64, cache_directory=tmp_path / "cache")
    assert corpus.counters["train"]["dropped_empty"] == 2
    assert corpus.counters["test"]["pairs"] == 50
    write(tmp_path / "test.de", [])
    assert refusal(tmp_path) == f"{tmp_path}/test.de: is empty"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("ok\nschön\n".encode("latin-1"), ":2:4: not UTF-8 (byte 0xf6); convert the file to UTF-8"),
        (b"\xef\xbb\xbfok\n", ":1:1: begins with a byte order mark; save the file as UTF-8 without one"),
        (b"ok\no\0k\n", ":2:2: holds a NUL byte; this is no text file"),
    ],
)
def test_what_is_not_text_is_refused(tmp_path: Path, content: bytes, text: str) -> None:
    files(tmp_path)
    (tmp_path / "valid.de").write_bytes(content)
    assert refusal(tmp_path) == f"{tmp_path}/valid.de{text}"


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    files(tmp_path)
    assert (
        refusal(tmp_path, test="tset") == f"task.test: there is no file {tmp_path}/tset.en (nor tset.en.gz)"
    )
    assert refusal(tmp_path, validation="sub/valid") == f"task.validation: there is no folder {tmp_path}/sub"
    (tmp_path / "train.en").unlink()
    (tmp_path / "train.en").mkdir()
    assert refusal(tmp_path) == f"task.train: {tmp_path}/train.en is a folder, not a file"


@pytest.mark.parametrize(("line", "got"), [("no tab", "none"), ("a\tb\tc", "2"), (" ", "none")])
def test_a_tsv_line_has_exactly_one_tab(tmp_path: Path, line: str, got: str) -> None:
    write(tmp_path / "train.tsv", ["a\tb", line, "c\td"])
    text = refusal(tmp_path, train="train.tsv", validation="train.tsv", test=None, source=None, target=None)
    assert text == f"{tmp_path}/train.tsv:2: must have one tab, between source and target; got {got}"


def test_an_empty_tsv_line_is_a_pair_of_empty_texts(tmp_path: Path) -> None:
    rows = ["a b\tb a", "", "c\td"]
    write(tmp_path / "train.tsv", rows)
    task = build(
        tmp_path, train="train.tsv", validation="train.tsv", test="train.tsv", source=None, target=None,
        vocabulary="symbols",
    )  # fmt: skip
    assert list(task.pairs("test")) == [("a b", "b a"), ("", ""), ("c", "d")]
    corpus = prepare(task, {}, maximum_tokens=64, cache_directory=tmp_path / "cache")
    assert (corpus.counters["train"]["dropped_empty"], corpus.counters["train"]["pairs"]) == (1, 2)
    assert corpus.counters["test"]["pairs"] == 3
    assert corpus.texts("test") == (["a b", "", "c"], ["b a", "", "d"])


def test_one_ending_without_the_other_is_refused() -> None:
    with pytest.raises(ValidationError, match="set both, or none for TSV"):
        Config.model_validate({"train": "a", "validation": "b", "source": "en"})


def test_symbols_are_scored_by_accuracy_and_subwords_by_bleu(tmp_path: Path) -> None:
    files(tmp_path)
    assert build(tmp_path).metrics[0] == "bleu"
    symbols = build(tmp_path, vocabulary="symbols")
    assert symbols.metrics[0] == "sequence_accuracy"
    assert symbols.vocabulary_size is None
