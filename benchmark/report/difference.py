"""Two studies or two runs side by side: what differs in config, environment and result, and what the noise
allows to say of it.

Only runs that are done enter a value. Differences are always the second less the first.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from benchmark.config import UserError, canonical_json, flattened
from benchmark.measure.significance import EXACT_SEEDS, PairedComparison, compare_pairs
from benchmark.record import LayerRecord, Provenance, SpeedRecord, SpeedRow, TrainRecord
from benchmark.report.pairing import (
    CellName,
    PairedCell,
    config_of,
    incomparable_speeds,
    paired_cells,
    paired_speeds,
    refuse_other_data,
    task_of,
    unequal,
)
from benchmark.report.study_results import StudyResults
from tasks import VALIDATION

NUMBERS = tuple(
    name
    for name, field in TrainRecord.model_fields.items()
    if field.annotation in (int | None, float | None) and name not in ("diverged_step", "last_finite_loss")
)
"""The fields of a train record that hold a measured number."""
HASHES = ("batch_stream_sha256", "loss_curve_sha256", "weights_sha256")
"""Beside the output of each split: what one seed gives again bit for bit on one machine."""


Compared = StudyResults | TrainRecord | SpeedRecord


class Quantity(NamedTuple):
    """A metric on a split, or a field of a record, which has no split."""

    name: str
    split: str | None = None

    @property
    def label(self) -> str:
        return self.name if self.split is None else f"{self.split} {self.name}"

    @property
    def is_tested(self) -> bool:
        """Whether it has noise; counts have none."""
        return self.split is not None or self.name.startswith("validation_") or self.needs_one_machine

    @property
    def needs_one_machine(self) -> bool:
        return self.split is None and ("second" in self.name or self.name.endswith(("_bytes", "_joules")))


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    name: str
    """As the user named it."""
    holds: str


@dataclass(frozen=True, kw_only=True)
class ConfigDifference:
    """A field, by its dotted name, that differs in the same way in these cells."""

    field: str
    first: Any
    second: Any
    cells: tuple[CellName, ...]


@dataclass(frozen=True, kw_only=True)
class EnvironmentDifference:
    """A field of the provenance that differs within a pair, with every value that each side has."""

    field: str
    first: tuple[Any, ...]
    second: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class ResultDifference:
    """One quantity of one cell, over the seeds at which both sides measured it."""

    cell: CellName
    quantity: str
    split: str | None
    seeds: tuple[int, ...]
    first_mean: float
    second_mean: float
    difference: float
    half_width_95: float | None
    p_adjusted: float | None
    """Of the exact sign-flip test, after Holm's correction over the cells of one task."""
    family: int | None
    is_equal: bool
    """At every seed."""
    is_comparable: bool
    """Speeds and memory are where device, threads and precision are equal."""
    words: str
    """What may be said of it."""


@dataclass(frozen=True, kw_only=True)
class OneSided:
    """A quantity that one side alone measured at these seeds, which both have."""

    cell: CellName
    quantity: str
    split: str | None
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SpeedDifference:
    """A row that two speed records share, with both 95 % intervals."""

    task: str
    model: str
    phase: str
    quantity: str
    conditions: dict[str, Any]
    unit: str
    first: float
    first_low: float | None
    first_high: float | None
    second: float
    second_low: float | None
    second_high: float | None
    is_comparable: bool
    words: str


@dataclass(frozen=True, kw_only=True)
class HashDifference:
    """One hash of one cell, seed by seed."""

    cell: CellName
    hash: str
    seeds: tuple[int, ...]
    first: tuple[str | None, ...]
    second: tuple[str | None, ...]

    @property
    def is_equal(self) -> bool:
        return None not in self.first and self.first == self.second

    @property
    def differing_seeds(self) -> tuple[int, ...]:
        """Those at which both sides have it and it is not the same."""
        by_seed = zip(self.seeds, self.first, self.second, strict=True)
        return tuple(seed for seed, a, b in by_seed if a is not None and b is not None and a != b)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """All that differs between two sides, and what was compared and does not."""

    first: Side
    second: Side
    cells: tuple[CellName, ...]
    config: tuple[ConfigDifference, ...]
    environment: tuple[EnvironmentDifference, ...]
    results: tuple[ResultDifference, ...]
    """Equal ones, too."""
    one_sided: tuple[OneSided, ...]
    speeds: tuple[SpeedDifference, ...]
    hashes: tuple[HashDifference, ...]
    unpaired: tuple[str, ...]
    """One line for each run that one side alone has, or whose status differs."""
    unreadable: tuple[str, ...]
    """One line for each record that is there and is left out, since it cannot be read."""
    remarks: tuple[str, ...]

    @property
    def has_matched(self) -> bool:
        return bool(self.cells or self.speeds)

    @property
    def is_identical(self) -> bool:
        return (
            self.has_matched
            and not (self.config or self.environment or self.one_sided or self.unpaired or self.unreadable)
            and all(one.is_equal for one in self.results)
            and all(one.is_equal for one in self.hashes)
            and all(
                (one.first, one.first_low, one.first_high) == (one.second, one.second_low, one.second_high)
                for one in self.speeds
            )
        )

    def document(self) -> dict[str, Any]:
        """Plain values at full precision."""
        return {**asdict(self), "identical": self.is_identical}


