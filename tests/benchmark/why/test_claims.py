"""Every verdict follows from records: supported, contradicted and undecided ones give the three words."""

import math
import random
from typing import Any

import pytest

from benchmark.config import ROOT
from benchmark.store import StudyFolder
from benchmark.why.cells import (
    ATTENTION,
    CONVOLUTION,
    DILATED,
    FULL_SEPARABLE,
    GRIDS,
    RECURRENT,
    RESTRICTED,
    TIMED_RESTRICTED,
)
from benchmark.why.claims import CLAIMS
from benchmark.why.facts import Facts, Missing, crossover, exponent, time_exponent, two_terms, unsettled
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED
from benchmark.why.page import count_of, findings
from tests.benchmark.why.synthetic import HOLDS, law_rows, records, row, time_rows

BY_NUMBER = {claim.number: claim for claim in CLAIMS}
NEEDS_TRAINING = ("S4.5", "S4.13", "C.1", "C.2")


def finding(number, found):
    return BY_NUMBER[number].finding(Facts(found))


def reason(claim, facts):
    """Why the claim is undecided: what an effect ends with, or what is missing."""
    try:
        return claim.decide(facts).effect.partition("; not decided: ")[2]
    except Missing as missing:
        return str(missing)


@pytest.mark.parametrize("number", [number for number in BY_NUMBER if number not in NEEDS_TRAINING])
def test_in_a_world_where_all_is_true_every_claim_is_supported(number):
    found = finding(number, records())
    assert found.verdict == SUPPORTED, found.effect


@pytest.mark.parametrize("number", NEEDS_TRAINING)
def test_what_needs_training_is_not_decided_by_layers(number):
    assert finding(number, records()).verdict == UNDECIDED


SLOW = {ATTENTION: lambda n, d: 1e-9 * 12 * n * d * d}
EQUAL = {ATTENTION: lambda n, d: 1e-9 * 6 * n * d * d}
FALSE: dict[str, Any] = {
    "S4.1": {
        "kernel_depth": dict.fromkeys((ATTENTION, RECURRENT, CONVOLUTION, RESTRICTED), lambda n: 5 * n),
    },
    "S4.2": {"mixing": {ATTENTION: lambda n, d: 4 * n * d * d}},
    "S4.3": {"kernel_depth": {RECURRENT: lambda n: 9}},
    "S4.4": {"hops": {DILATED: lambda n: math.ceil((n - 1) / 2)}},
    "S4.6": {"seconds": SLOW},
    "S4.7": {"sentences": {8: 300, 700: 700}},
    "S4.8": {"seconds": {TIMED_RESTRICTED: lambda n, d: 1e-9 * 9 * n * n * d}},
    "S4.9": {"layers": {CONVOLUTION: lambda n: 1}},
    "S4.10": {"mixing": {RECURRENT: lambda n, d: 8 * n * d * d}},
    "S4.11": {"projections": {"separable convolution, k = 9": lambda n, d: 4 * n * d * d}},
    "S4.12": {"mixing": {FULL_SEPARABLE: lambda n, d: 2 * n**2 * d**2}},
    "I.1": {"ideal_depth": {RECURRENT: lambda n: 12 * math.log2(n)}},
    "I.2": {"decay": {RECURRENT: ("none", -0.0001, 0.01)}},
    "I.3": {"encoder_connects": {"convs2s": lambda n: 1}},
    "I.4": {"hops": {ATTENTION: lambda n: 2}},
    "I.5": {"training_depth": {"transformer": lambda n: 10 * n}},
}  # fmt: skip
OPEN: dict[str, Any] = {
    "S4.1": {"mixing": {RESTRICTED: None}},
    "S4.2": {"mixing": {RECURRENT: lambda n, d: 2 * n * d**2 * n**0.2}},
    "S4.3": {"kernel_depth": {RECURRENT: lambda n: n**0.8}},
    "S4.4": {"hops": {DILATED: None}},
    "S4.6": {"seconds": EQUAL},
    "S4.7": {"sentences": {8: 51, 700: 49}},
    "S4.8": {"seconds": {TIMED_RESTRICTED: lambda n, d: 1e-9 * (4 * n * n * d + n * d * d)}},
    "S4.9": {"layers": {DILATED: None}},
    "S4.10": {"mixing": {RECURRENT: lambda n, d: 2.5 * n * d * d}},
    "S4.11": {"mixing": {"separable convolution, k = 9": None}},
    "S4.12": {"mixing": {FULL_SEPARABLE: None}},
    "I.1": {"ideal_depth": {RECURRENT: None}},
    "I.2": {"decay": {RECURRENT: ("undetermined", -0.02, 0.01)}},
    "I.3": {"encoder_connects": {"convs2s": None}},
    "I.4": {"hops": {ATTENTION: None}},
    "I.5": {"training_depth": {"lstm": lambda n: 100 + n}},
}  # fmt: skip


