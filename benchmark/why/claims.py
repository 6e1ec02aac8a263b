"""The claims of section 4 and of the paper's introduction, each with what decides it.

A claim names its prediction and its test; the test reads records and gives the effect and the verdict.
Thresholds stand here, in the repository, and docs/why.md tells which tests have changed since they were first
measured. The paper's own unit decides: mixing operations for complexity, kernel depth for sequential
operations, hops for path length. Other units are printed as conditions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark.measure.significance import share_interval
from benchmark.measure.timing import STEADY, Interval
from benchmark.record import Row
from benchmark.report.rounding import count, with_half_width, without_spread
from benchmark.why.cells import (
    ATTENTION,
    CELLS,
    CONVOLUTION,
    DILATED,
    FULL_SEPARABLE,
    KERNEL,
    KERNELS_OF_ATTENTION,
    MODELS,
    NEIGHBOURHOOD,
    RECURRENT,
    RESTRICTED,
    TIMED_RESTRICTED,
)
from benchmark.why.facts import (
    BOTH,
    FORWARD,
    Facts,
    Missing,
    crossover,
    exponent,
    for_one_sequence,
    number,
    series_of,
    time_exponent,
    times_of,
    two_terms,
    unsettled,
)
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding, Word, because
from benchmark.why.learning import (
    EQUAL_SECONDS,
    LEARNED,
    heads_differ,
    learned_over_distance,
    trains_faster,
    translates_better,
)

NEAR, FAR = 0.1, 0.3
"""An exponent this near to the predicted one agrees with it, and one this far contradicts it."""
NEIGHBOURHOODS = {NEIGHBOURHOOD: RESTRICTED, 32: TIMED_RESTRICTED}
PAPER_WIDTH = 512
"""Of the paper's base model."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    number: str
    """As in the paper's section 4, in the order of its sentences; I and C: what its introduction and
    conclusion say, or rest on.
    """
    sentence: str
    """In our words."""
    prediction: str
    test: str
    decide: Callable[[Facts], Finding]

    def finding(self, facts: Facts) -> Finding:
        """The verdict, with the runs whose records were read for it; undecided where something is missing."""
        facts.read.clear()
        try:
            found = self.decide(facts)
        except Missing as missing:
            found = Finding(verdict=UNDECIDED, effect=str(missing))
        return replace(found, runs=tuple(sorted(facts.read)))


def _by_exponents(found: Mapping[str, float], predicted: Mapping[str, float]) -> Word:
    """The verdict where every exponent has to be as predicted."""
    off = [abs(found[name] - predicted[name]) for name in predicted]
    if max(off) <= NEAR:
        return SUPPORTED
    return CONTRADICTED if max(off) >= FAR else UNDECIDED


def _neither_near_nor_far(found: Mapping[str, float], predicted: Mapping[str, float]) -> str:
    """Why exponents leave a verdict open."""
    between = [
        f"{name} {found[name]:.2f} where it should be {wanted:g}"
        for name, wanted in predicted.items()
        if abs(found[name] - wanted) > NEAR
    ]
    return f"off by more than {NEAR} and less than {FAR}: {', '.join(between)}"


def _interval(value: Interval) -> str:
    half = (value.high - value.low) / 2
    return with_half_width(value.value, half)


# S4.1 to S4.4: the table


TABLE = (ATTENTION, RECURRENT, CONVOLUTION, RESTRICTED)


def _desiderata(facts: Facts) -> Finding:
    found: dict[str, tuple[float, float, float]] = {}
    for subject in TABLE:
        name = DILATED if subject == CONVOLUTION else subject
        cost = facts.series("complexity", subject, "mixing_operations", d=_widest(facts, subject))
        depth = facts.series("span", subject, "kernel_depth", **FORWARD)
        hops = facts.series("path", name, "hops")
        found[subject] = (exponent(cost), exponent(depth), exponent(hops))
    alike = [
        f"{first} and {second}"
        for first, second in itertools.combinations(found, 2)
        if all(abs(a - b) <= NEAR for a, b in zip(found[first], found[second], strict=True))
    ]
    shown = "; ".join(
        f"{name} {cost:.2f}, {depth:.2f}, {path:.2f}" for name, (cost, depth, path) in found.items()
    )
    return Finding(
        verdict=CONTRADICTED if alike else SUPPORTED,
        effect=f"exponents in n of mixing operations, sequential operations and longest path: {shown}"
        + "".join(f"; {pair} are alike in all three" for pair in alike),
        conditions=("that these three are what matters is the paper's choice, which no measurement decides",),
    )


LAWS: Mapping[str, tuple[float, float]] = {
    ATTENTION: (2, 1),
    RECURRENT: (1, 2),
    CONVOLUTION: (1, 2),
    RESTRICTED: (1, 1),
}
"""Exponents of n and d in Table 1."""


