"""A trained run as a model: the weights that were scored, and nothing that they were not scored with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.config import UserError, experiment_from
from benchmark.record import TrainRecord
from benchmark.store import RunFolder

if TYPE_CHECKING:
    from models import Seq2SeqModel


def run_folder(name: str, results: Path) -> Path:
    """Where a run lies that a measurement names: within the results, or by its whole path."""
    return results / name


def trained_record(run_folder: Path) -> TrainRecord:
    """The record of a run that is done.

    Raises:
        UserError: there is none, or it is of something else.
    """
    record = RunFolder(run_folder).record()
    if record is None:
        raise UserError(f"{run_folder}: has no record; give the folder of a run that is done")
    if not isinstance(record, TrainRecord) or record.status != "done":
        raise UserError(f"{run_folder}: is no training run that is done")
    return record


def trained_model(run_folder: Path, *, trust_code: bool = False) -> Seq2SeqModel:
    """The model of a run with the weights that its scores are of, in evaluation mode.

    Raises:
        UserError: the run is not done, its code has another version now, or its weights are gone or changed.
    """
    from benchmark import checkpoint
    from benchmark.trainer import build_model

    record = trained_record(run_folder)
    experiment = experiment_from(record.experiment, files_allowed=trust_code)
    if experiment.model.version != record.model_version:
        raise UserError(
            f"{run_folder}: was trained by version {record.model_version} of {record.model_name}; this is "
            f"version {experiment.model.version}: its weights mean something else here"
        )
    path = run_folder / "checkpoints" / checkpoint.AVERAGED
    if not path.exists():
        raise UserError(
            f"{path}: is not there; checkpoints lie where a run was trained, and are not committed"
        )
    weights = checkpoint.load(path)
    if checkpoint.weights_sha256(weights) != record.weights_sha256:
        raise UserError(f"{path}: holds other weights than those that were scored")
    assert record.vocabulary_size is not None
    model = build_model(experiment, record.vocabulary_size)
    model.load_state_dict(weights)
    return model.eval()


def untrained_model(run_folder: Path, *, trust_code: bool = False) -> Seq2SeqModel:
    """The model of a run as its training found it, in evaluation mode; errors as of `trained_record`."""
    from benchmark.trainer import build_model

    record = trained_record(run_folder)
    assert record.vocabulary_size is not None
    experiment = experiment_from(record.experiment, files_allowed=trust_code)
    return build_model(experiment, record.vocabulary_size).eval()