@pytest.mark.parametrize("number", FALSE)
def test_where_it_is_false_a_claim_is_contradicted(number):
    found = finding(number, records(**FALSE[number]))
    assert found.verdict == CONTRADICTED, found.effect


@pytest.mark.parametrize("number", OPEN)
def test_where_the_records_leave_it_open_a_claim_is_not_decided_and_says_why(number):
    some = records(**OPEN[number])
    found = finding(number, some)
    assert found.verdict == UNDECIDED
    why = reason(BY_NUMBER[number], Facts(some))
    assert why and found.effect.endswith(why)


def test_the_committed_records_decide_what_no_clock_and_no_training_decides():
    found = [one for one in StudyFolder(ROOT / "results", "why").contents().records if one.kind != "train"]
    verdicts = {n: finding(n, found).verdict for n in DECIDED}
    assert verdicts == DECIDED


DECIDED = {
    **dict.fromkeys(("S4.2", "S4.3", "S4.4", "S4.7", "S4.9", "S4.11", "S4.12"), SUPPORTED),
    "S4.10": CONTRADICTED,
}


def test_every_claim_is_tried_in_all_three_worlds():
    assert FALSE.keys() == OPEN.keys() == {n for n in BY_NUMBER if n not in NEEDS_TRAINING}


def test_a_failed_measurement_leaves_its_reason():
    found = [
        one.model_copy(update={"status": "failed", "failure": "no data here", "rows": []})
        if one.kind == "lengths"
        else one
        for one in records()
    ]
    assert finding("S4.7", found).effect == "lengths of multi30k-en-de failed: no data here"


