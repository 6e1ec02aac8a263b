"""The claims that need trained models: what is learned over a distance, what heads do, who translates better.

All are decided over seeds, by exact sign-flip tests on runs of one seed, adjusted within the family of the
tasks or pairs that are looked at together. With fewer seeds than any outcome could decide, the claim says how
many it takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmark.measure.significance import PairedComparison, compare_pairs, summarise
from benchmark.report.budgets import quantity
from benchmark.report.comparison import Cell, Group, groups
from benchmark.report.rounding import count, with_half_width, without_spread
from benchmark.report.significance import Family, families
from benchmark.why.facts import Facts, Missing
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding, Word

DISTANCE_TASKS = ("recall", "agreement")
SHORT_PATHS, LONG_PATHS = "transformer", "lstm"
"""The models between which paths decide: 1 and n in Table 1."""
EQUAL_SECONDS = 0.15
"""By which the training seconds of rows may differ and still be equal."""
MOST = 0.5
"""Share of its weight that a head puts at one distance to be called a head of that distance."""

FIRST_HIGHER, SECOND_HIGHER = "first higher", "second higher"


# S4.5


class Distances(NamedTuple):
    """Accuracies in percent of one model on one task, by distance and then by seed."""

    trained: Mapping[int, Mapping[int, float]]
    beyond: Mapping[int, Mapping[int, float]]


def learned_over_distance(facts: Facts) -> Finding:
    """Accuracy at the largest trained distance, and how far it falls from the smallest one to there."""
    every = {
        task: {model: distances(facts, task, model) for model in (SHORT_PATHS, LONG_PATHS)}
        for task in DISTANCE_TASKS
    }
    sides = [(found[SHORT_PATHS], found[LONG_PATHS]) for found in every.values()]
    far = _compared([(_ends(short)[1], _ends(long)[1]) for short, long in sides])
    fall = _compared([(_falls(long), _falls(short)) for short, long in sides])
    effects, words = [], []
    for task, at_far, falls in zip(every, far, fall, strict=True):
        words.append(_of_task(at_far, falls))
        nearest, farthest = _trained_ends(every[task][SHORT_PATHS])
        shown = [
            f"{model} {_mean(_ends(found)[1])} (from {_mean(_ends(found)[0])})"
            for model, found in every[task].items()
        ]
        effects.append(
            f"{task}, accuracy % at distance {farthest} (from distance {nearest}): {', '.join(shown)}: "
            f"{_named(at_far)}; falls: {_named(falls, LONG_PATHS, SHORT_PATHS, 'falls more')}"
        )
    verdict = UNDECIDED
    if SUPPORTED in words and CONTRADICTED not in words:
        verdict = SUPPORTED
    elif CONTRADICTED in words and SUPPORTED not in words:
        verdict = CONTRADICTED
    return Finding(verdict=verdict, effect="; ".join(effects), conditions=tuple(_furtherdistances(facts)))


def _of_task(far: PairedComparison, fall: PairedComparison) -> Word:
    """A model that learned nothing falls by nothing: the far distance itself has to be learned better."""
    if far.words() == SECOND_HIGHER:
        return CONTRADICTED
    return SUPPORTED if far.words() == fall.words() == FIRST_HIGHER else UNDECIDED


def _furtherdistances(facts: Facts) -> Iterator[str]:
    for task in DISTANCE_TASKS:
        for model in dict.fromkeys(run.model_name for run in facts.runs):
            try:
                found = distances(facts, task, model)
            except Missing:
                continue
            shown = [
                f"{distance}: {_mean(values)}"
                for distance, values in (*found.trained.items(), *found.beyond.items())
            ]
            longest = max(found.trained)
            yield f"{task}, {model}, accuracy % by distance (trained up to {longest}): {', '.join(shown)}"


def distances(facts: Facts, task: str, model: str) -> Distances:
    """Of the runs that are done; Missing where there are none."""
    trained: dict[int, dict[int, float]] = {}
    beyond: dict[int, dict[int, float]] = {}
    for run in facts.runs:
        if (run.task_name, run.model_name, run.status) != (task, model, "done"):
            continue
        for score in run.scores:
            name, _, rest = score.split.partition("_")
            distance, _, inside = rest.partition("_")
            if name == "distance" and score.metric == "sequence_accuracy" and distance.isdigit():
                where = trained if inside == "trained" else beyond
                where.setdefault(int(distance), {})[run.seed] = score.value
    if len(trained) < 2:
        raise Missing(f"no {model} was trained on {task}; the scales standard and full train them")
    return Distances(dict(sorted(trained.items())), dict(sorted(beyond.items())))


def _trained_ends(found: Distances) -> tuple[int, int]:
    return min(found.trained), max(found.trained)


def _ends(found: Distances) -> tuple[Mapping[int, float], Mapping[int, float]]:
    nearest, farthest = _trained_ends(found)
    return found.trained[nearest], found.trained[farthest]


def _falls(found: Distances) -> dict[int, float]:
    near, far = _ends(found)
    return {seed: near[seed] - far[seed] for seed in near.keys() & far.keys()}


# S4.13


def heads_differ(facts: Facts) -> Finding:
    """Divergence of the heads of a Transformer's encoder, after training against before, over seeds."""
    before: dict[int, list[float]] = {}
    after: dict[int, list[float]] = {}
    for record in facts.records:
        if (record.kind, record.status) != ("attention", "done"):
            continue
        for row in record.rows:
            if row.quantity == "head divergence" and row.conditions.get("part") == "encoder":
                side = after if row.conditions["training"] == "after" else before
                side.setdefault(int(number_of(record.settings, "seed")), []).append(row.value)
    if not after:
        raise Missing("the attention of no trained model was measured; the scales standard and full do it")
    means = [{seed: statistics.fmean(values) for seed, values in side.items()} for side in (after, before)]
    (compared,) = _compared([(means[0], means[1])])
    verdict = {FIRST_HIGHER: SUPPORTED, SECOND_HIGHER: CONTRADICTED}.get(compared.words(), UNDECIDED)
    return Finding(
        verdict=verdict,
        effect=f"divergence of the heads of an encoder layer, bits: {_mean(means[1])} before training, "
        f"{_mean(means[0])} after: {_named(compared, 'after', 'before')}",
        conditions=tuple(_roles(facts)),
    )


