"""What a claim comes to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Word = Literal["supported", "contradicted", "not decidable here"]
SUPPORTED: Word = "supported"
CONTRADICTED: Word = "contradicted"
UNDECIDED: Word = "not decidable here"


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
