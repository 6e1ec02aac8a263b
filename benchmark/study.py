"""Studies: from what was asked for to frozen cells, each one run.

A study is a grid: models x a task x any field that is given a list. Making it resolves every choice that
depends on the device (a budget in seconds, `precision: auto`) once, and freezes the cells in `study.yaml`.
Started again, it does what is missing; asked for more, it adds cells and keeps those it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from benchmark.config import (
    BUDGETS,
    HARNESS_VERSION,
    Experiment,
    TrainingConfig,
    UserError,
    canonical_json,
    checked,
)
from benchmark.record import UntouchableRecord
from benchmark.request import SCHEMA_VERSION, Cell, Request, is_resolved, references, stored_study
from benchmark.store import (
    RunFolder,
    StudyFolder,
    differences,
    dump_study,
    uncollected,
    write_atomic,
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An experiment whose open choices are to be made, together with others."""

    experiment: Experiment
    match: str | None = None
    """What to hold equal to the reference."""
    reference: int | None = None
    """Which of the experiments that are asked for together it is matched to; None for one that is not."""


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """An experiment whose every choice is made."""

    experiment: Experiment
    measured: Mapping[str, Any] = field(default_factory=dict)
    """What decided: `seconds_per_step` and `device` where it was timed."""
    held: float | None = None
    """How much the reference has of what the match holds equal."""


Resolve = Callable[[Sequence[Asked]], Sequence[Resolved]]
"""Budgets become steps, `precision: auto` becomes a precision, matches widths and steps; for all of a study
at once, in its order."""


@dataclass(frozen=True, kw_only=True)
class FrozenCell(Cell):
    """A cell whose every choice is made."""

    asked: str
    """A hash of the cell before anything was resolved: equal where the same is asked for again."""
    measured: Mapping[str, Any] = field(default_factory=dict)
    """As in `Resolved`."""
    held: float | None = None
    """As in `Resolved`; None without a match and for the reference itself."""

    @cached_property
    def run_id(self) -> str:
        return self.experiment.run_id()

    @property
    def key(self) -> tuple[str | None, int | None, str]:
        """One run may be a cell of several matches."""
        return self.match, self.trial, self.run_id

    def open(self, run: RunFolder) -> None:
        """Make the run's folder, or check that it is this cell's; errors as `RunFolder.open`."""
        run.open(self.document(), self.experiment.yaml())

    def document(self) -> dict[str, Any]:
        """The cell as `study.yaml` and the `config.yaml` of its run hold it."""
        optional = {
            "match": self.match,
            "held": self.held,
            "trial": self.trial,
            "measured": dict(self.measured) or None,
        }
        return {
            "run_id": self.run_id,
            "asked": self.asked,
            "model": self.model_preset,
            "task": self.task_preset,
            **{name: value for name, value in optional.items() if value is not None},
            "experiment": self.experiment.document(),
        }


