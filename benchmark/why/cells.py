"""What `seqbench why` measures, at each scale: one cell for each subject and kind of measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from benchmark.config import HARNESS_VERSION, canonical_json
from benchmark.record import LayerKind
from benchmark.trained import trained_record

Scale = Literal["quick", "standard", "full"]
Precision = Literal["float32", "bfloat16"]
MODELS = ("transformer", "convs2s", "lstm")

ATTENTION = "self-attention"
RESTRICTED = "restricted self-attention, r = 8"
RECURRENT = "recurrent"
CONVOLUTION = "convolution, k = 3"
DILATED = "dilated convolution, k = 3"
SEPARABLE = "separable convolution, k = 3"
FULL_SEPARABLE = "separable convolution, k = n"
CELLS = "recurrent, cell by cell"
VARIANTS = "kernels and neighbourhoods"
TIMED_RESTRICTED = "restricted self-attention, r = 32"

TIMED = (ATTENTION, TIMED_RESTRICTED, RECURRENT, CELLS, CONVOLUTION, SEPARABLE)

WRITTEN_OUT = 256
"""Up to this length self-attention writes its scores out on a CPU."""
KERNELS_OF_ATTENTION = (
    f"On a CPU self-attention writes its scores out up to n = {WRITTEN_OUT} and is fused beyond"
)

NEIGHBOURHOOD, KERNEL = 8, 3
KERNELS, SEPARABLE_KERNELS, NEIGHBOURHOODS = (3, 5, 9), (3, 9), (8, 32)
"""Over which operations and time are measured."""
TRAINED_LENGTHS = (16, 32)
"""Of random words through runs whose task has no distances."""
ATTENTION_SENTENCES = 32
"""Over which attention is averaged."""
WIDTH = 16
"""Of layers whose dependencies are followed: they do not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Over what a scale measures."""

    spans: tuple[int, ...]
    """Lengths of span and path."""
    powers: tuple[int, ...]
    """Lengths of path in dilated convolutions: powers of the kernel."""
    signals: tuple[int, ...]
    model_lengths: tuple[int, ...]
    lengths: tuple[int, ...]
    """Of operations and memory."""
    widths: tuple[int, ...]
    timed_lengths: tuple[int, ...]
    timed_widths: tuple[int, ...]
    tokens: int
    """Positions of a full batch."""
    batches: tuple[int, ...]
    """Of utilisation."""
    rounds: int
    scales: bool = True
    """Whether training on several devices is timed."""
    study: str = ""
    """The study whose models are trained for the claims that need it; empty where none is."""


GRIDS: Mapping[Scale, Grid] = {
    "quick": Grid(
        spans=(16, 32, 64),
        powers=(9, 27, 81),
        signals=(64,),
        model_lengths=(4, 8, 12),
        lengths=(32, 64, 128, 256),
        widths=(32, 64, 128),
        timed_lengths=(16, 64, 256, 512),
        timed_widths=(64, 256),
        tokens=1024,
        batches=(1, 8, 64),
        rounds=7,
        scales=False,
    ),
    "standard": Grid(
        spans=(16, 32, 64, 128, 256),
        powers=(9, 27, 81, 243),
        signals=(64, 256, 512),
        model_lengths=(8, 16, 24),
        lengths=(16, 64, 256, 1024, 2048),
        widths=(64, 128, 256, 512),
        timed_lengths=(16, 32, 64, 128, 256, 512, 1024),
        timed_widths=(64, 128, 256, 512),
        tokens=4096,
        batches=(1, 4, 16, 64, 256),
        rounds=9,
        study="why",
    ),
    "full": Grid(
        spans=(16, 32, 64, 128, 256),
        powers=(9, 27, 81, 243),
        signals=(64, 256, 512, 1024),
        model_lengths=(8, 16, 32, 64),
        lengths=(16, 64, 256, 1024, 4096, 16384),
        widths=(64, 128, 256, 512, 1024),
        timed_lengths=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
        timed_widths=(64, 128, 256, 512, 1024),
        tokens=16384,
        batches=(1, 4, 16, 64, 256, 1024),
        rounds=15,
        study="why",
    ),
}


@dataclass(frozen=True, kw_only=True)
class LayerCell:
    """One measurement."""

    kind: LayerKind
    subject: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    device: str = ""
    """Of a time: it belongs to the device, so that is part of the id."""
    devices: int = 1
    """The most that it needs at a time."""

    @property
    def run_id(self) -> str:
        identity = {
            "kind": self.kind,
            "subject": self.subject,
            "settings": self.settings,
            "device": self.device,
            "harness": HARNESS_VERSION,
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]

    def document(self) -> dict[str, Any]:
        """The cell as the `config.yaml` of its run holds it."""
        return {
            "run_id": self.run_id,
            "kind": self.kind,
            "subject": self.subject,
            "device": self.device,
            "experiment": dict(self.settings),
        }


def cells(scale: Scale, device: str, precision: Precision = "float32", seed: int = 0) -> list[LayerCell]:
    """All of a scale that needs no training; those that answer most in least time first. `device` is what
    times belong to, `precision` that of the layers that are timed; `seed` decides the weights of untrained
    layers and models, and the order of rounds.
    """
    # The ids of runs are older than these choices.
    chosen = {} if precision == "float32" else {"precision": precision}
    every = _cells(GRIDS[scale], device, chosen)
    return [replace(one, settings={**one.settings, "seed": seed}) for one in every] if seed else every


def _cells(grid: Grid, device: str, chosen: Mapping[str, Any]) -> list[LayerCell]:
    return [
        *_spans(grid),
        *_paths(grid),
        *_complexities(grid),
        *_signals(grid),
        LayerCell(kind="lengths", subject="multi30k-en-de", settings={"task": "multi30k-en-de"}),
        *(_time(grid, width, device, chosen) for width in grid.timed_widths),
        _time_of_variants(grid, device, chosen),
        *_parallelism(grid, device, chosen),
    ]


def _layers(width: int) -> dict[str, dict[str, Any]]:
    return {
        ATTENTION: {"name": "self-attention", "width": width, "heads": 2},
        RESTRICTED: {
            "name": "restricted self-attention", "width": width, "heads": 2, "neighbourhood": NEIGHBOURHOOD,
        },
        RECURRENT: {"name": "recurrent", "width": width},
        CONVOLUTION: {"name": "convolution", "width": width, "kernel": KERNEL},
        SEPARABLE: {"name": "separable convolution", "width": width, "kernel": KERNEL},
    }  # fmt: skip


def _spans(grid: Grid) -> Iterator[LayerCell]:
    for subject, layer in _layers(WIDTH).items():
        settings = {"layer": layer, "lengths": list(grid.spans), "backward_to": 64}
        yield LayerCell(kind="span", subject=subject, settings=settings)
    for model in MODELS:
        settings = {"model": model, "lengths": list(grid.model_lengths), "backward_to": 64}
        yield LayerCell(kind="span", subject=model, settings=settings)


def _paths(grid: Grid) -> Iterator[LayerCell]:
    layers = _layers(WIDTH)
    for subject, layer in layers.items():  # contiguous where they are convolutions
        settings = {"layer": layer, "lengths": list(grid.spans), "matrix_length": 32}
        yield LayerCell(kind="path", subject=subject, settings=settings)
    settings = {
        "layer": layers[CONVOLUTION], "dilated": True, "lengths": list(grid.powers), "matrix_length": 27,
    }  # fmt: skip
    yield LayerCell(kind="path", subject=DILATED, settings=settings)
    for model in MODELS:
        settings = {"model": model, "lengths": list(grid.model_lengths)}
        yield LayerCell(kind="path", subject=model, settings=settings)


def _complexities(grid: Grid) -> Iterator[LayerCell]:
    heads = [_heads(width) for width in grid.widths]

    def cell(subject: str, layer: Mapping[str, Any], **further: Any) -> LayerCell:
        settings = {"layer": layer, "lengths": list(grid.lengths), "widths": list(grid.widths), **further}
        return LayerCell(kind="complexity", subject=subject, settings=settings)

    yield cell(ATTENTION, {"name": "self-attention"}, heads=heads)
    for r in NEIGHBOURHOODS:
        layer = {"name": "restricted self-attention", "neighbourhood": r}
        yield cell(f"restricted self-attention, r = {r}", layer, heads=heads)
    yield cell(RECURRENT, {"name": "recurrent"})
    for kernel in KERNELS:
        yield cell(f"convolution, k = {kernel}", {"name": "convolution", "kernel": kernel})
    for kernel in SEPARABLE_KERNELS:
        layer = {"name": "separable convolution", "kernel": kernel}
        yield cell(f"separable convolution, k = {kernel}", layer)
    yield cell(FULL_SEPARABLE, {"name": "separable convolution", "kernel": "n"})


def _signals(grid: Grid) -> Iterator[LayerCell]:
    layers = _layers(32)
    subjects: dict[str, dict[str, Any]] = {
        ATTENTION: {"layer": layers[ATTENTION]},
        RECURRENT: {"layer": layers[RECURRENT]},
        f"{RECURRENT}, forget bias 0": {"layer": layers[RECURRENT], "forget_bias": 0.0},
        f"{RECURRENT}, forget bias 3": {"layer": layers[RECURRENT], "forget_bias": 3.0},
        **{model: {"model": model} for model in MODELS},
    }
    for subject, settings in subjects.items():
        yield LayerCell(kind="signal", subject=subject, settings={**settings, "lengths": list(grid.signals)})


def _parallelism(grid: Grid, device: str, chosen: Mapping[str, Any]) -> Iterator[LayerCell]:
    width = grid.timed_widths[-1]
    settings: dict[str, Any] = {
        "layers": _timed_layers(width),
        "width": width,
        "length": 32,
        "batches": list(grid.batches),
        "rounds": grid.rounds,
        "seed": 0,
        **chosen,
    }
    yield LayerCell(kind="utilisation", subject=f"layers, d = {width}", settings=settings, device=device)
    for model in MODELS if grid.scales else ():
        settings = {
            "model": f"{model}-small",
            "task": "reverse",
            "batch_tokens": 1024,
            "steps": 10,
            "devices": [2],
            "threads": 1,
            "rounds": grid.rounds,
            "seed": 0,
        }
        subject = f"training, {settings['model']}"
        yield LayerCell(kind="scaling", subject=subject, settings=settings, device=device, devices=2)


def _heads(width: int) -> int:
    """Of attention whose operations, memory or time are measured: of 64 channels each, as in the paper."""
    return max(1, width // 64)


def _timed_layers(width: int) -> dict[str, dict[str, Any]]:
    return {
        ATTENTION: {"name": "self-attention", "heads": _heads(width)},
        TIMED_RESTRICTED: {
            "name": "restricted self-attention", "neighbourhood": 32, "heads": _heads(width),
        },
        RECURRENT: {"name": "recurrent"},
        CELLS: {"name": "recurrent", "fused": False},
        CONVOLUTION: {"name": "convolution", "kernel": KERNEL},
        SEPARABLE: {"name": "separable convolution", "kernel": KERNEL},
    }  # fmt: skip


def trained_cells(results: Path, runs: Sequence[Path]) -> list[LayerCell]:
    """What is measured of trained runs, whose folders are given; `results` is what they are named within.

    Of every run its signal; and where it looks, on a task of distances: one seed of each model, and all of
    those with several heads, whose roles are compared over seeds.

    Raises:
        UserError: a run is not done.
    """
    found, seen = [], set()
    for run in runs:
        record = trained_record(run)
        kind = (record.model_preset, record.task_preset, record.task_name)
        is_first = kind not in seen
        seen.add(kind)
        root, folder = results.resolve(), run.resolve()
        settings = {
            "run": str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder),
            "weights_sha256": record.weights_sha256,
            "task": record.task_name,
            "seed": record.seed,
        }
        subject = f"{record.model_preset} on {record.task_preset or record.task_name}, seed {record.seed}"
        splits = list(dict.fromkeys(one.split for one in record.scores if one.split.endswith("_trained")))
        if not splits:
            lengths = {"vocabulary_size": record.vocabulary_size, "lengths": list(TRAINED_LENGTHS)}
            found.append(LayerCell(kind="signal", subject=subject, settings={**settings, **lengths}))
            continue
        found.append(LayerCell(kind="signal", subject=subject, settings={**settings, "split": splits[-1]}))
        if is_first or record.model_name == "transformer":
            split = {"split": splits[len(splits) // 2], "sentences": ATTENTION_SENTENCES}
            found.append(LayerCell(kind="attention", subject=subject, settings={**settings, **split}))
    return found


def _time(grid: Grid, width: int, device: str, chosen: Mapping[str, Any]) -> LayerCell:
    settings = {
        "layers": _timed_layers(width),
        "width": width,
        "lengths": list(grid.timed_lengths),
        "tokens": grid.tokens,
        "rounds": grid.rounds,
        "seed": 0,
        **chosen,
    }
    return LayerCell(kind="time", subject=f"layers, d = {width}", settings=settings, device=device)


def _time_of_variants(grid: Grid, device: str, chosen: Mapping[str, Any]) -> LayerCell:
    """Of kernels and neighbourhoods, at one width and the longest sentences."""
    width = grid.timed_widths[len(grid.timed_widths) // 2]
    layers: dict[str, dict[str, Any]] = {
        **{f"convolution, k = {kernel}": {"name": "convolution", "kernel": kernel} for kernel in KERNELS},
        **{
            f"separable convolution, k = {kernel}": {"name": "separable convolution", "kernel": kernel}
            for kernel in SEPARABLE_KERNELS
        },
        **{
            f"restricted self-attention, r = {r}": {
                "name": "restricted self-attention", "neighbourhood": r, "heads": _heads(width),
            }
            for r in NEIGHBOURHOODS
        },
    }  # fmt: skip
    cell = _time(grid, width, device, chosen)
    settings = {**cell.settings, "layers": layers, "lengths": list(grid.timed_lengths[-2:])}
    return replace(cell, subject=f"{VARIANTS}, d = {width}", settings=settings)