def _complexity(facts: Facts) -> Finding:
    found, predicted, conditions = {}, {}, []
    for subject, (in_n, in_d) in LAWS.items():
        longest, widest = _longest(facts, subject), _widest(facts, subject)
        for name, over, fixed, expected in (
            ("n", "n", {"d": widest}, in_n),
            ("d", "d", {"n": longest}, in_d),
        ):
            key = f"{subject}: {name}"
            found[key] = exponent(facts.series("complexity", subject, "mixing_operations", over, **fixed))
            predicted[key] = expected
        whole = exponent(facts.series("complexity", subject, "operations", d=widest))
        conditions.append(
            f"with its projections {subject} grows with n^{whole:.2f} up to n = {longest:,.0f} at "
            f"d = {widest:,.0f}"
        )
    for name, subjects, factor in (
        ("k", {3: CONVOLUTION, 5: "convolution, k = 5", 9: "convolution, k = 9"}, 1.0),
        ("r", NEIGHBOURHOODS, 1.0),
    ):
        first = next(iter(subjects.values()))
        where = {"n": _longest(facts, first), "d": _widest(facts, first)}
        series = {
            float(value): facts.rows("complexity", subject, "mixing_operations", **where)[0].value
            for value, subject in subjects.items()
        }
        found[name], predicted[name] = exponent(series), factor
    _check_counts(facts)
    attention = two_terms(_points(facts, ATTENTION, "operations"))
    recurrent = two_terms(_points(facts, RECURRENT, "operations"))
    conditions.append(
        f"all operations of self-attention are {attention[0]:.2f} n^2 d + {attention[1]:.2f} n d^2, of an "
        f"LSTM {recurrent[1]:.2f} n d^2: they are equal at n = "
        f"{(recurrent[1] - attention[1]) / attention[0]:.2f} d, and without projections at n = "
        f"{_equal_mixing(facts):.2f} d"
    )
    conditions += _time_conditions(facts, full=True)
    shown = ", ".join(
        f"{subject} n^{found[f'{subject}: n']:.2f} d^{found[f'{subject}: d']:.2f}" for subject in LAWS
    )
    verdict = _by_exponents(found, predicted)
    return Finding(
        verdict=verdict,
        effect=f"mixing operations, by closed forms that with the projections equal what is counted, grow as "
        f"{shown}; with k^{found['k']:.2f} and r^{found['r']:.2f}"
        + because(verdict, _neither_near_nor_far(found, predicted)),
        conditions=tuple(conditions),
    )


def _check_counts(facts: Facts) -> None:
    """Closed forms decide only where they are what was counted."""
    for subject in facts.subjects("complexity"):
        counted = _points(facts, subject, "operations")
        mixing = _points(facts, subject, "mixing_operations")
        projections = _points(facts, subject, "projection_operations")
        for point, value in counted.items():
            if value != mixing[point] + projections[point]:
                raise Missing(f"{subject}: counted operations are not those of the closed form at {point}")


def _equal_mixing(facts: Facts) -> float:
    attention = two_terms(_points(facts, ATTENTION, "mixing_operations"))
    recurrent = two_terms(_points(facts, RECURRENT, "mixing_operations"))
    return recurrent[1] / attention[0]


def _time_conditions(facts: Facts, *, full: bool) -> list[str]:
    """How time grows with n and d; nothing is decided by it."""
    try:
        found = []
        for subject in (ATTENTION, RECURRENT, CONVOLUTION, TIMED_RESTRICTED):
            rows = for_one_sequence(facts.seconds(subject, full=full, **BOTH))
            width = max(number(row, "d") for row in rows)
            longest = max(number(row, "n") for row in rows)
            in_n = time_exponent([row for row in rows if row.conditions["d"] == width])
            in_d = time_exponent([row for row in rows if row.conditions["n"] == longest], "d")
            found.append(f"{subject} n^{_interval(in_n)} d^{_interval(in_d)}")
        batches = "full batches" if full else "one sequence at a time"
        return [
            f"time for each sequence, {batches}, at the largest three of n (d = {width:,.0f}) and of d (the "
            f"longest n): {', '.join(found)}",
            KERNELS_OF_ATTENTION,
        ]
    except Missing as missing:
        return [f"time: {missing}"]


def _sequential(facts: Facts) -> Finding:
    predicted = {ATTENTION: 0.0, RECURRENT: 1.0, CONVOLUTION: 0.0, RESTRICTED: 0.0}
    series = {name: facts.series("span", name, "kernel_depth", **FORWARD) for name in predicted}
    found = {name: exponent(one) for name, one in series.items()}
    longest = max(series[ATTENTION])
    ideal = {name: facts.series("span", name, "ideal_depth", **FORWARD) for name in predicted}
    conditions = [
        f"with ideally many processors, at n = {longest:,.0f}: "
        + ", ".join(f"{name} {count(one[longest])}" for name, one in ideal.items())
        + "; self-attention then grows with log n, which is the depth of its softmax",
    ]
    generation = []
    for model in MODELS:
        try:
            depths = facts.series("span", model, "kernel_depth", **{"pass": "generation"})
        except Missing:
            continue
        steps = list(depths.values())
        words = list(depths)
        generation.append(f"{model} {(steps[-1] - steps[0]) / (words[-1] - words[0]):.0f}")
    conditions += _of_connecting_stacks(facts)
    conditions += _time_conditions(facts, full=False)
    if generation:
        conditions.append(
            f"generation is sequential in all three, operations for each word: {', '.join(generation)}"
        )
    shown = ", ".join(
        f"{name} {count(next(iter(one.values())))} to {count(list(one.values())[-1])}"
        for name, one in series.items()
    )
    verdict, reason = _by_exponents(found, predicted), _neither_near_nor_far(found, predicted)
    # a constant is one number, not a small exponent
    changing = [
        name for name, wanted in predicted.items() if wanted == 0 and len(set(series[name].values())) > 1
    ]
    if verdict == SUPPORTED and changing:
        verdict, reason = UNDECIDED, f"not the same at every length: {', '.join(changing)}"
    return Finding(
        verdict=verdict,
        effect=f"kernel depth from n = {min(series[ATTENTION]):,.0f} to {longest:,.0f}: {shown} (exponents "
        + ", ".join(f"{found[name]:.2f}" for name in predicted)
        + ")"
        + because(verdict, reason),
        conditions=tuple(conditions),
    )


