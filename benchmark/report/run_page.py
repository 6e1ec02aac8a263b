"""What the page of one run shows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from benchmark.config import canonical_json, flattened
from benchmark.record import CurvePoint, TrainRecord
from benchmark.report.comparison import Cell, Group
from benchmark.report.layout import NOT_MEASURED, metric_title
from benchmark.report.rounding import count, without_spread
from benchmark.report.samples import Samples
from benchmark.report.study_results import StudyResults
from benchmark.report.tables import MIB

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 190, 52, 34, 10
"""Of a run's own curves, in CSS pixels."""


def run_document(study: StudyResults, record: TrainRecord, samples: Samples) -> dict[str, Any]:
    """What `run.html.j2` needs."""
    match, beside = _beside(study, record)
    split, sentences = samples.of(record, beside)
    experiment = flattened(record.experiment)
    return {
        "title": f"{record.model_preset} on {record.task_preset or record.task_name}, seed {record.seed}",
        "study": study.name,
        "record": record,
        "command": _command(study, record),
        "state": _state(record),
        "facts": _facts(record),
        "scores": [
            [
                one.split,
                metric_title(one.metric),
                without_spread(one.value),
                count(one.sentences),
                one.signature,
            ]
            for one in record.scores
        ],
        "curves": _curves(record.curve),
        "validations": _validations(record.curve),
        "validation_metrics": [metric_title(metric) for metric in _metrics(record.curve)],
        "config": [(name, _plain(value)) for name, value in experiment.items()],
        "environment": [
            (name.replace("_", " "), _plain(value))
            for name, value in record.provenance.model_dump(mode="json").items()
        ],
        "hashes": [
            (name.replace("_", " "), value)
            for name, value in (
                ("batch_stream_sha256", record.batch_stream_sha256),
                ("loss_curve_sha256", record.loss_curve_sha256),
                ("weights_sha256", record.weights_sha256),
                *((f"output of {one}, sha256", value) for one, value in record.hypotheses_sha256.items()),
            )
            if value
        ],
        "split": split,
        "match": match,
        "samples": sentences,
    }


def _command(study: StudyResults, record: TrainRecord) -> str:
    """What makes the run again, with all that its bits rest on; from the folder that has the results."""
    provenance = record.provenance
    words = ["seqbench", "run", f"results/{study.name}/runs/{record.run_id}/record.json"]
    words += ["--device", provenance.device_class, "--threads", str(provenance.threads)]
    if provenance.devices > 1:
        words += ["--devices", str(provenance.devices)]
    if any(record.experiment.get(f"{part}_file_sha256") for part in ("model", "task")):
        words.append("--trust-code")
    return shlex.join(words)


def _beside(study: StudyResults, record: TrainRecord) -> tuple[str, list[TrainRecord]]:
    """Runs of the other models with the same seed, of a table that the run is in, and what that holds equal.

    Of a model with several settings it is the run with the same ones. A run that is in several tables stands
    in the first of them that has others.
    """
    for group in study.groups:
        own = next((c for c in group.cells if any(one.run_id == record.run_id for one in c.records)), None)
        found = [] if own is None else _others(group, own, record.seed)
        if found:
            return group.conditions.match, found
    return "", []


def _others(group: Group, own: Cell, seed: int) -> list[TrainRecord]:
    by_model: dict[str, list[Cell]] = {}
    for cell in group.comparable:
        if cell.model != own.model:
            by_model.setdefault(cell.model, []).append(cell)
    found = []
    for cells in by_model.values():
        alike = cells if len(cells) == 1 else [cell for cell in cells if cell.settings == own.settings]
        found += [record for cell in alike for record in cell.done if record.seed == seed][:1]
    return found


def _state(record: TrainRecord) -> str:
    if record.status == "done":
        return ""
    at = "" if record.diverged_step is None else f" at step {count(record.diverged_step)}"
    return f"{record.status}{at}: {record.failure or 'no reason is known'}"


