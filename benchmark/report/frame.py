"""A study as pandas sees it: one row for each value that was measured, and match that its run belongs to.

from benchmark.report.frame import compare, load, plot

frame = load("results/multi30k-en-de")
compare(frame, "bleu")
plot(frame, "validation_loss", x="step")
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from benchmark.config import UserError, canonical_json, shown
from benchmark.measure.significance import summarise
from benchmark.record import (
    LayerRecord,
    Row,
    Score,
    SpeedRecord,
    SpeedRow,
    TrainRecord,
    UnreadableRecord,
    read_record,
)
from benchmark.report.study_results import StudyResults, load_study
from tasks import VALIDATION

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {
    "study": "The study's name.",
    "run_id": "The run that measured it.",
    "kind": "What made the record: train, speed, span, path, signal, complexity, time, ...",
    "status": "Of the run: done, failed or diverged.",
    "model": "The model, as reports call it; of layers what was measured.",
    "settings": "JSON of the fields of the experiment that vary for this model within the study's match.",
    "task": "The task's preset, else its name.",
    "task_version": "Of the task's code; missing for layers.",
    "task_settings": "JSON of the task's fields; missing for layers.",
    "task_fingerprint": "Hash of the data files that were read; missing where none is known.",
    "seed": "Of the run; missing where there is none.",
    "match": "What the study holds equal; a run that is a cell of several matches has its rows in each.",
    "invalid": "Why a run breaks its match; missing where it does not.",
    "trial": "Number of the trial of the search; missing in the comparison.",
    "phase": "Of a speed record: train, generate ...",
    "split": "The split that a score is of.",
    "step": "Optimiser steps until a validation of training; missing for what is measured at the end.",
    "quantity": "What was measured: bleu, train_target_tokens_per_second, kernel_depth, ...",
    "value": "Its value.",
    "unit": "Its unit.",
    "signature": "Of a score: how it was counted; only equal ones compare.",
    "low": "Lower end of its 95 % interval, where the record has one.",
    "high": "Upper end.",
    "device": "The accelerator or processor.",
    "devices": "Processes that shared the batch.",
    "threads": "CPU threads of each.",
    "precision": "float32 or bfloat16.",
    "torch_version": "That computed it.",
    "harness_version": "Of what decides a result here beside the config.",
}
"""What each column holds. Conditions of a measurement (`n`, `d`, `batch`, ...) are columns after these."""

_INTEGERS = ("task_version", "seed", "trial", "step", "devices", "threads", "harness_version")
_NUMBERS = ("value", "low", "high")

UNITS = {
    "parameters": "",
    "body_parameters": "",
    "vocabulary_parameters": "",
    "operations_per_step": "operations",
    "steps": "steps",
    "train_seconds": "s",
    "energy_joules": "J",
    "wall_seconds_total": "s",
    "train_target_tokens": "tokens",
    "train_target_tokens_per_second": "tokens/s",
    "train_source_and_target_tokens_per_second": "tokens/s",
    "train_padded_tokens_per_second": "tokens/s",
    "train_sentences_per_second": "sentences/s",
    "updates_per_second": "1/s",
    "padding_share": "1",
    "step_seconds_median": "s",
    "generate_sentences_per_second": "sentences/s",
    "generate_target_tokens_per_second": "tokens/s",
    "peak_memory_bytes": "bytes",
    "validation_perplexity_per_token": "1",
    "validation_perplexity_per_word": "1",
}
"""The fields of a training record that become rows, with their units."""


def load(study: str | Path) -> pd.DataFrame:
    """Every value of a study, tidy; `COLUMNS` says what the columns hold.

    Args:
        study: the study's folder.

    Raises:
        UserError: there is no such folder, or its `study.yaml` cannot be read.
    """
    folder = Path(study)
    results = load_study(folder)
    rows = [*_train_rows(results, folder), *_speed_rows(results), *_layer_rows(results)]
    further = sorted({name for row in rows for name in row} - set(COLUMNS))
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *further])
    for name in _INTEGERS:
        frame[name] = frame[name].astype("Int64")
    for name in _NUMBERS:
        frame[name] = frame[name].astype("float64")
    for name in (one for one in COLUMNS if one not in (*_INTEGERS, *_NUMBERS)):
        frame[name] = frame[name].astype("string")
    frame.attrs["unreadable"] = list(results.unreadable)
    return frame


def _train_rows(study: StudyResults, folder: Path) -> Iterator[dict[str, Any]]:
    cells = {
        (record.run_id, group.conditions.match): (canonical_json(cell.settings), cell.invalid or None)
        for group in study.groups
        for cell in group.cells
        for record in cell.records
    }
    for record in (*study.train_records, *study.trials):
        head = {
            **_head(record),
            "model": record.model_preset,
            "task": record.task_preset or record.task_name,
            "task_version": record.task_version,
            "task_settings": canonical_json(record.experiment.get("task")),
            "task_fingerprint": record.task_fingerprint or None,
            "seed": record.seed,
            "trial": study.trial_numbers.get(record.run_id),
        }
        values = list(_values(record, folder))
        for match in study.matches.get(record.run_id, [""]):
            settings, invalid = cells.get((record.run_id, match), ("{}", None))
            held = {"match": match, "settings": settings, "invalid": invalid}
            yield from ({**head, **held, **value} for value in values)


def _values(record: TrainRecord, folder: Path) -> Iterator[dict[str, Any]]:
    """Scores, measured fields, and the curve as far as the record's file can be read."""
    for score in record.scores:
        yield _score(score, score.metric)
    for name, unit in UNITS.items():
        value = getattr(record, name)
        if value is not None:
            yield {"quantity": name, "value": value, "unit": unit}
    try:
        whole = read_record(folder / "runs" / record.run_id / "record.json")
    except UnreadableRecord:
        return
    for point in whole.curve if isinstance(whole, TrainRecord) else []:
        at = {"split": VALIDATION, "step": point.step}
        if point.validation_loss is not None:
            loss = {"quantity": "validation_loss", "value": point.validation_loss, "unit": "nats/token"}
            yield {**loss, **at}
        for score in point.scores:
            yield {**_score(score, f"validation_{score.metric}"), **at}


