"""What the page's charts show, as data: points with their intervals, axes with their units.

The page draws them, and knows nothing of records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from benchmark.measure.significance import summarise
from benchmark.record import LayerRecord, Row, SpeedRecord, SpeedRow, TrainRecord
from benchmark.report.comparison import SEVERAL, Cell, Group, group_titles
from benchmark.report.layout import metric_title
from benchmark.report.rounding import without_spread
from benchmark.report.significance import row_name, score_name
from benchmark.report.study_results import StudyResults
from benchmark.why.cells import TIMED
from benchmark.why.facts import (
    BOTH,
    Facts,
    Missing,
    for_one_sequence,
    scalings,
    times_of,
    untrained_signals,
)
from tasks import VALIDATION

Section = Literal["quality", "curves", "distance", "speed", "layers"]
Point = dict[str, float | str | None]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A quantity that a chart can show: the points' field, and what a reader calls it, with its unit."""

    field: str
    label: str
    log: bool = False
    low: str = ""
    """Field of the lower end of its interval; empty for a quantity without one."""
    high: str = ""
    exact: bool = False
    """Whether it is counted, and so shown with all of its digits."""
    less_is_better: bool = False
    is_symmetric: bool = False
    """Whether its interval is told as ± half of it, as that of a score in the tables."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart. A reader chooses between the axes where there are several."""

    name: str
    """Its anchor in the page."""
    section: Section
    """Where it stands there."""
    title: str
    caption: str
    kind: Literal["curves", "scatter", "intervals"]
    """`curves` join the points of a series: for quantities between which values exist; `intervals` have a
    line for each point, named by `label`."""
    points: Sequence[Point]
    x: Sequence[Axis]
    y: Sequence[Axis] = field(default=())

    def document(self) -> dict[str, Any]:
        """For JSON: the points as rows of `fields`, after their series as a place in `series`; a page of
        thousands of points would otherwise be mostly names of fields, and digits that nobody sees.
        """
        series = list(dict.fromkeys(point["series"] for point in self.points))
        place = {name: number for number, name in enumerate(series)}
        own = ("series", "subject")  # what is no value
        fields = list(dict.fromkeys(name for point in self.points for name in point if name not in own))
        rows = [
            [place[point["series"]], *(_shortened(point.get(name)) for name in fields)]
            for point in self.points
        ]
        return {**asdict(replace(self, points=[])), "series": series, "fields": fields, "points": rows}


SHOWN_DIGITS = 7
"""Of a number in a page: more than a pixel shows, and enough that rounding it again gives what tables say."""
MOST_CURVE_POINTS = 20_000
"""Of one chart of curves; with more, each curve is thinned."""
FEWEST_OF_CURVE = 8
"""Points that each curve keeps all the same."""


def _shortened(value: float | str | None) -> float | str | None:
    """A number without digits that nobody sees."""
    if not isinstance(value, float):
        return value
    short = float(f"{value:.{SHOWN_DIGITS}g}")
    return int(short) if short.is_integer() else short


DECIDES_SPEED = ("model", "model_file_sha256", "task", "task_file_sha256", "data")
"""What of an experiment decides how fast it trains: sizes, lengths of sentences, and the size of a batch."""


def study_charts(study: StudyResults, curves: Mapping[str, TrainRecord]) -> list[Chart]:
    """All charts of a study, in the order of its tables; `curves` are records with their curve, by run."""
    groups = study.groups
    found: list[Chart | None] = []
    for number, (title, group) in enumerate(zip(group_titles(study.name, groups), groups, strict=True), 1):
        found.append(quality_and_speed(number, title, group, study.speed_records))
        found.append(learning_curves(number, title, group, curves))
        found.append(distances(number, title, group))
    for record in study.speed_records:
        found += speeds(record) if record.status == "done" else []
    found += layers(study.layer_records)
    facts = Facts.of(study)
    found += [layer_times(facts), *utilisations(facts), speeds_on_devices(facts), layer_signals(facts)]
    return [chart for chart in found if chart is not None]