@dataclass(frozen=True, kw_only=True)
class Made:
    """A study that was made or continued."""

    measure: tuple[str, ...]
    cells: tuple[FrozenCell, ...]
    """Those that were asked for, in the order of running: trials of the search before the comparison."""
    added: int
    """How many of them are new."""
    others: int
    """Cells of earlier requests, which are kept and were not asked for now."""

    @property
    def runs(self) -> list[FrozenCell]:
        """The cells, each run once."""
        first: dict[str, FrozenCell] = {}
        for cell in self.cells:
            first.setdefault(cell.run_id, cell)
        return list(first.values())

    @property
    def compared(self) -> list[FrozenCell]:
        """The runs without the trials of a search."""
        return [cell for cell in self.runs if cell.trial is None]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the search of one model on one task has decided, for good."""

    model: str
    """As reports call it."""
    task: str
    trials: int
    """How many there were."""
    trial: int
    """The chosen one; the first, which is the recipe, where none ended well."""
    run_id: str
    """Of the chosen trial."""
    settings: Mapping[str, Any]
    """The fields in which the trials differ, by dotted name, as the chosen one has them."""

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.task


def asked_hash(cell: Cell, reference: Cell | None = None) -> str:
    """16 hexadecimal digits that are equal where the same is asked for of the same code.

    A cell that is matched is another one with another reference, whose seed does not matter.
    """
    experiment = cell.experiment
    # Canonical JSON, field after field: a grid may have a hundred thousand cells.
    fields = [f'"experiment":{experiment.canonical()}']
    if cell.match is not None:
        assert reference is not None
        leader = replace(reference.experiment, seed=0).canonical()
        fields.append(f'"match":[{canonical_json(cell.match)},{leader}]')
    if cell.trial is not None:
        fields.append(f'"trial":{cell.trial}')
    fields.append(f'"versions":{_versions(experiment.model.version, experiment.task.version)}')
    return hashlib.sha256(f"{{{','.join(fields)}}}".encode()).hexdigest()[:16]


@lru_cache
def _versions(model: int, task: int) -> str:
    """As canonical JSON."""
    return canonical_json([model, task, HARNESS_VERSION])


@uncollected()
def make(request: Request, folder: StudyFolder, resolve: Resolve) -> Made:
    """Resolve what is new, freeze it in `study.yaml`, and give the cells that were asked for.

    Cells that differ only in their seed are resolved once, so that seeds share one number of steps, also
    where some are asked for later.

    Raises:
        UserError: the study there was edited, `resolve` found a mistake, or two cells are one run.
    """
    path = folder.study_path
    study = _stored_study(folder)
    stored = study["cells"]
    wanted = (*request.trials, *request.cells)
    matched_to = references(wanted)
    _refuse_another_reference(wanted, stored, path)
    search = _one_search(request, study, path)
    hashes = [asked_hash(cell, reference) for cell, reference in zip(wanted, matched_to, strict=True)]
    frozen = _continued_cells(wanted, hashes, stored, path)
    fresh = {}
    siblings = _Siblings(stored, path)
    for asked, cell, reference in zip(hashes, wanted, matched_to, strict=True):
        if asked in frozen:
            continue
        sibling = siblings.of(cell, reference)
        if sibling is None:
            fresh[asked] = cell, reference
        else:
            frozen[asked] = replace(
                sibling, experiment=replace(sibling.experiment, seed=cell.experiment.seed), asked=asked
            )
    frozen |= _resolved(fresh, frozen, resolve)
    # Two cells may ask for budgets that resolve to one number of steps; they are one run.
    cells = {frozen[asked].key: frozen[asked] for asked in hashes}
    _refuse_two_names((frozen[asked], cell.model_preset) for asked, cell in zip(hashes, wanted, strict=True))
    known = {(cell.get("match"), cell.get("trial"), cell["run_id"]) for cell in stored}
    added = [cell for key, cell in cells.items() if key not in known]
    _refuse_other_trials(added, stored, path)
    document = {
        "study": study.get("study", request.study),
        "measure": list(dict.fromkeys([*study["measure"], *request.measure])),
        "search": search,
        "chosen": study["chosen"] or list(request.decided),
        "cells": [*stored, *(cell.document() for cell in added)],
    }
    if any(study.get(name) != value for name, value in document.items()):
        _write(document, path)
    return Made(
        measure=request.measure,
        cells=tuple(cells.values()),
        added=len(added),
        others=len(known - set(cells)),
    )


def _write(document: Mapping[str, Any], path: Path) -> None:
    header = "# Made by seqbench: the cells as they run, every choice resolved. Run it; edit a study file.\n"
    kept = {"study": document["study"], "schema_version": SCHEMA_VERSION, "measure": document["measure"]}
    kept |= {name: document[name] for name in ("search", "chosen") if document[name]}
    write_atomic(path, (header + dump_study({**kept, "cells": document["cells"]})).encode())


_ANOTHER_SEARCH = "a search with other settings needs another --study"


def _one_search(request: Request, study: Mapping[str, Any], path: Path) -> Mapping[str, Any] | None:
    """A study has one search, of which there can be more trials as long as nothing is decided."""
    there: Mapping[str, Any] | None = study["search"]
    if there is None or request.search is None:
        return request.search or there
    free = () if study["chosen"] else ("trials",)
    kept = {name: value for name, value in there.items() if name not in free}
    changed = differences(kept, {name: request.search.get(name) for name in kept}, "search")
    if changed:
        raise UserError(f"{path}: {'; '.join(changed)}; {_ANOTHER_SEARCH}")
    return request.search


def _refuse_other_trials(
    added: Iterable[FrozenCell], stored: Iterable[Mapping[str, Any]], path: Path
) -> None:
    """The same search has the same trials, unless a model's space or recipe has changed."""
    numbers = {(one["model"], one["task"], one["trial"]) for one in stored if "trial" in one}
    for cell in added:
        if (cell.model_preset, cell.task_preset, cell.trial) in numbers:
            raise UserError(
                f"{path}: trial {cell.trial} of {cell.model_preset} on {cell.task_preset} is not the one "
                f"that was asked for; {_ANOTHER_SEARCH}"
            )


