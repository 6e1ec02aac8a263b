"""Tests over sentences against sacrebleu's own command, enumeration and simulation."""

import itertools
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmark.hypotheses import compress_lines
from benchmark.measure.quality import METRICS
from benchmark.measure.resampling import (
    ADDITIVE,
    corpus_scores,
    paired_bootstrap_p,
    randomisation_p,
    seeds_and_sentences,
    sentence_statistics,
)
from tests.benchmark.measure.sentence_errors import DESIGNS, TESTS, coverage, errors, outputs, single_words


@pytest.fixture(scope="module")
def three_outputs():
    references, first, second = outputs(np.random.default_rng(1), 80, 0.3, 0.36)
    first[3] = ""
    return references, first, second


@pytest.mark.parametrize(
    ("option", "test", "count"),
    [("bs", paired_bootstrap_p, {"samples": 200}), ("ar", randomisation_p, {"trials": 300})],
)
def test_p_values_are_those_of_sacrebleus_command_on_the_stored_files(
    three_outputs, tmp_path, monkeypatch, option, test, count
):
    paths = []
    for name, lines in zip(("references", "first", "second"), three_outputs, strict=True):
        paths.append(tmp_path / f"{name}.txt.gz")
        paths[-1].write_bytes(compress_lines(lines))
    seed, number = 7, next(iter(count.values()))
    command = [sys.executable, "-m", "sacrebleu", paths[0], "-i", *paths[1:], "-m", "bleu", "chrf"]
    command += [f"--paired-{option}", f"--paired-{option}-n", str(number), "--format", "text", "--no-color"]
    ended = subprocess.run(
        command, env={**os.environ, "SACREBLEU_SEED": str(seed)}, capture_output=True, text=True, check=True
    )
    # only p-values of the second system; its JSON cannot hold those of chrF
    printed = re.findall(r"p = (0\.\d{4})", ended.stdout)
    assert len(printed) == 2, ended.stdout
    monkeypatch.setenv("SACREBLEU_SEED", "99")
    references, first, second = three_outputs
    for metric, expected in zip(("bleu", "chrf"), printed, strict=True):
        assert f"{test(metric, first, second, references, seed=seed, **count):.4f}" == expected
        assert f"{test(metric, second, first, references, seed=seed, **count):.4f}" == expected
    assert os.environ["SACREBLEU_SEED"] == "99"


def few_sentences():
    references = ["a b c", "d e", "f", "g h i j", "k l"]
    first = ["a b c", "d e", "f", "g x i j", "x x"]
    second = ["a x c", "d e", "x", "x x x x", "k x"]
    return references, first, second


def corpus_difference(metric, pairs):
    first, second, references = zip(*pairs, strict=True)
    return METRICS[metric](first, references).value - METRICS[metric](second, references).value


@pytest.mark.parametrize("metric", ["sequence_accuracy", "token_accuracy"])
def test_p_values_of_accuracies_approach_those_of_full_enumeration(metric):
    references, first, second = few_sentences()
    sentences = list(zip(first, second, references, strict=True))
    seen = corpus_difference(metric, sentences)
    swaps = [
        corpus_difference(metric, [(b, a, r) if swap else (a, b, r) for (a, b, r), swap in zip(sentences, pattern)])  # noqa: B905, E501
        for pattern in itertools.product((False, True), repeat=5)
    ]  # fmt: skip
    exact = np.mean(np.abs(swaps) >= abs(seen) - 1e-9)
    assert randomisation_p(metric, first, second, references) == pytest.approx(exact, abs=0.02)
    drawn = [corpus_difference(metric, pick) for pick in itertools.product(sentences, repeat=5)]
    exact = np.mean(np.abs(np.array(drawn) - seen) >= abs(seen) - 1e-9)
    assert paired_bootstrap_p(metric, first, second, references, samples=10_000) == pytest.approx(
        exact, abs=0.02
    )


@pytest.mark.parametrize("metric", METRICS)
def test_one_output_twice_is_no_difference(metric):
    references, first, _ = few_sentences()
    for test in (paired_bootstrap_p, randomisation_p):
        assert test(metric, first, list(first), references) == 1.0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("test", [paired_bootstrap_p, randomisation_p])
def test_lists_that_do_not_fit_are_refused(metric, test):
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        test(metric, ["a", "b"], ["a"], ["a", "b"])


@pytest.mark.parametrize("metric", ADDITIVE)
def test_sums_over_all_sentences_give_the_score_to_the_last_digit(metric, three_outputs):
    references, first, second = three_outputs
    cases = [(first, references), (second, references), *(([h], [""]) for h in ("", "a"))]
    cases += [([""], ["a b"]), (["a b c"], ["a b c"]), (["x y z u"], ["a b c d"])]
    for hypotheses, expected in cases:
        statistics = sentence_statistics(metric, hypotheses, expected)
        assert float(corpus_scores(metric, statistics.sum(0))) == METRICS[metric](hypotheses, expected).value


