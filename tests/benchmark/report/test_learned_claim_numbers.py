"""The numbers of claims on trained models and gradients, read back against the files of the records."""

import itertools
import math
import statistics
from typing import Any

import pytest

from benchmark.report.rounding import with_half_width, with_interval, without_spread
from tests.benchmark.report.reading import (
    first_test_split,
    match_of,
    mean_of,
    read_claims,
    read_page,
    read_records,
    score,
    section,
)
from tests.benchmark.report.test_chart_numbers import WHY, measured
from tests.benchmark.report.test_page_numbers import holm, sign_flip_p
from tests.benchmark.report.test_why_page_numbers import TRANSLATED

TASKS = ("recall", "agreement")


@pytest.fixture(scope="module")
def claims():
    return read_claims("why")


@pytest.fixture(scope="module")
def records():
    return read_records("why")


def accuracies(records, task, model):
    """By distance, trained ones first, and by seed."""
    found: dict[Any, Any] = {}
    for one in records.values():
        if (one["kind"], one.get("task_name"), one.get("model_name")) == ("train", task, model):
            for each in one["scores"]:
                name, *rest = each["split"].split("_")
                if name == "distance" and each["metric"] == "sequence_accuracy":
                    key = ("trained" not in rest, int(rest[0]))
                    found.setdefault(key, {})[one["seed"]] = each["value"]
    return dict(sorted(found.items()))


def ends(records, task, model):
    """At the smallest and the largest trained distance, by seed, and these distances."""
    found = accuracies(records, task, model)
    trained = [key for key in found if not key[0]]
    return found[min(trained)], found[max(trained)], min(trained)[1], max(trained)[1]


def over_seeds(values):
    return mean_of([values[seed] for seed in sorted(values)])


def told_apart(pairs, words):
    """In words for each pair of values by seed, after Holm's correction over the pairs."""
    differences = [[one[seed] - other[seed] for seed in sorted(one)] for one, other in pairs]
    p_values = [sign_flip_p(mine) for mine in differences]
    adjusted, seeds = holm(p_values), len(differences[0])
    return [
        words[sum(mine) < 0] if adjusted[p] <= 0.05 else f"not distinguishable with {seeds} seeds"
        for mine, p in zip(differences, p_values, strict=True)
    ]


def test_accuracies_at_the_ends_of_the_trained_distances(claims, records):
    sides = {task: [ends(records, task, model) for model in ("transformer", "lstm")] for task in TASKS}
    far = told_apart(
        [(short[1], long[1]) for short, long in sides.values()], ("transformer higher", "lstm higher")
    )
    falls = [
        [{seed: near[seed] - far[seed] for seed in near} for near, far, *_ in reversed(both)]
        for both in sides.values()
    ]
    fall = told_apart(falls, ("lstm falls more", "transformer falls more"))
    parts = []
    for task, at_far, falling in zip(TASKS, far, fall, strict=True):
        shown = [
            f"{model} {over_seeds(side[1])} (from {over_seeds(side[0])})"
            for model, side in zip(("transformer", "lstm"), sides[task], strict=True)
        ]
        _, _, nearest, farthest = sides[task][0]
        parts.append(
            f"{task}, accuracy % at distance {farthest} (from distance {nearest}): {', '.join(shown)}: "
            f"{at_far}; falls: {falling}"
        )
    assert claims["S4.5"].effect.partition("; not decided")[0] == "; ".join(parts)


def test_accuracies_at_every_distance(claims, records):
    for task, model in itertools.product(TASKS, ("transformer", "convs2s", "lstm")):
        found = accuracies(records, task, model)
        longest = max(distance for is_beyond, distance in found if not is_beyond)
        shown = ", ".join(f"{distance}: {over_seeds(values)}" for (_, distance), values in found.items())
        expected = f"{task}, {model}, accuracy % by distance (trained up to {longest}): {shown}"
        assert expected in claims["S4.5"].conditions


def test_how_many_questions_an_interval_leaves_out(claims, records):
    (number,) = {
        each["sentences"]
        for one in records.values()
        if one["kind"] == "train"
        for each in one["scores"]
        if each["split"].startswith("distance_")
    }
    line = f"{number} questions at a distance, the same ones for every seed: ± is over seeds alone"
    assert line in claims["S4.5"].conditions


