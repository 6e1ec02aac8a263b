"""The claims that need trained models: what is learned over a distance, what heads do, who translates better.

All are decided over seeds, by exact sign-flip tests on runs of one seed, adjusted within the family of the
tasks or pairs that are looked at together. With fewer seeds than any outcome could decide, the claim says how
many it takes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmark.measure.significance import PairedComparison, compare_pairs, summarise
from benchmark.record import SpeedRecord, SpeedRow, TrainRecord
from benchmark.report.budgets import quantity
from benchmark.report.comparison import Cell, Group, groups
from benchmark.report.rounding import mean_text, with_half_width, with_interval, without_spread
from benchmark.report.significance import Family, families
from benchmark.why.facts import Facts, Missing
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding, Word, because

DISTANCE_TASKS = ("recall", "agreement")
SHORT_PATHS, LONG_PATHS = "transformer", "lstm"
"""The models between which paths decide: 1 and n in Table 1."""
LEARNED = 80.0
"""Accuracy in percent at the smallest distance from which on a model has learned a task."""
EQUAL_SECONDS = 0.15
"""By which the training seconds of rows may differ and still be equal."""
MOST = 0.5
"""Share of its weight that a head puts at one distance to be called a head of that distance."""

FIRST_HIGHER, SECOND_HIGHER = "first higher", "second higher"
_WORDS: Mapping[str, Word] = {FIRST_HIGHER: SUPPORTED, SECOND_HIGHER: CONTRADICTED}


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
    effects, words, reasons, without = [], [], [], []
    for task, at_far, falls in zip(every, far, fall, strict=True):
        near = {model: statistics.fmean(_ends(found)[0].values()) for model, found in every[task].items()}
        word, reason = _of_task(at_far, falls, near)
        words.append(word)
        reasons += [f"{task}: {reason}"] if reason else []
        without.append(_of_task(at_far, falls, dict.fromkeys(near, LEARNED))[0])
        nearest, farthest = _trained_ends(every[task][SHORT_PATHS])
        shown = [
            f"{model} {_mean(_ends(found)[1])} (from {_mean(_ends(found)[0])})"
            for model, found in every[task].items()
        ]
        effects.append(
            f"{task}, accuracy % at distance {farthest} (from distance {nearest}): {', '.join(shown)}: "
            f"{_named(at_far)}; falls: {_named(falls, LONG_PATHS, SHORT_PATHS, 'falls more')}"
        )
    verdict = _together(words)
    unruled = _together(without)
    ruled = f"without the rule that who is behind must have learned the smallest distance: {unruled}"
    return Finding(
        verdict=verdict,
        effect="; ".join(effects) + because(verdict, _why_open(words, "; ".join(reasons))),
        conditions=(
            *([ruled] if unruled != verdict else []),
            *_further_distances(facts),
            *_questions(facts),
            *_unsuccessful(facts),
            "all three attend from the target to the source: a word of the source is one hop from the "
            "answer; what paths within the encoder decide is what it brings together there",
        ),
    )


def _of_task(far: PairedComparison, fall: PairedComparison, near: Mapping[str, float]) -> tuple[Word, str]:
    """A model that learned nothing falls by nothing: the far distance itself has to be learned better. And
    who is behind there must have learned the task at the smallest distance: else more training decides. With
    the reason where the task decides nothing.
    """
    behind = {FIRST_HIGHER: LONG_PATHS, SECOND_HIGHER: SHORT_PATHS}.get(far.words())
    if behind is None:
        return UNDECIDED, "no difference at the largest distance"
    if near[behind] < LEARNED:
        learned = f"{without_spread(near[behind])} % at the smallest distance, less than {LEARNED:.0f} %"
        return UNDECIDED, f"{behind} is behind and has not learned it ({learned})"
    if behind == SHORT_PATHS:
        return CONTRADICTED, ""
    if fall.words() == FIRST_HIGHER:
        return SUPPORTED, ""
    return UNDECIDED, f"{LONG_PATHS} does not fall more"


def _unsuccessful(facts: Facts) -> Iterator[str]:
    lost = [run for run in facts.runs if run.task_name in DISTANCE_TASKS and run.status != "done"]
    if lost:
        names = ", ".join(f"{run.model_name} on {run.task_name} seed {run.seed}" for run in lost)
        yield f"failed or diverged, and in no figure: {names}"


def _questions(facts: Facts) -> Iterator[str]:
    """What an interval over seeds leaves out."""
    counts = sorted(
        {
            score.sentences
            for run in facts.runs
            if run.task_name in DISTANCE_TASKS
            for score in run.scores
            if score.split.startswith("distance_")
        }
    )
    if counts:
        each = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
        yield f"{each} questions at a distance, the same ones for every seed: ± is over seeds alone"


def _further_distances(facts: Facts) -> Iterator[str]:
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
        facts.read[run.run_id] = None
        for score in run.scores:
            name, _, rest = score.split.partition("_")
            distance, _, inside = rest.partition("_")
            if name == "distance" and score.metric == "sequence_accuracy" and distance.isdigit():
                where = (trained if inside == "trained" else beyond).setdefault(int(distance), {})
                if run.seed in where:
                    raise Missing(f"{model} was trained on {task} several times with seed {run.seed}")
                where[run.seed] = score.value
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
    every = _by_task(facts, "head divergence")
    if not every:
        raise Missing("the attention of no trained model was measured; the scales standard and full do it")
    compared = _compared([(means["after"], means["before"]) for means in every.values()])
    effects = [
        f"{task}: {_mean(means['before'])} before training, {_mean(means['after'])} after: "
        f"{_named(one, 'after', 'before')}"
        for (task, means), one in zip(every.items(), compared, strict=True)
    ]
    words = [_WORDS.get(one.words(), UNDECIDED) for one in compared]
    verdict = _together(words)
    return Finding(
        verdict=verdict,
        effect=f"divergence of the heads of an encoder layer, bits{_most_bits(facts)}: {'; '.join(effects)}"
        + because(verdict, _why_open(words, "on no task is after told from before")),
        conditions=(
            *_sharpness(facts),
            *_roles(facts),
            "whether a person can read them is not measured",
        ),
    )


def _most_bits(facts: Facts) -> str:
    """The largest divergence that so many heads can have."""
    heads = {
        row.conditions.get("heads")
        for record in facts.records
        if record.kind == "attention"
        for row in record.rows
        if row.quantity == "head divergence"
    }
    number = heads.pop() if len(heads) == 1 else None
    return f" (at most {math.log2(number):.2f} of {number} heads)" if isinstance(number, int) else ""


def _by_task(facts: Facts, quantity: str) -> dict[str, dict[str, dict[int, float]]]:
    """Of a Transformer's encoder: mean over layers and heads by task, before or after training, and seed."""
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for record in facts.records:
        if (record.kind, record.status) != ("attention", "done"):
            continue
        facts.read[record.run_id] = None
        for row in record.rows:
            if row.quantity == quantity and row.conditions.get("part") == "encoder":
                sides = found.setdefault(str(record.settings.get("task")), {"before": {}, "after": {}})
                side = sides[str(row.conditions["training"])]
                side.setdefault(int(number_of(record.settings, "seed")), []).append(row.value)
    return {
        task: {
            training: {seed: statistics.fmean(values) for seed, values in side.items()}
            for training, side in sides.items()
        }
        for task, sides in found.items()
    }


