"""Requests: from what was asked for, on the command line or in a study file, to validated cells.

A study is a grid: models x a task x any field that is given a list. `settings` lists combinations of fields
instead of their product, `per_model` holds what is one model's own, `match` what the comparison holds equal,
and `search` how many trials each model gets, over its own space, before the comparison is run.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from benchmark.config import (
    BUDGETS,
    ROOT,
    SECTIONS,
    DataConfig,
    EvaluationConfig,
    Experiment,
    TrainingConfig,
    UserError,
    canonical_json,
    checked_seed,
    experiment_from,
    flattened,
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
    varying_fields,
)
from benchmark.record import read_record
from benchmark.search import Search, Space, search_from, trial_values
from benchmark.store import checked_name, differences, load_study_yaml, uncollected

SCHEMA_VERSION = 1
MEASUREMENTS = ("train", "speed", "overhead")
MATCHES = ("parameters", "flops", "seconds")
MOVED: Mapping[str, tuple[str, ...]] = {
    "parameters": ("model.width",),
    "flops": tuple(f"training.{name}" for name in BUDGETS),
    "seconds": tuple(f"training.{name}" for name in BUDGETS),
}
"""By match: the fields that it moves in every model but the first."""
TOLERANCE = 0.02
"""Largest difference from the reference, as a share of it, with which two sides of a match count as equal."""
MAXIMUM_CELLS = 200_000

_PRESET = ""
"""Where the command line's `model=x` is kept among the fields of its section; no field has this name."""

_BESIDE = "model. task."
"""Where a study file's fields of every model and task are kept, which stand beside the presets' names."""

