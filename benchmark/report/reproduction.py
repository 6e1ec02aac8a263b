"""Whether a run that was made again from its record gave the same.

Seed and experiment decide every bit of a result on one machine: one processor model, number of threads,
device and version of torch. On another machine rounding differs and with it all that training computes; what
stays is the batch stream, which seed and step alone decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.config import shown
from benchmark.record import TrainRecord
from benchmark.report.difference import Quantity, hashes_of
from benchmark.report.difference_tables import digits, signed
from benchmark.report.pairing import unequal


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Whether a run that was made again gave the same."""

    holds: bool | None
    """None where nothing can be said."""
    lines: tuple[str, ...]


_MACHINE = ("processor", "processor_features", "device", "devices", "threads", "torch_version")
"""Equal bits are promised only where all of these are equal."""


def reproduction(given: TrainRecord, again: TrainRecord) -> Reproduction:
    """What a run that was made again says about the record that it was made from.

    On an equal machine every bit of the result must be the same. On another one the batch stream must, since
    seed and step alone decide it; scores are shown side by side.
    """
    if "failed" in (given.status, again.status):
        which = "the run failed" if again.status == "failed" else "the record is of a run that failed"
        return _unknown(given, which)
    others = [f"{name} {shown(x)} against {shown(y)}" for name, x, y in unequal(_code(given), _code(again))]
    if given.status != again.status:
        others.append(f"it was {given.status} and is {again.status}")
    if others:
        text = f"did not reproduce run {given.run_id}: {', '.join(others)}"
        return Reproduction(holds=False, lines=(text, *_scores(given, again)))
    first, second = _deterministic(given), _deterministic(again)
    common = [name for name in first if name in second]
    if not common:
        return _unknown(given, "the two records have no hash and no score in common")
    differing = [name for name in common if first[name] != second[name]]
    reasons = _machine_differences(given, again)
    if reasons:
        return _elsewhere(given, again, reasons, differing, has_stream="batch_stream_sha256" in common)
    if differing:
        text = f"did not reproduce run {given.run_id}: on an equal machine differ {', '.join(differing)}"
        return Reproduction(holds=False, lines=(text, *_scores(given, again)))
    alone = sorted(first.keys() ^ second.keys())
    missing = f" (not in both records: {', '.join(alone)})" if alone else ""
    return Reproduction(
        holds=True,
        lines=(f"reproduced: equal to run {given.run_id} in {', '.join(common)}{missing}",),
    )


def _unknown(given: TrainRecord, why: str) -> Reproduction:
    text = f"whether run {given.run_id} reproduces cannot be said: {why}"
    return Reproduction(holds=None, lines=(text,))


def _elsewhere(
    given: TrainRecord,
    again: TrainRecord,
    reasons: Sequence[str],
    differing: Sequence[str],
    *,
    has_stream: bool,
) -> Reproduction:
    beginning = f"not bitwise comparable ({'; '.join(reasons)})"
    if "batch_stream_sha256" in differing:
        text = (
            f"did not reproduce run {given.run_id}: seed and step alone decide batch_stream_sha256, "
            "and it differs"
        )
        return Reproduction(holds=False, lines=(text, beginning, *_scores(given, again)))
    if not has_stream:
        text = f"{beginning}: and the batch stream is not in both records"
        return Reproduction(holds=None, lines=(text, *_scores(given, again)))
    rest = f"; differing, as may be: {', '.join(differing)}" if differing else ", and all else, too"
    text = f"{beginning}: the batch stream is that of run {given.run_id}{rest}"
    return Reproduction(holds=True, lines=(text, *_scores(given, again)))


def _code(record: TrainRecord) -> dict[str, Any]:
    """What the run's id and its data rest on beside the experiment."""
    return {
        "model version": record.model_version,
        "task version": record.task_version,
        "harness version": record.provenance.harness_version,
        "data files": record.task_fingerprint,
        "run id": record.run_id,
    }


def _machine_differences(given: TrainRecord, again: TrainRecord) -> list[str]:
    documents = [record.provenance.model_dump(include=set(_MACHINE)) for record in (given, again)]
    reasons = [
        f"{name.replace('_', ' ')} {_plain(x)} against {_plain(y)}" for name, x, y in unequal(*documents)
    ]
    for record, name in ((given, "the record"), (again, "the run")):
        if record.bitwise is False:
            reasons.append(f"{name}: {record.not_bitwise_because or 'not bitwise'}")
    return reasons


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _deterministic(record: TrainRecord) -> dict[str, Any]:
    """What a seed decides, by name; nothing of what was not kept."""
    fields: dict[str, Any] = {**hashes_of(record)}
    for name in ("diverged_step", "last_finite_loss"):
        if getattr(record, name) is not None:
            fields[name] = getattr(record, name)
    for score in record.scores:
        fields[Quantity(score.metric, score.split).label] = (score.value, score.sentences)
    return fields


def _scores(given: TrainRecord, again: TrainRecord) -> list[str]:
    """A line for each score that both have; nothing about noise follows from one pair."""
    theirs = {(score.split, score.metric): score for score in again.scores}
    lines = []
    for score in given.scores:
        other = theirs.get((score.split, score.metric))
        if other is None:
            continue
        change = other.value - score.value
        old, new = (digits(value, change) for value in (score.value, other.value))
        how = f"{old}, again {new} ({signed(change)})" if change else f"{old}, again the same"
        signature = "" if score.signature == other.signature else ", of another signature"
        lines.append(f"{Quantity(score.metric, score.split).label}: {how}{signature}")
    return lines
