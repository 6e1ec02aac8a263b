"""Every number of the tables of `seqbench why`, read back against the files of the records."""

import math
import statistics
from typing import Any

import numpy as np
import pytest

from benchmark.report.rounding import count, with_half_width, without_spread
from tests.benchmark.report.reading import (
    first_test_split,
    half_width,
    match_of,
    mean_of,
    read_page,
    read_records,
    score,
    section,
)
from tests.benchmark.report.test_chart_numbers import WHY, measured, times_as_fast

PATHS = {"convolution": "dilated convolution, k = 3"}
"""Whose paths stand in a row of Table 1, where they are not the layer's own."""
TRANSLATED = ("grammar-translation", "multi30k-en-de", "multi30k-en-de-gpu")


@pytest.fixture(scope="module", params=WHY)
def tables(request):
    """By title, and the records."""
    page = read_page(request.param)
    found = {table.title: table for table in section(page, "table-1")}
    return found, read_records(request.param)


def at(row, **conditions):
    return all(row["conditions"].get(name) == value for name, value in conditions.items())


def series(rows, quantity, over="n", **conditions):
    found = {
        row["conditions"][over]: row["value"]
        for row in rows
        if row["quantity"] == quantity and at(row, **conditions)
    }
    return dict(sorted(found.items()))


def slope(values):
    return np.polyfit(np.log(list(values)), np.log(list(values.values())), 1)[0]


def ends(values):
    first, *_, last = values.values()
    return count(first) if len(set(values.values())) == 1 else f"{count(first)} to {count(last)}"


def timed_slope(rows, layer, full):
    """Of seconds of one sequence at the three longest n of the largest width: mean and half its interval."""
    mine = [
        row
        for row in rows
        if row["quantity"] == "seconds"
        and at(row, layer=layer, full=full, **{"pass": "forward and backward"})
    ]
    width = max(row["conditions"]["d"] for row in mine)
    mine = sorted(
        (row for row in mine if row["conditions"]["d"] == width), key=lambda row: row["conditions"]["n"]
    )[-3:]
    lengths = [row["conditions"]["n"] for row in mine]
    each = [[one / row["conditions"]["batch"] for one in row["samples"]] for row in mine]
    slopes = [float(slope(dict(zip(lengths, of_round, strict=True)))) for of_round in zip(*each, strict=True)]
    return with_half_width(statistics.fmean(slopes), half_width(slopes))


def of_sizes(records):
    """Rows of all times of layers at their widths, without those over kernels."""
    return [
        row
        for subject, rows in measured(records, "time").items()
        if subject.startswith("layers, d = ")
        for row in rows
    ]


def test_table_1(tables):
    found, records = tables
    table = found["Table 1, measured"]
    operations, spans, paths = (measured(records, kind) for kind in ("complexity", "span", "path"))
    for row in table.rows:
        layer = row["layer"]
        known = operations.get(layer)
        if known is None:
            assert row["mixing|operations|n / d"] == "-"
        else:
            rows = [one for one in known if one["quantity"] == "mixing_operations"]
            longest, widest = (max(one["conditions"][name] for one in rows) for name in ("n", "d"))
            in_n = slope(series(rows, "mixing_operations", d=widest))
            in_d = slope(series(rows, "mixing_operations", "d", n=longest))
            assert row["mixing|operations|n / d"] == f"{in_n:.2f} / {in_d:.2f}"
        for column, quantity in (("kernel|depth", "kernel_depth"), ("ideal|depth", "ideal_depth")):
            mine = series(spans.get(layer, []), quantity, **{"pass": "forward"})
            assert row[column] == (ends(mine) if mine else "-")
        for column in ("hops", "steps"):
            mine = series(paths.get(PATHS.get(layer.partition(",")[0], layer), []), column)
            assert row[column] == (ends(mine) if mine else "-")
        for column, full in (("full batches", True), ("one sequence", False)):
            text, _, other = row[f"exponent of n|in time,|{column}"].partition(" (")
            timed = f"{layer.partition(',')[0]}, {other[:-1]}" if other else layer
            assert text == timed_slope(of_sizes(records), timed, full)
    assert len(table.rows) == 5


def test_work_and_depth(tables):
    found, records = tables
    table = found["Work and depth of every pass"]
    expected: dict[Any, Any] = {}
    for subject, rows in measured(records, "span").items():
        for name in {row["conditions"]["pass"] for row in rows}:
            work, depth, ideal = (
                series(rows, quantity, **{"pass": name})
                for quantity in ("work", "kernel_depth", "ideal_depth")
            )
            shortest, longest = min(work), max(work)
            expected[subject, name] = {
                "layer or model": subject,
                "pass": name,
                "n": f"{shortest:,} to {longest:,}",
                "work": ends(work),
                "kernel|depth": ends(depth),
                "ideal|depth": ends(ideal),
                "parallelism": without_spread(work[longest] / depth[longest]),
            }
    assert {(row["layer or model"], row["pass"]): row for row in table.rows} == expected


