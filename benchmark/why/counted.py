"""The claims that counts decide: operations, depth, paths, and lengths of sentences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from benchmark.measure.significance import share_interval
from benchmark.report.rounding import count, without_spread
from benchmark.why.cells import (
    ATTENTION,
    CONVOLUTION,
    DILATED,
    FULL_SEPARABLE,
    KERNEL,
    MODELS,
    NEIGHBOURHOOD,
    RECURRENT,
    RESTRICTED,
    SEPARABLE,
    TIMED_RESTRICTED,
)
from benchmark.why.facts import (
    BOTH,
    FORWARD,
    Facts,
    Missing,
    exponent,
    interval_text,
    longest_of,
    number,
    points_of,
    time_exponent,
    times_of,
    two_terms,
    widest_of,
)
from benchmark.why.finding import (
    CONTRADICTED,
    FAR,
    NEAR,
    SUPPORTED,
    UNDECIDED,
    Finding,
    Word,
    because,
    by_exponents,
    each,
    neither_near_nor_far,
)
from benchmark.why.timed import (
    by_width,
    crossings,
    noise_at,
    same_point,
    shared,
    time_conditions,
    timed_on,
)

NEIGHBOURHOODS = {NEIGHBOURHOOD: RESTRICTED, 32: TIMED_RESTRICTED}
PAPER_WIDTH = 512
"""Of the paper's base model."""
CAUSAL = (
    "convolutions here are causal, as in the decoder of ConvS2S; centred ones, as in its encoder, take twice "
    "as many contiguous layers, and centred dilated ones (1, 3, 9, ...) never connect both ends"
)


# S4.1 to S4.4: the table


TABLE = (ATTENTION, RECURRENT, CONVOLUTION, RESTRICTED)


def desiderata(facts: Facts) -> Finding:
    """S4.1: contradicted where two rows of Table 1 grow alike in all that it lists."""
    found: dict[str, tuple[float, float, float]] = {}
    for subject in TABLE:
        found[subject] = _growth(facts, subject, DILATED if subject == CONVOLUTION else subject)
    alike = [
        f"{one} and {other}" for one, other in itertools.combinations(found, 2) if _alike(found, one, other)
    ]
    shown = each({name: ", ".join(f"{one:.2f}" for one in three) for name, three in found.items()})
    return Finding(
        verdict=CONTRADICTED if alike else SUPPORTED,
        effect=f"exponents in n of mixing operations, sequential operations and longest path: {shown}"
        + "".join(f"; {pair} are alike in all three" for pair in alike),
        conditions=(
            *_not_needed(found),
            *_alike_beyond(facts, found),
            "that these three are what matters is the paper's choice, which no measurement decides",
        ),
    )


def _growth(facts: Facts, subject: str, stack: str) -> tuple[float, float, float]:
    """Exponents in n of mixing operations, kernel depth, and the hops of what connects all positions."""
    cost = facts.series("complexity", subject, "mixing_operations", d=widest_of(facts, subject))
    depth = facts.series("span", subject, "kernel_depth", **FORWARD)
    return exponent(cost), exponent(depth), exponent(facts.series("path", stack, "hops"))


def _alike(found: Mapping[str, tuple[float, ...]], one: str, other: str) -> bool:
    return all(abs(a - b) <= NEAR for a, b in zip(found[one], found[other], strict=True))


def _not_needed(found: Mapping[str, tuple[float, ...]]) -> Iterator[str]:
    """Where two of the three tell the rows apart already."""
    names = ("operations", "sequential operations", "longest path")
    for two in itertools.combinations(range(3), 2):
        rest = {name: tuple(three[place] for place in two) for name, three in found.items()}
        if not any(_alike(rest, *pair) for pair in itertools.combinations(rest, 2)):
            yield f"{' and '.join(names[place] for place in two)} alone tell these layers apart, too"


def _alike_beyond(facts: Facts, found: Mapping[str, tuple[float, ...]]) -> Iterator[str]:
    """Layers beside the paper's four rows that grow as one of them does."""
    for subject, what in ((CONVOLUTION, f"contiguous {CONVOLUTION}"), (SEPARABLE, SEPARABLE)):
        try:
            mine = _growth(facts, subject, subject)
        except Missing:
            continue
        for name in found:
            if name != subject and _alike({what: mine, name: found[name]}, what, name):
                yield f"{what} grows with n as {name} does, in all three"


