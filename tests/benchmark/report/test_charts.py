"""Charts hold what may be compared, and no more."""

import itertools

import pytest

from benchmark.record import CurvePoint, LayerRecord, Row
from benchmark.report.charts import (
    layer_signals,
    layer_times,
    learning_curves,
    quality_and_speed,
    speeds_on_devices,
    study_charts,
    utilisations,
)
from benchmark.report.comparison import groups
from benchmark.report.curves import with_curves
from benchmark.report.looks import looks
from benchmark.report.study_results import load_study
from benchmark.why.cells import ATTENTION, RECURRENT
from benchmark.why.facts import BOTH, Facts
from tests.benchmark.report.records import layer_record, provenance, scores, speed_record, train_record
from tests.benchmark.report.test_html import runs
from tests.benchmark.why.synthetic import records
from tests.benchmark.why.test_table import scaling


def speeds_shown(*speed_records):
    """The points of the chart of a study's only table, by model, and the axis of interleaved speeds."""
    (group,) = groups(runs())
    chart = quality_and_speed(1, "title", group, speed_records)
    assert chart is not None
    axis = next((axis for axis in chart.x if axis.field == "compared"), None)
    return {str(point["series"]): point for point in chart.points}, axis


def timed(run_id="5" * 16, **fields):
    """A speed record of the same experiments as `runs` trains."""
    experiments = {record.model_preset: record.experiment for record in runs()}
    return speed_record(run_id, **{"experiments": experiments, **fields})


def test_a_speed_of_the_same_conditions_is_shown_with_its_interval():
    points, axis = speeds_shown(timed())
    assert axis is not None
    lstm = points["lstm-small"]
    assert (lstm["compared"], lstm[axis.low], lstm[axis.high]) == (4400.0, 4350.0, 4450.0)
    assert points["convs2s-small"]["compared"] is None  # was not timed
    assert lstm["label"] == "lstm-small" and axis.label == ("training in interleaved rounds, target tokens/s")


@pytest.mark.parametrize(
    "fields",
    [
        {"device": "Another Processor"},
        {"devices": 2},
        {"threads": 64},
        {"precision": "bfloat16"},
    ],
)
def test_a_speed_on_another_machine_is_not_shown(fields):
    assert speeds_shown(timed(provenance=provenance(**fields)))[1] is None


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("task", {"name": "grammar_translation"}),
        ("data", {"batch_tokens": 4096}),
        ("model", {"name": "lstm", "width": 512}),
    ],
)
def test_a_speed_of_another_experiment_is_not_shown(section, values):
    experiments = {record.model_preset: {**record.experiment, section: values} for record in runs(seeds=[0])}
    assert speeds_shown(timed(experiments=experiments))[1] is None
    assert speeds_shown(timed(experiments={}))[1] is None
    assert speeds_shown(timed(task_version=2))[1] is None


def test_a_noisy_speed_is_marked_and_gives_way_to_one_that_is_not():
    noisy_row = speed_record().rows[2].model_copy(update={"value": 1.0})
    noisy = timed("6" * 16, noisy=True, noise=["other load"], rows=[noisy_row])
    points, axis = speeds_shown(noisy)
    assert axis is not None and axis.label == ("training in interleaved rounds (noisy), target tokens/s")
    assert points["lstm-small"]["label"] == "lstm-small (noisy speed)"
    assert points["transformer-small"]["label"] == "transformer-small"
    for order in ([noisy, timed()], [timed(), noisy]):
        points, axis = speeds_shown(*order)
        assert points["lstm-small"]["compared"] == 4400.0
        assert points["lstm-small"]["label"] == "lstm-small"


def test_learning_curves_are_of_runs_that_are_done(study_folder):
    diverged = train_record(
        "d" * 16,
        "lstm-small",
        seed=7,
        status="diverged",
        curve=[
            CurvePoint(
                step=1000,
                train_seconds=100.0,
                train_target_tokens=700_000,
                validation_loss=99.0,
                scores=scores({("validation", "bleu"): 0.0}),
            )
        ],
    )
    folder = study_folder(*runs(), diverged)
    study = load_study(folder)
    (group,) = study.groups
    chart = learning_curves(1, "title", group, with_curves(study.train_records, folder))
    assert chart is not None
    first = next(p for p in chart.points if (p["series"], p["step"]) == ("lstm-small", 1000))
    assert first["seeds"] == 3
    assert first["metric_bleu"] == pytest.approx(12.1)
    assert first["loss"] == pytest.approx(5.1)


def test_times_of_layers_stand_for_one_sequence_at_every_width() -> None:
    facts = Facts(records())
    chart = layer_times(facts)
    assert chart is not None and len(chart.y) == 6
    assert chart.y[0].label == "full batches at d = 256, s/sequence"
    assert chart.y[1].label == "one at a time at d = 256, s/sequence"
    (point,) = (one for one in chart.points if (one["series"], one["x"]) == (ATTENTION, 64))
    (row,) = facts.seconds(ATTENTION, n=64, d=256, full=True, **BOTH)
    assert row.conditions["batch"] == 64 and row.low is not None
    assert (point["full_256"], point["full_256_low"]) == (row.value / 64, row.low / 64)
    assert layer_times(Facts([])) is None


