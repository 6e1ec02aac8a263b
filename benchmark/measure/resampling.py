"""Significance over sentences: would a difference between two outputs hold on other sentences?

The tests of two outputs (paired bootstrap, approximate randomisation) know nothing of seeds: they compare two
trained models, not two architectures. `seeds_and_sentences` looks at both. A score of a corpus is no mean of
scores of sentences, so what is resampled is what adds up: counts per sentence, from which the score of any
collection of sentences follows.

BLEU and chrF are tested by sacrebleu itself, and the numbers are those of its command. Its paired bootstrap
centres the absolute difference instead of the difference, which makes it one-sided in effect: its p is about
half of a two-sided one, and 11 % to 14 % of equal systems differ at 5 %. So nothing is decided by it, but by
approximate randomisation, which keeps its level. The accuracies are tested here, both times two-sided.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmark.measure.quality import METRICS
from benchmark.measure.significance import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 12345
"""sacrebleu's own where SACREBLEU_SEED is not set."""
BOOTSTRAP_SAMPLES = 1000
RANDOMISATION_TRIALS = 10_000
"""Both are the defaults of sacrebleu's command."""
FEWEST_SEEDS = 10
"""That a bootstrap over seeds is offered from: with fewer, its samples are too few seeds to vary."""
_AT_ONCE = 2**22
"""Most weights of sentences that are held at a time."""


def paired_bootstrap_p(
    metric: str,
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = SEED,
) -> float:
    """p-value of the paired bootstrap (Koehn 2004) that two outputs of the same sentences differ in `metric`.

    BLEU and chrF: that of `sacrebleu REFERENCES -i FIRST SECOND --paired-bs`; see above for its level. The
    accuracies: two-sided, from differences centred at the one that was seen (Efron and Tibshirani 1993,
    section 16.4). Outputs with equal scores have 1.

    Raises:
        ValueError: the lists are not equally long, or empty.
    """
    if _difference(metric, first, second, references) == 0:
        return 1.0
    if metric not in _ADDITIVE_ACCURACIES:
        return _sacrebleu_p("bs", metric, first, second, references, samples, seed)
    one, other = (sentence_statistics(metric, output, references) for output in (first, second))
    seen = _score_difference(metric, one.sum(0), other.sum(0))
    drawn = [
        _score_difference(metric, weights @ one, weights @ other)
        for weights in _sentence_weights(np.random.default_rng(seed), len(references), samples)
    ]
    return _share_at_least(np.abs(np.concatenate(drawn) - seen), abs(float(seen)))


def randomisation_p(
    metric: str,
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    *,
    trials: int = RANDOMISATION_TRIALS,
    seed: int = SEED,
) -> float:
    """Two-sided p-value of approximate randomisation (Riezler and Maxwell 2005) of two outputs.

    Each trial swaps the two outputs of a sentence, or does not, at even odds. BLEU and chrF: that of
    `sacrebleu REFERENCES -i FIRST SECOND --paired-ar`. The accuracies: the same test, where trials that tie
    with what was seen count as well, because few different sentences make many ties. Outputs with equal
    scores have 1, where sacrebleu gives two copies of one output its smallest p.

    Raises:
        ValueError: the lists are not equally long, or empty.
    """
    if _difference(metric, first, second, references) == 0:
        return 1.0
    if metric not in _ADDITIVE_ACCURACIES:
        return _sacrebleu_p("ar", metric, first, second, references, trials, seed)
    one, other = (sentence_statistics(metric, output, references) for output in (first, second))
    seen = _score_difference(metric, one.sum(0), other.sum(0))
    random = np.random.default_rng(seed)
    shuffled = []
    for count in _batches(trials, len(references)):
        swapped = random.integers(2, size=(count, len(references))).astype(np.float64)
        moved = swapped @ (other - one)
        shuffled.append(_score_difference(metric, one.sum(0) + moved, other.sum(0) - moved))
    return _share_at_least(np.abs(np.concatenate(shuffled)), abs(float(seen)))


