"""Checkpoints that are whole or absent, and hold no code.

    checkpoints/step-00001500.ckpt           all that training goes on from; the last two are kept
                step-00001500.ckpt.sha256
                weights-00001500.pt          weights at a validation; the last ones are averaged and scored
                weights-00001500.pt.sha256
                averaged.pt                  their mean, which was scored

A file without its checksum, or with another, is no checkpoint: training goes on from one before it. Loading
never unpickles anything but tensors and plain values, and has no second way to try.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from torch import Tensor

from benchmark.config import UserError
from benchmark.store import write_atomic

AVERAGED = "averaged.pt"
"""The weights that were scored."""
KEPT = 2
"""Training checkpoints that stay: if the last is damaged, the one before it serves."""


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def save(content: Any, path: Path) -> None:
    """Write tensors and plain values to `path`, and their checksum beside it, each atomically."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    write_atomic(path, data)
    write_atomic(_checksum_path(path), hashlib.sha256(data).hexdigest().encode())


def is_whole(path: Path) -> bool:
    """Whether the file is there and is what was written."""
    try:
        expected = _checksum_path(path).read_text("ascii", errors="replace").strip()
        return hashlib.sha256(path.read_bytes()).hexdigest() == expected
    except OSError:
        return False


def load(path: Path) -> Any:
    """What `save` wrote. UserError where it is damaged, or holds more than tensors and plain values."""
    if not is_whole(path):
        raise UserError(
            f"{path}: damaged or incomplete: its SHA-256 is not the one beside it; delete it to go on"
        )
    try:
        with warnings.catch_warnings():  # torch warns of pickles that it then refuses
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: holds more than tensors and plain values; it was not made by seqbench"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint: {str(error).partition(chr(10))[0]}") from None


def _step(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _numbered(folder: Path, kind: str, suffix: str) -> list[Path]:
    return sorted(folder.glob(f"{kind}-" + "[0-9]" * 8 + suffix), key=_step)


def training_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.ckpt"


def latest(folder: Path) -> Path | None:
    """The newest whole training checkpoint from before any damaged weights, if any: those are made again."""
    damaged = [_step(path) for path in _numbered(folder, "weights", ".pt") if not is_whole(path)]
    end = min(damaged, default=math.inf)
    candidates = (path for path in reversed(_numbered(folder, "step", ".ckpt")) if _step(path) < end)
    return next((path for path in candidates if is_whole(path)), None)


def last_step(folder: Path) -> int | None:
    """Of the newest whole training checkpoint."""
    path = latest(folder)
    return None if path is None else _step(path)


def has_any(folder: Path) -> bool:
    """Whether there are training checkpoints, whole or not."""
    return bool(_numbered(folder, "step", ".ckpt"))


def remove_old(folder: Path) -> None:
    """Delete training checkpoints but the last `KEPT` whole ones."""
    whole = [path for path in _numbered(folder, "step", ".ckpt") if is_whole(path)]
    for path in whole[:-KEPT]:
        _checksum_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def save_weights(weights: dict[str, Tensor], folder: Path, step: int, kept: int) -> None:
    """Keep the weights of a validation, and no more than the last `kept`."""
    save({name: tensor.detach().cpu() for name, tensor in weights.items()}, _weights_path(folder, step))
    # Those of later steps are left from an attempt whose checkpoint was lost; they will be made again.
    earlier = [path for path in _numbered(folder, "weights", ".pt") if _step(path) <= step]
    for path in earlier[:-kept]:
        _checksum_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def average_weights(folder: Path, steps: Sequence[int]) -> dict[str, Tensor]:
    """Mean of the weights of the validations after `steps`, summed in float64."""
    paths = [_weights_path(folder, step) for step in steps]
    for path in paths:
        if not is_whole(path):
            raise UserError(f"{path}: missing or damaged; remove {folder} to train from the start")
    return average([load(path) for path in paths])


def _weights_path(folder: Path, step: int) -> Path:
    return folder / f"weights-{step:08d}.pt"


def average(weights: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of each tensor, summed in float64."""
    mean = {}
    for name, first in weights[0].items():
        total = torch.stack([each[name].double() for each in weights]).mean(0)
        mean[name] = total.to(first.dtype)
    return mean


def weights_sha256(weights: dict[str, Tensor]) -> str:
    """Of names, shapes and bytes of all tensors, in order of their names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


class SafeCheckpointIO(CheckpointIO):
    """Atomic, synced and checked: Lightning's own stages elsewhere, without fsync or checksum."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        save(checkpoint, Path(path))

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        loaded: dict[str, Any] = load(Path(path))
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        _checksum_path(Path(path)).unlink(missing_ok=True)
        Path(path).unlink(missing_ok=True)
