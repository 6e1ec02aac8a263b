"""What runs inside the process of one cell: train, score, write the record; or say in a record why not."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from benchmark import tracking
from benchmark.config import Experiment, RunOptions, UserError, experiment_from, load_yaml, one_line
from benchmark.record import LayerRecord, Provenance, SpeedRecord, TrainRecord, take_provenance, threads_of
from benchmark.store import RunFolder, StorageError

PARENT = "SEQBENCH_PARENT"
"""Environment variable: the process that starts a child, and without which the child is to end."""
NOT_STORED = 74
"""Exit code of a child whose disk did not take what it has, and which has said so: EX_IOERR of sysexits."""
GRACE_SECONDS = 30.0
"""From the signal that asks a child to end to the one that makes it."""
WAIT_SECONDS = 60.0
"""For another process in the same run's folder to end."""


def options_json(options: RunOptions) -> str:
    """The options as one argument of a child's command line."""
    return json.dumps(dataclasses.asdict(options), default=str)


def options_from_json(text: str) -> RunOptions:
    fields = json.loads(text)
    for name in ("results", "data_directory", "cache_directory"):
        fields[name] = Path(fields[name])
    return RunOptions(**fields)


def die_with_parent() -> None:
    """End this process, and all of its group where it leads one, when the one that started it is killed
    outright (Linux).
    """
    parent = int(os.environ.pop(PARENT, os.getppid()))  # not for the processes that this one starts
    if sys.platform != "linux":
        return
    if os.getpgrp() == os.getpid():
        with contextlib.suppress(OSError):  # it is gone already, or the kernel is older than 5.3
            watched = os.pidfd_open(parent)
            if os.getppid() == parent:
                threading.Thread(target=_end_group_after, args=[watched], daemon=True).start()
                return
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it was killed before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)


def _end_group_after(parent: int) -> None:
    """Wait, without taking time from anybody, for the process behind a descriptor; then end this group."""
    select.select([parent], [], [])
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """For the imports of a child: without Python's garbage collector, which takes a fifth of their time, and
    then with nothing of them in its later rounds.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def or_not_stored(work: Callable[[], int]) -> int:
    """The exit code of a child's work: `NOT_STORED` where a disk is full, which is no end of the run."""
    try:
        return work()
    except StorageError as error:
        sys.stderr.write(f"seqbench: {error}\n")
        return NOT_STORED


def run_child(run_folder: Path, options: RunOptions) -> int:
    """Train and score the run whose folder is given; the exit code of the process.

    The record says how it went; the exit code says so again: 0 for a complete record, 1 for a failed one, and
    what a signal asks for without any.

    Raises:
        UserError: a mistake of the user, which leaves no record.
        StorageError: the disk did not take the record.
    """
    folder = RunFolder(run_folder)
    document = load_yaml(folder.config_path)
    experiment = experiment_from(document.get("experiment") or {}, files_allowed=options.trust_code)
    if experiment.run_id() != folder.run_id:
        raise UserError(
            f"{folder.config_path}: its fields give run {experiment.run_id()}, not {folder.run_id}"
        )
    # Lightning starts this command again for each further process of a run; the first one keeps the record.
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    if not first:
        return _run(folder, experiment, options, first=False)
    with _alone_in(folder):
        folder.remove_unfinished()
        return _run(folder, experiment, options, first=True)


@contextlib.contextmanager
def _alone_in(folder: RunFolder) -> Iterator[None]:
    """Wait for a process whose worker was killed, and which has not ended yet.

    Raises:
        UserError: it does not end.
    """
    lock = FileLock(folder.path / ".running.lock", timeout=WAIT_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder.path}: another process still works in this folder; end it first") from None
    try:
        yield
    finally:
        lock.release()


def _run(folder: RunFolder, experiment: Experiment, options: RunOptions, *, first: bool) -> int:
    with loading():
        from benchmark.trainer import Interrupted, run_cell

    from benchmark.check import preflight_hooks, preflight_model, preflight_task

    # Closed forms of those in the repository are checked by its tests.
    preflight = preflight_hooks if experiment.model_file_sha256 is None else preflight_model
    preflight(experiment.model_name, experiment.model)
    if experiment.task_file_sha256 is not None:
        preflight_task(experiment.task_name, experiment.task, options.data_directory)
    try:
        record = run_cell(experiment, folder.path, options)
    except (UserError, StorageError):
        raise
    except Interrupted as error:
        return error.exit_code
    except Exception as error:
        if not first:
            raise
        traceback.print_exc()
        record = failed_record(
            experiment,
            options,
            reason_of(error),
            peak_memory_bytes=_own_peak_bytes(options),
        )
    if record is None:
        return 0
    folder.write_record(record)
    tracking.finish(record.status)
    return 1 if record.status == "failed" else 0


def resolve_child(documents: Sequence[dict[str, Any]], options: RunOptions) -> list[dict[str, Any]]:
    """What is asked for, each as a document, with every choice made on this device."""
    with loading():
        from benchmark.resolution import resolve
        from benchmark.study import Asked

    asked = [
        Asked(
            # Whoever asked for these has named their files, and the hashes are checked.
            experiment=experiment_from(one["experiment"], files_allowed=True),
            match=one["match"],
            reference=one["reference"],
        )
        for one in documents
    ]
    return [
        {"experiment": one.experiment.document(), "measured": dict(one.measured), "held": one.held}
        for one in resolve(asked, options)
    ]