def _paths(facts: Facts) -> Finding:
    hops = {name: facts.series("path", name, "hops") for name in (ATTENTION, RECURRENT, RESTRICTED, DILATED)}
    wanted = {
        ATTENTION: lambda n: 1,
        RECURRENT: lambda n: n,
        RESTRICTED: lambda n: math.ceil((n - 1) / (NEIGHBOURHOOD / 2)),
        DILATED: lambda n: _log(n, KERNEL),
    }
    wrong = [
        f"{name} {count(value)} at n = {n:,.0f}, expected {count(law(n))}"
        for name, law in wanted.items()
        for n, value in hops[name].items()
        if value != law(n)
    ]
    leaking, untold = [name for name in hops if _leaks(facts, name)], []
    for name in (CONVOLUTION, *MODELS):
        try:
            leaking += [name] if _leaks(facts, name) else []
        except Missing:
            untold.append(name)
    shown = ", ".join(
        f"{name} {'/'.join(count(one) for one in each.values())}" for name, each in hops.items()
    )
    conditions = [
        f"of r = {NEIGHBOURHOOD} neighbours half stand on each side: the path is 2 (n - 1) / r, twice what "
        "n / r says, of the same growth"
    ]
    try:
        contiguous = facts.series("path", CONVOLUTION, "hops")
        conditions.append(
            f"contiguous convolutions, as in ConvS2S, need {'/'.join(map(count, contiguous.values()))} hops: "
            f"(n - 1) / (k - 1), not log_k n"
        )
        conditions += _models(facts)
    except Missing:
        pass
    if untold:
        conditions.append(f"connections that must not be were not looked for in {', '.join(untold)}")
    if leaking:
        wrong.append(f"positions are connected that must not be: {', '.join(leaking)}")
    lengths = "/".join(f"{n:,.0f}" for n in hops[ATTENTION])
    return Finding(
        verdict=CONTRADICTED if wrong else SUPPORTED,
        effect=f"longest path in hops at n = {lengths} (dilated: "
        f"{'/'.join(f'{n:,.0f}' for n in hops[DILATED])}): {shown}" + "".join(f"; {one}" for one in wrong),
        conditions=tuple(conditions),
    )


def _leaks(facts: Facts, subject: str) -> bool:
    """Whether it connects positions that it must not connect."""
    return any(row.value for row in facts.rows("path", subject, "leaks"))


def _models(facts: Facts) -> list[str]:
    shown = []
    for model in MODELS:
        across = facts.series("path", model, "hops", part="source to target")
        shown.append(f"{model} {count(list(across.values())[-1])}")
    return [f"attention to the source makes every source word near to every target word: {', '.join(shown)}"]


def _log(n: float, base: int) -> int:
    """The smallest p with base^p >= n."""
    power = 0
    while base**power < n:
        power += 1
    return power


# S4.6 to S4.8: speed


def _faster_when_short(facts: Facts) -> Finding:
    rows = facts.seconds(ATTENTION, full=True, **BOTH)
    below = [row for row in rows if number(row, "n") < number(row, "d")]
    if not below:
        raise Missing("no length below a width was timed")
    faster, slower, floors = 0, [], []
    for row in below:
        ratio, noise = times_of(row, _same_point(facts, RECURRENT, row)), _noise(facts, row)
        floors.append(noise)
        faster += ratio.high < 1 / noise
        # One point is enough to contradict, and among many one is off by chance.
        if _of_several(ratio, len(row.samples), len(below)).low > noise:
            slower.append((row, ratio))
    same = len(below) - faster - len(slower)
    verdict = CONTRADICTED if slower else UNDECIDED if same else SUPPORTED
    effect = f"self-attention is faster at {faster} of {len(below)} points with n < d, slower at "
    effect += f"{len(slower)}, within noise at {same}"
    if slower:
        row, ratio = max(slower, key=lambda one: one[1].value)
        effect += f"; at worst {_interval(ratio)} times the time, at n = {number(row, 'n'):,.0f}, "
        effect += f"d = {number(row, 'd'):,.0f}"
    effect += because(verdict, "it has to be faster at all points, beyond noise")
    conditions = (
        "noise (A/A) at a point: the factor by which attention differs from itself there, at most "
        f"{max(floors):.3f}",
        KERNELS_OF_ATTENTION,
        *_shared(facts),
        *_crossovers(facts),
    )
    return Finding(verdict=verdict, effect=effect, conditions=conditions)


