"""A study from request to records: its search, its cells, its speeds; any number of workers at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from filelock import FileLock

from benchmark.config import RunOptions, UserError, nested, varying_fields
from benchmark.engines import Finished
from benchmark.engines.local import LocalEngine, Refused, Supervisor, resolve, run_speed_cell
from benchmark.forecast import duration, expected_seconds
from benchmark.lease import Leases
from benchmark.record import TrainRecord, UnreadableRecord
from benchmark.request import Cell, Chosen, Request
from benchmark.search import best_trial
from benchmark.store import StudyFolder
from benchmark.study import (
    FrozenCell,
    Made,
    frozen_devices,
    make,
    remaining,
    remaining_speed,
    speed_cells,
)

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Outcome:
    """What became of a study in this worker's hands."""

    made: Made
    asked: int = 0
    """Runs that were missing."""
    refused: int = 0
    """Runs that a mistake of the user kept from starting."""
    failed: int = 0
    leased: int = 0
    """Runs that another worker has."""

    @property
    def exit_code(self) -> int:
        if self.asked and self.refused == self.asked:
            return 2
        if self.refused or self.failed:
            return 3
        return 75 if self.leased else 0


class StudyRun:
    """One worker's way through a study."""

    def __init__(
        self,
        ask: Callable[[Chosen | None], Request],
        folder: StudyFolder,
        options: RunOptions,
        *,
        say: Say,
        fail_fast: bool = False,
    ) -> None:
        """`ask` gives the cells, once with nothing chosen and, after a search, with what it decided."""
        self._ask, self._folder, self._options = ask, folder, options
        self._say, self._fail_fast = say, fail_fast
        self._supervisor = Supervisor()

    def run(self) -> Outcome:
        """Do what is missing.

        Raises:
            UserError: a mistake in the study, or one that only a run's process could see.
            Interrupted: a signal came; started again, the study goes on.
            Refused, ChildFailed: the study could not be made.
        """
        with self._supervisor.handling_signals():
            request = self._ask(None)
            outcome = self._make(request)
            self._run_missing(outcome, outcome.made.runs)
            if request.trials and not request.cells:
                chosen = self._chosen(outcome.made)
                if chosen is None or (self._fail_fast and outcome.failed):
                    return outcome
                before, outcome = outcome, self._make(self._ask(chosen))
                outcome.failed, outcome.refused, outcome.asked = before.failed, before.refused, before.asked
                # A trial that failed has had its try.
                self._run_missing(outcome, [cell for cell in outcome.made.runs if cell.trial is None])
            if not (self._fail_fast and outcome.failed):
                self._run_speed(outcome)
        return outcome

    def _make(self, request: Request) -> Outcome:
        with FileLock(self._folder.path / ".study.lock"):
            if any(cell.match == "seconds" for cell in (*request.cells, *request.trials)):
                _check_device(frozen_devices(self._folder), self._options)
            made = make(request, self._folder, lambda asked: resolve(self._supervisor, asked, self._options))
        return Outcome(made=made)

    def _run_missing(self, outcome: Outcome, cells: Sequence[FrozenCell]) -> None:
        made = outcome.made
        todo = remaining(cells, self._folder) if "train" in made.measure else []
        outcome.asked += len(todo)
        self._say(_plan(self._folder, made, len(todo)))
        if not todo:
            return
        engine = LocalEngine(self._supervisor, self._folder, self._options)
        lines = _Lines(todo, self._say)
        for finished in engine.run(todo, lines.started):
            lines.finished(finished)
            record = finished.record
            if finished.leased_by:
                outcome.leased += 1
            elif record is None:
                outcome.refused += 1
            elif record.status == "failed":
                outcome.failed += 1
            if self._fail_fast and (outcome.refused or outcome.failed):
                self._say("stopped at the first failure, as asked; started again, the study goes on")
                break

    def _chosen(self, made: Made) -> Chosen | None:
        """What the search decides; None as long as trials are missing."""
        trials: dict[tuple[str, str], list[tuple[FrozenCell, TrainRecord]]] = {}
        missing = 0
        for cell in made.cells:
            record = _train_record(self._folder, cell)
            if record is None:
                missing += 1
            else:
                trials.setdefault((cell.model_preset, cell.task_preset), []).append((cell, record))
        if missing:
            self._say(f"the search is not finished: {missing} of {len(made.cells)} trials have no result yet")
            return None
        chosen = {}
        for (model, task), found in trials.items():
            best = best_trial(record for _, record in found)
            if best is None:
                self._say(f"search: none of the {len(found)} trials of {model} on {task} ended well")
                continue
            every = varying_fields(record.experiment for _, record in found)
            mine = next(one for one, (_, record) in zip(every, found, strict=True) if record is best)
            settings = ", ".join(f"{name}={value}" for name, value in mine.items())
            trial = next(cell.trial for cell, record in found if record is best)
            self._say(
                f"search: {model} on {task}: trial {trial} of {len(found)} has the lowest validation loss, "
                f"{best.validation_loss:.3f}: {settings} (run {best.run_id})"
            )
            chosen[model, task] = nested(mine)
        return chosen

    def _run_speed(self, outcome: Outcome) -> None:
        """Compare speeds where the study asks for it, once no run disturbs them."""
        if "speed" not in outcome.made.measure:
            return
        from benchmark.device import device_in_use

        cells = speed_cells(outcome.made, device_in_use(self._options))
        todo = remaining_speed(cells, self._folder)
        if todo and outcome.leased:
            self._say("speeds are compared when no other worker runs; start this again then")
            return
        with Leases(self._folder.path, on_loss=self._supervisor.end) as leases:
            for cell in todo:
                holder = leases.take(cell.run_id)
                if holder is None and self._folder.run(cell.run_id).result() is not None:
                    leases.release(cell.run_id)
                    continue  # another worker was faster
                if holder is not None:
                    self._say(f"speed (run {cell.run_id}) is being measured by {holder.who}")
                    outcome.leased += 1
                    continue
                names = ", ".join(cell.experiments)
                self._say(f"speed of {names} on {cell.task_preset} (run {cell.run_id})")
                try:
                    record = run_speed_cell(self._supervisor, cell, self._folder, self._options)
                except Refused:
                    outcome.refused += 1
                    continue
                finally:
                    leases.release(cell.run_id)
                if record.status == "failed":
                    self._say(f"run {cell.run_id} failed: {record.failure}")
                    outcome.failed += 1


