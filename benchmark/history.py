"""What wandb shows of a run over its steps: the same rows while it trains and from its record afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.config import TrainingConfig
from benchmark.record import CurvePoint, TrainRecord
from benchmark.schedule import rate_factor

WINDOW_STEPS = 50
"""Training steps of one row: a call to wandb costs as much as many small kernels."""

Row = tuple[int, dict[str, float]]
"""The step after which it is known, and values by name."""


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What each step did so far."""

    losses: Sequence[float]
    seconds: Sequence[float]
    target_tokens: Sequence[int]
    """Empty where they are not known."""


def training_rows(
    steps: Steps, training: TrainingConfig, curve: Sequence[CurvePoint], *, after: int = 0
) -> Iterator[Row]:
    """One row for each whole window of steps that ends after step `after`."""
    first = after // WINDOW_STEPS * WINDOW_STEPS
    for begin in range(first, len(steps.losses) - WINDOW_STEPS + 1, WINDOW_STEPS):
        end = begin + WINDOW_STEPS
        window = slice(begin, end)
        cuts = plateau_cuts(training, [point for point in curve if point.step < end])
        rate = training.learning_rate * rate_factor(training, end - 1) * training.plateau_factor**cuts
        values = {
            "train/loss": sum(steps.losses[window]) / WINDOW_STEPS,
            "train/learning_rate": rate,
        }
        if len(steps.target_tokens) >= end:
            tokens = sum(steps.target_tokens[window])
            values["speed/train_target_tokens_per_second"] = tokens / sum(steps.seconds[window])
        yield end, values


def plateau_cuts(training: TrainingConfig, curve: Sequence[CurvePoint]) -> int:
    """How often the schedule `plateau` has cut the rate: after each validation that was no better."""
    if training.schedule != "plateau":
        return 0
    cuts, best = 0, float("inf")
    for point in curve:
        if point.validation_loss is not None:
            cuts += point.validation_loss >= best
            best = min(best, point.validation_loss)
    return cuts


def validation_row(point: CurvePoint) -> Row:
    """What one validation measured."""
    values = {} if point.validation_loss is None else {"val/loss": point.validation_loss}
    return point.step, {**values, **{f"val/{score.metric}": score.value for score in point.scores}}


def rows_of_record(record: TrainRecord, steps: Steps, training: TrainingConfig) -> list[Row]:
    """All rows of a run, in order."""
    rows = [*training_rows(steps, training, record.curve), *map(validation_row, record.curve)]
    return sorted(rows, key=lambda row: row[0])


def summary(record: TrainRecord) -> dict[str, Any]:
    """What a record measured, flat: its scalars under their own names, scores as `test/bleu`."""
    values: dict[str, Any] = {}
    for name, value in record.model_dump(mode="json").items():
        if isinstance(value, bool | int | float | str):
            values[name] = value
    for name, value in record.provenance.model_dump(mode="json").items():
        if isinstance(value, bool | int | float | str):
            values[f"provenance/{name}"] = value
    return {**values, **{f"{score.split}/{score.metric}": score.value for score in record.scores}}
