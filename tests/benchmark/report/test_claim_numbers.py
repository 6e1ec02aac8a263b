"""The counted numbers of `why`'s claims, read back against the files of the records."""

import math

import numpy as np
import pytest
from scipy import stats

from benchmark.report.rounding import count, without_spread
from tests.benchmark.report.reading import read_claims, read_records
from tests.benchmark.report.test_chart_numbers import WHY, measured
from tests.benchmark.report.test_why_page_numbers import ends, series, slope

CONVOLUTION, DILATED = "convolution, k = 3", "dilated convolution, k = 3"
LAYERS = ("self-attention", "recurrent", CONVOLUTION, "restricted self-attention, r = 8")
MODELS = ("transformer", "convs2s", "lstm")


@pytest.fixture(scope="module", params=WHY)
def why(request):
    """The claims by their number, and the records."""
    return read_claims(request.param), read_records(request.param)


def points(rows, quantity):
    return {
        (row["conditions"]["n"], row["conditions"]["d"]): row["value"]
        for row in rows
        if row["quantity"] == quantity
    }


def at_largest(found, axis):
    """Values over n (axis 0) or d (axis 1), at the largest of the other."""
    largest = max(point[1 - axis] for point in found)
    return {point[axis]: value for point, value in sorted(found.items()) if point[1 - axis] == largest}


def fitted(found):
    """Coefficients of n^2 d and n d^2, by generalised least squares: equal relative errors."""
    n, d, values = (np.array(one, dtype=float) for one in (*zip(*found, strict=True), list(found.values())))
    columns = np.stack((n * n * d / values, n * d * d / values), axis=1)
    normal, right = columns.T @ columns, columns.sum(axis=0)
    return np.linalg.solve(normal, right)


def forward(rows, quantity):
    return series(rows, quantity, **{"pass": "forward"})


def test_growth_in_all_three(why):
    claims, records = why
    shown = []
    for layer in LAYERS:
        cost = at_largest(points(measured(records, "complexity")[layer], "mixing_operations"), 0)
        depth = forward(measured(records, "span")[layer], "kernel_depth")
        hops = series(measured(records, "path")[DILATED if layer == CONVOLUTION else layer], "hops")
        shown.append(f"{layer} ({slope(cost):.2f}, {slope(depth) + 0:.2f}, {slope(hops) + 0:.2f})")
    assert claims["S4.1"].effect.partition(": ")[2] == ", ".join(shown).replace("-0.00", "0.00")


def test_growth_of_operations(why):
    claims, records = why
    counted = measured(records, "complexity")
    grown = []
    for layer in LAYERS:
        mixing, every = (points(counted[layer], name) for name in ("mixing_operations", "operations"))
        grown.append(f"{layer} (n^{slope(at_largest(mixing, 0)):.2f} d^{slope(at_largest(mixing, 1)):.2f})")
        (n, d) = max(every)
        whole = f"with its projections {layer} grows with n^{slope(at_largest(every, 0)):.2f} up to n = {n:,}"
        assert f"{whole} at d = {d:,}" in claims["S4.2"].conditions
    in_k = {k: points(counted[f"convolution, k = {k}"], "mixing_operations") for k in (3, 5, 9)}
    in_r = {r: points(counted[f"restricted self-attention, r = {r}"], "mixing_operations") for r in (8, 32)}
    of_k, of_r = (slope({value: found[max(found)] for value, found in each.items()}) for each in (in_k, in_r))
    assert claims["S4.2"].effect.endswith(f"grow as {', '.join(grown)}; with k^{of_k:.2f} and r^{of_r:.2f}")
    attention, recurrent = (fitted(points(counted[name], "operations")) for name in LAYERS[:2])
    mixing = [fitted(points(counted[name], "mixing_operations")) for name in LAYERS[:2]]
    equal = (recurrent[1] - attention[1]) / attention[0], mixing[1][1] / mixing[0][0]
    assert (
        f"all operations of self-attention are {attention[0]:.2f} n^2 d + {attention[1]:.2f} n d^2, of an "
        f"LSTM {recurrent[1]:.2f} n d^2: they are equal at n = {equal[0]:.2f} d, and without projections at "
        f"n = {equal[1]:.2f} d"
    ) in claims["S4.2"].conditions


