r"""What seqbench itself costs: for each cell of a study, of very many records, and of very many pairs.

    python -m tests.benchmark.scale.measure_scale \
        [--cells 1000] [--records 100000] [--page 2000] [--pairs 5000000]

First a study of CELLS stub cells is run, whose process writes its record as soon as Python has started; what
the study takes beyond as many starts of that process on their own is the supervisor's. Then a finished study
of RECORDS records, each as large as one of Multi30k, is listed, resumed, and tabulated by the command itself.
A study of PAGE records is reported as a page with all of its runs.
Last, a task of PAIRS generated pairs is prepared, opened, and trained on for its first steps, beside one of
few pairs. A count of 0 leaves its part out. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from benchmark.config import ROOT, RunOptions
from benchmark.engines.child import failed_record
from benchmark.engines.local import LocalEngine, Supervisor, child_environment
from benchmark.record import CurvePoint, Score, TrainRecord, available_cores, processor, record_bytes
from benchmark.request import request_from
from benchmark.store import RunFolder, StudyFolder
from benchmark.study import FrozenCell, Made, Resolved, make, remaining

STUB = Path(__file__).parent
MODELS = ("transformer-small", "convs2s-small", "lstm-small")
RATES = [round(1e-3 * 1.2**power, 6) for power in range(10)]
SMOOTHING = [round(0.02 * number, 2) for number in range(10)]
ALONE = 50
"""Starts of the stub on its own."""
FEW_PAIRS, FIRST_STEPS = 20_000, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--page", type=int, default=2_000)
    parser.add_argument("--pairs", type=int, default=5_000_000)
    arguments = parser.parse_args()
    machine = f"{processor()[0]}, {available_cores()} cores, Python {platform.python_version()}"
    show("# What seqbench itself costs", "", machine, "")
    for part, count in (
        (overhead, arguments.cells),
        (many_records, arguments.records),
        (page_of_records, arguments.page),
        (many_pairs, arguments.pairs),
    ):
        if count:
            with tempfile.TemporaryDirectory() as results:
                show(*part(Path(results), count))


def show(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def study_file(results: Path, cells: int) -> Path:
    """A study of at least so many cells: models, learning rates, label smoothing, and seeds."""
    seeds = -(-cells // (len(MODELS) * len(RATES) * len(SMOOTHING)))
    path = results / "s.yaml"
    path.write_text(
        f"study: s\nmodel: [{', '.join(MODELS)}]\ntask: reverse\nseed: {list(range(seeds))}\n"
        f"training:\n  steps: 1000\n  precision: float32\n"
        f"  learning_rate: {RATES}\n  label_smoothing: {SMOOTHING}\n"
    )
    return path


def made(results: Path, cells: int) -> tuple[StudyFolder, Made]:
    folder = StudyFolder(results, "s")
    folder.prepare()
    request = request_from([str(study_file(results, cells))])
    return folder, make(request, folder, lambda asked: [Resolved(experiment=one.experiment) for one in asked])


def overhead(results: Path, count: int) -> list[str]:
    """The supervisor's share of a study of stub cells."""
    options = RunOptions(results=results, data_directory=results, device="cpu", study="s", wandb="disabled")
    folder, study = made(results, count)
    cells = study.runs[:count]
    template = results / "template.json"
    template.write_bytes(record_bytes(record_of(cells[0], options)))
    os.environ["PYTHONPATH"] = str(STUB)
    os.environ["SEQBENCH_STUB_RECORD"] = str(template)
    run = folder.run(cells[0].run_id)
    cells[0].open(run)
    alone = [_alone(run, options) for _ in range(ALONE)]
    begin = time.perf_counter()
    todo = remaining(cells, folder)
    opening = time.perf_counter() - begin
    ends = list(LocalEngine(Supervisor(), folder, options).run(todo, lambda cell: None))
    each = (time.perf_counter() - begin) / count
    assert len(ends) == count and all(end.record is not None and end.record.status == "done" for end in ends)
    alone_ms = 1e3 * statistics.median(alone)
    return [
        f"{count:,} stub cells, one after another: {1e3 * each:.1f} ms each. Their own process takes "
        f"{alone_ms:.1f} ms when it is started on its own (median of {ALONE}): "
        f"**{1e3 * each - alone_ms:.1f} ms of overhead a cell**.",
        f"To see what there is to do took {opening:.2f} s.",
        "",
    ]


def _alone(run: RunFolder, options: RunOptions) -> float:
    """Seconds of the stub without a supervisor."""
    command = [sys.executable, "-P", "-m", "benchmark", "cell", str(run.path)]
    begin = time.perf_counter()
    subprocess.run(command, env=child_environment(options, os.environ), check=True)
    seconds = time.perf_counter() - begin
    run.record_path.unlink()
    return seconds


def finished(results: Path, count: int) -> tuple[int, int]:
    """A study of so many records, written; how many there are, and their bytes."""
    options = RunOptions(results=results, data_directory=results, device="cpu", study="s", wandb="disabled")
    folder, study = made(results, count)
    templates: dict[str, TrainRecord] = {}
    written = 0
    for cell in study.runs:
        seed, run = cell.experiment.seed, folder.run(cell.run_id)
        template = templates.get(cell.model_preset) or record_of(cell, options)
        templates[cell.model_preset] = template
        own = {"run_id": cell.run_id, "seed": seed, "experiment": cell.experiment.document()}
        measured = {
            "scores": _scores(seed),
            "train_seconds": 800.0 + seed % 89,
            "weights_sha256": f"{seed:064x}",
        }
        cell.open(run)
        run.record_path.write_bytes(record_bytes(template.model_copy(update={**own, **measured})))
        written += run.record_path.stat().st_size
    return len(study.runs), written


