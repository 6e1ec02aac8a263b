"""Table 1 of the paper, with what was measured beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from benchmark.record import Row
from benchmark.report.layout import NOT_MEASURED, Column, Table
from benchmark.report.rounding import count, with_half_width, without_spread
from benchmark.why.cells import (
    ATTENTION,
    CONVOLUTION,
    DILATED,
    KERNELS_OF_ATTENTION,
    RECURRENT,
    RESTRICTED,
    SEPARABLE,
    TIMED_RESTRICTED,
    VARIANTS,
)
from benchmark.why.cost import tables_2_and_3
from benchmark.why.facts import (
    BOTH,
    FORWARD,
    Facts,
    Missing,
    exponent,
    for_one_sequence,
    number,
    scalings,
    time_exponent,
    times_of,
)


class _Line(NamedTuple):
    layer: str
    law: str
    sequential: str
    longest: str
    path: str
    """Whose paths stand in the row."""
    timed: str


_LINES = (
    _Line(ATTENTION, "n^2 d", "1", "1", ATTENTION, ATTENTION),
    _Line(RECURRENT, "n d^2", "n", "n", RECURRENT, RECURRENT),
    _Line(CONVOLUTION, "k n d^2", "1", "log_k n", DILATED, CONVOLUTION),
    _Line(RESTRICTED, "r n d", "1", "n / r", RESTRICTED, TIMED_RESTRICTED),
    _Line(SEPARABLE, "k n d + n d^2", "1", "log_k n (n / k)", SEPARABLE, SEPARABLE),
)


def table_1(facts: Facts) -> Table:
    """The paper's columns, each followed by its measurement."""
    facts.read.clear()
    rows = [_row(facts, line) for line in _LINES]
    return Table(
        title="Table 1, measured",
        heading=_heading(facts),
        columns=[
            Column(title=("layer",), is_text=True),
            Column(title=("complexity", "per layer"), is_text=True),
            Column(
                title=("mixing", "operations", "n / d"),
                note="Operations: exponents of n and d in power laws through mixing operations, by closed "
                "forms that with the projections at each position equal what is counted; the projections are "
                "left out as in the paper.",
            ),
            Column(title=("sequential", "operations"), is_text=True, begins_part=True),
            Column(
                title=("kernel", "depth"),
                note="Kernel depth: operations as PyTorch executes them that have to wait for each other, at "
                "the shortest and at the longest n.",
            ),
            Column(
                title=("ideal", "depth"),
                note="Ideal depth: the same with each operation as deep as any number of processors with two "
                "inputs make it (PRAM).",
            ),
            Column(title=("maximum", "path length"), is_text=True, begins_part=True),
            Column(
                title=("hops",),
                note="Hops: layers, or recurrent cells, on the longest of the shortest paths between two "
                "positions, in the smallest stack that connects all of them; depth is of one layer. The "
                "paper's log_k n is of dilated convolutions, as the one here is; the separable one has no "
                "dilation here: its path is that of contiguous ones, (n - 1) / (k - 1), in the paper n / k.",
            ),
            Column(
                title=("steps",),
                note="Steps: operations on the longest of the shortest paths; they need no declaration.",
            ),
            Column(
                title=("exponent of n", "in time,", "full batches"),
                note="Time: exponent of n in seconds for each sequence, forward and backward, at the three "
                "longest n and the largest width; 95 % interval over rounds. Full batches have as many "
                "positions at every n, so that fewer sequences share a batch as n grows, and the exponent is "
                f"of both; one sequence at a time is of n alone. {KERNELS_OF_ATTENTION}.",
                begins_part=True,
            ),
            Column(title=("exponent of n", "in time,", "one sequence")),
        ],
        rows=rows,
        labels=1,
        records=sorted(facts.read),
    )


def _heading(facts: Facts) -> list[str]:
    lines = []
    for kind, subject, what in (
        ("span", ATTENTION, "depth"),
        ("path", ATTENTION, "paths"),
        ("path", DILATED, "paths of dilated convolutions"),
        ("complexity", ATTENTION, "operations"),
    ):
        lengths = sorted(
            {
                number(row, "n")
                for one in facts.records
                if (one.kind, one.subject) == (kind, subject)
                for row in one.rows
            }
        )
        if lengths:
            lines.append(f"{what}: n from {lengths[0]:,.0f} to {lengths[-1]:,.0f}")
    for record in facts.records:
        if record.kind == "time" and record.status == "done":
            provenance = record.provenance
            lines.append(
                f"time: {provenance.device}, {provenance.threads} threads, {provenance.precision}, torch "
                f"{provenance.torch_version}"
            )
            break
    return lines


