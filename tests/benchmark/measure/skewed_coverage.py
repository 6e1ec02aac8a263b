"""How often a 95 % t-interval covers the mean, and how often a sign-flip test errs, when values are skewed:

    python -m tests.benchmark.measure.skewed_coverage

prints the tables that docs/statistics.md shows.
"""

import itertools
import sys

import numpy as np
from scipy.special import stdtrit

SEEDS = (3, 5, 6, 7, 10)
TRIALS = 50_000
DISTRIBUTIONS = {
    "normal": lambda random, size: random.normal(0, 1, size),
    "exponential": lambda random, size: random.exponential(1, size) - 1,
    "log-normal, sigma 1": lambda random, size: random.lognormal(0, 1, size) - np.exp(0.5),
    "difference of two log-normal": lambda random, size: (
        random.lognormal(0, 1, size) - random.lognormal(0, 1, size)
    ),
}
"""Each with mean 0, by what a draw of one seed is."""


def half_widths(values):
    """Of the 95 % t-interval of each row of (trials, seeds)."""
    seeds = values.shape[1]
    return stdtrit(seeds - 1, 0.975) * values.std(axis=1, ddof=1) / seeds**0.5


def coverage(name, seeds, trials=TRIALS):
    """Share of trials whose t-interval holds the mean."""
    values = DISTRIBUTIONS[name](np.random.default_rng(seeds), (trials, seeds))
    return float(np.mean(np.abs(values.mean(axis=1)) <= half_widths(values)))


def sign_flip_errors(name, seeds, trials=TRIALS // 10):
    """Share of trials in which an exact sign-flip test calls a mean of 0 significant at 5 %."""
    values = DISTRIBUTIONS[name](np.random.default_rng(seeds), (trials, seeds))
    # a pattern and its opposite have one absolute sum, so the first sign may stay
    patterns = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=seeds - 1)])
    sums = np.abs(values @ patterns.T)
    p = np.mean(sums >= sums[:, :1] * (1 - 1e-12), axis=1)  # the first pattern is all plus
    return float(np.mean(p <= 0.05))


def table_lines():
    """The lines of Markdown in docs/statistics.md."""
    header = "".join(f" {seeds} |" for seeds in SEEDS)
    lines = [f"| t-interval covers, % | {header[1:]}", "| :--- |" + " ---: |" * len(SEEDS)]
    for name in DISTRIBUTIONS:
        lines.append(f"| {name} |" + "".join(f" {100 * coverage(name, s):.1f} |" for s in SEEDS))
    lines += ["", f"| sign flips err, % | {header[1:]}", "| :--- |" + " ---: |" * len(SEEDS)]
    for name in DISTRIBUTIONS:
        lines.append(f"| {name} |" + "".join(f" {100 * sign_flip_errors(name, s):.1f} |" for s in SEEDS))
    return lines


if __name__ == "__main__":
    sys.stdout.write("\n".join(table_lines()) + "\n")
