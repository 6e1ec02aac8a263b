import pytest

from benchmark.measure.layers import summarised
from benchmark.record import LayerRecord, Row
from benchmark.report.layout import NOT_MEASURED, Table, markdown_lines
from benchmark.why.cells import ATTENTION, CONVOLUTION, RECURRENT, RESTRICTED, SEPARABLE, WRITTEN_OUT
from benchmark.why.facts import Facts, Missing
from benchmark.why.table import further_tables, table_1
from models.layers.attention import _EXPLICIT_SCORES
from tests.benchmark.report.records import provenance
from tests.benchmark.why.synthetic import WIDTHS, records

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


def test_every_table_names_the_runs_whose_records_it_is_made_from() -> None:
    every = [*records(), scaling("a", 1.5, 1.8), scaling("b", 1.25, 2.0)]
    kinds = {record.run_id: record.kind for record in every}
    facts = Facts(every)
    found = {table.title: table for table in (table_1(facts), *further_tables(facts))}
    of = {title: {kinds[run_id] for run_id in table.records} for title, table in found.items()}
    assert of["Table 1, measured"] == {"complexity", "span", "path", "time"}
    assert of["Memory against length"] == {"complexity"}
    scaled = found["Training on more devices"]
    assert scaled.records == ["a" * 16, "b" * 16]
    assert f"- from the records of {'a' * 16}, {'b' * 16}" in markdown_lines(scaled)


def test_each_exponent_of_time_says_of_which_layer_and_batches_it_is() -> None:
    table = table_1(Facts(records()))
    exponents = {line[0]: line[-2:] for line in table.rows}
    assert [title.title[-1] for title in table.columns[-2:]] == ["full batches", "one sequence"]
    assert all(one.endswith(" (r = 32)") for one in exponents[RESTRICTED]), exponents
    assert not any("r = " in one for one in exponents[ATTENTION])
    cells = [_value(one) for of_layer in exponents.values() for one in of_layer]
    assert len(cells) == 10 and min(cells) > 0.5
    without = [one for one in records() if one.kind != "time"]
    assert {cell for line in table_1(Facts(without)).rows for cell in line[-2:]} == {NOT_MEASURED}


def test_every_layer_of_table_1_has_its_path_beside_the_theory() -> None:
    paths = {line[0]: line[6:8] for line in table_1(Facts(records())).rows}
    assert paths == {
        ATTENTION: ["1", "1"],
        RECURRENT: ["n", "16 to 128"],
        CONVOLUTION: ["log_k n", "2 to 4"],
        RESTRICTED: ["n / r", "4 to 32"],
        SEPARABLE: ["log_k n (n / k)", "8 to 64"],
    }


def test_notes_say_what_is_counted_and_which_kernel_ran() -> None:
    facts = Facts(records())
    memory = next(one for one in further_tables(facts) if one.title == "Memory against length")
    assert WRITTEN_OUT**2 == _EXPLICIT_SCORES
    for text in (_notes(table_1(facts)), " ".join(memory.remarks)):
        assert "writes its scores out up to n = 256 and is fused beyond" in text
    assert "power laws through mixing operations, by closed forms" in _notes(table_1(facts))


def test_depth_and_parallelism_stand_for_every_pass() -> None:
    rows = [
        Row(quantity=quantity, value=value(n), unit="operations", conditions={"n": n, "pass": name})
        for name, times in (("encoder", 1), ("encoder, forward and backward", 3))
        for quantity, value in (
            ("work", lambda n, times=times: 10.0 * n * times),
            ("kernel_depth", lambda n, times=times: 8.0 * times),
            ("ideal_depth", lambda n, times=times: 20.0 * times + n),
        )
        for n in (4, 8)
    ]
    nothing = LayerRecord(
        kind="span", run_id="b" * 16, study="why", subject="too long", status="done", provenance=provenance(),
        rows=[Row(quantity="beyond_memory", value=1.0, unit="0 or 1", conditions={"n": 4})],
    )  # fmt: skip
    found = nothing.model_copy(update={"run_id": "a" * 16, "subject": "lstm", "rows": rows})
    (table,) = further_tables(Facts([nothing, found], [], []))
    assert table.rows == [
        ["lstm", "encoder", "4 to 8", "40 to 80", "8", "24 to 28", "10.0"],
        ["lstm", "encoder, forward and backward", "4 to 8", "120 to 240", "24", "64 to 68", "10.0"],
    ]


def test_time_over_kernels_is_told_beside_the_operations() -> None:
    layers = {"convolution, k = 3": 1.0, "convolution, k = 9": 2.5, "convolution, k = 3 again": 1.0}
    rows = [
        summarised(
            "seconds",
            [factor * one for one in ALONE],
            "seconds",
            {
                "layer": layer,
                "n": n,
                "d": WIDTHS[0],
                "batch": 4,
                "full": True,
                "pass": "forward and backward",
            },
        )
        for layer, factor in layers.items()
        for n in (64, 128)
    ]
    timed = LayerRecord(
        kind="time", run_id="f" * 16, study="why", subject="kernels and neighbourhoods, d = 8",
        status="done", provenance=provenance(), rows=rows,
    )  # fmt: skip
    without, counted = Facts([timed], [], []), Facts([*records(), timed], [], [])
    for facts, operations in ((without, NOT_MEASURED), (counted, "3.00")):
        table = next(one for one in further_tables(facts) if one.title.startswith("Time over kernels"))
        (line,) = table.rows
        assert line[:3] == ["convolution", "k = 9 to k = 3", operations]
        assert _value(line[3]) == 2.5
    with pytest.raises(Missing):
        without.seconds("convolution, k = 3")


def _notes(table: Table) -> str:
    return " ".join(column.note for column in table.columns)


def _value(cell: str) -> float:
    return float(cell.split()[0])