def _of_several(ratio: Interval, rounds: int, ratios: int) -> Interval:
    """The t-interval of one of so many ratios, widened so that 95 % hold all of them at once (Bonferroni)."""
    from scipy.special import stdtrit

    wider = float(stdtrit(rounds - 1, 1 - 0.025 / ratios) / stdtrit(rounds - 1, 0.975))
    low, high = (ratio.value * (end / ratio.value) ** wider for end in (ratio.low, ratio.high))
    return Interval(value=ratio.value, low=low, high=high)


def _shared(facts: Facts) -> list[str]:
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


def _crossovers(facts: Facts) -> list[str]:
    lines = []
    for other, what in ((RECURRENT, "a fused LSTM"), (CELLS, "an LSTM cell by cell")):
        for full, batch in ((True, "full batches"), (False, "one sequence")):
            found = []
            for width in sorted({number(row, "d") for row in facts.seconds(ATTENTION)}):
                where = {"full": full, "d": width, **BOTH}
                try:
                    crossing = crossover(facts.seconds(ATTENTION, **where), facts.seconds(other, **where))
                except Missing:
                    continue
                found.append(f"d = {width:,.0f}: {crossing.words}")
            if found:
                lines.append(f"slower than {what} from n on, {batch}: {', '.join(found)}")
    return lines


def _noise(facts: Facts, row: Row) -> float:
    """The factor by which the same work differs from itself at a point, in the same rounds (A/A)."""
    again = times_of(_same_point(facts, f"{ATTENTION} again", row), _same_point(facts, ATTENTION, row))
    return max(again.value, 1 / again.value)


def _same_point(facts: Facts, layer: str, row: Row) -> Row:
    where = {name: row.conditions[name] for name in ("n", "d", "batch", "pass")}
    return facts.seconds(layer, **where)[0]


def _short_sentences(facts: Facts) -> Finding:
    subject = next(iter(facts.subjects("lengths")), "multi30k-en-de")
    rows = facts.rows("lengths", subject, "sentences")
    total = sum(row.value for row in rows)
    shorter = sum(row.value for row in rows if number(row, "n") < PAPER_WIDTH)
    low, high = share_interval(shorter, total)
    verdict = SUPPORTED if low > 0.5 else CONTRADICTED if high < 0.5 else UNDECIDED
    longest = max(number(row, "n") for row in rows)
    shares = [
        f"{sum(row.value for row in rows if number(row, 'n') < width) / total:.1%} below {width}"
        for width in (16, 32, 64, 128)
    ]
    return Finding(
        verdict=verdict,
        effect=f"{shorter / total:.2%} of {total:,.0f} sentences of {subject} have fewer subwords than d = "
        f"{PAPER_WIDTH} ({low:.2%} to {high:.2%})" + because(verdict, "the interval holds one half"),
        conditions=(f"the longest has {longest:,.0f}; {', '.join(shares)}",),
    )


def _restricted(facts: Facts) -> Finding:
    widest = _widest(facts, RESTRICTED)
    found = {
        "operations in n": exponent(facts.series("complexity", RESTRICTED, "mixing_operations", d=widest)),
        "path in n": exponent(facts.series("path", RESTRICTED, "hops")),
    }
    linear = dict.fromkeys(found, 1.0)
    growth = _by_exponents(found, linear)
    constant = max(_of_restricted(facts, r, subject) for r, subject in NEIGHBOURHOODS.items())
    rows = facts.seconds(ATTENTION, full=True, **BOTH)
    longest = max(number(row, "n") for row in rows)
    row = max((one for one in rows if number(one, "n") == longest), key=lambda one: number(one, "d"))
    ratio = times_of(row, _same_point(facts, TIMED_RESTRICTED, row))
    noise = _noise(facts, row)
    faster = SUPPORTED if ratio.low > noise else CONTRADICTED if ratio.high < 1 / noise else UNDECIDED
    verdict, reason = faster, f"noise (A/A) alone is a factor of {noise:.3f}"
    if growth != SUPPORTED:
        verdict, reason = growth, _neither_near_nor_far(found, linear)
    crossings = []
    for width in sorted({number(one, "d") for one in rows}):
        where = {"full": True, "d": width, **BOTH}
        crossing = crossover(facts.seconds(ATTENTION, **where), facts.seconds(TIMED_RESTRICTED, **where))
        crossings.append(f"d = {width:,.0f}: {crossing.words}")
    return Finding(
        verdict=verdict,
        effect=f"its operations grow with n^{found['operations in n']:.2f} (at most {constant:.2f} r n d, "
        "with n rounded up to whole blocks of r / 2), its longest path with "
        f"n^{found['path in n']:.2f}; at n = {longest:,.0f}, d = {number(row, 'd'):,.0f} full attention "
        f"takes {_interval(ratio)} times as long as r = 32" + because(verdict, reason),
        conditions=(
            f"faster than full self-attention from n on: {', '.join(crossings)}",
            *_shared(facts),
            *_of_connecting_stacks(facts),
        ),
    )


