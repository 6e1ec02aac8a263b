"""Text to token ids and back: symbols between blanks, or subwords learned by sentencepiece.

Every vocabulary reserves the ids 0 padding, 1 unknown, 2 begin, 3 end; `encode` gives none of them but, for a
symbol that training did not have, 1. One vocabulary serves source and target, and it is fitted on the
training split alone.
"""

from __future__ import annotations

import io
import json
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Literal

import sentencepiece

PADDING, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")

LONGEST_PIECE = 16
"""Characters of the longest subword; a text of n characters has at least n / 16 pieces."""
FITTED_CHARACTERS = 1000
"""Of each line, what sentencepiece is trained on: it skips lines of more than 4,192 bytes."""


class Vocabulary(ABC):
    """A bijection of tokens and ids, and how text is cut into tokens."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of ids, the four special ones included."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """The first `limit` ids of each text, without special ones; what lies beyond costs nothing."""

    @abstractmethod
    def decode(self, ids: Iterable[int]) -> str:
        """One line of text; padding, begin and end are left out, an id out of range is a ValueError."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write one file to the folder, which exists."""

    def encode(self, text: str) -> list[int]:
        """All ids of the text, without special ones."""
        return self.encode_batch([text], len(text.encode()) + 2)[0]

    def _words(self, ids: Iterable[int]) -> list[int]:
        words = [int(index) for index in ids if index not in (PADDING, BEGIN, END)]
        for index in words:
            if not 0 <= index < len(self):
                raise ValueError(f"token id {index} is not in a vocabulary of {len(self)}")
        return words


class SymbolVocabulary(Vocabulary):
    """Tokens are what lies between single blanks; the most frequent come first."""

    FILE = "symbols.json"

    def __init__(self, symbols: Sequence[str]) -> None:
        self.tokens = [*SPECIAL, *symbols]
        self._ids = {symbol: index for index, symbol in enumerate(symbols, start=len(SPECIAL))}
        assert len(self._ids) == len(symbols), "a symbol occurs twice"

    @classmethod
    def fit(cls, pairs: Iterable[tuple[str, str]]) -> SymbolVocabulary:
        """All symbols of both sides, by falling frequency, equals by their text."""
        counts: Counter[str] = Counter()
        for source, target in pairs:
            counts.update(f"{source} {target}".split(" "))
        return cls(sorted(counts, key=lambda symbol: (-counts[symbol], symbol)))

    @classmethod
    def load(cls, folder: Path) -> SymbolVocabulary:
        """What `save` wrote."""
        return cls(json.loads((folder / cls.FILE).read_bytes()))

    def save(self, folder: Path) -> None:
        (folder / self.FILE).write_bytes(json.dumps(self.tokens[len(SPECIAL) :], ensure_ascii=False).encode())

    def __len__(self) -> int:
        return len(self.tokens)

    def encode_batch(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        # The bound on split keeps a text of a million symbols from becoming a list of a million strings.
        return [
            list(map(self._ids.get, text.split(" ", limit)[:limit], repeat(UNKNOWN))) if text else []
            for text in texts
        ]

    def decode(self, ids: Iterable[int]) -> str:
        return " ".join(self.tokens[index] for index in self._words(ids))


class SubwordVocabulary(Vocabulary):
    """Byte-pair encoding over source and target together (Sennrich et al. 2016), by sentencepiece.

    Text is not normalised, blanks are kept, and a character that training did not have becomes its UTF-8
    bytes, so that nothing is unknown and `decode(encode(text)) == text` (but for U+2581, sentencepiece's own
    sign for a blank).
    """

    FILE = "subwords.model"

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(model)
        self._threads = (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )

    @classmethod
    def fit(cls, pairs: Iterable[tuple[str, str]], size: int) -> SubwordVocabulary:
        """Learn `size` pieces, special ones and 256 bytes included.

        Raises:
            ValueError: the text gives fewer pieces, or its characters need more.
        """
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_lines(pairs),
                model_writer=model,
                model_type="bpe",
                vocab_size=size,
                character_coverage=1.0,
                byte_fallback=True,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentencepiece_length=LONGEST_PIECE,
                num_threads=1,
                pad_id=PADDING,
                unk_id=UNKNOWN,
                bos_id=BEGIN,
                eos_id=END,
                pad_piece=SPECIAL[PADDING],
                unk_piece=SPECIAL[UNKNOWN],
                bos_piece=SPECIAL[BEGIN],
                eos_piece=SPECIAL[END],
                minloglevel=3,
            )
        except RuntimeError as error:
            raise ValueError(f"vocabulary_size: {_reason(str(error), size)}") from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, folder: Path) -> SubwordVocabulary:
        """What `save` wrote."""
        return cls((folder / cls.FILE).read_bytes())

    def save(self, folder: Path) -> None:
        (folder / self.FILE).write_bytes(self._model)

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def encode_batch(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        longest = LONGEST_PIECE * (limit + 1)
        pieces = self._processor.encode([text[:longest] for text in texts], num_threads=self._threads)
        return [ids[:limit] for ids in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        # A model may produce the byte of a line end, which would break files of one sentence a line.
        return str(self._processor.decode(self._words(ids))).replace("\n", " ")


def load_vocabulary(kind: Literal["symbols", "subwords"], folder: Path) -> Vocabulary:
    """The vocabulary that lies in the folder."""
    return SymbolVocabulary.load(folder) if kind == "symbols" else SubwordVocabulary.load(folder)


def _lines(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    for pair in pairs:
        for text in pair:
            yield text[:FITTED_CHARACTERS]


def _reason(error: str, size: int) -> str:
    if found := re.search(r"too high \(\d+\).*<= (\d+)", error):
        return f"the training text gives only {found[1]} pieces, got {size}; set it to {found[1]} or less"
    if found := re.search(
        r"required_chars. *(\d+) vs (\d+)|smaller than required_chars\D*\d+\D+(\d+)", error
    ):
        needed = next(group for group in reversed(found.groups()) if group)
        return f"the characters of the training text need more than {needed}, got {size}; set it higher"
    return f"sentencepiece cannot learn {size} pieces from the training text: {error.strip()}"