def _row(facts: Facts, line: _Line) -> list[str]:
    def cell(text: Any) -> str:
        try:
            return str(text())
        except Missing:
            return NOT_MEASURED

    def growth() -> str:
        rows = facts.rows("complexity", line.layer, "mixing_operations")
        widest, longest = (max(number(row, name) for row in rows) for name in ("d", "n"))
        in_n = exponent(facts.series("complexity", line.layer, "mixing_operations", d=widest))
        in_d = exponent(facts.series("complexity", line.layer, "mixing_operations", "d", n=longest))
        return f"{in_n:.2f} / {in_d:.2f}"

    def depth(quantity: str) -> str:
        return _ends(facts.series("span", line.layer, quantity, **FORWARD))

    def path(quantity: str) -> str:
        return _ends(facts.series("path", line.path, quantity))

    def time(*, full: bool) -> str:
        rows = facts.seconds(line.timed, full=full, **BOTH)
        width = max(number(row, "d") for row in rows)
        found = time_exponent(for_one_sequence([row for row in rows if row.conditions["d"] == width]))
        text = with_half_width(found.value, (found.high - found.low) / 2)
        return text if line.timed == line.layer else f"{text} ({line.timed.rpartition(', ')[2]})"

    return [
        line.layer,
        line.law,
        cell(growth),
        line.sequential,
        cell(lambda: depth("kernel_depth")),
        cell(lambda: depth("ideal_depth")),
        line.longest,
        cell(lambda: path("hops")),
        cell(lambda: path("steps")),
        cell(lambda: time(full=True)),
        cell(lambda: time(full=False)),
    ]


def _ends(series: Mapping[float, float]) -> str:
    values = list(series.values())
    return count(values[0]) if len(set(values)) == 1 else f"{count(values[0])} to {count(values[-1])}"


def further_tables(facts: Facts) -> list[Table]:
    """Depth of every pass, time over kernels, memory, what a device makes of batches, training on more
    devices, and translation.
    """
    every = (_passes, _variants, _memory, _utilisation, _scaling, tables_2_and_3)
    return [table for tables_of in every for table in _with_records(facts, tables_of(facts))]


def _with_records(facts: Facts, tables: Iterable[Table]) -> Iterator[Table]:
    """Each with the runs that are read while it is made."""
    facts.read.clear()
    for table in tables:
        yield replace(table, records=sorted(facts.read))
        facts.read.clear()


def _passes(facts: Facts) -> Iterator[Table]:
    rows = []
    for subject in facts.subjects("span"):
        try:
            every = facts.rows("span", subject, "work")
        except Missing:  # beyond memory, all of them
            continue
        for name in dict.fromkeys(str(row.conditions["pass"]) for row in every):
            work, depth, ideal = (
                {
                    number(row, "n"): row.value
                    for row in facts.rows("span", subject, quantity, **{"pass": name})
                }
                for quantity in ("work", "kernel_depth", "ideal_depth")
            )
            longest = max(work)
            lengths = f"{min(work):,.0f} to {longest:,.0f}"
            parallelism = without_spread(work[longest] / depth[longest])
            rows.append([subject, name, lengths, _ends(work), _ends(depth), _ends(ideal), parallelism])
    if rows:
        yield Table(
            title="Work and depth of every pass",
            heading=["operations of one sentence, at the shortest and the longest n; generation of n words"],
            columns=[
                Column(title=("layer or model",), is_text=True),
                Column(title=("pass",), is_text=True),
                Column(title=("n",), is_text=True),
                Column(
                    title=("work",),
                    note="Work: operations as PyTorch executes them, whatever their size; recurrences run "
                    "cell by cell.",
                ),
                Column(title=("kernel", "depth")),
                Column(
                    title=("ideal", "depth"),
                    note="Ideal depth: backwards an estimate, mostly an upper bound: gradients of softmax "
                    "and layer norm count as one sum over all that they read.",
                ),
                Column(
                    title=("parallelism",),
                    note="Parallelism: work over kernel depth at the longest n, how many operations could "
                    "run side by side on average. What is parallel within an operation is not in it: "
                    "attention and convolutions take all positions in one, a recurrence each in its own.",
                ),
            ],
            rows=rows,
            labels=3,
        )


def _variants(facts: Facts) -> Iterator[Table]:
    """Time and operations over k and r, as times those of the smallest."""
    for subject in facts.subjects("time"):
        if not subject.startswith(VARIANTS):
            continue
        every = facts.rows("time", subject, "seconds", full=True, **BOTH)
        length = max(number(row, "n") for row in every)
        found = {str(row.conditions["layer"]): row for row in every if row.conditions["n"] == length}
        width = number(every[0], "d")
        rows = []
        for layer, row in found.items():
            kind, _, value = layer.rpartition(", ")
            smallest = next(name for name in found if name.startswith(f"{kind}, "))
            if layer == smallest or value.endswith(" again"):
                continue
            what = f"{value} to {smallest.rpartition(', ')[2]}"
            dearer = _times_as_many(facts, layer, smallest, width)
            rows.append([kind, what, dearer, _ratio(row, found[smallest])])
        yield Table(
            title="Time over kernels and neighbourhoods",
            heading=[f"n = {length:,.0f}, d = {width:,.0f}, forward and backward, full batches"],
            columns=[
                Column(title=("layer",), is_text=True),
                Column(title=("compared",), is_text=True),
                Column(
                    title=("operations,", "times as many"),
                    note="Operations: as counted of one sequence at the same d, projections included.",
                ),
                Column(title=("seconds,", "times as long"), note="Seconds: 95 % interval over rounds."),
            ],
            rows=rows,
            labels=2,
        )