_STUDY_FIELDS = (
    *("study", "measure", "match", "search", "model", "task", "seed", "settings", "per_model"),
    *SECTIONS[2:],
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a study."""

    model_preset: str
    """What reports call the model: its preset, else the name of its file."""
    task_preset: str
    experiment: Experiment
    match: str | None = None
    """Of `MATCHES`: what is held equal to the first model of the study."""
    trial: int | None = None
    """Its number, from 1, where the cell is a trial of the search."""
    stored: Mapping[str, Any] | None = None
    """What a frozen study says of it, where it comes from one: its choices are made."""


def settings_of(cells: Sequence[Cell]) -> list[str]:
    """Of each cell, in words, the fields that vary among those of its model, task and match, but its seed."""
    alike: dict[tuple[str, str, str | None], dict[str, Experiment]] = {}
    places = []
    for cell in cells:
        group = (cell.model_preset, cell.task_preset, cell.match)
        experiment = replace(cell.experiment, seed=0)
        places.append((group, experiment.canonical()))
        alike.setdefault(group, {}).setdefault(places[-1][1], experiment)
    texts = {}
    for group, experiments in alike.items():
        varying = varying_fields(one.document() for one in experiments.values())
        for text, fields in zip(experiments, varying, strict=True):
            texts[group, text] = " ".join(f"{name}={value}" for name, value in fields.items())
    return [texts[place] for place in places]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asked for: validated cells, budgets and precision still open."""

    study: str
    measure: tuple[str, ...]
    cells: tuple[Cell, ...]
    """Of the comparison; empty as long as its search is not decided."""
    trials: tuple[Cell, ...] = ()
    """Of the search, model by model."""
    search: Mapping[str, Any] | None = None
    """Its trials, seed and training, which are the same for all models."""
    undecided: int = 0
    """How many cells the comparison will have, as long as its search is not decided."""
    after_search: Callable[[Chosen], Request] | None = None
    """The request with the cells of the comparison, from what the search has chosen."""
    decided: tuple[Mapping[str, Any], ...] = ()
    """What a frozen study says of its search's decisions, where it is that which is asked for."""


Chosen = Mapping[tuple[str, str], Mapping[str, Any]]
"""By model and task, as reports call them: the fields that a search has decided, nested."""


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
    sections = (*SECTIONS, "search") if kind == "models" else SECTIONS
    for key in layer:
        if key not in sections:
            raise UserError(
                f"{path}: {key}: unknown field{nearest(key, sections)}; there are: {', '.join(sections)}"
            )
    return layer


# Asking


@uncollected()
def request_from(
    arguments: Sequence[str],
    *,
    study: str | None = None,
    trust_code: bool = False,
) -> Request:
    """The cells that the arguments of `seqbench run` ask for; of a study with a search its trials, and how to
    go on from there.

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
    if not frozen and not names and not line:
        raise UserError(
            f"nothing to run; give a study ({', '.join(presets('studies'))}) or model=... task=..."
        )
    if frozen and line:
        raise UserError(
            f"{names[0]}: holds finished cells, which take no field=value; start from a study file"
        )

    def made(cells: Sequence[Cell], trials: Sequence[Cell], **rest: Any) -> Request:
        name = default_name
        if not name:
            tasks = sorted({cell.task_preset for cell in (*cells, *trials)})
            name = f"try-{tasks[0]}" if len(tasks) == 1 else "try"
        return Request(study=checked_name(study or name), cells=tuple(cells), trials=tuple(trials), **rest)

    if frozen:
        cells = [_thawed(cell, names[0], trust_code) for cell in frozen]
        trials = [cell for cell in cells if cell.trial is not None]
        cells = [cell for cell in cells if cell.trial is None]
        compared = {(cell.model_preset, cell.task_preset) for cell in cells}
        for cell in trials:
            if (cell.model_preset, cell.task_preset) not in compared:
                raise UserError(
                    f"{names[0]}: the search of {cell.model_preset} on {cell.task_preset} is not decided, "
                    "and only the study file says what is compared then; start that again"
                )
        return made(
            cells,
            trials,
            measure=tuple(base.get("measure", ["train"])),
            search=base.get("search"),
            decided=tuple(base.get("chosen", ())),
        )
    grid = _Grid(base, line, trust_code)

    def asked(chosen: Chosen | None) -> Request:
        cells, trials = grid.cells(chosen or {}), grid.trials
        grid.check(cells)
        rest: dict[str, Any] = {"measure": grid.measure, "search": grid.search and grid.search.identity}
        if trials and chosen is None:
            return made([], trials, **rest, undecided=len(cells), after_search=asked)
        return made(cells, trials, **rest)

    return asked(None)


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
    elif os.path.isdir(name):
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
    raw = load_study_yaml(path)
    if "cells" in raw:
        stored = stored_study(raw, path)
        kept = {name: stored[name] for name in ("measure", "search", "chosen")}
        return kept, stored["cells"], str(raw.get("study"))
    # The keys of per_model are names, which may hold dots.
    per_model = raw.pop("per_model", None) or {}
    if not isinstance(per_model, dict) or not all(isinstance(value, dict) for value in per_model.values()):
        raise UserError(f"{path}: per_model: must hold fields for each model's preset")
    beside = {
        name: raw.pop(name)
        for name in list(raw)
        if name.startswith(("model.", "task.")) and not isinstance(raw.get(name.partition(".")[0]), dict)
    }
    fields = nested(raw)
    fields[_BESIDE] = nested(beside)
    fields["per_model"] = {name: nested(value) for name, value in per_model.items()}
    fields["settings"] = _settings(fields.get("settings"), f"{path}: settings")
    for name, values in fields["per_model"].items():
        if "settings" in values:
            values["settings"] = _settings(values["settings"], f"{path}: per_model: {name}: settings")
    for key in fields:
        if key not in (*_STUDY_FIELDS, _BESIDE):
            known = f"; there are: {', '.join(_STUDY_FIELDS)}"
            raise UserError(f"{path}: {key}: unknown field{nearest(key, _STUDY_FIELDS) or known}")
    study = fields.get("study")
    if study is not None and not isinstance(study, str):
        raise UserError(f"{path}: study: must be a name, got {shown(study)}")
    return fields, [], study or path.stem


def _settings(value: Any, where: str) -> list[dict[str, Any]]:
    """Combinations of fields, nested; one that changes nothing where none are given."""
    if value is None:
        return [{}]
    if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
        raise UserError(f"{where}: must be a list of fields and values, got {shown(value)}")
    for number, one in enumerate(value):
        if one in value[:number]:
            raise UserError(f"{where}: {shown(one)} is given twice; two cells would be one run")
    return [nested(one) for one in value]


def _measure(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"measure: the list is empty; there are: {', '.join(MEASUREMENTS)}")
    for one in values:
        if one not in MEASUREMENTS:
            raise UserError(f"measure: must be of {', '.join(MEASUREMENTS)}, got {shown(one)}")
    # The trainer is timed with the models.
    return tuple(dict.fromkeys([*values, *(["speed"] if "overhead" in values else [])]))


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
    for number, choice in enumerate(result):
        if choice in result[:number]:
            raise UserError(f"{kind}: {shown(choice.label)} is given twice; two cells would be one run")
    return result


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _label(name: Any) -> str:
    return Path(name).stem if isinstance(name, str) else ""


def _matches(value: Any) -> list[str | None]:
    """What is matched, each on its own; none where nothing is."""
    values = _listed(value)
    if not values:
        raise UserError("match: the list is empty; leave it out to hold nothing equal")
    for one in values:
        if one is not None and one not in MATCHES:
            hint = nearest(one, MATCHES) if isinstance(one, str) else ""
            raise UserError(f"match: must be of {', '.join(MATCHES)}, got {shown(one)}{hint}")
    return list(dict.fromkeys(values))


class _Grid:
    """Fields of a study and of the command line, and the cells that they span."""

    def __init__(self, base: Mapping[str, Any], line: dict[str, Any], trust_code: bool) -> None:
        self.measure = _measure(line.pop("measure", base.get("measure", ["train"])))
        self._matches = _matches(line.pop("match", base.get("match")))
        self.search = search_from(
            merged({"search": base.get("search", {})}, {"search": line.pop("search", {})})
        )
        for kind in ("model", "task"):
            section = line.setdefault(kind, {})
            if not isinstance(section, dict):
                raise UserError(f"{kind}: must be a preset's name or fields, got {shown(section)}")
        self._models = _choices("model", base.get("model"), line["model"])
        self._tasks = _choices("task", base.get("task"), line["task"])
        self._line = {key: value for key, value in line.items() if value != {}}
        self._layer = {key: base[key] for key in ("data", "training", "evaluation", "seed") if key in base}
        self._layer |= base.get(_BESIDE, {})
        self._settings = base.get("settings", [{}])
        self._per_model = base.get("per_model", {})
        self._trust_code = trust_code
        self._check_names()
        self.trials = tuple(self._trials())

    def _check_names(self) -> None:
        known = {*presets("models"), *(model.label for model in self._models)}
        spaces = self.search.spaces if self.search is not None else {}
        for where, labels in (("per_model", self._per_model), ("search.spaces", spaces)):
            for label in labels:
                if label not in known:
                    raise unknown_name(where, label, known)
        if self.search is not None or self._matches != [None]:
            _refuse_one_label("model", self._models)
            _refuse_one_label("task", self._tasks)

    def _layers(self, model: _Choice, task: _Choice) -> list[Mapping[str, Any]]:
        own = dict(self._per_model.get(model.label, {}))
        own.pop("settings", None)
        return [{"task": {}}, *task.layers, *model.layers, self._layer, own]

    def _settings_of(self, model: _Choice) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._per_model.get(model.label, {}).get("settings", self._settings)
        return found

    def _trials(self) -> Iterator[Cell]:
        if self.search is None:
            return
        for model in self._models:
            for task in self._tasks:
                raw = merged(*self._layers(model, task), self._line)
                space = self.search.space(model.label, raw.pop("search", None))
                _refuse_overrides(space, model.label, self._line, self._settings_of(model))
                if self._matches != [None] and any(name.startswith("data.") for name in space):
                    raise UserError(
                        f"search: {model.label}: a match holds the data equal, so that no space varies them"
                    )
                yield from _trials(raw, model, task, self.search, space, self._trust_code)

    def cells(self, chosen: Chosen) -> list[Cell]:
        """Of the comparison. What has no choice yet stands as its recipe says."""
        cells: list[Cell] = []
        found: dict[tuple[str | None, str, bytes], str] = {}
        for model in self._models:
            for task in self._tasks:
                decided = chosen.get((model.label, task.label), {})
                if chosen and self.search is not None and (model.label, task.label) not in chosen:
                    raise UserError(
                        f"search: nothing is decided for {model.label} on {task.label}; in this study it has "
                        "another name"
                    )
                for one in self._settings_of(model):
                    raw = merged(*self._layers(model, task), decided, one, self._line)
                    raw.pop("search", None)
                    place = f"{model.label} on {task.label}"
                    if len(self._settings_of(model)) > 1:
                        place += f" with settings {shown(flattened(one))}"
                    for match in self._matches:
                        expanded = _expanded(raw, model, task, self._trust_code, match=match)
                        cells += _each_once(expanded, place, found)
                        if len(cells) > MAXIMUM_CELLS:
                            raise _too_many_cells()
        # One seed of every model before the next seed, so that a study that is cut off can be read.
        places: dict[int, int] = {}
        for cell in cells:
            places.setdefault(cell.experiment.seed, len(places))
        return sorted(cells, key=lambda cell: places[cell.experiment.seed])

    def check(self, cells: Sequence[Cell]) -> None:
        if self._matches != [None]:
            _check_match(cells)
            references(cells)


def _each_once(
    cells: Iterable[Cell], place: str, found: dict[tuple[str | None, str, bytes], str]
) -> Iterator[Cell]:
    """The cells of one place of the grid; `found` are those before, each with its place.

    Raises:
        UserError: one is there already, under the same match.
    """
    for cell in cells:
        fields = hashlib.sha256(cell.experiment.canonical().encode()).digest()
        other = found.get((cell.match, cell.model_preset, fields))
        if other is not None:
            raise UserError(
                f"{other} and {place} are one run: presets, settings and command line give them the same "
                "fields; leave one out"
            )
        found[cell.match, cell.model_preset, fields] = place
        yield cell


def references(cells: Sequence[Cell]) -> list[Cell | None]:
    """Of each cell the one it is matched to: the first of its match on its data; None without a match.

    Raises:
        UserError: the study's first model does not run on the data of another one.
    """
    first: dict[str, Cell] = {}
    found: list[Cell | None] = []
    for cell in cells:
        if cell.match is None:
            found.append(None)
            continue
        document = cell.experiment.document()
        leader = first.setdefault(cell.match, cell)
        reference = first.setdefault(
            canonical_json([cell.match, cell.task_preset, document["task"], document["data"]]), cell
        )
        if reference.model_preset != leader.model_preset:
            changed = "; ".join(differences(leader.experiment.document()["data"], document["data"], "data"))
            raise UserError(
                f"match: {cell.match}: {leader.model_preset}, which the others are matched to, does not run "
                f"on the data of {reference.model_preset}: {changed or f'task {cell.task_preset}'}"
            )
        found.append(reference)
    return found


def _too_many_cells() -> UserError:
    return UserError(f"the grid has more than {MAXIMUM_CELLS:,} cells")


def _refuse_one_label(kind: str, choices: Sequence[_Choice]) -> None:
    labels = [choice.label for choice in choices]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(
                f"{kind}: {labels.count(label)} are called {label}; with a search or a match each needs a "
                f"name of its own: give them presets in configs/{kind}s"
            )


def _refuse_overrides(
    space: Mapping[str, Any], label: str, line: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> None:
    """What a search decides is not set beside it."""
    for where, layer in (("field=value", line), *(("settings", one) for one in settings)):
        for name in flattened(layer):
            if name in space:
                raise UserError(
                    f"{name}: is in the search space of {label}, and set by {where}, over what the search "
                    "finds; leave it out of one of them"
                )


def _check_match(cells: Sequence[Cell]) -> None:
    if len({cell.model_preset for cell in cells}) < 2:
        raise UserError("match: holds something equal between models, and the study has one")
    moved: dict[str, tuple[str, dict[str, Any]]] = {}
    for cell in cells:
        if cell.experiment.training.patience is not None:
            raise UserError(
                "training.patience: an early stop would break the match; leave patience or match out"
            )
        if cell.match is None:
            continue
        fields = flattened(cell.experiment.document())
        values = {name: fields.pop(name, None) for name in MOVED[cell.match]}
        key = canonical_json([cell.match, cell.model_preset, fields])
        _, other = moved.setdefault(key, (cell.match, values))
        for name, value in values.items():
            if other[name] != value:
                raise UserError(
                    f"{name}: match: {cell.match} decides it, so a study holds one value of it, got "
                    f"{shown(other[name])} and {shown(value)}"
                )


def _trials(
    raw: dict[str, Any], model: _Choice, task: _Choice, search: Search, space: Space, trust_code: bool
) -> Iterator[Cell]:
    """The same number for each model; the first is the recipe as it stands."""
    recipe: dict[str, Any] = {}
    for number in range(1, search.trials + 1):
        values = trial_values(space, search, f"{model.label} {task.label}", number, recipe)
        one = merged(raw, values, search.overrides, {"evaluation": {"test": False}, "seed": search.seed})
        found = list(_expanded(one, model, task, trust_code, trial=number))
        if len(found) > 1:
            raise UserError("search: the study has a list; a search chooses from each model's space alone")
        if number == 1:
            fields = flattened(found[0].experiment.document())
            recipe = {name: fields.get(name) for name in space}
        yield found[0]


def _expanded(
    raw: dict[str, Any],
    model: _Choice,
    task: _Choice,
    trust_code: bool,
    *,
    match: str | None = None,
    trial: int | None = None,
) -> Iterator[Cell]:
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
    if math.prod(len(axis_values) for _, axis_values in axes) > MAXIMUM_CELLS:
        raise _too_many_cells()
    # Seeds share an experiment: there may be thousands, and all but the number is validated once.
    seeds = next((values for path, values in axes if path == ("seed",)), [raw.get("seed", 0)])
    axes = [axis for axis in axes if axis[0] != ("seed",)]
    for values in itertools.product(*(axis_values for _, axis_values in axes)):
        one = {**raw, "seed": seeds[0]}
        for (path, _), value in zip(axes, values, strict=True):
            one = _replaced(one, path, value)
        # A file that must not run was refused above.
        experiment = experiment_from(one, files_allowed=True)
        for seed in seeds:
            yield Cell(
                model_preset=model.label,
                task_preset=task.label,
                experiment=replace(experiment, seed=checked_seed(seed)),
                match=match,
                trial=trial,
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
    seen = set()
    for value in values:
        key = (canonical_json(value),) if isinstance(value, list | dict) else value
        if key in seen:
            raise UserError(f"{'.'.join(path)}: {shown(value)} is given twice; two cells would be one run")
        seen.add(key)
    return values


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


def is_resolved(experiment: Experiment) -> bool:
    """Whether nothing in it depends on the device any more."""
    return experiment.training.steps is not None and experiment.training.precision != "auto"


def _thawed(stored: Mapping[str, Any], name: str, trust_code: bool) -> Cell:
    try:
        experiment = experiment_from(stored["experiment"], files_allowed=trust_code)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    if not is_resolved(experiment):
        raise UserError(f"{name}: a cell has no number of steps or no precision")
    return Cell(
        model_preset=str(stored["model"]),
        task_preset=str(stored["task"]),
        experiment=experiment,
        match=stored.get("match"),
        trial=stored.get("trial"),
        stored=stored if "asked" in stored else None,
    )


def stored_study(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
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
    chosen = raw.get("chosen", [])
    if not isinstance(chosen, list) or not all(isinstance(one, dict) for one in chosen):
        raise UserError(f"{path}: chosen: is not what seqbench wrote")
    search = raw.get("search")
    if search is not None and not isinstance(search, dict):
        raise UserError(f"{path}: search: is not what seqbench wrote")
    measure = list(_measure(raw.get("measure", ["train"])))
    return {**raw, "measure": measure, "search": search, "chosen": chosen}
