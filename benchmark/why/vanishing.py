"""I.2: how gradients reach back before training, and in trained models beside it."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.record import Row
from benchmark.report.rounding import with_half_width
from benchmark.why.cells import RECURRENT
from benchmark.why.facts import Facts, number
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding, because


def vanishing(facts: Facts) -> Finding:
    """I.2: the law by which gradients decay in an LSTM before training, at every length and position."""
    rows = facts.rows("signal", RECURRENT, "rate")
    vanishing = all(row.conditions["decay"] == "exponential" and _end(row.high) < 0 for row in rows)
    flat = all(row.conditions["decay"] == "none" for row in rows)
    verdict = SUPPORTED if vanishing else CONTRADICTED if flat else UNDECIDED
    others: list[str] = []
    seeds: dict[str, list[str]] = {}
    for subject in facts.subjects("signal"):
        if subject.startswith(f"{RECURRENT}, "):
            others += [
                f"with {subject.removeprefix(f'{RECURRENT}, ')}: {one}"
                for one in _decays(facts, subject).values()
            ]
        elif subject != RECURRENT:
            seeds.setdefault(subject.partition(", seed ")[0], []).append(subject)
    conditions = [
        f"{name}{side}: {one}"
        for name, subjects in seeds.items()
        for side, one in _decays(facts, *subjects).items()
    ]
    conditions += [
        f"{record.subject}: failed: {record.failure}"
        for record in facts.records
        if record.kind == "signal" and record.status == "failed"
    ]
    return Finding(
        verdict=verdict,
        effect="an LSTM before training, as it is initialised (forget bias 1): "
        + "; ".join([*_decays(facts, RECURRENT).values(), *others])
        + because(verdict, "neither an exponential that falls at every length and position, nor no decay"),
        conditions=(
            *conditions,
            "± is a 95 % interval over groups of random inputs, with the weights of one seed",
            "what is learned over a distance is claim S4.5",
        ),
    )


def _decays(facts: Facts, *subjects: str) -> dict[str, str]:
    """The laws at all lengths and positions, by side of a model, and before a run's training and after. Of
    several subjects, which are one model's seeds, over these.
    """
    sides: dict[str, list[Row]] = {}
    for subject in subjects:
        for rate in facts.rows("signal", subject, "rate"):
            side = f" from the {rate.conditions['from']}" if "from" in rate.conditions else ""
            side += f", {rate.conditions['training']} training" if "training" in rate.conditions else ""
            is_power = rate.conditions["decay"] == "power"
            row = facts.rows("signal", subject, "exponent", **rate.conditions)[0] if is_power else rate
            sides.setdefault(side, []).append(row)
    where = "at {} lengths and positions" if len(subjects) == 1 else "with {} seeds"
    return {side: _laws(rows, where) for side, rows in sides.items()}


def _laws(slopes: Sequence[Row], where: str) -> str:
    """Each law with its smallest and largest slope, in its own unit, and how often it holds: `where` it does,
    with {} for their share.
    """
    laws: dict[str, list[Row]] = {}
    for row in slopes:
        laws.setdefault(_law(row), []).append(row)
    shown = []
    for law, rows in laws.items():
        smallest, largest = (most(rows, key=lambda row: row.value) for most in (min, max))
        ends = dict.fromkeys(
            with_half_width(row.value, (_end(row.high) - _end(row.low)) / 2) for row in (smallest, largest)
        )
        slope = "" if law == UNDETERMINED else f", {' to '.join(ends)} {rows[0].unit}"
        places = dict.fromkeys(f"n = {number(row, 'n'):,.0f} at {number(row, 'output'):,.0f}" for row in rows)
        times = f" {where.format(f'{len(rows)} of {len(slopes)}')}" if len(slopes) > 1 else ""
        told = f" ({', '.join(places)})" if len(places) == 1 or len(rows) < len(slopes) else ""
        shown.append(f"{law}{times}{told}{slope}")
    return ", and ".join(shown)


UNDETERMINED = "neither an exponential nor a power law"


def _law(row: Row) -> str:
    kind = row.conditions["decay"]
    if kind in ("none", "undetermined"):
        return {"none": "no decay", "undetermined": UNDETERMINED}[kind]
    return f"{kind} {'growth' if row.value > 0 else 'decay'}"


def _end(value: float | None) -> float:
    assert value is not None
    return value
