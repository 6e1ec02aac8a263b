"""What the claims ask of the records: values over lengths, growth, and comparisons of times."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmark.measure.significance import summarise
from benchmark.measure.timing import LEAST_STEADY, Interval, median, ratio, steady_from
from benchmark.record import LayerKind, LayerRecord, Row, TrainRecord
from benchmark.report.rounding import with_half_width
from benchmark.report.study_results import StudyResults
from benchmark.why.cells import VARIANTS

FORWARD = {"pass": "forward"}
BOTH = {"pass": "forward and backward"}


class Missing(Exception):
    """What a claim needs and is not there, in words."""


@dataclass(frozen=True)
class Facts:
    """The records of a study of layers, of the models that were trained with it, and of studies beside it."""

    records: Sequence[LayerRecord]
    runs: Sequence[TrainRecord] = ()
    beside: Sequence[StudyResults] = ()
    read: dict[str, None] = field(default_factory=dict, repr=False, compare=False)
    """Runs whose records have been asked for since it was emptied, in that order."""

    @staticmethod
    def of(study: StudyResults) -> Facts:
        """What a study and those beside it hold. Of each measurement the largest, where several scales lie in
        one folder; of times those of one device, that with the most of them.
        """
        device = _most_timed(study.layer_records)
        largest: dict[tuple[str, str], LayerRecord] = {}
        for record in study.layer_records:
            if record.timing_method is not None and _device(record) != device:
                continue
            key = (record.kind, record.subject)
            known = largest.get(key)
            if known is None or (record.status == "done", len(record.rows)) > (
                known.status == "done",
                len(known.rows),
            ):
                largest[key] = record
        return Facts(list(largest.values()), study.train_records, study.beside)

    def rows(self, kind: LayerKind, subject: str, quantity: str, **conditions: Any) -> list[Row]:
        """Those that have all of `conditions`; Missing where there are none."""
        found = list(self._rows(kind, subject, quantity, conditions))
        if found:
            return found
        for record in self.records:
            if (record.kind, record.subject) == (kind, subject) and record.failure:
                raise Missing(f"{kind} of {subject} failed: {record.failure}")
        shown = "".join(f", {name} = {value}" for name, value in conditions.items())
        raise Missing(f"{quantity} of {subject}{shown} was not measured")

    def _rows(
        self, kind: LayerKind, subject: str, quantity: str, conditions: Mapping[str, Any]
    ) -> Iterator[Row]:
        for record in self.records:
            if (record.kind, record.subject) != (kind, subject):
                continue
            self.read[record.run_id] = None
            for row in record.rows:
                if row.quantity == quantity and all(
                    row.conditions.get(name) == value for name, value in conditions.items()
                ):
                    yield row

    def subjects(self, kind: LayerKind) -> list[str]:
        """What was measured of this kind, in the records' order."""
        return [record.subject for record in self.records if record.kind == kind and record.status == "done"]

    def series(
        self, kind: LayerKind, subject: str, quantity: str, over: str = "n", **conditions: Any
    ) -> dict[float, float]:
        """Value by one of the conditions, such as n, in its order; Missing with fewer than 3 of them."""
        found = {
            number(row, over): row.value
            for row in self.rows(kind, subject, quantity, **conditions)
            if over in row.conditions
        }
        if len(found) < 3:
            raise Missing(
                f"{quantity} of {subject} was measured at {len(found)} values of {over} and takes 3"
            )
        return dict(sorted(found.items()))

    def seconds(self, layer: str, **conditions: Any) -> list[Row]:
        """Times of a layer, over all widths that were timed; Missing where there are none."""
        found = [
            row
            for subject in self.subjects("time")
            if not subject.startswith(VARIANTS)
            for row in self._rows("time", subject, "seconds", {"layer": layer, **conditions})
        ]
        if not found:
            raise Missing(f"the time of {layer} was not measured")
        return found


@dataclass(frozen=True, kw_only=True)
class UntrainedSignal:
    """Norms against distance of an untrained layer or model: of its longest input, at its last position."""

    subject: str
    side: str
    """Of a model, the side that it is from; else empty."""
    norms: Sequence[tuple[float, float]]
    """Distance and norm, where that is not 0."""

    @property
    def name(self) -> str:
        return f"{self.subject} from the {self.side}" if self.side else self.subject


