"""Loss and output of a model on a split, every sentence exactly once on any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import nn

from benchmark.config import EvaluationConfig
from benchmark.decoding import beam_search, greedy
from benchmark.hypotheses import without_line_ends
from benchmark.measure.quality import METRICS
from benchmark.measure.timing import Clock
from benchmark.record import Score
from models import PADDING, Seq2SeqModel
from tasks.data.module import DataModule, EvaluationBatches

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Process:
    """Which of how many processes this is, and where it computes."""

    device: torch.device
    rank: int = 0
    world: int = 1
    precision: str = "float32"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def gather(self, own: T) -> list[T]:
        """`own` of every process, in order of rank."""
        if self.world == 1:
            return [own]
        parts: list[T | None] = [None] * self.world
        torch.distributed.all_gather_object(parts, own)
        return [part for part in parts if part is not None]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a model produced for a split."""

    hypotheses: list[str]
    """Detokenised, in the order of the split."""
    tokens: int
    """Words of the vocabulary that were produced, END left out."""
    seconds: float
    """Of generation, of the slowest process."""


class _evaluating:
    """A model in evaluation mode for the time of a `with`."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.was_training = model, model.training

    def __enter__(self) -> None:
        self.model.eval()

    def __exit__(self, *_: object) -> None:
        self.model.train(self.was_training)


@torch.inference_mode()
def mean_loss(model: Seq2SeqModel, batches: EvaluationBatches, process: Process) -> tuple[float, int]:
    """Nats per target word without smoothing, and the words of the split, END included."""
    nats, words = 0.0, 0
    with _evaluating(model), process.autocast():
        for batch in batches:
            source, mask = batch.source.to(process.device), batch.source_mask.to(process.device)
            target_in, target_out = batch.target_in.to(process.device), batch.target_out.to(process.device)
            hidden = model.decode(target_in, model.encode(source, mask))
            nats += float(model.cross_entropy(hidden, target_out))
            words += int((target_out != PADDING).sum())
    parts = process.gather((nats, words))
    return sum(part[0] for part in parts) / sum(part[1] for part in parts), sum(part[1] for part in parts)


def generate(
    model: Seq2SeqModel,
    data: DataModule,
    split: str,
    evaluation: EvaluationConfig,
    process: Process,
    *,
    sentences: int | None = None,
) -> Generated:
    """Translate a split, or its first `sentences` only."""
    pairs = len(data.corpus.splits[split])
    wanted = pairs if sentences is None else min(sentences, pairs)
    batches = data.evaluation_batches(
        split, batch_sentences=evaluation.batch_sentences, rank=process.rank, world=process.world
    )
    clock = Clock(process.device)
    begin = clock.mark()
    produced: dict[int, list[int]] = {}
    with _evaluating(model), process.autocast():
        for batch in batches:
            rows = [row for row, index in enumerate(batch.own.tolist()) if index < wanted]
            if not rows:
                continue
            chosen = torch.tensor(rows)
            source, mask = (
                batch.source[chosen].to(process.device),
                batch.source_mask[chosen].to(process.device),
            )
            words = _translate(model, source, mask, evaluation)
            produced.update(zip(batch.own[rows].tolist(), words, strict=True))
    seconds = clock.seconds(begin, clock.mark())
    everything: dict[int, list[int]] = {}
    parts = process.gather((produced, seconds))
    for part, _ in parts:
        assert not everything.keys() & part.keys(), "a sentence was generated twice"
        everything |= part
    assert len(everything) == wanted
    decode = data.corpus.vocabulary.decode
    return Generated(
        hypotheses=[without_line_ends(decode(everything[index])) for index in range(wanted)],
        tokens=sum(map(len, everything.values())),
        seconds=max(part_seconds for _, part_seconds in parts),
    )


def _translate(
    model: Seq2SeqModel, source: torch.Tensor, mask: torch.Tensor, evaluation: EvaluationConfig
) -> list[list[int]]:
    if evaluation.beam == 1:
        return greedy(model, source, mask, extra_length=evaluation.extra_length)
    found = beam_search(
        model,
        source,
        mask,
        beam=evaluation.beam,
        alpha=evaluation.length_penalty,
        extra_length=evaluation.extra_length,
    )
    return [hypothesis.words for hypothesis in found]


def score(
    split: str, metrics: Sequence[str], hypotheses: Sequence[str], references: Sequence[str]
) -> list[Score]:
    """Each metric of the hypotheses against raw references, as records hold it."""
    scores = []
    for name in metrics:
        measured = METRICS[name](hypotheses, references)
        scores.append(
            Score(
                split=split,
                metric=name,
                value=measured.value,
                signature=measured.signature,
                sentences=measured.sentences,
            )
        )
    return scores