LAWS: Mapping[str, tuple[float, float]] = {
    ATTENTION: (2, 1),
    RECURRENT: (1, 2),
    CONVOLUTION: (1, 2),
    RESTRICTED: (1, 1),
}
"""Exponents of n and d in Table 1."""


def complexity(facts: Facts) -> Finding:
    """S4.2: power laws through the operations that mix positions."""
    found, predicted, conditions = {}, {}, []
    in_all: dict[str, float] = {}
    for subject, (in_n, in_d) in LAWS.items():
        longest, widest = longest_of(facts, subject), widest_of(facts, subject)
        for name, over, fixed, expected in (
            ("n", "n", {"d": widest}, in_n),
            ("d", "d", {"n": longest}, in_d),
        ):
            key = f"{subject}: {name}"
            found[key] = exponent(facts.series("complexity", subject, "mixing_operations", over, **fixed))
            predicted[key] = expected
        whole = exponent(facts.series("complexity", subject, "operations", d=widest))
        in_all[subject] = whole
        conditions.append(
            f"with its projections {subject} grows with n^{whole:.2f} up to n = {longest:,.0f} at "
            f"d = {widest:,.0f}"
        )
    wanted = {subject: float(in_n) for subject, (in_n, _) in LAWS.items()}
    conditions.append(
        "by all operations, projections too, the same rule on the exponents of n: "
        f"{by_exponents(in_all, wanted)}"
    )
    for name, subjects, factor in (
        ("k", {3: CONVOLUTION, 5: "convolution, k = 5", 9: "convolution, k = 9"}, 1.0),
        ("r", NEIGHBOURHOODS, 1.0),
    ):
        first = next(iter(subjects.values()))
        where = {"n": longest_of(facts, first), "d": widest_of(facts, first)}
        series = {
            float(value): facts.rows("complexity", subject, "mixing_operations", **where)[0].value
            for value, subject in subjects.items()
        }
        found[name], predicted[name] = exponent(series), factor
    _check_counts(facts)
    attention = two_terms(points_of(facts, ATTENTION, "operations"))
    recurrent = two_terms(points_of(facts, RECURRENT, "operations"))
    conditions.append(
        f"all operations of self-attention are {attention[0]:.2f} n^2 d + {attention[1]:.2f} n d^2, of an "
        f"LSTM {recurrent[1]:.2f} n d^2: they are equal at n = "
        f"{(recurrent[1] - attention[1]) / attention[0]:.2f} d, and without projections at n = "
        f"{_equal_mixing(facts):.2f} d"
    )
    conditions += time_conditions(facts, full=True)
    shown = each(
        {one: f"n^{found[f'{one}: n']:.2f} d^{found[f'{one}: d']:.2f}" for one in LAWS},
    )
    verdict = by_exponents(found, predicted)
    return Finding(
        verdict=verdict,
        effect=f"mixing operations, by closed forms that with the projections equal what is counted, grow as "
        f"{shown}; with k^{found['k']:.2f} and r^{found['r']:.2f}"
        + because(verdict, neither_near_nor_far(found, predicted)),
        conditions=tuple(conditions),
    )


def _check_counts(facts: Facts) -> None:
    """Closed forms decide only where they are what was counted."""
    for subject in facts.subjects("complexity"):
        counted = points_of(facts, subject, "operations")
        mixing = points_of(facts, subject, "mixing_operations")
        projections = points_of(facts, subject, "projection_operations")
        for point, value in counted.items():
            if value != mixing[point] + projections[point]:
                raise Missing(f"{subject}: counted operations are not those of the closed form at {point}")


def _equal_mixing(facts: Facts) -> float:
    attention = two_terms(points_of(facts, ATTENTION, "mixing_operations"))
    recurrent = two_terms(points_of(facts, RECURRENT, "mixing_operations"))
    return recurrent[1] / attention[0]