def many_records(results: Path, count: int) -> list[str]:
    """Commands on a finished study."""
    records, written = finished(results, count)
    where = ["--results", str(results)]
    commands = {
        "list runs": ["list", "runs", *where],
        "run, with nothing left to do": [
            "run", str(results / "s.yaml"), *where, "--device", "cpu", "--wandb", "disabled",
        ],
        "report": ["report", "s", *where],
    }  # fmt: skip
    lines = [
        f"A study of {records:,} records of {written / records / 1e3:.0f} kB:\n",
        "| command | seconds | peak memory, MiB |",
        "|---|--:|--:|",
    ]
    for name, arguments in commands.items():
        seconds, mebibytes = _measured(arguments)
        lines.append(f"| {name} | {seconds:.1f} | {mebibytes:,.0f} |")
    return [*lines, ""]


def page_of_records(results: Path, count: int) -> list[str]:
    """The page of a finished study, with that of every run."""
    records, _ = finished(results, count)
    folder = results / "page"
    arguments = ["report", "s", "--results", str(results), "--format", "html", "--output", str(folder)]
    seconds, mebibytes = _measured(arguments)
    index = (folder / "index.html").stat().st_size
    whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [
        f"The page of a study of {records:,} records: {seconds:.1f} s, {mebibytes:,.0f} MiB; `index.html` "
        f"has {index / 1e6:.1f} MB, the folder with every run's page {whole / 1e6:.0f} MB.",
        "",
    ]


def many_pairs(results: Path, count: int) -> list[str]:
    """A first run on many pairs, its data prepared in it, against the same on few."""
    lines = [
        "The first steps of `lstm-small` on pairs of `sort`, their preparation included; private memory is",
        "what the largest process held at its peak, mapped files not counted:\n",
        "| pairs | seconds | private memory, MiB |",
        "|--:|--:|--:|",
    ]
    peaks = []
    for pairs in (FEW_PAIRS, count):
        arguments = [
            "run", "model=lstm-small", "task=sort", f"task.train_pairs={pairs}",
            f"training.steps={FIRST_STEPS}", "training.precision=float32",
            "--results", str(results), "--device", "cpu", "--wandb", "disabled",
        ]  # fmt: skip
        seconds, mebibytes = _with_private_memory(arguments, results / "cache")
        peaks.append(mebibytes)
        lines.append(f"| {pairs:,} | {seconds:.0f} | {mebibytes:,.0f} |")
    lines += [
        "",
        f"**The many pairs take {peaks[1] - peaks[0]:,.0f} MiB** beyond torch's own and the model's.",
    ]
    return lines


def record_of(cell: FrozenCell, options: RunOptions) -> TrainRecord:
    """A record like one of Multi30k."""
    point = CurvePoint(step=1, train_seconds=1.5, train_target_tokens=10_000, validation_loss=2.5)
    numbers = {
        name: 1 if field.annotation == int | None else 1.5
        for name, field in TrainRecord.model_fields.items()
        if field.annotation in (int | None, float | None)
    }
    fields = {
        **numbers,
        "status": "done",
        "failure": None,
        "curve": [point.model_copy(update={"scores": _scores(0)[:2]})] * 12,
        "hypotheses_sha256": dict.fromkeys(("test_2016_flickr", "test_2017_flickr"), "0" * 64),
    }
    named = replace(options, model_preset=cell.model_preset, task_preset=cell.task_preset)
    return failed_record(cell.experiment, named, "").model_copy(update=fields)


def _scores(seed: int) -> list[Score]:
    return [
        Score(split=split, metric=metric, value=30 + seed % 97 / 10, signature="x" * 60, sentences=1000)
        for split in ("validation", "test_2016_flickr", "test_2017_flickr")
        for metric in ("bleu", "chrf")
    ]


def _measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds of a command, and the most memory that it held, in MiB."""
    seconds, peak, _ = _watched(arguments, os.environ)
    return seconds, peak / 2**20


def _with_private_memory(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Seconds of a command, and the most anonymous memory that one of its processes was seen with, in MiB."""
    seconds, _, peak = _watched(arguments, {**os.environ, "XDG_CACHE_HOME": str(cache)})
    return seconds, peak / 2**20


def _watched(arguments: list[str], environment: Mapping[str, str]) -> tuple[float, int, int]:
    """Seconds of a command; the most resident and the most anonymous bytes of one of its processes.

    The kernel's own account of a child's peak begins at what the parent had when it started it.
    """
    begin = time.perf_counter()
    child = psutil.Popen(
        [sys.executable, "-P", "-m", "benchmark", *arguments],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    resident, anonymous = 0, 0
    while child.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in (child, *child.children(recursive=True)):
                resident = max(resident, _status_bytes(one.pid, "VmHWM:"))
                anonymous = max(anonymous, _status_bytes(one.pid, "RssAnon:"))
        time.sleep(0.05)
    assert child.returncode == 0, arguments
    return time.perf_counter() - begin, resident, anonymous


def _status_bytes(pid: int, field: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field)), 0)


if __name__ == "__main__":
    main()
