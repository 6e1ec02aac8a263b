"""Tables of a study for the terminal, for Markdown, LaTeX and CSV.

Each is headed by what its rows have in common, ends with the runs that are not in it and why, and explains
its columns. Where a form marks the highest mean, it marks what the seeds do not tell from it as well; a
terminal marks nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmark.record import CAPTURED, LayerRecord, SpeedRecord, SpeedRow, TrainRecord
from benchmark.report.budgets import budget_rows, match_lines
from benchmark.report.checklist import checklist
from benchmark.report.comparison import (
    ROW_FIELDS,
    SEVERAL,
    Cell,
    Group,
    group_titles,
    layer_rows,
    rows,
    speed_rows,
)
from benchmark.report.escaping import for_csv, for_markdown, for_terminal
from benchmark.report.heading import budget, budget_steps, devices, plural
from benchmark.report.layout import (
    METRIC_TITLES,
    NOT_MEASURED,
    Column,
    Place,
    Table,
    latex_lines,
    latex_notes,
    markdown_lines,
    metric_title,
    terminal_lines,
)
from benchmark.report.matrices import ranking_remarks, ranking_tables
from benchmark.report.published import published_tables
from benchmark.report.rounding import count, mean_text, with_interval, without_spread
from benchmark.report.search import search_rows, search_tables
from benchmark.report.significance import (
    families,
    leaders,
    significance_rows,
    significance_tables,
    undecided_because,
)
from benchmark.report.study_results import StudyResults
from benchmark.store import StorageError, write_atomic
from benchmark.why.facts import Facts
from benchmark.why.page import claim_rows, why_tables
from tasks import VALIDATION

MIB = 2**20
FLAT_TABLES = ("comparison", "significance", "budget", "search", "speed", "layers", "claims")


def terminal_table(study: StudyResults, width: int = 120, *, further: Sequence[Table] = ()) -> str:
    """All tables of a study, and `further` ones, in lines of `width` characters."""
    parts = [terminal_lines(table, width) for table in (*tables(study), *further)]
    parts += [[for_terminal(remark) for remark in remarks] for remarks in [study_remarks(study)] if remarks]
    return "\n\n\n".join("\n".join(lines) for lines in parts) + "\n"


def markdown_table(study: StudyResults, *, further: Sequence[Table] = ()) -> str:
    """All tables of a study, and `further` ones, as GitHub-flavoured Markdown."""
    parts = [[f"# {for_markdown(study.name)}"]]
    parts += [markdown_lines(table) for table in (*tables(study), *further)]
    parts += [
        [f"- {for_markdown(remark)}" for remark in remarks] for remarks in [study_remarks(study)] if remarks
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def latex_table(study: StudyResults, *, further: Sequence[Table] = ()) -> str:
    """All tables of a study, and `further` ones, for LaTeX with booktabs."""
    parts = [["% needs \\usepackage{booktabs,graphicx,textcomp}"]]
    parts += [latex_lines(table) for table in (*tables(study), *further)]
    parts += [latex_notes(study_remarks(study))]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def flat_rows(study: StudyResults) -> dict[str, list[dict[str, Any]]]:
    """The rows of a study by the name of their table, flat and at full precision; none that is empty."""
    found = zip(
        FLAT_TABLES,
        (
            rows(study.groups),
            significance_rows(study.groups),
            budget_rows(study.groups),
            search_rows(study),
            speed_rows(study.speed_records),
            layer_rows(study.layer_records),
            _claims(study),
        ),
        strict=True,
    )
    return {name: table for name, table in found if table}


def _claims(study: StudyResults) -> list[dict[str, Any]]:
    """The ledger of a study with measurements of layers, its lists as texts."""
    ledger = claim_rows(Facts.of(study)) if study.layer_records else []
    return [
        {**row, "conditions": "; ".join(row["conditions"]), "runs": " ".join(row["runs"])} for row in ledger
    ]


def csv_tables(study: StudyResults) -> dict[str, str]:
    """What `flat_rows` gives as texts of CSV; of a study without records the header of the comparison."""
    texts = {}
    for name, table in (flat_rows(study) or {"comparison": []}).items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(table[0]) if table else ROW_FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: for_csv(value) for key, value in row.items()} for row in table)
        texts[name] = text.getvalue()
    return texts


def write_csv(study: StudyResults, folder: Path) -> list[Path]:
    """One file for each of `csv_tables`, in place of those that were there; other files stay.

    Raises:
        StorageError: the folder cannot be written.
    """
    texts = csv_tables(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomic(folder / f"{name}.csv", text.encode())
        for name in FLAT_TABLES:
            if name not in texts:
                (folder / f"{name}.csv").unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror}") from error
    return [folder / f"{name}.csv" for name in texts]


def tables(study: StudyResults) -> list[Table]:
    """The tables of a study: its runs, one table for each set of conditions; the order of its models under
    each thing held equal; which of their differences are significant; its speed records; beside them what is
    published; and what was measured of layers.

    A matrix of the significant differences has the same numbers, and more columns than paper has room for.
    """
    return [
        *search_tables(study),
        *train_tables(study),
        *ranking_tables(study.groups),
        *significance_tables(study.groups, group_titles(study.name, study.groups)),
        *speed_tables(study),
        *published_tables(topics(study)),
        *(why_tables(Facts.of(study)) if study.layer_records else []),
    ]


def topics(study: StudyResults) -> list[str]:
    """What published tables may stand beside: tasks with a test score, and speed where it was measured."""
    tested = [one for one in study.train_records if any(score.split != VALIDATION for score in one.scores)]
    tasks = dict.fromkeys(record.task_preset for record in tested)
    return [*tasks, *(["speed"] if any(one.status == "done" for one in study.speed_records) else [])]


def train_tables(study: StudyResults) -> list[Table]:
    """The comparison: a table for each set of conditions."""
    titles = group_titles(study.name, study.groups)
    return [_train_table(group, title) for group, title in zip(study.groups, titles, strict=True)]


def speed_tables(study: StudyResults) -> list[Table]:
    """Of the study's speed records that are done."""
    return [
        table for record in study.speed_records if record.status == "done" for table in _speed_tables(record)
    ]


