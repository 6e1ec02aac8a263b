"""A study's folder as its reports see it: records that can be read, those that cannot, and missing runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.config import UserError
from benchmark.record import LayerRecord, SpeedRecord, TrainRecord
from benchmark.report.comparison import Group, Matched, Matches, groups
from benchmark.request import stored_study
from benchmark.store import StudyFolder, uncollected

BESIDE = ("multi30k-en-de", "multi30k-en-de-gpu", "grammar-translation", "speed", "speed-base", "ablations")
"""Studies whose quality, speed and cost the reproduction of section 4 reads where they lie beside."""


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """What a study's folder holds, in an order that does not depend on the file system."""

    name: str
    train_records: tuple[TrainRecord, ...] = ()
    speed_records: tuple[SpeedRecord, ...] = ()
    layer_records: tuple[LayerRecord, ...] = ()
    unreadable: tuple[str, ...] = ()
    """One line for each record that is there, or in a study of `beside`, and cannot be read."""
    missing: tuple[str, ...] = ()
    """One line for each run of the study that has no record."""
    model_order: tuple[str, ...] = ()
    """Models as the study names them."""
    trials: tuple[TrainRecord, ...] = ()
    """Of the search, in its order; they are no part of the comparison."""
    trial_numbers: Mapping[str, int] = field(default_factory=dict)
    """By run of a trial."""
    chosen: frozenset[str] = frozenset()
    """The trials that the search has chosen."""
    matches: Matches = field(default_factory=dict)
    across_devices: bool = False
    """Whether its tables are over all devices."""
    beside: tuple[StudyResults, ...] = ()
    """Of a study with measurements of layers: those of `BESIDE` that there are."""

    @property
    def is_broken(self) -> bool:
        """Whether a row is not what its match promises."""
        return any(cell.invalid for group in self.groups for cell in group.cells)

    @property
    def has_results(self) -> bool:
        """Whether anything in it is done."""
        runs = any(record.status == "done" for record in (*self.train_records, *self.trials))
        speeds = any(record.status == "done" for record in self.speed_records)
        return runs or speeds or any(record.status == "done" for record in self.layer_records)

    @cached_property
    def groups(self) -> list[Group]:
        """The tables of its runs."""
        return groups(self.train_records, self.model_order, self.matches, across_devices=self.across_devices)


@uncollected()
def load_study(
    folder: Path, known: StudyFolder | None = None, *, across_devices: bool = False
) -> StudyResults:
    """Everything that can be read in a study's folder; `known` is that folder where it was read before.

    Tables are over one device each, or with `across_devices` over all.

    Raises:
        UserError: there is no such folder, or its `study.yaml` cannot be read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such study")
    study = known or StudyFolder(folder.resolve().parent, folder.resolve().name)
    document = study.document()
    if document:
        document = stored_study(document, study.study_path)
    contents = study.contents()
    cells = _cells(document)
    # the name inside the study, so that a report does not depend on where the study lies
    unreadable = [str(error).replace(f"{study.path}{os.sep}", "") for error in contents.unreadable.values()]
    there = {*contents.unreadable, *(record.run_id for record in contents.records)}
    trained = {r.run_id: r for r in contents.records if isinstance(r, TrainRecord)}
    trials = dict.fromkeys(cell.run_id for cell in cells if cell.trial is not None)
    matches: dict[str, dict[str, Matched]] = {}
    for cell in cells:
        if cell.match is not None or (cell.trial is None and cell.matched.seconds_per_step is not None):
            matches.setdefault(cell.run_id, {})[cell.match or ""] = cell.matched
    # A study of speeds alone has cells that nobody is to train.
    asked = cells if "train" in (document.get("measure") or ["train"]) else []
    chosen = document.get("chosen")
    layer_records = tuple(
        sorted((r for r in contents.records if isinstance(r, LayerRecord)), key=_by_subject)
    )
    beside = _beside(study, unreadable) if layer_records else ()
    return StudyResults(
        name=study.name,
        train_records=tuple(r for r in trained.values() if r.run_id not in trials),
        speed_records=tuple(r for r in contents.records if isinstance(r, SpeedRecord)),
        layer_records=layer_records,
        unreadable=tuple(unreadable),
        missing=tuple({cell.run_id: cell.label for cell in asked if cell.run_id not in there}.values()),
        model_order=tuple(dict.fromkeys(cell.model for cell in cells)),
        trials=tuple(trained[run_id] for run_id in trials if run_id in trained),
        trial_numbers={cell.run_id: cell.trial for cell in cells if cell.trial is not None},
        chosen=frozenset(
            str(one.get("run_id"))
            for one in (chosen if isinstance(chosen, list) else [])
            if isinstance(one, Mapping)
        ),
        matches=matches,
        across_devices=across_devices,
        beside=beside,
    )


def _by_subject(record: LayerRecord) -> tuple[str, list[str | int]]:
    """Kinds together, and `d = 64` before `d = 128`."""
    parts = re.split(r"(\d+)", record.subject)
    return record.kind, [int(part) if part.isdecimal() else part for part in parts]


def _beside(study: StudyFolder, unreadable: list[str]) -> tuple[StudyResults, ...]:
    found = []
    for name in BESIDE:
        folder = study.path.parent / name
        if name == study.name or not (folder / "study.yaml").is_file():
            continue
        try:
            found.append(load_study(folder))
        except UserError as error:
            unreadable.append(f"{name}, beside this study: {error}")
        else:
            unreadable += [f"{name}, beside this study: {line}" for line in found[-1].unreadable]
    return tuple(found)


class _Cell(NamedTuple):
    run_id: str
    model: str
    seed: Any
    match: str | None
    matched: Matched
    trial: int | None

    @property
    def label(self) -> str:
        which = f"seed {self.seed}" if self.trial is None else f"trial {self.trial}"
        return f"{self.model} {which} (run {self.run_id})"


def _cells(document: Mapping[str, Any]) -> list[_Cell]:
    """The cells of a frozen `study.yaml` in the order of running; `run` refuses what is none."""
    stored = document.get("cells")
    result = []
    for cell in stored if isinstance(stored, list) else []:
        experiment = cell.get("experiment") if isinstance(cell, Mapping) else None
        if isinstance(experiment, Mapping):
            match, trial, measured = cell.get("match"), cell.get("trial"), cell.get("measured")
            timed = measured.get("seconds_per_step") if isinstance(measured, Mapping) else None
            result.append(
                _Cell(
                    run_id=str(cell.get("run_id")),
                    model=str(cell.get("model")),
                    seed=experiment.get("seed"),
                    match=match if isinstance(match, str) else None,
                    matched=Matched(
                        _number(cell.get("held")), _number(timed) if match in (None, "seconds") else None
                    ),
                    trial=trial if isinstance(trial, int) else None,
                )
            )
    return result


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
