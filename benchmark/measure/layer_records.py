"""From a cell of `seqbench why` to its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from benchmark.config import RunOptions, experiment_from
from benchmark.device import use_device
from benchmark.measure.layers import (
    complexity_rows,
    lengths_rows,
    path_rows,
    precision_of,
    signal_rows,
    span_rows,
    time_rows,
    utilisation_rows,
    weights_from,
)
from benchmark.measure.machine import MachineWatch, gpu_uuid
from benchmark.measure.scaling import scaling_rows
from benchmark.measure.timing import Clock
from benchmark.measure.trained_rows import attention_rows, trained_signal_rows
from benchmark.record import LayerRecord, Row, available_cores, take_provenance, threads_of
from benchmark.request import preset
from benchmark.trainer import corpus_of, quiet
from tasks import TRAIN

TIMED = ("time", "utilisation", "scaling")
"""Whose records belong to a device."""
ON_CPU = {"span": span_rows, "path": path_rows, "complexity": complexity_rows}
"""Exact or in float64, so that the device does not matter."""


def measured(document: Mapping[str, Any], options: RunOptions) -> LayerRecord:
    """The record of what a cell's `config.yaml` asks for.

    Raises:
        UserError: the data of a task are not there.
    """
    quiet()
    device = use_device(options.device, threads_of(options))
    kind, settings = document["kind"], document["experiment"]
    timed = kind in TIMED
    if not timed:
        device = torch.device("cpu")
    watch = MachineWatch(threads=torch.get_num_threads(), cores=available_cores(), gpu=gpu_uuid(device))
    watch.start()
    with weights_from(settings.get("seed", 0)):
        rows = list(_rows(kind, settings, options, device, watch))
    seen = watch.stop()
    return LayerRecord(
        kind=kind,
        run_id=document["run_id"],
        study=options.study,
        subject=document["subject"],
        settings=settings,
        status="done",
        provenance=take_provenance(device=device, precision=precision_of(settings)),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=rows,
        timing_method=_timing_method(kind, settings["rounds"], device) if timed else None,
        noisy=seen.noisy if timed else None,
        noise=list(seen.reasons) if timed else [],
    )


def _rows(
    kind: str, settings: Mapping[str, Any], options: RunOptions, device: torch.device, watch: MachineWatch
) -> Iterator[Row]:
    if kind == "time":
        return time_rows(settings, device, watch.sample)
    if kind == "utilisation":
        return utilisation_rows(settings, device, watch.sample)
    if kind == "scaling":
        return scaling_rows(settings, options)
    if kind == "signal":
        return trained_signal_rows(settings, options) if "run" in settings else signal_rows(settings)
    if kind == "attention":
        return attention_rows(settings, options)
    if kind == "lengths":
        return _lengths(settings["task"], options)
    return ON_CPU[kind](settings)


def _timing_method(kind: str, rounds: int, device: torch.device) -> str:
    if kind == "scaling":
        return (
            f"{Clock(device).name}; {rounds} rounds, in which the devices and one alone take turns at every "
            "step; medians with intervals of order statistics"
        )
    return (
        f"{Clock(device).name} after 2 warm-up rounds; {rounds} interleaved, shuffled rounds, none of which "
        "is left out; medians with intervals of order statistics"
    )


def _lengths(task: str, options: RunOptions) -> Iterator[Row]:
    """Tokens of the training sentences of a task's preset, the mark of their end included."""
    sections = {**preset("tasks", task), "model": {"name": "transformer"}}
    sections["training"] = {"steps": 1, "precision": "float32"}
    experiment = experiment_from(sections, files_allowed=False)
    _, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
    split = corpus.splits[TRAIN]
    yield from lengths_rows({"source": split.source.lengths(), "target": split.target.lengths()})
