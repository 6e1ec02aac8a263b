"""Translation between two generated languages: word order, long agreement, inflection, no download.

    source    S  -> C | C because C           C  -> NP [not] verb [NP] [prep NP] [adverb]
              NP -> article adjective* noun [of prep NP] [that RC]
              RC -> verb [NP] | NP verb       subject, verb, object; only number is marked; one reading each

    target    S  -> C | because C, C          C  -> NP [PP] [NP-acc] [adverb] verb
              NP -> article [PP link] noun adjective* [that RC]
              PP -> NP-obl postposition | NP-loc

The target is verb-final and inflected. Its nouns have one of three genders that the source does not show;
article, link, adjectives, relative pronoun and, across all that lies between, the verb agree with their noun
in gender and number; articles, nouns and pronouns show case. Vowels of endings follow the stem (a u, e i).
Some plurals and pasts are irregular. A third of the verbs, adjectives and prepositions translate in two ways,
by what the object, the noun or the place is: a being, a thing or a place. Most nouns have two names
that mean the same; nothing that a model sees says which one stands, so that no score reaches 100, as among
human translators.

    source    Ven teplailvail pa drultroungrilet bro griplar taisgrilos dapendruot flon to brarboulz.
    target    Mekme dez benme chumanu duknu jekjerme chotpoma chukartda chokloshda jur gitnettime.

Words are invented from the seed; the frequent ones are few (Zipf). A hash of the source decides which split a
pair may be in, so that splits are disjoint.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from tasks import TRAIN, VALIDATION, Task, TaskConfig

Case = Literal["nominative", "accusative", "oblique", "locative"]

BEING, THING, PLACE = range(3)
KIND_BOUNDS = (0.45, 0.8)
"""Of a draw from 0 to 1: where things and places begin among the nouns."""
SHORTEST, LONGEST = 4, 30
"""Words of a sentence, on either side."""
SHARES = 8
"""Of 8 parts of all sources, one is for validation, one for test, the rest for training."""

# Endings of the target. A and I stand for the vowel that harmony chooses: a, u after back stems, e, i after
# front ones.
CONCORD = (("kA", "sI", "mA"), ("kArt", "sIn", "mAj"))
"""Gender and number, [plural][gender], on articles, links, adjectives, pronouns and verbs."""
CASES: dict[Case, str] = {"nominative": "", "accusative": "nI", "oblique": "dA", "locative": "shtI"}
PLURAL = "lAr"
TENSES = ("", "tI")
NEGATION = "mIv"


class Config(TaskConfig):
    """The sizes of the lexicon and of the splits."""

    nouns: int = Field(default=240, ge=10)
    """Different nouns: beings, things and places."""
    verbs: int = Field(default=120, ge=4)
    """Different verbs; a third takes no object."""
    adjectives: int = Field(default=70, ge=2)
    adverbs: int = Field(default=30, ge=1)
    train_pairs: int = Field(default=20_000, ge=1)
    validation_pairs: int = Field(default=500, ge=1)
    test_pairs: int = Field(default=500, ge=1)
    vocabulary_size: int = Field(default=2000, ge=300)
    """Subwords of both languages together, 260 of them bytes and special ones."""
    seed: int = Field(default=0, ge=0)

    def build(self, data_directory: Path) -> GrammarTranslation:
        return GrammarTranslation(self)

    def tiny(self) -> Config:
        sizes = {"nouns": 20, "verbs": 9, "adjectives": 6, "adverbs": 3, "vocabulary_size": 400}
        return self.model_copy(update=sizes | {"train_pairs": 200, "validation_pairs": 20, "test_pairs": 20})


class Stem(NamedTuple):
    """A word of the lexicon: its source stem and its target stems."""

    source: str
    target: str
    other: str
    """Of an ambiguous word, the target stem in the other company (see `Lexicon`); else the same."""
    irregular: str | None
    """Target stem of an irregular plural (nouns) or past (verbs), in place of the ending."""
    synonym: str
    """Another target stem of a noun, which means the same; where there is none, `target` again."""
    gender: int = 0
    kind: int = BEING


class Words:
    """Stems of one part of speech, drawn by a Zipf-like law."""

    def __init__(self, stems: Sequence[Stem]) -> None:
        self.stems = tuple(stems)
        weights = (1 / (rank + 1) for rank in range(len(self.stems)))
        self._cumulative = list(itertools.accumulate(weights))

    def draw(self, chance: random.Random) -> Stem:
        return self.stems[bisect_right(self._cumulative, chance.random() * self._cumulative[-1])]


def _draw_index(chance: random.Random, size: int) -> int:
    # `random` alone: the other methods of Random may give other values in another version of Python.
    return int(chance.random() * size)


def _invent(chance: random.Random, taken: set[str], syllable: Callable[[], str], syllables: int) -> str:
    while True:
        word = "".join(syllable() for _ in range(syllables))
        if word not in taken:
            taken.add(word)
            return word
        syllables += chance.random() < 0.1  # short words run out


class Lexicon:
    """Both languages' words, invented from the seed."""

    def __init__(self, config: Config) -> None:
        chance = random.Random(f"lexicon {config.seed}")
        self._chance = chance
        self._taken: tuple[set[str], set[str]] = (set(), set())
        nouns: list[list[Stem]] = [[], [], []]
        for number in range(config.nouns):
            # Every kind has a noun, however few there are.
            kind = number if number < 3 else bisect_right(KIND_BOUNDS, chance.random())
            nouns[kind].append(
                self._stem(irregular=0.12, synonym=0.7, gender=_draw_index(chance, 3), kind=kind)
            )
        self.nouns = tuple(Words(stems) for stems in nouns)
        """By kind."""
        verbs = [self._stem(ambiguous=0.33, irregular=0.15) for _ in range(config.verbs)]
        alone = max(1, config.verbs // 3)
        self.intransitive, self.transitive = Words(verbs[:alone]), Words(verbs[alone:])
        """`other` translates a verb whose object is no being."""
        self.adjectives = Words([self._stem(ambiguous=0.33) for _ in range(config.adjectives)])
        """`other` goes with what is no being."""
        self.adverbs = Words([self._stem() for _ in range(config.adverbs)])
        self.prepositions = Words([self._stem(length=1, ambiguous=0.33) for _ in range(9)])
        """Ambiguous ones are a locative ending on places, a postposition elsewhere."""
        self.source_articles = [[self._source(1) for _ in range(2)] for _ in range(2)]
        """[definite][plural]."""
        self.target_articles = [self._target(1) for _ in range(2)]
        """[definite], without endings."""
        self.relative, self.because, self.no, self.of = (self._source(1) for _ in range(4))
        self.pronoun, self.link, self.reason = (self._target(1) for _ in range(3))

    def _source(self, syllables: int) -> str:
        def syllable() -> str:
            parts = (_ONSETS, _VOWELS, _CODAS)
            return "".join(part[_draw_index(self._chance, len(part))] for part in parts)

        return _invent(self._chance, self._taken[0], syllable, syllables)

    def _target(self, syllables: int) -> str:
        vowels = ("aou", "ei")[_draw_index(self._chance, 2)]

        def syllable() -> str:
            parts = (_TARGET_ONSETS, vowels, _TARGET_CODAS)
            return "".join(part[_draw_index(self._chance, len(part))] for part in parts)

        return _invent(self._chance, self._taken[1], syllable, syllables)

    def _stem(
        self,
        *,
        length: int | None = None,
        ambiguous: float = 0.0,
        irregular: float = 0.0,
        synonym: float = 0.0,
        gender: int = 0,
        kind: int = BEING,
    ) -> Stem:
        chance = self._chance
        source_length = length or 1 + _draw_index(chance, 3)
        target = self._target(length or 1 + _draw_index(chance, 2))
        other = self._target(length or 2) if chance.random() < ambiguous else target
        exception = self._target(2) if chance.random() < irregular else None
        same = self._target(2) if chance.random() < synonym else target
        return Stem(self._source(source_length), target, other, exception, same, gender, kind)


_ONSETS = ("b", "d", "f", "g", "l", "m", "n", "p", "r", "t", "v", "br", "dr", "fl", "gr", "pl", "st", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
_CODAS = ("", "", "l", "n", "r", "s")
_TARGET_ONSETS = ("b", "ch", "d", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "sh", "t", "v", "y", "z")
_TARGET_CODAS = ("", "", "k", "n", "r", "sh", "t", "z")


@dataclass(frozen=True)
class NounPhrase:
    """What both languages say of one noun."""

    noun: Stem
    plural: bool
    definite: bool
    adjectives: tuple[Stem, ...]
    place: Place | None
    relative: Clause | None
    """Its missing subject or object is this noun."""


@dataclass(frozen=True)
class Place:
    """A preposition and its noun phrase."""

    preposition: Stem
    noun_phrase: NounPhrase


@dataclass(frozen=True)
class Clause:
    """A verb and what belongs to it. In a relative clause the subject or the object is missing."""

    verb: Stem
    past: bool
    negated: bool
    subject: NounPhrase | None
    object: NounPhrase | None
    place: Place | None
    adverb: Stem | None


class Meaning:
    """Draws sentences, before either language puts them into words."""

    def __init__(self, lexicon: Lexicon, chance: random.Random) -> None:
        self._lexicon, self._chance = lexicon, chance

    def _happens(self, probability: float) -> bool:
        return self._chance.random() < probability

    def clauses(self) -> list[Clause]:
        """A main clause and, at times, its reason."""
        return [self._clause(depth=0) for _ in range(2 if self._happens(0.06) else 1)]

    def _clause(self, *, depth: int) -> Clause:
        transitive = self._happens(0.7)
        subject = self._noun_phrase((BEING, BEING, BEING, THING), depth=depth)
        thing = self._noun_phrase((BEING, THING, THING, PLACE), depth=depth) if transitive else None
        return self._around(transitive, subject, thing, depth=depth)

    def _around(
        self, transitive: bool, subject: NounPhrase | None, thing: NounPhrase | None, *, depth: int
    ) -> Clause:
        lexicon, chance = self._lexicon, self._chance
        return Clause(
            verb=(lexicon.transitive if transitive else lexicon.intransitive).draw(chance),
            past=self._happens(0.4),
            negated=self._happens(0.15),
            subject=subject,
            object=thing,
            # None in relative clauses, so that a place or an adverb at the end has one reading.
            place=self._place(depth=1) if depth == 0 and self._happens(0.2) else None,
            adverb=lexicon.adverbs.draw(chance) if depth == 0 and self._happens(0.2) else None,
        )

    def _place(self, *, depth: int) -> Place:
        preposition = self._lexicon.prepositions.draw(self._chance)
        return Place(preposition, self._noun_phrase((PLACE, PLACE, THING), depth=depth))

    def _noun_phrase(self, kinds: tuple[int, ...], *, depth: int) -> NounPhrase:
        lexicon, chance = self._lexicon, self._chance
        noun = lexicon.nouns[kinds[_draw_index(chance, len(kinds))]].draw(chance)
        adjectives = bisect_right([0.7, 0.95], chance.random())
        relative = None
        if self._happens((0.13, 0.1, 0.0)[min(depth, 2)]):
            relative = self._relative(noun, depth=depth + 1)
        return NounPhrase(
            noun=noun,
            plural=self._happens(0.4),
            definite=self._happens(0.6),
            adjectives=tuple(lexicon.adjectives.draw(chance) for _ in range(adjectives)),
            # Its noun has no relative clause, so that one that follows belongs to this noun.
            place=self._place(depth=2) if depth < 2 and self._happens(0.07) else None,
            relative=relative,
        )

    def _relative(self, head: Stem, *, depth: int) -> Clause:
        if self._happens(0.4):
            return self._around(True, self._noun_phrase((BEING,), depth=depth), None, depth=depth)
        transitive = self._happens(0.7)
        thing = self._noun_phrase((BEING, THING, PLACE), depth=depth) if transitive else None
        return self._around(transitive, None, thing, depth=depth)


class Source:
    """Puts a meaning into words of the source: subject, verb, object."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def sentence(self, clauses: list[Clause]) -> str:
        words = self._clause(clauses[0], plural=False)
        for reason in clauses[1:]:
            words += [self._lexicon.because, *self._clause(reason, plural=False)]
        return _punctuated(words)

    def _clause(self, clause: Clause, *, plural: bool) -> list[str]:
        """`plural` is the number of the subject that a relative clause takes from outside."""
        subject = clause.subject
        words = self._noun_phrase(subject) if subject else []
        if clause.negated:
            words.append(self._lexicon.no)
        ending = (("et", "en"), ("ot", "on"))[clause.past][subject.plural if subject else plural]
        words.append(clause.verb.source + ending)
        if clause.object:
            words += self._noun_phrase(clause.object)
        if clause.place:
            words += self._place(clause.place)
        if clause.adverb:
            words.append(clause.adverb.source)
        return words

    def _place(self, place: Place) -> list[str]:
        return [place.preposition.source, *self._noun_phrase(place.noun_phrase)]

    def _noun_phrase(self, phrase: NounPhrase) -> list[str]:
        words = [self._lexicon.source_articles[phrase.definite][phrase.plural]]
        words += [adjective.source for adjective in phrase.adjectives]
        words.append(phrase.noun.source + "z" * phrase.plural)
        if phrase.place:
            words += [self._lexicon.of, *self._place(phrase.place)]
        if phrase.relative:
            words += [self._lexicon.relative, *self._clause(phrase.relative, plural=phrase.plural)]
        return words


class Target:
    """Puts a meaning into words of the target: verb-final, inflected.

    Which of two synonyms a noun gets is decided by a hash of the sentence: the same each time, and to a
    learner mere chance, as much in a human translation is.
    """

    def __init__(self, lexicon: Lexicon, source: str) -> None:
        self._lexicon, self._source = lexicon, source

    def sentence(self, clauses: list[Clause]) -> str:
        words = self._clause(clauses[0], None)
        for reason in clauses[1:]:
            first = [self._lexicon.reason, *self._clause(reason, None)]
            words = [*first[:-1], first[-1] + ",", *words]
        return _punctuated(words)

    def _clause(self, clause: Clause, head: NounPhrase | None) -> list[str]:
        """`head` is the noun phrase that a relative clause belongs to."""
        subject = clause.subject or head
        thing = clause.object or (head if clause.subject else None)
        assert subject is not None
        words = self._noun_phrase(clause.subject, "nominative") if clause.subject else []
        if clause.place:
            words += self._place(clause.place)
        if clause.object:
            words += self._noun_phrase(clause.object, "accusative")
        if clause.adverb:
            words.append(clause.adverb.target)
        verb = clause.verb
        stem = verb.target if thing is None or thing.noun.kind == BEING else verb.other
        endings = [NEGATION] if clause.negated else []
        if clause.past and verb.irregular:
            stem = verb.irregular
        else:
            endings.append(TENSES[clause.past])
        words.append(inflect(stem, *endings, self._concord(subject)))
        return words

    def _place(self, place: Place) -> list[str]:
        preposition, phrase = place.preposition, place.noun_phrase
        if preposition.other != preposition.target and phrase.noun.kind == PLACE:
            return self._noun_phrase(phrase, "locative")
        return [*self._noun_phrase(phrase, "oblique"), preposition.target]

    def _noun_phrase(self, phrase: NounPhrase, case: Case) -> list[str]:
        lexicon, noun, concord = self._lexicon, phrase.noun, self._concord(phrase)
        words = [inflect(lexicon.target_articles[phrase.definite], concord, CASES[case])]
        if phrase.place:
            words += [*self._place(phrase.place), inflect(lexicon.link, concord)]
        if phrase.plural and noun.irregular:
            words.append(inflect(noun.irregular, CASES[case]))
        else:
            coin = hashlib.blake2b(f"{self._source} {noun.source}".encode(), digest_size=1).digest()[0]
            stem = noun.synonym if coin < 128 else noun.target
            words.append(inflect(stem, PLURAL * phrase.plural, CASES[case]))
        for adjective in phrase.adjectives:
            stem = adjective.target if noun.kind == BEING else adjective.other
            words.append(inflect(stem, concord))
        if phrase.relative:
            role: Case = "accusative" if phrase.relative.subject else "nominative"
            words.append(inflect(lexicon.pronoun, concord, CASES[role]))
            words += self._clause(phrase.relative, phrase)
        return words

    @staticmethod
    def _concord(phrase: NounPhrase) -> str:
        return CONCORD[phrase.plural][phrase.noun.gender]


def inflect(stem: str, *endings: str) -> str:
    """The stem with its endings, whose vowels follow the last vowel of the stem."""
    last = max(stem.rfind(vowel) for vowel in "aoeui")
    back = stem[last] in "aou"
    return stem + "".join(endings).replace("A", "a" if back else "e").replace("I", "u" if back else "i")


def _punctuated(words: list[str]) -> str:
    sentence = " ".join(words)
    return sentence[0].upper() + sentence[1:] + "."


class GrammarTranslation(Task):
    """Sentences of the source language and their one translation."""

    metrics = ("bleu", "chrf", "sequence_accuracy")
    vocabulary = "subwords"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.vocabulary_size = config.vocabulary_size
        self.lexicon = Lexicon(config)

    def pairs(self, split: str) -> Iterator[tuple[str, str]]:
        config = self.config
        wanted = {TRAIN: config.train_pairs, VALIDATION: config.validation_pairs}.get(
            split, config.test_pairs
        )
        # What is scored is scored once; training may repeat a short sentence.
        seen: set[str] | None = None if split == TRAIN else set()
        given, fruitless = 0, 0
        for number in itertools.count():
            source, target = self.pair(split, number)
            own = _share(source) == {VALIDATION: 0, "test": 1}.get(split, 2)
            if own and (seen is None or source not in seen) and _fits(source) and _fits(target):
                if seen is not None:
                    seen.add(source)
                yield source, target
                given, fruitless = given + 1, 0
                if given == wanted:
                    return
            elif (fruitless := fruitless + 1) == 100_000:
                raise ValueError(
                    f"grammar: this lexicon makes only {given} different sentences for {split}, {wanted} are"
                    f" asked for; set nouns, verbs or adjectives higher"
                )

    def pair(self, split: str, number: int) -> tuple[str, str]:
        """A candidate, whether or not it belongs to the split."""
        chance = random.Random(f"{self.config.seed} {split} {number}")
        clauses = Meaning(self.lexicon, chance).clauses()
        source = Source(self.lexicon).sentence(clauses)
        return source, Target(self.lexicon, source).sentence(clauses)


def _fits(sentence: str) -> bool:
    return SHORTEST <= sentence.count(" ") + 1 <= LONGEST


def _share(source: str) -> int:
    """0 for validation, 1 for test, 2 for training."""
    return min(hashlib.blake2b(source.encode(), digest_size=8).digest()[0] % SHARES, 2)
