"""A few sentences of a test split with what each model makes of them, what differs from references marked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from benchmark.config import UserError, one_line
from benchmark.hypotheses import hypotheses_path, lines_sha256, read_lines
from benchmark.record import TrainRecord
from benchmark.rescore import References
from tasks import VALIDATION

SENTENCES = 6
"""Shown of a run: evenly spaced over the split, the same for every run."""
LONGEST = 600
"""Characters of a sentence that are shown."""


class Part(NamedTuple):
    """Words of an output: in the reference as well or added to it; or of the reference, and missing."""

    text: str
    kind: Literal["same", "added", "missing"]


class Sample(NamedTuple):
    """One sentence."""

    number: int
    """Its line in the split, from 1."""
    source: str | None
    reference: str | None
    """None, as the source then is, where the texts are not at hand."""
    outputs: list[tuple[str, list[Part]]]
    """By model; without a reference nothing is marked."""


class Samples:
    """Reads texts and output of a study as they are needed, each once.

    Args:
        study_folder: the study.
        references: where references come from.
    """

    def __init__(self, study_folder: Path, references: References) -> None:
        self.study_folder = study_folder
        self._references = references
        self._outputs: dict[tuple[str, str], list[str] | None] = {}
        self.left_out: dict[str, None] = {}
        """Why sources and references are not shown, each reason once."""

    def of(self, record: TrainRecord, beside: Sequence[TrainRecord]) -> tuple[str, list[Sample]]:
        """A run's first test split, and sentences of it with the output of the runs beside it."""
        split = next((name for name in record.hypotheses_sha256 if name != VALIDATION), "")
        if not split:
            return "", []
        references: Sequence[str] | None = None
        sources: Sequence[str] | None = None
        try:
            references = self._references.of(record, split)
            sources = self._references.sources(record, split)
        except (UserError, ValueError) as error:
            reason = str(error).removeprefix(f"run {record.run_id}: ")
            self.left_out[f"sources and references of sentences: {reason}"] = None
        own = self._output(record, split)
        if own is None or (references is not None and len(own) != len(references)):
            return split, []
        outputs = {record.model_preset: own}
        for one in beside:
            lines = self._output(one, split)
            if lines is not None and len(lines) == len(own):
                outputs[one.model_preset] = lines
        return split, [self._sample(number, sources, references, outputs) for number in _spaced(len(own))]

    @staticmethod
    def _sample(
        number: int,
        sources: Sequence[str] | None,
        references: Sequence[str] | None,
        outputs: Mapping[str, Sequence[str]],
    ) -> Sample:
        reference = None if references is None else references[number]
        return Sample(
            number=number + 1,
            source=None if sources is None else _short(sources[number]),
            reference=None if reference is None else _short(reference),
            outputs=[
                (model, marked(lines[number], lines[number] if reference is None else reference))
                for model, lines in outputs.items()
            ],
        )

    def _output(self, record: TrainRecord, split: str) -> list[str] | None:
        key = (record.run_id, split)
        if key not in self._outputs:
            try:
                lines = read_lines(hypotheses_path(self.study_folder / "runs" / record.run_id, split))
                whole = lines_sha256(lines) == record.hypotheses_sha256.get(split)
                # Only what is shown is kept: a study may have thousands of runs.
                kept = set(_spaced(len(lines)))
                self._outputs[key] = (
                    [line if number in kept else "" for number, line in enumerate(lines)] if whole else None
                )
            except (OSError, ValueError):
                self._outputs[key] = None
        return self._outputs[key]


def _spaced(number: int) -> list[int]:
    shown = min(SENTENCES, number)
    return [(2 * index + 1) * number // (2 * shown) for index in range(shown)]


def _short(text: str) -> str:
    text = one_line(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def marked(output: str, reference: str) -> list[Part]:
    """Words of an output against those of its reference."""
    mine, theirs = _short(output).split(), _short(reference).split()
    parts: list[Part] = []
    matcher = difflib.SequenceMatcher(None, theirs, mine, autojunk=False)
    for what, first, last, start, end in matcher.get_opcodes():
        if what == "equal":
            parts.append(Part(" ".join(mine[start:end]), "same"))
        if what in ("delete", "replace"):
            parts.append(Part(" ".join(theirs[first:last]), "missing"))
        if what in ("insert", "replace"):
            parts.append(Part(" ".join(mine[start:end]), "added"))
    return parts
