"""What every table says of the runs behind it: device, budget, how many failed, and what is held equal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from benchmark.record import TrainRecord
from benchmark.report.budgets import match_lines
from benchmark.report.rounding import count

if TYPE_CHECKING:
    from benchmark.report.comparison import Group


def group_heading(group: Group) -> list[str]:
    """Of the runs of a comparison."""
    return [*runs_heading(group.records), *match_lines(group)]


def runs_heading(records: Iterable[TrainRecord]) -> list[str]:
    """Of the runs of a table, each counted once."""
    mine = list({record.run_id: record for record in records}.values())
    states = [sum(record.status == state for record in mine) for state in ("done", "failed", "diverged")]
    return [
        f"device: {devices(mine)}",
        f"budget: {budget(mine)}",
        f"runs: {states[0]:,} done, {states[1]:,} failed, {states[2]:,} diverged",
    ]


def devices(records: Sequence[TrainRecord]) -> str:
    """What runs were made on, and how many on which where it is not the same for all."""
    found: dict[str, int] = {}
    for one in (record.provenance for record in records):
        name = f"{one.devices} x {one.device}" if one.devices > 1 else one.device
        name += f", {plural(one.threads, 'thread')}, {one.precision}, torch {one.torch_version}"
        found[name] = found.get(name, 0) + 1
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{plural(number, 'run')} on {name}" for name, number in found.items())


def budget(records: Iterable[TrainRecord]) -> str:
    """Steps, which every budget became when the study was made; by model where they are not the same."""
    by_model: dict[str, list[str]] = {}
    for record in records:
        steps = budget_steps(record)
        by_model.setdefault(record.model_preset, []).append("unknown" if steps is None else count(steps))
    texts = {model: "/".join(dict.fromkeys(steps)) for model, steps in by_model.items()}
    if len(set(texts.values())) == 1:
        return f"{next(iter(texts.values()))} steps"
    return ", ".join(f"{model} {steps}" for model, steps in texts.items()) + " steps"


def budget_steps(record: TrainRecord) -> int | None:
    """Steps that a run was to take."""
    training = record.experiment.get("training")
    steps = training.get("steps") if isinstance(training, dict) else None
    return steps if isinstance(steps, int) else None


def plural(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
