"""Scores of a study made again from what its runs produced, without the models and without torch.

A record is never edited: what is found lies beside it in `scores.json`, and where it differs from the record,
by more than rounding or by its signature, that is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.config import UserError, checked, shown, task_module
from benchmark.hypotheses import hypotheses_path, lines_sha256, read_lines
from benchmark.measure.quality import METRICS
from benchmark.record import Score, TrainRecord
from benchmark.store import StudyFolder, write_atomic
from benchmark.study_texts import kept_references, kept_sources, texts_folder
from tasks import VALIDATION

TOLERANCE = 1e-9
"""How far a score may be from the record's; both are computed in double precision from the same texts."""


@dataclass(frozen=True, kw_only=True)
class Rescored:
    """One score of a record, made again."""

    run_id: str
    split: str
    metric: str
    recorded_value: float
    value: float | None
    """None where it could not be made; `difference` says why."""
    signature: str | None
    sentences: int | None
    difference: str | None
    """What does not agree with the record, in one line; None where all does."""


def rescore(study_folder: Path, data_directory: Path, *, trust_code: bool = False) -> list[Rescored]:
    """Score all stored output of a study again and write `scores.json` beside each record.

    Args:
        study_folder: the study; its own texts are used where it has them.
        data_directory: where tasks whose texts may not be copied have their data.
        trust_code: whether a task's file outside the repository may run that only a record names.

    Raises:
        UserError: the study or its records cannot be read, or a task cannot give its references.
    """
    contents = StudyFolder(study_folder.resolve().parent, study_folder.resolve().name).contents()
    references = References(study_folder, data_directory, trust_code=trust_code)
    result: list[Rescored] = []
    for record in contents.records:
        if not isinstance(record, TrainRecord) or not record.hypotheses_sha256:
            continue
        run_folder = study_folder / "runs" / record.run_id
        mine: list[Rescored] = []
        for split in record.hypotheses_sha256:
            mine += scores_again(record, split, run_folder, references.of(record, split))
        scores = [asdict(score) for score in mine]
        text = json.dumps({"run_id": record.run_id, "scores": scores}, indent=1, allow_nan=False) + "\n"
        write_atomic(run_folder / "scores.json", text.encode())
        result += mine
    return result


class _Texts(NamedTuple):
    references: list[str]
    sources: list[str] | None


class References:
    """The texts of a study's splits, each read once: from its own copies, else from the task.

    Args:
        study_folder: the study.
        data_directory: where tasks whose texts may not be copied have their data.
        trust_code: whether a task's file outside the repository may run that only a record names.
    """

    def __init__(self, study_folder: Path, data_directory: Path, *, trust_code: bool = False) -> None:
        self.study_folder = study_folder
        self.data_directory = data_directory
        self.trust_code = trust_code
        self._read: dict[tuple[Path, str], _Texts] = {}

    def of(self, record: TrainRecord, split: str) -> list[str]:
        """The references of a run's split.

        Raises:
            UserError: they are not kept, and the task cannot give them or has others now.
        """
        return self._texts(record, split).references

    def sources(self, record: TrainRecord, split: str) -> list[str] | None:
        """The sources of a run's split, where they are known with its references; errors as `of`."""
        return self._texts(record, split).sources

    def _texts(self, record: TrainRecord, split: str) -> _Texts:
        task = record.experiment.get("task")
        if not isinstance(task, Mapping):
            path = self.study_folder / "runs" / record.run_id / "record.json"
            raise UserError(f"{path}: its experiment has no task")
        folder = texts_folder(
            self.study_folder, task, version=record.task_version, fingerprint=record.task_fingerprint
        )
        if (folder, split) not in self._read:
            kept = kept_references(folder, split)
            if kept is None:
                texts = _from_task(record, split, self.data_directory, trust_code=self.trust_code)
            else:
                texts = _Texts(kept, kept_sources(folder, split))
            self._read[folder, split] = texts
        return self._read[folder, split]


def _from_task(record: TrainRecord, split: str, data_directory: Path, *, trust_code: bool) -> _Texts:
    """The texts of a split as the task gives them now; refused where its data are others."""
    section: dict[str, Any] = dict(record.experiment["task"])  # type: ignore[arg-type]  # checked by `References`
    loaded = task_module(str(section.pop("name", "")), files_allowed=trust_code)
    config = checked("task", loaded.module.Config, section)
    where = f"run {record.run_id}: task {record.task_name}"
    if config.version != record.task_version:
        raise UserError(
            f"{where}: was version {record.task_version} and is now {config.version}; its data differ"
        )
    recorded_hash = record.experiment.get("task_file_sha256")
    if loaded.file_sha256 != recorded_hash:
        raise UserError(f"{where}: its file has changed since the run; its sha256 was {shown(recorded_hash)}")
    try:
        task = config.build(data_directory)
        if task.fingerprint() != record.task_fingerprint:
            raise UserError(f"{where}: its data files have changed since the run")
        pairs = list(task.pairs(split))
        return _Texts([reference for _, reference in pairs], [source for source, _ in pairs])
    except ValueError as error:
        raise error if isinstance(error, UserError) else UserError(f"{where}: {error}") from error


def scores_again(record: TrainRecord, split: str, run_folder: Path, references: list[str]) -> list[Rescored]:
    """The scores of one split of a run, made again from its stored output."""
    path = hypotheses_path(run_folder, split)
    scores = [score for score in record.scores if score.split == split]
    try:
        hypotheses = read_lines(path)
    except FileNotFoundError:
        return [_without_value(record, score, f"{path.name} is missing") for score in scores]
    except ValueError as error:
        return [_without_value(record, score, str(error).replace(str(path), path.name)) for score in scores]
    changed = lines_sha256(hypotheses) != record.hypotheses_sha256[split]
    if split == VALIDATION:
        # a run may generate the first sentences of this split only
        references = references[: len(hypotheses)]
    return [_again(record, score, hypotheses, references, changed=changed) for score in scores]


def _again(
    record: TrainRecord, score: Score, hypotheses: list[str], references: list[str], *, changed: bool
) -> Rescored:
    if score.metric not in METRICS:
        return _without_value(record, score, f"no metric {shown(score.metric)} here")
    try:
        new = METRICS[score.metric](hypotheses, references)
    except ValueError as error:
        return _without_value(record, score, str(error))
    differences = ["the stored output is not what the run produced"] if changed else []
    if abs(new.value - score.value) > TOLERANCE:
        differences.append(f"is {new.value!r}, was {score.value!r}")
    if new.signature != score.signature:
        differences.append(f"signature is {new.signature}, was {score.signature}")
    if new.sentences != score.sentences:
        differences.append(f"{new.sentences} sentences, were {score.sentences}")
    return Rescored(
        run_id=record.run_id,
        split=score.split,
        metric=score.metric,
        recorded_value=score.value,
        value=new.value,
        signature=new.signature,
        sentences=new.sentences,
        difference="; ".join(differences) or None,
    )


def _without_value(record: TrainRecord, score: Score, reason: str) -> Rescored:
    return Rescored(
        run_id=record.run_id,
        split=score.split,
        metric=score.metric,
        recorded_value=score.value,
        value=None,
        signature=None,
        sentences=None,
        difference=reason,
    )
