"""Measures what is missing of a scale, cell by cell; interrupted and started again, it goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmark.config import RunOptions
from benchmark.device import device_in_use
from benchmark.engines.local import Supervisor, run_layer_cells
from benchmark.record import LayerRecord
from benchmark.store import StudyFolder
from benchmark.why.cells import LayerCell, Scale, cells


def measure(
    scale: Scale,
    folder: StudyFolder,
    options: RunOptions,
    say: Callable[[str], None],
    runs: Sequence[Path] = (),
) -> list[LayerRecord]:
    """The records of all cells of a scale and of trained `runs`, in order; what is missing is measured first.

    Raises:
        Interrupted: a signal came; what is measured is kept.
        UserError: the folder of a cell holds another one, or a run is not done.
    """
    every = cells(scale, device_in_use(options), runs)
    todo = _remaining(every, folder)
    say(f"{folder.path}: {len(every)} measurements, {len(every) - len(todo)} done, {len(todo)} to do")
    supervisor = Supervisor()
    with supervisor.handling_signals():
        # Times are taken in a process of their own, which nothing else has used.
        for timed, some in itertools.groupby(todo, key=lambda cell: cell.device != ""):
            for together in [[cell] for cell in some] if timed else [list(some)]:
                documents = [cell.document() for cell in together]
                run_layer_cells(supervisor, documents, folder, options)
    return list(found(every, folder))


def found(every: Iterable[LayerCell], folder: StudyFolder) -> Iterable[LayerRecord]:
    """The records that there are."""
    for cell in every:
        record = folder.readable(cell.run_id)
        if isinstance(record, LayerRecord):
            yield record


def _remaining(every: Iterable[LayerCell], folder: StudyFolder) -> list[LayerCell]:
    missing = []
    for cell in every:
        folder.run(cell.run_id).open(cell.document())
        if folder.result(cell.run_id) is None:
            missing.append(cell)
    return missing