def _facts(record: TrainRecord) -> list[tuple[str, str]]:
    """The numbers of a run, with their units."""

    def number(value: float | None, factor: float = 1.0) -> str | None:
        return None if value is None else without_spread(value * factor)

    def whole(value: float | None) -> str | None:
        return None if value is None else count(value)

    padding = number(record.padding_share, 100)
    steady = {True: "yes", False: "no", None: None}[record.steady_state]
    found: list[tuple[str, str | None]] = [
        ("parameters", whole(record.parameters)),
        ("of them without the vocabulary", whole(record.body_parameters)),
        ("steps", whole(record.steps)),
        ("training, s", number(record.train_seconds)),
        ("training, kJ", number(record.energy_joules, 1e-3)),
        ("training as run, target tokens/s", number(record.train_target_tokens_per_second)),
        ("median step, ms", number(record.step_seconds_median, 1e3)),
        ("step times settled", steady),
        ("generation as run, sentences/s", number(record.generate_sentences_per_second)),
        ("peak memory, MiB", number(record.peak_memory_bytes, 1 / MIB)),
        ("padding, % of positions", padding),
        ("validation loss, nats/token", number(record.validation_loss)),
        ("validation perplexity per word", number(record.validation_perplexity_per_word)),
        ("checkpoints averaged", whole(record.checkpoints_averaged)),
        ("resumed, times", whole(record.resumed_times)),
        ("finished", record.finished_at),
    ]
    return [(name, value) for name, value in found if value is not None]


def _metrics(curve: Sequence[CurvePoint]) -> list[str]:
    return list(dict.fromkeys(score.metric for point in curve for score in point.scores))


def _validations(curve: Sequence[CurvePoint]) -> list[list[str]]:
    metrics = _metrics(curve)
    rows = []
    for point in curve:
        scores = {score.metric: score.value for score in point.scores}
        rows.append(
            [
                count(point.step),
                count(point.train_target_tokens),
                without_spread(point.train_seconds),
                NOT_MEASURED if point.validation_loss is None else without_spread(point.validation_loss),
                *(without_spread(scores[name]) if name in scores else NOT_MEASURED for name in metrics),
            ]
        )
    return rows


def _curves(curve: Sequence[CurvePoint]) -> list[dict[str, Any]]:
    """Validation loss and the first metric over steps, as drawings."""
    losses = [(point.step, point.validation_loss) for point in curve if point.validation_loss is not None]
    drawn = [("validation loss, nats/token", losses)]
    for metric in _metrics(curve)[:1]:
        drawn.append(
            (
                f"validation {metric_title(metric)}",
                [(p.step, score.value) for p in curve for score in p.scores if score.metric == metric],
            )
        )
    return [{"title": title, "svg": _line(points, title)} for title, points in drawn if len(points) > 1]


def _line(points: Sequence[tuple[float, float]], title: str) -> Markup:
    """A line through points, with the ends of both axes in figures."""
    steps, values = [x for x, _ in points], [y for _, y in points]
    last, low, high = max(steps), min(values), max(values)
    span = (high - low) or 1.0

    def place(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 14) * x / last
        return f"{across:.1f},{TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / span):.1f}"

    bottom = HEIGHT - BOTTOM
    parts = [
        Markup('<svg viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, WIDTH, title
        ),
        Markup(
            '<g stroke="currentColor" stroke-opacity=".35"><path d="M{0} {1}V{2}H{3}" fill="none"/></g>'
        ).format(LEFT, TOP, bottom, WIDTH - 14),
        Markup('<polyline points="{}" fill="none" stroke="#0072b2" stroke-width="2"/>').format(
            " ".join(place(x, y) for x, y in points)
        ),
        Markup("").join(
            Markup('<circle cx="{}" cy="{}" r="2.5" fill="#0072b2"/>').format(*place(x, y).split(","))
            for x, y in points
        ),
        Markup('<g font-size="11" fill="currentColor">'),
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT - 5, TOP + 9, without_spread(high)
        ),
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT - 5, bottom, without_spread(low)
        ),
        Markup('<text x="{}" y="{}">0</text>').format(LEFT, bottom + 14),
        Markup('<text x="{}" y="{}" text-anchor="end">{} steps</text>').format(
            WIDTH - 14, bottom + 14, count(last)
        ),
        Markup("</g></svg>"),
    ]
    return Markup("").join(parts)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)