def untrained_signals(facts: Facts) -> list[UntrainedSignal]:
    """Of every layer and model that was measured, by name; Missing where none was."""
    subjects = sorted(
        {
            record.subject
            for record in facts.records
            if (record.kind, record.status) == ("signal", "done") and "run" not in record.settings
        }
    )
    if not subjects:
        raise Missing("no signal was measured")
    found = []
    for subject in subjects:
        rows = facts.rows("signal", subject, "norm")
        longest = max(number(row, "n") for row in rows)
        rows = [row for row in rows if row.conditions["n"] == longest]
        for side in dict.fromkeys(row.conditions.get("from") for row in rows):
            mine = [row for row in rows if row.conditions.get("from") == side]
            last = max(number(row, "output") for row in mine)
            norms = [
                (number(row, "distance"), row.value)
                for row in mine
                if row.conditions["output"] == last and row.value > 0
            ]
            found.append(UntrainedSignal(subject=subject, side=str(side or ""), norms=norms))
    return found


class Scaled(NamedTuple):
    """Target tokens per second of training on several devices, and on one beside it."""

    model: str
    devices: int
    scaling: str
    """Strong, one global batch for all, or weak, a batch for each."""
    together: Row
    alone: Row


def scalings(facts: Facts) -> list[Scaled]:
    """Every training on several devices, by model."""
    found = []
    for subject in facts.subjects("scaling"):
        rows = {
            (number(row, "devices"), number(row, "beside"), str(row.conditions["scaling"])): row
            for row in facts.rows("scaling", subject, "target_tokens_per_second")
        }
        model = subject.removeprefix("training, ")
        for (devices, beside, scaling), row in rows.items():
            if devices > 1:
                found.append(Scaled(model, int(devices), scaling, row, rows[beside, devices, scaling]))
    return found


def _device(record: LayerRecord) -> tuple[str, int, int]:
    provenance = record.provenance
    return provenance.device, provenance.devices, provenance.threads


def _most_timed(records: Sequence[LayerRecord]) -> tuple[str, int, int] | None:
    found = Counter(_device(record) for record in records if record.timing_method is not None)
    return max(found, key=lambda device: found[device]) if found else None


def exponent(series: Mapping[float, float]) -> float:
    """Of the power law through a series, by least squares on logarithms."""
    points = [(math.log(x), math.log(y)) for x, y in series.items() if y > 0]
    if len(points) < 2:
        raise Missing("there are fewer than 2 positive values")
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def time_exponent(rows: Sequence[Row], over: str = "n", last: int = 3) -> Interval:
    """Of time in n or d, at its `last` values: a slope in every round, and their t-interval."""
    chosen = sorted(rows, key=lambda row: number(row, over))[-last:]
    if len(chosen) < 2:
        raise Missing(f"times were measured at one {over}")
    values = [math.log(number(row, over)) for row in chosen]
    slopes = [
        statistics.linear_regression(values, [math.log(one) for one in samples]).slope
        for samples in zip(*(row.samples for row in chosen), strict=True)
    ]
    summary = summarise(slopes)
    half = math.inf if summary.half_width is None else summary.half_width
    return Interval(value=summary.mean, low=summary.mean - half, high=summary.mean + half)


def times_of(first: Row, second: Row) -> Interval:
    """How many times as long the first takes, from rounds in which both took part."""
    return ratio(first.samples, second.samples)


@dataclass(frozen=True, kw_only=True)
class Crossover:
    """The length from which on the first takes longer than the second."""

    value: float
    """Median over rounds; 0 where it is slower at every length, infinity where at none."""
    low: float
    high: float
    lengths: tuple[float, float]
    """The shortest and the longest that were timed."""

    @property
    def words(self) -> str:
        shortest, longest = (f"{one:,.0f}" for one in self.lengths)
        if self.high == 0:
            return f"below {shortest}"
        if self.low == math.inf:
            return f"above {longest}"
        ends = [
            f"below {shortest}" if end == 0 else f"above {longest}" if end == math.inf else f"{end:,.0f}"
            for end in (self.value, self.low, self.high)
        ]
        return f"{ends[0]} ({ends[1]} to {ends[2]})"


