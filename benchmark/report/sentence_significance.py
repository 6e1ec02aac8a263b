"""Which differences are significant over sentences: tests that need the output and references of a study.

Seed by seed, two outputs are compared on the metric that comes first in the records: that tells one trained
model from another, not one architecture from another. All seeds are shown, by least, median and most. From
ten common seeds on, an interval over seeds and sentences says both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.hypotheses import hypotheses_path, read_lines
from benchmark.measure.resampling import (
    ADDITIVE,
    BOOTSTRAP_SAMPLES,
    FEWEST_SEEDS,
    RANDOMISATION_TRIALS,
    Interval,
    paired_bootstrap_p,
    randomisation_p,
    seeds_and_sentences,
    sentence_statistics,
)
from benchmark.measure.significance import LEVEL
from benchmark.record import TrainRecord
from benchmark.report.comparison import Cell, Group, group_titles
from benchmark.report.heading import group_heading
from benchmark.report.layout import NOT_MEASURED, Column, Table
from benchmark.report.rounding import count, with_interval
from benchmark.report.significance import (
    PAIR_COLUMNS,
    Pair,
    families,
    p_text,
    row_name,
    score_name,
    untested_because,
)
from benchmark.report.study_results import StudyResults
from benchmark.rescore import References, scores_again

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class SentenceComparison:
    """Two rows on one metric and split, over the sentences of each seed that both have."""

    table: int
    """Number of the rows' table in the report, from 1."""
    split: str
    metric: str
    first: Cell
    second: Cell
    seeds: tuple[int, ...]
    """Those whose output of both is there."""
    sentences: int
    randomisation_p: tuple[float, ...]
    """By seed."""
    bootstrap_p: tuple[float, ...]
    """By seed."""
    interval: Interval | None
    """Over seeds and sentences; None with few seeds, or where the metric does not offer it."""


@dataclass(frozen=True, kw_only=True)
class SentenceSignificance:
    """All pairs of a study, and what could not take part."""

    comparisons: tuple[SentenceComparison, ...]
    left_out: tuple[str, ...]
    """One line for each score whose output is not there, or is not what the record says."""
    untested: tuple[str, ...]
    """One line for each group without pairs."""


def compare_sentences(
    study: StudyResults,
    study_folder: Path,
    data_directory: Path,
    *,
    trust_code: bool = False,
    announce: Callable[[str], None] = lambda text: None,
) -> SentenceSignificance:
    """Test every pair of the report's significance tables over sentences, from stored output.

    Args:
        study: the records of `study_folder`.
        study_folder: where their output and references lie.
        data_directory: where tasks whose texts may not be copied have their data.
        trust_code: whether a task's file outside the repository may run that only a record names.
        announce: is told how much there is to do, before it is done.

    Raises:
        UserError: a task cannot give its references.
    """
    every = study.groups
    outputs = Outputs(study_folder, References(study_folder, data_directory, trust_code=trust_code))
    todo = [
        (number, *key, pair)
        for number, group in enumerate(every, start=1)
        for key, pairs in _main_metrics(group)
        for pair in pairs
    ]
    number = sum(len(pair.seeds) for *_, pair in todo)
    if number:
        announce(f"{number} pairs of outputs to compare over their sentences; some two seconds for each")
    comparisons = [_compared(*one, outputs) for one in todo]
    return SentenceSignificance(
        comparisons=tuple(comparisons),
        left_out=tuple(outputs.left_out),
        untested=tuple(
            f"{title}: not tested: {reason}"
            for title, group in zip(group_titles(study.name, every), every, strict=True)
            if (reason := untested_because(group))
        ),
    )


def _main_metrics(group: Group) -> list[tuple[tuple[str, str], tuple[Pair, ...]]]:
    """Of each split that is tested, the metric that comes first in a record, and its pairs with seeds."""
    found: dict[str, tuple[tuple[str, str], tuple[Pair, ...]]] = {}
    for family in families(group):
        pairs = tuple(pair for pair in family.pairs if pair.seeds)
        found.setdefault(family.split, ((family.split, family.metric), pairs))
    return list(found.values())


class Outputs:
    """Stored output by run and split, each checked and read once."""

    def __init__(self, study_folder: Path, references: References) -> None:
        self.study_folder = study_folder
        self.references = references
        self.left_out: list[str] = []
        self._lines: dict[tuple[str, str, str], list[str] | None] = {}
        self._statistics: dict[tuple[str, str, str], NDArray[Any]] = {}

    def lines(self, record: TrainRecord, split: str, metric: str) -> list[str] | None:
        """None, and a line in `left_out`, unless its score is the record's; None for what was not scored."""
        if not any((one.split, one.metric) == (split, metric) for one in record.scores):
            return None
        key = (record.run_id, split, metric)
        if key not in self._lines:
            folder = self.study_folder / "runs" / record.run_id
            score = next(
                one
                for one in scores_again(record, split, folder, self.references.of(record, split))
                if one.metric == metric
            )
            if score.difference is not None:
                self.left_out.append(f"run {record.run_id}, {split}, {metric}: {score.difference}")
            self._lines[key] = None if score.difference else read_lines(hypotheses_path(folder, split))
        return self._lines[key]

    def statistics(self, record: TrainRecord, split: str, metric: str) -> NDArray[Any]:
        """`sentence_statistics` of what `lines` gave."""
        key = (record.run_id, split, metric)
        if key not in self._statistics:
            lines = self.lines(record, split, metric)
            assert lines is not None
            references = self.references.of(record, split)[: len(lines)]
            self._statistics[key] = sentence_statistics(metric, lines, references)
        return self._statistics[key]


