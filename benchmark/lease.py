"""Leases: who runs a cell, so that any number of workers on one folder run each cell once.

A lease is a small file in the run's folder that names its holder. On the holder's own machine, the kernel
knows whether the holder lives. From elsewhere (another machine, another container) it is the heartbeat that
tells: a counter in the file, which somebody who wants the cell watches for a while. No clock is compared with
another, so neither a clock that jumps nor two that differ can take a cell from a living worker.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from benchmark.config import one_line
from benchmark.store import StorageError, write_atomic

HEARTBEAT_SECONDS = 10.0
WATCH_SECONDS = 3.5 * HEARTBEAT_SECONDS
"""How long the counter of a holder elsewhere has to stand still before the lease is taken over."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process, told apart from every other that ever had its number."""

    host: str
    kernel: str
    """Which boot of which machine, and which of its process namespaces: process ids mean something inside."""
    pid: int
    started: float
    """When the process started, as its kernel counts: no clock that is set moves it."""
    token: str
    """Of one lease, so that the same process can tell two of its own apart."""

    @classmethod
    def me(cls) -> Holder:
        return cls(
            host=one_line(socket.gethostname()),
            kernel=_kernel(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            token=uuid.uuid4().hex,
        )

    def is_here(self) -> bool:
        """Whether this machine's kernel can say if the holder lives."""
        return self.kernel != "" and self.kernel == _kernel()

    def lives_here(self) -> bool:
        return _started(self.pid) == self.started


def _started(pid: int) -> float:
    """Ticks from boot to the start of a process; 0 for one that is not there."""
    try:
        # After the name, which is in brackets and may hold anything: field 22 of the file, man proc_pid_stat.
        return float(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return 0.0


def _kernel() -> str:
    """Empty where it cannot be told, as outside Linux."""
    try:  # only where `_started` can tell, too
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a lease's file said when it was looked at."""

    holder: Holder | None
    """None where the file is no lease: whoever wrote it is gone."""
    beats: int
    is_unread: bool = False
    """Whether the file is there and could not be read just now: nothing is known of its holder."""

    @property
    def who(self) -> str:
        if self.holder is None:
            return "an unknown worker"
        return f"process {self.holder.pid} on {self.holder.host}"


def _is_gone(seen: Seen) -> bool:
    """Whether the holder is known to be gone."""
    if seen.holder is None:
        return not seen.is_unread
    return seen.holder.is_here() and not seen.holder.lives_here()


class Leases:
    """The leases of one worker on one study."""

    def __init__(self, study: Path, on_loss: Callable[[str], None] = lambda run_id: None) -> None:
        """`on_loss` is called, from another thread, with the run whose lease somebody else has taken."""
        self._study = study
        self._on_loss = on_loss
        self._held: dict[str, Holder] = {}
        self._beats = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = FileLock(study / ".leases.lock")

    def __enter__(self) -> Leases:
        self._clear()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        self._wake.set()
        self._thread.join()
        for run_id in list(self._held):
            self.release(run_id)

    def take(self, run_id: str, abandoned: Seen | None = None) -> Seen | None:
        """None if the lease is ours now, else who holds it.

        `abandoned` is what `watched` found to stand still; a lease that still says so is taken over.
        """
        with self._locked():
            seen = self._read(run_id)
            if seen is not None and seen != abandoned and not _is_gone(seen):
                return seen
            holder = Holder.me()
            self._write(run_id, holder)
            self._held[run_id] = holder
            return None

    def _clear(self) -> None:
        """Remove leases whose holders are gone: one was killed between the record of a run and its lease."""
        left = [path.parent.name for path in self._study.glob("runs/*/lease.json")]
        if left:
            with self._locked():
                for run_id in left:
                    seen = self._read(run_id)
                    if seen is not None and _is_gone(seen):
                        self._path(run_id).unlink(missing_ok=True)

    def is_held(self, run_id: str) -> bool:
        """Whether somebody runs it, as far as can be told at once."""
        seen = self._read(run_id)
        return seen is not None and not _is_gone(seen)

    def release(self, run_id: str) -> None:
        with self._locked():
            if self._is_ours(run_id):
                self._path(run_id).unlink(missing_ok=True)
            self._held.pop(run_id, None)

    def watched(self, run_ids: Iterable[str]) -> dict[str, Seen]:
        """Of these leases, those whose holder is elsewhere and gave no sign for `WATCH_SECONDS`."""
        before = {run_id: self._read(run_id) for run_id in run_ids}
        elsewhere = {
            run_id: seen
            for run_id, seen in before.items()
            if seen is not None and not seen.is_unread and (seen.holder is None or not seen.holder.is_here())
        }
        if elsewhere:
            time.sleep(WATCH_SECONDS)
        return {run_id: seen for run_id, seen in elsewhere.items() if self._read(run_id) == seen}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises `StorageError` where the lock's file cannot be made."""
        try:
            held = self._lock.acquire()
        except OSError as error:
            raise StorageError(f"{self._lock.lock_file}: cannot be locked: {error.strerror}") from error
        with held:
            yield

    def _path(self, run_id: str) -> Path:
        return self._study / "runs" / run_id / "lease.json"

    def _read(self, run_id: str) -> Seen | None:
        try:
            text = self._path(run_id).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            return Seen(holder=None, beats=-1)
        except OSError:
            return Seen(holder=None, beats=-1, is_unread=True)
        try:
            fields = json.loads(text)
            return Seen(holder=Holder(**fields["holder"]), beats=fields["beats"])
        except (ValueError, TypeError, KeyError):
            return Seen(holder=None, beats=-1)

    def _write(self, run_id: str, holder: Holder) -> None:
        document = {"holder": asdict(holder), "beats": self._beats}
        write_atomic(self._path(run_id), (json.dumps(document) + "\n").encode())

    def _is_ours(self, run_id: str) -> bool:
        seen = self._read(run_id)
        return seen is not None and seen.holder is not None and seen.holder == self._held.get(run_id)

    def _beat(self) -> None:
        while not self._wake.wait(HEARTBEAT_SECONDS):
            self._beats += 1
            with contextlib.suppress(Exception):  # a study's folder that is gone for a moment
                self._beat_once()

    def _beat_once(self) -> None:
        lost = []
        with self._locked():
            for run_id, holder in list(self._held.items()):
                seen = self._read(run_id)
                if seen is not None and (seen.is_unread or seen.holder == holder):
                    # A disk that is full, or does not answer, costs a heartbeat and not the run.
                    with contextlib.suppress(StorageError):
                        self._write(run_id, holder)
                else:
                    lost.append(run_id)
                    del self._held[run_id]
        for run_id in lost:
            self._on_loss(run_id)
