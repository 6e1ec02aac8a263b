"""Agreement across attractors: accuracy against the distance between a subject and its verb.

    source     adv4 the noun3s prep2 the noun7 prep0 the noun12 adv1 verb5       target     verb5-plural
    source     the noun3 prep2 the noun7s prep0 the noun12s adv1 verb5           target     verb5-singular

Some adverbs, a noun phrase, attached phrases each with a noun of its own number (attractors), an adverb, and
the stem of the verb, whose form is asked for. It agrees with the first noun, whatever stands between. The
distance is the number of attached nouns: 2 here. Each test split holds one distance, and in it the nearest
noun always has the other number, so that it is no clue; training draws all numbers evenly. The adverbs at the
beginning keep the first noun from having one place.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tasks.data.distances import ByDistance, DistanceConfig


class Config(DistanceConfig):
    """Words, numbers and the count of attached phrases are drawn evenly."""

    version: ClassVar[int] = 2
    nouns: int = Field(default=60, ge=2)
    verbs: int = Field(default=40, ge=2)
    prepositions: int = Field(default=8, ge=1)
    adverbs: int = Field(default=8, ge=1)
    maximum_leading: int = Field(default=4, ge=0)
    """Adverbs before the subject, at most."""
    maximum_attached: int = Field(default=6, ge=1)
    """Attached nouns of the longest sentence in training, and so the largest distance there."""
    distances: tuple[int, ...] = (1, 2, 4, 6, 8, 10, 12)

    def build(self, data_directory: Path) -> Agreement:
        return Agreement(self)

    def tiny(self) -> Config:
        sizes = {"nouns": 8, "verbs": 6, "maximum_attached": 2, "distances": (1, 2, 3)}
        return self.model_copy(update=sizes | {"train_pairs": 200, "validation_pairs": 20, "test_pairs": 20})


class Agreement(ByDistance):
    """A sentence with its verb's stem in, the verb's form out."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.maximum_attached)
        self.config = config

    def drawn(self, chance: random.Random, distance: int | None) -> tuple[str, str]:
        config = self.config
        attached = chance.randint(0, config.maximum_attached) if distance is None else distance
        plural = chance.random() < 0.5
        leading = chance.randint(0, config.maximum_leading)
        words = [f"adv{chance.randrange(config.adverbs)}" for _ in range(leading)]
        words += ["the", _noun(chance.randrange(config.nouns), plural)]
        for number in range(attached):
            is_nearest = distance is not None and number == attached - 1
            other = not plural if is_nearest else chance.random() < 0.5
            words += [f"prep{chance.randrange(config.prepositions)}", "the"]
            words.append(_noun(chance.randrange(config.nouns), other))
        verb = chance.randrange(config.verbs)
        words += [f"adv{chance.randrange(config.adverbs)}", f"verb{verb}"]
        return " ".join(words), f"verb{verb}{'-plural' if plural else '-singular'}"


def _noun(number: int, plural: bool) -> str:
    """Singular and plural are words of their own: nothing but training says which is which."""
    return f"noun{number}{'s' if plural else ''}"
