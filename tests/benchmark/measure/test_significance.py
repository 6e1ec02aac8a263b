"""Statistics against printed tables, other software, enumeration by hand, and simulation."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from benchmark.measure.significance import (
    compare_pairs,
    holm,
    minimum_detectable_difference,
    probability_of_more,
    seeds_to_decide,
    seeds_to_see,
    sign_flip_p,
    smallest_sign_flip_p,
    summarise,
)


@pytest.mark.parametrize(
    ("number", "quantile"), [(2, 12.706), (3, 4.303), (4, 3.182), (6, 2.571), (11, 2.228), (31, 2.042)]
)
def test_half_width_uses_the_printed_quantile(number, quantile):
    values = [10.0 + 2 * (i % 2) for i in range(number)]
    summary = summarise(values)
    assert summary.number_of_seeds == number
    assert summary.half_width == pytest.approx(
        quantile * summary.standard_deviation / math.sqrt(number), rel=2e-4
    )


def test_mean_and_deviation_of_the_sample():
    summary = summarise([1.0, 2.0, 4.0])
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.standard_deviation == pytest.approx(math.sqrt(7 / 3))


def test_other_confidence():
    # t(0.95, 2) = 2.920
    assert summarise([0.0, 1.0, 2.0], confidence=0.90).half_width == pytest.approx(
        2.920 / math.sqrt(3), rel=2e-4
    )


def test_one_seed_has_no_spread():
    summary = summarise([3.5])
    assert (summary.mean, summary.standard_deviation, summary.half_width) == (3.5, None, None)


@pytest.mark.parametrize("seeds", [3, 5, 6, 7, 10])
def test_interval_covers_the_mean_as_often_as_it_says(seeds):
    random = np.random.default_rng(seeds)
    trials = [summarise(list(random.normal(0, 1, seeds))) for _ in range(2000)]
    covered = sum(abs(trial.mean) <= (trial.half_width or 0) for trial in trials)
    assert 0.93 <= covered / len(trials) <= 0.97


@pytest.mark.parametrize("seeds", [6, 7, 10])
@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "laplace"])
def test_sign_flips_are_right_as_often_as_they_say_when_nothing_differs(seeds, draw):
    """At most 5 % false positives, whatever the distribution, as long as it is symmetric."""
    random = np.random.default_rng(seeds)
    trials = getattr(random, draw)(size=(3000, seeds))
    false_positives = np.mean([sign_flip_p(list(trial)) <= 0.05 for trial in trials])
    assert 0.015 < false_positives <= 0.06


@pytest.mark.parametrize("seeds", [1, 2, 3, 6, 9])
def test_sign_flips_are_enumerated(seeds):
    random = np.random.default_rng(seeds)
    # Small integers, so that many patterns tie with what was seen.
    for differences in ([float(x) for x in random.integers(-3, 5, seeds)], list(random.normal(1, 1, seeds))):
        patterns = list(itertools.product((1, -1), repeat=seeds))
        seen = abs(math.fsum(differences))
        count = 0
        for pattern in patterns:
            total = abs(math.fsum(s * d for s, d in zip(pattern, differences, strict=True)))
            count += total >= seen or math.isclose(total, seen)
        assert sign_flip_p(differences) == pytest.approx(count / len(patterns))


def test_sign_flips_are_those_of_scipy():
    differences = list(np.random.default_rng(0).normal(0.6, 1, 10))
    found = scipy.stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=5000
    )
    assert sign_flip_p(differences) == pytest.approx(found.pvalue)


def test_no_difference_is_no_evidence():
    assert sign_flip_p([0.0, 0.0, 0.0]) == 1.0


@pytest.mark.parametrize("seeds", [21, 30, 60])
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_flips_of_many_pairs_are_drawn(seeds, shift):
    """Against scipy's own drawing, and never 0."""
    differences = np.random.default_rng(seeds).normal(shift, 1.0, seeds)
    expected = scipy.stats.permutation_test(
        (differences, np.zeros(seeds)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        n_resamples=50_000,
        vectorized=True,
        rng=np.random.default_rng(1),
    ).pvalue
    assert sign_flip_p(differences.tolist()) == pytest.approx(expected, abs=0.01)
    assert sign_flip_p(differences.tolist()) >= 1 / 100_001


def test_a_pair_with_fewer_seeds_is_decided_where_the_others_leave_it_room():
    """Each of two models has lost a run: seven, seven and six seeds in common."""
    first = [30.0, 30.2, 30.1, 30.4, 30.3, 30.6, 30.5]
    second, third = [one - 1 for one in first], [one + 1.01 for one in first]
    clear = compare_pairs([(first, second), (first, third), (second[:6], third[:6])])
    assert [one.p_adjusted for one in clear] == pytest.approx([0.046875, 0.046875, 0.046875])
    assert [one.words() for one in clear] == ["first higher", "second higher", "second higher"]
    level = [one + 0.1 * (-1) ** place for place, one in enumerate(first)]
    unclear = compare_pairs([(first, level), (first, level), (second[:6], third[:6])])
    assert unclear[2].words() == "undecidable with 6 seeds (needs 7)"
    assert unclear[0].words() == "not distinguishable with 7 seeds"


@pytest.mark.parametrize("seeds", range(1, 9))
def test_the_smallest_p_is_that_of_equal_signs(seeds):
    assert sign_flip_p([0.5 + i for i in range(seeds)]) == smallest_sign_flip_p(seeds)


def test_a_pair_needs_six_seeds_and_three_pairs_seven():
    assert (seeds_to_decide(), seeds_to_decide(family=3)) == (6, 7)


def test_holm_against_a_worked_example():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("wins", "seeds"), [(0, 5), (3, 5), (5, 5), (7, 10)])
def test_the_interval_of_a_share_is_that_of_scipy(wins, seeds):
    first = [1.0] * wins + [-1.0] * (seeds - wins)
    found = probability_of_more(first, [0.0] * seeds)
    expected = scipy.stats.binomtest(wins, seeds).proportion_ci(method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((wins / seeds, expected.low, expected.high))


def test_a_tie_counts_half_and_widens_the_interval():
    found = probability_of_more([1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    assert found.value == pytest.approx(0.5)
    few = scipy.stats.binomtest(1, 3).proportion_ci(method="exact").low
    many = scipy.stats.binomtest(2, 3).proportion_ci(method="exact").high
    assert (found.low, found.high) == pytest.approx((few, many))


@pytest.mark.parametrize(("seeds", "family"), [(6, 1), (7, 1), (7, 3), (9, 3), (10, 6), (12, 3)])
def test_the_detectable_difference_is_the_one_that_is_detected(seeds, family):
    found = minimum_detectable_difference(2.0, seeds, family=family)
    samples = np.random.default_rng(seeds).normal(found, 2.0, (600, seeds))
    seen = [sign_flip_p(list(differences)) * family <= 0.05 for differences in samples]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("seeds", "family"), [(6, 1), (7, 3), (8, 6)])
def test_where_all_signs_have_to_agree_the_detectable_difference_follows_from_the_normal_distribution(
    seeds, family
):
    exact = scipy.stats.norm.ppf(0.8 ** (1 / seeds))
    assert minimum_detectable_difference(1.0, seeds, family=family) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(("seeds", "effect"), [(15, 0.7789), (20, 0.6604)])
def test_with_many_seeds_the_detectable_difference_is_that_of_a_t_test(seeds, effect):
    """Of R's power.t.test(n, sd = 1, power = 0.8, type = "paired")."""
    assert minimum_detectable_difference(1.0, seeds) == pytest.approx(effect, rel=2e-3)


def test_seeds_to_see_a_difference():
    assert minimum_detectable_difference(1.0, 1) == math.inf
    assert minimum_detectable_difference(1.0, 6, family=3) == math.inf, "none is decided"
    needed = seeds_to_see(0.8, 1.0) or 0
    assert minimum_detectable_difference(1.0, needed) <= 0.8 < minimum_detectable_difference(1.0, needed - 1)
    assert seeds_to_see(-100.0, 1.0) == 6, "no test of fewer seeds can decide anything"
    assert seeds_to_see(100.0, 1.0, family=3) == 7
    assert seeds_to_see(0.001, 1.0) is None


def test_a_comparison_says_what_its_seeds_allow():
    three, seven = [1.0, 1.1, 1.2], [1.0, 1.3, 0.9, 1.2, 1.1, 1.0, 1.4]
    (few,) = compare_pairs([([v + 5 for v in three], three)])
    assert few.words() == "undecidable with 3 seeds (needs 6)"
    assert not few.different and few.mean_difference == pytest.approx(5)
    better = [v + 1 + 0.1 * (i % 3) for i, v in enumerate(seven)]
    close = [v + 0.5 * (-1) ** i for i, v in enumerate(seven)]
    found = compare_pairs([(better, seven), (seven, better), (close, seven)])
    assert [one.words() for one in found] == [
        "first higher", "second higher", "not distinguishable with 7 seeds",
    ]  # fmt: skip
    assert found[0].p == 2 / 2**7
    assert found[0].p_adjusted == pytest.approx(3 * found[0].p)
    assert found[0].first_better.value == 1.0
    expected = scipy.stats.ttest_rel(better, seven).confidence_interval()
    assert found[0].mean_difference - (found[0].half_width or 0) == pytest.approx(expected.low)
    assert found[0].mean_difference + (found[0].half_width or 0) == pytest.approx(expected.high)
    (alone,) = compare_pairs([([1.0], [0.0])])
    assert alone.half_width is None and alone.minimum_detectable_difference == math.inf
    assert alone.words() == "undecidable with 1 seed (needs 6)"


def test_equal_values_of_all_seeds_are_no_difference():
    (found,) = compare_pairs([([1.0] * 7, [1.0] * 7)])
    assert found.words() == "not distinguishable with 7 seeds"
    assert found.minimum_detectable_difference == 0.0
