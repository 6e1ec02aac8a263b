"""Studies: from what was asked for to frozen cells, each one run.

A study is a grid: models x a task x any field that is given a list. Making it resolves every choice that
depends on the device (a budget in seconds, `precision: auto`) once, and freezes the cells in `study.yaml`.
Started again, it does what is missing; asked for more, it adds cells and keeps those it has.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from benchmark.config import (
    BUDGETS,
    HARNESS_VERSION,
    ROOT,
    SECTIONS,
    DataConfig,
    EvaluationConfig,
    Experiment,
    TrainingConfig,
    UserError,
    canonical_json,
    checked,
    dump_yaml,
    experiment_from,
    load_yaml,
    merged,
    model_module,
    nearest,
    nested,
    parse_override,
    presets,
    shown,
    task_module,
    unknown_name,
)
from benchmark.record import read_record
from benchmark.store import StudyFolder, checked_name, differences, write_atomic

SCHEMA_VERSION = 1
MEASUREMENTS = ("train", "speed", "overhead")
MAXIMUM_CELLS = 2000

_PRESET = ""
"""Where the command line's `model=x` is kept among the fields of its section; no field has this name."""

_STUDY_FIELDS = ("study", "measure", "model", "task", "seed", "per_model", *SECTIONS[2:])

Resolve = Callable[[Sequence[Experiment]], Sequence[Experiment]]
"""Budgets become steps, `precision: auto` becomes a precision; for all of a study at once, in its order."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study."""

    model_preset: str
    """What reports call the model: its preset, else the name of its file."""
    task_preset: str
    experiment: Experiment


@dataclass(frozen=True, kw_only=True)
class FrozenCell(Cell):
    """A cell whose every choice is made."""

    asked: str
    """A hash of the cell before anything was resolved: equal where the same is asked for again."""

    @property
    def run_id(self) -> str:
        return self.experiment.run_id()

    def document(self) -> dict[str, Any]:
        """The cell as `study.yaml` and the `config.yaml` of its run hold it."""
        return {
            "run_id": self.run_id,
            "asked": self.asked,
            "model": self.model_preset,
            "task": self.task_preset,
            "experiment": self.experiment.document(),
        }


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for: validated cells, budgets and precision still open."""

    study: str
    measure: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A study that was made or continued."""

    measure: tuple[str, ...]
    cells: tuple[FrozenCell, ...]
    """Those that were asked for, in the order of running."""
    added: int
    """How many of them are new."""
    others: int
    """Cells of earlier requests, which are kept and were not asked for now."""


# Presets


def first_comment(path: Path) -> str:
    """The comment that a YAML file begins with, its first line; empty without one."""
    with open(path, encoding="utf-8", newline="\n") as file:
        line = file.readline(1000)
    return line[1:].strip() if line.startswith("#") else ""


def preset(kind: str, name: str) -> dict[str, Any]:
    """The sections of a preset of `kind` (`models` or `tasks`); UserError where there is none of the name."""
    if name not in presets(kind):
        error = unknown_name(kind.removesuffix("s"), name, presets(kind))
        hint = f"; a file of your own: {kind[:-1]}.name={name}" if name.endswith(".py") else ""
        raise UserError(f"{error}{hint}")
    path = ROOT / "configs" / kind / f"{name}.yaml"
    layer = nested(load_yaml(path))
    for key in layer:
        if key not in SECTIONS:
            raise UserError(
                f"{path}: {key}: unknown field{nearest(key, SECTIONS)}; there are: {', '.join(SECTIONS)}"
            )
    return layer


# Asking


def request_from(arguments: Sequence[str], *, study: str | None = None, trust_code: bool = False) -> Request:
    """The cells that the arguments of `seqbench run` ask for.

    Args:
        arguments: at most one study (a preset's name, a study file, a frozen `study.yaml`, or a
            `record.json`), and any number of `field=value`.
        study: the study's name, instead of the one that follows from the arguments.
        trust_code: whether files outside the repository may run that only a study or a record names.

    Raises:
        UserError: the first mistake in any cell.
    """
    names = [argument for argument in arguments if "=" not in argument]
    if len(names) > 1:
        raise UserError(
            f"one study at a time, got {' and '.join(map(shown, names))}; fields have the form name=value"
        )
    line: dict[str, Any] = {}
    for argument in arguments:
        if "=" in argument:
            override = parse_override(argument)
            _set(line, override.path, override.value)
    base, frozen, default_name = _source(names[0]) if names else ({}, [], "")
    if frozen:
        if line:
            raise UserError(
                f"{names[0]}: holds finished cells, which take no field=value; start from a study file"
            )
        cells = [_thawed(cell, names[0], trust_code) for cell in frozen]
        measure = base.get("measure", ["train"])
    else:
        if not names and not line:
            raise UserError(
                f"nothing to run; give a study ({', '.join(presets('studies'))}) or model=... task=..."
            )
        cells, measure = _grid(base, line, trust_code)
    if not default_name:
        tasks = sorted({cell.task_preset for cell in cells})
        default_name = f"try-{tasks[0]}" if len(tasks) == 1 else "try"
    return Request(study=checked_name(study or default_name), measure=_measure(measure), cells=tuple(cells))