def _compared(table: int, split: str, metric: str, pair: Pair, outputs: Outputs) -> SentenceComparison:
    cells = (pair.first, pair.second)
    by_seed = [{record.seed: record for record in cell.done} for cell in cells]
    seeds, randomisation, bootstrap, sentences = [], [], [], 0
    for seed in pair.seeds:
        records = [found[seed] for found in by_seed]
        first, second = (outputs.lines(record, split, metric) for record in records)
        if first is None or second is None:
            continue
        references = outputs.references.of(records[0], split)[: len(first)]
        if len(first) != len(second):
            outputs.left_out.append(
                f"runs {records[0].run_id} and {records[1].run_id}, {split}: {len(first)} and {len(second)} "
                "sentences; only equal ones are compared"
            )
            continue
        sentences = len(references)
        seeds.append(seed)
        randomisation.append(randomisation_p(metric, first, second, references))
        bootstrap.append(paired_bootstrap_p(metric, first, second, references))
    interval = None
    if len(seeds) >= FEWEST_SEEDS and metric in ADDITIVE:
        interval = seeds_and_sentences(
            metric,
            *([outputs.statistics(found[seed], split, metric) for seed in seeds] for found in by_seed),
        )
    return SentenceComparison(
        table=table,
        split=split,
        metric=metric,
        first=pair.first,
        second=pair.second,
        seeds=tuple(seeds),
        sentences=sentences,
        randomisation_p=tuple(randomisation),
        bootstrap_p=tuple(bootstrap),
        interval=interval,
    )


def sentence_tables(study: StudyResults, found: SentenceSignificance) -> list[Table]:
    """A table for each group that has a pair with output."""
    titles = group_titles(study.name, study.groups)
    result = []
    for number, (group, title) in enumerate(zip(study.groups, titles, strict=True), start=1):
        mine = [one for one in found.comparisons if one.table == number and one.seeds]
        if mine:
            result.append(_table(group, f"{title}, significance over sentences", mine))
    return result


def _table(group: Group, title: str, comparisons: Sequence[SentenceComparison]) -> Table:
    without = {one.metric for one in comparisons if one.metric not in ADDITIVE}
    reasons = [f"not offered for {metric}" for metric in sorted(without)]
    if any(len(one.seeds) < FEWEST_SEEDS for one in comparisons):
        reasons.append(f"offered from {FEWEST_SEEDS} seeds in common on")
    columns = [*_COLUMNS, _INTERVAL] if any(one.interval for one in comparisons) else _COLUMNS
    return Table(
        title=title,
        heading=[
            *group_heading(group),
            "two outputs of one seed on the same sentences: this tells trained models apart, not models",
        ],
        columns=columns,
        rows=[_texts(one)[: len(columns)] for one in comparisons],
        labels=3,
        last_notes=[f"An interval over seeds and sentences is {', and '.join(reasons)}."] if reasons else [],
    )


_COLUMNS = [
    *PAIR_COLUMNS,
    Column(
        title=("randomisation p", "least/median/most"),
        note=f"Randomisation p: of {RANDOMISATION_TRIALS:,} trials of approximate randomisation, two-sided, "
        "for each seed; least, median and most of the seeds. BLEU and chrF: that of `sacrebleu --paired-ar`.",
    ),
    Column(
        title=(f"seeds with p <= {LEVEL}",),
        note=f"Seeds with p <= {LEVEL}: by randomisation, not adjusted for the number of seeds.",
    ),
    Column(
        title=("bootstrap p", "least/median/most"),
        note=f"Bootstrap p: of {BOOTSTRAP_SAMPLES:,} samples of the paired bootstrap. BLEU and chrF: that of "
        "`sacrebleu --paired-bs`, about half of a two-sided p, so that nothing is decided by it; accuracies: "
        "two-sided.",
    ),
]
_INTERVAL = Column(
    title=("first less second", "over seeds, sentences"),
    note="First less second: mean over seeds with the 95 % percentile interval of a bootstrap over seeds, "
    "then sentences: for other seeds and other sentences. Where seeds differ most it covers 90 %.",
)


def _texts(one: SentenceComparison) -> list[str]:
    significant = sum(p <= LEVEL for p in one.randomisation_p)
    return [
        score_name(one.split, one.metric),
        row_name(one.first),
        row_name(one.second),
        count(len(one.seeds)),
        _spread(one.randomisation_p),
        f"{significant} of {len(one.seeds)}",
        _spread(one.bootstrap_p),
        _interval_text(one.interval),
    ]


def _spread(p_values: Sequence[float]) -> str:
    return "/".join(p_text(p) for p in (min(p_values), statistics.median(p_values), max(p_values)))


def _interval_text(interval: Interval | None) -> str:
    if interval is None:
        return NOT_MEASURED
    return with_interval(interval.mean_difference, interval.low, interval.high)


def sentence_rows(found: SentenceSignificance) -> list[dict[str, Any]]:
    """All comparisons at full precision, with every seed's p-values in the order of `seeds`."""
    return [
        {
            "table": one.table,
            "split": one.split,
            "metric": one.metric,
            "first": one.first.model,
            "first_settings": one.first.label,
            "second": one.second.model,
            "second_settings": one.second.label,
            "seeds": list(one.seeds),
            "sentences": one.sentences,
            "randomisation_p": list(one.randomisation_p),
            "bootstrap_p": list(one.bootstrap_p),
            "mean_difference": one.interval.mean_difference if one.interval else None,
            "low_95_over_seeds_and_sentences": one.interval.low if one.interval else None,
            "high_95_over_seeds_and_sentences": one.interval.high if one.interval else None,
        }
        for one in found.comparisons
    ]
