"""Multi30k: 29,000 captions of photographs, translated (Elliott et al. 2016); task 1 of WMT 2016 to 2018.

    en    Two young, White males are outside near many bushes.
    de    Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.
    fr    Deux jeunes hommes blancs sont dehors près de buissons.

Raw files of the authors' repository, read from the data directory or its folder multi30k/, else fetched to
the latter.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks import VALIDATION, Task, TaskConfig
from tasks.data.download import fetch, verify

REPOSITORY = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
MAXIMUM_BYTES = 4 << 20
# Of the uncompressed text. The .gz files that these were taken from have the MD5 sums that torchtext recorded
# for the authors' repository.
SHA256 = {
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    "test_2017_flickr.en": "ce1450ddc5ab0834502579d77a170849952e15a2938b34cc503bdc25ebb4fb98",
    "test_2017_flickr.de": "c3078bc3b36808bf9d20eb2347ed6137016179ef59ec0d2b9b8ecc3fb2880081",
    "test_2017_flickr.fr": "6f3764e31dac41e9455e612958bcfd4e877c5e15cd66df2c2b2be6d9bd83e5b6",
}


class Config(TaskConfig):
    """One direction of three languages."""

    reads_files: ClassVar[bool] = True

    source: Literal["en", "de", "fr"] = "en"
    target: Literal["en", "de", "fr"] = "de"
    vocabulary_size: int = Field(default=8000, ge=300)
    """Subwords of both languages together, 260 of them bytes and special ones."""

    @model_validator(mode="after")
    def _two_languages(self) -> Self:
        if self.source == self.target:
            raise ValueError(f"source and target must differ, got {self.source} twice")
        return self

    def build(self, data_directory: Path) -> Multi30k:
        return Multi30k(self, data_directory)


class Multi30k(Task):
    """Captions; the files are there, and are what they should be, when this is made."""

    metrics = ("bleu", "chrf")
    vocabulary = "subwords"
    test_splits = ("test_2016_flickr", "test_2017_flickr")
    texts_may_be_copied = False  # the photographs' captions are Flickr users' and for research

    def __init__(self, config: Config, data_directory: Path) -> None:
        self.vocabulary_size = config.vocabulary_size
        self._languages = (config.source, config.target)
        self._files = {
            f"{split}.{language}": _file(data_directory, f"{split}.{language}")
            for split in ("train", "val", *self.test_splits)
            for language in self._languages
        }

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        name = "val" if split == VALIDATION else split
        with (
            gzip.open(self._files[f"{name}.{self._languages[0]}"], "rb") as sources,
            gzip.open(self._files[f"{name}.{self._languages[1]}"], "rb") as targets,
        ):
            for source, target in zip(sources, targets, strict=True):
                yield source.decode().removesuffix("\n"), target.decode().removesuffix("\n")


def _file(data_directory: Path, name: str) -> Path:
    here = data_directory / f"{name}.gz"
    path = here if here.is_file() else data_directory / "multi30k" / f"{name}.gz"
    if not path.is_file():
        fetch(f"{REPOSITORY}/{name}.gz", path, sha256=SHA256[name], maximum_bytes=MAXIMUM_BYTES)
    verify(path, SHA256[name])
    return path
