"""A study from request to records: its search, its cells, its speeds; any number of workers at once."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from filelock import FileLock, Timeout

from benchmark.config import BUDGETS, RunOptions, UserError, canonical_json, nested, varying_fields
from benchmark.engines import Engine, Finished
from benchmark.engines.local import (
    LocalEngine,
    Refused,
    Supervisor,
    resolve,
    run_speed_cell,
    slots,
    threads_of_each,
)
from benchmark.forecast import Pace, duration
from benchmark.record import TrainRecord, UntouchableRecord
from benchmark.request import Chosen, Request, settings_of
from benchmark.search import best_trial
from benchmark.store import StudyFolder
from benchmark.study import (
    Decision,
    FrozenCell,
    Made,
    SpeedCell,
    decide,
    decisions,
    frozen_devices,
    known_runs,
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
    """Runs that were missing, comparisons of speed among them."""
    refused: int = 0
    """Runs that a mistake of the user kept from starting."""
    failed: int = 0
    left_out: int = 0
    """Runs whose record may be whole, and cannot be read here: of a newer seqbench, for one."""
    leased: int = 0
    """Runs that another worker has."""

    @property
    def is_unhappy(self) -> bool:
        return bool(self.refused or self.failed or self.left_out)

    @property
    def exit_code(self) -> int:
        if self.asked and self.refused == self.asked:
            return 2
        if self.is_unhappy:
            return 3
        return 75 if self.leased else 0


class StudyRun:
    """One worker's way through a study.

    Args:
        begins: said once the study is made, so that a mistake in it is all that is said.

    `options` are those of the next run: wandb may have been found to be absent.
    """

    def __init__(
        self,
        folder: StudyFolder,
        options: RunOptions,
        *,
        say: Say,
        fail_fast: bool = False,
        begins: str = "",
    ) -> None:
        self._folder, self.options = folder, options
        self._say, self._fail_fast, self._begins = say, fail_fast, begins
        self._supervisor = Supervisor()

    def run(self, request: Request) -> Outcome:
        """Do what is missing of a request, which has no cells yet where they follow from a search.

        Raises:
            UserError: a mistake in the study, or one that only a run's process could see.
            Interrupted: a signal came; started again, the study goes on.
            Refused, ChildFailed: the study could not be made.
        """
        with self._supervisor.handling_signals():
            _check_data(request, self._folder, self.options)
            outcome = Outcome(made=self._make(request))
            if self._begins:
                self._say(self._begins)
            if request.after_search is not None:
                chosen = self._search(outcome)
                if chosen is None:
                    return outcome
                outcome.made = self._make(request.after_search(chosen))
            if "train" in outcome.made.measure:
                self._run_missing(outcome, outcome.made.compared)
            if not (self._fail_fast and outcome.is_unhappy):
                self._run_speed(outcome)
        return outcome

    def _make(self, request: Request) -> Made:
        with self._alone():
            if any(cell.match == "seconds" for cell in (*request.cells, *request.trials)):
                _check_device(frozen_devices(self._folder), self.options)
            return make(request, self._folder, lambda asked: resolve(self._supervisor, asked, self.options))

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of whoever writes `study.yaml`."""
        lock = FileLock(self._folder.path / ".study.lock")
        try:
            held = lock.acquire(blocking=False)
        except Timeout:
            self._say("waits for another worker, which is making the study")
            held = lock.acquire()
        with held:
            yield

    def _run_missing(self, outcome: Outcome, cells: Sequence[FrozenCell]) -> None:
        todo = remaining(cells, self._folder, lambda error: self._leave_out(error, outcome))
        outcome.asked += len(todo)
        self._say(_plan(self._folder, outcome.made, len(cells), len(todo)))
        if not todo:
            return
        gc.enable()  # the command has stopped it, for what it reads at once
        engine: Engine = LocalEngine(self._supervisor, self._folder, self.options)
        lines, leased = _Lines(todo, cells, self._say, len(slots(self.options))), []
        for finished in engine.run(todo, lines.started):
            lines.finished(finished)
            record = finished.record
            if finished.leased_by:
                leased.append(finished.cell)
            elif record is None:
                outcome.refused += 1
            elif record.status == "failed":
                outcome.failed += 1
            if self._fail_fast and outcome.is_unhappy:
                self._say("stopped at the first failure, as asked; started again, the study goes on")
                break
        self.options = replace(self.options, wandb=engine.wandb)
        # They may have ended while this worker did something else.
        outcome.leased += sum(self._folder.result(cell.run_id) is None for cell in leased)

    def _leave_out(self, error: UntouchableRecord, outcome: Outcome) -> None:
        self._say(f"left out: {error}")
        outcome.left_out += 1

    def _search(self, outcome: Outcome) -> Chosen | None:
        """Run the trials of what is not decided, and decide; None as long as trials are missing."""
        decided = decisions(self._folder)
        trials: dict[tuple[str, str], list[FrozenCell]] = {}
        for cell in outcome.made.cells:
            key = cell.model_preset, cell.task_preset
            if cell.trial is not None and key not in decided:
                trials.setdefault(key, []).append(cell)
        if trials:
            self._run_missing(outcome, [cell for cells in trials.values() for cell in cells])
            if self._fail_fast and outcome.is_unhappy:
                return None
            found = [self._decision(cells) for cells in trials.values()]
            if None in found:
                self._say("the search is not finished; started again, it goes on")
                return None
            with self._alone():
                decide([one for one in found if one is not None], self._folder)
            decided = decisions(self._folder)  # another worker may have decided before
            for key in trials:
                self._say(self._choice(decided[key]))
        return {key: nested(one.settings) for key, one in decided.items()}

    def _decision(self, cells: Sequence[FrozenCell]) -> Decision | None:
        """By the trials of one model on one task; None while one has no record."""
        records = [self._folder.readable(cell.run_id) for cell in cells]
        found = [record for record in records if isinstance(record, TrainRecord)]
        if len(found) < len(cells):
            return None
        best = best_trial(found)
        index = 0 if best is None else found.index(best)
        cell = cells[index]
        assert cell.trial is not None
        # What follows from a trial's own budget is no setting of the comparison.
        budgets = {f"training.{name}" for name in BUDGETS}
        varying = varying_fields(one.experiment for one in found)[index]
        return Decision(
            model=cell.model_preset,
            task=cell.task_preset,
            trials=len(cells),
            trial=cell.trial,
            run_id=cell.run_id,
            settings={name: value for name, value in varying.items() if name not in budgets},
        )

    def _choice(self, decision: Decision) -> str:
        which = f"search: {decision.model} on {decision.task}"
        record = self._folder.readable(decision.run_id)
        if not isinstance(record, TrainRecord) or record.validation_loss is None:
            return f"{which}: none of the {decision.trials} trials ended well; its recipe is compared"
        shown = ", ".join(f"{name}={value}" for name, value in decision.settings.items())
        return (
            f"{which}: trial {decision.trial} of {decision.trials} has the lowest validation loss, "
            f"{record.validation_loss:.3f}: {shown} (run {decision.run_id})"
        )

    def _run_speed(self, outcome: Outcome) -> None:
        """Compare speeds where the study asks for it, once no run disturbs them."""
        if "speed" not in outcome.made.measure:
            return
        from benchmark.device import device_in_use

        # One process on one device, with the threads that a run has.
        threads = threads_of_each(self.options, len(slots(self.options)))
        options = replace(self.options, devices=1, threads=threads)
        cells = speed_cells(outcome.made, device_in_use(options))
        if not remaining_speed(cells, self._folder, lambda error: self._leave_out(error, outcome)):
            return
        if outcome.leased:
            self._say("speeds are compared when no other worker runs; start this again then")
            return
        try:
            with FileLock(self._folder.path / ".speed.lock", blocking=False):
                todo = remaining_speed(cells, self._folder)  # another worker may have been here
                outcome.asked += len(todo)
                for cell in todo:
                    self._run_speed_cell(cell, outcome, options)
        except Timeout:
            self._say("speeds are being measured by another worker")
            outcome.leased += 1

    def _run_speed_cell(self, cell: SpeedCell, outcome: Outcome, options: RunOptions) -> None:
        names = ", ".join(cell.experiments)
        self._say(f"speed of {names} on {cell.task_preset} (run {cell.run_id})")
        try:
            record = run_speed_cell(self._supervisor, cell, self._folder, options)
        except Refused:
            outcome.refused += 1
            return
        if record.status == "failed":
            self._say(f"run {cell.run_id} failed: {record.failure}")
            outcome.failed += 1


