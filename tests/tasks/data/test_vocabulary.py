"""Text becomes ids and comes back whole; what training lacked is still read; learning is deterministic."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tasks.data.vocabulary import UNKNOWN, SubwordVocabulary, SymbolVocabulary, Vocabulary, load_vocabulary

PAIRS = [
    (f"the small dog number {n} runs fast.", f"der kleine Hund Nummer {n} läuft schnell.") for n in range(300)
]
AWKWARD = [
    "",
    "a  b   c ",
    " leading",
    "trailing ",
    "line\u2028separator",
    "next\x85line",
    "vertical\x0btab form\x0cfeed",
    "carriage\rreturn",
    "tab\tstop",
    "日本語 и русский 🙂",
    "no\u00a0break ﬁ ①",
    "<s> </s> <unk> <pad> <0x0A>",
]


@pytest.fixture(scope="module")
def subwords() -> SubwordVocabulary:
    return SubwordVocabulary.fit(PAIRS, 450)


@pytest.mark.parametrize("text", AWKWARD)
def test_subwords_give_any_text_back_unchanged(subwords: SubwordVocabulary, text: str) -> None:
    ids = subwords.encode(text)
    assert subwords.decode(ids) == text
    assert not set(ids) & {0, 1, 2, 3}


def test_characters_that_training_lacked_become_bytes_not_unknown(subwords: SubwordVocabulary) -> None:
    assert UNKNOWN not in subwords.encode("日本")
    assert len(subwords.encode("日")) >= 3


def test_a_separator_in_training_text_is_a_character_like_others() -> None:
    pairs = [(f"word{n}\u2028other{n}", f"x\x85y\x0bz{n}") for n in range(300)]
    vocabulary = SubwordVocabulary.fit(pairs, 350)
    for character in "\u2028\x85\x0b":
        assert len(vocabulary.encode("w" + character)) < len("w" + character) + len(character.encode())
    assert vocabulary.decode(vocabulary.encode(pairs[0][0])) == pairs[0][0]


def test_special_ids_are_reserved_and_size_is_as_asked(subwords: SubwordVocabulary) -> None:
    assert len(subwords) == 450
    assert min(min(subwords.encode(text)) for pair in PAIRS for text in pair) >= 4


def test_learning_again_gives_the_same_model(subwords: SubwordVocabulary, tmp_path: Path) -> None:
    subwords.save(tmp_path)
    first = hashlib.sha256((tmp_path / subwords.FILE).read_bytes()).hexdigest()
    SubwordVocabulary.fit(PAIRS, 450).save(tmp_path)
    assert hashlib.sha256((tmp_path / subwords.FILE).read_bytes()).hexdigest() == first


def test_too_many_subwords_says_how_many_are_possible() -> None:
    with pytest.raises(
        ValueError, match=r"^vocabulary_size: the training text gives only \d+ pieces, got 8000"
    ) as error:
        SubwordVocabulary.fit(PAIRS, 8000)
    possible = int(str(error.value).split("only ")[1].split()[0])
    assert len(SubwordVocabulary.fit(PAIRS, possible)) == possible


def test_too_few_subwords_for_the_characters_says_how_many_are_needed() -> None:
    pairs = [("".join(chr(0x4E00 + n) for n in range(300)), "x")]
    with pytest.raises(
        ValueError, match=r"^vocabulary_size: the characters of the training text need more than \d+, got 300"
    ):
        SubwordVocabulary.fit(pairs, 300)


def test_a_line_end_that_a_model_produces_stays_inside_its_line(subwords: SubwordVocabulary) -> None:
    newline = next(index for index in range(4, 260) if subwords._processor.id_to_piece(index) == "<0x0A>")
    assert "\n" not in subwords.decode([*subwords.encode("a"), newline, *subwords.encode("b")])


def test_decoding_leaves_out_padding_begin_and_end(subwords: SubwordVocabulary) -> None:
    assert subwords.decode([2, *subwords.encode("the dog"), 3, 0, 0]) == "the dog"


def test_work_is_bounded_by_the_limit_not_by_the_text(subwords: SubwordVocabulary) -> None:
    symbols = SymbolVocabulary.fit([("a b", "c")])
    for vocabulary in (subwords, symbols):
        text = "a b " * 1_000_000
        (ids,) = vocabulary.encode_batch([text], 10)
        assert len(ids) == 10
        assert ids == vocabulary.encode(text[:200])[:10]


def test_symbols_are_ordered_by_frequency_then_text() -> None:
    vocabulary = SymbolVocabulary.fit([("b a a", "c"), ("b", "d")])
    assert vocabulary.tokens == ["<pad>", "<unk>", "<s>", "</s>", "a", "b", "c", "d"]


def test_a_symbol_that_only_test_has_is_unknown() -> None:
    vocabulary = SymbolVocabulary.fit([("a b", "b a")])
    assert vocabulary.encode("a new b") == [4, UNKNOWN, 5]
    assert vocabulary.decode([4, UNKNOWN, 5]) == "a <unk> b"


def test_symbols_are_cut_at_single_blanks_alone() -> None:
    pairs = [("a\u2028b\tc d", "e\x85f")]
    vocabulary = SymbolVocabulary.fit(pairs)
    assert sorted(vocabulary.tokens[4:]) == ["a\u2028b\tc", "d", "e\x85f"]
    assert vocabulary.decode(vocabulary.encode(pairs[0][0])) == pairs[0][0]


@pytest.mark.parametrize("kind", ["symbols", "subwords"])
def test_saved_and_loaded_is_the_same(kind: str, subwords: SubwordVocabulary, tmp_path: Path) -> None:
    vocabulary: Vocabulary = subwords if kind == "subwords" else SymbolVocabulary.fit(PAIRS)
    vocabulary.save(tmp_path)
    loaded = load_vocabulary(kind, tmp_path)  # type: ignore[arg-type]
    assert len(loaded) == len(vocabulary)
    assert loaded.encode(PAIRS[7][1]) == vocabulary.encode(PAIRS[7][1])


@pytest.mark.parametrize("index", [-1, 10_000])
def test_an_id_out_of_range_is_refused(subwords: SubwordVocabulary, index: int) -> None:
    for vocabulary in (subwords, SymbolVocabulary.fit(PAIRS)):
        with pytest.raises(ValueError, match=f"token id {index} is not in a vocabulary of {len(vocabulary)}"):
            vocabulary.decode([index])