def _times_as_many(facts: Facts, layer: str, other: str, width: float) -> str:
    """Operations, at the longest sentences that were counted."""
    try:
        one, than = (facts.rows("complexity", name, "operations", d=width) for name in (layer, other))
    except Missing:
        return NOT_MEASURED
    return without_spread(one[-1].value / than[-1].value)


def _memory(facts: Facts) -> Iterator[Table]:
    measured = facts.subjects("complexity")
    layers = [line.timed for line in _LINES if line.timed in measured]
    if not layers:
        return
    every = {layer: facts.rows("complexity", layer, "saved_bytes") for layer in layers}
    width = max(number(row, "d") for rows in every.values() for row in rows)
    found = {
        (layer, number(row, "n")): row.value / 2**20
        for layer, rows in every.items()
        for row in rows
        if row.conditions["d"] == width
    }
    lengths = sorted({length for _, length in found})

    def cell(layer: str, length: float) -> str:
        value = found.get((layer, length))
        return "beyond memory" if value is None else without_spread(value)

    yield Table(
        title="Memory against length",
        heading=[f"kept of one sequence for the backward pass, MiB, d = {width:,.0f}"],
        columns=[
            Column(title=("layer",), is_text=True),
            *(Column(title=("n =", f"{length:,.0f}")) for length in lengths),
        ],
        rows=[[layer, *(cell(layer, length) for length in lengths)] for layer in layers],
        labels=1,
        remarks=[
            f"{KERNELS_OF_ATTENTION}, where it keeps no scores: memory then grows with n, not with n^2.",
            "Attention has a head for every 64 channels, as where it is timed; each keeps scores of its own.",
        ],
    )


def _utilisation(facts: Facts) -> Iterator[Table]:
    for subject in facts.subjects("utilisation"):
        rows = facts.rows("utilisation", subject, "utilisation")
        batches = sorted({number(row, "batch") for row in rows})
        found = {(row.conditions["layer"], number(row, "batch")): row for row in rows}
        (peak,) = facts.rows("utilisation", subject, "peak")
        yield Table(
            title=f"Utilisation against batch: {subject}",
            heading=[
                f"n = {number(rows[0], 'n'):,.0f}, forward and backward; share of the peak, matrix products "
                f"at {without_spread(peak.value / 1e9)} billion operations/s in the same rounds",
            ],
            columns=[
                Column(title=("layer",), is_text=True),
                *(Column(title=("batch", f"{batch:,.0f}")) for batch in batches),
            ],
            rows=[
                [str(layer), *(_ranged(found.get((layer, batch))) for batch in batches)]
                for layer in dict.fromkeys(row.conditions["layer"] for row in rows)
            ],
            labels=1,
        )


def _scaling(facts: Facts) -> Iterator[Table]:
    every = scalings(facts)
    if not every:
        return
    threads = {str(one.together.conditions["threads_of_each"]) for one in every}
    points = list(dict.fromkeys((one.devices, one.scaling) for one in every))
    found = {(one.model, one.devices, one.scaling): one for one in every}
    yield Table(
        title="Training on more devices",
        heading=[f"threads of each process: {', '.join(sorted(threads))}"],
        columns=[
            Column(title=("model",), is_text=True),
            Column(title=("one device", "target", "tokens/s")),
            *(
                Column(
                    title=(f"{devices} devices", scaling, "times as fast"),
                    note="Strong scaling shares one global batch, weak scaling gives each device a batch "
                    "of its own; the trainer on all devices against a plain loop on one, which take turns at "
                    "every step, 95 % interval.",
                )
                for devices, scaling in points
            ),
        ],
        rows=[
            [
                model,
                _ranged(found[model, *points[0]].alone),
                *(_ratio(found[model, *point].together, found[model, *point].alone) for point in points),
            ]
            for model in dict.fromkeys(one.model for one in every)
        ],
        labels=1,
    )


def _ratio(first: Row, second: Row) -> str:
    found = times_of(first, second)
    return with_half_width(found.value, (found.high - found.low) / 2)


def _ranged(row: Row | None) -> str:
    if row is None or row.low is None or row.high is None:
        return NOT_MEASURED
    return with_half_width(row.value, (row.high - row.low) / 2)