def planned(request: Request, folder: StudyFolder) -> Request:
    """What there is to run, the comparison after a search too where that is decided."""
    if request.after_search is None:
        return request
    settings = {key: nested(one.settings) for key, one in decisions(folder).items()}
    every = {(cell.model_preset, cell.task_preset) for cell in request.trials}
    return request.after_search(settings) if every <= settings.keys() else request


def _check_data(request: Request, folder: StudyFolder, options: RunOptions) -> None:
    """What is done stands for the data as they are.

    Raises:
        UserError: they have changed since.
    """
    if not any(cell.experiment.task.reads_files for cell in (*request.trials, *request.cells)):
        return
    now: dict[str, str | None] = {}
    for cell, run_id in known_runs(request, folder):
        if run_id is None or not cell.experiment.task.reads_files:
            continue
        record = folder.readable(run_id)
        if not isinstance(record, TrainRecord) or not record.task_fingerprint:
            continue
        key = canonical_json(cell.experiment.document()["task"])
        if key not in now:
            try:
                now[key] = cell.experiment.task.build(options.data_directory).fingerprint()
            except (ValueError, OSError):
                now[key] = None  # they are not here, which matters to a run that is still to be made
        if now[key] not in (None, record.task_fingerprint):
            raise UserError(
                f"{cell.task_preset}: its data files have changed since run {run_id} was made; put them "
                "back, or take another --study"
            )


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