def series_of(record: LayerRecord) -> list[list[float]]:
    """A record's timed series that are long enough to tell whether they settled."""
    if record.timing_method is None:
        return []
    return [row.samples for row in record.rows if len(row.samples) >= LEAST_STEADY]


def unsettled(record: LayerRecord) -> int:
    """How many of them kept drifting from round to round."""
    return sum(steady_from(samples) is None for samples in series_of(record))


def crossover(first: Sequence[Row], second: Sequence[Row]) -> Crossover:
    """Where the time of `first` passes that of `second`, by the last change of sign in every round.

    Between two lengths the logarithm of the ratio is a line in ln n. The interval is that of order statistics
    over rounds.
    """
    other = {_length(row): row for row in second}
    pairs = [(row, other[_length(row)]) for row in sorted(first, key=_length) if _length(row) in other]
    if len(pairs) < 2:
        raise Missing("there are fewer than 2 lengths at which both were timed")
    lengths = [_length(row) for row, _ in pairs]
    rounds = min(len(row.samples) for pair in pairs for row in pair)
    found = [
        _crossing(lengths, [math.log(a.samples[one] / b.samples[one]) for a, b in pairs])
        for one in range(rounds)
    ]
    if rounds < 6:
        raise Missing(f"there are {rounds} rounds, and an interval of their median takes 6")
    middle = median(found)
    return Crossover(value=middle.value, low=middle.low, high=middle.high, lengths=(lengths[0], lengths[-1]))


def _crossing(lengths: Sequence[float], logs: Sequence[float]) -> float:
    if logs[-1] <= 0:
        return math.inf
    for left in range(len(logs) - 2, -1, -1):
        if logs[left] <= 0:
            share = -logs[left] / (logs[left + 1] - logs[left])
            step = math.log(lengths[left + 1] / lengths[left])
            return lengths[left] * math.exp(share * step)
    return 0.0


def number(row: Row, name: str) -> float:
    """One of a row's conditions that is a number."""
    value = row.conditions[name]
    assert isinstance(value, int | float)
    return value


def _length(row: Row) -> float:
    return number(row, "n")


def for_one_sequence(rows: Sequence[Row]) -> list[Row]:
    """Seconds of a batch as seconds of one of its sequences."""
    result = []
    for row in rows:
        batch = number(row, "batch")
        ends = {
            name: None if end is None else end / batch for name, end in (("low", row.low), ("high", row.high))
        }
        samples = [one / batch for one in row.samples]
        result.append(row.model_copy(update={"value": row.value / batch, "samples": samples, **ends}))
    return result


def two_terms(points: Mapping[tuple[float, float], float]) -> tuple[float, float, float]:
    """Coefficients a, b of a n^2 d + b n d^2 by (n, d), by least squares on relative errors, and the largest
    relative error.
    """
    import numpy as np

    keys = np.array(list(points))
    values = np.array(list(points.values()))
    n, d = keys[:, 0], keys[:, 1]
    columns = np.stack((n**2 * d, n * d**2), 1) / values[:, None]
    solution = np.linalg.lstsq(columns, np.ones(len(values)), rcond=None)[0]
    return float(solution[0]), float(solution[1]), float(np.abs(columns @ solution - 1).max())


def points_of(facts: Facts, subject: str, quantity: str) -> dict[tuple[float, float], float]:
    """By length n and width d."""
    return {
        (number(row, "n"), number(row, "d")): row.value for row in facts.rows("complexity", subject, quantity)
    }


def widest_of(facts: Facts, subject: str) -> float:
    """The largest width at which operations were counted."""
    return max(number(row, "d") for row in facts.rows("complexity", subject, "operations"))


def longest_of(facts: Facts, subject: str) -> float:
    """The largest length at which operations were counted."""
    return max(number(row, "n") for row in facts.rows("complexity", subject, "operations"))


def interval_text(value: Interval) -> str:
    """With half its width."""
    half = (value.high - value.low) / 2
    return with_half_width(value.value, half)