def quality_and_speed(
    number: int, title: str, group: Group, speed_records: Sequence[SpeedRecord] = ()
) -> Chart | None:
    """Score against speed, a point for each row: of a speed record of the same conditions where there is one,
    and as run.
    """
    scores = [key for key in group.scored if key[0] != VALIDATION] or group.scored
    points: list[Point] = []
    load = ""
    for cell in group.comparable:
        timed, noisy = _timed(cell, group, speed_records)
        load = " (noisy)" if noisy else load
        point: Point = {
            "series": cell.model,
            "label": f"{row_name(cell)} (noisy speed)" if noisy else row_name(cell),
            "compared": timed.value if timed else None,
            "compared_low": timed.low if timed else None,
            "compared_high": timed.high if timed else None,
            "train": cell.median("train_target_tokens_per_second"),
            "generate": cell.median("generate_sentences_per_second"),
            "parameters": cell.median("parameters"),
            "seconds": cell.median("train_seconds"),
        }
        for index, key in enumerate(scores):
            point |= _summary(f"score{index}", cell.values(*key).values())
        if cell.done:
            points.append(point)
    if len(points) < 2 or not scores:
        return None
    possible = (
        Axis(
            field="compared",
            label=f"training in interleaved rounds{load}, target tokens/s",
            low="compared_low",
            high="compared_high",
        ),
        Axis(field="train", label="training as run, target tokens/s"),
        Axis(field="generate", label="generation as run, sentences/s"),
        Axis(field="seconds", label="training, s", less_is_better=True),
        Axis(field="parameters", label="parameters", exact=True, less_is_better=True),
    )
    x = [axis for axis in possible if any(point[axis.field] is not None for point in points)]
    y = [_score_axis(f"score{index}", score_name(*key)) for index, key in enumerate(scores)]
    for across in x:
        for up in y:
            mark_front(points, across, up)
    return Chart(
        name=f"quality-{number}",
        section="quality",
        title=title,
        caption="Each point is a row of the table; bars are 95 % intervals: of scores over seeds, which one "
        "seed does not have, and of interleaved rounds over rounds. Filled: on the Pareto front, as no other "
        "row has means that are at least as good in both quantities and better in one; hollow: dominated. "
        "Speeds as run follow each other in time: only a speed record compares them."
        + (" Noisy: there was other load or throttling while this was timed." if load else ""),
        kind="scatter",
        points=points,
        x=x,
        y=y,
    )


def front_field(x: Axis, y: Axis) -> str:
    """Of the points of a scatter chart: whether one is on the front of these two quantities."""
    return f"front_{x.field}_{y.field}"


def mark_front(points: Sequence[Point], x: Axis, y: Axis) -> None:
    """Say of each point that has both quantities whether none dominates it."""

    def goods(point: Point) -> tuple[float, ...] | None:
        values = [(-1 if axis.less_is_better else 1, point[axis.field]) for axis in (x, y)]
        found = [sign * value for sign, value in values if isinstance(value, int | float)]
        return tuple(found) if len(found) == len(values) else None

    placed = [(point, own) for point in points if (own := goods(point)) is not None]
    for point, own in placed:
        point[front_field(x, y)] = not any(
            other != own and all(theirs >= mine for theirs, mine in zip(other, own, strict=True))
            for _, other in placed
        )


def _timed(cell: Cell, group: Group, speed_records: Sequence[SpeedRecord]) -> tuple[SpeedRow | None, bool]:
    """A row's speed of training in interleaved rounds, and whether it was noisy; None where no record timed
    the same model under the same conditions. Of several records one that was not noisy comes first.
    """
    experiment, conditions = cell.records[0].experiment, group.conditions
    for record in sorted(speed_records, key=lambda record: bool(record.noisy)):
        at, timed = record.provenance, record.experiments.get(cell.model)
        if record.status != "done" or timed is None:
            continue
        if (at.device, at.devices, at.threads, at.precision, record.task_version) != (
            conditions.device,
            conditions.devices,
            conditions.threads,
            conditions.precision,
            conditions.task_version,
        ):
            continue
        if any(timed.get(name) != experiment.get(name) for name in DECIDES_SPEED):
            continue
        for row in record.rows:
            if (row.model, row.phase, row.quantity) == (cell.model, "train", "target_tokens_per_second"):
                return row, bool(record.noisy)
    return None, False