def test_depth_over_length(why):
    claims, records = why
    spans, paths = measured(records, "span"), measured(records, "path")
    depths = {layer: forward(spans[layer], "kernel_depth") for layer in LAYERS}
    for layer, depth in depths.items():
        assert f"{layer} ({ends(depth)})" in claims["S4.3"].effect
    exponents = ", ".join(f"{abs(slope(depth)):.2f}" for depth in depths.values())
    assert claims["S4.3"].effect.endswith(f"; exponents {exponents}")
    ideal = {layer: forward(spans[layer], "ideal_depth") for layer in LAYERS}
    longest = max(depths["recurrent"])
    assert claims["I.1"].effect == (
        f"at n = {longest} a chain of {count(depths['recurrent'][longest])} operations, "
        f"{without_spread(depths['recurrent'][longest] / longest)} for each position; with ideally many "
        f"processors {count(ideal['recurrent'][longest])} steps"
    )
    ideally, stacks, operations, *_, generation = claims["S4.3"].conditions[3:-1]
    assert (
        f"at n = {longest}: " + ", ".join(f"{one} ({count(ideal[one][longest])})" for one in LAYERS)
        in ideally
    )
    layers = {name: series(paths[name], "layers") for name in (LAYERS[0], LAYERS[3], DILATED)}
    assert stacks.partition(": ")[2] == ", ".join(
        f"{name} ({count(found[max(found)])} x "
        f"{count(depths[CONVOLUTION if name == DILATED else name][longest])} at n = {max(found)})"
        for name, found in layers.items()
    )
    costs = []
    for name, found in layers.items():
        mixing = points(measured(records, "complexity").get(name, []), "mixing_operations")
        of_longest = {d: cost for (n, d), cost in mixing.items() if n == max(found)}
        if of_longest:
            width = max(of_longest)
            cost = without_spread(found[max(found)] * of_longest[width] / width / max(found))
            costs.append(f"{name} ({cost} n d at n = {max(found)}, d = {width})")
    assert operations == f"mixing operations of that stack: {', '.join(costs)}"
    assert stacks in claims["S4.8"].conditions and operations in claims["S4.8"].conditions
    words = {name: series(spans[name], "kernel_depth", **{"pass": "generation"}) for name in MODELS}
    each = {
        name: (found[max(found)] - found[min(found)]) / (max(found) - min(found))
        for name, found in words.items()
    }
    assert generation.partition(": ")[2] == ", ".join(f"{name} ({one:.0f})" for name, one in each.items())


def test_paths_over_length(why):
    claims, records = why
    paths = measured(records, "path")
    for layer in ("self-attention", "recurrent", "restricted self-attention, r = 8", DILATED):
        hops = series(paths[layer], "hops")
        assert f"{layer} ({'/'.join(map(count, hops.values()))})" in claims["S4.4"].effect
    contiguous = series(paths[CONVOLUTION], "hops")
    (line,) = (one for one in claims["S4.4"].conditions if one.startswith("contiguous"))
    assert f"need {'/'.join(map(count, contiguous.values()))} hops" in line
    across = {model: series(paths[model], "hops", part="source to target") for model in MODELS}
    near = ", ".join(f"{model} ({count(found[max(found)])})" for model, found in across.items())
    assert any(one.endswith(f"attention to the source: {near}") for one in claims["S4.4"].conditions)
    attention = {name: series(paths["self-attention"], name) for name in ("layers", "hops")}
    assert claims["I.4"].effect == (
        f"layers that connect all positions: at most {count(max(attention['layers'].values()))}; hops: at "
        f"most {count(max(attention['hops'].values()))}; up to n = {max(attention['hops'])}"
    )


def test_layers_that_connect_all_positions(why):
    claims, records = why
    paths = measured(records, "path")
    contiguous, dilated = (series(paths[name], "layers") for name in (CONVOLUTION, DILATED))
    shown = [
        ", ".join(f"{count(layers)} at n = {n}" for n, layers in found.items())
        for found in (contiguous, dilated)
    ]
    assert claims["S4.9"].effect.endswith(f"contiguous {shown[0]}; dilated {shown[1]}")
    assert 1 not in contiguous.values()
    assert not any(series(paths["convs2s"], "connects", part="encoder").values())
    lengths = "/".join(map(str, contiguous))
    assert f"at none of n = {lengths};" in claims["I.3"].effect
    assert claims["I.3"].effect.endswith("connects them at none of the lengths")


def test_depth_of_models(why):
    claims, records = why
    for model in ("transformer", "lstm"):
        rows = measured(records, "span")[model]
        both = series(rows, "kernel_depth", **{"pass": "teacher forcing, forward and backward"})
        assert f"{model} ({'/'.join(map(count, both.values()))})" in claims["I.5"].effect
        assert f"forward and backward, n = {'/'.join(map(str, both))}: " in claims["I.5"].effect


