"""Every trial of a study's search, the chosen ones marked: what was tried is part of a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.config import varying_fields
from benchmark.record import TrainRecord
from benchmark.report.layout import NOT_MEASURED, Column, Table
from benchmark.report.rounding import count, without_spread
from benchmark.report.study_results import StudyResults
from benchmark.search import best_trial
from tasks import VALIDATION


def _by_model(trials: Iterable[TrainRecord]) -> dict[tuple[str, str], list[TrainRecord]]:
    found: dict[tuple[str, str], list[TrainRecord]] = {}
    for record in trials:
        found.setdefault((record.model_preset, record.task_preset), []).append(record)
    return found


def search_rows(trials: Sequence[TrainRecord]) -> list[dict[str, Any]]:
    """The trials, flat: equal names in each, None where nothing was measured."""
    rows = []
    for (model, task), mine in _by_model(trials).items():
        best = best_trial(mine)
        for number, (record, settings) in enumerate(
            zip(mine, varying_fields(one.experiment for one in mine), strict=True), start=1
        ):
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "trial": number,
                    "settings": " ".join(f"{name}={value}" for name, value in settings.items()),
                    "status": record.status,
                    "steps": record.steps,
                    "validation_loss": record.validation_loss,
                    "chosen": record is best,
                    "run_id": record.run_id,
                }
            )
    return rows


def search_tables(study: StudyResults) -> list[Table]:
    """One table of all trials; none for a study without a search."""
    if not study.trials:
        return []
    metrics = list(
        dict.fromkeys(
            score.metric
            for record in study.trials
            for score in record.scores[:1]
            if score.split == VALIDATION
        )
    )
    lines = []
    for (model, task), mine in _by_model(study.trials).items():
        best = best_trial(mine)
        for number, (record, settings) in enumerate(
            zip(mine, varying_fields(one.experiment for one in mine), strict=True), start=1
        ):
            scores = {score.metric: score.value for score in record.scores if score.split == VALIDATION}
            lines.append(
                [
                    model,
                    task,
                    " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in settings.items()),
                    str(number),
                    record.status,
                    NOT_MEASURED if record.steps is None else count(record.steps),
                    NOT_MEASURED if record.validation_loss is None else f"{record.validation_loss:.3f}",
                    *(
                        without_spread(scores[metric]) if metric in scores else NOT_MEASURED
                        for metric in metrics
                    ),
                    "chosen" if record is best else "",
                ]
            )
    note = (
        "Search: equally many trials for each model, over its own space; the first is the recipe as the "
        "preset has it. The lowest validation loss is chosen; no test split was looked at."
    )
    return [
        Table(
            title=f"{study.name}: search",
            heading=[],
            columns=[
                Column(title=("model",), is_text=True),
                Column(title=("task",), is_text=True),
                Column(title=("settings",), is_text=True, note=note),
                Column(title=("trial",)),
                Column(title=("status",), is_text=True),
                Column(title=("steps",)),
                Column(title=(VALIDATION, "loss", "nats/token")),
                *(Column(title=(VALIDATION, metric)) for metric in metrics),
                Column(title=("",), is_text=True),
            ],
            rows=lines,
            labels=3,
        )
    ]
