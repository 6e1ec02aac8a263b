"""One machine: each cell in a process of its own, one at a time on each device.

A process of its own keeps peak memory, caches and crashes apart. The parent blocks while a child computes,
since a parent that polls takes time from what is measured. Any number of workers may share a study's folder:
a cell is run by the one that holds its lease.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple

from benchmark.config import ROOT, Experiment, RunOptions, Unfinished, experiment_from, one_line
from benchmark.engines import Finished, Started
from benchmark.engines.child import (
    GRACE_SECONDS,
    NOT_STORED,
    PARENT,
    failed_layer_record,
    failed_record,
    failed_speed_record,
    options_json,
    peak_bytes,
)
from benchmark.lease import Leases, Seen
from benchmark.measure.machine import out_of_memory_kills
from benchmark.record import (
    Record,
    TrainRecord,
    UnreadableRecord,
    UntouchableRecord,
    available_cores,
    threads_of,
)
from benchmark.request import is_resolved
from benchmark.store import RunFolder, StudyFolder
from benchmark.study import Asked, FrozenCell, Resolved, SpeedCell

_ALLOCATOR = ":".join(
    (
        "glibc.malloc.mmap_threshold=1073741824",
        "glibc.malloc.trim_threshold=8589934592",
        "glibc.malloc.top_pad=67108864",
    )
)
"""Keep freed memory: a tensor of 32 MiB is then filled five times as fast as when each one is mapped anew."""

_DEVICES = Path("/proc/driver/nvidia/gpus")
"""One entry for each CUDA device of the machine, whichever may be used."""

_TERMINAL_CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Interrupted(Unfinished):
    """A signal ended the study; what ran can go on later."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name}; started again, it goes on where it stopped")
        self.exit_code = 128 + number


class Dismissed(Exception):
    """A child was ended because its work is wanted no more; it leaves no record, and can go on later."""


class Refused(Unfinished):
    """A child found a mistake of the user, and has said so."""

    exit_code = 2


class NotStored(Unfinished):
    """The disk did not take what a child has, and the child has said so; started again, the run goes on."""


class ChildFailed(Unfinished):
    """A child ended without what it was asked for."""


class Ended(NamedTuple):
    """How a child ended."""

    exit_code: int
    """Negative for a signal, as in `subprocess`."""
    output: bytes
    last_line: str
    """Of its stderr."""
    out_of_memory: bool
    """Whether the kernel killed a process of this container for its memory meanwhile."""
    peak_bytes: int | None
    """Of its resident memory; None if not above that of this process, with which a child begins."""


