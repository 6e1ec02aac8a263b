"""How good the output is: scores of whole test sets, from hypotheses and raw references alone.

Every score is a number between 0 and 100. BLEU and chrF are those of sacrebleu at corpus level, on
detokenised text against the raw reference, and carry its signature; the accuracies are for tasks whose words
are symbols. A metric sees lists of sentences, never a joined text, because characters like U+2028 inside a
sentence would split it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score of one set of sentences."""

    metric: str
    value: float
    unit: str
    """`points` of BLEU and chrF, `percent` of accuracies; both run from 0 to 100."""
    signature: str
    """All settings that the value depends on; scores with unequal signatures must not be compared."""
    sentences: int


Metric = Callable[[Sequence[str], Sequence[str]], Score]


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """BLEU (Papineni et al. 2002) as sacrebleu computes it: cased, tokeniser 13a, exponential smoothing.

    A corpus without any common word scores 0, and so does one in which no hypothesis has four tokens.
    """
    _check(hypotheses, references)
    from sacrebleu.metrics.bleu import BLEU

    # sacrebleu only warns of output that looks tokenised; here such output is scored as it is
    metric = BLEU(force=True)
    value = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Score(
        metric="bleu",
        value=value,
        unit="points",
        signature=str(metric.get_signature()),
        sentences=len(references),
    )


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """chrF2 (Popovic 2015) as sacrebleu computes it: character 1- to 6-grams, blanks left out."""
    _check(hypotheses, references)
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    value = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Score(
        metric="chrf",
        value=value,
        unit="points",
        signature=str(metric.get_signature()),
        sentences=len(references),
    )


def sequence_accuracy(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Share of sentences whose words, split at whitespace, are those of the reference in its order."""
    _check(hypotheses, references)
    correct = sum(h.split() == r.split() for h, r in zip(hypotheses, references, strict=True))
    return Score(
        metric="sequence_accuracy",
        value=100 * correct / len(references),
        unit="percent",
        signature="nrefs:1|tok:whitespace|version:1",
        sentences=len(references),
    )


def token_accuracy(hypotheses: Sequence[str], references: Sequence[str]) -> Score:
    """Share of reference words, over all sentences, that the hypothesis has at the same position.

    Words are split at whitespace, and position i of the hypothesis is compared with position i of the
    reference. A position that the hypothesis lacks is wrong; words beyond the reference's length count
    nothing (they do in `sequence_accuracy`). Where no reference has a word, the value is 100 if no hypothesis
    has one either, else 0.
    """
    _check(hypotheses, references)
    correct = total = extra = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        produced, expected = hypothesis.split(), reference.split()
        correct += sum(p == e for p, e in zip(produced, expected, strict=False))
        total += len(expected)
        extra += max(0, len(produced) - len(expected))
    if total == 0:
        correct, total = int(extra == 0), 1
    return Score(
        metric="token_accuracy",
        value=100 * correct / total,
        unit="percent",
        signature="nrefs:1|tok:whitespace|len:reference|version:1",
        sentences=len(references),
    )


METRICS: dict[str, Metric] = {
    "bleu": bleu,
    "chrf": chrf,
    "sequence_accuracy": sequence_accuracy,
    "token_accuracy": token_accuracy,
}
"""Metrics by the names that tasks list; higher is better for all."""


def perplexity(total_nats: float, tokens: int) -> float:
    """exp(nats per token) of a cross-entropy summed over a corpus; infinity where that exceeds a float.

    Per subword with the number of predicted tokens, end of sentence included; per word, and so comparable
    between vocabularies, with `count_words` of the raw references and the same sum. Without label smoothing.
    """
    if tokens < 1:
        raise ValueError(f"perplexity needs at least one token, got {tokens}")
    try:
        return math.exp(total_nats / tokens)
    except OverflowError:
        return math.inf


def count_words(references: Sequence[str]) -> int:
    """Words of raw text as perplexity counts them: those between whitespace, and one end per sentence."""
    return sum(len(reference.split()) + 1 for reference in references)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    assert not isinstance(hypotheses, str) and not isinstance(references, str), (
        "a metric takes lists of sentences"
    )
    # sacrebleu stops at the end of the shorter list in silence
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references; each needs its own")
    if not references:
        raise ValueError("no sentences to score; the split is empty")
