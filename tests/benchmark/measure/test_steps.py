"""Speed as run: the warm-up is left out, and a run that never settles says so."""

import random
import time

import pytest
import torch

from benchmark.measure.steps import COUNTS, WARMUP_STEPS, WINDOW_STEPS, StepLog
from benchmark.measure.timing import Clock


def log_of(seconds):
    source = random.Random(0)
    log = StepLog(Clock(torch.device("cpu")))
    log.seconds = [one * source.lognormvariate(0, 0.05) for one in seconds]
    log.warm = [number >= WARMUP_STEPS for number in range(len(seconds))]
    log.counts = {name: [100] * len(seconds) for name in COUNTS}
    return log


@pytest.mark.parametrize(
    ("seconds", "steady", "rate"),
    [
        ([0.1] * 420, True, 1000),
        ([0.2] * (WARMUP_STEPS + 5 * WINDOW_STEPS) + [0.1] * 400, True, 1000),
        ([0.1 + 0.0005 * number for number in range(420)], False, None),
        ([0.1] * (WARMUP_STEPS + 3 * WINDOW_STEPS), None, 1000),
        ([0.1] * 210 + [60.0] + [0.1] * 209, True, 1000),
    ],
    ids=["flat", "slow at first", "slower and slower", "short", "one step of a minute"],
)
def test_a_rate_is_of_the_steady_part(seconds, steady, rate):
    found = log_of(seconds).throughput()
    assert found is not None
    assert found.steady_state is steady
    assert found.warmup_steps_excluded >= WARMUP_STEPS
    if rate is not None:
        assert found.target_tokens_per_second == pytest.approx(rate, rel=0.03)
    if steady and seconds[0] > seconds[-1]:
        assert found.warmup_steps_excluded >= WARMUP_STEPS + 4 * WINDOW_STEPS


def test_no_step_lasts_less_than_nothing_when_the_wall_clock_is_set_back(monkeypatch):
    clock = Clock(torch.device("cpu"))
    assert clock.name == "time.perf_counter" and time.get_clock_info("perf_counter").monotonic
    begin = clock.mark()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.seconds(begin, clock.mark()) >= 0


def test_too_few_steps_have_no_rate():
    assert log_of([0.1] * (WARMUP_STEPS + WINDOW_STEPS)).throughput() is None
