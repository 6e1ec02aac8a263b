"""Training on more devices: strong scaling shares one global batch, weak scaling grows it with the devices.

Each is timed beside the plain loop on one device, step by step in turn, with the same number of threads for
each process on a CPU, or a GPU for each: what the machine does meanwhile slows both.

    python -m benchmark.measure.scaling SETTINGS strong|weak OPTIONS

is one such comparison in a process of its own, which Lightning starts again for each further device.
"""

from __future__ import annotations

import json
import operator
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.config import ROOT, RunOptions, UserError, one_line
from benchmark.engines.child import options_from_json, options_json
from benchmark.measure.layers import summarised
from benchmark.measure.speed import Taken, side_by_side
from benchmark.record import Row
from benchmark.request import request_from

STRONG, WEAK = "strong", "weak"


def scaling_rows(settings: Mapping[str, Any], options: RunOptions) -> Iterator[Row]:
    """Target tokens per second of `model` on `task` on each number of `devices`, through the trainer, and of
    the plain loop on one device beside it, in `rounds` of `steps`.

    Raises:
        UserError: training failed; what it said last.
    """
    for devices in settings["devices"]:
        for scaling in (STRONG, WEAK):
            together, alone = _timed(settings, devices, scaling, options)
            for used, taken in ((devices, together), (1, alone)):
                rates = list(map(operator.truediv, taken.tokens, taken.seconds))
                conditions = {
                    "devices": used,
                    "beside": 1 if used > 1 else devices,
                    "scaling": scaling,
                    "threads_of_each": settings["threads"],
                }
                yield summarised("target_tokens_per_second", rates, "tokens/s", conditions)


def _timed(
    settings: Mapping[str, Any], devices: int, scaling: str, options: RunOptions
) -> tuple[Taken, Taken]:
    with tempfile.TemporaryDirectory() as folder:
        own = replace(options, results=Path(folder), devices=devices, threads=settings["threads"])
        command = [sys.executable, "-P", "-m", "benchmark.measure.scaling"]
        command += [json.dumps(dict(settings)), scaling, options_json(own)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
        result = _result(Path(folder))
        if ended.returncode != 0 or not result.exists():
            said = ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"]
            raise UserError(f"{settings['model']} on {devices} devices gave no speed: {one_line(said[-1])}")
        together, alone = json.loads(result.read_text(encoding="utf-8"))
    return Taken(**together), Taken(**alone)


def _result(folder: Path) -> Path:
    return folder / "taken.json"


def main() -> None:
    """One comparison, from settings, kind of scaling and options; what it took lies in the results folder."""
    settings, scaling, options = json.loads(sys.argv[1]), sys.argv[2], options_from_json(sys.argv[3])
    cell = request_from(
        [
            f"model={settings['model']}",
            f"task={settings['task']}",
            f"data.batch_tokens={settings['batch_tokens']}",
            f"seed={settings['seed']}",
            "training.steps=1",
            "training.precision=float32",
        ]
    ).cells[0]
    together, alone = side_by_side(
        cell.experiment,
        options,
        rounds=settings["rounds"],
        steps=settings["steps"],
        batch_tokens=settings["batch_tokens"] * (options.devices if scaling == WEAK else 1),
    )
    if os.environ.get("LOCAL_RANK", "0") == "0":
        text = json.dumps([together._asdict(), alone._asdict()])
        _result(options.results).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
