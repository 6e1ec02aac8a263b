"""Comparisons of time: drift cancels, intervals cover, ratios invert."""

from __future__ import annotations

import math
import random
import time

import pytest
import torch

from benchmark.config import ROOT
from benchmark.measure.timing import Clock, drift, interleaved, median, ratio, steady_from


def test_a_clock_measures_what_passes() -> None:
    clock = Clock(torch.device("cpu"))
    begin = clock.mark()
    time.sleep(0.02)
    assert clock.seconds(begin, clock.mark()) >= 0.02


class FakeDevice:
    """Works behind the program's back, one thing after another, and has events in its queue."""

    def __init__(self) -> None:
        self.free_at = 0.0

    def launch(self, seconds: float) -> None:
        self.free_at = max(self.free_at, time.perf_counter()) + seconds

    def event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.at, self.passed = device, math.nan, False

    def record(self) -> None:
        self.at = max(self.device.free_at, time.perf_counter())

    def synchronize(self) -> None:
        time.sleep(max(0.0, self.at - time.perf_counter()))
        self.passed = True

    def elapsed_time(self, end: FakeEvent) -> float:
        if not end.passed:
            raise RuntimeError("not ready")  # as CUDA says of an event that the device has not come to
        return 1000 * (end.at - self.at)


def test_a_device_that_works_behind_the_program_s_back_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    clock = Clock(torch.device("cuda"))
    assert clock.name == "torch.cuda.Event"
    device.launch(0.05)  # of someone before: it is not to count
    begin = clock.mark()
    device.launch(0.2)
    end = clock.mark()
    before = time.perf_counter()
    assert before < device.free_at, "the program is ahead of the device"
    found = clock.seconds(begin, end)
    assert found == pytest.approx(0.2)
    assert time.perf_counter() >= device.free_at


def test_every_contestant_takes_part_in_every_round_in_changing_order() -> None:
    seen: list[tuple[int, str]] = []

    def contestant(name: str):
        def work(number: int) -> float:
            seen.append((number, name))
            return float(number)

        return work

    names = ["a", "b", "c"]
    seconds = interleaved({name: contestant(name) for name in names}, rounds=20, warmup=2, seed=1)
    assert seconds == {name: [float(number) for number in range(20)] for name in names}
    rounds = [tuple(name for _, name in seen[at : at + 3]) for at in range(0, len(seen), 3)]
    assert len(rounds) == 22
    assert all(set(order) == set(names) for order in rounds)
    assert len(set(rounds)) > 3


def test_drift_cancels_where_rounds_are_interleaved_and_not_in_sequence() -> None:
    now = [0.0]

    def timed(cost: float):
        def work(_: int) -> float:
            now[0] += 1
            return cost * (1 + now[0] / 50)  # a machine that slows down steadily

        return work

    seconds = interleaved({"a": timed(1.0), "b": timed(1.2)}, rounds=40, warmup=0, seed=0)
    found = ratio(seconds["b"], seconds["a"])
    assert found.low < 1.2 < found.high
    assert found.high - found.low < 0.02
    now[0] = 0.0
    a, b = timed(1.0), timed(1.2)
    first = [a(0) for _ in range(40)]
    in_sequence = ratio([b(0) for _ in range(40)], first)
    assert in_sequence.low > 1.4


def test_a_ratio_inverts() -> None:
    source = random.Random(0)
    a = [source.uniform(1, 2) for _ in range(9)]
    b = [source.uniform(2, 3) for _ in range(9)]
    forward, backward = ratio(a, b), ratio(b, a)
    assert forward.value == pytest.approx(1 / backward.value)
    assert forward.low == pytest.approx(1 / backward.high)


@pytest.mark.parametrize("rounds", [7, 9, 15])
def test_equal_contestants_differ_five_times_in_a_hundred_at_most(rounds) -> None:
    """In as many rounds as layers are timed for, and models."""
    source = random.Random(1)
    wrong = 0
    for _ in range(2000):
        drift = [source.uniform(0.8, 1.25) for _ in range(rounds)]
        a, b = ([one * source.lognormvariate(0, 0.05) for one in drift] for _ in range(2))
        found = ratio(a, b)
        wrong += not found.low <= 1 <= found.high
    assert wrong / 2000 <= 0.06


