"""S4.6, the claim that times decide, and what other claims say of times."""

from __future__ import annotations

from collections.abc import Mapping

from benchmark.measure.timing import STEADY, Interval
from benchmark.record import Row
from benchmark.report.heading import plural
from benchmark.why.cells import (
    ATTENTION,
    CELLS,
    CONVOLUTION,
    KERNELS_OF_ATTENTION,
    RECURRENT,
    TIMED_RESTRICTED,
)
from benchmark.why.facts import (
    BOTH,
    Crossover,
    Facts,
    Missing,
    crossover,
    for_one_sequence,
    interval_text,
    number,
    series_of,
    time_exponent,
    times_of,
    unsettled,
)
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding, because, each


def faster_when_short(facts: Facts) -> Finding:
    """S4.6: time of self-attention against that of a fused LSTM wherever n < d was timed."""
    rows = facts.seconds(ATTENTION, full=True, **BOTH)
    below = [row for row in rows if number(row, "n") < number(row, "d")]
    if not below:
        raise Missing("no length below a width was timed")
    faster, slower, floors = 0, [], []
    for row in below:
        ratio, noise = times_of(row, same_point(facts, RECURRENT, row)), noise_at(facts, row)
        floors.append(noise)
        faster += ratio.high < 1 / noise
        # One point is enough to contradict, and among many one is off by chance.
        if _of_several(ratio, len(row.samples), len(below)).low > noise:
            slower.append((row, ratio))
    same = len(below) - faster - len(slower)
    reached = max(number(row, "n") / number(row, "d") for row in below)
    later = {
        width: crossing for width, crossing in crossings(facts, RECURRENT).items() if crossing.low < width
    }
    verdict = CONTRADICTED if slower else UNDECIDED if same or later else SUPPORTED
    effect = f"{timed_on(facts)}: self-attention is faster at {faster} of {len(below)} points with n < d "
    effect += f"(up to n = {reached:g} d), slower at {len(slower)}, within noise at {same}"
    if slower:
        row, ratio = max(slower, key=lambda one: one[1].value)
        effect += f"; at worst {interval_text(ratio)} times the time, at n = {number(row, 'n'):,.0f}, "
        effect += f"d = {number(row, 'd'):,.0f}"
    shown = ", ".join(f"{crossing.words} at d = {width:,.0f}" for width, crossing in later.items())
    reason = "it has to be faster at all points, beyond noise"
    if not same:
        reason = f"from where on it is slower may lie below d, between lengths: {shown}"
    effect += because(verdict, reason)
    conditions = (
        "noise (A/A) at a point: the factor by which attention differs from itself there, at most "
        f"{max(floors):.3f}",
        *kernels(facts),
        *shared(facts),
        *_slower_from(facts),
    )
    return Finding(verdict=verdict, effect=effect, conditions=conditions)


def _of_several(ratio: Interval, rounds: int, ratios: int) -> Interval:
    """The t-interval of one of so many ratios, widened so that 95 % hold all of them at once (Bonferroni)."""
    from scipy.special import stdtrit

    wider = float(stdtrit(rounds - 1, 1 - 0.025 / ratios) / stdtrit(rounds - 1, 0.975))
    low, high = (ratio.value * (end / ratio.value) ** wider for end in (ratio.low, ratio.high))
    return Interval(value=ratio.value, low=low, high=high)


def time_conditions(facts: Facts, *, full: bool) -> list[str]:
    """How time grows with n and d; nothing is decided by it."""
    try:
        found = {}
        for subject in (ATTENTION, RECURRENT, CONVOLUTION, TIMED_RESTRICTED):
            rows = for_one_sequence(facts.seconds(subject, full=full, **BOTH))
            width = max(number(row, "d") for row in rows)
            longest = max(number(row, "n") for row in rows)
            in_n = time_exponent([row for row in rows if row.conditions["d"] == width])
            in_d = time_exponent([row for row in rows if row.conditions["n"] == longest], "d")
            found[subject] = f"n^{interval_text(in_n)} d^{interval_text(in_d)}"
        batches = "full batches" if full else "one sequence at a time"
        return [
            f"time for each sequence, {batches}, at the largest three of n (d = {width:,.0f}) and of d (the "
            f"longest n): {each(found)}",
            *kernels(facts),
        ]
    except Missing as missing:
        return [f"time: {missing}"]


def timed_on(facts: Facts) -> str:
    """The device of the times, as all have it."""
    at = next(
        record.provenance for record in facts.records if record.kind == "time" and record.status == "done"
    )
    threads = "" if at.device_memory_bytes else f", {plural(at.threads, 'thread')}"
    return f"on {at.device}{threads}, {at.precision}"


def kernels(facts: Facts) -> list[str]:
    """What attention is computed by, of times on a processor."""
    timed = [record for record in facts.records if record.kind == "time"]
    return [] if any(record.provenance.device_memory_bytes for record in timed) else [KERNELS_OF_ATTENTION]


def shared(facts: Facts) -> list[str]:
    """Which times were taken while the machine was not alone, or kept drifting."""
    timed = [record for record in facts.records if record.kind == "time"]
    lines = []
    if noisy := [record.subject for record in timed if record.noisy]:
        lines.append(f"the machine was shared or slowed down while these were timed: {', '.join(noisy)}")
    if drifting := sum(map(unsettled, timed)):
        every = sum(len(series_of(record)) for record in timed)
        lines.append(
            f"{drifting} of {every} series of times never settled (drift of more than {STEADY:.0%} from the "
            "first round to the last); ratios within rounds, which decide, are free of what all share"
        )
    return lines


def _slower_from(facts: Facts) -> list[str]:
    lines = []
    for other, what in ((RECURRENT, "a fused LSTM"), (CELLS, "an LSTM cell by cell")):
        for full, batch in ((True, "full batches"), (False, "one sequence")):
            if found := crossings(facts, other, full=full):
                lines.append(f"slower than {what} from n on, {batch}: {by_width(found)}")
    return lines


def crossings(facts: Facts, other: str, *, full: bool = True) -> dict[float, Crossover]:
    """By width, from which length on self-attention takes longer than another layer."""
    found = {}
    for width in sorted({number(row, "d") for row in facts.seconds(ATTENTION)}):
        where = {"full": full, "d": width, **BOTH}
        try:
            found[width] = crossover(facts.seconds(ATTENTION, **where), facts.seconds(other, **where))
        except Missing:
            continue
    return found


def by_width(found: Mapping[float, Crossover]) -> str:
    """In words, for a line of a claim."""
    return ", ".join(f"d = {width:,.0f}: {crossing.words}" for width, crossing in found.items())


def noise_at(facts: Facts, row: Row) -> float:
    """The factor by which the same work differs from itself at a point, in the same rounds (A/A)."""
    again = times_of(same_point(facts, f"{ATTENTION} again", row), same_point(facts, ATTENTION, row))
    return max(again.value, 1 / again.value)


def same_point(facts: Facts, layer: str, row: Row) -> Row:
    """Seconds of another layer where and how a row's layer was timed."""
    where = {name: row.conditions[name] for name in ("n", "d", "batch", "pass")}
    return facts.seconds(layer, **where)[0]
