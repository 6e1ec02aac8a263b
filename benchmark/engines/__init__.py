"""Who runs the cells: an engine takes those that are missing and gives each one's end, as they come.

`local` runs them on this machine. What schedules them elsewhere has the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from benchmark.record import Record
from benchmark.study import FrozenCell

Started = Callable[[FrozenCell], None]


class Finished(NamedTuple):
    """The end of one cell, as one worker saw it."""

    cell: FrozenCell
    record: Record | None
    """None where there is none: a mistake of the user that the run has named, or another worker has it."""
    leased_by: str = ""
    """Who has it."""


class Engine(Protocol):
    """Cells in, records out."""

    wandb: Literal["auto", "online", "offline", "disabled"]
    """Where the next runs are mirrored: once a run has found wandb to be absent, none asks again."""

    def run(self, cells: Sequence[FrozenCell], started: Started) -> Iterator[Finished]:
        """Run each cell that no other worker has run or is running, and tell `started` when.

        Raises:
            Interrupted: a signal came; what ran can go on later.
        """
        ...
