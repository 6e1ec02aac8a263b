"""Intervals over seeds against printed tables of Student's t."""

import math

import pytest

from benchmark.measure.significance import summarise


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


def test_interval_covers_the_mean_as_often_as_it_says():
    import numpy as np

    random = np.random.default_rng(0)
    trials = [summarise(list(random.normal(0, 1, 3))) for _ in range(2000)]
    covered = sum(abs(trial.mean) <= (trial.half_width or 0) for trial in trials)
    assert 0.93 <= covered / len(trials) <= 0.97
