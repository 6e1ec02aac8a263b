"""How often tests over sentences call equal systems different, and how often the interval over seeds and
sentences holds no difference when there is none:

    python -m tests.benchmark.measure.sentence_errors

prints the tables that docs/statistics.md shows, in some minutes.
"""

import sys
from functools import partial

import numpy as np

from benchmark.measure.resampling import paired_bootstrap_p, randomisation_p, seeds_and_sentences
from tests.benchmark.measure.skewed_coverage import half_widths

WORDS = [f"w{i}" for i in range(200)]
TESTS = {
    "approximate randomisation": partial(randomisation_p, trials=300),
    "paired bootstrap": partial(paired_bootstrap_p, samples=300),
}
PAIRS = 1000
"""Of equal systems."""
CORPORA = [("bleu", 25), ("bleu", 100), ("sequence_accuracy", 25), ("sequence_accuracy", 100)]
"""Each a metric and a number of sentences."""
DESIGNS = {
    "the seed matters most": (0.0, 1.5),
    "both matter": (1.0, 0.5),
    "sentences suit one model more": (2.0, 0.1),
}
"""How much (in logits) a model's chance at a sentence is its own, and a seed's."""
TRIALS = 2800


def outputs(random, sentences, *error_rates):
    """References, and for each rate of wrong words an output of them."""
    references = [" ".join(random.choice(WORDS, random.integers(4, 15))) for _ in range(sentences)]
    result = [references]
    for rate in error_rates:
        result.append(
            [
                " ".join(str(random.choice(WORDS)) if random.random() < rate else w for w in line.split())
                for line in references
            ]
        )
    return result


def single_words(correct):
    return ["1" if one else "0" for one in correct]


def equal_systems(metric, sentences, random):
    """References and the outputs of two systems of one quality."""
    if metric == "bleu":
        return outputs(random, sentences, 0.3, 0.3)
    easy = random.beta(1, 1, sentences)  # both systems know the same sentences
    return [single_words([True] * sentences), *(single_words(random.random(sentences) < easy) for _ in "ab")]


def errors(test, metric, sentences, pairs=PAIRS):
    """Share of pairs of equal systems that differ at 5 %."""
    random = np.random.default_rng(5)
    found = 0
    for pair in range(pairs):
        references, first, second = equal_systems(metric, sentences, random)
        found += test(metric, first, second, references, seed=1 + pair) <= 0.05
    return found / pairs


def corrects(random, *, seeds, sentences, by_sentence, by_seed):
    """Right or wrong of two equally good models: (seeds, sentences) each, of one test set.

    `by_sentence` and `by_seed` are as in `DESIGNS`.
    """
    easy = random.normal(0, 1.5, sentences)
    for _ in range(2):
        logits = easy + random.normal(0, by_sentence, sentences) + random.normal(0, by_seed, (seeds, 1))
        yield (random.random((seeds, sentences)) < 1 / (1 + np.exp(-logits))).astype(float)


def with_totals(correct):
    return list(np.stack([correct, np.ones_like(correct)], -1))


def over_both(first, second, trial):
    """The interval that reports show."""
    interval = seeds_and_sentences(
        "sequence_accuracy", with_totals(first), with_totals(second), samples=200, seed=1 + trial
    )
    return interval.low, interval.high


def other_sentences_for_each_seed(first, second, trial, samples=200):
    """The interval that it is not: sentences drawn anew for each drawn seed."""
    random = np.random.default_rng(1 + trial)
    seeds, sentences = first.shape
    means = np.zeros(samples)
    for sample in range(samples):
        drawn = random.integers(seeds, size=seeds)
        picked = random.integers(sentences, size=(seeds, sentences))
        means[sample] = (first - second)[drawn[:, None], picked].mean()
    return np.quantile(means, [0.025, 0.975])


def over_seeds(first, second, trial):
    """A t-interval, which speaks of these sentences alone."""
    differences = (first - second).mean(1)
    (half,) = half_widths(differences[None])
    return differences.mean() - half, differences.mean() + half


INTERVALS = {
    "seeds, then sentences": over_both,
    "other sentences for each seed": other_sentences_for_each_seed,
    "t-interval over seeds": over_seeds,
}


def coverage(interval, design, trials=TRIALS):
    """Share of trials whose interval holds the difference, which is none; ten seeds and 100 sentences."""
    by_sentence, by_seed = DESIGNS[design]
    random = np.random.default_rng(77)
    inside = 0
    for trial in range(trials):
        first, second = corrects(random, seeds=10, sentences=100, by_sentence=by_sentence, by_seed=by_seed)
        low, high = INTERVALS[interval](first, second, trial)
        inside += low <= 0 <= high
    return inside / trials


def table_lines():
    """The lines of Markdown in docs/statistics.md."""
    names = {"bleu": "BLEU", "sequence_accuracy": "accuracy"}
    header = "".join(f" {names[metric]}, {sentences} sentences |" for metric, sentences in CORPORA)
    lines = [f"| equal systems differ, % |{header}", "| :--- |" + " ---: |" * len(CORPORA)]
    for name, test in TESTS.items():
        found = (errors(test, *corpus) for corpus in CORPORA)
        lines.append(f"| {name} |" + "".join(f" {100 * one:.1f} |" for one in found))
    lines += ["", "| the interval covers, % |" + "".join(f" {design} |" for design in DESIGNS)]
    lines += ["| :--- |" + " ---: |" * len(DESIGNS)]
    for name in INTERVALS:
        lines.append(f"| {name} |" + "".join(f" {100 * coverage(name, one):.1f} |" for one in DESIGNS))
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(table_lines()) + "\n")