def _refuse_another_reference(
    wanted: Iterable[Cell], stored: Iterable[Mapping[str, Any]], path: Path
) -> None:
    """All of a match are matched to one model, whenever they were asked for."""
    leaders: dict[str | None, str] = {}
    for one in stored:
        leaders.setdefault(one.get("match"), one["model"])
    asked: dict[str | None, str] = {}
    for cell in wanted:
        asked.setdefault(cell.match, cell.model_preset)
    for match, model in asked.items():
        leader = leaders.get(match, model)
        if match is not None and leader != model:
            raise UserError(
                f"{path}: match: {match}: this study matches to {leader}, and {model} comes first now; ask "
                f"for {leader} before it, or use another --study"
            )


def decisions(folder: StudyFolder) -> dict[tuple[str, str], Decision]:
    """What the study's search has decided, by model and task."""
    return _decisions(_stored_study(folder), folder.study_path)


def _decisions(study: Mapping[str, Any], path: Path) -> dict[tuple[str, str], Decision]:
    try:
        found = [Decision(**one) for one in study["chosen"]]
    except TypeError:
        raise UserError(f"{path}: chosen: is not what seqbench wrote") from None
    return {one.key: one for one in found}


def decide(made: Sequence[Decision], folder: StudyFolder) -> None:
    """Freeze what a search has decided; what another worker has decided stays."""
    study = _stored_study(folder)
    there = _decisions(study, folder.study_path)
    new = [vars(one) for one in made if one.key not in there]
    _write({**study, "chosen": [*study["chosen"], *new]}, folder.study_path)


def _refuse_two_names(named: Iterable[tuple[FrozenCell, str]]) -> None:
    names: dict[tuple[str | None, int | None, str], str] = {}
    for cell, name in named:
        other = names.setdefault(cell.key, name)
        if other != name:
            both = f"{other} and {name}"
            raise UserError(f"model: {both} are one run ({cell.run_id}); leave one out")


def frozen_devices(folder: StudyFolder) -> set[str]:
    """On which the cells that are matched in seconds were timed."""
    cells = _stored_study(folder)["cells"]
    measured = [one.get("measured") or {} for one in cells if one.get("match") == "seconds"]
    return {str(one["device"]) for one in measured if "device" in one}


def known_runs(request: Request, folder: StudyFolder) -> list[tuple[Cell, str | None]]:
    """The cells that were asked for, with the ids of their runs where those are known without measuring
    anything.

    Raises:
        UserError: the study in `folder` was edited.
    """
    wanted = (*request.trials, *request.cells)
    hashes = [asked_hash(cell, reference) for cell, reference in zip(wanted, references(wanted), strict=True)]
    frozen = _continued_cells(wanted, hashes, _stored_study(folder)["cells"], folder.study_path)
    result: list[tuple[Cell, str | None]] = []
    for cell, asked in zip(wanted, hashes, strict=True):
        known = frozen.get(asked)
        if known is not None:
            result.append((known, known.run_id))
        else:
            decided = cell.match is None and is_resolved(cell.experiment)
            result.append((cell, cell.experiment.run_id() if decided else None))
    return result


def _stored_study(folder: StudyFolder) -> dict[str, Any]:
    document = folder.document()
    if not document:
        return {"measure": [], "search": None, "chosen": [], "cells": []}
    return stored_study(document, folder.study_path)


def _continued_cells(
    wanted: Sequence[Cell], hashes: Sequence[str], stored: Sequence[Mapping[str, Any]], path: Path
) -> dict[str, FrozenCell]:
    """Those of the cells that are frozen already, by what was asked for."""
    by_asked = {cell["asked"]: cell for cell in stored}
    by_key = {(cell.get("match"), cell.get("trial"), cell["run_id"]): cell for cell in stored}
    frozen: dict[str, FrozenCell] = {}
    for asked, cell in zip(hashes, wanted, strict=True):
        found = by_asked.get(asked)
        decided = cell.match is None and is_resolved(cell.experiment)
        if found is None and (cell.stored is not None or decided):
            found = by_key.get((cell.match, cell.trial, cell.experiment.run_id()))
        if found is not None:
            frozen[asked] = _continued(cell, found, path)
        elif cell.stored is not None:
            frozen[asked] = _frozen(
                cell,
                cell.experiment,
                str(cell.stored["asked"]),
                cell.stored.get("measured") or {},
                cell.stored.get("held"),
            )
    return frozen