def _of_restricted(facts: Facts, neighbourhood: int, subject: str) -> float:
    """The largest factor of r n d in its operations, n in whole blocks."""
    side = neighbourhood / 2
    return max(
        mixing / (neighbourhood * math.ceil(n / side) * side * d)
        for (n, d), mixing in _points(facts, subject, "mixing_operations").items()
    )


def _of_connecting_stacks(facts: Facts) -> list[str]:
    """One layer is cheap or shallow; what connects all positions may take many."""
    shown = []
    for layer, stack in ((ATTENTION, ATTENTION), (RESTRICTED, RESTRICTED), (CONVOLUTION, DILATED)):
        try:
            depth = facts.series("span", layer, "kernel_depth", **FORWARD)
            layers = facts.series("path", stack, "layers")
        except Missing:
            continue
        longest = max(layers)
        each = depth[max(depth)]
        shown.append(f"{stack} {count(layers[longest])} x {count(each)} at n = {longest:,.0f}")
    if not shown:
        return []
    return [f"depth of the smallest stack that connects all positions, layers x depth: {', '.join(shown)}"]


# S4.9 to S4.12: convolutions


def _layers_needed(facts: Facts) -> Finding:
    contiguous = facts.series("path", CONVOLUTION, "layers")
    dilated = facts.series("path", DILATED, "layers")
    wrong = [n for n, layers in contiguous.items() if layers != math.ceil((n - 1) / (KERNEL - 1))]
    wrong += [n for n, layers in dilated.items() if layers != _log(n, KERNEL)]
    found = (*contiguous.items(), *dilated.items())
    one_is_enough = [n for n, layers in found if n > KERNEL and layers == 1]
    return Finding(
        verdict=CONTRADICTED if wrong or one_is_enough else SUPPORTED,
        effect=f"layers of k = {KERNEL} that connect all positions: contiguous "
        + ", ".join(f"{count(layers)} at n = {n:,.0f}" for n, layers in contiguous.items())
        + "; dilated "
        + ", ".join(f"{count(layers)} at n = {n:,.0f}" for n, layers in dilated.items()),
        conditions=("n / k is (n - 1) / (k - 1) exactly, for causal convolutions",),
    )


def _by_constants(shares: Sequence[float]) -> Word:
    """The verdict where every cost has to be the predicted one, of which these are shares."""
    if max(abs(share - 1) for share in shares) <= NEAR:
        return SUPPORTED
    return CONTRADICTED if min(abs(share - 1) for share in shares) >= FAR else UNDECIDED


def _k_times_dearer(facts: Facts) -> Finding:
    ratios: dict[int, list[float]] = {}
    whole: dict[int, list[float]] = {}
    for kernel in (3, 5, 9):
        for quantity, found in (("mixing_operations", ratios), ("operations", whole)):
            convolution = _points(facts, f"convolution, k = {kernel}", quantity)
            recurrent = _points(facts, RECURRENT, quantity)
            found[kernel] = [convolution[point] / recurrent[point] for point in convolution]
    shares = [value / kernel for kernel, values in ratios.items() for value in values]
    verdict = _by_constants(shares)
    shown = ", ".join(f"k = {kernel}: {without_spread(values[0])}" for kernel, values in ratios.items())
    all_of = ", ".join(f"k = {kernel}: {without_spread(values[0])}" for kernel, values in whole.items())
    growth = {"k": exponent({kernel: values[0] for kernel, values in ratios.items()})}
    conditions = [
        f"by growth alone, which decides S4.12: {_by_exponents(growth, {'k': 1})}, the ratio grows with "
        f"k^{growth['k']:.2f}",
        f"with all operations: {all_of}",
        "the recurrence here is an LSTM, which has four gates: against one of its matrices, as in a "
        "recurrence without gates, "
        f"the ratio is {', '.join(without_spread(4 * values[0]) for values in ratios.values())} for k = "
        f"{', '.join(map(str, ratios))}",
        "a convolution with a gate, as in ConvS2S, costs twice as much",
    ]
    try:
        rows = facts.seconds(CONVOLUTION, full=True, **BOTH)
        widest = max(number(row, "d") for row in rows)
        times = [
            f"{_interval(times_of(row, _same_point(facts, RECURRENT, row)))} at n = {number(row, 'n'):,.0f}"
            for row in sorted(rows, key=lambda one: number(one, "n"))
            if number(row, "d") == widest
        ]
        conditions.append(f"time at k = {KERNEL}, d = {widest:,.0f}: {', '.join(times)}")
    except Missing:
        pass
    return Finding(
        verdict=verdict,
        effect=f"mixing operations of a convolution against an LSTM of the same width: {shown}"
        + because(verdict, f"by k the ratio is neither within {NEAR} of 1 nor off by {FAR} everywhere"),
        conditions=tuple(conditions),
    )


def _separable(facts: Facts) -> Finding:
    off = []
    for kernel in (3, 9):
        for (n, d), value in _points(facts, f"separable convolution, k = {kernel}", "operations").items():
            off.append(abs(value / (2 * kernel * n * d + 2 * n * d**2) - 1))
    return Finding(
        verdict=SUPPORTED if max(off) <= 0.01 else CONTRADICTED,
        effect=f"counted operations are 2 k n d + 2 n d^2 at all {len(off)} points"
        + (f", within {max(off):.1%}" if max(off) else ", exactly"),
    )


