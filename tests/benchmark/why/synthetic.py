"""Records of layers as a world would give them in which every claim holds, and in which one does not."""

import math
import random
from typing import Any

from benchmark.measure.timing import median
from benchmark.record import LayerRecord, Row
from benchmark.why.cells import (
    ATTENTION,
    CELLS,
    CONVOLUTION,
    DILATED,
    FULL_SEPARABLE,
    MODELS,
    RECURRENT,
    RESTRICTED,
    SEPARABLE,
    TIMED_RESTRICTED,
)
from tests.benchmark.report.records import provenance

LENGTHS, WIDTHS = (16, 32, 64, 128), (64, 128, 256)
ROUNDS = 9


def log_3(n):
    power = 0
    while 3**power < n:
        power += 1
    return power


def times(factor, of_n, of_d):
    return lambda n, d: factor * n**of_n * d**of_d


HOLDS: dict[str, Any] = {
    "kernel_depth": {
        ATTENTION: lambda n: 6, RECURRENT: lambda n: 7 * n, CONVOLUTION: lambda n: 1,
        RESTRICTED: lambda n: 7, SEPARABLE: lambda n: 3,
    },
    "ideal_depth": {
        ATTENTION: lambda n: 21 + 3 * math.log2(n), RECURRENT: lambda n: 12 * n, CONVOLUTION: lambda n: 8,
        RESTRICTED: lambda n: 34, SEPARABLE: lambda n: 11,
    },
    "training_depth": {
        "transformer": lambda n: 100, "convs2s": lambda n: 60, "lstm": lambda n: 20 + 14 * n,
    },
    "hops": {
        ATTENTION: lambda n: 1, RECURRENT: lambda n: n, CONVOLUTION: lambda n: math.ceil((n - 1) / 2),
        RESTRICTED: lambda n: math.ceil((n - 1) / 4), DILATED: log_3,
        SEPARABLE: lambda n: math.ceil((n - 1) / 2),
    },
    "layers": {
        ATTENTION: lambda n: 1, RECURRENT: lambda n: 1, CONVOLUTION: lambda n: math.ceil((n - 1) / 2),
        RESTRICTED: lambda n: math.ceil((n - 1) / 4), DILATED: log_3,
        SEPARABLE: lambda n: math.ceil((n - 1) / 2),
    },
    "leaks": dict.fromkeys(
        (ATTENTION, RECURRENT, CONVOLUTION, RESTRICTED, DILATED, SEPARABLE, *MODELS), lambda n: 0
    ),
    "encoder_connects": {"transformer": lambda n: 1, "convs2s": lambda n: n < 8, "lstm": lambda n: 1},
    "mixing": {
        ATTENTION: lambda n, d: 4 * n * n * d,
        RECURRENT: lambda n, d: 2 * n * d * d,
        FULL_SEPARABLE: lambda n, d: 2 * n * n * d,
        **{f"convolution, k = {k}": times(2 * k, 1, 2) for k in (3, 5, 9)},
        **{f"restricted self-attention, r = {r}": times(6 * r, 1, 1) for r in (8, 32)},
        **{f"separable convolution, k = {k}": times(2 * k, 1, 1) for k in (3, 9)},
    },
    "projections": {
        ATTENTION: lambda n, d: 8 * n * d * d,
        RECURRENT: lambda n, d: 2 * n * d * d,
        FULL_SEPARABLE: lambda n, d: 2 * n * d * d,
        **{f"convolution, k = {k}": lambda n, d: 0 for k in (3, 5, 9)},
        **{f"restricted self-attention, r = {r}": lambda n, d: 8 * n * d * d for r in (8, 32)},
        **{f"separable convolution, k = {k}": lambda n, d: 2 * n * d * d for k in (3, 9)},
    },
    "uncounted": {},
    "seconds": {
        ATTENTION: lambda n, d: 1e-9 * (4 * n * n * d + n * d * d),
        RECURRENT: lambda n, d: 1e-9 * 6 * n * d * d,
        CELLS: lambda n, d: 1e-9 * 60 * n * d * d,
        CONVOLUTION: lambda n, d: 1e-9 * 18 * n * d * d,
        SEPARABLE: lambda n, d: 1e-9 * 8 * n * d * d,
        TIMED_RESTRICTED: lambda n, d: 1e-9 * (40 * n * d + n * d * d),
    },
    "noise": 0.01,
    "decay": {RECURRENT: ("exponential", -0.2, 0.01)},
    "sentences": {8: 600, 20: 390, 700: 10},
}  # fmt: skip
"""A world in which all of section 4 is true: here the recurrence has one matrix and no gates."""