def sentence_statistics(
    metric: str, hypotheses: Sequence[str], references: Sequence[str]
) -> NDArray[np.float64]:
    """What of each sentence adds up to the score of a corpus: (sentences, statistics), whole numbers.

    Raises:
        ValueError: the metric has none that a public interface gives (chrF), or the lists do not fit.
    """
    if metric not in ADDITIVE:
        raise ValueError(
            f"{metric}: not offered: no public interface gives its counts for a sentence; "
            f"offered are {', '.join(ADDITIVE)}"
        )
    METRICS[metric](hypotheses, references)  # refuses lists that do not fit
    return np.array(ADDITIVE[metric].of_sentences(hypotheses, references), dtype=np.float64)


def corpus_scores(metric: str, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores from sums of `sentence_statistics`: (..., statistics) to (...)."""
    return ADDITIVE[metric].scores(sums)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference of corpus scores with its 95 % percentile interval over seeds and sentences."""

    mean_difference: float
    """First less second, over the seeds."""
    low: float
    high: float
    number_of_seeds: int
    sentences: int


def seeds_and_sentences(
    metric: str,
    first: Sequence[NDArray[np.float64]],
    second: Sequence[NDArray[np.float64]],
    *,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = SEED,
) -> Interval:
    """Hierarchical bootstrap of the mean difference between two models: seeds first, then sentences.

    A sample draws seeds with replacement, in pairs, and then sentences with replacement: one draw of them for
    both models and all seeds, because one test set was given to all. (Other sentences for each seed would
    treat ten seeds as ten test sets: where models differ by sentence, its interval is too narrow by far. The
    design is crossed: Owen 2007, The pigeonhole bootstrap.) How often the interval covers is in
    docs/statistics.md.

    Args:
        metric: one of `ADDITIVE`.
        first: by seed, `sentence_statistics` of the first model.
        second: of the second model, the same seeds and sentences in the same order.

    Raises:
        ValueError: fewer than `FEWEST_SEEDS` seeds.
    """
    count = len(first)
    if count < FEWEST_SEEDS:
        raise ValueError(
            f"a bootstrap over seeds and sentences needs {FEWEST_SEEDS} seeds in common, got {count}"
        )
    both = np.stack([np.stack(first), np.stack(second)])  # (model, seed, sentence, statistic)
    sentences = both.shape[2]
    random = np.random.default_rng(seed)
    drawn_seeds = random.multinomial(count, np.full(count, 1 / count), size=samples)  # (sample, seed)
    differences = []
    for weights in _sentence_weights(random, sentences, samples):
        sums = np.tensordot(weights, both, axes=(1, 2))  # (sample, model, seed, statistic)
        scores = corpus_scores(metric, sums)
        differences.append(scores[:, 0] - scores[:, 1])
    means = (np.concatenate(differences) * drawn_seeds).sum(1) / count
    seen = corpus_scores(metric, both.sum(2))  # (model, seed)
    low, high = np.quantile(means, [LEVEL / 2, 1 - LEVEL / 2])
    return Interval(
        mean_difference=float((seen[0] - seen[1]).mean()),
        low=float(low),
        high=float(high),
        number_of_seeds=count,
        sentences=sentences,
    )


# Statistics that add up


@dataclass(frozen=True, kw_only=True)
class _Additive:
    of_sentences: Callable[[Sequence[str], Sequence[str]], list[list[int]]]
    scores: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _bleu_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(force=True)
    every = (metric.corpus_score([h], [[r]]) for h, r in zip(hypotheses, references, strict=True))
    return [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in every]


def _bleu_scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU()
    order = metric.max_ngram_order
    scores = [
        metric.compute_bleu(
            sys_len=row[0],
            ref_len=row[1],
            correct=row[2 : 2 + order],
            total=row[2 + order :],
            smooth_method=metric.smooth_method,
            smooth_value=metric.smooth_value,
            effective_order=metric.effective_order,
            max_ngram_order=order,
        ).score
        for row in sums.reshape(-1, 2 + 2 * order).astype(np.int64).tolist()
    ]
    return np.array(scores).reshape(sums.shape[:-1])


def _sequence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    return [[int(h.split() == r.split()), 1] for h, r in zip(hypotheses, references, strict=True)]


def _sequence_scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * sums[..., 0] / sums[..., 1]


def _token_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        produced, expected = hypothesis.split(), reference.split()
        correct = sum(p == e for p, e in zip(produced, expected, strict=False))
        rows.append([correct, len(expected), max(0, len(produced) - len(expected))])
    return rows


def _token_scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    correct, total, extra = np.moveaxis(sums, -1, 0)
    # where no reference has a word, all is right if no hypothesis has one
    return np.where(total > 0, 100 * correct / np.maximum(total, 1), 100.0 * (extra == 0))


_ADDITIVE_ACCURACIES = {
    "sequence_accuracy": _Additive(of_sentences=_sequence_statistics, scores=_sequence_scores),
    "token_accuracy": _Additive(of_sentences=_token_statistics, scores=_token_scores),
}
ADDITIVE = {"bleu": _Additive(of_sentences=_bleu_statistics, scores=_bleu_scores), **_ADDITIVE_ACCURACIES}
"""Metrics whose score follows from sums over sentences."""


# Drawing


def _batches(number: int, sentences: int) -> Iterator[int]:
    """`number` in parts whose weights fit into memory."""
    most = max(1, _AT_ONCE // sentences)
    for start in range(0, number, most):
        yield min(most, number - start)


def _sentence_weights(
    random: np.random.Generator, sentences: int, samples: int
) -> Iterator[NDArray[np.float64]]:
    """How often each sample draws each sentence: (samples of this part, sentences), in parts."""
    for count in _batches(samples, sentences):
        weights = random.multinomial(sentences, np.full(sentences, 1 / sentences), size=count)
        yield weights.astype(np.float64)  # matrix products of whole numbers are slow, of these exact


def _score_difference(
    metric: str, first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    return corpus_scores(metric, first) - corpus_scores(metric, second)


def _share_at_least(found: NDArray[np.float64], seen: float) -> float:
    """Share of `found` that is `seen` or more; what was seen counts as one of them, so it is never 0."""
    # equal differences of scores may differ by rounding
    return float((1 + np.sum(found >= seen - 1e-9)) / (1 + len(found)))


# sacrebleu's own tests


def _difference(metric: str, first: Sequence[str], second: Sequence[str], references: Sequence[str]) -> float:
    return METRICS[metric](first, references).value - METRICS[metric](second, references).value


def _sacrebleu_p(
    test_type: Literal["bs", "ar"],
    metric: str,
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    samples: int,
    seed: int,
) -> float:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.significance import PairedTest

    assert seed > 0, "sacrebleu takes a seed of 0 for none"
    with _seed_of_sacrebleu(seed):
        test = PairedTest(
            [("first", list(first)), ("second", list(second))],
            {metric: BLEU(force=True) if metric == "bleu" else CHRF()},
            [list(references)],
            test_type=test_type,
            n_samples=samples,
        )
    _, results = test()
    (name,) = set(results) - {"System"}
    second_result = results[name][1]
    assert not isinstance(second_result, str) and second_result.p_value is not None
    return float(second_result.p_value)


@contextlib.contextmanager
def _seed_of_sacrebleu(seed: int) -> Iterator[None]:
    """Where sacrebleu reads its seed from: the environment, when a test is made."""
    before = os.environ.get("SACREBLEU_SEED")
    os.environ["SACREBLEU_SEED"] = str(seed)
    try:
        yield
    finally:
        if before is None:
            del os.environ["SACREBLEU_SEED"]
        else:
            os.environ["SACREBLEU_SEED"] = before