def _same_terms(facts: Facts) -> Finding:
    separable = _points(facts, FULL_SEPARABLE, "operations")
    attention = _points(facts, ATTENTION, "mixing_operations")
    both = {(n, d): attention[n, d] + 16 * n * d**2 for n, d in separable}
    first, second = two_terms(separable), two_terms(both)
    is_law = max(first[2], second[2]) <= 0.01 and min(*first[:2], *second[:2]) > 0
    ratios = [separable[point] / both[point] for point in separable]
    projections = _points(facts, ATTENTION, "projection_operations")
    whole = [separable[point] / (both[point] + projections[point]) for point in separable]
    return Finding(
        verdict=SUPPORTED if is_law else CONTRADICTED,
        effect=f"a separable convolution with k = n is {first[0]:.2f} n^2 d + {first[1]:.2f} n d^2, "
        f"self-attention with a feed-forward layer (4 d) {second[0]:.2f} n^2 d + {second[1]:.2f} n d^2: the "
        f"same two terms, with other constants: it takes {without_spread(min(ratios))} to "
        f"{without_spread(max(ratios))} times the operations",
        conditions=(
            f"by constants, which decide S4.10: {_by_constants(ratios)}; with the projections of "
            f"self-attention: {_by_constants(whole)}, {without_spread(min(whole))} to "
            f"{without_spread(max(whole))} times the operations",
            "without the projections of self-attention, as in Table 1; the feed-forward layer by closed form",
        ),
    )


# The introduction's claims that need no training


def _in_order(facts: Facts) -> Finding:
    depth = facts.series("span", RECURRENT, "ideal_depth", **FORWARD)
    kernel = facts.series("span", RECURRENT, "kernel_depth", **FORWARD)
    holds = all(value >= n for n, value in depth.items())
    n = max(depth)
    return Finding(
        verdict=SUPPORTED if holds else CONTRADICTED,
        effect=f"at n = {n:,.0f} a chain of {count(kernel[n])} operations, {kernel[n] / n:.2f} for each "
        f"position; with ideally many processors {count(depth[n])} steps",
        conditions=("of an LSTM as it is computed here; linear recurrences can be computed in log n steps",),
    )


def _vanishing(facts: Facts) -> Finding:
    rows = facts.rows("signal", RECURRENT, "rate")
    vanishing = all(row.conditions["decay"] == "exponential" and _end(row.high) < 0 for row in rows)
    flat = all(row.conditions["decay"] == "none" for row in rows)
    verdict = SUPPORTED if vanishing else CONTRADICTED if flat else UNDECIDED
    conditions, others = [], []
    for subject in facts.subjects("signal"):
        if subject.startswith(f"{RECURRENT}, "):
            others += [
                f"with {subject.removeprefix(f'{RECURRENT}, ')}: {one}"
                for one in _decays(facts, subject).values()
            ]
        elif subject != RECURRENT:
            conditions += [f"{subject}{side}: {one}" for side, one in _decays(facts, subject).items()]
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


def _decays(facts: Facts, subject: str) -> dict[str, str]:
    """The laws at all lengths and positions, by side of a model, and before a run's training and after."""
    sides: dict[str, list[Row]] = {}
    for row in facts.rows("signal", subject, "rate"):
        side = f" from the {row.conditions['from']}" if "from" in row.conditions else ""
        side += f", {row.conditions['training']} training" if "training" in row.conditions else ""
        sides.setdefault(side, []).append(row)
    return {side: _laws(facts, subject, rows) for side, rows in sides.items()}


def _laws(facts: Facts, subject: str, rates: Sequence[Row]) -> str:
    """Each law with its smallest and largest slope, in its own unit, and how often it holds."""
    laws: dict[str, list[Row]] = {}
    for rate in rates:
        kind = rate.conditions["decay"]
        row = facts.rows("signal", subject, "exponent", **rate.conditions)[0] if kind == "power" else rate
        laws.setdefault(_law(row), []).append(row)
    shown = []
    for law, rows in laws.items():
        smallest, largest = (most(rows, key=lambda row: row.value) for most in (min, max))
        ends = dict.fromkeys(
            with_half_width(row.value, (_end(row.high) - _end(row.low)) / 2) for row in (smallest, largest)
        )
        slopes = "" if law == UNDETERMINED else f", {' to '.join(ends)} {rows[0].unit}"
        places = [f"n = {number(row, 'n'):,.0f} at {number(row, 'output'):,.0f}" for row in rows]
        times = f" at {len(rows)} of {len(rates)} lengths and positions" if len(rates) > 1 else ""
        where = f" ({', '.join(places)})" if len(rates) == 1 or len(rows) < len(rates) else ""
        shown.append(f"{law}{times}{where}{slopes}")
    return ", and ".join(shown)


UNDETERMINED = "neither an exponential nor a power law"


def _law(row: Row) -> str:
    kind = row.conditions["decay"]
    if kind in ("none", "undetermined"):
        return {"none": "no decay", "undetermined": UNDETERMINED}[kind]
    return f"{kind} {'growth' if row.value > 0 else 'decay'}"