def sequential(facts: Facts) -> Finding:
    """S4.3: power laws through kernel depth; what is to be constant has to be equal at every length."""
    predicted = {ATTENTION: 0.0, RECURRENT: 1.0, CONVOLUTION: 0.0, RESTRICTED: 0.0}
    series = {name: facts.series("span", name, "kernel_depth", **FORWARD) for name in predicted}
    found = {name: exponent(one) for name, one in series.items()}
    longest = max(series[ATTENTION])
    ideal = {name: facts.series("span", name, "ideal_depth", **FORWARD) for name in predicted}
    conditions = [
        f"with ideally many processors, at n = {longest:,.0f}: "
        + each({name: count(one[longest]) for name, one in ideal.items()})
        + "; self-attention then grows with log n, the depth of its softmax and of its sum over n; linear "
        "recurrences, unlike an LSTM, can be computed in log n steps as well",
    ]
    generation: dict[str, str] = {}
    for model in MODELS:
        try:
            depths = facts.series("span", model, "kernel_depth", **{"pass": "generation"})
        except Missing:
            continue
        steps = list(depths.values())
        words = list(depths)
        generation[model] = f"{(steps[-1] - steps[0]) / (words[-1] - words[0]):.0f}"
    conditions += _of_connecting_stacks(facts)
    conditions += time_conditions(facts, full=False)
    if generation:
        conditions.append(
            f"generation is sequential in all three, operations for each word: {each(generation)}"
        )
    shown = each({name: _from_to(list(one.values())) for name, one in series.items()})
    verdict, reason = by_exponents(found, predicted), neither_near_nor_far(found, predicted)
    # a constant is one number, not a small exponent
    changing = [
        name for name, wanted in predicted.items() if wanted == 0 and len(set(series[name].values())) > 1
    ]
    if verdict == SUPPORTED and changing:
        verdict, reason = UNDECIDED, f"not the same at every length: {', '.join(changing)}"
    return Finding(
        verdict=verdict,
        effect=f"kernel depth from n = {min(series[ATTENTION]):,.0f} to {longest:,.0f}: {shown}; exponents "
        + ", ".join(f"{found[name]:.2f}" for name in predicted)
        + because(verdict, reason),
        conditions=tuple(conditions),
    )


def paths(facts: Facts) -> Finding:
    """S4.4: hops at every length, and no connection where there must be none."""
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
    shown = each({name: "/".join(map(count, one.values())) for name, one in hops.items()})
    conditions = [
        f"of r = {NEIGHBOURHOOD} neighbours half stand on each side: the path is 2 (n - 1) / r, twice what "
        "n / r says, of the same growth"
    ]
    try:
        contiguous = facts.series("path", CONVOLUTION, "hops")
        conditions.append(CAUSAL)
        conditions.append(
            f"contiguous convolutions need {'/'.join(map(count, contiguous.values()))} hops: "
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


def _from_to(values: Sequence[float]) -> str:
    first, last = count(values[0]), count(values[-1])
    return first if len(set(values)) == 1 else f"{first} to {last}"


def _leaks(facts: Facts, subject: str) -> bool:
    """Whether it connects positions that it must not connect."""
    return any(row.value for row in facts.rows("path", subject, "leaks"))


def _models(facts: Facts) -> list[str]:
    shown = {}
    for model in MODELS:
        across = facts.series("path", model, "hops", part="source to target")
        shown[model] = count(list(across.values())[-1])
    return [f"hops from a source word to a target word, by attention to the source: {each(shown)}"]


def _log(n: float, base: int) -> int:
    """The smallest p with base^p >= n."""
    power = 0
    while base**power < n:
        power += 1
    return power


# S4.7 and S4.8: what is short, and what is long


def short_sentences(facts: Facts) -> Finding:
    """S4.7: the share of training sentences that are shorter than the width of the paper's base model."""
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
        conditions=(
            f"the longest has {longest:,.0f}; {', '.join(shares)}",
            "these are captions of pictures in two languages; other text has longer sentences",
        ),
    )


