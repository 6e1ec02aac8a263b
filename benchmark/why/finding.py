"""What a claim comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Word = Literal["supported", "contradicted", "not decidable here"]
SUPPORTED: Word = "supported"
CONTRADICTED: Word = "contradicted"
UNDECIDED: Word = "not decidable here"
NEAR, FAR = 0.1, 0.3
"""An exponent this near to the predicted one agrees with it, and one this far contradicts it."""


def each(found: Mapping[str, str]) -> str:
    """What was found of each layer or model, whose names hold commas and numbers."""
    return ", ".join(f"{name} ({text})" for name, text in found.items())


def because(verdict: Word, reason: str) -> str:
    """What an effect ends with: why the verdict is left open, where it is."""
    return f"; not decided: {reason}" if verdict == UNDECIDED else ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the records say of a claim."""

    verdict: Word
    effect: str
    """What was measured, with its interval; of an undecided claim the reason."""
    conditions: tuple[str, ...] = ()
    """The same in other units, and where it does not hold."""
    runs: tuple[str, ...] = ()
    """Whose records it comes from."""


def by_exponents(found: Mapping[str, float], predicted: Mapping[str, float]) -> Word:
    """The verdict where every exponent has to be as predicted."""
    off = [abs(found[name] - predicted[name]) for name in predicted]
    if max(off) <= NEAR:
        return SUPPORTED
    return CONTRADICTED if max(off) >= FAR else UNDECIDED


def neither_near_nor_far(found: Mapping[str, float], predicted: Mapping[str, float]) -> str:
    """Why exponents leave a verdict open."""
    between = [
        f"{name} {found[name]:.2f} where it should be {wanted:g}"
        for name, wanted in predicted.items()
        if abs(found[name] - wanted) > NEAR
    ]
    return f"off by more than {NEAR} and less than {FAR}: {', '.join(between)}"