class _Siblings:
    """What is frozen of the same cells with other seeds."""

    def __init__(self, stored: Sequence[Mapping[str, Any]], path: Path) -> None:
        self._path = path
        self._by_asked = {one["asked"]: one for one in stored}
        self._seeds = list(dict.fromkeys(one["experiment"].get("seed") for one in stored))
        self._known: dict[str, FrozenCell | None] = {}

    def of(self, cell: Cell, reference: Cell | None) -> FrozenCell | None:
        key = asked_hash(replace(cell, experiment=replace(cell.experiment, seed=0)), reference)
        if key not in self._known:
            self._known[key] = self._found(cell, reference)
        return self._known[key]

    def _found(self, cell: Cell, reference: Cell | None) -> FrozenCell | None:
        for seed in self._seeds:
            other = replace(cell, experiment=replace(cell.experiment, seed=seed))
            found = self._by_asked.get(asked_hash(other, reference))
            if found is not None:
                return _continued(other, found, self._path)
        return None


def _frozen(
    cell: Cell, experiment: Experiment, asked: str, measured: Mapping[str, Any], held: float | None
) -> FrozenCell:
    return FrozenCell(
        model_preset=cell.model_preset,
        task_preset=cell.task_preset,
        experiment=experiment,
        match=cell.match,
        trial=cell.trial,
        asked=asked,
        measured=measured,
        held=held,
    )


@dataclass(frozen=True, kw_only=True)
class SpeedCell:
    """Models whose speeds are compared in one process."""

    task_preset: str
    experiments: dict[str, Experiment]
    """By what reports call the models."""
    device: str
    """The device's name and how much of it is used: speed belongs to it, so it is part of the id."""
    overhead: bool
    """Whether the trainer is timed against a plain loop, too."""

    @property
    def run_id(self) -> str:
        identity = {
            "kind": "speed",
            "device": self.device,
            "overhead": self.overhead,
            "harness": HARNESS_VERSION,
            "experiments": {name: experiment.run_id() for name, experiment in self.experiments.items()},
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]

    def models(self) -> dict[str, Any]:
        """What is timed, whatever the budget."""
        documents = {name: experiment.document() for name, experiment in self.experiments.items()}
        return {
            name: [one["model"], one["task"], one["data"], one["training"]["precision"]]
            for name, one in documents.items()
        }

    def document(self) -> dict[str, Any]:
        """The cell as the `config.yaml` of its run holds it."""
        documents = {name: experiment.document() for name, experiment in self.experiments.items()}
        return {
            "run_id": self.run_id,
            "task": self.task_preset,
            "device": self.device,
            "overhead": self.overhead,
            "experiment": documents,
        }


def speed_cells(made: Made, device: str) -> list[SpeedCell]:
    """One comparison for each task, data and precision of the study; of each model its first cell."""
    groups: dict[str, dict[str, FrozenCell]] = {}
    for cell in made.cells:
        if cell.trial is not None:
            continue
        document = cell.experiment.document()
        data = [document["task"], document["data"], document["training"]["precision"]]
        key = canonical_json([cell.match, *data])
        groups.setdefault(key, {}).setdefault(cell.model_preset, cell)
    cells = [
        SpeedCell(
            task_preset=next(iter(group.values())).task_preset,
            experiments={name: cell.experiment for name, cell in group.items()},
            device=device,
            overhead="overhead" in made.measure,
        )
        for group in groups.values()
    ]
    # Matches that move the steps alone leave the models as they are: one comparison serves them all.
    first: dict[str, SpeedCell] = {}
    for comparison in cells:
        first.setdefault(canonical_json(comparison.models()), comparison)
    return list(first.values())


def remaining_speed(
    cells: Sequence[SpeedCell],
    folder: StudyFolder,
    left_out: Callable[[UntouchableRecord], None] = lambda error: None,
) -> list[SpeedCell]:
    """The comparisons without a complete record; those whose attempt failed are among them. `left_out` as of
    `remaining`.
    """
    missing = []
    for cell in cells:
        run = folder.run(cell.run_id)
        run.open(cell.document())
        try:
            if run.result() is None:
                missing.append(cell)
        except UntouchableRecord as error:
            left_out(error)
    return missing