def heads(records, task, quantity):
    """Mean over the heads and layers of an encoder, before training and after, by seed."""
    found: dict[Any, Any] = {"before": {}, "after": {}}
    for one in records.values():
        if one["kind"] == "attention" and one["settings"]["task"] == task:
            for training, seeds in found.items():
                values = [
                    row["value"]
                    for row in one["rows"]
                    if row["quantity"] == quantity
                    and (row["conditions"]["part"], row["conditions"].get("training"))
                    == ("encoder", training)
                ]
                if values:
                    seeds[one["settings"]["seed"]] = values
    return found


def means(records, task, quantity):
    return {
        training: {seed: statistics.fmean(values) for seed, values in seeds.items()}
        for training, seeds in heads(records, task, quantity).items()
    }


def test_what_heads_look_at(claims, records):
    tasks = sorted(TASKS)
    divergence = [means(records, task, "head divergence") for task in tasks]
    words = told_apart(
        [(one["after"], one["before"]) for one in divergence], ("after higher", "before higher")
    )
    (number,) = {
        row["conditions"]["heads"]
        for rows in measured(records, "attention").values()
        for row in rows
        if row["quantity"] == "head divergence"
    }
    assert f"bits (at most {math.log2(number):.2f} of {number} heads): " in claims["S4.13"].effect
    assert claims["S4.13"].effect.partition(": ")[2] == "; ".join(
        f"{task}: {over_seeds(one['before'])} before training, {over_seeds(one['after'])} after: {word}"
        for task, one, word in zip(tasks, divergence, words, strict=True)
    )
    for task in tasks:
        entropy = means(records, task, "entropy of a head")
        line = f"{task}: the entropy of a head goes from {over_seeds(entropy['before'])} to "
        line += f"{over_seeds(entropy['after'])} bits;"
        assert any(one.startswith(line) for one in claims["S4.13"].conditions)
        shares = heads(records, task, "share at one distance")
        having = {
            training: statistics.fmean(sum(value > 0.5 for value in values) for values in seeds.values())
            for training, seeds in shares.items()
        }
        number = len(next(iter(shares["after"].values())))
        seeds = f"mean over {len(shares['after'])} seeds"
        ending = ", ".join(f"{name} {without_spread(mean)} of {number}" for name, mean in having.items())
        assert any(
            one.startswith(f"{task}: encoder heads") and seeds in one and one.endswith(ending)
            for one in claims["S4.13"].conditions
        )


LAWS = {"none": "no decay", "undetermined": "neither an exponential nor a power law"}


def law(row):
    kind = row["conditions"]["decay"]
    return LAWS.get(kind) or f"{kind} {'growth' if row['value'] > 0 else 'decay'}"


def laws(rows, where):
    """Of slopes at several places: each law, how often it holds, and its smallest and largest slope."""
    shown = []
    for name in dict.fromkeys(map(law, rows)):
        mine = [row for row in rows if law(row) == name]
        mine.sort(key=lambda row: row["value"])
        slopes = dict.fromkeys(
            with_half_width(row["value"], (row["high"] - row["low"]) / 2) for row in (mine[0], mine[-1])
        )
        text = name + (f" {where.format(f'{len(mine)} of {len(rows)}')}" if len(rows) > 1 else "")
        places = {
            f"n = {one['conditions']['n']} at {one['conditions']['output']}": None
            for one in rows
            if one in mine
        }
        if len(mine) < len(rows) or len(places) == 1:
            text += f" ({', '.join(places)})"
        if name != LAWS["undetermined"]:
            text += f", {' to '.join(slopes)} {mine[0]['unit']}"
        shown.append(text)
    return ", and ".join(shown)


def slopes(rows, side, training):
    """Of every length and position the slope of its law, in the law's own unit."""
    return [
        row
        for row in rows
        if row["quantity"] == ("exponent" if row["conditions"].get("decay") == "power" else "rate")
        and (row["conditions"].get("from"), row["conditions"].get("training")) == (side, training)
    ]