def _sharpness(facts: Facts) -> Iterator[str]:
    for task, means in _by_task(facts, "entropy of a head").items():
        yield (
            f"{task}: the entropy of a head goes from {_mean(means['before'])} to {_mean(means['after'])} "
            "bits; sharper heads are further apart also where they look at words by chance"
        )


def _roles(facts: Facts) -> Iterator[str]:
    """How many heads look at one distance most of the time: a role that anyone can read."""
    counts: dict[str, dict[str, list[tuple[int, int]]]] = {}
    for record in facts.records:
        if (record.kind, record.status) != ("attention", "done"):
            continue
        for training in ("before", "after"):
            rows = [
                row
                for row in record.rows
                if row.quantity == "share at one distance" and row.conditions["training"] == training
            ]
            if rows:
                having = sum(row.value > MOST for row in rows)
                sides = counts.setdefault(str(record.settings.get("task")), {"before": [], "after": []})
                sides[training].append((having, len(rows)))
    for task, sides in counts.items():
        shown = [
            f"{training} {without_spread(statistics.fmean(one for one, _ in found))} of {found[0][1]}"
            for training, found in sides.items()
        ]
        yield (
            f"{task}: encoder heads with more than {MOST:.0%} of their weight at one distance, mean over "
            f"{len(sides['after'])} seeds, before training and after: {', '.join(shown)}"
        )