def _set(layer: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a field of the command line; the last wins. `model=x` and `model.width=1` may stand together."""
    if path in (("model",), ("task",)):
        path = (*path, _PRESET)
    where = layer
    for part in path[:-1]:
        inner = where.setdefault(part, {})
        if not isinstance(inner, dict):
            inner = where[part] = {}
        where = inner
    where[path[-1]] = value


def _source(name: str) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """What a positional argument names: a study's fields, frozen cells, and the name that follows."""
    if name in presets("studies"):
        path = ROOT / "configs" / "studies" / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml", ".json")):
        path = Path(name)
    elif Path(name).is_dir():
        path = Path(name) / "study.yaml"
    else:
        error = unknown_name("study", name, presets("studies"))
        raise UserError(f"{error}; or the path of a study file or record.json; or model=... task=...")
    if path.suffix == ".json":
        record = read_record(path)
        if record.kind != "train":
            raise UserError(f"{path}: a record of kind {record.kind}; only a train record can be run again")
        cell = {"model": record.model_preset, "task": record.task_preset, "experiment": record.experiment}
        return {}, [cell], f"rerun-{record.run_id}"
    raw = load_yaml(path)
    if "cells" in raw:
        stored = _stored(raw, path)
        return {"measure": stored["measure"]}, stored["cells"], str(raw.get("study"))
    # The keys of per_model are names, which may hold dots.
    per_model = raw.pop("per_model", None) or {}
    if not isinstance(per_model, dict) or not all(isinstance(value, dict) for value in per_model.values()):
        raise UserError(f"{path}: per_model: must hold fields for each model's preset")
    fields = nested(raw)
    fields["per_model"] = {name: nested(value) for name, value in per_model.items()}
    for key in fields:
        if key not in _STUDY_FIELDS:
            known = f"; there are: {', '.join(_STUDY_FIELDS)}"
            raise UserError(f"{path}: {key}: unknown field{nearest(key, _STUDY_FIELDS) or known}")
    study = fields.get("study")
    if study is not None and not isinstance(study, str):
        raise UserError(f"{path}: study: must be a name, got {shown(study)}")
    return fields, [], study or path.stem


def _measure(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    for one in values:
        if one not in MEASUREMENTS:
            raise UserError(f"measure: must be of {', '.join(MEASUREMENTS)}, got {shown(one)}")
    return tuple(dict.fromkeys(values))


@dataclass(frozen=True)
class _Choice:
    """One model or task of the grid: what it is called and the layers that make its section."""

    label: str
    layers: tuple[Mapping[str, Any], ...]
    file: str | None = None
    """The file that the command line named for it; no other may run."""


def _choices(kind: str, base: Any, line: dict[str, Any]) -> list[_Choice]:
    """The models or tasks that are asked for: presets or names, of the command line before the study's."""
    presets_wanted = line.pop(_PRESET, None)
    names = line.pop("name", None)
    if presets_wanted is None and names is None:
        presets_wanted = base
    result = []
    for entry in _listed(presets_wanted) if names is None or presets_wanted is not None else [None]:
        if isinstance(entry, dict):
            layers: tuple[Mapping[str, Any], ...] = ({kind: entry},)
            label = _label(entry.get("name"))
        elif isinstance(entry, str):
            layers = (preset(f"{kind}s", entry),)
            label = entry
        elif entry is None:
            layers, label = (), ""
        else:
            raise UserError(f"{kind}: must be a preset's name, got {shown(entry)}")
        for name in _listed(names) if names is not None else [None]:
            if name is None:
                result.append(_Choice(label, layers))
            else:
                result.append(_Choice(_label(name), (*layers, {kind: {"name": name}}), name))
    if not result:
        raise UserError(f"{kind}: the list is empty")
    return result


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _label(name: Any) -> str:
    return Path(name).stem if isinstance(name, str) else ""


def _grid(base: Mapping[str, Any], line: dict[str, Any], trust_code: bool) -> tuple[list[Cell], Any]:
    measure = line.pop("measure", base.get("measure", ["train"]))
    for kind in ("model", "task"):
        section = line.setdefault(kind, {})
        if not isinstance(section, dict):
            raise UserError(f"{kind}: must be a preset's name or fields, got {shown(section)}")
    models = _choices("model", base.get("model"), line["model"])
    tasks = _choices("task", base.get("task"), line["task"])
    line = {key: value for key, value in line.items() if value != {}}
    study_layer = {key: base[key] for key in ("data", "training", "evaluation", "seed") if key in base}
    per_model = base.get("per_model", {})
    known = {*presets("models"), *(model.label for model in models)}
    for label in per_model:
        if label not in known:
            raise unknown_name("per_model", label, known)
    groups: list[list[Cell]] = []
    for model in models:
        for task in tasks:
            raw = merged(*task.layers, *model.layers, study_layer, per_model.get(model.label, {}), line)
            groups.append(list(_expanded(raw, model, task, trust_code)))
            if sum(map(len, groups)) > MAXIMUM_CELLS:
                raise UserError(f"the grid has more than {MAXIMUM_CELLS:,} cells")
    # One seed of every model before the next seed, so that a study that is cut off can be read.
    cells = [cell for group in groups for cell in group]
    seeds = list(dict.fromkeys(cell.experiment.seed for cell in cells))
    return sorted(cells, key=lambda cell: seeds.index(cell.experiment.seed)), measure


def _expanded(raw: dict[str, Any], model: _Choice, task: _Choice, trust_code: bool) -> Iterator[Cell]:
    sections: dict[str, type[BaseModel] | None] = {
        "data": DataConfig,
        "training": TrainingConfig,
        "evaluation": EvaluationConfig,
    }
    # Looked up before their values are, since a field's type decides what a list in it means.
    for kind, find, choice in (("model", model_module, model), ("task", task_module, task)):
        section = raw.get(kind)
        name = section.get("name") if isinstance(section, dict) else None
        if not isinstance(name, str):
            there_are = ", ".join(presets(f"{kind}s"))
            raise UserError(f"{kind}: which? give {kind}=NAME; there are: {there_are}")
        sections[kind] = find(name, files_allowed=trust_code or name == choice.file).module.Config
    axes = list(_axes(raw, sections))
    for values in itertools.product(*(axis_values for _, axis_values in axes)):
        one = raw
        for (path, _), value in zip(axes, values, strict=True):
            one = _replaced(one, path, value)
        # A file that must not run was refused above.
        yield Cell(
            model_preset=model.label,
            task_preset=task.label,
            experiment=experiment_from(one, files_allowed=True),
        )


def _axes(
    raw: Mapping[str, Any], sections: Mapping[str, type[BaseModel] | None]
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, value in raw.items():
        if key in sections and isinstance(value, dict):
            yield from _axes_of(value, sections[key], (key,))
        elif isinstance(value, list):
            yield (key,), _axis((key,), value)


def _axes_of(
    values: Mapping[str, Any], config: type[BaseModel] | None, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, value in values.items():
        field = config.model_fields.get(key) if config is not None else None
        annotation = field.annotation if field is not None else None
        if isinstance(value, dict):
            nested_config = (
                annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
            )
            yield from _axes_of(value, nested_config, (*path, key))
        elif isinstance(value, list) and _depth(value) > _type_depth(annotation):
            yield (*path, key), _axis((*path, key), value)


def _axis(path: tuple[str, ...], values: list[Any]) -> list[Any]:
    if not values:
        raise UserError(f"{'.'.join(path)}: the list is empty")
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _depth(value: Any) -> int:
    """How many lists deep a value is: 0 for a number, 2 for a list of lists."""
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _type_depth(annotation: Any) -> int:
    """How many lists deep a field's own values are; a value that is deeper is an axis."""
    inner = max(map(_type_depth, get_args(annotation)), default=0)
    return inner + ((get_origin(annotation) or annotation) in (list, tuple))


def _replaced(raw: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**raw, path[0]: value}
    return {**raw, path[0]: _replaced(raw[path[0]], path[1:], value)}


# Freezing


def asked_hash(experiment: Experiment) -> str:
    """16 hexadecimal digits that are equal where the same is asked for of the same code."""
    document = {
        "experiment": experiment.document(),
        "versions": [experiment.model.version, experiment.task.version, HARNESS_VERSION],
    }
    return hashlib.sha256(canonical_json(document).encode()).hexdigest()[:16]


def make(request: Request, folder: StudyFolder, resolve: Resolve) -> Made:
    """Resolve what is new, freeze it in `study.yaml`, and give the cells that were asked for.

    Cells that differ only in their seed are resolved once, so that seeds share one number of steps.

    Raises:
        UserError: the study there was edited, or `resolve` found a mistake.
    """
    path = folder.study_path
    stored = _stored_cells(folder)
    by_run_id = {cell["run_id"]: cell for cell in stored}
    frozen = _continued_cells(request, stored, path)
    wanted = {asked_hash(cell.experiment): cell for cell in request.cells}
    fresh = {asked: cell for asked, cell in wanted.items() if asked not in frozen}
    for asked, cell in zip(fresh, _resolved(list(fresh.values()), resolve), strict=True):
        assert is_resolved(cell.experiment)
        frozen[asked] = FrozenCell(
            model_preset=cell.model_preset,
            task_preset=cell.task_preset,
            experiment=cell.experiment,
            asked=asked,
        )
    # Two cells may ask for budgets that resolve to one number of steps; they are one run.
    cells = {frozen[asked].run_id: frozen[asked] for asked in wanted}
    added = {run_id: cell for run_id, cell in cells.items() if run_id not in by_run_id}
    if added or not path.exists():
        document = {
            "study": request.study,
            "schema_version": SCHEMA_VERSION,
            "measure": list(request.measure),
            "cells": [*stored, *(cell.document() for cell in added.values())],
        }
        header = (
            "# Made by seqbench: the cells as they run, every choice resolved. Run it; edit a study file.\n"
        )
        write_atomic(path, (header + dump_yaml(document)).encode())
    return Made(
        measure=request.measure,
        cells=tuple(cells.values()),
        added=len(added),
        others=len(set(by_run_id) - set(cells)),
    )


def known_runs(request: Request, folder: StudyFolder) -> list[tuple[Cell, str | None]]:
    """The cells that were asked for, with the ids of their runs where those are known without measuring
    anything.

    Raises:
        UserError: the study in `folder` was edited.
    """
    frozen = _continued_cells(request, _stored_cells(folder), folder.study_path)
    result: list[tuple[Cell, str | None]] = []
    for cell in request.cells:
        known = frozen.get(asked_hash(cell.experiment))
        if known is not None:
            result.append((known, known.run_id))
        else:
            result.append((cell, cell.experiment.run_id() if is_resolved(cell.experiment) else None))
    return result


def _stored_cells(folder: StudyFolder) -> list[dict[str, Any]]:
    path = folder.study_path
    cells: list[dict[str, Any]] = _stored(load_yaml(path), path)["cells"] if path.exists() else []
    return cells


def _continued_cells(
    request: Request, stored: Sequence[Mapping[str, Any]], path: Path
) -> dict[str, FrozenCell]:
    """The cells of `request` that are frozen already, by what was asked for."""
    by_asked = {cell["asked"]: cell for cell in stored}
    by_run_id = {cell["run_id"]: cell for cell in stored}
    frozen: dict[str, FrozenCell] = {}
    for cell in request.cells:
        asked = asked_hash(cell.experiment)
        found = by_asked.get(asked)
        if found is None and is_resolved(cell.experiment):
            found = by_run_id.get(cell.experiment.run_id())
        if found is not None:
            frozen[asked] = _continued(cell, found, path)
    return frozen


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
        document = cell.experiment.document()
        key = canonical_json([document["task"], document["data"], document["training"]["precision"]])
        groups.setdefault(key, {}).setdefault(cell.model_preset, cell)
    return [
        SpeedCell(
            task_preset=next(iter(group.values())).task_preset,
            experiments={name: cell.experiment for name, cell in group.items()},
            device=device,
            overhead="overhead" in made.measure,
        )
        for group in groups.values()
    ]


def remaining_speed(cells: Sequence[SpeedCell], folder: StudyFolder) -> list[SpeedCell]:
    """The comparisons without a complete record; those whose attempt failed are among them."""
    missing = []
    for cell in cells:
        run = folder.run(cell.run_id)
        run.open(cell.document())
        record = run.result()
        if record is None:
            missing.append(cell)
    return missing


def is_resolved(experiment: Experiment) -> bool:
    """Whether nothing in it depends on the device any more."""
    return experiment.training.steps is not None and experiment.training.precision != "auto"


def _resolved(cells: Sequence[Cell], resolve: Resolve) -> list[Cell]:
    keys = [canonical_json(replace(cell.experiment, seed=0).document()) for cell in cells]
    first: dict[str, Experiment] = {}
    for key, cell in zip(keys, cells, strict=True):
        first.setdefault(key, cell.experiment)
    resolved = dict(zip(first, resolve(list(first.values())), strict=True)) if first else {}
    return [
        replace(cell, experiment=replace(resolved[key], seed=cell.experiment.seed))
        for key, cell in zip(keys, cells, strict=True)
    ]


def _continued(cell: Cell, stored: Mapping[str, Any], path: Path) -> FrozenCell:
    """A cell with the choices that were frozen for it.

    No code that only `study.yaml` names is run: model and task are those of the request, which must be equal.
    """
    where = f"{path}: cell {stored['run_id']}"
    asked, found = cell.experiment.document(), dict(stored["experiment"])
    training = found.get("training")
    if not isinstance(training, dict):
        raise UserError(f"{where}: was edited: it has no training section")
    open_fields = ["steps"] if cell.experiment.training.steps is None else []
    open_fields += ["precision"] if cell.experiment.training.precision == "auto" else []
    open_fields += [name for name in BUDGETS if name != "steps"]
    for document in (asked, found):
        document["training"] = {k: v for k, v in document["training"].items() if k not in open_fields}
    changed = differences(asked, found)
    experiment = replace(cell.experiment, training=checked("training", TrainingConfig, training))
    if not changed and experiment.run_id() != stored["run_id"]:
        changed = [f"its fields give run {experiment.run_id()}"]
    if changed:
        raise UserError(f"{where}: was edited: {'; '.join(changed)}; put it back, or use another --study")
    return FrozenCell(
        model_preset=str(stored["model"]),
        task_preset=str(stored["task"]),
        experiment=experiment,
        asked=str(stored["asked"]),
    )


def _thawed(stored: Mapping[str, Any], name: str, trust_code: bool) -> Cell:
    try:
        experiment = experiment_from(stored["experiment"], files_allowed=trust_code)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not is_resolved(experiment):
        raise UserError(f"{name}: a cell has no number of steps or no precision")
    return Cell(model_preset=str(stored["model"]), task_preset=str(stored["task"]), experiment=experiment)


def _stored(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The content of a frozen `study.yaml`, its shape checked."""
    version = raw.get("schema_version")
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: schema_version: must be {SCHEMA_VERSION}, got {shown(version)}")
    if version > SCHEMA_VERSION:
        raise UserError(f"{path}: has schema version {version}; this seqbench reads up to {SCHEMA_VERSION}")
    cells = raw.get("cells")
    if not isinstance(cells, list):
        raise UserError(f"{path}: cells: must be a list, got {shown(cells)}")
    for number, cell in enumerate(cells, start=1):
        texts = isinstance(cell, dict) and all(
            isinstance(cell.get(key), str) for key in ("run_id", "asked", "model", "task")
        )
        if not texts or not isinstance(cell.get("experiment"), dict):
            raise UserError(f"{path}: cells: number {number} is not what seqbench wrote")
    return {**raw, "measure": list(_measure(raw.get("measure", ["train"])))}


def remaining(made: Made, folder: StudyFolder) -> list[FrozenCell]:
    """The cells that have to run: those without a complete record, and those whose run failed.

    A record that cannot be read counts as none. A run that diverged is a result: it would diverge again.

    Raises:
        UserError: a run's `config.yaml` or record holds another experiment than its cell.
    """
    cells = []
    for cell in made.cells:
        run = folder.run(cell.run_id)
        run.open(cell.document())
        record = run.result()
        if record is None:
            cells.append(cell)
        elif record.kind == "train":
            changed = differences(cell.experiment.document(), record.experiment)
            if changed:
                raise UserError(f"{run.record_path}: is of another experiment: {'; '.join(changed)}")
    return cells