def test_cost_of_convolutions(why):
    claims, records = why
    counted = measured(records, "complexity")
    found: dict[str, list[str]] = {"mixing_operations": [], "operations": []}
    ratios: dict[int, float] = {}
    gateless: dict[str, list[str]] = {quantity: [] for quantity in found}
    for kernel in (3, 5, 9):
        for quantity, shown in found.items():
            one, other = (
                points(counted[layer], quantity) for layer in (f"convolution, k = {kernel}", "recurrent")
            )
            (ratio,) = {one[point] / other[point] for point in one}
            shown.append(f"k = {kernel}: {without_spread(ratio)}")
            gateless[quantity].append(without_spread(4 * ratio))
            ratios[kernel] = ratio
    assert claims["S4.10"].effect.endswith(": " + ", ".join(found["mixing_operations"]))
    assert any(one.endswith(f"grows with k^{slope(ratios):.2f}") for one in claims["S4.10"].conditions)
    mixing, whole = (", ".join(one) for one in gateless.values())
    assert any(
        f"the ratio is {mixing} for k = 3, 5, 9," in one and one.endswith(f"two matrices, {whole}")
        for one in claims["S4.10"].conditions
    )
    assert "with all operations: " + ", ".join(found["operations"]) in claims["S4.10"].conditions


def test_cost_of_separable_convolutions(why):
    claims, records = why
    counted = measured(records, "complexity")
    exact = 0
    for kernel in (3, 9):
        found = points(counted[f"separable convolution, k = {kernel}"], "operations")
        exact += sum(value == 2 * kernel * n * d + 2 * n * d * d for (n, d), value in found.items())
    assert (
        claims["S4.11"].effect == f"counted operations are 2 k n d + 2 n d^2 at all {exact} points, exactly"
    )
    separable = points(counted["separable convolution, k = n"], "operations")
    mixing, projections = (
        points(counted["self-attention"], name) for name in ("mixing_operations", "projection_operations")
    )
    other = {(n, d): mixing[n, d] + 16 * n * d * d for n, d in separable}
    terms = ["{:.2f} n^2 d + {:.2f} n d^2".format(*fitted(one)) for one in (separable, other)]
    bare = [separable[point] / other[point] for point in separable]
    whole = [separable[point] / (other[point] + projections[point]) for point in separable]
    assert terms[0] in claims["S4.12"].effect
    assert f"{terms[1]}: " in claims["S4.12"].effect
    ends = [f"{without_spread(min(one))} to {without_spread(max(one))} times" for one in (bare, whole)]
    assert claims["S4.12"].effect.endswith(f"it takes {ends[0]} the operations")
    assert any(f", {ends[1]} the operations" in one for one in claims["S4.12"].conditions)


def test_restricted_attention_is_linear(why):
    claims, records = why
    name = "restricted self-attention, r = 8"
    counted = measured(records, "complexity")
    hops = series(measured(records, "path")[name], "hops")
    most = max(
        value / (r * math.ceil(n / (r / 2)) * r / 2 * d)
        for r in (8, 32)
        for (n, d), value in points(
            counted[f"restricted self-attention, r = {r}"], "mixing_operations"
        ).items()
    )
    cost = slope(at_largest(points(counted[name], "mixing_operations"), 0))
    assert f"grow with n^{cost:.2f} (at most {most:.2f} r n d," in claims["S4.8"].effect
    assert f"its longest path with n^{slope(hops):.2f};" in claims["S4.8"].effect


def test_lengths_of_sentences(why):
    claims, records = why
    ((task, rows),) = measured(records, "lengths").items()
    total, short = (
        int(sum(row["value"] for row in rows if row["conditions"]["n"] < most)) for most in (math.inf, 512)
    )
    interval = stats.binomtest(short, total).proportion_ci(method="exact")
    assert claims["S4.7"].effect == (
        f"{short / total:.2%} of {total:,} sentences of {task} have fewer subwords than d = 512 "
        f"({interval.low:.2%} to {interval.high:.2%})"
    )
    shares = [
        f"{sum(row['value'] for row in rows if row['conditions']['n'] < most) / total:.1%} below {most}"
        for most in (16, 32, 64, 128)
    ]
    longest = max(row["conditions"]["n"] for row in rows)
    assert f"the longest has {longest}; {', '.join(shares)}" in claims["S4.7"].conditions
