from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmark.config import RunOptions, UserError
from benchmark.measure import scaling
from benchmark.measure.scaling import scaling_rows, training_speed
from benchmark.measure.steps import LEAST_STEPS
from benchmark.why.cells import cells

SETTINGS = {"model": "lstm-small", "task": "reverse", "threads": 1}


def options(tmp_path: Path) -> RunOptions:
    return RunOptions(results=tmp_path, data_directory=tmp_path, device="cpu")


def test_a_run_of_the_least_steps_has_a_speed_and_a_scale_asks_for_as_many(tmp_path: Path) -> None:
    settings = {**SETTINGS, "steps": LEAST_STEPS}
    assert training_speed(settings, 1, 64, options(tmp_path)) > 0
    asked = [cell for cell in cells("standard", "cpu", "float32") if cell.kind == "scaling"]
    assert len(asked) == 3 and all(cell.settings["steps"] >= LEAST_STEPS for cell in asked)


def test_a_run_that_fails_is_said_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lstm-small on 1 devices gave no speed: .*batch_tokens"):
        training_speed({**SETTINGS, "steps": 1}, 1, -1, options(tmp_path))


def test_rows_of_one_and_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One global batch is trained on by two processes; the other speeds are made up."""
    asked: list[tuple[int, int]] = []
    real: list[float] = []

    def speed(settings: Mapping[str, Any], devices: int, tokens: int, options: RunOptions) -> float:
        asked.append((devices, tokens))
        if devices == 2 and not real:
            real.append(training_speed(settings, devices, tokens, options))
        return real[0] if devices == 2 else 1000.0

    monkeypatch.setattr(scaling, "training_speed", speed)
    asks = {"devices": [1, 2], "batch_tokens": 64, "steps": LEAST_STEPS, "rounds": 6, "seed": 0}
    rows = list(scaling_rows({**SETTINGS, **asks}, options(tmp_path)))
    assert sorted(asked) == [(1, 64)] * 6 + [(2, 64)] * 6 + [(2, 128)] * 6
    rounds = [tuple(asked[first : first + 3]) for first in range(0, 18, 3)]
    assert all(len(set(one)) == 3 for one in rounds) and len(set(rounds)) > 1, "in an order drawn anew"
    found = {(row.conditions["devices"], row.conditions["scaling"]): row for row in rows}
    assert found.keys() == {(1, "strong"), (2, "strong"), (2, "weak")}
    assert found[2, "strong"].value == real[0] > 0
    assert all(row.conditions["threads_of_each"] == 1 and len(row.samples) == 6 for row in rows)