def _neighbourhood(facts: Facts) -> Finding:
    layers = facts.series("path", CONVOLUTION, "layers")
    connects = facts.series("path", "convs2s", "connects", part="encoder")
    alone = [n for n, needed in layers.items() if needed == 1]
    model = {n: bool(value) for n, value in connects.items()}
    holds = not alone and not model[max(model)]
    return Finding(
        verdict=SUPPORTED if holds else CONTRADICTED,
        effect=f"one convolution of k = {KERNEL} connects all positions at "
        f"{'/'.join(f'{n:,.0f}' for n in alone) or 'none'} of n = "
        f"{'/'.join(f'{n:,.0f}' for n in layers)}; the encoder of a ConvS2S of two layers connects them at "
        + (", ".join(f"n = {n:,.0f}" for n, value in model.items() if value) or "none of the lengths"),
    )


def _at_once(facts: Facts) -> Finding:
    hops = facts.series("path", ATTENTION, "hops")
    layers = facts.series("path", ATTENTION, "layers")
    holds = set(hops.values()) == {1.0} and set(layers.values()) == {1.0}
    return Finding(
        verdict=SUPPORTED if holds else CONTRADICTED,
        effect=f"layers that connect all positions: at most {count(max(layers.values()))}; hops: at most "
        f"{count(max(hops.values()))}; up to n = {max(hops):,.0f}",
    )


def _parallel_training(facts: Facts) -> Finding:
    predicted = {"transformer": 0.0, "lstm": 1.0}
    series = {
        name: facts.series("span", name, "kernel_depth", **{"pass": f"teacher forcing, {BOTH['pass']}"})
        for name in predicted
    }
    constant = len(set(series["transformer"].values())) == 1
    recurrent = list(series["lstm"].values())
    grows = recurrent[-1] > 1.5 * recurrent[0]
    verdict = SUPPORTED if constant and grows else CONTRADICTED if not constant else UNDECIDED
    lengths = list(series["lstm"])
    return Finding(
        verdict=verdict,
        effect=f"kernel depth of a whole model under teacher forcing, forward and backward, n = "
        f"{'/'.join(f'{n:,.0f}' for n in lengths)}: "
        + ", ".join(f"{name} {'/'.join(map(count, one.values()))}" for name, one in series.items())
        + because(verdict, "that of an LSTM grows by less than half"),
        conditions=("what follows for tokens per second depends on the device: claim C.2",),
    )


def _points(facts: Facts, subject: str, quantity: str) -> dict[tuple[float, float], float]:
    return {
        (number(row, "n"), number(row, "d")): row.value for row in facts.rows("complexity", subject, quantity)
    }


def _widest(facts: Facts, subject: str) -> float:
    return max(number(row, "d") for row in facts.rows("complexity", subject, "operations"))


def _longest(facts: Facts, subject: str) -> float:
    return max(number(row, "n") for row in facts.rows("complexity", subject, "operations"))


def _end(value: float | None) -> float:
    assert value is not None
    return value


