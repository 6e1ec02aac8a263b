"""Comparisons at a glance: every row against every other, and every model under each thing held equal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from benchmark.report.budgets import match_lines, matched_by_data
from benchmark.report.comparison import Group
from benchmark.report.heading import group_heading, runs_heading
from benchmark.report.layout import NOT_MEASURED, Column, Place, Table
from benchmark.report.rounding import mean_text
from benchmark.report.significance import Family, Pair, families, leaders, row_name, score_name
from tasks import VALIDATION


def significance_matrices(every: Sequence[Group], titles: Sequence[str]) -> list[Table]:
    """For each score that is tested, what each row has more than each other; `titles` are the groups'."""
    return [
        _matrix(group, family, f"{title}: {score_name(family.split, family.metric)}, row less column")
        for group, title in zip(every, titles, strict=True)
        for family in families(group)
    ]


def _matrix(group: Group, family: Family, title: str) -> Table:
    cells = list(dict.fromkeys(cell for pair in family.pairs for cell in (pair.first, pair.second)))
    by_sides = {(pair.first, pair.second): pair for pair in family.pairs}
    rows, marked = [], set[Place]()
    for down, first in enumerate(cells):
        texts = [row_name(first)]
        for across, second in enumerate(cells, 1):
            pair, sign = by_sides.get((first, second)), 1.0
            if pair is None:
                pair, sign = by_sides.get((second, first)), -1.0
            texts.append(_difference(pair, sign))
            if pair is not None and pair.comparison is not None and pair.comparison.different:
                marked.add((down, across))
        rows.append(texts)
    return Table(
        title=title,
        heading=group_heading(group),
        columns=[
            Column(title=("row",), is_text=True),
            *(
                Column(
                    title=(row_name(cell),),
                    note="Mean difference over seeds ± half its 95 % t-interval.",
                )
                for cell in cells
            ),
        ],
        rows=rows,
        labels=1,
        best=frozenset(marked),
        marks="told apart by the sign-flip test over these seeds, at 5 % after Holm's correction",
    )


def _difference(pair: Pair | None, sign: float) -> str:
    if pair is None or pair.comparison is None:
        return NOT_MEASURED
    return mean_text(sign * pair.comparison.mean_difference, pair.comparison.half_width)


def ranking_tables(every: Sequence[Group]) -> list[Table]:
    """Of each task that is compared under several matches: each model's place and mean under each of them."""
    return [
        table
        for groups_of_data in matched_by_data(every)
        if len(groups_of_data) > 1
        for table in _rankings(groups_of_data)
    ]


def _rankings(every: Sequence[Group]) -> list[Table]:
    tables = []
    for split, metric in every[0].scored:
        if split == VALIDATION:
            continue
        found = [_placed(group, split, metric) for group in every]
        models = list(dict.fromkeys(model for places in found for model in places))
        if len(models) < 2:
            continue
        best = {
            (down, across)
            for across, places in enumerate(found, 1)
            for down, model in enumerate(models)
            if model in places and places[model][0] == 1
        }
        level = {
            (down, across)
            for across, group in enumerate(every, 1)
            for down, model in enumerate(models)
            if model in _level(group, split, metric)
        }
        tables.append(
            Table(
                title=f"{every[0].conditions.task}: ranking by {score_name(split, metric)}",
                heading=[
                    *runs_heading(record for group in every for record in group.records),
                    *(_held(group) for group in every),
                ],
                columns=[
                    Column(title=("model",), is_text=True),
                    *(
                        Column(
                            title=(f"equal {group.conditions.match}",),
                            note="Place by the mean over seeds, and the mean ± half its 95 % t-interval.",
                        )
                        for group in every
                    ),
                ],
                rows=[[model, *(_place_text(places.get(model)) for places in found)] for model in models],
                labels=1,
                best=frozenset(best),
                level=frozenset(level),
            )
        )
    return tables


def _held(group: Group) -> str:
    lines = "; ".join(match_lines(group)).removeprefix("held equal: ")
    return f"equal {group.conditions.match}: {lines}"