def study_remarks(study: StudyResults) -> list[str]:
    """What belongs to no table: unreadable records, cells that have not run."""
    remarks = [f"unreadable, left out: {reason}" for reason in study.unreadable]
    for record in study.speed_records:
        if record.status != "done":
            remarks.append(f"{record.status}: speed, run {record.run_id}: {record.failure}")
    remarks += ranking_remarks(study.groups)
    if study.missing:
        names = ", ".join(study.missing[:6]) + (", ..." if len(study.missing) > 6 else "")
        remarks.append(f"missing: {plural(len(study.missing), 'run')} of the study: {names}")
    if not (study.train_records or study.speed_records or study.trials or study.layer_records):
        remarks.insert(0, f"study {study.name}: no records yet")
    return remarks


# Training runs


def _train_table(group: Group, title: str) -> Table:
    columns: list[tuple[Column, Callable[[Cell], str]]] = [
        (Column(title=("model",), is_text=True), _model_text)
    ]
    if any(cell.settings for cell in group.cells):
        note = "Settings: the fields that vary among the runs of a model; all others are in the records."
        columns.append((Column(title=("settings",), note=note, is_text=True), lambda cell: cell.label))
    labels = len(columns)
    note = "Runs: how many are done, failed and diverged; only those that are done enter a value."
    columns.append((Column(title=("runs", "done/failed/", "diverged"), note=note), _run_counts))
    if len({_seeds(cell) for cell in group.cells}) > 1:
        columns.append((Column(title=("seeds",)), _seeds))
    first_score = len(columns)
    columns += _score_columns(group)
    columns += _cost_columns()
    if any(record.steps != budget_steps(record) for cell in group.cells for record in cell.done):
        columns.append((Column(title=("steps", "taken")), _median_text("steps", count)))
    keep = [i for i, (column, value) in enumerate(columns) if column.is_text or _any_value(group, value)]
    shown = [columns[i] for i in keep]
    best: set[Place] = set()
    level: set[Place] = set()
    for family in families(group):
        key = (family.split, family.metric)
        if key in (keys := _shown_scores(group)) and (column := first_score + keys.index(key)) in keep:
            leader, others = leaders(family)
            best.add((group.cells.index(leader), keep.index(column)))
            level |= {(group.cells.index(cell), keep.index(column)) for cell in others}
    return Table(
        title=title,
        heading=_heading(group),
        columns=[column for column, _ in shown],
        rows=[[value(cell) for _, value in shown] for cell in group.cells],
        labels=labels,
        remarks=[*_unsuccessful(group), *_left_out_or_cut(group)],
        last_notes=checklist(group),
        best=frozenset(best),
        level=frozenset(level),
        runs=[[(_run_text(r), r.run_id) for r in cell.records] for cell in group.cells],
    )


def _run_text(record: TrainRecord) -> str:
    return f"seed {record.seed}" if record.status == "done" else f"seed {record.seed} {record.status}"


