"""Tables 2 and 3 of the paper, from the studies of translation beside: quality, and what training cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmark.record import Record
from benchmark.report.budgets import quantity
from benchmark.report.comparison import Cell, Group
from benchmark.report.heading import budget_steps, plural
from benchmark.report.layout import NOT_MEASURED, Column, Table
from benchmark.report.published import published_tables
from benchmark.report.rounding import count, mean_text, without_spread
from benchmark.report.study_results import StudyResults
from benchmark.why.facts import Facts

VARIATIONS = "ablations"
"""The study of the Transformer's variations."""


def tables_2_and_3(facts: Facts) -> Iterator[Table]:
    """Each followed by what the paper reports; none where no study lies beside."""
    translations = [study for study in facts.beside if study.name != VARIATIONS]
    rows = [row for study in translations for group in study.groups for row in _rows(facts, study, group)]
    if rows:
        yield Table(
            title="Table 2, measured: quality and the cost of training",
            heading=[
                f"{_titled(study, group)}: {_made(group)}" for study in translations for group in study.groups
            ],
            columns=[
                Column(title=("study",), is_text=True),
                Column(title=("model",), is_text=True),
                Column(title=("device",), is_text=True),
                Column(title=("seeds",)),
                Column(
                    title=("BLEU",),
                    note="BLEU: on the study's first test split; its signature is in the study's report.",
                ),
                Column(
                    title=("operations", "counted"),
                    note="Operations: counted, 2 per multiply-add, of all training steps, forward and "
                    "backward, padding included; validation and search are left out.",
                ),
                Column(title=("seconds",), note="Seconds: of the training steps, as run; median over seeds."),
                Column(
                    title=("kJ",),
                    note="kJ: what the device drew meanwhile, where it counts it, for all programs on it: "
                    "runs side by side are each charged with all; median over seeds.",
                ),
                Column(
                    title=("operations", "as the", "paper counts"),
                    note="As the paper counts: seconds x a sustained rate of operations, an estimate and no "
                    "count. The paper assumes that rate for each kind of GPU; here it is the peak of matrix "
                    "products that was measured on the same device in the same precision, on a processor "
                    "with as many threads. Where none was, the figure is missing: seqbench run speed "
                    "measures one, there, with --threads and training.precision as of these runs.",
                ),
            ],
            rows=rows,
            labels=2,
            remarks=_without_peak(
                facts, [cell for study in translations for group in study.groups for cell in group.comparable]
            ),
        )
        yield from published_tables(["table-2"])
    for study in facts.beside:
        if study.name == VARIATIONS and study.groups:
            for group in study.groups:
                facts.read.update({one.run_id: None for cell in group.comparable for one in cell.done})
                yield Table(
                    title="Table 3, measured: the Transformer without a part of it",
                    heading=[_made(group)],
                    columns=[
                        Column(title=("variation",), is_text=True),
                        Column(title=("seeds",)),
                        Column(title=("validation loss", "nats per token")),
                        Column(title=("test", "BLEU")),
                        Column(title=("parameters", "million")),
                    ],
                    rows=[_variation(group, cell) for cell in group.comparable],
                    labels=1,
                )
            yield from published_tables(["table-3"])


def _titled(study: StudyResults, group: Group) -> str:
    match = group.conditions.match
    return f"{study.name}, equal {match}" if match else study.name


def _made(group: Group) -> str:
    """On what its runs were trained, for how long, and how they ended."""
    conditions = group.conditions
    threads = plural(conditions.threads, "thread")
    steps = sorted({number for record in group.records if (number := budget_steps(record)) is not None})
    budget = " to ".join(f"{one:,}" for one in dict.fromkeys([*steps[:1], *steps[-1:]]))
    ends = Counter(record.status for record in group.records)
    return (
        f"{conditions.device}, {threads}, {conditions.precision}; {budget or 'unknown'} steps of training; "
        f"runs: {', '.join(f'{ends[end]} {end}' for end in ('done', 'failed', 'diverged'))}"
    )


def _rows(facts: Facts, study: StudyResults, group: Group) -> Iterator[list[str]]:
    conditions = group.conditions
    for cell in group.comparable:
        if not cell.done:
            continue
        facts.read.update({record.run_id: None for record in cell.done})
        seconds, counted = cell.median("train_seconds"), quantity(cell.done, "flops")
        joules = cell.median("energy_joules")
        peak = _peak(facts, cell)
        paper = None if seconds is None or peak is None else seconds * peak
        yield [
            _titled(study, group),
            cell.model,
            f"{conditions.device}, {conditions.threads}",
            str(len(cell.done)),
            _bleu(group, cell),
            NOT_MEASURED if counted is None else f"{counted:.2e}",
            NOT_MEASURED if seconds is None else without_spread(seconds),
            NOT_MEASURED if joules is None else without_spread(joules / 1e3),
            NOT_MEASURED if paper is None else f"{paper:.2e}",
        ]


def _peak(facts: Facts, cell: Cell) -> float | None:
    """The most operations per second of matrix products that were measured on the device that trained, in the
    same conditions: with the layers, or with the speed of a study beside.
    """
    trained = _conditions(cell.done[0])
    layers = [record for record in facts.records if record.kind == "utilisation"]
    speeds = [record for study in facts.beside for record in study.speed_records]
    found = [
        (row.value, record.run_id)
        for record in layers
        for row in record.rows
        if row.quantity == "peak" and _conditions(record) == trained
    ]
    found += [
        (row.value, record.run_id)
        for record in speeds
        for row in record.rows
        if row.phase == "peak" and _conditions(record) == trained
    ]
    if not found:
        return None
    peak, run_id = max(found)
    facts.read[run_id] = None
    return peak


def _without_peak(facts: Facts, cells: Sequence[Cell]) -> list[str]:
    """What the paper's count of cost lacks."""
    missing = dict.fromkeys(
        ", ".join(_conditions(cell.done[0])) for cell in cells if cell.done and _peak(facts, cell) is None
    )
    return [f"no peak of matrix products was measured on {'; '.join(missing)}"] if missing else []


def _conditions(record: Record) -> tuple[str, str, str]:
    """What a peak depends on: on a processor its threads, which only launch the work of a GPU."""
    one = record.provenance
    on_gpu = one.device_class == "cuda"
    parts = plural(one.devices, "device") if on_gpu else plural(one.threads * one.devices, "thread")
    return one.device, parts, one.precision


def _variation(group: Group, cell: Cell) -> list[str]:
    loss, parameters = cell.median("validation_loss"), cell.median("parameters")
    return [
        cell.label or cell.model,
        str(len(cell.done)),
        NOT_MEASURED if loss is None else without_spread(loss),
        _bleu(group, cell),
        NOT_MEASURED if parameters is None else count(round(parameters / 1e6, 1)),
    ]


def _bleu(group: Group, cell: Cell) -> str:
    """On the first test split."""
    for split, metric in group.scored:
        score = cell.score(split, metric)
        if metric == "bleu" and score is not None:
            return mean_text(score.mean, score.half_width)
    return NOT_MEASURED