def test_the_constant_of_restricted_attention_is_that_of_whole_blocks():
    """Lengths of the records are whole blocks of r = 8 and 32; where they are not, n is rounded up."""
    padded = {TIMED_RESTRICTED: lambda n, d: 6 * 32 * (-(-n // 16) * 16) * d}
    found = finding("S4.8", records(mixing=padded))
    assert "(at most 6.00 r n d, with n rounded up to whole blocks of r / 2)" in found.effect
    dearer = finding("S4.8", records(mixing={TIMED_RESTRICTED: lambda n, d: 9 * 32 * n * d}))
    assert "(at most 9.00 r n d, " in dearer.effect


def test_closed_forms_that_are_not_what_was_counted_decide_nothing():
    found = finding("S4.2", records(uncounted={CONVOLUTION: 2}))
    assert found.verdict == UNDECIDED
    assert "counted operations are not those of the closed form" in found.effect


@pytest.mark.parametrize("name", [CONVOLUTION, RECURRENT, "lstm", "transformer"])
def test_a_connection_that_must_not_be_contradicts_the_paths(name):
    found = finding("S4.4", records(leaks={name: lambda n: n > 10}))
    assert found.verdict == CONTRADICTED
    assert found.effect.endswith(f"; positions are connected that must not be: {name}")


def test_a_model_whose_record_does_not_tell_of_leaks_is_named():
    """So that those of older records leave the claim about layers as it is."""
    found = finding("S4.4", records(leaks={"lstm": None}))
    assert found.verdict == SUPPORTED
    assert "connections that must not be were not looked for in lstm" in found.conditions
    assert finding("S4.4", records(leaks={RECURRENT: None})).verdict == UNDECIDED


@pytest.mark.parametrize("scale", GRIDS)
def test_noise_alone_decides_speed_seldom(scale):
    """Of 200 worlds in which the two layers differ by chance alone, at the points of a scale."""
    grid, layers = GRIDS[scale], dict.fromkeys((ATTENTION, RECURRENT), HOLDS["seconds"][RECURRENT])
    points = [(n, d, 2) for d in grid.timed_widths for n in grid.timed_lengths if n < d]
    timed, decided = records()[-1], 0
    for seed in range(200):
        rows = list(time_rows(layers, points, noise=0.05, seed=seed, rounds=grid.rounds))
        found = finding("S4.6", [timed.model_copy(update={"rows": rows})])
        decided += found.verdict != UNDECIDED
    assert decided <= 0.06 * 200


def test_times_of_two_seeds_differ():
    first, second = (records(seed=seed)[-1].rows[0].samples for seed in (0, 1))
    assert first != second


def test_only_what_was_timed_can_fail_to_settle():
    """Weights of attention have samples too, with zeros among them."""
    timed = records()[-1]
    samples = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    weights = timed.model_copy(update={"kind": "attention", "rows": [row("attention", 1.0, samples=samples)]})
    assert unsettled(weights) == 0
    drifting = [row("seconds", 1.0, samples=[2.0**number for number in range(9)])]
    assert unsettled(weights.model_copy(update={"timing_method": "a clock", "rows": drifting})) == 1


def signal(subject, *laws):
    """A record of signals that follow one law at each of the lengths 64, 128, 256, ..."""
    some = next(one for one in records() if one.kind == "signal")
    rows = [one for number, law in enumerate(laws) for one in law_rows(*law, n=64 * 2**number)]
    return some.model_copy(update={"subject": subject, "rows": rows})


def test_each_law_of_decay_is_told_in_its_own_unit_at_all_lengths():
    falls, power = ("exponential", -0.2, 0.01), ("power", -0.05, 0.01)
    flat, neither = ("none", -0.001, 0.002), ("undetermined", -0.004, 0.001)
    found = finding(
        "I.2",
        [
            signal(RECURRENT, falls, ("exponential", -0.25, 0.02)),
            signal(f"{RECURRENT}, forget bias 3", neither, neither, flat),
            signal("convs2s", power),
        ],
    )
    assert found.verdict == SUPPORTED
    assert found.effect == (
        "an LSTM before training, as it is initialised (forget bias 1): exponential decay at 2 of 2 lengths "
        "and positions, -0.250 ± 0.020 to -0.200 ± 0.010 ln per position; with forget bias 3: neither an "
        "exponential nor a power law at 2 of 3 lengths and positions (n = 64 at 63, n = 128 at 127), and no "
        "decay at 1 of 3 lengths and positions (n = 256 at 255), -0.0010 ± 0.0020 ln per position"
    )
    assert "convs2s: power decay (n = 64 at 63), -0.50 ± 0.10 ln per ln distance" in found.conditions


def test_seeds_of_a_trained_model_are_told_together():
    flat, other = ("none", -0.001, 0.002), ("none", 0.003, 0.001)
    found = finding(
        "I.2",
        [
            signal(RECURRENT, ("exponential", -0.2, 0.01)),
            signal("lstm on recall, seed 0", flat),
            signal("lstm on recall, seed 1", other),
            signal("lstm on agreement, seed 0", other),
        ],
    )
    assert found.conditions[:2] == (
        "lstm on recall: no decay with 2 of 2 seeds (n = 64 at 63), -0.0010 ± 0.0020 to 0.0030 ± 0.0010 ln "
        "per position",
        "lstm on agreement: no decay (n = 64 at 63), 0.0030 ± 0.0010 ln per position",
    )


def test_attention_that_becomes_slower_below_the_width_is_not_called_faster():
    """Where no length between the last faster one and the width was timed."""
    found = finding("S4.6", records(seconds={ATTENTION: lambda n, d: 1e-9 * 7.5 * n * n * d}))
    assert found.verdict == UNDECIDED
    assert "faster at 5 of 5 points with n < d (up to n = 0.5 d), slower at 0" in found.effect
    assert "; not decided: from where on it is slower may lie below d, between lengths: 51 " in found.effect


def test_no_length_is_long_where_time_does_not_grow():
    launches = {ATTENTION: lambda n, d: 1e-3, TIMED_RESTRICTED: lambda n, d: 2e-3}
    found = finding("S4.8", records(seconds=launches))
    assert found.verdict == UNDECIDED
    assert "no length is long where operations do not take the time" in found.effect


def test_what_else_tells_layers_apart_is_said():
    assert finding("S4.1", records()).conditions[:-1] == (
        "sequential operations and longest path alone tell these layers apart, too",
        "contiguous convolution, k = 3 grows with n as restricted self-attention, r = 8 does, in all three",
        "separable convolution, k = 3 grows with n as restricted self-attention, r = 8 does, in all three",
    )


@pytest.mark.parametrize("power", [1, 2, 3])
def test_convolutions_that_are_centred(power):
    """What the claims say of them, by taps that are followed one by one."""
    n, k = 3**power, 3
    offsets = {"centred": (-1, 0, 1), "causal": (-2, -1, 0)}

    def connects(side, dilations):
        reached = {n - 1, 0} if side == "centred" else {n - 1}
        found = []
        for start in reached:
            seen = {start}
            for dilation in dilations:
                seen = {at + tap * dilation for at in seen for tap in offsets[side]} & set(range(n))
            found.append(n - 1 - start in seen)
        return all(found)

    dilated = [k**layer for layer in range(power)]
    assert connects("causal", dilated[::-1]) and connects("causal", dilated)
    for more in range(4):
        longer = [k**layer for layer in range(power + more)]
        assert not connects("centred", longer) and not connects("centred", longer[::-1])
    for side, layers in (("causal", math.ceil((n - 1) / (k - 1))), ("centred", n - 1)):
        assert connects(side, [1] * layers) and not connects(side, [1] * (layers - 1))


def test_claims_that_follow_from_how_layers_are_built_are_counted_apart():
    ledger = findings(Facts(records()))
    assert count_of(ledger) == (
        "12 follow from how layers are built, and are checked: 12 supported; 8 are decided by measurements: "
        "4 supported, 4 not decidable here"
    )
    for claim, found in ledger:
        checked = "it follows from how layers are built: measuring checks it" in claim.notes(found)
        assert checked == (claim.number not in (*NEEDS_TRAINING, "S4.6", "S4.7", "S4.8", "I.2"))


def test_claims_of_cost_say_what_the_measure_of_the_other_gives():
    """S4.10 is decided by constants, S4.12 by growth."""
    dear = {RECURRENT: lambda n, d: 8 * n * d * d}
    by_constants = finding("S4.10", records(mixing=dear))
    assert by_constants.verdict == CONTRADICTED
    assert by_constants.conditions[0].startswith("by growth alone, which decides S4.12: supported, ")
    by_growth = finding("S4.12", records())
    assert by_growth.verdict == SUPPORTED
    assert by_growth.conditions[0].startswith("by constants, which decide S4.10: contradicted; with the proj")
    assert ": contradicted, 0." in by_growth.conditions[0]


def test_the_order_of_records_changes_no_verdict():
    expected = {n: finding(n, records()) for n in BY_NUMBER}
    for seed in range(5):
        some = records()
        random.Random(seed).shuffle(some)
        assert {n: finding(n, some) for n in BY_NUMBER} == expected


@pytest.mark.parametrize(
    ("number", "world", "verdict", "says"),
    [
        ("S4.3", {"kernel_depth": {ATTENTION: lambda n: 60 + math.log2(n)}}, UNDECIDED, "self-attention (6"),
        (
            "I.5",
            {"training_depth": {"transformer": lambda n: 50 if n == 8 else 10}},
            CONTRADICTED,
            "10/50/10",
        ),
        ("I.3", {"layers": {CONVOLUTION: lambda n: 1}}, CONTRADICTED, "connects all positions at 16/"),
        ("I.4", {"layers": {ATTENTION: lambda n: 3}}, CONTRADICTED, "at most 3; hops: at most 1"),
    ],
)
def test_one_length_that_is_off_shows(number, world, verdict, says):
    found = finding(number, records(**world))
    assert found.verdict == verdict, found.effect
    assert says in found.effect


def test_exponents_and_terms_of_known_laws():
    assert exponent({n: 3 * n**1.5 for n in (2, 4, 8)}) == pytest.approx(1.5)
    points = {(n, d): 4 * n * n * d + 8 * n * d * d for n in (16.0, 64.0) for d in (32.0, 64.0)}
    assert two_terms(points) == pytest.approx((4, 8, 0), abs=1e-9)
    with pytest.raises(Missing, match="fewer than 2"):
        exponent({4: 1.0})


def times(law, noise=lambda number: 1.0):
    return [
        row("seconds", law(n), samples=[law(n) * noise(number) for number in range(9)], n=n)
        for n in (16, 64, 256, 1024)
    ]


def test_a_crossover_lies_where_the_times_are_equal():
    linear, square = times(lambda n: 100.0 * n), times(lambda n: float(n * n))
    assert crossover(square, linear).value == pytest.approx(100)
    assert crossover(square, linear).words == "100 (100 to 100)"
    assert crossover(linear, linear).words == "above 1,024"
    assert crossover(times(lambda n: 2.0 * n), times(lambda n: 1.0 * n)).words == "below 16"
    with pytest.raises(Missing, match="fewer than 2 lengths"):
        crossover(square[:1], linear)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_interval_of_a_crossover_holds_it_as_often_as_it_says(noise):
    """Simulated: order statistics of 9 rounds hold the median in 96.1 % of worlds."""
    random_number = random.Random(f"crossover {noise}")
    held = []
    for _ in range(600):
        true = math.exp(random_number.uniform(math.log(40), math.log(700)))
        drift = [random_number.gauss(0, noise) for _ in range(9)]
        noisy = lambda number: math.exp(random_number.gauss(drift[number], noise))  # noqa: B023, E731
        square, linear = times(lambda n: float(n * n), noisy), times(lambda n: true * n, noisy)  # noqa: B023
        found = crossover(square, linear)
        held.append(found.low <= true <= found.high)
    assert 0.93 <= sum(held) / len(held) <= 0.98


def test_rounds_that_agree_have_an_interval_of_no_width():
    slope = time_exponent(times(lambda n: float(n)))
    assert slope.low == slope.high == slope.value == pytest.approx(1)


def test_drift_that_both_share_moves_no_crossover_and_no_ratio():
    drifting = lambda number: 1.0 + 0.2 * number  # noqa: E731
    found = crossover(times(lambda n: float(n * n), drifting), times(lambda n: 100.0 * n, drifting))
    assert (found.low, found.high) == pytest.approx((100, 100))
    slope = time_exponent(times(lambda n: float(n * n), drifting))
    assert (slope.value, slope.low, slope.high) == pytest.approx((2, 2, 2))