def _model_text(cell: Cell) -> str:
    return f"{cell.model} (invalid)" if cell.invalid else cell.model


def _run_counts(cell: Cell) -> str:
    return f"{len(cell.done)}/{len(cell.failed)}/{len(cell.diverged)}"


def _any_value(group: Group, value: Callable[[Cell], str]) -> bool:
    return any(value(cell) != NOT_MEASURED for cell in group.cells)


def _shown_scores(group: Group) -> list[tuple[str, str]]:
    """Every score on a test split, and the first on validation, which ranks models."""
    tests = [key for key in group.scored if key[0] != VALIDATION]
    return tests + [key for key in group.scored if key[0] == VALIDATION][:1]


def _score_columns(group: Group) -> list[tuple[Column, Callable[[Cell], str]]]:
    note = (
        "Scores: from 0 to 100, output against the raw reference; a test split is scored once, settings are "
        f"chosen on {VALIDATION} alone. ± is half the 95 % t-interval over seeds; one seed has none."
    )
    columns = []
    for split, metric in _shown_scores(group):
        title = (*_lines_of_name(split), *METRIC_TITLES.get(metric, (metric,)))
        columns.append((Column(title=title, note=note), _score_text(split, metric)))
    if not any(split == VALIDATION for split, _ in group.scored):
        note = "Validation loss: nats per target token without label smoothing, median over seeds."
        title = (VALIDATION, "loss", "nats/token")
        columns.append((Column(title=title, note=note), _median_text("validation_loss", without_spread)))
    return columns