def test_time_over_kernels(tables):
    found, records = tables
    table = found.get("Time over kernels and neighbourhoods")
    (rows,) = [
        rows for subject, rows in measured(records, "time").items() if not subject.startswith("layers, d = ")
    ] or [None]
    if rows is None:
        assert table is None
        return
    rows = [row for row in rows if at(row, full=True, **{"pass": "forward and backward"})]
    longest = max(row["conditions"]["n"] for row in rows)
    by_layer = {row["conditions"]["layer"]: row for row in rows if row["conditions"]["n"] == longest}
    counted = measured(records, "complexity")
    width = rows[0]["conditions"]["d"]
    assert table.rows
    for row in table.rows:
        one, other = (f"{row['layer']}, {value}" for value in row["compared"].split(" to "))
        logs = np.log(np.array(by_layer[one]["samples"]) / np.array(by_layer[other]["samples"])).tolist()
        low, high = (math.exp(statistics.fmean(logs) + sign * half_width(logs)) for sign in (-1, 1))
        expected = with_half_width(math.exp(statistics.fmean(logs)), (high - low) / 2)
        assert row["seconds,|times as long"] == expected
        of_one, of_other = (series(counted[name], "operations", d=width) for name in (one, other))
        many = of_one[max(of_one)] / of_other[max(of_other)]
        assert row["operations,|times as many"] == without_spread(many)


def test_memory(tables):
    found, records = tables
    table = found["Memory against length"]
    counted = measured(records, "complexity")
    width = max(
        row["conditions"]["d"] for rows in counted.values() for row in rows if "d" in row["conditions"]
    )
    for row in table.rows:
        mine = series(counted[row["layer"]], "saved_bytes", d=width)
        expected = {f"n =|{n:,}": without_spread(value / 2**20) for n, value in mine.items()}
        shown = {column: text for column, text in row.items() if column != "layer"}
        assert shown == dict.fromkeys(shown, "beyond memory") | expected
    assert f"d = {width:,}" in table.notes[0]


def test_utilisation(tables):
    found, records = tables
    every = measured(records, "utilisation")
    shown = [table for title, table in found.items() if title.startswith("Utilisation")]
    assert len(shown) == len(every)
    for subject, rows in every.items():
        table = found[f"Utilisation against batch: {subject}"]
        expected: dict[Any, Any] = {}
        for row in rows:
            if row["quantity"] == "utilisation":
                text = with_half_width(row["value"], (row["high"] - row["low"]) / 2)
                where = row["conditions"]
                expected.setdefault(where["layer"], {})[f"batch|{where['batch']:,}"] = text
        columns = table.columns[1:]
        assert {row["layer"]: {one: row[one] for one in columns} for row in table.rows} == {
            layer: dict.fromkeys(columns, "-") | mine for layer, mine in expected.items()
        }
        (peak,) = (row["value"] for row in rows if row["quantity"] == "peak")
        assert f"at {without_spread(peak / 1e9)} billion operations/s" in table.notes[0]


def test_scaling(tables):
    found, records = tables
    expected, table = times_as_fast(records), found.get("Training on more devices")
    if table is None:
        assert not expected
        return
    for row in table.rows:
        for column in table.columns[2:]:
            devices, scaling, _ = column.split("|")
            value, low, high = expected.pop((row["model"], int(devices.split()[0]), scaling))
            assert row[column] == with_half_width(value, (high - low) / 2)
        alone = [
            one
            for one in measured(records, "scaling")[f"training, {row['model']}"]
            if one["quantity"] == "target_tokens_per_second" and at(one, devices=1, scaling="strong")
        ]
        text = with_half_width(alone[0]["value"], (alone[0]["high"] - alone[0]["low"]) / 2)
        assert row["one device|target|tokens/s"] == text
    assert not expected


def on(record):
    """What a peak of matrix products depends on."""
    one = record["provenance"]
    is_gpu = "cuda" in one["torch_version"] or "+cu" in one["torch_version"]
    return one["device"], one["devices"] if is_gpu else one["threads"] * one["devices"], one["precision"]


def peaks():
    found: dict[Any, Any] = {}
    for study in ("why", "speed", "speed-base", "multi30k-en-de"):
        for record in read_records(study).values():
            for row in record.get("rows") or []:
                if "peak" in (row.get("phase"), row["quantity"]):
                    found.setdefault(on(record), []).append(row["value"])
    return {conditions: max(values) for conditions, values in found.items()}


def test_table_2():
    tables = {table.title: table for table in section(read_page("why"), "table-1")}
    found = tables["Table 2, measured: quality and the cost of training"]
    expected: dict[Any, Any] = {}
    peak = peaks()
    for study in TRANSLATED:
        page, records = read_page(study), read_records(study)
        for table in section(page, "comparison"):
            name = f"{study}, equal {match_of(table)}" if match_of(table) else study
            for row, ids in zip(table.rows, table.runs, strict=True):
                mine = [records[run_id] for run_id in ids]
                split = first_test_split(mine[0])
                seconds = statistics.median(one["train_seconds"] for one in mine)
                joules = [one["energy_joules"] for one in mine if one.get("energy_joules") is not None]
                counted = statistics.median(one["operations_per_step"] for one in mine) * statistics.median(
                    one["steps"] for one in mine
                )
                best = peak.get(on(mine[0]))
                at = mine[0]["provenance"]
                expected.setdefault((name, row["model"]), []).append(
                    {
                        "study": name,
                        "model": row["model"],
                        "device": f"{at['device']}, {at['threads']}",
                        "seeds": str(len(mine)),
                        "BLEU": mean_of([score(one, split, "bleu") for one in mine]),
                        "operations|counted": f"{counted:.2e}",
                        "seconds": without_spread(seconds),
                        "kJ": without_spread(statistics.median(joules) / 1e3) if joules else "-",
                        "operations|as the|paper counts": "-" if best is None else f"{seconds * best:.2e}",
                    }
                )
    shown: dict[Any, Any] = {}
    for row in found.rows:
        shown.setdefault((row["study"], row["model"]), []).append(row)
    assert shown.keys() == expected.keys()
    for key, rows in shown.items():
        assert sorted(rows, key=str) == sorted(expected[key], key=str), key