def _score(score: Score, quantity: str) -> dict[str, Any]:
    value = {"quantity": quantity, "value": score.value, "unit": "of 100"}
    return {**value, "split": score.split, "signature": score.signature}


def _speed_rows(study: StudyResults) -> Iterator[dict[str, Any]]:
    for record in study.speed_records:
        # They share their task.
        task = next((one.get("task") for one in record.experiments.values()), None)
        for row in record.rows:
            yield {
                **_measured(row),
                **_head(record),
                "model": row.model,
                "task": record.task_preset or record.task_name,
                "task_version": record.task_version,
                "task_settings": canonical_json(task),
                "phase": row.phase,
            }


def _layer_rows(study: StudyResults) -> Iterator[dict[str, Any]]:
    for record in study.layer_records:
        for row in record.rows:
            yield {
                **_measured(row),
                **_head(record),
                "model": record.subject,
            }


def _measured(row: SpeedRow | Row) -> dict[str, Any]:
    value = {"quantity": row.quantity, "value": row.value, "unit": row.unit, "low": row.low, "high": row.high}
    return {**row.conditions, **value}


def _head(record: TrainRecord | SpeedRecord | LayerRecord) -> dict[str, Any]:
    provenance = record.provenance
    return {
        "study": record.study,
        "run_id": record.run_id,
        "kind": record.kind,
        "status": record.status,
        "device": provenance.device,
        "devices": provenance.devices,
        "threads": provenance.threads,
        "precision": provenance.precision,
        "torch_version": provenance.torch_version,
        "harness_version": provenance.harness_version,
    }


CONDITIONS = (
    "study", "task", "task_version", "task_settings", "task_fingerprint", "device", "devices", "threads",
    "precision", "torch_version", "harness_version", "match",
)  # fmt: skip
"""What has to be equal between values that are compared."""


def compare(frame: pd.DataFrame, quantity: str, split: str | None = None) -> pd.DataFrame:
    """Mean of a quantity over seeds for each model and setting, with its 95 % t-interval.

    Runs that are done and keep their match count, and no trials of a search.

    Args:
        frame: of `load`; several may be concatenated.
        quantity: one of the frame's.
        split: of a score; all where it is not given.

    Returns:
        One row for each set of `CONDITIONS`, split, model and setting, and for each phase, step and further
        condition where the quantity has them: `mean`, `low` and `high` (missing with one seed), `seeds`,
        `unit` and `signature` (of a score). Only rows whose index is equal but for model and settings may be
        compared.

    Raises:
        UserError: the frame has no such quantity or split, or scores of several signatures.
    """
    chosen = _chosen(frame, quantity, split)
    index = _index(chosen)
    rows = []
    for key, values in chosen.groupby(index, dropna=False, sort=False):
        summary = summarise(list(values["value"]))
        half = np.nan if summary.half_width is None else summary.half_width
        rows.append(
            {
                **dict(zip(index, key, strict=True)),
                "mean": summary.mean,
                "low": summary.mean - half,
                "high": summary.mean + half,
                "seeds": summary.number_of_seeds,
                "unit": values["unit"].iloc[0],
                "signature": values["signature"].iloc[0],
            }
        )
    return pd.DataFrame(rows).set_index(index)


