"""A difference as tables of a terminal: what differs in rows, what is the same by name alone."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmark.config import canonical_json
from benchmark.report.difference import (
    Difference,
    HashDifference,
    Quantity,
    ResultDifference,
    SpeedDifference,
)
from benchmark.report.escaping import for_terminal
from benchmark.report.layout import NOT_MEASURED, Column, Table, terminal_lines
from benchmark.report.pairing import CellName
from benchmark.report.rounding import count, with_half_width, with_interval, without_spread
from benchmark.report.thresholds import Check

MIB, BILLION = 2**20, 10**9
_MEMORY, _OPERATIONS = "peak_memory_bytes", "operations_per_second"
_LONGEST_VALUE = 60


def terminal_difference(difference: Difference, checks: Sequence[Check] = (), width: int = 120) -> str:
    """Everything that differs, in lines of `width` characters, and what the checks say of it."""
    sides = (("A", difference.first), ("B", difference.second))
    parts = [[for_terminal(f"{letter}: {side.name}: {side.holds}") for letter, side in sides]]
    parts += [terminal_lines(table, width) for table in _tables(difference)]
    remarks = [*difference.unreadable, *difference.unpaired, *difference.remarks]
    if difference.is_identical:
        remarks.append("identical: A and B have the same config, environment and results")
    else:
        remarks += _same(difference)
    lines = [
        line
        for remark in remarks
        for line in textwrap.wrap(for_terminal(remark), width, subsequent_indent="  ")
    ]
    parts += [lines] if lines else []
    parts += [[for_terminal(_check_line(check)) for check in checks]] if checks else []
    # a table ends with an empty line where its notes would be
    return "\n\n".join("\n".join(lines).rstrip("\n") for lines in parts) + "\n"


def _check_line(check: Check) -> str:
    return f"{'holds' if check.holds else 'FAILS'}  {check.threshold}  {check.where}: {check.words}"


def _same(difference: Difference) -> list[str]:
    """What was compared and is equal in every cell, and what one side alone has, by name."""
    rows: dict[Quantity, list[ResultDifference]] = {}
    for one in difference.results:
        rows.setdefault(Quantity(one.quantity, one.split), []).append(one)
    equal = [quantity.label for quantity, members in rows.items() if all(one.is_equal for one in members)]
    hashes: dict[str, list[HashDifference]] = {}
    for each in difference.hashes:
        hashes.setdefault(each.hash, []).append(each)
    equal += [name for name, hashed in hashes.items() if all(one.is_equal for one in hashed)]
    there = {(one.cell, one.quantity, one.split) for one in difference.results}
    done = {one.cell for one in difference.results}
    alone = dict.fromkeys(
        Quantity(one.quantity, one.split).label
        for one in difference.one_sided
        if one.cell in done and (one.cell, one.quantity, one.split) not in there
    )
    return [
        f"{title}: {', '.join(names)}"
        for title, names in (("the same in both", equal), ("measured in one alone", list(alone)))
        if names
    ]


def _tables(difference: Difference) -> list[Table]:
    differing = {Quantity(one.quantity, one.split) for one in difference.results if not one.is_equal}
    results = [one for one in difference.results if Quantity(one.quantity, one.split) in differing]
    timed = [one for one in results if Quantity(one.quantity, one.split).needs_one_machine]
    untimed = [one for one in results if not Quantity(one.quantity, one.split).needs_one_machine]
    hashes = [one for one in difference.hashes if not one.is_equal]
    tables = [
        _config_table(difference) if difference.config else None,
        _environment_table(difference) if difference.environment else None,
        _result_table("results", _RESULT_NOTE, untimed, difference.cells) if untimed else None,
        _result_table("speed and memory as run", _TIMED_NOTE, timed, difference.cells) if timed else None,
        _speed_table(difference.speeds) if difference.speeds else None,
        _hash_table(hashes, difference.cells) if hashes else None,
    ]
    return [table for table in tables if table is not None]


_RESULT_NOTE = (
    "Means over the seeds that both have. ± is half the 95 % t-interval of the paired differences; p is that "
    "of the exact sign-flip test, after Holm's correction over the cells of a task."
)
_TIMED_NOTE = (
    "As run: A and B ran at other times, and what else the machine did then is part of the difference; only "
    "speed records compare speeds."
)


def _text(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _config_table(difference: Difference) -> Table:
    every = {cell for one in difference.config for cell in one.cells} | set(difference.cells)
    rows = [
        [
            one.field,
            _text(one.first),
            _text(one.second),
            "all" if set(one.cells) == every else ", ".join(cell.label for cell in one.cells),
        ]
        for one in difference.config
    ]
    columns = [Column(title=(name,), is_text=True) for name in ("config", "A", "B", "cells")]
    shown = len(columns) if len(every) > 1 else len(columns) - 1
    return Table(
        title="what differs in config",
        heading=[],
        columns=columns[:shown],
        rows=[row[:shown] for row in rows],
        labels=1,
    )


def _environment_table(difference: Difference) -> Table:
    rows = [
        [one.field, ", ".join(map(_text, one.first)), ", ".join(map(_text, one.second))]
        for one in difference.environment
    ]
    columns = [Column(title=(name,), is_text=True) for name in ("environment", "A", "B")]
    return Table(title="what differs in environment", heading=[], columns=columns, rows=rows, labels=1)


def _labels(cells: Iterable[CellName]) -> list[tuple[str, Callable[[CellName], str]]]:
    """The columns that tell cells apart."""
    every = set(cells)
    columns: list[tuple[str, Callable[[CellName], str]]] = [
        ("model", lambda cell: cell.model),
        ("task", lambda cell: cell.task),
        ("settings", lambda cell: cell.settings),
    ]
    return [(title, value) for title, value in columns if len({value(cell) for cell in every}) > 1]


def _result_table(
    title: str, note: str, results: Sequence[ResultDifference], cells: Sequence[CellName]
) -> Table:
    labels = _labels(cells)
    several_seeds = any(len(one.seeds) > 1 for one in results)
    columns: list[tuple[Column, Callable[[ResultDifference], str]]] = [
        (Column(title=("quantity",), is_text=True, note=note), _quantity_text),
        *((Column(title=(name,), is_text=True), _of_cell(value)) for name, value in labels),
        *(
            (Column(title=(name,)), _change_text(place))
            for place, name in enumerate(("A", "B", "B - A", "%"))
        ),
        (Column(title=("what may be said",), is_text=True), lambda one: _words(one.words)),
    ]
    if several_seeds:  # one seed has neither, and two runs then fit into a line
        columns.insert(-1, (Column(title=("p",)), _p_text))
        columns.insert(1 + len(labels), (Column(title=("seeds",)), lambda one: str(len(one.seeds))))
    return Table(
        title=f"what differs in {title}" + ("" if labels else f": {cells[0].label}"),
        heading=[],
        columns=[column for column, _ in columns],
        rows=[[value(one) for _, value in columns] for one in results],
        labels=1 + len(labels),
    )


def _quantity_text(one: ResultDifference) -> str:
    return "peak memory, MiB" if one.quantity == _MEMORY else Quantity(one.quantity, one.split).label


def _of_cell(value: Callable[[CellName], str]) -> Callable[[ResultDifference], str]:
    return lambda one: value(one.cell)


def _p_text(one: ResultDifference) -> str:
    return NOT_MEASURED if one.p_adjusted is None else f"{one.p_adjusted:.3f}"


def _change_text(place: int) -> Callable[[ResultDifference], str]:
    def text(one: ResultDifference) -> str:
        unit = MIB if one.quantity == _MEMORY else 1
        half_width = None if one.half_width_95 is None else one.half_width_95 / unit
        return _change(one.first_mean / unit, one.second_mean / unit, half_width)[place]

    return text


def _change(first: float, second: float, half_width: float | None) -> list[str]:
    """Both means to the digits of their difference, the difference, and its share of the first in percent."""
    change = second - first
    share = _percent(first, second)
    if first.is_integer() and second.is_integer() and not half_width:
        sign = "+" if change > 0 else ""
        return [count(first), count(second), f"{sign}{count(change)}", share]
    if half_width:
        sign, text = "+" if change > 0 else "", with_half_width(change, half_width)
        return [*(digits(one, half_width) for one in (first, second)), f"{sign}{text}", share]
    # without a spread, three digits at least
    shown = [max(digits(one, change), without_spread(one), key=len) for one in (first, second)]
    return [*shown, signed(change), share]


def _percent(first: float, second: float) -> str:
    return f"{100 * (second - first) / abs(first):+.1f}" if first else NOT_MEASURED


def _words(words: str) -> str:
    return {"first higher": "A higher", "second higher": "B higher"}.get(words, words)


def _speed_table(speeds: Sequence[SpeedDifference]) -> Table:
    tasks = {one.task for one in speeds}
    columns = [
        *(Column(title=(name,), is_text=True) for name in ("model", "phase", "quantity")),
        *(Column(title=(name,)) for name in ("A", "B", "%")),
        Column(
            title=("what may be said",),
            is_text=True,
            note="Speeds in interleaved rounds, with 95 % intervals over rounds; two differ where their "
            "intervals do not overlap.",
        ),
    ]
    rows = [
        [
            one.model if len(tasks) == 1 else f"{one.model} on {one.task}",
            one.phase,
            _speed_quantity(one),
            _ranged(one, one.first, one.first_low, one.first_high),
            _ranged(one, one.second, one.second_low, one.second_high),
            _percent(one.first, one.second),
            _words(one.words),
        ]
        for one in speeds
    ]
    title = f"speed on {', '.join(sorted(tasks))}"
    return Table(title=title, heading=[], columns=columns, rows=rows, labels=3)


def _speed_quantity(one: SpeedDifference) -> str:
    conditions = " ".join(f"{name}={_text(value)}" for name, value in one.conditions.items())
    name = f"{one.quantity}, billion" if one.quantity == _OPERATIONS else one.quantity
    return f"{name} {_text(conditions)}".strip()


def _ranged(one: SpeedDifference, value: float, low: float | None, high: float | None) -> str:
    unit = BILLION if one.quantity == _OPERATIONS else 1
    if low is None or high is None:
        return without_spread(value / unit)
    return with_interval(value / unit, low / unit, high / unit)


def _hash_table(hashes: Sequence[HashDifference], cells: Sequence[CellName]) -> Table:
    labels = _labels(cells)
    columns = [
        Column(title=("hash",), is_text=True),
        *(Column(title=(name,), is_text=True) for name, _ in labels),
        *(Column(title=(name,), is_text=True) for name in ("A", "B", "")),
    ]
    rows = [
        [
            one.hash,
            *(value(one.cell) for _, value in labels),
            *(_hash_text(side) for side in (one.first, one.second)),
            _hash_words(one),
        ]
        for one in hashes
    ]
    return Table(title="hashes that differ", heading=[], columns=columns, rows=rows, labels=1 + len(labels))


def _hash_text(values: Sequence[str | None]) -> str:
    if len(values) == 1:
        return (values[0] or NOT_MEASURED)[:12]
    return f"{sum(value is not None for value in values)} of {len(values)} seeds"


def _hash_words(one: HashDifference) -> str:
    differing = one.differing_seeds
    if not differing:
        return "not in both"
    return "differ" if len(one.seeds) == 1 else f"differ at seeds {', '.join(map(str, differing))}"


def digits(value: float, spread: float) -> str:
    """A value to the digits at which a difference of `spread` shows."""
    if spread == 0:
        return without_spread(value)
    return with_half_width(value, abs(spread)).partition(" ")[0]


def signed(change: float) -> str:
    """`+0.52`, `-0.012`, `0`."""
    return f"{'+' if change > 0 else ''}{digits(change, change)}"
