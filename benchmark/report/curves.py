"""Records with their learning curves, which a study that is read for its tables leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.record import TrainRecord, UnreadableRecord, read_record

LARGEST_CURVES = 2_000
"""Runs whose learning curves are read; of larger studies reports show none."""


def with_curves(records: Sequence[TrainRecord], study_folder: Path) -> dict[str, TrainRecord]:
    """By run, without those that have changed since they were read; none of more than `LARGEST_CURVES`."""
    found: dict[str, TrainRecord] = {}
    if len(records) > LARGEST_CURVES:
        return found
    for record in records:
        try:
            whole = read_record(study_folder / "runs" / record.run_id / "record.json")
        except UnreadableRecord:
            continue
        if isinstance(whole, TrainRecord):
            found[record.run_id] = whole
    return found