CLAIMS: tuple[Claim, ...] = (
    Claim(
        number="S4.1",
        sentence="Three things tell layers apart: operations per layer, how much of them has to run in "
        "order, and how long paths between positions are.",
        prediction="no two layers of Table 1 grow alike in all three",
        test=f"exponents in n of mixing operations, kernel depth and hops: a pair within {NEAR} in all three "
        "contradicts",
        decide=_desiderata,
    ),
    Claim(
        number="S4.2",
        sentence="A layer costs n^2 d (self-attention), n d^2 (recurrent), k n d^2 (convolutional), r n d "
        "(restricted self-attention).",
        prediction="exponents of n and d: 2 and 1, 1 and 2, 1 and 2, 1 and 1; of k and r: 1",
        test="power laws through mixing operations, whose sum with the projections has to be what is "
        f"counted: all within {NEAR} supports, one off by {FAR} contradicts",
        decide=_complexity,
    ),
    Claim(
        number="S4.3",
        sentence="Self-attention connects all positions with a constant number of sequential operations, a "
        "recurrent layer needs n.",
        prediction="kernel depth grows with n to the 0 (self-attention, convolution, restricted), and 1 "
        "(recurrent)",
        test=f"power laws through kernel depth: all within {NEAR}, and equal at every length where it is to "
        f"be constant, supports; one off by {FAR} contradicts",
        decide=_sequential,
    ),
    Claim(
        number="S4.4",
        sentence="The longest path is 1 (self-attention), n (recurrent), log_k n (convolutional, dilated), "
        "n / r (restricted).",
        prediction=f"hops: 1, n, ceil(log_k n), ceil((n - 1) / (r / 2)), with k = {KERNEL}, "
        f"r = {NEIGHBOURHOOD}",
        test="equal at every length, and no connection where there must be none, also in whole models where "
        "that was looked for",
        decide=_paths,
    ),
    Claim(
        number="S4.5",
        sentence="Shorter paths make relations over a distance easier to learn.",
        prediction="recall and agreement: at the largest trained distance a Transformer is more accurate "
        "than an LSTM, and its accuracy has fallen less from the smallest distance on",
        test="both over seeds, sign-flip tests: on one task at least, and on no task an LSTM more accurate "
        "at the largest distance, which contradicts; who is behind there must have learned the task at the "
        f"smallest distance ({LEARNED:.0f} % on average), or that task decides nothing",
        decide=learned_over_distance,
    ),
    Claim(
        number="S4.6",
        sentence="Self-attention is faster than a recurrent layer as long as n < d.",
        prediction="less time at every timed n < d, forward and backward, full batches, against a fused LSTM",
        test="paired ratio of times at every point, and its 95 % interval; beyond the A/A noise at all "
        "supports, slower at one contradicts, by intervals that hold at all points together",
        decide=_faster_when_short,
    ),
    Claim(
        number="S4.7",
        sentence="Sentences in subwords are most often shorter than the width of models.",
        prediction=f"more than half of the sentences have n < {PAPER_WIDTH}",
        test="share of the training sentences and its 95 % interval",
        decide=_short_sentences,
    ),
    Claim(
        number="S4.8",
        sentence="For long sequences attention restricted to r neighbours costs less, with paths of n / r.",
        prediction="operations linear in n, path linear in n, and less time than full self-attention at the "
        "longest n",
        test="exponents as in S4.2; paired ratio of times beyond the A/A noise",
        decide=_restricted,
    ),
    Claim(
        number="S4.9",
        sentence="One convolution with k < n does not connect all positions; it takes n / k contiguous "
        "layers, or log_k n dilated ones.",
        prediction="ceil((n - 1) / (k - 1)) and ceil(log_k n) layers",
        test="the smallest stack that connects all positions, found by search, equal at every length",
        decide=_layers_needed,
    ),
    Claim(
        number="S4.10",
        sentence="A convolution costs k times as much as a recurrent layer.",
        prediction="a ratio of k, of mixing operations at equal width",
        test=f"ratio / k at k = 3, 5, 9: all within {NEAR} of 1 supports, all off by {FAR} contradicts",
        decide=_k_times_dearer,
    ),
    Claim(
        number="S4.11",
        sentence="A separable convolution costs k n d + n d^2.",
        prediction="counted operations 2 k n d + 2 n d^2",
        test="equal within 1 % at every point",
        decide=_separable,
    ),
    Claim(
        number="S4.12",
        sentence="With k = n the cost of a separable convolution grows as that of self-attention with a "
        "feed-forward layer.",
        prediction="both are a n^2 d + b n d^2",
        test="least squares on counted operations: both terms positive, and no point off by more than 1 %",
        decide=_same_terms,
    ),
    Claim(
        number="S4.13",
        sentence="Heads learn to look at different things.",
        prediction="training drives the heads of an encoder layer apart in what they look at",
        test="Jensen-Shannon divergence of their weights after training against before, sign-flip tests over "
        "seeds: above on one task at least and below on none supports, the reverse contradicts; heads that "
        "only become sharper are further apart too, which this does not tell from roles",
        decide=heads_differ,
    ),
    Claim(
        number="I.1",
        sentence="A recurrence computes in the order of positions.",
        prediction="at least one step for each position, however many processors there are",
        test="ideal depth of at least n at every length",
        decide=_in_order,
    ),
    Claim(
        number="I.2",
        sentence="In an LSTM before training, with a forget bias of 1, gradients vanish over distance (as "
        "Hochreiter 1991 has it of recurrences; not in the paper itself).",
        prediction="exponential decay with distance",
        test="law of decay at every length and position: exponential and falling at all supports, no decay "
        "contradicts",
        decide=_vanishing,
    ),
    Claim(
        number="I.3",
        sentence="A convolution sees a neighbourhood.",
        prediction="one layer connects all positions at no n > k, nor does a ConvS2S encoder of few layers",
        test="smallest connecting stack above 1; encoder unconnected at the longest sentence",
        decide=_neighbourhood,
    ),
    Claim(
        number="I.4",
        sentence="Self-attention sees the whole sentence at once.",
        prediction="one layer, one hop",
        test="hops and layers of 1 at every length",
        decide=_at_once,
    ),
    Claim(
        number="I.5",
        sentence="Training a Transformer is parallel over positions, training a recurrent model is not.",
        prediction="kernel depth under teacher forcing, forward and backward: constant in n, and growing",
        test="equal at every length for the Transformer; more than 1.5 times from the first to the last for "
        "the LSTM",
        decide=_parallel_training,
    ),
    Claim(
        number="C.1",
        sentence="The Transformer translates better, at a fraction of the training cost.",
        prediction="higher BLEU than ConvS2S and an LSTM after equal seconds of training",
        test="sign-flip tests over seeds, in every study of translation beside this one whose models trained "
        f"for equal seconds (matched, or within {EQUAL_SECONDS:.0%}): higher than both in one at least and "
        "lower than another in none supports, the reverse contradicts",
        decide=translates_better,
    ),
    Claim(
        number="C.2",
        sentence="For translation the Transformer trains faster than recurrent or convolutional "
        "architectures.",
        prediction="fewer target tokens per second in ConvS2S and in an LSTM",
        test="ratios of speed, beyond A/A noise, in every speed record of the studies beside this one: "
        "faster than all others in one at least, and slower than one of them in none, supports; the reverse "
        "contradicts",
        decide=trains_faster,
    ),
)