def records(*, seed=0, **changes):
    """The records of that world, with what `changes` says of it; a subject that is None was not measured.

    `seed` is that of the noise in times.
    """
    world = {
        name: {**what, **changes.get(name, {})} if isinstance(what, dict) else changes.get(name, what)
        for name, what in HOLDS.items()
    }
    if "sentences" in changes:
        world["sentences"] = changes["sentences"]
    found: list[LayerRecord] = []

    def record(kind, subject, rows):
        fields = {
            "run_id": f"{len(found):016x}",
            "study": "why",
            "status": "done",
            "provenance": provenance(),
        }
        found.append(LayerRecord(kind=kind, subject=subject, rows=rows, **fields))

    def series(quantity, law, lengths=LENGTHS, **conditions):
        return [row(quantity, law(n), n=n, **conditions) for n in lengths]

    for name in world["kernel_depth"]:
        rows = []
        for quantity in ("kernel_depth", "ideal_depth"):
            if world[quantity][name] is not None:
                rows += series(quantity, world[quantity][name], **{"pass": "forward"})
        record("span", name, rows)
    for name in MODELS:
        if world["training_depth"][name] is None:
            continue
        training = {"pass": "teacher forcing, forward and backward"}
        rows = series("kernel_depth", world["training_depth"][name], (4, 8, 12), **training)
        rows += series("kernel_depth", lambda n: 30 + 12 * n, (4, 8, 12), **{"pass": "generation"})
        record("span", name, rows)
    for name in world["hops"]:
        rows = []
        for quantity in ("hops", "layers", "leaks"):
            if world[quantity][name] is not None:
                rows += series(quantity, world[quantity][name], (9, 27, 81) if name == DILATED else LENGTHS)
        record("path", name, rows)
    for name in MODELS:
        if world["encoder_connects"][name] is None:
            continue
        rows = series("connects", world["encoder_connects"][name], (4, 8, 12), part="encoder")
        rows += series("hops", lambda n: 1, (4, 8, 12), part="source to target")
        if world["leaks"][name] is not None:
            rows += series("leaks", world["leaks"][name], (4, 8, 12), part="target to target")
        record("path", name, rows)
    for name, mixing in world["mixing"].items():
        if mixing is None:
            continue
        rows = []
        for n in LENGTHS:
            for d in WIDTHS:
                one, other = mixing(n, d), world["projections"][name](n, d)
                counted = one + other + world["uncounted"].get(name, 0)
                rows += [
                    row("operations", counted, n=n, d=d),
                    row("mixing_operations", one, n=n, d=d),
                    row("saved_bytes", 4 * n * d, n=n, d=d),
                    row("projection_operations", other, n=n, d=d),
                ]
        record("complexity", name, rows)
    for name, (kind, rate, half) in world["decay"].items():
        record("signal", name, [one for n in (64, 256) for one in law_rows(kind, rate, half, n=n)])
    if world["sentences"]:
        record(
            "lengths",
            "multi30k-en-de",
            [row("sentences", number, n=n, side="source") for n, number in world["sentences"].items()],
        )
    if world["seconds"][ATTENTION] is not None:
        for d in WIDTHS:
            points = [(n, d, batch) for n in (16, 64, 256, 1024) for batch in (1, 4096 // n)]
            rows = time_rows(world["seconds"], points, noise=world["noise"], seed=seed)
            record("time", f"layers, d = {d}", list(rows))
    return found


def time_rows(seconds, points, *, noise, seed, rounds=ROUNDS):
    """Of every layer at every (n, d, batch), and of attention again: what `seconds` says, and noise."""
    rng = random.Random(f"{seed}, {points}")
    for name in (*seconds, f"{ATTENTION} again"):
        law = seconds[name.removesuffix(" again")]
        for n, d, batch in points:
            for one in ("forward", "forward and backward"):
                samples = [batch * law(n, d) * math.exp(rng.gauss(0, noise)) for _ in range(rounds)]
                value = median(samples)
                where = {"layer": name, "n": n, "d": d, "batch": batch, "full": batch > 1, "pass": one}
                yield row("seconds", value.value, low=value.low, high=value.high, samples=samples, **where)


def law_rows(kind, slope, half, *, n):
    """Of the signal at the last of n positions: the slope in either unit, tenfold where it is of a power."""
    for quantity, times, unit in (("rate", 1, "ln per position"), ("exponent", 10, "ln per ln distance")):
        ends = {"low": times * (slope - half), "high": times * (slope + half)}
        yield row(quantity, times * slope, unit=unit, **ends, n=n, output=n - 1, decay=kind)


def row(quantity, value, *, unit="", low=None, high=None, samples=(), **conditions):
    return Row(
        quantity=quantity,
        value=float(value),
        unit=unit,
        low=low,
        high=high,
        samples=list(samples),
        conditions=conditions,
    )