def test_a_drawn_corpus_has_the_score_of_its_sentences():
    references, first, _ = outputs(np.random.default_rng(2), 30, 0.3, 0.3)
    picks = np.random.default_rng(3).integers(30, size=(5, 30))
    weights = np.stack([np.bincount(pick, minlength=30) for pick in picks]).astype(float)
    found = corpus_scores("bleu", weights @ sentence_statistics("bleu", first, references))
    for score, pick in zip(found, picks, strict=True):
        assert score == METRICS["bleu"]([first[i] for i in pick], [references[i] for i in pick]).value


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
def test_false_positives_of_accuracies_are_at_most_6_percent(test):
    assert 0.02 < errors(test, "sequence_accuracy", 100, 600) <= 0.06


def test_false_positives_of_bleu_by_randomisation_are_about_5_percent():
    """A p half as large, as that of sacrebleu's bootstrap is, finds more than 10 % of them different."""
    assert 0.01 < errors(TESTS["approximate randomisation"], "bleu", 25, 150) < 0.09


def test_a_true_difference_is_seen():
    random = np.random.default_rng(6)
    references = single_words([True] * 200)
    first, second = (single_words(random.random(200) < rate) for rate in (0.8, 0.5))
    for test in (paired_bootstrap_p, randomisation_p):
        assert test("sequence_accuracy", first, second, references) < 0.001


def test_sacrebleus_paired_bootstrap_gives_about_half_of_a_two_sided_p():
    """Why docs/statistics.md warns of it, and why nothing rests on it alone."""
    references, first, second = outputs(np.random.default_rng(2), 80, 0.3, 0.36)
    one, other = (sentence_statistics("bleu", output, references) for output in (first, second))
    weights = np.random.default_rng(8).multinomial(80, [1 / 80] * 80, size=1000)
    drawn = corpus_scores("bleu", weights @ one) - corpus_scores("bleu", weights @ other)
    seen = float(corpus_scores("bleu", one.sum(0)) - corpus_scores("bleu", other.sum(0)))
    two_sided = np.mean(np.abs(drawn - seen) >= abs(seen))
    found = paired_bootstrap_p("bleu", first, second, references)
    assert found == pytest.approx(two_sided / 2, rel=0.3)


@pytest.mark.parametrize(("design", "covered"), list(zip(DESIGNS, (0.90, 0.95, 0.965), strict=True)))
def test_the_interval_over_ten_seeds_and_their_sentences_covers_as_docs_say(design, covered):
    assert coverage("seeds, then sentences", design, trials=400) == pytest.approx(covered, abs=0.025)


def test_other_sentences_for_each_seed_would_make_the_interval_too_narrow():
    design = "sentences suit one model more"
    assert coverage("other sentences for each seed", design, trials=100) < 0.85


def test_the_interval_is_that_of_a_plain_loop():
    random = np.random.default_rng(12)
    references, *systems = outputs(random, 12, *([0.3] * 10), *([0.4] * 10))
    first, second = systems[:10], systems[10:]
    found = seeds_and_sentences(
        "bleu",
        *([sentence_statistics("bleu", output, references) for output in one] for one in (first, second)),
        samples=1000,
    )
    by_seed = [
        METRICS["bleu"](a, references).value - METRICS["bleu"](b, references).value
        for a, b in zip(first, second, strict=True)
    ]
    assert found.mean_difference == pytest.approx(np.mean(by_seed), rel=1e-12)
    assert (found.number_of_seeds, found.sentences) == (10, 12)
    means = []
    for _ in range(60):
        seeds, picked = random.integers(10, size=10), random.integers(12, size=12)
        drawn = [references[i] for i in picked]
        scores = [
            [METRICS["bleu"]([model[s][i] for i in picked], drawn).value for s in seeds]
            for model in (first, second)
        ]
        means.append(np.mean(scores[0]) - np.mean(scores[1]))
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert found.low == pytest.approx(low, abs=0.3 * width)
    assert found.high == pytest.approx(high, abs=0.3 * width)


def test_an_interval_is_offered_from_ten_seeds_on_and_for_sums_only():
    statistics = sentence_statistics("bleu", ["a b c d"], ["a b c d"])
    with pytest.raises(ValueError, match="needs 10 seeds in common, got 9"):
        seeds_and_sentences("bleu", [statistics] * 9, [statistics] * 9)
    found = seeds_and_sentences("bleu", [statistics] * 10, [statistics] * 10)
    assert (found.mean_difference, found.low, found.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="chrf: not offered"):
        sentence_statistics("chrf", ["a"], ["a"])


def test_a_thousand_samples_of_ten_seeds_and_a_thousand_sentences_take_seconds():
    random = np.random.default_rng(13)
    totals = random.integers(4, 20, size=(20, 1000, 1)) - np.arange(4)
    counts = random.binomial(totals, 0.5)
    lengths = np.repeat(totals[..., :1], 2, axis=-1)
    statistics = list(np.concatenate([lengths, counts, totals], -1).astype(float))
    started = time.process_time()
    found = seeds_and_sentences("bleu", statistics[:10], statistics[10:])
    assert time.process_time() - started < 5
    assert found.low < found.mean_difference < found.high