def child_environment(options: RunOptions, environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with what decides the speed of a process before it starts; the same for every model.

    Values that the user has set are kept, but for the number of threads, which is an option.
    """
    threads = str(threads_of(options))
    path = os.pathsep.join(part for part in (str(ROOT), environment.get("PYTHONPATH", "")) if part)
    return {
        "GLIBC_TUNABLES": _ALLOCATOR,
        "PYTHONFAULTHANDLER": "1",  # a crash in a library says in the log where
        "THP_MEM_ALLOC_ENABLE": "1",
        **environment,
        PARENT: str(os.getpid()),
        "MKL_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
    }


class Supervisor:
    """Starts children and passes signals on: none outlives this process's end by signal."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        """By what they work on."""
        self._busy: set[str] = set()
        """Their names, from before they start until they are gone."""
        self._dismissed: set[str] = set()
        self._all_dismissed = False
        self._received: int | None = None
        self._timer: threading.Timer | None = None

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """While inside, SIGINT, SIGTERM and SIGHUP raise `Interrupted`, once the children have ended."""
        previous = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN  # as under nohup
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None
        self._received = self._received or number
        self._signal_children(signal.SIGKILL if again else signal.SIGTERM)
        self._kill_later()
        if not self._busy:  # nobody else would say so: this thread waits for something, or works
            raise Interrupted(self._received)

    def _kill_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(GRACE_SECONDS, self._signal_children, [signal.SIGKILL])
            self._timer.daemon = True
            self._timer.start()

    def _has_signal(self) -> bool:
        return self._received is not None

    def _stop_if_signalled(self) -> None:
        if self._received is not None:
            raise Interrupted(self._received)

    def _stop_if_dismissed(self, name: str) -> None:
        if self._all_dismissed or name in self._dismissed:
            raise Dismissed

    def dismiss(self, name: str) -> None:
        """End the child that works on `name`, at once."""
        self._dismissed.add(name)
        self._signal_child(name, signal.SIGKILL)

    def recall(self, name: str) -> None:
        """What works on `name` from now on is wanted again."""
        self._dismissed.discard(name)

    def dismiss_all(self) -> None:
        """Ask every child to end, and start none any more."""
        self._all_dismissed = True
        if self._received is None:  # else they have been asked
            self._signal_children(signal.SIGTERM)
            self._kill_later()

    def _signal_children(self, number: int) -> None:
        for name in list(self._children):
            self._signal_child(name, number)

    def _signal_child(self, name: str, number: int) -> None:
        child = self._children.get(name)
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, number)

    def run(
        self,
        arguments: Sequence[str],
        options: RunOptions,
        *,
        log_path: Path | None = None,
        given: bytes = b"",
        name: str = "",
        devices: str | None = None,
    ) -> Ended:
        """Run `seqbench arguments` to its end; its stderr goes to ours and, line by line, to the log.

        `name` is what the child works on, `devices` what it may see of CUDA, none for all.

        Raises:
            Interrupted: a signal came; the child has ended.
            Dismissed: `dismiss` or `dismiss_all` ended it, or kept it from starting.
        """
        self._busy.add(name)
        try:
            return self._run(arguments, options, log_path, given, name, devices)
        finally:
            self._busy.discard(name)

    def _run(
        self,
        arguments: Sequence[str],
        options: RunOptions,
        log_path: Path | None,
        given: bytes,
        name: str,
        devices: str | None,
    ) -> Ended:
        self._stop_if_signalled()
        self._stop_if_dismissed(name)
        killed_before, own_peak = out_of_memory_kills(), peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmark", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(
                options,
                os.environ if devices is None else {**os.environ, "CUDA_VISIBLE_DEVICES": devices},
            ),
            process_group=0,
        )
        self._children[name] = child
        if self._has_signal() or self._all_dismissed or name in self._dismissed:  # while it was starting
            self._signal_child(name, signal.SIGTERM)
        tee = _Tee(child.stderr, log_path)
        output = _Reader(child.stdout)
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError), child.stdin:
            child.stdin.write(given)
        _, status, usage = os.wait4(child.pid, 0)
        code = child.returncode = os.waitstatus_to_exitcode(status)
        self._signal_child(name, signal.SIGKILL)  # what the child has left behind
        del self._children[name]
        tee.join()
        output.join()
        self._stop_if_signalled()
        self._stop_if_dismissed(name)
        peak = peak_bytes(usage)
        return Ended(
            code,
            output.data,
            tee.last_line,
            out_of_memory_kills() > killed_before,
            peak if peak > own_peak else None,
        )


