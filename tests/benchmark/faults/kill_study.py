"""Kills a study of twelve cells at seeded moments and checks that nothing of it is lost or done twice.

    python -m tests.benchmark.faults.kill_study [--kills 50] [--seed 0]

The study runs once undisturbed. Then it is started again and again, and killed outright each time: the worker
alone, whose run has to notice, or the worker with all that it has started. In the end its records must be
those of the undisturbed one in every field that does not depend on time. Takes some ten minutes on two
cores.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmark.config import ROOT
from benchmark.record import TrainRecord, read_record

CELLS = 12
FIRST_SECONDS = 0.2
"""Before which no worker is killed by plan."""
STUDY = [
    "model=transformer-small,lstm-small,convs2s-small", "task=reverse", "seed=0,1,2,3",
    "task.train_pairs=2000", "task.validation_pairs=50", "task.test_pairs=50",
    "data.batch_tokens=400", "training.steps=60", "training.validations=6", "training.precision=float32",
    "training.average_checkpoints=2",
]  # fmt: skip


def start(results: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SEQBENCH_DATA": ""}
    options = ["--results", str(results), "--study", "s", "--wandb", "disabled", "--device", "cpu"]
    options += ["--threads", "1"]  # cells side by side, each in its own process
    results.mkdir(exist_ok=True)
    with open(results / "said.txt", "wb") as said:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmark", "run", *STUDY, *options],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )


def identity(record: TrainRecord) -> dict[str, Any]:
    """What must not depend on how often the study was killed."""
    return {
        "status": record.status,
        "loss_curve": record.loss_curve_sha256,
        "weights": record.weights_sha256,
        "batches": record.batch_stream_sha256,
        "hypotheses": record.hypotheses_sha256,
        "scores": [(one.split, one.metric, one.value) for one in record.scores],
        "curve": [(point.step, point.validation_loss) for point in record.curve],
    }


def identities(results: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in results.glob("s/runs/*/record.json"):
        record = read_record(path)
        assert isinstance(record, TrainRecord)
        found[record.run_id] = identity(record)
    return found


def record_hashes(results: Path) -> dict[str, str]:
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in results.glob("s/runs/*/record.json")
    }


def wait(worker: subprocess.Popen[bytes], seconds: float, results: Path, records: float) -> int | None:
    """Until `seconds` are over, or a record makes them so many `records`; None, or the exit code of a worker
    that ended by itself.
    """

    def there() -> int:
        return len(list(results.glob("s/runs/*/record.json")))

    begin, before = time.perf_counter(), there()
    while time.perf_counter() - begin < seconds and worker.poll() is None:
        if before < (now := there()) and now >= records:
            break
        time.sleep(0.02)
    return worker.poll()


def kill(worker: subprocess.Popen[bytes], *, whole: bool) -> None:
    """The worker alone, or it and everything below it, in the order of a power cut: none is told."""
    with contextlib.suppress(psutil.NoSuchProcess):
        below = psutil.Process(worker.pid).children(recursive=True) if whole else []
        worker.send_signal(signal.SIGKILL)
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    worker.wait()


def main(kills: int, seed: int) -> int:
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, killed = Path(folder) / "undisturbed", Path(folder) / "killed"
        begin = time.perf_counter()
        worker = start(undisturbed)
        while worker.poll() is None and not list(undisturbed.glob("s/runs/*/checkpoints/*")):
            time.sleep(0.05)
        first_checkpoint = time.perf_counter() - begin
        if worker.wait() != 0:
            sys.stderr.write("the undisturbed study did not end well\n")
            return 1
        whole = time.perf_counter() - begin
        expected = identities(undisturbed)
        assert len(expected) == CELLS
        complete: dict[str, str] = {}
        done = resumed = 0
        while done < kills:
            # Half of the kills come while runs start, half while they train: spread over what is left of the
            # study, so that it is nearly done at the last kill and not before.
            to_train = (1 - len(complete) / CELLS) * (whole - first_checkpoint)
            limit = 1 + (CELLS - 2) * (done + 1) / kills
            moment = source.uniform(FIRST_SECONDS, first_checkpoint)
            if source.random() < 0.5 and len(complete) < limit:
                moment = first_checkpoint + source.uniform(0.0, to_train / (kills - done))
            worker = start(killed)
            # On a machine that has grown faster, too, the last kill comes before the end.
            code = wait(worker, moment, killed, limit)
            if code is not None:
                said = (killed / "said.txt").read_text(encoding="utf-8", errors="replace")
                sys.stderr.write(f"the worker ended by itself with code {code}:\n{said}")
                return 1
            kill(worker, whole=source.random() < 0.5)
            done += 1
            now = record_hashes(killed)
            changed = [run for run, digest in complete.items() if now.get(run) != digest]
            if changed:
                sys.stderr.write(f"after kill {done}: complete records changed: {', '.join(changed)}\n")
                return 1
            complete = now
            sys.stderr.write(f"\rkill {done} of {kills}, {len(complete)} of {CELLS} runs complete ")
        sys.stderr.write("\n")
        code = start(killed).wait()
        found = identities(killed)
        for path in killed.glob("s/runs/*/record.json"):
            record = read_record(path)
            assert isinstance(record, TrainRecord)
            resumed += record.resumed_times
        differing = [run for run in expected if found.get(run) != expected[run]]
        left = [path.parent.name for path in killed.glob("s/runs/*/lease.json")]
        sys.stdout.write(
            f"{done} kills, seed {seed}: {len(found)} of {CELLS} runs, {resumed} resumptions, "
            f"{len(differing)} differ from the undisturbed study, {len(left)} leases are left; exit code "
            f"{code}\n"
        )
        return int(code != 0 or bool(left) or is_broken(expected, found, resumed))


def is_broken(
    expected: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], resumptions: int
) -> bool:
    """Whether the kills have changed or lost something, or none of them was in the middle of a run."""
    return found != expected or resumptions == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(main(**vars(parser.parse_args())))