@pytest.mark.parametrize("study", WHY)
def test_decay_of_gradients(study):
    claim, by_subject = read_claims(study)["I.2"], measured(read_records(study), "signal")

    def untrained(subject, side=None):
        return laws(slopes(by_subject[subject], side, None), "at {} lengths and positions")

    parts = [untrained("recurrent")]
    parts += [f"with forget bias {bias}: {untrained(f'recurrent, forget bias {bias}')}" for bias in (0, 3)]
    assert claim.effect.partition("(forget bias 1): ")[2] == "; ".join(parts)
    expected = {f"self-attention: {untrained('self-attention')}"}
    for model, side in itertools.product(("transformer", "convs2s", "lstm"), ("source", "target")):
        expected.add(f"{model} from the {side}: {untrained(model, side)}")
    names = {subject.partition(", seed ")[0] for subject in by_subject if ", seed " in subject}
    for name, training in itertools.product(names, ("before", "after")):
        seeds = [rows for subject, rows in by_subject.items() if subject.startswith(f"{name}, seed ")]
        found = [row for rows in seeds for row in slopes(rows, "source", training)]
        expected.add(f"{name} from the source, {training} training: {laws(found, 'with {} seeds')}")
    _, _, *conditions, _, _, _ = claim.conditions
    assert set(conditions) == expected


def test_quality_and_cost_of_translation(claims):
    """BLEU over all devices; seconds of those on which all models were trained. What was trained for other
    seconds is among the conditions.
    """
    said = claims["C.1"].effect + "; ".join(claims["C.1"].conditions)
    seen = 0
    for study in TRANSLATED:
        page, found = read_page(study), read_records(study)
        by_match: dict[str, dict[str, list[Any]]] = {}
        for table in section(page, "comparison"):
            by_model = by_match.setdefault(match_of(table), {})
            for row, ids in zip(table.rows, table.runs, strict=True):
                by_model.setdefault(row["model"], []).extend(found[run_id] for run_id in ids)
        for match, models in by_match.items():
            every = [one for mine in models.values() for one in mine]
            split = first_test_split(every[0])
            means = ", ".join(
                f"{model} {mean_of([score(one, split, 'bleu') for one in mine])}"
                for model, mine in models.items()
            )
            name = f"{study}, equal {match}" if match else study
            assert f"{name}, {split} BLEU: {means}: " in said
            for device in {one["provenance"]["device"] for one in every}:
                seconds = {
                    model: [one["train_seconds"] for one in mine if one["provenance"]["device"] == device]
                    for model, mine in models.items()
                }
                if all(seconds.values()):
                    shown = [
                        f"{model} {without_spread(statistics.median(one))}" for model, one in seconds.items()
                    ]
                    assert f"{', '.join(shown)} on {device}" in said
            seen += 1
    assert seen == 5
    trained = [one for one in read_records("grammar-translation").values() if one["kind"] == "train"]
    most = max(one["body_parameters"] for one in trained) / 1e6
    assert f"models of up to {most:.1f} million parameters" in said


def test_speed_of_training(claims):
    parts, plain = [], []
    for study in ("multi30k-en-de", "speed", "speed-base"):
        for record in read_records(study).values():
            if record["kind"] != "speed":
                continue
            trained = [
                row for row in record["rows"] if (row["phase"], row["quantity"]) == ("train", "speed_ratio")
            ]
            to_plain = {
                row["model"]: row["value"] for row in trained if row["conditions"]["baseline"] == "plain form"
            }
            noise = max(
                max(row["value"], 1 / row["value"])
                for row in record["rows"]
                if row["quantity"] == "noise_floor"
            )
            for row in record["rows"]:
                baseline = str(row["conditions"].get("baseline"))
                is_train = (row["phase"], row["quantity"]) == ("train", "speed_ratio")
                if (
                    is_train
                    and baseline.startswith("transformer")
                    and not row["model"].startswith("transformer")
                ):
                    interval = with_interval(row["value"], row["low"], row["high"])
                    device = record["provenance"]["device"]
                    parts.append(f"{study}: {row['model']} {interval} times (A/A {noise:.3f}, {device})")
                    ratio = row["value"] * to_plain[baseline] / to_plain[row["model"]]
                    plain.append(f"{study}: {row['model']} {without_spread(ratio)} times")
    assert claims["C.2"].effect.partition(": ")[2].split("; ") == parts
    assert any(one.endswith(f"from the same ratios: {'; '.join(plain)}") for one in claims["C.2"].conditions)