def _resolved(
    fresh: Mapping[str, tuple[Cell, Cell | None]], frozen: Mapping[str, FrozenCell], resolve: Resolve
) -> dict[str, FrozenCell]:
    together: list[Asked] = []
    places: dict[str, int] = {}

    def place(experiment: Experiment, match: str | None = None, reference: int | None = None) -> int:
        one = Asked(experiment=replace(experiment, seed=0), match=match, reference=reference)
        key = canonical_json([one.experiment.document(), match, reference])
        if key not in places:
            places[key] = len(together)
            together.append(one)
        return places[key]

    at: dict[str, int] = {}
    for asked, (cell, reference) in fresh.items():
        if reference is None or reference is cell:
            at[asked] = place(cell.experiment)
            continue
        known = frozen.get(asked_hash(reference, reference))
        first = place(reference.experiment if known is None else known.experiment)
        # Another seed of the reference is the reference.
        is_reference = replace(cell.experiment, seed=0) == replace(reference.experiment, seed=0)
        at[asked] = first if is_reference else place(cell.experiment, cell.match, first)
    resolved = resolve(together) if together else []
    result = {}
    for asked, (cell, _) in fresh.items():
        found = resolved[at[asked]]
        assert is_resolved(found.experiment)
        experiment = replace(found.experiment, seed=cell.experiment.seed)
        result[asked] = _frozen(cell, experiment, asked, found.measured, found.held)
    return result


def _continued(cell: Cell, stored: Mapping[str, Any], path: Path) -> FrozenCell:
    """A cell with the choices that were frozen for it.

    No code that only `study.yaml` names is run: model and task are those of the request, which must be equal.
    """
    experiment = cell.experiment
    as_asked = cell.match is None and is_resolved(experiment)
    if not (as_asked and experiment.is_document(stored["experiment"])):
        experiment = _with_choices(cell, stored, path)
    if experiment.run_id() != stored["run_id"]:
        raise _edited(stored, path, f"its fields give run {experiment.run_id()}")
    return FrozenCell(
        model_preset=str(stored["model"]),
        task_preset=str(stored["task"]),
        experiment=experiment,
        match=cell.match,
        trial=cell.trial,
        asked=str(stored["asked"]),
        measured=stored.get("measured") or {},
        held=stored.get("held"),
    )


def _with_choices(cell: Cell, stored: Mapping[str, Any], path: Path) -> Experiment:
    asked, found = cell.experiment.document(), dict(stored["experiment"])
    training = found.get("training")
    if not isinstance(training, dict):
        raise _edited(stored, path, "it has no training section")
    is_open = cell.experiment.training.steps is None or cell.match in ("flops", "seconds")
    open_fields = ["steps"] if is_open else []
    open_fields += ["precision"] if cell.experiment.training.precision == "auto" else []
    open_fields += [name for name in BUDGETS if name != "steps"]
    for document in (asked, found):
        document["training"] = {k: v for k, v in document["training"].items() if k not in open_fields}
    if cell.match == "parameters":
        for document in (asked, found):
            document["model"] = {k: v for k, v in document["model"].items() if k != "width"}
    if asked != found:
        raise _edited(stored, path, "; ".join(differences(asked, found)))
    experiment = replace(cell.experiment, training=checked("training", TrainingConfig, training))
    if cell.match == "parameters":
        model = {k: v for k, v in stored["experiment"]["model"].items() if k != "name"}
        experiment = replace(experiment, model=checked("model", type(experiment.model), model))
    return experiment


def _edited(stored: Mapping[str, Any], path: Path, what: str) -> UserError:
    return UserError(
        f"{path}: cell {stored['run_id']}: was edited: {what}; put it back, or use another --study"
    )


@uncollected()
def remaining(
    cells: Iterable[FrozenCell],
    folder: StudyFolder,
    left_out: Callable[[UntouchableRecord], None] = lambda error: None,
) -> list[FrozenCell]:
    """Those of the cells that have to run: without a complete record, or whose run failed.

    A record that is damaged counts as none. A run that diverged is a result: it would diverge again. One
    whose record may be whole, and cannot be read here, is told to `left_out` and stays as it is.

    Raises:
        UserError: a run's `config.yaml` or record holds another experiment than its cell.
    """
    missing = []
    for cell in cells:
        try:
            record = folder.result(cell.run_id)
        except UntouchableRecord as error:
            left_out(error)
            continue
        # A record has the experiment too: of a finished run its config.yaml is read if it was touched since.
        if record is None or not folder.has_older_config(cell.run_id):
            run = folder.run(cell.run_id)
            if run.config_path.exists():
                cell.open(run)
        if record is None:
            missing.append(cell)
        elif record.kind == "train" and not cell.experiment.is_document(record.experiment):
            changed = differences(cell.experiment.document(), record.experiment)
            path = folder.run(cell.run_id).record_path
            raise UserError(f"{path}: is of another experiment: {'; '.join(changed)}")
    return missing