# Two sides


def compare(
    first: Compared | LayerRecord, second: Compared | LayerRecord, *, names: tuple[str, str]
) -> Difference:
    """Two studies, or two records of one kind; `names` is what the user called them.

    Raises:
        UserError: they are of different kinds, a pair has other data, or scores that are computed otherwise.
    """
    if isinstance(first, StudyResults) and isinstance(second, StudyResults):
        return _compare_studies(first, second, names)
    if isinstance(first, TrainRecord) and isinstance(second, TrainRecord):
        cell = CellName(
            model=" / ".join(dict.fromkeys((first.model_preset, second.model_preset))),
            task=" / ".join(dict.fromkeys((task_of(first), task_of(second)))),
        )
        paired = PairedCell(cell, ((first, second),))
        refuse_other_data(paired)
        return _difference(_sides(first, second, names), [paired], [])
    if isinstance(first, SpeedRecord) and isinstance(second, SpeedRecord):
        return _difference(_sides(first, second, names), [], [(first, second)])
    kinds = ["study" if isinstance(one, StudyResults) else f"{one.kind} record" for one in (first, second)]
    raise UserError(
        f"{names[0]} is a {kinds[0]} and {names[1]} a {kinds[1]}; give two of one kind: study, train or speed"
    )


def _compare_studies(first: StudyResults, second: StudyResults, names: tuple[str, str]) -> Difference:
    """The runs that both studies have, pair by pair, and their speed records by task."""
    cells, only_first, only_second = paired_cells(first, second)
    unpaired = [
        f"only in {letter}: {_listed(f'{name.label} seed {seed}' for name, seed in runs)}"
        for letter, runs in (("A", only_first), ("B", only_second))
        if runs
    ]
    unreadable = [
        f"unreadable in {letter}, left out: {reason}"
        for letter, study in (("A", first), ("B", second))
        for reason in study.unreadable
    ]
    speeds = paired_speeds(first.speed_records, second.speed_records)
    return _difference(_sides(first, second, names), cells, speeds, unpaired, unreadable)


def _sides(first: Compared, second: Compared, names: tuple[str, str]) -> list[Side]:
    return [
        Side(name=name, holds=_description(one)) for name, one in zip(names, (first, second), strict=True)
    ]


def _description(one: Compared) -> str:
    if isinstance(one, StudyResults):
        runs = len(one.train_records)
        return f"study {one.name}, {runs:,} run{'' if runs == 1 else 's'}"
    if isinstance(one, SpeedRecord):
        return f"speed on {task_of(one)}, run {one.run_id}"
    return f"{one.model_preset} on {task_of(one)}, seed {one.seed}, run {one.run_id}"


def _difference(
    sides: Sequence[Side],
    cells: Sequence[PairedCell],
    speeds: Sequence[tuple[SpeedRecord, SpeedRecord]],
    unpaired: Sequence[str] = (),
    unreadable: Sequence[str] = (),
) -> Difference:
    results, one_sided = _results(cells)
    hashes = _hashes(cells)
    pairs = [pair for cell in cells for pair in cell.pairs]
    return Difference(
        first=sides[0],
        second=sides[1],
        cells=tuple(cell.name for cell in cells),
        config=tuple(_config_differences(cells, speeds)),
        environment=tuple(_environment_differences([*pairs, *speeds])),
        results=tuple(results),
        one_sided=tuple(one_sided),
        speeds=tuple(row for a, b in speeds for row in _speed_differences(a, b)),
        hashes=tuple(hashes),
        unpaired=(*unpaired, *_other_statuses(cells)),
        unreadable=tuple(unreadable),
        remarks=tuple(_remarks(cells, speeds, hashes)),
    )


def _listed(texts: Iterable[str]) -> str:
    every = list(texts)
    more = len(every) - 6
    return ", ".join(every[:6]) + (f" and {more} more" if more > 0 else "")


# Config and environment