def utilisation(width: int, shares: dict[tuple[str, int], float]) -> LayerRecord:
    rows = [
        Row(
            quantity="utilisation",
            value=share,
            low=share - 0.1,
            high=share + 0.2,
            unit="share of peak",
            conditions={"layer": layer, "n": 32, "d": width, "batch": batch},
        )
        for (layer, batch), share in shares.items()
    ]
    peak = Row(quantity="peak", value=2.5e11, unit="operations/s", conditions={"layer": "matrix products"})
    return layer_record(width, "utilisation", subject=f"layers, d = {width}", rows=[peak, *rows])


def test_utilisation_is_a_curve_over_batches_for_each_layer_and_width() -> None:
    shares = {(ATTENTION, 1): 0.25, (ATTENTION, 16): 0.75, (RECURRENT, 1): 0.125}
    wide, narrow = utilisations(Facts([utilisation(512, shares), utilisation(64, {(ATTENTION, 1): 0.5})]))
    assert (wide.name, narrow.name) == ("layers-utilisation-512", "layers-utilisation-64")
    (batch,), (share,) = wide.x, wide.y
    assert (batch.field, batch.log, share.label) == ("batch", True, "share of the peak of matrix products")
    assert [(one["series"], one["batch"], one["share"]) for one in wide.points] == [
        (ATTENTION, 1, 0.25), (ATTENTION, 16, 0.75), (RECURRENT, 1, 0.125),
    ]  # fmt: skip
    assert (wide.points[0][share.low], wide.points[0][share.high]) == (0.25 - 0.1, 0.25 + 0.2)
    assert "n = 32, d = 512" in wide.caption and ": 250 billion a second" in wide.caption
    assert utilisations(Facts([])) == []


def test_training_on_devices_is_a_ratio_with_its_interval_for_each_model_and_scaling() -> None:
    chart = speeds_on_devices(Facts([scaling("lstm-small", 1.5, 1.75), scaling("mine", 0.5, 2.0)]))
    assert chart is not None and chart.kind == "intervals"
    assert [(one["label"], one["series"], one["value"]) for one in chart.points] == [
        ("lstm-small, 2 devices, strong", "lstm-small", 1.5),
        ("lstm-small, 2 devices, weak", "lstm-small", 1.75),
        ("mine, 2 devices, strong", "mine", 0.5),
        ("mine, 2 devices, weak", "mine", 2.0),
    ]
    assert [one["subject"] for one in chart.points] == ["lstm", "lstm", "mine", "mine"]
    assert {(one["low"], one["high"]) for one in chart.points[:1]} == {(1.5, 1.5)}, "rounds of equal ratios"
    assert speeds_on_devices(Facts([])) is None


def test_signals_are_of_the_longest_input_at_its_last_position() -> None:
    rows = [
        Row(
            quantity="norm",
            value=value,
            unit="",
            conditions={"n": n, "output": j, "distance": 2, "from": side},
        )
        for value, (n, j, side) in enumerate(itertools.product((8, 16), (4, 15), ("source", "target")))
    ]
    chart = layer_signals(Facts([layer_record(1, "signal", subject="lstm", rows=rows)]))
    assert chart is not None
    assert [(one["series"], one["norm"]) for one in chart.points] == [
        ("lstm from the source", 6), ("lstm from the target", 7),
    ]  # fmt: skip
    assert {one["subject"] for one in chart.points} == {"lstm"}
    assert layer_signals(Facts(records())) is None, "laws alone draw no curve"


def test_a_model_has_one_colour_whatever_it_was_set_to_in_a_table(study_folder):
    """Two tables, for which a search has chosen other learning rates."""
    models = ("transformer", "convs2s", "lstm")
    made = []
    for number, rate in enumerate((1e-3, 2e-3)):
        for record in runs(models=models):
            run_id = f"{number}{record.run_id[1:]}"
            experiment = {**record.experiment, "training": {"learning_rate": rate}}
            task = {"task_preset": f"task-{number}"}
            made.append(record.model_copy(update={"run_id": run_id, "experiment": experiment, **task}))
    folder = study_folder(*made)
    study = load_study(folder)
    charts = study_charts(study, with_curves(study.train_records, folder))
    assert len({chart.section for chart in charts}) >= 2
    found = looks(charts)
    for model in models:
        of_model = {name: look.color for name, look in found.items() if name.startswith(model)}
        assert len(set(of_model.values())) == 1, of_model
    assert len({look.color for look in found.values()}) == 3
    assert all("subject" not in chart.document()["fields"] for chart in charts)
