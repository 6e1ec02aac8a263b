"""Every trial of a study's search, the chosen ones marked: what was tried is part of a result."""

from __future__ import annotations

from typing import Any

from benchmark.config import varying_fields
from benchmark.record import TrainRecord
from benchmark.report.heading import runs_heading
from benchmark.report.layout import METRIC_TITLES, NOT_MEASURED, Column, Table
from benchmark.report.rounding import count, without_spread
from benchmark.report.study_results import StudyResults
from tasks import VALIDATION

NOTE = (
    "Search: equally many trials for each model, over its own space; the first is the recipe as the "
    "preset has it. The lowest validation loss is chosen; no test split was looked at."
)


def search_rows(study: StudyResults) -> list[dict[str, Any]]:
    """The trials, flat: equal names in each, None where nothing was measured."""
    return [{**row, "settings": _text(row["settings"])} for row in _rows(study)]


def _rows(study: StudyResults) -> list[dict[str, Any]]:
    by_model: dict[tuple[str, str], list[TrainRecord]] = {}
    for record in study.trials:
        by_model.setdefault((record.model_preset, record.task_preset), []).append(record)
    metrics = _metrics(study)
    rows = []
    for (model, task), trials in by_model.items():
        for record, settings in zip(trials, varying_fields(one.experiment for one in trials), strict=True):
            scores = {score.metric: score.value for score in record.scores if score.split == VALIDATION}
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "trial": study.trial_numbers[record.run_id],
                    "settings": settings,
                    "status": record.status,
                    "steps": record.steps,
                    "validation_loss": record.validation_loss,
                    **{f"{VALIDATION}_{metric}": scores.get(metric) for metric in metrics},
                    "chosen": record.run_id in study.chosen,
                    "run_id": record.run_id,
                }
            )
    return rows


def _text(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items())


def _metrics(study: StudyResults) -> list[str]:
    scores = (score for record in study.trials for score in record.scores)
    return list(dict.fromkeys(score.metric for score in scores if score.split == VALIDATION))


def search_tables(study: StudyResults) -> list[Table]:
    """One table of all trials; none for a study without a search."""
    rows, metrics = _rows(study), _metrics(study)
    if not rows:
        return []
    seeds = {record.run_id: record.seed for record in study.trials}
    lines = []
    for row in rows:
        loss, scores = row["validation_loss"], [row[f"{VALIDATION}_{metric}"] for metric in metrics]
        lines.append(
            [
                row["model"],
                row["task"],
                _text({name.rpartition(".")[2]: value for name, value in row["settings"].items()}),
                str(row["trial"]),
                row["status"],
                NOT_MEASURED if row["steps"] is None else count(row["steps"]),
                NOT_MEASURED if loss is None else without_spread(loss),
                *(NOT_MEASURED if score is None else without_spread(score) for score in scores),
                "chosen" if row["chosen"] else "",
            ]
        )
    return [
        Table(
            title=f"{study.name}: search",
            heading=runs_heading(study.trials),
            columns=[
                Column(title=("model",), is_text=True),
                Column(title=("task",), is_text=True),
                Column(title=("settings",), is_text=True, note=NOTE),
                Column(title=("trial",)),
                Column(title=("status",), is_text=True),
                Column(title=("steps",)),
                Column(title=(VALIDATION, "loss", "nats/token")),
                *(Column(title=(VALIDATION, *METRIC_TITLES.get(metric, (metric,)))) for metric in metrics),
                Column(title=("",), is_text=True),
            ],
            rows=lines,
            labels=3,
            runs=[[(f"seed {seeds[row['run_id']]}", row["run_id"])] for row in rows],
        )
    ]