@pytest.mark.parametrize(("rounds", "exact"), [(7, 0.984), (9, 0.961), (15, 0.965)])
def test_the_interval_of_a_median_covers_it(rounds, exact) -> None:
    """As often as the binomial distribution says: ranks are whole, and 95 % is none of their values."""
    source = random.Random(2)
    inside = 0
    for _ in range(4000):
        found = median([source.expovariate(1.0) for _ in range(rounds)])
        inside += found.low <= 0.6931 <= found.high
    assert inside / 4000 == pytest.approx(exact, abs=0.01)
    page = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")
    assert f"{exact:.1%} with {rounds}".replace("%", " %") in page


def test_the_interval_of_a_median_is_that_of_the_tables() -> None:
    """Ranks 2 and 9 of ten values, 4 and 12 of fifteen (order statistics at 95 %)."""
    assert (median(range(1, 11)).low, median(range(1, 11)).high) == (2, 9)
    assert (median(range(1, 16)).low, median(range(1, 16)).high) == (4, 12)


def test_drift_is_found_and_its_interval_covers_it() -> None:
    exact = drift([1.0 * 1.02**number for number in range(11)])
    assert exact.value == pytest.approx(1.02**10)
    assert exact.low == pytest.approx(exact.high)
    source = random.Random(3)
    covered = none = 0
    for _ in range(1000):
        noise = [source.lognormvariate(0, 0.05) for _ in range(15)]
        steady = drift(noise)
        none += steady.low <= 1 <= steady.high
        slower = drift([one * 1.3 ** (number / 14) for number, one in enumerate(noise)])
        covered += slower.low <= 1.3 <= slower.high
    assert 930 <= none <= 970
    assert covered == none


def even(source: random.Random) -> float:
    return source.lognormvariate(0, 0.03)


def heavy_tailed(source: random.Random) -> float:
    """Student's t with 3 degrees of freedom, on logarithms."""
    return math.exp(0.03 * source.gauss(0, 1) / math.sqrt(source.gammavariate(1.5, 2) / 3))


def seldom_slow(source: random.Random) -> float:
    """One timing in twenty takes up to twice as long."""
    return source.lognormvariate(0, 0.03) * (1 + (source.random() < 0.05) * source.random())


@pytest.mark.parametrize("rounds", [7, 9, 15])
@pytest.mark.parametrize(("noise", "most"), [(even, 0.97), (heavy_tailed, 0.97), (seldom_slow, 0.99)])
@pytest.mark.parametrize("true", [1.0, 1.3])
def test_ratios_cover_under_drift_and_heavy_tails(noise, most, true, rounds) -> None:
    """On a machine whose speed wanders, as docs/statistics.md says: contestants that are alike differ in 6 %
    at most. A timing that is seldom slow widens an interval more than it moves the mean.
    """
    source = random.Random(5)
    covered = 0
    for _ in range(2000):
        level, a, b = 1.0, [], []
        for _ in range(rounds):
            level *= source.lognormvariate(0, 0.1)
            a.append(true * level * noise(source))
            b.append(level * noise(source))
        found = ratio(a, b)
        covered += found.low <= true <= found.high
    assert 0.94 <= covered / 2000 <= most


def noisy(values, seed=0):
    source = random.Random(seed)
    return [value * source.lognormvariate(0, 0.02) for value in values]


@pytest.mark.parametrize(
    ("series", "first"),
    [
        ([1.0] * 40, range(1)),
        ([1.0 + 0.2 * (number % 4) for number in range(40)], range(1)),
        ([2.0] * 8 + [1.0] * 32, range(4, 9)),
        ([1.0 + 4.0 * 0.7**number for number in range(40)], range(5, 17)),
        ([1.0 + 0.05 * number for number in range(40)], None),
        ([1.0] * 30 + [2.0] * 10, None),
    ],
    ids=["flat", "saw", "step", "warm-up", "ramp", "late step"],
)
def test_warm_up_is_found_and_so_is_that_nothing_settles(series, first) -> None:
    for seed in range(20):
        found = steady_from(noisy(series, seed))
        assert found in first if first is not None else found is None