def _plan(folder: StudyFolder, made: Made, runs: int, todo: int) -> str:
    parts = [f"{runs} runs", f"{runs - todo} done" if runs > todo else "", f"{todo} to do"]
    text = f"{folder.path}: {', '.join(part for part in parts if part)}"
    return f"{text}; {made.others} of earlier requests are kept" if made.others else text


class _Lines:
    """The table that grows: a line when a run starts and one when it ends."""

    def __init__(
        self, todo: Sequence[FrozenCell], every: Sequence[FrozenCell], say: Say, beside: int = 1
    ) -> None:
        """`every` cell there is tells what varies; `beside` is how many run side by side."""
        self._say, self._beside = say, beside
        self._numbers = {cell.run_id: number for number, cell in enumerate(todo, start=1)}
        self._names = {
            cell.run_id: _name(cell, settings)
            for cell, settings in zip(every, settings_of(every), strict=True)
            if cell.run_id in self._numbers
        }
        self._width = max(map(len, self._names.values()))
        self._begin = time.perf_counter()
        self._left = {cell.run_id: cell for cell in todo}
        self._pace = Pace()

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
                self._pace.add(cell, record.wall_seconds_total)
            self._say(f"{name}  {'  '.join([*_results(record), *self._remaining()])}")

    def _remaining(self) -> list[str]:
        left = self._pace.together(self._left.values())
        if not self._left or left is None:
            return []
        return [f"about {duration(left / min(self._beside, len(self._left)))} left"]


def _name(cell: FrozenCell, settings: str) -> str:
    parts = [cell.model_preset, cell.task_preset, *([settings] if settings else [])]
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
