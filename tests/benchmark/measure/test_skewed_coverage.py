"""The page on statistics tells what simulation gives, and the simulation is of what the reports do."""

import math
import re

import numpy as np
import pytest

from benchmark.config import ROOT
from benchmark.measure.significance import (
    minimum_detectable_difference,
    seeds_to_decide,
    seeds_to_see,
    sign_flip_p,
    summarise,
)
from tests.benchmark.measure.skewed_coverage import (
    DISTRIBUTIONS,
    SEEDS,
    coverage,
    half_widths,
    sign_flip_errors,
    table_lines,
)

PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8").split("\n")


def numbers(line):
    return [float(part) for part in re.findall(r"(?<=\| )[\d.]+(?= )", line)]


def test_the_page_has_the_numbers_that_are_measured():
    for line in filter(None, table_lines()):
        name = line.split("|")[1]
        there = [one for one in PAGE if one.split("|")[1:2] == [name]]
        # another version of numpy may draw other numbers
        assert any(numbers(one) == pytest.approx(numbers(line), abs=1.0) for one in there), line


def test_the_page_has_the_seeds_that_are_needed_and_what_they_detect():
    text = "\n".join(PAGE)
    pairs, seeds, *_ = (
        numbers(line) for line in PAGE if re.match(r"\| (pairs in the family|seeds) \| [16] ", line)
    )
    assert [seeds_to_decide(int(one)) for one in pairs] == seeds
    few = (6, 7, 8, 10, 15, 20)
    assert f"| seeds | {' | '.join(map(str, few))} |" in text
    some = (0.5, 0.75, 1, 1.5, 2, 3)
    assert f"| difference | {' | '.join(map(str, some))} |" in text
    for family, pairs in ((1, "one pair"), (3, "three pairs")):
        detectable, needed = (line for line in PAGE if line.startswith(f"| {pairs}"))
        found = [minimum_detectable_difference(1.0, n, family=family) for n in few]
        assert numbers(detectable) == pytest.approx([one for one in found if one < math.inf], abs=0.02)
        assert numbers(needed) == [seeds_to_see(one, 1.0, family=family) for one in some]


def test_the_simulation_is_of_our_interval_and_test():
    values = np.random.default_rng(1).lognormal(0, 1, (20, 6))
    assert half_widths(values) == pytest.approx([summarise(list(row)).half_width for row in values])
    draws = DISTRIBUTIONS["exponential"](np.random.default_rng(6), (300, 6))
    found = np.mean([sign_flip_p(list(row)) <= 0.05 for row in draws])
    assert sign_flip_errors("exponential", 6, trials=300) == pytest.approx(found)


@pytest.mark.parametrize("seeds", SEEDS)
def test_the_interval_covers_as_it_says_for_normal_data_and_not_for_skewed(seeds):
    assert 0.93 <= coverage("normal", seeds) <= 0.97
    assert coverage("log-normal, sigma 1", seeds) < 0.9