def learning_curves(number: int, title: str, group: Group, curves: Mapping[str, TrainRecord]) -> Chart | None:
    """Validations during training, over steps, tokens and seconds; `curves` are records with their curve."""
    points: list[Point] = []
    metrics: dict[str, None] = {}
    by_cell = [(cell, sorted(_by_step(cell, curves).items())) for cell in group.cells]
    most = max(FEWEST_OF_CURVE, MOST_CURVE_POINTS // max(1, len(by_cell)))
    thinned = any(len(steps) > most for _, steps in by_cell)
    for cell, steps in by_cell:
        for step, found in _thinned(steps, most):
            point: Point = {
                "series": row_name(cell),
                "subject": _subject(cell, group),
                "step": step,
                "tokens": _mean(one.train_target_tokens for one in found),
                "seconds": _mean(one.train_seconds for one in found),
                "seeds": len(found),
            }
            losses = [one.validation_loss for one in found if one.validation_loss is not None]
            point |= _summary("loss", losses)
            scores: dict[str, list[float]] = {}
            for one in found:
                for score in one.scores:
                    scores.setdefault(score.metric, []).append(score.value)
            for metric, values in scores.items():
                metrics[metric] = None
                point |= _summary(f"metric_{metric}", values)
            points.append(point)
    if not points:
        return None
    return Chart(
        name=f"curves-{number}",
        section="curves",
        title=title,
        caption="Validations while the models train, of runs that are done: mean over seeds, bands are 95 % "
        "t-intervals over seeds. Greedy output, weights as they are at that step."
        + (f" Of so many rows, {most} validations each are drawn." if thinned else ""),
        kind="curves",
        points=points,
        x=[
            Axis(field="step", label="optimiser steps", exact=True),
            Axis(field="tokens", label="target tokens, without padding", exact=True),
            *([] if group.conditions.device == SEVERAL else [Axis(field="seconds", label="training, s")]),
        ],
        y=[
            *(_score_axis(f"metric_{metric}", f"{VALIDATION} {metric_title(metric)}") for metric in metrics),
            _score_axis("loss", "validation loss, nats/token"),
        ],
    )


def _subject(cell: Cell, group: Group) -> str:
    """What a row has its colour from: its model, as in other charts, where no other row is of it."""
    alone = sum(other.model == cell.model for other in group.cells) == 1
    return cell.model if alone else row_name(cell)


def _thinned(values: Sequence[tuple[int, Any]], most: int) -> Sequence[tuple[int, Any]]:
    """At most so many, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return values
    return [values[round(place * (len(values) - 1) / (most - 1))] for place in range(most)]


def distances(number: int, title: str, group: Group) -> Chart | None:
    """Scores on the splits that are named by a distance: `distance_16_trained`, `distance_64`."""
    points: list[Point] = []
    metrics: dict[str, None] = {}
    for cell in group.comparable:
        for split in dict.fromkeys(split for split, _ in group.scored):
            distance = _distance(split)
            if distance is None or not cell.done:
                continue
            point: Point = {
                "series": row_name(cell),
                "subject": _subject(cell, group),
                "distance": distance,
                "label": "trained" if split.endswith("_trained") else "not trained",
            }
            for metric in dict.fromkeys(metric for one, metric in group.scored if one == split):
                metrics[metric] = None
                point |= _summary(f"metric_{metric}", cell.values(split, metric).values())
            points.append(point)
    if not points:
        return None
    return Chart(
        name=f"distance-{number}",
        section="distance",
        title=title,
        caption="Accuracy against the distance that the task asks to bridge, inside and beyond the distances "
        "of training; bars are 95 % t-intervals over seeds.",
        kind="curves",
        points=sorted(points, key=lambda point: (str(point["series"]), float(point["distance"] or 0))),
        x=[Axis(field="distance", label="distance, positions", log=True, exact=True)],
        y=[_score_axis(f"metric_{metric}", metric_title(metric)) for metric in metrics],
    )


def _distance(split: str) -> int | None:
    name, _, rest = split.partition("_")
    number = rest.partition("_")[0]
    return int(number) if name == "distance" and number.isdigit() else None


def speeds(record: SpeedRecord) -> list[Chart]:
    """A record's ratios, and its rates."""
    charts = []
    for quantity in dict.fromkeys(row.quantity for row in record.rows):
        rows = [row for row in record.rows if row.quantity == quantity and row.low is not None]
        if len(rows) < 2:
            continue
        points: list[Point] = [
            {
                "series": row.model,
                "label": ", ".join([row.model, row.phase, *_told(row.conditions)]),
                "value": row.value,
                "low": row.low,
                "high": row.high,
            }
            for row in rows
        ]
        words = quantity.replace("_", " ")
        unit = rows[0].unit if len({row.unit for row in rows}) == 1 else ""
        charts.append(
            Chart(
                name=f"speed-{record.run_id}-{quantity}".replace("_", "-"),
                section="speed",
                title=f"Speed: {words}",
                caption=f"Interleaved rounds of one process; bars are 95 % intervals over rounds. "
                f"Run {record.run_id}.",
                kind="intervals",
                points=points,
                x=[
                    Axis(
                        field="value",
                        label=words if unit in ("", "1", "ratio") else f"{words}, {unit}",
                        log=_is_wide(rows),
                        low="low",
                        high="high",
                    )
                ],
            )
        )
    return charts


def _is_wide(rows: Sequence[SpeedRow]) -> bool:
    """Whether values are so far apart that differences among the small ones are not seen on a plain axis."""
    values = [row.value for row in rows]
    return min(values) > 0 and max(values) > 5 * min(values)


LAYER_CHARTS = (
    ("span", "kernel_depth", "Kernel depth: operations that wait for each other"),
    ("path", "hops", "Path length: hops between the farthest positions"),
    ("complexity", "operations", "Operations counted while the layer runs"),
)
"""Kind of record, quantity over the length n, and title."""
CHARTED_PASSES = ("forward", "forward and backward", "teacher forcing", "generation")
"""A table has those of an encoder and a decoder alone as well."""


def layers(records: Sequence[LayerRecord]) -> list[Chart]:
    """What was measured of layers over their length; other conditions tell the series apart."""
    charts = []
    for kind, quantity, title in LAYER_CHARTS:
        mine = [record for record in records if record.kind == kind and record.status == "done"]
        points: list[Point] = []
        units: dict[str, None] = {}
        widths = set[float | None]()
        for record in mine:
            rows = [row for row in record.rows if row.quantity == quantity and "n" in row.conditions]
            rows = [row for row in rows if row.conditions.get("pass", "forward") in CHARTED_PASSES]
            widest = max(
                (_number(row.conditions["d"]) for row in rows if "d" in row.conditions), default=None
            )
            rows = [row for row in rows if row.conditions.get("d") == widest]
            widths.add(widest)
            varying = _varying(rows)
            for row in sorted(rows, key=lambda row: _number(row.conditions["n"])):
                units[row.unit] = None
                told = _told({name: row.conditions[name] for name in varying if name in row.conditions})
                points.append(
                    {
                        "series": ", ".join([record.subject, *told]),
                        "subject": record.subject,
                        "x": _number(row.conditions["n"]),
                        "value": row.value,
                        "low": row.low,
                        "high": row.high,
                    }
                )
        if points:
            unit = next(iter(units)) if len(units) == 1 else ""
            words = quantity.replace("_", " ")
            charts.append(
                Chart(
                    name=f"layers-{kind}",
                    section="layers",
                    title=title,
                    caption="Of untrained layers and models; counted, and so without an interval."
                    + "".join(f" Width d = {width:,.0f}." for width in widths if width is not None),
                    kind="curves",
                    points=points,
                    x=[Axis(field="x", label="length n, positions", log=True, exact=True)],
                    y=[
                        Axis(
                            field="value",
                            label=words if unit in ("", "1", words) else f"{words}, {unit}",
                            log=True,
                            low="low",
                            high="high",
                            exact=True,
                        )
                    ],
                )
            )
    return charts


def layer_times(facts: Facts) -> Chart | None:
    """Seconds of each timed layer over its length, at every width, for one sequence and in full batches."""
    points: dict[tuple[str, float], Point] = {}
    axes: dict[tuple[float, bool], Axis] = {}
    for layer in TIMED:
        try:
            rows = for_one_sequence(facts.seconds(layer, **BOTH))
        except Missing:
            continue
        for row in rows:
            length, width = (_number(row.conditions[name]) for name in ("n", "d"))
            full = bool(row.conditions["full"])
            own = f"{'full' if full else 'one'}_{width:.0f}"
            point = points.setdefault((layer, length), {"series": layer, "subject": layer, "x": length})
            point |= {own: row.value, f"{own}_low": row.low, f"{own}_high": row.high}
            axes[width, full] = Axis(
                field=own,
                label=f"{'full batches' if full else 'one at a time'} at d = {width:.0f}, s/sequence",
                log=True,
                low=f"{own}_low",
                high=f"{own}_high",
            )
    if not points:
        return None
    return Chart(
        name="layers-time",
        section="layers",
        title="Time of one layer, forward and backward",
        caption="Interleaved rounds of one process on one device; bands are 95 % intervals over rounds. In "
        "full batches there are as many positions at every length.",
        kind="curves",
        points=[points[key] for key in sorted(points, key=lambda key: (TIMED.index(key[0]), key[1]))],
        x=[Axis(field="x", label="length n, positions", log=True, exact=True)],
        y=[axes[key] for key in sorted(axes, key=lambda key: (-key[0], not key[1]))],
    )


def utilisations(facts: Facts) -> list[Chart]:
    """What each layer reaches of the peak of matrix products over its batch, a chart for each width."""
    charts = []
    for subject in facts.subjects("utilisation"):
        rows = facts.rows("utilisation", subject, "utilisation")
        length, width = (_number(rows[0].conditions[name]) for name in ("n", "d"))
        (peak,) = facts.rows("utilisation", subject, "peak")
        points: list[Point] = [
            {
                "series": str(row.conditions["layer"]),
                "batch": _number(row.conditions["batch"]),
                "share": row.value,
                "share_low": row.low,
                "share_high": row.high,
            }
            for row in rows
        ]
        charts.append(
            Chart(
                name=f"layers-utilisation-{width:.0f}",
                section="layers",
                title="Speed against batch",
                caption=f"Operations per second of one layer, forward and backward, n = {length:,.0f}, "
                f"d = {width:,.0f}, as a share of what matrix products reach in the same rounds: "
                f"{without_spread(peak.value / 1e9)} billion a second. Bands are 95 % intervals over rounds.",
                kind="curves",
                points=points,
                x=[Axis(field="batch", label="batch, sequences", log=True, exact=True)],
                y=[
                    Axis(
                        field="share",
                        label="share of the peak of matrix products",
                        low="share_low",
                        high="share_high",
                    )
                ],
            )
        )
    return charts


def speeds_on_devices(facts: Facts) -> Chart | None:
    """Training on several devices beside one: as many times as fast."""
    points: list[Point] = []
    for one in scalings(facts):
        times = times_of(one.together, one.alone)
        points.append(
            {
                "series": one.model,
                "subject": one.model.partition("-")[0],
                "label": f"{one.model}, {one.devices} devices, {one.scaling}",
                "value": times.value,
                "low": times.low,
                "high": times.high,
            }
        )
    if not points:
        return None
    return Chart(
        name="layers-scaling",
        section="layers",
        title="Training on more devices",
        caption="Strong scaling shares one global batch, weak scaling gives each device a batch of its own. "
        "Both sides take turns at every step; bars are 95 % intervals over rounds.",
        kind="intervals",
        points=points,
        x=[Axis(field="value", label="ratio to the speed of one device", low="low", high="high")],
    )


def layer_signals(facts: Facts) -> Chart | None:
    """What reaches the last position of untrained layers and models, over distance."""
    try:
        signals = untrained_signals(facts)
    except Missing:
        return None
    return Chart(
        name="layers-signal",
        section="layers",
        title="Signal before training",
        caption="Norm of the derivative of the last output by an input, in float64, of the longest input "
        "that was measured.",
        kind="curves",
        points=[
            {"series": one.name, "subject": one.subject.partition(",")[0], "distance": distance, "norm": norm}
            for one in signals
            for distance, norm in one.norms
        ],
        x=[Axis(field="distance", label="distance, positions", log=True, exact=True)],
        y=[Axis(field="norm", label="norm of d output / d input", log=True)],
    )


def _varying(rows: Iterable[Row]) -> list[str]:
    values: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.conditions.items():
            if name != "n":
                values.setdefault(name, set()).add(str(value))
    return [name for name, found in values.items() if len(found) > 1]


def _told(conditions: Mapping[str, Any]) -> list[str]:
    """Conditions in words; what is only true or false says nothing in a chart."""
    told = []
    for name, value in conditions.items():
        if isinstance(value, bool):
            continue
        text = without_spread(value) if isinstance(value, float) else str(value)
        told.append(f"{name.replace('_', ' ')} {text}")
    return told


def _number(value: Any) -> float:
    return float(value)


def _by_step(cell: Cell, curves: Mapping[str, TrainRecord]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for record in cell.done:
        for point in curves[record.run_id].curve if record.run_id in curves else []:
            found.setdefault(point.step, []).append(point)
    return found


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _summary(name: str, values: Iterable[float]) -> Point:
    """A mean with its interval over seeds; nothing without values."""
    found = list(values)
    if not found:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    summary = summarise(found)
    half = summary.half_width
    return {
        name: summary.mean,
        f"{name}_low": None if half is None else summary.mean - half,
        f"{name}_high": None if half is None else summary.mean + half,
    }


def _score_axis(name: str, label: str) -> Axis:
    return Axis(field=name, label=label, low=f"{name}_low", high=f"{name}_high", is_symmetric=True)