class _Reader(threading.Thread):
    """Reads a pipe to its end, so that the child never waits for us."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        assert pipe is not None
        self._pipe = pipe
        self.data = b""
        self.start()

    def run(self) -> None:
        with self._pipe:
            for chunk in iter(lambda: os.read(self._pipe.fileno(), 65536), b""):
                self.take(chunk)

    def take(self, chunk: bytes) -> None:
        self.data += chunk

    def join(self, timeout: float | None = 10.0) -> None:
        super().join(timeout)


class _Tee(_Reader):
    """Passes a child's stderr on and keeps its lines in a file, of a progress bar the last state."""

    def __init__(self, pipe: IO[bytes] | None, log_path: Path | None) -> None:
        self._log: int | None = None
        if log_path is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            with contextlib.suppress(OSError):
                self._log = os.open(log_path, flags, 0o666)
        self._unfinished = b""
        self.last_line = ""
        super().__init__(pipe)

    def run(self) -> None:
        super().run()
        if self._unfinished:
            self._keep(self._unfinished)
        if self._log is not None:
            os.close(self._log)

    def take(self, chunk: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(chunk.decode("utf-8", "replace"))
            sys.stderr.flush()
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        if b"\r" in self._unfinished:
            self._unfinished = self._unfinished[self._unfinished.rstrip(b"\r").rfind(b"\r") + 1 :]
        for line in lines:
            self._keep(line)

    def _keep(self, line: bytes) -> None:
        line = _TERMINAL_CONTROL.sub(b"", line.rstrip(b"\r").rpartition(b"\r")[2]).rstrip()
        if not line:
            return
        self.last_line = one_line(line.decode("utf-8", "replace"))
        if self._log is not None:
            with contextlib.suppress(OSError):  # a full disk must not end a run that may need no more of it
                os.write(self._log, line + b"\n")


def resolve(supervisor: Supervisor, asked: Sequence[Asked], options: RunOptions) -> list[Resolved]:
    """Every choice made, as measured in a process like that of a run.

    Raises:
        Refused: the child found a mistake of the user and named it.
        ChildFailed: it ended otherwise.
    """
    # Nothing to measure, and nothing of the user's that could be wrong.
    if options.device in ("auto", "cpu") and not any(map(_needs_a_look, asked)):
        return [Resolved(experiment=one.experiment) for one in asked]
    documents = json.dumps(
        [
            {"experiment": one.experiment.document(), "match": one.match, "reference": one.reference}
            for one in asked
        ]
    )
    ended = supervisor.run(["resolve", "--options", options_json(options)], options, given=documents.encode())
    if ended.exit_code == 2:
        raise Refused
    if ended.exit_code != 0:
        raise ChildFailed(f"the study could not be made: {_reason(ended)}")
    return [
        Resolved(
            experiment=experiment_from(one["experiment"], files_allowed=True),
            measured=one["measured"],
            held=one["held"],
        )
        for one in json.loads(ended.output)
    ]


def _needs_a_look(asked: Asked) -> bool:
    experiment = asked.experiment
    of_the_user = experiment.model_file_sha256 or experiment.task_file_sha256
    is_open = asked.match is not None or not is_resolved(experiment)
    return bool(is_open or of_the_user or experiment.task.reads_files)


class LocalEngine:
    """Runs cells on this machine: one at a time on each of its slots."""

    def __init__(self, supervisor: Supervisor, folder: StudyFolder, options: RunOptions) -> None:
        self._supervisor, self._folder = supervisor, folder
        self._slots = slots(options)
        self.wandb = options.wandb
        self._options = replace(options, threads=threads_of_each(options, len(self._slots)))
        self._failed_before: dict[str, tuple[int, int] | None] = {}

    def run(self, cells: Sequence[FrozenCell], started: Started) -> Iterator[Finished]:
        """As `Engine.run`. What another worker holds is tried again once the rest is done."""
        self._failed_before = {cell.run_id: self._failure(cell) for cell in cells}
        with Leases(self._folder.path, on_loss=self._supervisor.dismiss) as leases:
            held = {}
            for finished in self._round(cells, started, leases, {}):
                if finished.leased_by:
                    held[finished.cell.run_id] = finished.cell
                else:
                    yield finished
            if held:
                abandoned = leases.watched(held)
                yield from self._round(list(held.values()), started, leases, abandoned)

    def _round(
        self, cells: Sequence[FrozenCell], started: Started, leases: Leases, abandoned: Mapping[str, Seen]
    ) -> Iterator[Finished]:
        todo: queue.SimpleQueue[FrozenCell] = queue.SimpleQueue()
        for cell in cells:
            todo.put(cell)
        done: queue.SimpleQueue[Finished | BaseException | None] = queue.SimpleQueue()
        stopped, heard = threading.Event(), threading.Semaphore(0)

        def work(devices: str | None) -> None:
            try:
                while not stopped.is_set():
                    cell = todo.get_nowait()
                    cell.open(self._folder.run(cell.run_id))
                    self._supervisor.recall(cell.run_id)
                    holder = leases.take(cell.run_id, abandoned.get(cell.run_id))
                    if holder is not None:
                        done.put(Finished(cell, None, holder.who))
                    else:
                        try:
                            done.put(self._one(cell, started, devices))
                        finally:
                            leases.release(cell.run_id)
                    heard.acquire()  # whoever reads may want no further cell
            except queue.Empty:
                pass
            except BaseException as error:
                done.put(error)
            finally:
                done.put(None)

        threads = [threading.Thread(target=work, args=[devices], daemon=True) for devices in self._slots]
        for thread in threads:
            thread.start()
        working = len(threads)
        try:
            while working:
                end = done.get()
                if end is None:
                    working -= 1
                elif isinstance(end, BaseException):
                    raise end
                else:
                    yield end
                    heard.release()
        finally:
            # Whoever reads no further wants no further cell, and not to wait hours for those that run.
            stopped.set()
            heard.release(len(threads))
            if working:
                self._supervisor.dismiss_all()
            for thread in threads:
                thread.join()

    def _one(self, cell: FrozenCell, started: Started, devices: str | None) -> Finished:
        run = self._folder.run(cell.run_id)
        there = run.result()
        if there is None and self._failure(cell) != self._failed_before[cell.run_id]:
            there = run.readable()  # it has had its try in this round of the study
        if there is not None:  # another worker was faster
            return Finished(cell, there)
        started(cell)
        options = replace(self._options, wandb=self.wandb)
        try:
            record = run_cell(self._supervisor, cell, self._folder, options, devices)
        except Refused:
            return Finished(cell, None)
        except Dismissed:
            return Finished(cell, None, "another worker, which took this one for dead")
        if isinstance(record, TrainRecord) and record.wandb_mode in ("offline", "disabled"):
            self.wandb = record.wandb_mode
        return Finished(cell, record)

    def _failure(self, cell: FrozenCell) -> tuple[int, int] | None:
        """Which attempt's record is there; a record is always a new file."""
        try:
            there = os.stat(self._folder.run(cell.run_id).record_path)
        except OSError:
            return None
        return there.st_ino, there.st_mtime_ns


def slots(options: RunOptions) -> list[str | None]:
    """For each cell that runs at the same time, the CUDA devices that it may see; None where all.

    On CUDA as many as there are devices for; on a CPU one, or as many as `--threads` leaves cores for.
    """
    if options.device != "cpu":
        import torch

        count = torch.cuda.device_count()
        if count:
            visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))).split(",")
            groups = [visible[first : first + options.devices] for first in range(0, count, options.devices)]
            return [",".join(group) for group in groups if len(group) == options.devices] or [None]
    if options.threads is None:
        return [None]
    return [None] * max(1, available_cores() // (options.threads * options.devices))


def threads_of_each(options: RunOptions, slots: int) -> int | None:
    """Cores are shared out among the cells that the machine's devices can run, unless the user said how many
    each has: as many whichever of the devices this worker sees.
    """
    machine = max(slots, len(list(_DEVICES.glob("*"))) // options.devices)
    if options.threads is not None or machine <= 1 or options.device == "cpu":
        return options.threads
    import torch

    if not torch.cuda.device_count():
        return None  # there are devices, and this worker sees none
    return max(1, available_cores() // (machine * options.devices))


def run_cell(
    supervisor: Supervisor,
    cell: FrozenCell,
    folder: StudyFolder,
    options: RunOptions,
    devices: str | None = None,
) -> Record:
    """Run one cell to its record, whatever happens to its process.

    Raises:
        Interrupted: a signal came; there is no record, and the run can go on later.
        Refused: the child found a mistake of the user and named it; there is no record.
        NotStored: the disk is full, and the child has said so; there is no record.
    """
    options = _options_of(options, folder, [cell.experiment], cell.task_preset)
    options = replace(options, model_preset=cell.model_preset, is_trial=cell.trial is not None)
    return _run_to_record(
        supervisor,
        "cell",
        folder.run(cell.run_id),
        options,
        lambda failure: failed_record(cell.experiment, options, failure),
        devices,
    )


def run_speed_cell(
    supervisor: Supervisor, cell: SpeedCell, folder: StudyFolder, options: RunOptions
) -> Record:
    """Time a study's models against each other, to the record of it; errors as `run_cell`."""
    options = _options_of(options, folder, cell.experiments.values(), cell.task_preset)
    return _run_to_record(
        supervisor,
        "speed",
        folder.run(cell.run_id),
        options,
        lambda failure: failed_speed_record(cell.run_id, cell.experiments, options, failure),
    )


def run_layer_cells(
    supervisor: Supervisor, documents: Sequence[Mapping[str, Any]], folder: StudyFolder, options: RunOptions
) -> None:
    """Measure layers in one process after another: what ends a process fails one cell, and the rest goes on.

    Raises:
        Refused: the process found a mistake of the user, and has said so.
        NotStored: the disk is full, and the process has said so.
    """
    options = replace(options, study=folder.name)
    left = list(documents)
    for document in left:  # an earlier failure is no result of now
        folder.run(document["run_id"]).record_path.unlink(missing_ok=True)
    while left:
        runs = [folder.run(document["run_id"]) for document in left]
        arguments = ["layers", *(str(run.path) for run in runs), "--options", options_json(options)]
        ended = supervisor.run(arguments, options, log_path=runs[0].log_path, name=runs[0].run_id)
        if ended.exit_code == 2:
            raise Refused
        if ended.exit_code == NOT_STORED:
            raise NotStored
        done = 0
        while done < len(left) and runs[done].readable() is not None:
            done += 1
        if done < len(left):
            failure = _reason(ended)
            runs[done].write_record(failed_layer_record(left[done], options, failure))
            sys.stderr.write(f"run {runs[done].run_id} failed: {failure}\n")
        left = left[done + 1 :]


def _options_of(
    options: RunOptions, folder: StudyFolder, experiments: Iterable[Experiment], task_preset: str
) -> RunOptions:
    # Whoever made the cell has named the files, and their hashes are checked again.
    has_file = any(one.model_file_sha256 or one.task_file_sha256 for one in experiments)
    return replace(options, study=folder.name, task_preset=task_preset, trust_code=has_file)


def _run_to_record(
    supervisor: Supervisor,
    command: str,
    run: RunFolder,
    options: RunOptions,
    failed: Callable[[str], Record],
    devices: str | None = None,
) -> Record:
    with contextlib.suppress(FileNotFoundError):
        try:
            earlier = run.record()
        except UntouchableRecord:
            raise
        except UnreadableRecord as error:
            kept = run.record_path.with_name("record.unreadable.json")
            run.record_path.replace(kept)
            sys.stderr.write(f"seqbench: {error}; kept as {kept.name}, and the run is made again\n")
        else:
            if earlier is not None and earlier.status == "failed":
                run.record_path.unlink()
    arguments = [command, str(run.path), "--options", options_json(options)]
    ended = supervisor.run(arguments, options, log_path=run.log_path, name=run.run_id, devices=devices)
    record = run.readable()
    if record is not None:
        return record
    if ended.exit_code == 2:
        raise Refused
    if ended.exit_code == NOT_STORED:
        raise NotStored
    record = failed(_reason(ended))
    if isinstance(record, TrainRecord) and record.provenance.device_class == "cpu":
        record = record.model_copy(update={"peak_memory_bytes": ended.peak_bytes})
    run.write_record(record)
    return record


def _reason(ended: Ended) -> str:
    if ended.exit_code < 0:
        how = f"killed ({-ended.exit_code})"
        by_kernel = ended.out_of_memory and ended.exit_code == -signal.SIGKILL
        return f"oom_host: {how} by the kernel" if by_kernel else how
    return f"ended with code {ended.exit_code} and no record: {ended.last_line or 'it said nothing'}"