# C.1


def translates_better(facts: Facts) -> Finding:
    """BLEU of the Transformer against each other model, at equal seconds of training."""
    words: list[Word] = []
    effects, conditions = [], []
    for name, group, family in _translations(facts):
        seconds = _training_seconds(group)
        shown = ", ".join(f"{cell.model} {_score(cell, family)}" for cell in group.comparable)
        found = _against_others(family)
        costs = "; ".join(
            ", ".join(f"{model} {without_spread(one)}" for model, one in each.items()) + f" on {device}"
            for device, each in seconds.items()
        )
        text = f"{name}, {family.split} BLEU: {shown}: {'; '.join(text for text, _ in found)}"
        if not _are_equal(seconds):
            conditions.append(f"at other seconds of training ({costs}): {text}")
            continue
        effects.append(f"{text} (training seconds: {costs})")
        conditions.append(f"{name}: {_size(group)}")
        words.append(_against_all([word for _, word in found]))
    if words:
        conditions.append(
            "S4.5's rule, that who is behind must have learned the task, is not applied: the claim is of "
            "quality at a cost, and what more training gives is not told"
        )
    verdict = _together(words)
    open_ = _why_open(words, "in no study is it higher than all others, or lower than one")
    if not effects:
        effects.append("no study of translation lies beside this one whose models took equal seconds")
        open_ = "it takes one, as seqbench run grammar-translation makes"
    return Finding(
        verdict=verdict, effect="; ".join(effects) + because(verdict, open_), conditions=tuple(conditions)
    )


def _size(group: Group) -> str:
    """How small it all is beside the paper's."""
    bodies = [one for cell in group.comparable if (one := cell.median("body_parameters")) is not None]
    steps = [one for cell in group.comparable if (one := cell.median("steps")) is not None]
    if not bodies or not steps:
        return "sizes are not known"
    largest, most = max(bodies) / 1e6, max(steps)
    return (
        f"models of up to {largest:.1f} million parameters without the vocabulary, trained for up to "
        f"{most:,.0f} steps; the paper's have 65 and 213 million in all, and 100,000 and 300,000 steps"
    )


def _translations(facts: Facts) -> Iterator[tuple[str, Group, Family]]:
    """Every table of the studies beside, over all devices, and its pairs on the first test split."""
    for study in facts.beside:
        every = groups(study.train_records, study.model_order, study.matches, across_devices=True)
        for group in every:
            if len({cell.model for cell in group.comparable}) < 2:
                continue
            for family in families(group):
                if family.metric == "bleu":
                    facts.read.update({run.run_id: None for run in group.records})
                    match = f", equal {group.conditions.match}" if group.conditions.match else ""
                    yield f"{study.name}{match}", group, family
                    break


def _training_seconds(group: Group) -> Mapping[str, Mapping[str, float]]:
    """By device and then model, of devices that all models were trained on: seconds of two do not compare."""
    found: dict[str, dict[str, float]] = {}
    for cell in group.comparable:
        runs: dict[str, list[TrainRecord]] = {}
        for run in cell.done:
            runs.setdefault(run.provenance.device, []).append(run)
        for device, mine in runs.items():
            found.setdefault(device, {})[cell.model] = quantity(mine, "seconds") or 0.0
    models = len({cell.model for cell in group.comparable})
    return {device: each for device, each in sorted(found.items()) if len(each) == models}