def restricted(facts: Facts) -> Finding:
    """S4.8: linear growth, and less time than full attention at the longest length that was timed."""
    widest = widest_of(facts, RESTRICTED)
    found = {
        "operations in n": exponent(facts.series("complexity", RESTRICTED, "mixing_operations", d=widest)),
        "path in n": exponent(facts.series("path", RESTRICTED, "hops")),
    }
    linear = dict.fromkeys(found, 1.0)
    growth = by_exponents(found, linear)
    constant = max(_of_restricted(facts, r, subject) for r, subject in NEIGHBOURHOODS.items())
    rows = facts.seconds(ATTENTION, full=True, **BOTH)
    longest = max(number(row, "n") for row in rows)
    row = max((one for one in rows if number(one, "n") == longest), key=lambda one: number(one, "d"))
    ratio = times_of(row, same_point(facts, TIMED_RESTRICTED, row))
    noise = noise_at(facts, row)
    faster = SUPPORTED if ratio.low > noise else CONTRADICTED if ratio.high < 1 / noise else UNDECIDED
    verdict, reason = faster, f"noise (A/A) alone is a factor of {noise:.3f}"
    alone = time_exponent(facts.seconds(ATTENTION, full=False, d=number(row, "d"), **BOTH))
    if alone.high < FAR:
        verdict = UNDECIDED
        reason = (
            f"for one sequence the time of full attention grows with n^{interval_text(alone)} up to there: "
        )
        reason += "no length is long where operations do not take the time"
    if growth != SUPPORTED:
        verdict, reason = growth, neither_near_nor_far(found, linear)
    return Finding(
        verdict=verdict,
        effect=f"its operations grow with n^{found['operations in n']:.2f} (at most {constant:.2f} r n d, "
        "with n rounded up to whole blocks of r / 2), its longest path with "
        f"n^{found['path in n']:.2f}; {timed_on(facts)}, at n = {longest:,.0f}, d = {number(row, 'd'):,.0f} "
        f"full attention takes {interval_text(ratio)} times as long as r = 32" + because(verdict, reason),
        conditions=(
            "faster than full self-attention from n on: " + by_width(crossings(facts, TIMED_RESTRICTED)),
            *shared(facts),
            *_of_connecting_stacks(facts),
        ),
    )


def _of_restricted(facts: Facts, neighbourhood: int, subject: str) -> float:
    """The largest factor of r n d in its operations, n in whole blocks."""
    side = neighbourhood / 2
    return max(
        mixing / (neighbourhood * math.ceil(n / side) * side * d)
        for (n, d), mixing in points_of(facts, subject, "mixing_operations").items()
    )


def _of_connecting_stacks(facts: Facts) -> list[str]:
    """One layer is cheap or shallow; what connects all positions may take many."""
    shown: dict[str, str] = {}
    costs: dict[str, str] = {}
    for layer, stack in ((ATTENTION, ATTENTION), (RESTRICTED, RESTRICTED), (CONVOLUTION, DILATED)):
        try:
            depth = facts.series("span", layer, "kernel_depth", **FORWARD)
            layers = facts.series("path", stack, "layers")
        except Missing:
            continue
        longest = max(layers)
        shown[stack] = f"{count(layers[longest])} x {count(depth[max(depth)])} at n = {longest:,.0f}"
        mixing = {
            d: cost for (n, d), cost in points_of(facts, layer, "mixing_operations").items() if n == longest
        }
        if mixing:
            width = max(mixing)
            cost = layers[longest] * mixing[width] / (longest * width)
            costs[stack] = f"{without_spread(cost)} n d at n = {longest:,.0f}, d = {width:,.0f}"
    if not shown:
        return []
    lines = [f"depth of the smallest stack that connects all positions, layers x depth: {each(shown)}"]
    return lines + ([f"mixing operations of that stack: {each(costs)}"] if costs else [])


# S4.9 to S4.12: convolutions


def layers_needed(facts: Facts) -> Finding:
    """S4.9: the smallest stack that connects all positions."""
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
        conditions=("n / k is (n - 1) / (k - 1) exactly, for causal convolutions", CAUSAL),
    )


def _by_constants(shares: Sequence[float]) -> Word:
    """The verdict where every cost has to be the predicted one, of which these are shares."""
    if max(abs(share - 1) for share in shares) <= NEAR:
        return SUPPORTED
    return CONTRADICTED if min(abs(share - 1) for share in shares) >= FAR else UNDECIDED


