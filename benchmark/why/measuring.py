"""Measures what is missing of a scale, cell by cell; interrupted and started again, it goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.config import RunOptions
from benchmark.device import choose_device, device_in_use, devices_there
from benchmark.engines.local import Supervisor, run_layer_cells
from benchmark.record import LayerRecord, TrainRecord, UntouchableRecord
from benchmark.report.placing import made_aside
from benchmark.request import request_from
from benchmark.running import StudyRun
from benchmark.store import StudyFolder
from benchmark.trained import run_folder, trained_model
from benchmark.why.cells import GRIDS, LayerCell, Precision, Scale, cells, trained_cells


def reproduce(
    scale: Scale,
    folder: StudyFolder,
    options: RunOptions,
    runs: Sequence[Path],
    say: Callable[[str], None],
    seed: int = 0,
) -> tuple[list[LayerRecord], int]:
    """All records of a scale and of the trained `runs`, and the exit code; what is missing is measured, and
    the models that a scale needs are trained, as a study in the same folder. `seed` is as of `cells`; the
    study has its own.

    Raises:
        Interrupted: a signal came; what is measured is kept.
        UserError: a mistake in what was asked for, or a run is not done or has no weights that fit.
        Refused, ChildFailed: the study could not be made.
        StorageError: the folder of its page cannot be written.
    """
    more = trained_cells(options.results, runs)
    for run in dict.fromkeys(cell.settings["run"] for cell in more if _is_missing(cell, folder)):
        # Before hours are spent on the rest.
        trained_model(run_folder(run, options.results), trust_code=options.trust_code)
    folder.prepare()
    with made_aside(folder.path / "report"):
        pass  # what could not be shown is not measured
    # Inputs and weights alike: bfloat16 is what a GPU has its matrix units for.
    precision: Precision = "bfloat16" if choose_device(options.device).type == "cuda" else "float32"
    there, every = devices_there(options), cells(scale, device_in_use(options), precision, seed)
    for cell in (one for one in every if one.devices > there):
        say(f"{cell.kind} of {cell.subject} takes {cell.devices} devices, and there are {there}: left out")
    records, code = measure([one for one in every if one.devices <= there], folder, options, say), 0
    if GRIDS[scale].study:
        trained, code = train(GRIDS[scale].study, folder, options, say)
        more += trained_cells(options.results, trained)
    if more:
        records += measure(more, folder, options, say)
    return records, code


def measure(
    every: Sequence[LayerCell], folder: StudyFolder, options: RunOptions, say: Callable[[str], None]
) -> list[LayerRecord]:
    """The records of all cells, in order; what is missing is measured first.

    Raises:
        Interrupted: a signal came; what is measured is kept.
        UserError: the folder of a cell holds another one.
    """
    todo = _remaining(every, folder, say)
    say(f"{folder.path}: {len(every)} measurements, {len(every) - len(todo)} done, {len(todo)} to do")
    supervisor = Supervisor()
    with supervisor.handling_signals():
        # Times are taken in a process of their own, which nothing else has used.
        for timed, some in itertools.groupby(todo, key=lambda cell: cell.device != ""):
            for together in [[cell] for cell in some] if timed else [list(some)]:
                documents = [cell.document() for cell in together]
                run_layer_cells(supervisor, documents, folder, options)
    return list(found(every, folder))


def train(
    name: str, folder: StudyFolder, options: RunOptions, say: Callable[[str], None]
) -> tuple[list[Path], int]:
    """Do what is missing of a study of trained models, within the folder; the folders of the compared runs
    that are done, and the exit code. Errors as of `StudyRun.run`.

    On a CPU each run has one thread, where the user has not said how many: models so small gain more from
    runs side by side.
    """
    if options.threads is None and choose_device(options.device).type == "cpu":
        options = replace(options, threads=1)
    request = request_from([name], study=folder.name)
    outcome = StudyRun(folder, options, say=say).run(request)
    done = []
    for cell in outcome.made.compared:
        record = folder.readable(cell.run_id)
        if isinstance(record, TrainRecord) and record.status == "done":
            done.append(folder.run(cell.run_id).path)
    return done, outcome.exit_code


def found(every: Iterable[LayerCell], folder: StudyFolder) -> Iterable[LayerRecord]:
    """The records that there are."""
    for cell in every:
        record = folder.readable(cell.run_id)
        if isinstance(record, LayerRecord):
            yield record


def _remaining(
    every: Iterable[LayerCell], folder: StudyFolder, say: Callable[[str], None]
) -> list[LayerCell]:
    missing = []
    for cell in every:
        folder.run(cell.run_id).open(cell.document())
        if _is_missing(cell, folder, say):
            missing.append(cell)
    return missing


def _is_missing(cell: LayerCell, folder: StudyFolder, say: Callable[[str], None] = lambda text: None) -> bool:
    """Whether it has to be measured; a record that may be whole and cannot be read here stays as it is."""
    try:
        return folder.result(cell.run_id) is None
    except UntouchableRecord as error:
        say(f"left out: {error}")
        return False