def run_speed_child(run_folder: Path, options: RunOptions) -> int:
    """Time the models of a study against each other and write the record; the exit code of the process."""
    folder = RunFolder(run_folder)
    with _alone_in(folder):
        folder.remove_unfinished()
        return _run_speed(folder, options)


def _run_speed(folder: RunFolder, options: RunOptions) -> int:
    with loading():
        from benchmark.measure.speed import measure_speed

    config = load_yaml(folder.config_path)
    documents = config.get("experiment") or {}
    experiments = {
        name: experiment_from(document, files_allowed=options.trust_code)
        for name, document in documents.items()
    }
    try:
        record = measure_speed(experiments, options, folder.run_id, overhead=config.get("overhead") is True)
    except (UserError, StorageError):
        raise
    except Exception as error:
        traceback.print_exc()
        record = failed_speed_record(folder.run_id, experiments, options, reason_of(error))
    folder.write_record(record)
    return 1 if record.status == "failed" else 0


def run_layers_child(run_folders: Sequence[Path], options: RunOptions) -> int:
    """Measure one cell after another and write the record of each; the exit code of the process."""
    with loading():
        from benchmark.measure.layer_records import measured

    code = 0
    for number, path in enumerate(run_folders, start=1):
        folder = RunFolder(path)
        document = load_yaml(folder.config_path)
        kind, subject = document["kind"], document["subject"]
        sys.stderr.write(f"[{number}/{len(run_folders)}] {kind} of {subject} (run {folder.run_id})\n")
        with _alone_in(folder):
            folder.remove_unfinished()
            try:
                record = measured(document, options)
            except StorageError:
                raise  # a full disk is no end of a measurement
            except UserError as error:
                record = failed_layer_record(document, options, str(error))
            except Exception as error:
                traceback.print_exc()
                record = failed_layer_record(document, options, reason_of(error))
            folder.write_record(record)
            if record.status == "failed":
                sys.stderr.write(f"run {folder.run_id} failed: {record.failure}\n")
                code = 1
    return code


def failed_layer_record(document: Mapping[str, Any], options: RunOptions, failure: str) -> LayerRecord:
    """The record of a measurement of layers that measured nothing."""
    if not document.get("device"):  # what is timed belongs to one; the rest is measured on the CPU
        options = dataclasses.replace(options, device="cpu")
    return LayerRecord(
        kind=document["kind"],
        run_id=document["run_id"],
        study=options.study,
        subject=document["subject"],
        settings=document["experiment"],
        status="failed",
        failure=failure,
        provenance=_provenance_here(document["experiment"].get("precision", "float32"), options),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def reason_of(error: BaseException) -> str:
    """Why a run failed, in one line; running out of memory is told apart."""
    text = one_line(f"{type(error).__name__}: {error}")
    if type(error).__name__ == "OutOfMemoryError":
        return f"oom_device: {text}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"oom_host: {text}"
    return text


def failed_record(
    experiment: Experiment, options: RunOptions, failure: str, *, peak_memory_bytes: int | None = None
) -> TrainRecord:
    """The record of a run that measured nothing."""
    return TrainRecord(
        run_id=experiment.run_id(),
        study=options.study,
        model_preset=options.model_preset,
        model_name=experiment.model_name,
        model_version=experiment.model.version,
        task_preset=options.task_preset,
        task_name=experiment.task_name,
        task_version=experiment.task.version,
        seed=experiment.seed,
        experiment=experiment.document(),
        provenance=_provenance(experiment, options),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        status="failed",
        failure=failure,
        peak_memory_bytes=peak_memory_bytes,
    )


def failed_speed_record(
    run_id: str, experiments: Mapping[str, Experiment], options: RunOptions, failure: str
) -> SpeedRecord:
    """The record of a comparison of speeds that measured nothing."""
    first = next(iter(experiments.values()))
    return SpeedRecord(
        run_id=run_id,
        study=options.study,
        task_preset=options.task_preset,
        task_name=first.task_name,
        task_version=first.task.version,
        experiments={name: experiment.document() for name, experiment in experiments.items()},
        provenance=_provenance(first, options),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        status="failed",
        failure=failure,
    )


def _provenance(experiment: Experiment, options: RunOptions) -> Provenance:
    precision = experiment.training.precision
    assert precision != "auto"
    return _provenance_here(precision, options)


def _provenance_here(precision: Literal["float32", "bfloat16"], options: RunOptions) -> Provenance:
    import torch

    torch.set_num_threads(
        threads_of(options)
    )  # the record states those of the run, also where its parent writes it
    return take_provenance(
        device=torch.device("cuda" if _is_on_cuda(options) else "cpu"),
        precision=precision,
        devices=options.devices,
    )


def _is_on_cuda(options: RunOptions) -> bool:
    import torch

    return options.device in ("auto", "cuda") and torch.cuda.is_available()


def _own_peak_bytes(options: RunOptions) -> int:
    """Of the accelerator, else of this process (resident set), until now."""
    if not _is_on_cuda(options):
        return peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
    import torch

    return torch.cuda.max_memory_allocated()


def peak_bytes(usage: resource.struct_rusage) -> int:
    """The most memory that was resident."""
    return usage.ru_maxrss if sys.platform == "darwin" else usage.ru_maxrss * 1024