def _lines_of_name(name: str) -> list[str]:
    """A long name over several lines, cut behind its underscores."""
    lines = [""]
    for part in name.replace("_", "_\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > 10:
            lines.append("")
        lines[-1] += part
    return lines


def _score_text(split: str, metric: str) -> Callable[[Cell], str]:
    def text(cell: Cell) -> str:
        score = cell.score(split, metric)
        if score is None:
            return NOT_MEASURED
        fewer = "" if score.number_of_seeds == len(cell.done) else f" (of {score.number_of_seeds})"
        return mean_text(score.mean, score.half_width) + fewer

    return text


def _median_text(name: str, form: Callable[[float], str]) -> Callable[[Cell], str]:
    def text(cell: Cell) -> str:
        value = cell.median(name)
        return NOT_MEASURED if value is None else form(value)

    return text


def _ranged_text(name: str) -> Callable[[Cell], str]:
    """The median over seeds, and the smallest and the largest where there are several."""

    def text(cell: Cell) -> str:
        value, ends = cell.median(name), cell.ends(name)
        if value is None or ends is None:
            return NOT_MEASURED
        if len(cell.done) == 1:
            return without_spread(value)
        return f"{without_spread(value)} ({without_spread(ends[0])} to {without_spread(ends[1])})"

    return text


def _cost_columns() -> list[tuple[Column, Callable[[Cell], str]]]:
    return [
        (
            Column(
                title=("training", "as run", "target", "tokens/s"),
                note="Training, as run: target tokens, end of sentence included and padding not, per second "
                "of training steps; median over steps, then seeds (smallest to largest). Runs follow each "
                "other: only a speed record compares speeds.",
                begins_part=True,
            ),
            _ranged_text("train_target_tokens_per_second"),
        ),
        (
            Column(
                title=("generation", "as run", "sentences/s"),
                note="Generation, as run: sentences of the test splits at the evaluation's batch size, "
                "median over seeds (smallest to largest).",
            ),
            _ranged_text("generate_sentences_per_second"),
        ),
        (
            Column(
                title=("peak", "memory", "MiB"),
                note="Peak memory: of the accelerator, on a CPU of the process; the largest of the seeds.",
            ),
            _peak_memory,
        ),
        (
            Column(
                title=("parameters", "million", "body/all"),
                note="Parameters: body leaves out matrices that have a row for each word of the vocabulary.",
            ),
            _parameters,
        ),
        (
            Column(
                title=("training", "s"),
                note="Training s: sum over steps, without validation and start-up; median over seeds "
                "(smallest to largest).",
            ),
            _ranged_text("train_seconds"),
        ),
    ]


def _peak_memory(cell: Cell) -> str:
    value = cell.largest("peak_memory_bytes")
    return NOT_MEASURED if value is None else without_spread(value / MIB)


def _parameters(cell: Cell) -> str:
    body, every = cell.median("body_parameters"), cell.median("parameters")
    if every is None:
        return NOT_MEASURED
    known = NOT_MEASURED if body is None else without_spread(body / 1e6)
    return f"{known}/{without_spread(every / 1e6)}"


def _seeds(cell: Cell) -> str:
    number = len({record.seed for record in cell.done})
    return {0: "none", 1: "one seed"}.get(number, str(number))


def _heading(group: Group) -> list[str]:
    conditions = group.conditions
    times = f"{conditions.devices} x " if conditions.devices > 1 else ""
    fingerprint = f", data {conditions.task_fingerprint[:12]}" if conditions.task_fingerprint else ""
    threads = f", {plural(conditions.threads, 'thread')}" if conditions.threads else ""
    lines = [
        f"device: {times}{conditions.device}{threads}, {conditions.precision}, "
        f"torch {conditions.torch_version}",
        f"budget: {budget(group.records)}",
        f"task: {conditions.task}, version {conditions.task_version}{fingerprint}; "
        f"harness version {conditions.harness_version}",
    ]
    if conditions.device == SEVERAL:
        lines.insert(1, f"scores alone are compared over devices: {devices(group.records)}")
    seeds = {_seeds(cell) for cell in group.cells}
    if len(seeds) == 1:
        lines.append(f"seeds: {'one seed' if seeds == {'one seed'} else seeds.pop()} for each row")
    reason = undecided_because(group)
    if reason and len(group.comparable) > 1:
        lines.append(f"too little to tell any row from another: {reason}")
    lines += match_lines(group)
    return lines + [f"{metric_title(metric)}: {signature}" for metric, signature in conditions.signatures]


def _left_out_or_cut(group: Group) -> list[str]:
    """How much of the data the models did not see, where it was not all; of one task, equal for all runs
    unless their `data.maximum_tokens` differs.
    """
    counters = {
        "training pairs with an empty side left out": "pairs_dropped_empty",
        "longer than data.maximum_tokens left out": "pairs_dropped_long",
        "sources cut there at evaluation": "sources_truncated",
        "validation targets cut there": "targets_truncated",
    }
    largest = {
        text: max((cell.largest(name) or 0 for cell in group.cells), default=0)
        for text, name in counters.items()
    }
    shown = ", ".join(f"{count(number)} {text}" for text, number in largest.items() if number)
    return [f"data: {shown}"] if shown else []


def _unsuccessful(group: Group) -> list[str]:
    remarks = [
        f"invalid, in no comparison: {cell.model} {cell.label}".rstrip() + f": {cell.invalid}"
        for cell in group.cells
        if cell.invalid
    ]
    for cell in group.cells:
        for record in cell.records[len(cell.done) :]:
            name = f"{record.model_preset} {cell.label}".strip()
            at = "" if record.diverged_step is None else f" at step {count(record.diverged_step)}"
            last = (
                ""
                if record.last_finite_loss is None
                else f" (last loss {without_spread(record.last_finite_loss)})"
            )
            reason = f": {record.failure}" if record.failure else ""
            peak = record.peak_memory_bytes
            memory = (
                f" (peak memory {without_spread(peak / MIB)} MiB)"
                if peak and record.status == "failed"
                else ""
            )
            remarks.append(
                f"{record.status}{at}{last}: {name} seed {record.seed}, run {record.run_id}{reason}{memory}"
            )
    return remarks


# Speed records


def _speed_tables(record: SpeedRecord) -> list[Table]:
    """Training and generation, a row for each model; what belongs to no model is in the heading."""
    found = {
        (row.model, row.phase, row.quantity, str(row.conditions.get("baseline", ""))): row
        for row in record.rows
    }
    models = list(dict.fromkeys(row.model for row in record.rows if row.phase == "train"))
    rate = "target_tokens_per_second"
    training = [
        (rate, "", ("target", "tokens/s"), "Target tokens/s: end of sentence included, padding not."),
        *(
            ("speed_ratio", model, ("against", model), "")
            for model in models
            if any(key[2:] == ("speed_ratio", model) for key in found)
        ),
        (
            "speed_ratio",
            "plain form",
            ("against", "plain form"),
            "Plain form: the same sizes, batches and dropout from PyTorch's own modules (nn.Transformer, "
            "nn.Conv1d, nn.LSTM).",
        ),
        (
            "share_of_matrix_product_limit",
            "",
            ("share of", "limit"),
            "Limit: the time that the step's matrix products alone take at the peak measured beside it.",
        ),
    ]
    captured = dict.fromkeys(
        (row.quantity, str(row.conditions.get("baseline", "")))
        for row in record.rows
        if row.phase == CAPTURED
    )
    generation = [
        (phase, quantity, baseline)
        for phase, quantity, baseline in dict.fromkeys(
            (row.phase, row.quantity, str(row.conditions.get("baseline", ""))) for row in record.rows
        )
        if phase.startswith("generate")
    ]
    tables = [
        Table(
            title=f"{record.study}: speed of training, {record.task_preset or record.task_name}",
            heading=_speed_heading(record, found),
            columns=[
                Column(title=("model",), is_text=True),
                *(Column(title=title, note=note) for _, _, title, note in training),
                *(
                    Column(title=("as graphs,", *_captured_title(*key)), note=_CAPTURED_NOTE)
                    for key in captured
                ),
            ],
            rows=[
                [
                    model,
                    *(_ranged(found.get((model, "train", name, base))) for name, base, _, _ in training),
                    *(_ranged(found.get((model, CAPTURED, *key))) for key in captured),
                ]
                for model in models
            ],
            labels=1,
            remarks=_speed_remarks(record),
        )
    ]
    if generation:
        tables.append(
            Table(
                title=f"{record.study}: speed of generation, {record.task_preset or record.task_name}",
                heading=[
                    *_speed_heading(record, found)[:2],
                    "target tokens/s, or as a column says; untrained models that all produce as many words",
                    "limit: the time that the matrix products alone take at the measured peak",
                ],
                columns=[
                    Column(title=("model",), is_text=True),
                    *(Column(title=_generation_title(*key)) for key in generation),
                ],
                rows=[
                    [model, *(_ranged(found.get((model, *key))) for key in generation)] for model in models
                ],
                labels=1,
                remarks=_speed_remarks(record),
            )
        )
    return tables


_CAPTURED_NOTE = (
    "As graphs: the same steps as CUDA graphs, which leave out the time that a program takes to launch "
    "kernels."
)


def _captured_title(quantity: str, baseline: str) -> tuple[str, ...]:
    return _compared_with(quantity, baseline) or ("target tokens/s",)


def _generation_title(phase: str, quantity: str, baseline: str) -> tuple[str, ...]:
    lines = [part.strip() for part in phase.removeprefix("generate ").split(",")]
    return (*lines, *_compared_with(quantity, baseline))


def _compared_with(quantity: str, baseline: str) -> tuple[str, ...]:
    """What a ratio is of, or the unit of a rate; nothing for the rate that a table's heading names."""
    if quantity == "speed_ratio":
        return ("against", baseline)
    if quantity == "sentences_per_second":
        return ("sentences/s",)
    return ("share of limit",) if quantity == "share_of_matrix_product_limit" else ()


def _speed_heading(record: SpeedRecord, found: dict[tuple[str, str, str, str], SpeedRow]) -> list[str]:
    provenance = record.provenance
    heading = [
        f"device: {provenance.device}, {plural(provenance.threads, 'thread')}, {provenance.precision}, "
        f"torch {provenance.torch_version}",
        f"task: {record.task_preset or record.task_name}, version {record.task_version}; "
        f"harness version {provenance.harness_version}; run {record.run_id}",
    ]
    peak = found.get(("device", "peak", "operations_per_second", ""))
    if peak is not None:
        heading.append(f"peak of matrix products: {_ranged(_in_billions(peak))} billion {peak.unit}")
    for row in record.rows:
        if row.quantity == "noise_floor":
            heading.append(f"noise (A/A): {row.model} against itself {_ranged(row)}")
        if row.quantity == "trainer_speed_ratio":
            size = " at test size," if row.conditions.get("size") == "test size" else ""
            at = f"at steps of {row.conditions.get('step_milliseconds')} ms"
            heading.append(f"trainer against a plain loop, {row.model}{size} {at}: {_ranged(row)}")
    if record.timing_method:
        heading += [f"timing: {part.strip()}" for part in record.timing_method.split(";")]
    return heading


def _in_billions(row: SpeedRow) -> SpeedRow:
    values = {
        name: value / 1e9 for name in ("value", "low", "high") if (value := getattr(row, name)) is not None
    }
    return row.model_copy(update=values)


def _speed_remarks(record: SpeedRecord) -> list[str]:
    return [f"noisy: {noise_of(record)}, while this was timed"] if record.noisy else []


def noise_of(record: SpeedRecord | LayerRecord) -> str:
    """What was seen on the machine while a noisy record was timed."""
    return "; ".join(record.noise) or "other load or throttling was seen on the machine"


def _ranged(row: SpeedRow | None) -> str:
    """A value and its 95 % interval, to the digits that the interval allows."""
    if row is None:
        return NOT_MEASURED
    if row.low is None or row.high is None:
        return without_spread(row.value)
    return with_interval(row.value, row.low, row.high)