def _roles(facts: Facts) -> Iterator[str]:
    """How many heads look at one distance most of the time: a role that anyone can read."""
    for record in facts.records:
        if (record.kind, record.status) != ("attention", "done") or number_of(record.settings, "seed"):
            continue
        shown = []
        for training in ("before", "after"):
            rows = [
                row
                for row in record.rows
                if row.quantity == "share at one distance" and row.conditions["training"] == training
            ]
            having = [row for row in rows if row.value > MOST]
            if rows:
                shown.append(f"{training} training {len(having)} of {len(rows)}")
        if shown:
            yield (
                f"{record.subject}: heads of self-attention with more than {MOST:.0%} of their weight at one "
                f"distance: {', '.join(shown)}"
            )


# C.1


def translates_better(facts: Facts) -> Finding:
    """BLEU of the Transformer against each other model, at equal seconds of training."""
    words: list[Word] = []
    effects, conditions = [], []
    for name, group, family in _translations(facts):
        seconds = {cell: quantity(cell.done, "seconds") or 0.0 for cell in group.comparable}
        shown = ", ".join(f"{cell.model} {_score(cell, family)}" for cell in group.comparable)
        found = _against_others(family)
        costs = ", ".join(f"{cell.model} {count(round(one))}" for cell, one in seconds.items())
        text = f"{name}, {family.split} BLEU: {shown}: {'; '.join(text for text, _ in found)}"
        if not _are_equal(group, list(seconds.values())):
            conditions.append(f"at other seconds of training ({costs}): {text}")
            continue
        effects.append(f"{text} (training seconds: {costs})")
        others = [word for _, word in found]
        if CONTRADICTED in others:
            words.append(CONTRADICTED)
        elif others and set(others) == {SUPPORTED}:
            words.append(SUPPORTED)
        else:
            words.append(UNDECIDED)
    if not effects:
        raise Missing(
            "no study of translation with equal seconds lies beside this one; `seqbench run multi30k-en-de` "
            "or `grammar-translation` makes one"
        )
    verdict = UNDECIDED
    if SUPPORTED in words and CONTRADICTED not in words:
        verdict = SUPPORTED
    elif CONTRADICTED in words and SUPPORTED not in words:
        verdict = CONTRADICTED
    return Finding(verdict=verdict, effect="; ".join(effects), conditions=tuple(conditions))


