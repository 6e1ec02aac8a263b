"""Leases: one holder at a time, taken over from the dead alone, however they died and wherever they lived."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from benchmark import lease
from benchmark.lease import Holder, Leases

RUN = "0123456789abcdef"


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.3)
    (tmp_path / "runs" / RUN).mkdir(parents=True)
    return tmp_path


def path(study):
    return study / "runs" / RUN / "lease.json"


def forge(study, holder, beats=3):
    path(study).write_text(json.dumps({"holder": asdict(holder), "beats": beats}))


def test_a_lease_has_one_holder_and_ends_with_its_worker(study):
    with Leases(study) as first, Leases(study) as second:
        assert first.take(RUN) is None
        seen = second.take(RUN)
        assert seen is not None and seen.who == f"process {os.getpid()} on {Holder.me().host}"
        first.release(RUN)
        assert second.take(RUN) is None
        assert first.take(RUN) is not None
    assert not path(study).exists()


def dead_process():
    child = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("forged", ["dead", "reused", "broken", "empty"])
def test_a_lease_whose_holder_is_gone_from_here_is_taken_at_once(study, forged):
    me = Holder.me()
    if forged == "dead":
        forge(study, replace(me, pid=dead_process()))
    elif forged == "reused":
        forge(study, replace(me, started=me.started - 100))
    else:
        path(study).write_text('{"holder": {"pid": 7}}' if forged == "broken" else "")
    with Leases(study) as leases:
        assert leases.take(RUN) is None


def test_leases_of_the_dead_are_cleared_and_those_of_others_stay(study):
    """A worker may be killed after the record of a run, which nobody takes up again."""
    me = Holder.me()
    forge(study, replace(me, pid=dead_process()))
    other = study / "runs" / ("f" * 16) / "lease.json"
    other.parent.mkdir()
    other.write_text(json.dumps({"holder": asdict(replace(me, kernel="another")), "beats": 3}))
    with Leases(study) as living:
        assert not path(study).exists()
        assert living.take(RUN) is None
        with Leases(study):
            assert path(study).exists()
    assert other.exists()


@pytest.mark.parametrize("forged", ["other boot", "other host", "other container"])
def test_a_silent_holder_elsewhere_is_watched_before_its_lease_is_taken(study, forged):
    me = Holder.me()
    boot, namespace = me.kernel.split(" ")
    kernel = f"{boot} pid:[1]" if forged == "other container" else f"another-boot {namespace}"
    host = "elsewhere" if forged == "other host" else me.host
    # Its process id lives here, which says nothing: it is a number of another kernel.
    forge(study, replace(me, kernel=kernel, host=host))
    with Leases(study) as leases:
        assert leases.take(RUN) is not None
        begin = time.monotonic()
        abandoned = leases.watched([RUN])
        assert time.monotonic() - begin >= lease.WATCH_SECONDS
        assert leases.take(RUN, abandoned[RUN]) is None


def test_a_holder_elsewhere_that_gives_signs_of_life_keeps_its_lease(study, monkeypatch):
    elsewhere = replace(Holder.me(), kernel="another-boot pid:[1]", host="elsewhere")
    forge(study, elsewhere)
    with Leases(study) as leases:
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda seconds: forge(study, elsewhere, beats=4))
            assert leases.watched([RUN]) == {}
        seen = leases.take(RUN)
        assert seen is not None and seen.who.endswith("on elsewhere")


def test_a_lease_that_changed_since_it_was_watched_is_left(study):
    elsewhere = replace(Holder.me(), kernel="another-boot pid:[1]")
    forge(study, elsewhere)
    with Leases(study) as leases:
        abandoned = leases.watched([RUN])
        forge(study, replace(elsewhere, token="of the worker that was faster"))
        assert leases.take(RUN, abandoned[RUN]) is not None


def test_no_clock_is_asked(study, monkeypatch):
    """A wall clock that jumps by an hour takes no lease from a living holder."""
    with Leases(study) as first, Leases(study) as second:
        assert first.take(RUN) is None
        monkeypatch.setattr(time, "time", lambda: 1e12)
        monkeypatch.setattr(psutil, "boot_time", lambda: 0.0)
        os.utime(path(study), (0, 0))
        assert second.take(RUN) is not None
        assert second.watched([RUN]) == {}


def test_a_lease_that_somebody_else_has_taken_is_given_up_and_told(study):
    lost: list[str] = []
    with Leases(study, on_loss=lost.append) as leases:
        assert leases.take(RUN) is None
        forge(study, replace(Holder.me(), token="another"))
        deadline = time.monotonic() + 30
        while not lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        leases.release(RUN)
    assert lost == [RUN]
    assert json.loads(path(study).read_text())["holder"]["token"] == "another", "theirs is left alone"


def test_a_lease_that_cannot_be_read_just_now_is_neither_taken_nor_given_up(study, monkeypatch):
    lost: list[str] = []
    with Leases(study, on_loss=lost.append) as first, Leases(study) as second:
        assert first.take(RUN) is None
        with monkeypatch.context() as patch:
            unread = Mock(side_effect=OSError(errno.EIO, "Input/output error"))
            patch.setattr(Path, "read_text", unread)
            seen = second.take(RUN)
            assert seen is not None and seen.who == "an unknown worker"
            assert second.watched([RUN]) == {}
            looked = unread.call_count
            deadline = time.monotonic() + 30
            while unread.call_count < looked + 3:  # heartbeats of the first
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert lost == []
        assert second.take(RUN) is not None
    assert not path(study).exists()


def test_the_counter_of_a_living_holder_moves(study):
    with Leases(study) as leases:
        leases.take(RUN)
        before = path(study).read_text()
        deadline = time.monotonic() + 30
        while path(study).read_text() == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _count(study, barrier, wins):
    barrier.wait()
    with Leases(study) as leases:
        if leases.take(RUN) is None:
            with wins.get_lock():
                wins.value += 1
            time.sleep(0.3)


def test_of_workers_that_start_together_one_gets_the_lease(study):
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(4), context.Value("i", 0)
    workers = [context.Process(target=_count, args=(study, barrier, wins)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert wins.value >= 1
    assert [worker.exitcode for worker in workers] == [0] * 4


def _hold(study, ready):
    with Leases(study) as leases:
        leases.take(RUN)
        ready.set()
        time.sleep(600)


def test_a_holder_that_is_killed_outright_leaves_a_lease_that_is_taken(study):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_hold, args=(study, ready))
    worker.start()
    assert ready.wait(60)
    with Leases(study) as leases:
        assert leases.take(RUN) is not None
        worker.kill()
        worker.join()
        assert leases.take(RUN) is None
