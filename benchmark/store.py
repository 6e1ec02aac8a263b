"""The results folder: where everything lies, and how a file gets there whole or not at all.

    results/<study>/
      study.yaml                     the cells, resolved and frozen
      texts/                         source and reference texts of the test splits
      runs/<run id>/
        config.yaml                  the experiment, written before the run starts
        record.json                  written last: a run with a complete record is finished
        log.txt  hypotheses.<split>.txt.gz  checkpoints/

A process may be killed at any moment: a file under its final name is complete.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.config import UserError, dump_yaml, load_yaml, parse_yaml, shown
from benchmark.record import (
    Record,
    Shared,
    UnreadableRecord,
    UntouchableRecord,
    read_record,
    record_bytes,
    refused_constant,
    without_repeats,
)

FREE_BYTES = 64 * 2**20
"""What must be free before a study starts; a run of a small model keeps about that much."""

RECORD, CONFIG = "record.json", "config.yaml"
"""The files of a run's record and of its experiment, in its folder."""

_NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,64}")
_RUN_ID = re.compile(r"[0-9a-f]{16}")


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """While very many objects are made that all stay: Python's collector would go through them again and
    again, which is a fourth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class StorageError(Exception):
    """The disk did not take what was measured; one line with the path and the bytes that were needed."""


def checked_name(name: str) -> str:
    """`name`, if it can name a study.

    Raises:
        UserError: it could be another folder, or a hidden one.
    """
    if not _NAME.fullmatch(name):
        raise UserError(
            f"study: {shown(name)} cannot name a folder; use 1 to 64 of A-Z a-z 0-9 . _ - and no dot in front"
        )
    return name


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path`: after a kill or a power cut, `path` holds the old content or the new, nothing
    between.

    The temporary file lies in the same folder, where a rename is atomic. Data reach the disk before the name
    does.

    Raises:
        StorageError: the disk is full, read-only or gone; what was at `path` is untouched.
    """
    # Process ids mean something within one container, and several may share a folder.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(temporary, flags, 0o666)
            try:
                remaining = memoryview(data)
                while remaining:
                    remaining = remaining[os.write(descriptor, remaining) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise StorageError(f"{path}: {len(data):,} bytes could not be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def differences(expected: Any, found: Any, path: str = "") -> list[str]:
    """Where two documents differ, field by field: `training.steps is 20, was 10`."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lines = []
        for key in [*expected, *(key for key in found if key not in expected)]:
            inner = f"{path}.{key}" if path else str(key)
            if key not in found:
                lines.append(f"{inner} is missing, was {shown(expected[key])}")
            elif key not in expected:
                lines.append(f"{inner} is {shown(found[key])}, was not there")
            else:
                lines += differences(expected[key], found[key], inner)
        return lines
    if type(expected) is type(found) and expected == found:
        return []
    return [f"{path} is {shown(found)}, was {shown(expected)}"]


def dump_study(document: Mapping[str, Any]) -> str:
    """YAML with a line for each of the `cells`, so that it is read fast however many they are."""
    head = dump_yaml({name: value for name, value in document.items() if name != "cells"})
    lines = [f"- {json.dumps(cell, allow_nan=False)}\n" for cell in document["cells"]]
    return f"{head}{_CELLS if lines else 'cells: []'}{''.join(lines)}"


_CELLS = "cells:\n"


def load_study_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a study's file, whoever wrote it; errors as `load_yaml`."""
    head: list[str] = []
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            for line in file:
                if line == _CELLS:
                    break
                head.append(line)
            else:
                return load_yaml(path)
            # JSON is YAML, and is read a hundred times as fast.
            read, cells = _Cells(), list[Any]()
            for number, line in enumerate(file, start=len(head) + 2):
                if not line.startswith("- {") and not cells:
                    return load_yaml(path)  # laid out by hand
                if line.strip():
                    cells.append(read.cell(line, f"{path}:{number}"))
    except (OSError, UnicodeDecodeError):
        return load_yaml(path)  # which says what is wrong
    fields = parse_yaml("".join(head), str(path))
    if not isinstance(fields, dict):
        raise UserError(f"{path}: must hold fields (name: value), got {shown(fields)}")
    return {**fields, "cells": cells}


class _Interned:
    """Objects of JSON, of which equal ones are one: a hundred thousand cells have few different sections."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names, values = zip(*pairs, strict=True) if pairs else ((), ())
        # 1, 1.0 and True are equal, and are not the same.
        key = names, values, tuple(map(type, values))
        try:
            known = self._known.get(key)
        except TypeError:  # it holds a list or an object
            return without_repeats(pairs)
        if known is None:
            known = self._known[key] = without_repeats(pairs)
        return known


class _Cells:
    """Lines of cells; of those that differ in their ids and seeds alone, one is decoded."""

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder(object_pairs_hook=_Interned(), parse_constant=refused_constant)
        self._known: dict[str, dict[str, Any]] = {}

    def cell(self, line: str, where: str) -> Any:
        """What a line holds.

        Raises:
            UserError: it is none that `dump_study` has written.
        """
        found = _CELL.fullmatch(line)
        if found is None:
            return self._decoded(line, where)
        run_id, asked, common, seed = found.groups()
        known = self._known.get(common)
        if known is None:
            known = self._decoded(line, where)
            if list(known)[-1] != "experiment" or list(known["experiment"])[-1] != "seed":
                return known  # the seed is that of something else
            self._known[common] = known
        experiment = {**known["experiment"], "seed": int(seed)}
        return {**known, "run_id": run_id, "asked": asked, "experiment": experiment}

    def _decoded(self, line: str, where: str) -> Any:
        try:
            if line.startswith("- "):
                return self._decoder.decode(line[2:])
            problem = "begins with no '- '"
        except (ValueError, RecursionError) as error:
            problem = str(error)
        raise UserError(f"{where}: not a cell as seqbench writes it, one on a line: {problem}")


_CELL = re.compile(
    r'- \{"run_id": "([0-9a-f]{16})", "asked": "([0-9a-f]{16})", '
    r'("model": .*"experiment": \{.*\}), "seed": (0|[1-9][0-9]{0,17})\}\}\n'
)
"""Its ids, what cells have in common, and the seed of its experiment, which comes after the sections."""


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def record_path(self) -> Path:
        return self.path / RECORD

    @property
    def config_path(self) -> Path:
        return self.path / CONFIG

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def record(self) -> Record | None:
        """What the run measured; None where it has not finished.

        Raises:
            UnreadableRecord: there is a file, and it is no record of this run.
        """
        if not self.record_path.exists():
            return None
        return _record_of(self.run_id, self.record_path)

    def result(self) -> Record | None:
        """The record; None where the run is to be made: there is none, it failed, or it is damaged.

        Raises:
            UntouchableRecord: it may be whole, and cannot be read here.
        """
        return _result(self.record)

    def readable(self) -> Record | None:
        """The record; None where there is none that can be read."""
        return _readable(self.record)

    def write_record(self, record: Record) -> None:
        assert record.run_id == self.run_id
        write_atomic(self.record_path, record_bytes(record))

    def open(self, document: Mapping[str, Any], experiment: str | None = None) -> None:
        """Make the folder for a run, or check that it is the run's.

        `document` is what `config.yaml` holds: what the run is called, and last its resolved experiment. That
        is given as YAML too where it is known: a file that ends with `experiment` need not be read.

        Raises:
            UserError: a `config.yaml` is there with another experiment; each field that differs is named.
        """
        try:
            text = self.config_path.read_bytes()
        except FileNotFoundError:
            _make_folder(self.path)
            if experiment is None:
                whole = dump_yaml(document)
            else:
                whole = dump_yaml({k: v for k, v in document.items() if k != "experiment"}) + experiment
            write_atomic(self.config_path, whole.encode())
            return
        except OSError as error:
            raise UserError(f"{self.config_path}: cannot be read: {error.strerror}") from None
        if experiment is not None and text.endswith(b"\n" + experiment.encode()):
            return
        changed = differences(document["experiment"], load_yaml(self.config_path).get("experiment"))
        if changed:
            raise UserError(
                f"{self.config_path}: was changed and is run {self.run_id} no more: {'; '.join(changed)}; "
                "put it back, or remove the folder to run it again"
            )

    def remove_unfinished(self) -> None:
        """Remove what a killed process left of files that were never renamed. For the run's owner alone."""
        for path in self.path.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                path.unlink()


def _record_of(run_id: str, path: str | Path, shared: Shared | None = None) -> Record:
    record = read_record(path, shared)
    if record.run_id != run_id:
        raise UnreadableRecord(f"{path}: is the record of run {shown(record.run_id)}")
    return record


_Version = tuple[int, int, int]


def _version(path: str | Path) -> _Version:
    """What changes when a file is written again."""
    there = os.stat(path)
    return there.st_ino, there.st_size, there.st_mtime_ns


def _readable(read: Callable[[], Record | None]) -> Record | None:
    try:
        return read()
    except UnreadableRecord:
        return None


def _result(read: Callable[[], Record | None]) -> Record | None:
    try:
        record = read()
    except UntouchableRecord:
        raise
    except UnreadableRecord:
        return None
    return None if record is None or record.status == "failed" else record


class Contents(NamedTuple):
    """All records of a study, and the files that are none."""

    records: list[Record]
    unreadable: dict[str, UnreadableRecord]
    """By run."""


class StudyFolder:
    """The folder of one study inside a results folder."""

    def __init__(self, results: Path, name: str) -> None:
        self.results = results
        self.name = checked_name(name)
        self.path = results / name
        self._runs = str(self.path / "runs")
        self._known: dict[str, tuple[_Version, Record]] = {}
        self._document: tuple[_Version, dict[str, Any]] | None = None
        self._shared = Shared()

    @property
    def study_path(self) -> Path:
        return self.path / "study.yaml"

    @property
    def texts(self) -> Path:
        return self.path / "texts"

    def has_older_config(self, run_id: str) -> bool:
        """Whether a run's `config.yaml` is there and was last written before the record that was read."""
        known = self._known.get(run_id)
        try:
            written = os.stat(f"{self._runs}{os.sep}{run_id}{os.sep}{CONFIG}").st_mtime_ns
        except OSError:
            return False
        return known is not None and written <= known[0][2]

    def run(self, run_id: str) -> RunFolder:
        """The folder of a run; it need not exist.

        Raises:
            UserError: `run_id` is none, or the folder is a link that leads out of the study.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise UserError(f"{self.study_path}: {shown(run_id)} is no run id (16 hexadecimal digits)")
        path = self.path / "runs" / run_id
        self._refuse_links(path)
        return RunFolder(path)

    def prepare(self) -> None:
        """Make the folder, and find out before any work whether it can be written to.

        Raises:
            UserError: it cannot, has no room, or is a link that leads out of the results folder.
        """
        for path in (self.path, self.path / "runs", self.texts):
            self._refuse_links(path)
            _make_folder(path)
        probe = self.path / f".probe.{uuid.uuid4().hex}.tmp"
        try:
            try:
                write_atomic(probe, b"seqbench\n")
            finally:
                probe.unlink(missing_ok=True)
            free = shutil.disk_usage(self.path).free
        except StorageError as error:
            raise UserError(f"{self.path}: cannot be written to: {_cause(error)}") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written to: {error.strerror}") from None
        if free < FREE_BYTES:
            raise UserError(f"{self.path}: {free:,} bytes are free, and a study needs {FREE_BYTES:,}")

    def remove_if_empty(self) -> None:
        """Undo `prepare` where no study came of it; whatever else is there stays."""
        if self.study_path.exists():
            return
        for lock in self.path.glob(".*.lock"):
            with contextlib.suppress(OSError):
                lock.unlink()
        for path in (self.path / "runs", self.texts, self.path):
            with contextlib.suppress(OSError):
                path.rmdir()

    @uncollected()
    def contents(self) -> Contents:
        """The records of all runs, in the order of their ids, without their curves."""
        records: list[Record] = []
        unreadable = {}
        for run_id in self._run_ids():
            try:
                record = self.record(run_id)
            except UnreadableRecord as error:
                unreadable[run_id] = error
            else:
                if record is not None:
                    records.append(record)
        return Contents(records, unreadable)

    def document(self) -> dict[str, Any]:
        """What `study.yaml` holds, for reading alone; empty where there is none. Remembered as long as the
        file is the same.

        Raises:
            UserError: it is no YAML file of fields.
        """
        try:
            version = _version(self.study_path)
        except OSError:
            return load_study_yaml(self.study_path) if self.study_path.exists() else {}
        if self._document is None or self._document[0] != version:
            self._document = version, load_study_yaml(self.study_path)
        return self._document[1]

    def record(self, run_id: str) -> Record | None:
        """As `RunFolder.record`, without the curve; remembered as long as the file is the same."""
        path = f"{self._runs}{os.sep}{run_id}{os.sep}{RECORD}"
        try:
            version = _version(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UntouchableRecord(f"{path}: cannot be read: {error.strerror}") from None
        known = self._known.get(run_id)
        if known is not None and known[0] == version:
            return known[1]
        record = _record_of(run_id, path, self._shared)
        self._known[run_id] = version, record
        return record

    def result(self, run_id: str) -> Record | None:
        """As `RunFolder.result`, without the curve."""
        return _result(lambda: self.record(run_id))

    def readable(self, run_id: str) -> Record | None:
        """As `RunFolder.readable`, without the curve."""
        return _readable(lambda: self.record(run_id))

    def _run_ids(self) -> list[str]:
        runs = self.path / "runs"
        try:
            return sorted(entry.name for entry in os.scandir(runs) if _RUN_ID.fullmatch(entry.name))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{runs}: cannot be read: {error.strerror}") from None

    def _refuse_links(self, path: Path) -> None:
        if not any(map(os.path.islink, (self.path, self.path / "runs", path))):
            return
        inside = self.results.resolve() / self.name
        actual = path.resolve()
        if actual != inside and inside not in actual.parents:
            raise UserError(
                f"{path}: is a link to {actual}, outside the study; nothing is written through it"
            )


def _cause(error: StorageError) -> str:
    cause = error.__cause__
    return str(cause.strerror) if isinstance(cause, OSError) else str(error)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be made: {error.strerror}") from None