def _train_record(folder: StudyFolder, cell: FrozenCell) -> TrainRecord | None:
    try:
        record = folder.run(cell.run_id).record()
    except UnreadableRecord:
        return None
    return record if isinstance(record, TrainRecord) else None


def _check_device(devices: set[str], options: RunOptions) -> None:
    """Equal seconds mean something on the device where they were measured.

    Raises:
        UserError: this is another one.
    """
    if not devices:
        return
    from benchmark.device import device_in_use

    here = device_in_use(options)
    for device in sorted(devices):
        if device != here:
            raise UserError(
                f"match: seconds were measured on {device}, and this is {here}; go on there, or take another "
                "--study"
            )


def _plan(folder: StudyFolder, made: Made, todo: int) -> str:
    runs = len(made.runs)
    parts = [f"{runs} runs", f"{runs - todo} done" if runs > todo else "", f"{todo} to do"]
    text = f"{folder.path}: {', '.join(part for part in parts if part)}"
    return f"{text}; {made.others} of earlier requests are kept" if made.others else text


class _Lines:
    """The table that grows: a line when a run starts and one when it ends."""

    def __init__(self, todo: Sequence[FrozenCell], say: Say) -> None:
        self._say = say
        self._numbers = {cell.run_id: number for number, cell in enumerate(todo, start=1)}
        self._names = {cell.run_id: _name(cell) for cell in todo}
        self._width = max(map(len, self._names.values()))
        self._begin = time.perf_counter()
        self._left = {cell.run_id: cell for cell in todo}
        self._taken: list[tuple[Cell, float]] = []

    def _where(self, cell: FrozenCell) -> str:
        total = len(self._numbers)
        return f"[{self._numbers[cell.run_id]:{len(str(total))}}/{total}]"

    def started(self, cell: FrozenCell) -> None:
        self._say(f"{self._where(cell)} {self._names[cell.run_id]} (run {cell.run_id})")

    def finished(self, finished: Finished) -> None:
        cell, record = finished.cell, finished.record
        self._left.pop(cell.run_id, None)
        name = f"{self._where(cell)} {self._names[cell.run_id]:{self._width}}"
        if finished.leased_by:
            self._say(f"{name}  is run by {finished.leased_by}")
        elif record is None:
            return  # the run's own process has said what the user can mend
        elif not isinstance(record, TrainRecord) or record.status != "done":
            self._say(f"{name}  run {cell.run_id} {record.status}: {record.failure}")
        else:
            if record.wall_seconds_total is not None:
                self._taken.append((cell, record.wall_seconds_total))
            self._say(f"{name}  {'  '.join([*_results(record), *self._remaining()])}")

    def _remaining(self) -> list[str]:
        left = expected_seconds(self._left.values(), self._taken)
        return [f"about {duration(left)} left"] if self._left and left is not None else []


def _name(cell: FrozenCell) -> str:
    parts = [cell.model_preset, cell.task_preset]
    if cell.match is not None:
        parts.append(f"equal {cell.match}")
    parts.append(f"seed {cell.experiment.seed}" if cell.trial is None else f"trial {cell.trial}")
    return ", ".join(parts)


def _results(record: TrainRecord) -> Iterable[str]:
    splits = list(dict.fromkeys(score.split for score in record.scores))
    for score in record.scores:
        if score.split == splits[-1]:
            yield f"{score.split} {score.metric} {score.value:.1f}"
    if record.validation_loss is not None:
        yield f"validation loss {record.validation_loss:.3f}"
    if record.train_target_tokens_per_second is not None:
        yield f"{record.train_target_tokens_per_second:,.0f} tokens/s"
    if record.wall_seconds_total is not None:
        yield duration(record.wall_seconds_total)