def _config_differences(
    cells: Sequence[PairedCell], speeds: Sequence[tuple[SpeedRecord, SpeedRecord]]
) -> list[ConfigDifference]:
    found: dict[tuple[str, str], tuple[str, Any, Any, dict[CellName, None]]] = {}

    def add(cell: CellName, first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
        for name, x, y in unequal(first, second):
            found.setdefault((name, canonical_json([x, y])), (name, x, y, {}))[3][cell] = None

    for cell in cells:
        for a, b in cell.pairs:
            add(cell.name, config_of(a), config_of(b))
    for first, second in speeds:
        versions = [
            {"task.version": one.task_version, "harness.version": one.provenance.harness_version}
            for one in (first, second)
        ]
        for model in (model for model in first.experiments if model in second.experiments):
            documents = [flattened(one.experiments[model]) for one in (first, second)]
            name = CellName(model=model, task=task_of(first))
            add(name, {**documents[0], **versions[0]}, {**documents[1], **versions[1]})
    return [
        ConfigDifference(field=name, first=x, second=y, cells=tuple(names))
        for name, x, y, names in found.values()
    ]


def _environment_differences(
    pairs: Sequence[tuple[TrainRecord, TrainRecord] | tuple[SpeedRecord, SpeedRecord]],
) -> list[EnvironmentDifference]:
    documents = [(_environment(a.provenance), _environment(b.provenance)) for a, b in pairs]
    names = dict.fromkeys(name for pair in documents for name, _, _ in unequal(*pair))

    def values(name: str, side: int) -> tuple[Any, ...]:
        every = {canonical_json(pair[side].get(name)): pair[side].get(name) for pair in documents}
        return tuple(every[key] for key in sorted(every))

    return [
        EnvironmentDifference(field=name, first=values(name, 0), second=values(name, 1)) for name in names
    ]


def _environment(provenance: Provenance) -> dict[str, Any]:
    fields = flattened(provenance.model_dump(mode="json"))
    del fields["harness_version"]  # among the versions of the config
    return fields


# Results


def _results(cells: Sequence[PairedCell]) -> tuple[list[ResultDifference], list[OneSided]]:
    measured: dict[Quantity, dict[CellName, list[tuple[int, float, float]]]] = {}
    alone: dict[tuple[CellName, Quantity], list[int]] = {}
    for cell in cells:
        for a, b in cell.pairs:
            first, second = _values(a), _values(b)
            for quantity in dict.fromkeys((*first, *second)):
                by_cell = measured.setdefault(quantity, {})
                if quantity in first and quantity in second:
                    by_cell.setdefault(cell.name, []).append((a.seed, first[quantity], second[quantity]))
                else:
                    alone.setdefault((cell.name, quantity), []).append(a.seed)
    incomparable = {cell.name: cell.incomparable for cell in cells}
    order = {name: place for place, name in enumerate(NUMBERS)}
    results = [
        result
        for quantity in sorted(
            measured,
            key=lambda q: (q.split is None, q.split == VALIDATION, order.get(q.name, -1), q.label),
        )
        for result in _compared(quantity, measured[quantity], incomparable)
    ]
    one_sided = [
        OneSided(cell=name, quantity=quantity.name, split=quantity.split, seeds=tuple(seeds))
        for (name, quantity), seeds in alone.items()
    ]
    return results, one_sided


def _values(record: TrainRecord) -> dict[Quantity, float]:
    """What a run measured; nothing where it is not done."""
    if record.status != "done":
        return {}
    fields = {name: getattr(record, name) for name in NUMBERS}
    return {
        **{Quantity(score.metric, score.split): score.value for score in record.scores},
        **{Quantity(name): float(value) for name, value in fields.items() if value is not None},
    }


def _compared(
    quantity: Quantity,
    by_cell: Mapping[CellName, Sequence[tuple[int, float, float]]],
    incomparable: Mapping[CellName, Sequence[str]],
) -> list[ResultDifference]:
    """A quantity in all cells that have it; the cells of one task are a family of tests."""
    reasons = {cell: incomparable[cell] if quantity.needs_one_machine else [] for cell in by_cell}
    tested = [cell for cell in by_cell if quantity.is_tested and not reasons[cell]]
    comparisons: dict[CellName, PairedComparison] = {}
    for task in dict.fromkeys(cell.task for cell in tested):
        family = [cell for cell in tested if cell.task == task]
        values = [by_cell[cell][:EXACT_SEEDS] for cell in family]
        pairs = [([a for _, a, _ in rows], [b for _, _, b in rows]) for rows in values]
        comparisons.update(zip(family, compare_pairs(pairs), strict=True))
    results = []
    for cell, rows in by_cell.items():
        comparison = comparisons.get(cell)
        rows = rows[:EXACT_SEEDS] if comparison else rows
        first, second = (statistics.fmean(row[side] for row in rows) for side in (1, 2))
        is_equal = all(a == b for _, a, b in rows)
        if reasons[cell]:
            words = f"not comparable: {', '.join(reasons[cell])}"
        elif is_equal:
            words = "equal"
        else:
            words = comparison.words() if comparison else "differs"
        results.append(
            ResultDifference(
                cell=cell,
                quantity=quantity.name,
                split=quantity.split,
                seeds=tuple(seed for seed, _, _ in rows),
                first_mean=first,
                second_mean=second,
                difference=second - first,
                half_width_95=comparison.half_width if comparison else None,
                p_adjusted=comparison.p_adjusted if comparison else None,
                family=comparison.family if comparison else None,
                is_equal=is_equal,
                is_comparable=not reasons[cell],
                words=words,
            )
        )
    return results


def _hashes(cells: Sequence[PairedCell]) -> list[HashDifference]:
    """Of the runs that both sides have done; a hash that no run has is left out."""
    result = []
    for cell in cells:
        pairs = [(a, b) for a, b in cell.pairs if a.status == b.status == "done"]
        hashes = [(hashes_of(a), hashes_of(b)) for a, b in pairs]
        for name in dict.fromkeys(name for pair in hashes for one in pair for name in one):
            result.append(
                HashDifference(
                    cell=cell.name,
                    hash=name,
                    seeds=tuple(a.seed for a, _ in pairs),
                    first=tuple(a.get(name) for a, _ in hashes),
                    second=tuple(b.get(name) for _, b in hashes),
                )
            )
    return result


def hashes_of(record: TrainRecord) -> dict[str, str]:
    hashes = {name: value for name in HASHES if (value := getattr(record, name)) is not None}
    outputs = {f"hypotheses_sha256.{split}": value for split, value in record.hypotheses_sha256.items()}
    return hashes | outputs


def _other_statuses(cells: Sequence[PairedCell]) -> list[str]:
    return [
        f"{cell.name.label} seed {a.seed}: {_status(a)} in A, {_status(b)} in B"
        for cell in cells
        for a, b in cell.pairs
        if a.status != b.status
    ]


def _status(record: TrainRecord) -> str:
    return f"{record.status} ({record.failure})" if record.failure else record.status


def _remarks(
    cells: Sequence[PairedCell],
    speeds: Sequence[tuple[SpeedRecord, SpeedRecord]],
    hashes: Sequence[HashDifference],
) -> list[str]:
    remarks = []
    neither = [
        f"{cell.name.label} seed {a.seed}"
        for cell in cells
        for a, b in cell.pairs
        if a.status == b.status != "done"
    ]
    if neither:
        remarks.append(f"done in neither: {_listed(neither)}")
    pairs = [pair for cell in cells for pair in cell.pairs]
    complete = all(_is_complete(record) for pair in pairs for record in pair)
    if pairs and complete and all(one.is_equal for one in hashes):
        remarks.append(
            "the hashes of batch stream, loss curve, weights and output are equal: the results are the same"
        )
    elif len(pairs) == 1:
        remarks.append("one run against one: nothing about noise follows from one seed")
    if any(len(cell.pairs) > EXACT_SEEDS for cell in cells):
        remarks.append(f"scores, losses and speeds are compared over the first {EXACT_SEEDS} common seeds")
    for letter, side in (("A", 0), ("B", 1)):
        if any(pair[side].noisy for pair in speeds):
            remarks.append(
                f"noisy: there was other load or throttling while the speeds of {letter} were timed"
            )
    return remarks


def _is_complete(record: TrainRecord) -> bool:
    hashes = hashes_of(record)
    return record.status == "done" and all(name in hashes for name in HASHES) and len(hashes) > len(HASHES)


# Speed records


def _speed_differences(first: SpeedRecord, second: SpeedRecord) -> list[SpeedDifference]:
    reasons = incomparable_speeds(first, second)
    theirs = {_speed_key(row): row for row in second.rows}
    return [
        SpeedDifference(
            task=task_of(first),
            model=row.model,
            phase=row.phase,
            quantity=row.quantity,
            conditions=dict(row.conditions),
            unit=row.unit,
            first=row.value,
            first_low=row.low,
            first_high=row.high,
            second=other.value,
            second_low=other.low,
            second_high=other.high,
            is_comparable=not reasons,
            words=f"not comparable: {', '.join(reasons)}" if reasons else _interval_words(row, other),
        )
        for row in first.rows
        if (other := theirs.get(_speed_key(row))) is not None
    ]


def _speed_key(row: SpeedRow) -> tuple[str, str, str, str]:
    return (row.model, row.phase, row.quantity, canonical_json(row.conditions))


def _interval_words(first: SpeedRow, second: SpeedRow) -> str:
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return "equal" if first.value == second.value else "undecidable without intervals"
    if first.low > second.high:
        return "first higher"
    if second.low > first.high:
        return "second higher"
    return "not distinguishable"