def _are_equal(seconds: Mapping[str, Mapping[str, float]]) -> bool:
    """On every device that all were trained on, of which there is one at least."""
    each = [list(of.values()) for of in seconds.values()]
    return bool(each) and all(min(one) > 0 and max(one) / min(one) <= 1 + EQUAL_SECONDS for one in each)


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
    return mean_text(score.mean, score.half_width)


# C.2


def trains_faster(facts: Facts) -> Finding:
    """Training speed of each other model against the Transformer, in interleaved rounds of one process."""
    words: list[Word] = []
    effects, plain = [], []
    for study in facts.beside:
        for record in study.speed_records:
            noise, others = _noise_of(record), []
            facts.read[record.run_id] = None
            for other, row in _speed_ratios(record):
                assert row.low is not None and row.high is not None
                others.append(
                    CONTRADICTED if row.low > noise else SUPPORTED if row.high < 1 / noise else UNDECIDED
                )
                marked = ", the machine was shared" if record.noisy else ""
                effects.append(
                    f"{study.name}: {other} {with_interval(row.value, row.low, row.high)} times "
                    f"(A/A {noise:.3f}, {record.provenance.device}{marked})"
                )
            words += [_against_all(others)] if others else []
            plain += [f"{study.name}: {one}" for one in _of_plain_forms(record)]
    if not words:
        raise Missing("no speed record lies beside this study: seqbench run speed makes one")
    verdict = _together(words)
    return Finding(
        verdict=verdict,
        effect=f"target tokens/s of training against the Transformer's: {'; '.join(effects)}"
        + because(verdict, _why_open(words, "in no record is it faster than all others, or slower than one")),
        conditions=(
            "in equal batches, at the sizes of each record; what they are worth in quality is claim C.1",
            *(
                [f"of the forms of PyTorch's own modules, from the same ratios: {'; '.join(plain)}"]
                if plain
                else []
            ),
        ),
    )


def _of_plain_forms(record: SpeedRecord) -> Iterator[str]:
    """Speeds of the plain forms of the other architectures against the Transformer's plain form."""
    ours = {
        row.model: row.value
        for row in record.rows
        if (row.phase, row.quantity, row.conditions.get("baseline")) == ("train", "speed_ratio", "plain form")
    }
    for other, row in _speed_ratios(record):
        baseline = str(row.conditions["baseline"])
        if other in ours and baseline in ours:
            yield f"{other} {without_spread(row.value * ours[baseline] / ours[other])} times"


def _speed_ratios(record: SpeedRecord) -> Iterator[tuple[str, SpeedRow]]:
    """Rows of other architectures against the Transformer."""
    kinds = {
        name: model.get("name")
        for name, one in record.experiments.items()
        if isinstance(model := one.get("model"), dict)
    }
    for row in record.rows:
        against = kinds.get(str(row.conditions.get("baseline"))) == SHORT_PATHS
        other = kinds.get(row.model) not in (None, SHORT_PATHS)
        if (row.phase, row.quantity) == ("train", "speed_ratio") and against and other:
            yield row.model, row


def _noise_of(record: SpeedRecord) -> float:
    """The factor by which a model differs from itself."""
    ratios = [row.value for row in record.rows if row.quantity == "noise_floor"]
    return max((max(one, 1 / one) for one in ratios if one > 0), default=1.0)


# In common


def _against_all(words: Sequence[Word]) -> Word:
    """Of one study or record: the Transformer has to be ahead of every other model, and behind none."""
    if CONTRADICTED in words:
        return CONTRADICTED
    return SUPPORTED if words and set(words) == {SUPPORTED} else UNDECIDED


def _together(words: Sequence[Word]) -> Word:
    """Supported where one is and none is contradicted, and the other way round."""
    if SUPPORTED in words and CONTRADICTED not in words:
        return SUPPORTED
    return CONTRADICTED if CONTRADICTED in words and SUPPORTED not in words else UNDECIDED


def _why_open(words: Sequence[Word], otherwise: str) -> str:
    """Why words come to nothing together: they disagree, or none decides."""
    return (
        "a part of it supports the claim, and another contradicts it" if CONTRADICTED in words else otherwise
    )


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
