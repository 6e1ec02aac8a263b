"""Which records may stand in one table, and what a row of it is.

A row is one model with one setting, over its seeds. A table holds rows that belong to the same device,
threads, precision, task and versions, and whose scores carry the same signatures: anything else differs by
more than the model.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from benchmark.config import canonical_json, flattened, varying_fields
from benchmark.measure.significance import Summary, summarise
from benchmark.record import LayerRecord, SpeedRecord, TrainRecord
from benchmark.report.budgets import broken_match
from tasks import VALIDATION

TIMINGS = (
    "train_target_tokens_per_second",
    "generate_sentences_per_second",
    "train_seconds",
    "energy_joules",
)
OF_DEVICES = (*TIMINGS, "peak_memory_bytes")
"""What runs on several devices have no one value of."""
SEVERAL = "several devices"
"""The device of a table over all of them."""
MEDIANS = ("parameters", "body_parameters", "steps", "validation_loss", *TIMINGS)

ROW_FIELDS = (
    "table",
    "match",
    "model",
    "settings",
    "invalid",
    "task",
    "task_version",
    "task_settings",
    "task_fingerprint",
    "device",
    "devices",
    "threads",
    "precision",
    "torch_version",
    "harness_version",
    "seeds",
    "runs_done",
    "runs_failed",
    "runs_diverged",
    *(f"{name}_median_over_seeds" if name in TIMINGS else name for name in MEDIANS),
    "peak_memory_bytes",
    "run_ids",
)
"""What each of `rows` has, beside its scores."""


class Matched(NamedTuple):
    """What the study says of a run that is a cell of a match."""

    held: float | None = None
    """How much its reference has of what is held equal; None for the reference."""
    seconds_per_step: float | None = None
    """As timed when the study was made, where seconds are matched or are the budget."""


Matches = Mapping[str, Mapping[str, Matched]]
"""By run: the matches that it is a cell of. A run that is in no match stands for itself."""


@dataclass(frozen=True, kw_only=True, order=True)
class Conditions:
    """What the rows of one table have in common."""

    task: str
    task_version: int
    task_settings: str
    """Fields of the task's config as canonical JSON: other data make another table."""
    task_fingerprint: str
    device: str
    devices: int
    threads: int
    precision: str
    harness_version: int
    torch_version: str
    match: str = ""
    """What the study holds equal between the models; empty where it does not say."""
    signatures: tuple[tuple[str, str], ...] = ()
    """Metric and signature of each score; empty for runs that scored nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One model with one setting: the runs that differ in nothing but their seed."""

    model: str
    settings: dict[str, Any]
    """By dotted name: the fields that vary among this model's runs in the study."""
    done: tuple[TrainRecord, ...]
    failed: tuple[TrainRecord, ...]
    diverged: tuple[TrainRecord, ...]
    held: float | None = None
    """How much what it is matched to has of what the match holds equal; None for that itself."""
    seconds_per_step: float | None = None
    """As timed when the study was made, where seconds are matched."""
    is_over_devices: bool = False
    """Whether its runs may be of several devices: then it has scores and no speeds."""
    invalid: str = ""
    """Why the row is not what its match promises, and so takes part in no comparison; empty where it does."""

    @property
    def records(self) -> tuple[TrainRecord, ...]:
        """All runs, those that are done first."""
        return (*self.done, *self.failed, *self.diverged)

    @property
    def label(self) -> str:
        """Settings as `learning_rate=0.001`; with their section where two of one name vary."""
        last = [name.rpartition(".")[2] for name in self.settings]
        return " ".join(
            f"{short if last.count(short) == 1 else name}={_plain(value)}"
            for (name, value), short in zip(self.settings.items(), last, strict=True)
        )

    @cached_property
    def _scores(self) -> dict[tuple[str, str], dict[int, float]]:
        """By split and metric, then by seed."""
        found: dict[tuple[str, str], dict[int, float]] = {}
        for record in self.done:
            for score in record.scores:
                found.setdefault((score.split, score.metric), {})[record.seed] = score.value
        return found

    def score(self, split: str, metric: str) -> Summary | None:
        """Over the seeds that have this score; None if none has."""
        values = self._scores.get((split, metric))
        return summarise(list(values.values())) if values else None

    def values(self, split: str, metric: str) -> dict[int, float]:
        """By seed, of the runs that have this score."""
        return dict(self._scores.get((split, metric), {}))

    def median(self, field: str) -> float | None:
        """Of a record's field over the seeds that measured it."""
        values = self._measured(field)
        return float(statistics.median(values)) if values else None

    def ends(self, field: str) -> tuple[float, float] | None:
        """The smallest and the largest of a record's field over the seeds that measured it."""
        values = self._measured(field)
        return (min(values), max(values)) if values else None

    def largest(self, field: str) -> float | None:
        """Of a record's field over the seeds that measured it."""
        return max(self._measured(field), default=None)

    def _measured(self, field: str) -> list[float]:
        if self.is_over_devices and field in OF_DEVICES:
            return []
        return [value for record in self.done if (value := getattr(record, field)) is not None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The cells that may be compared with each other."""

    conditions: Conditions
    cells: tuple[Cell, ...]

    @property
    def comparable(self) -> tuple[Cell, ...]:
        """Those that are what the group's match promises."""
        return tuple(cell for cell in self.cells if not cell.invalid)

    @property
    def records(self) -> list[TrainRecord]:
        """Every run of the group, in the order of its rows."""
        return [record for cell in self.cells for record in cell.records]

    @cached_property
    def scored(self) -> list[tuple[str, str]]:
        """Split and metric of every score of a run: test splits as records have them, then validation."""
        found: dict[tuple[str, str], None] = {}
        for record in self.records:
            for score in record.scores:
                found[score.split, score.metric] = None
        return sorted(found, key=lambda key: key[0] == VALIDATION)


def groups(
    records: Iterable[TrainRecord],
    model_order: Sequence[str] = (),
    matches: Matches | None = None,
    *,
    across_devices: bool = False,
) -> list[Group]:
    """The tables of a study, each with its rows; models in `model_order`, others after it by name.

    A run that is a cell of several `matches` is in the table of each. With `across_devices` runs on several
    devices, or with other numbers of threads, are rows of one table: for scores, since speeds belong to one.
    """
    alike: dict[tuple[Any, ...], list[TrainRecord]] = {}
    unmatched = {"": Matched()}
    for record in records:
        decides = _what_decides(record)
        for match in (matches or {}).get(record.run_id, unmatched):
            alike.setdefault((match, *decides), []).append(record)
    by_conditions: dict[Conditions, list[TrainRecord]] = {}
    for (match, *_), mine in alike.items():
        found = replace(_conditions(mine[0]), match=match)
        if across_devices:
            found = replace(found, device=SEVERAL, devices=0, threads=0)
        by_conditions.setdefault(found, []).extend(mine)
    for conditions in sorted(by_conditions):
        if conditions.signatures:
            continue
        # runs without any score belong to the table that they would have been in
        with_scores = [
            c for c in sorted(by_conditions) if c.signatures and replace(c, signatures=()) == conditions
        ]
        if with_scores:
            by_conditions[with_scores[0]].extend(by_conditions.pop(conditions))
    for together in by_conditions.values():
        together.sort(key=lambda record: (record.seed, record.run_id))
    # What a match moves is no setting; within one match, and over all devices, a setting is one.
    by_match: dict[str, list[TrainRecord]] = {}
    for conditions, together in by_conditions.items():
        by_match.setdefault(conditions.match, []).extend(together)
    fields = _Fields()
    varying = {match: fields.varying(mine) for match, mine in by_match.items()}
    return [
        _checked(
            Group(
                conditions=conditions,
                cells=_cells(
                    by_conditions[conditions],
                    fields,
                    varying[conditions.match],
                    model_order,
                    across_devices,
                ),
            ),
            matches or {},
        )
        for conditions in sorted(by_conditions)
    ]


def _checked(group: Group, matches: Matches) -> Group:
    """With every row that breaks the match marked."""
    match = group.conditions.match
    cells = []
    for cell in group.cells:
        matched = matches.get(cell.records[0].run_id, {}).get(match, Matched())
        cells.append(replace(cell, **matched._asdict()))
    group = replace(group, cells=tuple(cells))
    return replace(group, cells=tuple(replace(c, invalid=broken_match(c, match, group)) for c in cells))


def group_titles(study: str, every: Sequence[Group]) -> list[str]:
    """What all groups of a study are called: by their task, with its fields and data where they vary, and by
    their device where there are several.
    """
    titles = []
    for conditions in (group.conditions for group in every):
        title = ", ".join([f"{study}: {conditions.task}", *_task_fields(conditions, every)])
        if conditions.match:
            title += f", equal {conditions.match}"
        if len({replace(other.conditions, match="") for other in every}) > 1:
            title += f" ({conditions.precision}, {conditions.device}"
            if conditions.threads:
                title += f", {conditions.threads:,} thread{'' if conditions.threads == 1 else 's'}"
            title += ")"
        unsigned = replace(conditions, signatures=())
        alike = [other for other in every if replace(other.conditions, signatures=()) == unsigned]
        if len(alike) > 1:
            title += f" [{', '.join(_apart(conditions, alike))}]"
        titles.append(title)
    return titles


def _task_fields(conditions: Conditions, every: Sequence[Group]) -> list[str]:
    """What sets the tables of one task apart: `maximum_length=10`."""
    alike = [other.conditions for other in every if other.conditions.task == conditions.task]
    documents = [
        {**(json.loads(one.task_settings) or {}), "data files": one.task_fingerprint[:12]} for one in alike
    ]
    varying = varying_fields(documents)[alike.index(conditions)]
    return [f"{name}={_plain(value)}" for name, value in varying.items()]


def _apart(conditions: Conditions, alike: Sequence[Group]) -> list[str]:
    """Of the signatures of a table, the parts that not all tables of its kind have."""

    def parts(one: Conditions) -> list[str]:
        return [f"{metric} {part}" for metric, text in one.signatures for part in text.split("|")]

    common = set.intersection(*(set(parts(other.conditions)) for other in alike))
    return [part for part in parts(conditions) if part not in common] or ["no scores"]


def rows(all_groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The rows of all tables at full precision, flat: equal names in each, None where nothing was measured.

    `table` numbers the tables: only rows of one table may be compared.
    """
    scored = list(dict.fromkeys(key for group in all_groups for key in group.scored))
    result = []
    for number, group in enumerate(all_groups, start=1):
        conditions = group.conditions
        for cell in group.cells:
            row: dict[str, Any] = {
                "table": number,
                "match": conditions.match or None,
                "model": cell.model,
                "settings": cell.label,
                "invalid": cell.invalid or None,
                "task": conditions.task,
                "task_version": conditions.task_version,
                "task_settings": conditions.task_settings,
                "task_fingerprint": conditions.task_fingerprint or None,
                "device": conditions.device,
                "devices": conditions.devices,
                "threads": conditions.threads,
                "precision": conditions.precision,
                "torch_version": conditions.torch_version,
                "harness_version": conditions.harness_version,
                "seeds": " ".join(str(record.seed) for record in cell.done),
                "runs_done": len(cell.done),
                "runs_failed": len(cell.failed),
                "runs_diverged": len(cell.diverged),
            }
            for split, metric in scored:
                score = cell.score(split, metric)
                name = f"{split}_{metric}"
                row[f"{name}_mean"] = score.mean if score else None
                row[f"{name}_standard_deviation"] = score.standard_deviation if score else None
                row[f"{name}_half_width_95"] = score.half_width if score else None
                row[f"{name}_seeds"] = score.number_of_seeds if score else None
            for metric in dict.fromkeys(metric for _, metric in scored):
                row[f"{metric}_signature"] = dict(conditions.signatures).get(metric)
            for field in MEDIANS:
                row[f"{field}_median_over_seeds" if field in TIMINGS else field] = cell.median(field)
            row["peak_memory_bytes"] = cell.largest("peak_memory_bytes")
            row["run_ids"] = " ".join(r.run_id for r in cell.records)
            result.append(row)
    return result


def speed_rows(records: Iterable[SpeedRecord]) -> list[dict[str, Any]]:
    """The rows of speed records, flat, with what they belong to."""
    return [
        {
            "run_id": record.run_id,
            "task": record.task_preset or record.task_name,
            "task_version": record.task_version,
            "device": record.provenance.device,
            "devices": record.provenance.devices,
            "threads": record.provenance.threads,
            "precision": record.provenance.precision,
            "torch_version": record.provenance.torch_version,
            "noisy": record.noisy,
            "model": row.model,
            "phase": row.phase,
            "quantity": row.quantity,
            "value": row.value,
            "low_95": row.low,
            "high_95": row.high,
            "unit": row.unit,
            "rounds": row.rounds,
            "conditions": canonical_json(row.conditions),
        }
        for record in records
        for row in record.rows
    ]


def layer_rows(records: Iterable[LayerRecord]) -> list[dict[str, Any]]:
    """The rows of measurements of layers, flat, with what they belong to."""
    return [
        {
            "run_id": record.run_id,
            "kind": record.kind,
            "subject": record.subject,
            "device": record.provenance.device,
            "threads": record.provenance.threads,
            "torch_version": record.provenance.torch_version,
            "noisy": record.noisy,
            "quantity": row.quantity,
            "value": row.value,
            "low_95": row.low,
            "high_95": row.high,
            "unit": row.unit,
            "conditions": canonical_json(row.conditions),
        }
        for record in records
        for row in record.rows
    ]


def _what_decides(record: TrainRecord) -> tuple[Any, ...]:
    """Equal only where the conditions are."""
    return (
        record.task_preset or record.task_name,
        record.task_version,
        record.task_fingerprint,
        id(record.experiment.get("task")),
        id(record.provenance),
        tuple((score.metric, score.signature) for score in record.scores),
    )


def _conditions(record: TrainRecord) -> Conditions:
    provenance = record.provenance
    return Conditions(
        task=record.task_preset or record.task_name,
        task_version=record.task_version,
        task_settings=canonical_json(record.experiment.get("task")),
        task_fingerprint=record.task_fingerprint,
        device=provenance.device,
        devices=provenance.devices,
        threads=provenance.threads,
        precision=provenance.precision,
        harness_version=provenance.harness_version,
        torch_version=provenance.torch_version,
        signatures=tuple(sorted({(score.metric, score.signature) for score in record.scores})),
    )


class _Fields:
    """The fields of runs by dotted name, found once for what many runs have in common."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, int], tuple[Any, dict[str, Any]]] = {}

    def part(self, name: str, value: Any) -> dict[str, Any]:
        """Of one section of an experiment."""
        known = self._parts.get((name, id(value)))
        if known is None:
            known = self._parts[name, id(value)] = value, flattened({name: value})
        return known[1]

    def values(self, record: TrainRecord, names: Sequence[str]) -> dict[str, Any]:
        """None for a field that the run lacks."""
        parts = _parts(record)
        found = {}
        for name in names:
            section = name if name in parts else name.partition(".")[0]
            found[name] = self.part(section, parts[section]).get(name) if section in parts else None
        return found

    def varying(self, records: Sequence[TrainRecord]) -> dict[str, list[str]]:
        """By model, the fields in which its runs differ; a field that a run lacks counts as none."""
        runs: dict[str, dict[tuple[int, ...], TrainRecord]] = {}
        for record in records:
            runs.setdefault(record.model_preset, {}).setdefault(_identity(record), record)
        return {model: list(self._varying([*map(_parts, mine.values())])) for model, mine in runs.items()}

    def _varying(self, runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        for section in dict.fromkeys(name for parts in runs for name in parts):
            different = {id(parts.get(section)): parts.get(section) for parts in runs}
            fields = [self.part(section, value) for value in different.values()]
            for name in dict.fromkeys(name for one in fields for name in one):
                if (
                    len({canonical_json(one.get(name)) for one in fields}) > 1
                    and name != "training.precision"
                ):
                    yield name


def _identity(record: TrainRecord) -> tuple[int, ...]:
    """Equal only where `_parts` are: runs that are read together share the sections of their experiments."""
    sections = (id(part) for name, part in record.experiment.items() if name != "seed")
    return (record.model_version, *sections)


def _parts(record: TrainRecord) -> dict[str, Any]:
    """Sections of an experiment that make a row: the seed is what a row is over, the task heads the table."""
    parts = {name: part for name, part in record.experiment.items() if name not in ("seed", "task")}
    parts["model.version"] = record.model_version
    return parts


def _cells(
    records: Sequence[TrainRecord],
    fields: _Fields,
    varying: Mapping[str, Sequence[str]],
    model_order: Sequence[str],
    is_over_devices: bool,
) -> tuple[Cell, ...]:
    by_cell: dict[tuple[str, str], list[TrainRecord]] = {}
    settings: dict[tuple[str, str], dict[str, Any]] = {}
    known: dict[tuple[str, tuple[int, ...]], tuple[str, str]] = {}
    for record in records:
        identity = record.model_preset, _identity(record)
        key = known.get(identity)
        if key is None:
            mine = fields.values(record, varying[record.model_preset])
            key = known[identity] = (record.model_preset, canonical_json(mine) if mine else "")
            settings[key] = mine
        by_cell.setdefault(key, []).append(record)

    def order(key: tuple[str, str]) -> tuple[Any, ...]:
        model = key[0]
        place = model_order.index(model) if model in model_order else len(model_order)
        return (place, model, [_sortable(value) for value in settings[key].values()])

    return tuple(
        Cell(
            model=key[0],
            settings=settings[key],
            is_over_devices=is_over_devices,
            done=tuple(r for r in by_cell[key] if r.status == "done"),
            failed=tuple(r for r in by_cell[key] if r.status == "failed"),
            diverged=tuple(r for r in by_cell[key] if r.status == "diverged"),
        )
        for key in sorted(by_cell, key=order)
    )


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (1, 0.0, canonical_json(value))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)