def _placed(group: Group, split: str, metric: str) -> dict[str, tuple[int, str]]:
    """By model: its place, from 1, and its mean; models with several settings have none."""
    scored = []
    for cell in group.comparable:
        score = cell.score(split, metric)
        if score is not None and not cell.settings:
            scored.append((score.mean, cell.model, mean_text(score.mean, score.half_width)))
    scored.sort(key=lambda one: -one[0])
    return {model: (place, text) for place, (_, model, text) in enumerate(scored, 1)}


def _place_text(placed: tuple[int, str] | None) -> str:
    return NOT_MEASURED if placed is None else f"{placed[0]}. ({placed[1]})"


def _level(group: Group, split: str, metric: str) -> set[str]:
    for family in families(group):
        if (family.split, family.metric) == (split, metric):
            return {cell.model for cell in leaders(family)[1]}
    return set()


def ranking_remarks(every: Sequence[Group]) -> list[str]:
    """How the order of means depends on what is held equal, and how much of it the tests decide."""
    remarks = []
    for groups_of_data in matched_by_data(every):
        same: dict[tuple[str, ...], list[str]] = {}
        decided: dict[tuple[str, ...], list[bool]] = {}
        for split, metric in groups_of_data[0].scored:
            means = _means(groups_of_data, split, metric)
            if split == VALIDATION or len(means) < 2:
                continue
            told_apart = {
                group.conditions.match: _told_apart(group, split, metric) for group in groups_of_data
            }
            name, held = score_name(split, metric), tuple(means)
            flips = _flips(means, told_apart)
            remarks += [f"{name}: the order of means flips with what is held equal: {one}" for one in flips]
            if not flips:
                same.setdefault(held, []).append(name)
                decided.setdefault(held, []).extend(
                    {first, second} in told_apart[match]
                    for match, scores in means.items()
                    for first, second in itertools.combinations(scores, 2)
                )
        remarks += [
            f"{', '.join(names)}: the means are in the same order at equal {', '.join(held)}; "
            f"{_count_decided(decided[held])}"
            for held, names in same.items()
        ]
    return remarks


def _count_decided(decided: Sequence[bool]) -> str:
    if not any(decided):
        return f"these seeds decide none of the {len(decided):,} differences between two models"
    return f"these seeds decide {sum(decided):,} of the {len(decided):,} differences between two models"


def _means(every: Sequence[Group], split: str, metric: str) -> dict[str, dict[str, float]]:
    """By match and model; what was run with several settings has no single mean."""
    means: dict[str, dict[str, float]] = {}
    for group in every:
        for cell in group.comparable:
            score = cell.score(split, metric)
            if score is not None and not cell.settings:
                means.setdefault(group.conditions.match, {})[cell.model] = score.mean
    return means


def _told_apart(group: Group, split: str, metric: str) -> list[set[str]]:
    """The pairs of models whose difference is significant."""
    return [
        {pair.first.model, pair.second.model}
        for family in families(group)
        if (family.split, family.metric) == (split, metric)
        for pair in family.pairs
        if pair.comparison is not None and pair.comparison.different
    ]


def _flips(
    means: Mapping[str, Mapping[str, float]], told_apart: Mapping[str, Sequence[set[str]]]
) -> list[str]:
    models = list(dict.fromkeys(model for scores in means.values() for model in scores))
    flips = []
    for first, second in itertools.combinations(models, 2):
        ahead: dict[str, list[str]] = {}
        for match, scores in means.items():
            if first in scores and second in scores and scores[first] != scores[second]:
                undecided = "" if {first, second} in told_apart[match] else " (these seeds do not decide it)"
                leader = first if scores[first] > scores[second] else second
                ahead.setdefault(leader, []).append(f"{match}{undecided}")
        if len(ahead) == 2:
            flips.append(
                "; ".join(f"{model} is higher at equal {' and '.join(held)}" for model, held in ahead.items())
            )
    return flips