def plot(
    frame: pd.DataFrame, quantity: str, x: str = "step", split: str | None = None, ax: Axes | None = None
) -> Axes:
    """A quantity over a column: means over seeds, with their 95 % t-intervals as bands.

    Each model has a line, and where there are several matches, tasks, devices, ... one for each: what
    `compare` tells apart is never in one mean. Runs that are done and keep their match count, and no trials
    of a search.

    Args:
        frame: of `load`.
        quantity: one of the frame's.
        x: a column of numbers, such as `step` or `n`.
        split: of a score; all where it is not given.
        ax: where to draw; a new figure where it is not given.

    Raises:
        UserError: the frame has no such quantity, split or column, or scores of several signatures.
    """
    import matplotlib.pyplot as plt

    if x not in frame:
        raise UserError(f"no column {shown(x)}; there are {', '.join(frame.columns)}")
    chosen = _chosen(frame, quantity, split).dropna(subset=[x])
    if chosen.empty:
        raise UserError(f"{quantity}: not measured over {shown(x)}")
    apart = [
        name for name in _index(chosen) if name not in ("model", x) and chosen[name].nunique(dropna=False) > 1
    ]
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    for key, values in chosen.groupby(["model", *apart], dropna=False, sort=False):
        line: list[tuple[float, float, float, float]] = []
        for place, here in values.groupby(x):
            summary = summarise(list(here["value"]))
            half = summary.half_width or 0.0
            line.append((float(str(place)), summary.mean, summary.mean - half, summary.mean + half))
        across, mean, low, high = zip(*line, strict=True)
        (drawn,) = ax.plot(across, mean, marker=".", label=_label(apart, key))
        ax.fill_between(across, low, high, color=drawn.get_color(), alpha=0.15)
    unit = chosen["unit"].iloc[0]
    ax.set_xlabel(x)
    ax.set_ylabel(
        f"{quantity.replace('_', ' ')}, {unit}" if unit not in ("", "1") else quantity.replace("_", " ")
    )
    ax.legend(fontsize="small")
    return ax


def _label(names: Sequence[str], key: Sequence[Any]) -> str:
    """The model, and what sets its line apart from others."""
    model, *rest = key
    told = [
        f"{name} {value}"
        for name, value in zip(names, rest, strict=True)
        if not pd.isna(value) and value not in ("", "{}")
    ]
    return ", ".join([str(model), *told])


def _index(chosen: pd.DataFrame) -> list[str]:
    """The columns that set values of one quantity apart, but for the seed."""
    further = ["phase", "step", *(name for name in map(str, chosen.columns) if name not in COLUMNS)]
    return [*CONDITIONS, "split", "model", "settings", *(n for n in further if chosen[n].notna().any())]


def _chosen(frame: pd.DataFrame, quantity: str, split: str | None) -> pd.DataFrame:
    """The values of a quantity that may be compared: of runs that are done and valid, and of no search."""
    chosen = frame[frame["quantity"] == quantity]
    if chosen.empty:
        raise UserError(
            f"no quantity {shown(quantity)}; there are {', '.join(frame['quantity'].dropna().unique())}"
        )
    if split is not None:
        chosen = chosen[chosen["split"] == split]
        if chosen.empty:
            raise UserError(f"{quantity}: not measured on split {shown(split)}")
    chosen = chosen[chosen["trial"].isna() & (chosen["status"] == "done") & chosen["invalid"].isna()]
    if chosen.empty:
        raise UserError(f"{quantity}: no run outside of a search is done and keeps its match")
    for _, together in chosen.groupby([*CONDITIONS, "split"], dropna=False):
        signatures = together["signature"].dropna().unique()
        if len(signatures) > 1:
            raise UserError(
                f"{quantity}: scores of several signatures do not compare ({', '.join(signatures)}); choose "
                "those of one: frame[frame['signature'] == ...]"
            )
    return chosen
