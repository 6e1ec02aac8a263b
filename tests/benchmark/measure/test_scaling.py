from pathlib import Path

import pytest

from benchmark.config import RunOptions, UserError
from benchmark.measure.scaling import training_speed
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
