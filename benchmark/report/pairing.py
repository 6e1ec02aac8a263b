"""Which runs of two studies are a pair, and which pairs may be compared.

Runs are a pair where model, task, settings and seed are equal. A setting is a field that varies among the
runs of one model on one task within a study; what only tells one study from the other is a difference in
config, so that the same grid under another learning rate, or another version, is paired. Scores may be
compared where data and signature are the same, speeds and memory where device, threads and precision are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.config import UserError, canonical_json, flattened, shown
from benchmark.record import SpeedRecord, TrainRecord
from benchmark.report.comparison import Cell
from benchmark.report.study_results import StudyResults

CONDITIONS = ("device", "devices", "threads", "precision")
"""What must be equal, of a provenance, for speeds and memory to be compared."""


@dataclass(frozen=True, kw_only=True)
class CellName:
    """What two sides have in common: a model on a task with the settings of the grid."""

    model: str
    task: str
    settings: str = ""

    @property
    def label(self) -> str:
        return f"{self.model} {self.settings}".strip() + f" on {self.task}"


class PairedCell(NamedTuple):
    """A cell that both sides have, and its runs in the order of seeds."""

    name: CellName
    pairs: tuple[tuple[TrainRecord, TrainRecord], ...]

    @property
    def incomparable(self) -> list[str]:
        """Of `CONDITIONS`, those that differ within a pair."""
        return [
            name
            for name in CONDITIONS
            if any(getattr(a.provenance, name) != getattr(b.provenance, name) for a, b in self.pairs)
        ]


def paired_cells(
    first: StudyResults, second: StudyResults
) -> tuple[list[PairedCell], list[tuple[CellName, int]], list[tuple[CellName, int]]]:
    """The cells that both studies have, and the runs, by cell and seed, that one of them has alone.

    Raises:
        UserError: a pair has other data, or scores that are computed otherwise.
    """
    keys = _keys(first.train_records, second.train_records)
    sides = [
        {(keys[id(record)], record.seed): record for record in study.train_records}
        for study in (first, second)
    ]
    pairs: dict[CellName, list[tuple[TrainRecord, TrainRecord]]] = {}
    for key in sorted(sides[0].keys() & sides[1].keys(), key=lambda key: key[1]):
        pairs.setdefault(key[0], []).append((sides[0][key], sides[1][key]))
    models = list(dict.fromkeys((*first.model_order, *second.model_order)))

    def order(name: CellName) -> tuple[Any, ...]:
        place = models.index(name.model) if name.model in models else len(models)
        return (name.task, place, name.model, name.settings)

    cells = [PairedCell(name, tuple(pairs[name])) for name in sorted(pairs, key=order)]
    for cell in cells:
        refuse_other_data(cell)
    alone = [
        sorted(mine.keys() - others.keys(), key=lambda key: (order(key[0]), key[1]))
        for mine, others in (sides, sides[::-1])
    ]
    return cells, alone[0], alone[1]


def _keys(first: Sequence[TrainRecord], second: Sequence[TrainRecord]) -> dict[int, CellName]:
    """By a record's `id`: its cell, whose settings are the fields that vary within either study."""
    varying: dict[tuple[str, str], dict[str, None]] = {}
    configs = {id(record): config_of(record) for record in (*first, *second)}
    for side in (first, second):
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for record in side:
            groups.setdefault((record.model_preset, task_of(record)), []).append(configs[id(record)])
        for group, members in groups.items():
            names = dict.fromkeys(name for member in members for name in member if name != "seed")
            varying.setdefault(group, {}).update(
                {name: None for name in names if len({canonical_json(m.get(name)) for m in members}) > 1}
            )
    keys = {}
    for record in (*first, *second):
        fields = configs[id(record)]
        settings = {name: fields.get(name) for name in sorted(varying[record.model_preset, task_of(record)])}
        label = Cell(model=record.model_preset, settings=settings, done=(), failed=(), diverged=()).label
        keys[id(record)] = CellName(model=record.model_preset, task=task_of(record), settings=label)
    return keys


def refuse_other_data(cell: PairedCell) -> None:
    """UserError, with what differs, where a pair has other data or scores that are computed otherwise."""
    for a, b in cell.pairs:
        reasons = [f"{name}: {shown(x)} in A, {shown(y)} in B" for name, x, y in unequal(_data(a), _data(b))]
        theirs = {(score.split, score.metric): score for score in b.scores}
        for score in a.scores:
            other = theirs.get((score.split, score.metric))
            if other is None:
                continue
            if score.signature != other.signature:
                x, y = score.signature.split("|"), other.signature.split("|")
                ours, others = [part for part in x if part not in y], [part for part in y if part not in x]
                reasons.append(f"signature of {score.metric}: {'|'.join(ours)} in A, {'|'.join(others)} in B")
            if score.sentences != other.sentences:
                reasons.append(
                    f"sentences of {score.split}: {score.sentences:,} in A, {other.sentences:,} in B"
                )
        if reasons:
            raise UserError(
                f"{cell.name.label}: A and B must not be compared: {'; '.join(dict.fromkeys(reasons))}"
            )


def _data(record: TrainRecord) -> dict[str, Any]:
    """What decides the data of a run."""
    section = record.experiment.get("task")
    settings = flattened(section, "task.") if isinstance(section, Mapping) else {}
    return {
        **settings,
        # a file is what it holds, wherever it lies
        "task.name": Path(record.task_name).name,
        "task_file_sha256": record.experiment.get("task_file_sha256"),
        "task.version": record.task_version,
        "task.fingerprint": record.task_fingerprint,
    }


def unequal(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Names whose values differ, with both; what is not there counts as None."""
    return [
        (name, first.get(name), second.get(name))
        for name in dict.fromkeys((*first, *second))
        if canonical_json(first.get(name)) != canonical_json(second.get(name))
    ]


def config_of(record: TrainRecord) -> dict[str, Any]:
    """The resolved experiment by dotted name, and the versions of what runs it."""
    return {
        **flattened(record.experiment),
        "model.version": record.model_version,
        "task.version": record.task_version,
        "harness.version": record.provenance.harness_version,
    }


def task_of(record: TrainRecord | SpeedRecord) -> str:
    """What reports call the task of a record."""
    return record.task_preset or record.task_name


def paired_speeds(
    first: Sequence[SpeedRecord], second: Sequence[SpeedRecord]
) -> list[tuple[SpeedRecord, SpeedRecord]]:
    """One of each side for each comparison of a task: those that differ in least first."""
    candidates = [
        (len(incomparable_speeds(a, b)), a.experiments != b.experiments, i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if task_of(a) == task_of(b) and a.status == b.status == "done"
    ]
    chosen: list[tuple[int, int]] = []
    for _, _, i, j in sorted(candidates):
        if not any(i == k or j == m for k, m in chosen):
            chosen.append((i, j))
    return [(first[i], second[j]) for i, j in sorted(chosen)]


def incomparable_speeds(first: SpeedRecord, second: SpeedRecord) -> list[str]:
    """Why the speeds of two records must not be compared; empty where they may."""
    reasons = ["task"] if first.task_name != second.task_name else []
    reasons += ["task version"] if first.task_version != second.task_version else []
    return reasons + [
        name for name in CONDITIONS if getattr(first.provenance, name) != getattr(second.provenance, name)
    ]
