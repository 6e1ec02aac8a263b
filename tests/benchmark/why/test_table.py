from benchmark.measure.layers import summarised
from benchmark.record import LayerRecord
from benchmark.why.facts import Facts
from benchmark.why.table import further_tables
from tests.benchmark.report.records import provenance

ALONE = [100.0, 110.0, 90.0, 100.0, 105.0, 95.0]


def scaling(model: str, strong: float, weak: float) -> LayerRecord:
    rows = [
        summarised(
            "target_tokens_per_second",
            [factor * one for one in ALONE],
            "tokens/s",
            {"devices": devices, "beside": beside, "scaling": name, "threads_of_each": 1},
        )
        for name, faster in (("strong", strong), ("weak", weak))
        for devices, beside, factor in ((2, 1, faster), (1, 2, 1.0))
    ]
    return LayerRecord(
        kind="scaling", run_id=model * 16, study="why", subject=f"training, {model}", status="done",
        provenance=provenance(), rows=rows,
    )  # fmt: skip


def test_scaling_is_told_as_ratios_within_rounds() -> None:
    facts = Facts([scaling("a", 1.5, 1.8), scaling("b", 1.25, 2.0)], [], [])
    table = next(one for one in further_tables(facts) if one.title == "Training on more devices")
    assert [column.title for column in table.columns] == [
        ("model",),
        ("one device", "target", "tokens/s"),
        ("2 devices", "strong", "times as fast"),
        ("2 devices", "weak", "times as fast"),
    ]
    assert [[row[0], *map(_value, row[1:])] for row in table.rows] == [
        ["a", 100, 1.5, 1.8],
        ["b", 100, 1.25, 2],
    ]
    assert table.heading == ["threads of each process: 1"]


def _value(cell: str) -> float:
    return float(cell.split()[0])
