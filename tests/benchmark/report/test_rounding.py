"""Digits follow the spread."""

import math

import pytest

from benchmark.report.rounding import count, with_half_width, with_interval, without_spread


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (34.9134, 0.5234, "34.91 ± 0.52"),
        (34.9134, 5.234, "34.9 ± 5.2"),
        (34.9134, 52.34, "35 ± 52"),
        (34.9134, 523.4, "30 ± 520"),
        (34.9134, 0.00523, "34.9134 ± 0.0052"),
        (34.9134, 0.0999, "34.91 ± 0.10"),
        (34.9134, 9.96, "35 ± 10"),
        (34.9134, 0.0, "34.91 ± 0.00"),
        (34.9134, 1e-12, "34.913400 ± 0.000000"),
        (0.0, 0.5, "0.00 ± 0.50"),
        (-0.001, 0.5, "0.00 ± 0.50"),
        (-3.21, 0.5, "-3.21 ± 0.50"),
        (2508.3, 31.0, "2,508 ± 31"),
        (2508.3, 310.0, "2,510 ± 310"),
        (1234567.0, 3456.0, "1,234,600 ± 3,500"),
        (1.0, math.inf, "1.00 ± inf"),
    ],
)
def test_a_value_is_rounded_where_its_half_width_has_two_digits(value, half_width, text):
    assert with_half_width(value, half_width) == text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (34.9134, 34.39, 35.4368, "34.91 (34.39 to 35.44)"),
        (1.41, 1.28, 1.552, "1.41 (1.28 to 1.55)"),
        (2508.3, 2190.0, 2811.0, "2,510 (2,190 to 2,810)"),
        (0.0, -0.5, 12.0, "0.0 (-0.5 to 12.0)"),
    ],
)
def test_the_ends_of_an_interval_have_as_many_decimals_as_its_value(value, low, high, text):
    assert with_interval(value, low, high) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (34.9134, "34.9"),
        (99.96, "100"),
        (100.00000000000004, "100"),
        (2508.3, "2,510"),
        (0.001234, "0.00123"),
        (0.0, "0"),
        (-0.0, "0"),
        (1e-12, "0.000000"),
        (7.0, "7.00"),
        (1234567.0, "1,230,000"),
        (math.inf, "inf"),
    ],
)
def test_a_value_of_unknown_spread_keeps_three_digits(value, text):
    assert without_spread(value) == text


@pytest.mark.parametrize(("value", "text"), [(12345, "12,345"), (7.0, "7"), (7.5, "7.5"), (0, "0")])
def test_counts_are_exact(value, text):
    assert count(value) == text
