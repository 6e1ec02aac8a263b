"""The timed numbers of `why`'s claims, read back against the files of the records."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from benchmark.report.rounding import with_half_width
from tests.benchmark.report.reading import half_width, read_claims, read_records
from tests.benchmark.report.test_chart_numbers import WHY, measured
from tests.benchmark.report.test_why_page_numbers import of_sizes, slope

ATTENTION, RECURRENT, CELLS = "self-attention", "recurrent", "recurrent, cell by cell"
CONVOLUTION, RESTRICTED = "convolution, k = 3", "restricted self-attention, r = 32"
BOTH = "forward and backward"


@pytest.fixture(scope="module", params=WHY)
def why(request):
    """The claims by their number, and the seconds of layers in every round: by layer, full batches or not,
    width and length.
    """
    records = read_records(request.param)
    found = {}
    for row in of_sizes(records):
        where = row["conditions"]
        if row["quantity"] == "seconds" and where["pass"] == BOTH:
            found[where["layer"], where["full"], where["d"], where["n"]] = row
    return read_claims(request.param), found, records


def samples(times, *key):
    return np.array(times[key]["samples"])


def widths(times):
    return sorted({d for _, _, d, _ in times})


def lengths(times, layer, full, width):
    return sorted(n for one, is_full, d, n in times if (one, is_full, d) == (layer, full, width))


def ratio(times, first, second, full, width, length):
    """Geometric mean over rounds of how many times as long the first takes, with its t-interval."""
    logs = np.log(
        samples(times, first, full, width, length) / samples(times, second, full, width, length)
    ).tolist()
    middle, half = statistics.fmean(logs), half_width(logs)
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def with_half(value, low, high):
    return with_half_width(value, (high - low) / 2)


def growth(times, layer, full):
    """Exponents of n and of d in the time of one sequence, at the largest three of each."""
    width = widths(times)[-1]
    longest = lengths(times, layer, full, width)[-1]
    shown = []
    for name, values in (
        ("n", [(width, n) for n in lengths(times, layer, full, width)]),
        ("d", [(d, longest) for d in widths(times) if (layer, full, d, longest) in times]),
    ):
        chosen = values[-3:]
        each = [
            samples(times, layer, full, *one) / times[layer, full, *one]["conditions"]["batch"]
            for one in chosen
        ]
        x = [n if name == "n" else d for d, n in chosen]
        slopes = [float(slope(dict(zip(x, of_round, strict=True)))) for of_round in zip(*each, strict=True)]
        shown.append(f"{name}^{with_half_width(statistics.fmean(slopes), half_width(slopes))}")
    return f"{layer} ({' '.join(shown)})"


@pytest.mark.parametrize(("claim", "full"), [("S4.2", True), ("S4.3", False)])
def test_growth_of_time(why, claim, full):
    claims, times, _ = why
    (line,) = (one for one in claims[claim].conditions if one.startswith("time for each sequence"))
    layers = (ATTENTION, RECURRENT, CONVOLUTION, RESTRICTED)
    assert line.partition(": ")[2] == ", ".join(growth(times, layer, full) for layer in layers)


def crossing_values(times, first, second, full, width):
    """From which length on the first is slower: the last change of sign in every round, its median and the
    interval of order statistics; 0 for all lengths and infinity for none. With the ends of what was timed.
    """
    shared = [n for n in lengths(times, first, full, width) if (second, full, width, n) in times]
    logs = np.array(
        [
            np.log(samples(times, first, full, width, n) / samples(times, second, full, width, n))
            for n in shared
        ]
    )
    found = []
    for of_round in logs.T:
        not_slower = np.flatnonzero(of_round <= 0)
        if not len(not_slower):
            found.append(0.0)
        elif not_slower[-1] == len(shared) - 1:
            found.append(math.inf)
        else:
            ends = slice(not_slower[-1], not_slower[-1] + 2)
            found.append(math.exp(np.interp(0, of_round[ends], np.log(shared[ends]))))
    found.sort()
    rank = max(rank for rank in range(len(found)) if stats.binom.cdf(rank, len(found), 0.5) <= 0.025)
    values = statistics.median(found), found[rank], found[len(found) - 1 - rank]
    return values, shared[0], shared[-1]


def crossing(times, first, second, full, width):
    """In words."""
    values, shortest, longest = crossing_values(times, first, second, full, width)
    if values[2] == 0:
        return f"below {shortest:,}"
    if values[1] == math.inf:
        return f"above {longest:,}"
    limits = {0: f"below {shortest:,}", math.inf: f"above {longest:,}"}
    middle, low, high = (limits.get(one, f"{one:,.0f}") for one in values)
    return f"{middle} ({low} to {high})"


def crossings(times, second, full):
    return ", ".join(
        f"d = {width:,}: {crossing(times, ATTENTION, second, full, width)}" for width in widths(times)
    )


def test_where_attention_becomes_slower(why):
    claims, times, _ = why
    for other, what in ((RECURRENT, "a fused LSTM"), (CELLS, "an LSTM cell by cell")):
        for full, batch in ((True, "full batches"), (False, "one sequence")):
            expected = f"slower than {what} from n on, {batch}: {crossings(times, other, full)}"
            assert expected in claims["S4.6"].conditions
    expected = f"faster than full self-attention from n on: {crossings(times, RESTRICTED, True)}"
    assert expected in claims["S4.8"].conditions


def test_attention_against_recurrence_where_n_is_below_d(why):
    claims, times, _ = why
    below = [(d, n) for layer, full, d, n in times if layer == ATTENTION and full and n < d]
    faster, slower, noise = 0, [], []
    for place in below:
        again, *_ = ratio(times, f"{ATTENTION} again", ATTENTION, True, *place)
        noise.append(max(again, 1 / again))
        value, _, high = ratio(times, ATTENTION, RECURRENT, True, *place)
        faster += high * noise[-1] < 1
        logs = np.log(samples(times, ATTENTION, True, *place) / samples(times, RECURRENT, True, *place))
        error = stats.sem(logs) * stats.t.ppf(1 - 0.025 / len(below), len(logs) - 1)
        if math.exp(logs.mean() - error) > noise[-1]:
            slower.append((value, (math.exp(logs.mean() + error) - math.exp(logs.mean() - error)) / 2, place))
    reached = max(n / d for d, n in below)
    effect = (
        f"self-attention is faster at {faster} of {len(below)} points with n < d (up to n = {reached:g} d), "
    )
    effect += f"slower at {len(slower)}, within noise at {len(below) - faster - len(slower)}"
    if slower:
        value, half, (d, n) = max(slower)
        effect += f"; at worst {with_half_width(value, half)} times the time, at n = {n:,}, d = {d:,}"
    said, _, reason = claims["S4.6"].effect.partition("; not decided: ")
    assert said.partition(": ")[2] == effect
    later = [
        f"{crossing(times, ATTENTION, RECURRENT, True, width)} at d = {width:,}"
        for width in widths(times)
        if crossing_values(times, ATTENTION, RECURRENT, True, width)[0][1] < width
    ]
    if not slower and faster == len(below):
        assert reason.partition("between lengths: ")[2] == ", ".join(later)
    assert any(one.endswith(f"at most {max(noise):.3f}") for one in claims["S4.6"].conditions)


def test_restricted_attention_at_the_longest(why):
    claims, times, records = why
    width = widths(times)[-1]
    longest = lengths(times, ATTENTION, True, width)[-1]
    text = with_half(*ratio(times, ATTENTION, RESTRICTED, True, width, longest))
    said, _, reason = claims["S4.8"].effect.partition("; not decided: ")
    at = next(one["provenance"] for one in records.values() if one["kind"] == "time")
    threads = f", {at['threads']} threads" if at["device_memory_bytes"] is None else ""
    where = f"on {at['device']}{threads}, {at['precision']}"
    assert claims["S4.6"].effect.startswith(f"{where}: ") and f"; {where}, at n = " in said
    assert said.endswith(
        f"at n = {longest:,}, d = {width:,} full attention takes {text} times as long as r = 32"
    )
    alone = growth(times, ATTENTION, False).split(" d^")[0].removeprefix(f"{ATTENTION} (")
    assert not reason or f"grows with {alone} up to there" in reason


def test_time_of_convolutions(why):
    claims, times, _ = why
    width = widths(times)[-1]
    each = [
        f"{with_half(*ratio(times, CONVOLUTION, RECURRENT, True, width, n))} at n = {n:,}"
        for n in lengths(times, CONVOLUTION, True, width)
    ]
    assert f"time at k = 3, d = {width:,}: {', '.join(each)}" in claims["S4.10"].conditions


def is_settled(seconds):
    """Whether from a place in the first half on the drift over the rest is within 5 %, or may be."""
    for first in range(len(seconds) - max(len(seconds) // 2, 6) + 1):
        rest = np.log(seconds[first:])
        line = stats.linregress(np.arange(len(rest)), rest)
        half = line.stderr * stats.t.ppf(0.975, len(rest) - 2)
        low, high = ((len(rest) - 1) * (line.slope + sign * half) for sign in (-1, 1))
        if low <= math.log(1.05) and high >= -math.log(1.05):
            return True
    return False


def test_series_that_never_settled(why):
    claims, _, records = why
    every = [
        row["samples"]
        for rows in measured(records, "time").values()
        for row in rows
        if len(row["samples"]) >= 6
    ]
    drifting = sum(not is_settled(seconds) for seconds in every)
    line = f"{drifting} of {len(every)} series of times never settled"
    for claim in ("S4.6", "S4.8"):
        assert any(one.startswith(line) for one in claims[claim].conditions) == (drifting > 0)
        assert drifting or not any("never settled" in one for one in claims[claim].conditions)