def k_times_dearer(facts: Facts) -> Finding:
    """S4.10: operations of a convolution against those of a recurrence, by constants."""
    ratios: dict[int, list[float]] = {}
    whole: dict[int, list[float]] = {}
    for kernel in (3, 5, 9):
        for quantity, found in (("mixing_operations", ratios), ("operations", whole)):
            convolution = points_of(facts, f"convolution, k = {kernel}", quantity)
            recurrent = points_of(facts, RECURRENT, quantity)
            found[kernel] = [convolution[point] / recurrent[point] for point in convolution]
    shares = [value / kernel for kernel, values in ratios.items() for value in values]
    verdict = _by_constants(shares)
    shown = ", ".join(f"k = {kernel}: {without_spread(values[0])}" for kernel, values in ratios.items())
    all_of = ", ".join(f"k = {kernel}: {without_spread(values[0])}" for kernel, values in whole.items())
    growth = {"k": exponent({kernel: values[0] for kernel, values in ratios.items()})}
    conditions = [
        f"by growth alone, which decides S4.12: {by_exponents(growth, {'k': 1})}, the ratio grows with "
        f"k^{growth['k']:.2f}",
        f"with all operations: {all_of}",
        "the recurrence here is an LSTM, which has four gates: against one of its matrices, as in a "
        "recurrence without gates, "
        f"the ratio is {', '.join(without_spread(4 * values[0]) for values in ratios.values())} for k = "
        f"{', '.join(map(str, ratios))}, and with all operations of such a recurrence, two matrices, "
        f"{', '.join(without_spread(4 * values[0]) for values in whole.values())}",
        "a convolution with a gate, as in ConvS2S, costs twice as much",
    ]
    try:
        rows = facts.seconds(CONVOLUTION, full=True, **BOTH)
        widest = max(number(row, "d") for row in rows)
        times = [
            f"{interval_text(times_of(row, same_point(facts, RECURRENT, row)))} at "
            f"n = {number(row, 'n'):,.0f}"
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


def separable(facts: Facts) -> Finding:
    """S4.11: counted operations against the formula."""
    off = []
    for kernel in (3, 9):
        for (n, d), value in points_of(facts, f"separable convolution, k = {kernel}", "operations").items():
            off.append(abs(value / (2 * kernel * n * d + 2 * n * d**2) - 1))
    return Finding(
        verdict=SUPPORTED if max(off) <= 0.01 else CONTRADICTED,
        effect=f"counted operations are 2 k n d + 2 n d^2 at all {len(off)} points"
        + (f", within {max(off):.1%}" if max(off) else ", exactly"),
    )


def same_terms(facts: Facts) -> Finding:
    """S4.12: both costs as a n^2 d + b n d^2, by least squares."""
    separable = points_of(facts, FULL_SEPARABLE, "operations")
    attention = points_of(facts, ATTENTION, "mixing_operations")
    both = {(n, d): attention[n, d] + 16 * n * d**2 for n, d in separable}
    first, second = two_terms(separable), two_terms(both)
    is_law = max(first[2], second[2]) <= 0.01 and min(*first[:2], *second[:2]) > 0
    ratios = [separable[point] / both[point] for point in separable]
    projections = points_of(facts, ATTENTION, "projection_operations")
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


# The introduction


def in_order(facts: Facts) -> Finding:
    """I.1: ideal depth of a recurrence, of at least n."""
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


def neighbourhood(facts: Facts) -> Finding:
    """I.3: what one convolution and an encoder of ConvS2S connect."""
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


def at_once(facts: Facts) -> Finding:
    """I.4: what one layer of self-attention connects."""
    hops = facts.series("path", ATTENTION, "hops")
    layers = facts.series("path", ATTENTION, "layers")
    holds = set(hops.values()) == {1.0} and set(layers.values()) == {1.0}
    return Finding(
        verdict=SUPPORTED if holds else CONTRADICTED,
        effect=f"layers that connect all positions: at most {count(max(layers.values()))}; hops: at most "
        f"{count(max(hops.values()))}; up to n = {max(hops):,.0f}",
    )


def parallel_training(facts: Facts) -> Finding:
    """I.5: depth of a whole model under teacher forcing, over lengths."""
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
        + each({name: "/".join(map(count, one.values())) for name, one in series.items()})
        + because(verdict, "that of an LSTM grows by less than half"),
        conditions=("what follows for tokens per second depends on the device: claim C.2",),
    )
