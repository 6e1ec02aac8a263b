from pathlib import Path

import pytest

from benchmark.config import RunOptions, UserError
from benchmark.measure.scaling import scaling_rows
from benchmark.why.cells import cells

SETTINGS = {
    "model": "lstm-small", "task": "reverse", "devices": [2], "threads": 1, "seed": 0,
    "batch_tokens": 64, "rounds": 6, "steps": 1,
}  # fmt: skip


def options(tmp_path: Path) -> RunOptions:
    return RunOptions(results=tmp_path, data_directory=tmp_path, device="cpu")


def test_two_devices_are_timed_beside_one(tmp_path: Path) -> None:
    rows = list(scaling_rows(SETTINGS, options(tmp_path)))
    assert [tuple(row.conditions.values()) for row in rows] == [
        (2, 1, "strong", 1), (1, 2, "strong", 1), (2, 1, "weak", 1), (1, 2, "weak", 1),
    ]  # fmt: skip
    assert all(len(row.samples) == SETTINGS["rounds"] and min(row.samples) > 0 for row in rows)
    asked = [cell for cell in cells("standard", "cpu", "float32") if cell.kind == "scaling"]
    assert [set(cell.settings) for cell in asked] == [set(SETTINGS)] * 3


def test_training_that_fails_is_said_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lstm-small on 2 devices gave no speed: .*batch_tokens"):
        list(scaling_rows({**SETTINGS, "batch_tokens": -1}, options(tmp_path)))