def _translations(facts: Facts) -> Iterator[tuple[str, Group, Family]]:
    """Every table of the studies beside, over all devices, and its pairs on the first test split."""
    for study in facts.beside:
        every = groups(study.train_records, study.model_order, study.matches, across_devices=True)
        for group in every:
            if len({cell.model for cell in group.comparable}) < 2:
                continue
            for family in families(group):
                if family.metric == "bleu":
                    match = f", equal {group.conditions.match}" if group.conditions.match else ""
                    yield f"{study.name}{match}", group, family
                    break


def _are_equal(group: Group, seconds: Sequence[float]) -> bool:
    if group.conditions.match:
        return group.conditions.match == "seconds"
    return bool(seconds) and min(seconds) > 0 and max(seconds) / min(seconds) <= 1 + EQUAL_SECONDS


def _against_others(family: Family) -> list[tuple[str, Word]]:
    """In words, and as a verdict, for each pair with a Transformer on one side."""
    found = []
    for pair in family.pairs:
        sides = [_architecture(cell) == SHORT_PATHS for cell in (pair.first, pair.second)]
        if sum(sides) != 1 or pair.comparison is None:
            continue
        ours, other = (pair.first, pair.second) if sides[0] else (pair.second, pair.first)
        words = pair.comparison.words()
        higher = {FIRST_HIGHER: pair.first, SECOND_HIGHER: pair.second}.get(words)
        if higher is None:
            found.append((f"against {other.model} {words}", UNDECIDED))
        else:
            found.append((f"{higher.model} higher", SUPPORTED if higher is ours else CONTRADICTED))
    return found


def _architecture(cell: Cell) -> str:
    return cell.records[0].model_name


def _score(cell: Cell, family: Family) -> str:
    score = cell.score(family.split, family.metric)
    if score is None:
        return "not measured"
    return with_half_width(score.mean, score.half_width) if score.half_width else without_spread(score.mean)


# In common


def _compared(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[PairedComparison]:
    """Over the seeds that both of a pair have; Missing where they have none."""
    values = []
    for first, second in pairs:
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            raise Missing("no seed was trained for both of what is compared")
        values.append(([first[seed] for seed in seeds], [second[seed] for seed in seeds]))
    return compare_pairs(values)


def _named(
    one: PairedComparison, first: str = SHORT_PATHS, second: str = LONG_PATHS, what: str = "higher"
) -> str:
    words = one.words()
    return {FIRST_HIGHER: f"{first} {what}", SECOND_HIGHER: f"{second} {what}"}.get(words, words)


def _mean(values: Mapping[int, float]) -> str:
    summary = summarise(list(values.values()))
    if summary.half_width is None:
        return f"{without_spread(summary.mean)} (one seed)"
    return with_half_width(summary.mean, summary.half_width)


def number_of(settings: Mapping[str, object], name: str) -> float:
    """A number among a measurement's settings."""
    value = settings.get(name)
    if not isinstance(value, int | float):
        raise Missing(f"a measurement does not say its {name}")
    return float(value)
