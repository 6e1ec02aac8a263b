"""What a study will take: time and memory of the cells to come, from those that are done."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmark.lease import Leases
from benchmark.record import TrainRecord, UnreadableRecord
from benchmark.request import Cell
from benchmark.store import StudyFolder
from benchmark.study import FrozenCell


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One cell as it stands."""

    cell: Cell
    run_id: str | None
    """None as long as it depends on what is to be measured."""
    status: str
    """That of its record; without one `running`, `interrupted` or `to do`."""
    step: int | None
    """From which an interrupted run goes on."""
    seconds: float | None
    """What it is expected to take, from that step or from its start; None where nothing tells, or it is done.
    """
    memory_bytes: int | None
    """The largest that a run of this model took."""


def forecast(cells: Sequence[tuple[Cell, str | None]], folder: StudyFolder) -> list[Planned]:
    """The cells with their state and what they are expected to take."""
    records = {run_id: _record(folder, run_id) for _, run_id in cells if run_id is not None}
    pace, memory = Pace(), dict[str, int]()
    for cell, run_id in cells:
        record, _ = records.get(run_id or "", (None, ""))
        if record is None or record.status != "done":
            continue
        if record.wall_seconds_total is not None:
            pace.add(cell, record.wall_seconds_total)
        if record.peak_memory_bytes is not None:
            memory[cell.model_preset] = max(memory.get(cell.model_preset, 0), record.peak_memory_bytes)
    planned, leases = [], Leases(folder.path)
    for cell, run_id in cells:
        _, status = records.get(run_id or "", (None, "to do"))
        step = None
        if run_id is not None and status == "to do":
            step = _step_to_go_on_from(folder, run_id)
            status = "to do" if step is None else "interrupted"
            if leases.is_held(run_id):
                status = "running"
        missing = status not in ("done", "diverged")
        seconds, steps = pace.seconds(cell), cell.experiment.training.steps
        if seconds is not None and step is not None and steps is not None:
            seconds *= 1 - step / steps
        planned.append(
            Planned(
                cell=cell,
                run_id=run_id,
                status=status,
                step=step,
                seconds=seconds if missing else None,
                memory_bytes=memory.get(cell.model_preset) if missing else None,
            )
        )
    return planned


def _record(folder: StudyFolder, run_id: str) -> tuple[TrainRecord | None, str]:
    """The record of a run, where there is a whole one, and its state in a word."""
    try:
        record = folder.record(run_id)
    except UnreadableRecord:
        return None, "unreadable"
    return (record, record.status) if isinstance(record, TrainRecord) else (None, "to do")


def _step_to_go_on_from(folder: StudyFolder, run_id: str) -> int | None:
    """Of a run that has been cut off; None where nothing is kept of it."""
    kept = folder.run(run_id).path / "checkpoints"
    if not kept.is_dir():
        return None
    from benchmark.checkpoint import last_step  # which loads the trainer's libraries

    return last_step(kept)


def summary(planned: Sequence[Planned], *, side_by_side: int) -> list[str]:
    """The forecast in a few lines, where so many runs go side by side."""
    runs = {one.run_id or str(number): one for number, one in enumerate(planned)}.values()
    counts = [
        (sum(one.status == status for one in runs), status)
        for status in ("done", "diverged", "failed", "unreadable", "running", "interrupted", "to do")
    ]
    lines = [f"{len(runs)} runs: {', '.join(f'{count} {status}' for count, status in counts if count)}"]
    missing = [one for one in runs if one.status not in ("done", "diverged")]
    seconds = [one.seconds for one in missing if one.seconds is not None]
    memory = [one.memory_bytes for one in missing if one.memory_bytes is not None]
    if not missing:
        return lines
    if len(seconds) == len(missing):
        beside = min(side_by_side, len(missing))
        order = "one after another" if beside == 1 else f"{beside} side by side"
        lines.append(f"expected: {duration(sum(seconds) / beside)}, {order}")
    else:
        lines.append("expected: unknown until a run is done")
    if memory:
        lines.append(f"memory of a run: up to {max(memory) / 2**20:,.0f} MiB so far")
    else:
        lines.append("memory of a run: unknown until one is done")
    return lines


class Pace:
    """What runs take, from what others took: of the same model, by their steps; else by the steps that were
    timed when the study was made.

    A run of a model of which none has ended is taken to last as long as the mean of the others.
    """

    def __init__(self) -> None:
        self._rates: dict[str, list[float]] = {}
        self._taken: list[float] = []

    def add(self, cell: Cell, seconds: float) -> None:
        """What one took."""
        rate = seconds / (cell.experiment.training.steps or 1)
        self._rates.setdefault(cell.model_preset, []).append(rate)
        self._taken.append(seconds)

    def seconds(self, cell: Cell) -> float | None:
        """What one will take; None where nothing tells."""
        steps, rates = cell.experiment.training.steps, self._rates.get(cell.model_preset)
        timed = cell.measured.get("seconds_per_step") if isinstance(cell, FrozenCell) else None
        if steps is not None and rates is not None:
            return steps * statistics.fmean(rates)
        if steps is not None and timed is not None:
            return float(steps * timed)
        if cell.experiment.training.seconds is not None:
            return cell.experiment.training.seconds
        return statistics.fmean(self._taken) if self._taken else None

    def together(self, cells: Iterable[Cell]) -> float | None:
        """What they will take one after another; None where nothing tells of one of them."""
        each = [self.seconds(cell) for cell in cells]
        known = [one for one in each if one is not None]
        return sum(known) if len(known) == len(each) else None


def duration(seconds: float) -> str:
    """For people: `40 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
