"""Measurements of layers as rows: at sizes that take no time, with what is known of them."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmark.config import RunOptions
from benchmark.measure import graph, layer_records, layers, signal, speed, trained_rows
from benchmark.measure.allocation import forward_bytes, saved_bytes
from benchmark.measure.layers import (
    build_layer,
    build_small_model,
    complexity_rows,
    lengths_rows,
    path_rows,
    signal_rows,
    span_rows,
    time_rows,
    utilisation_rows,
)
from benchmark.why.facts import number
from models.layers.table1 import LAYERS, SelfAttention

CPU = torch.device("cpu")
FIELDS: dict[str, dict[str, int]] = {
    "self-attention": {"heads": 2},
    "restricted self-attention": {"neighbourhood": 4},
    "recurrent": {},
    "convolution": {"kernel": 3},
    "separable convolution": {"kernel": 3},
}


def table(rows, quantity, *names):
    return {
        tuple(row.conditions[name] for name in names): row.value for row in rows if row.quantity == quantity
    }


def ends(row):
    assert row.low is not None and row.high is not None
    return row.low, row.high


def layer(name):
    return {"name": name, "width": 8, **FIELDS[name]}


@pytest.mark.parametrize("name", LAYERS)
def test_spans_of_every_layer(name):
    rows = list(span_rows({"layer": layer(name), "lengths": [4, 8], "backward_to": 4}))
    depth = table(rows, "kernel_depth", "n", "pass")
    assert depth.keys() == {(4, "forward"), (8, "forward"), (4, "forward and backward")}
    assert (depth[8, "forward"] == 2 * depth[4, "forward"]) == (name == "recurrent")


def test_paths_through_the_smallest_stack():
    rows = list(path_rows({"layer": layer("convolution"), "lengths": [5, 9], "matrix_length": 5}))
    assert table(rows, "layers", "n") == table(rows, "hops", "n") == {(5,): 2, (9,): 4}
    assert table(rows, "leaks", "n") == {(5,): 0, (9,): 0}
    between = table(rows, "hops_between", "from", "to")
    assert between.keys() == {(i, j) for i in range(5) for j in range(i, 5)}
    assert (between[2, 2], between[3, 4], between[0, 4]) == (0, 1, 2)
    dilated = {"layer": layer("convolution"), "dilated": True, "lengths": [9, 27], "matrix_length": 0}
    assert table(list(path_rows(dilated)), "hops", "n") == {(9,): 2, (27,): 3}


@pytest.mark.parametrize("model", ["transformer", "convs2s", "lstm"])
def test_whole_models(model):
    rows = list(span_rows({"model": model, "lengths": [2, 4], "backward_to": 2}))
    depth = table(rows, "kernel_depth", "n", "pass")
    passes = ("teacher forcing", "encoder", "decoder")
    assert depth.keys() == {
        *((n, one) for n in (2, 4) for one in (*passes, "generation")),
        *((2, f"{one}, forward and backward") for one in passes),
    }
    assert all(depth[2, f"{one}, forward and backward"] > depth[2, one] for one in passes)
    rows = list(path_rows({"model": model, "lengths": [4]}))
    assert table(rows, "hops", "part")["source to target",] == 1
    parts = {("encoder",), ("source to target",), ("target to target",)}
    assert table(rows, "leaks", "part") == dict.fromkeys(parts, 0)
    rows = list(signal_rows({"model": model, "lengths": [8]}))
    assert {row.conditions["from"] for row in rows} == {"source", "target"}


def test_a_decoder_that_sees_its_future_shows(monkeypatch):
    def leaking(name):
        model = build_small_model(name)
        decode = model.decode
        monkeypatch.setattr(model, "decode", lambda target, memory: decode(target, memory).flip(1))
        return model

    monkeypatch.setattr(layers, "build_small_model", leaking)
    rows = list(path_rows({"model": "transformer", "lengths": [4]}))
    assert table(rows, "leaks", "part")["target to target",] == 4


def test_signal_falls_with_the_distance_in_a_recurrence():
    settings = {"layer": layer("recurrent"), "lengths": [32], "forget_bias": 0.0}
    rows = list(signal_rows(settings))
    rates = [row for row in rows if row.quantity == "rate"]
    assert {row.conditions["output"] for row in rates} == {16, 31}
    assert {row.conditions["decay"] for row in rates} == {"exponential"}
    assert all(ends(row)[0] < row.value < ends(row)[1] < 0 for row in rates)
    norms = table(rows, "norm", "output", "distance")
    assert norms[31, 31] < norms[31, 1]


def test_complexity_is_counted_over_a_grid():
    settings = {"layer": {"name": "recurrent"}, "lengths": [4, 8], "widths": [8, 16]}
    rows = list(complexity_rows(settings))
    counted = table(rows, "operations", "n", "d")
    assert counted == {(n, d): 16 * n * d * d for n in (4, 8) for d in (8, 16)}
    both = table(rows, "operations_with_backward", "n", "d")
    assert both == {point: 3 * value for point, value in counted.items()}
    assert all(value > 0 for value in table(rows, "saved_bytes", "n", "d").values())
    whole = {"layer": {"name": "separable convolution", "kernel": "n"}, "lengths": [4, 8], "widths": [8]}
    assert table(list(complexity_rows(whole)), "operations", "n") == {
        (n,): 2 * n * n * 8 + 2 * n * 64 for n in (4, 8)
    }


@pytest.mark.parametrize(
    "fields", [{"name": "self-attention"}, {"name": "restricted self-attention", "neighbourhood": 4}]
)
def test_heads_cost_memory_for_their_scores_and_no_operations(fields):
    settings = {"layer": fields, "lengths": [16, 32], "widths": [8, 16]}
    one, several = (list(complexity_rows({**settings, "heads": heads})) for heads in ([1, 1], [1, 4]))
    for quantity in ("operations", "mixing_operations", "projection_operations"):
        assert table(one, quantity, "n", "d") == table(several, quantity, "n", "d")
    (few, many) = (table(rows, "saved_bytes", "n", "d") for rows in (one, several))
    assert few[32, 8] == many[32, 8]
    scores = {"self-attention": 32 * 32, "restricted self-attention": 32 * 6}
    assert many[32, 16] - few[32, 16] >= 3 * 4 * scores[fields["name"]], "of three more heads, in float32"


def test_a_length_beyond_memory_is_a_row_and_no_crash(monkeypatch):
    monkeypatch.setattr(layers, "available_bytes", lambda device: 200_000)
    settings = {"layer": {"name": "self-attention"}, "lengths": [8, 4096], "widths": [8]}
    rows = list(complexity_rows(settings))
    assert table(rows, "operations", "n").keys() == {(8,)}
    assert table(rows, "beyond_memory", "n") == {(4096,): 1}
    timed: dict[str, Any] = {"layers": {"a": {"name": "self-attention"}}, "lengths": [8, 4096], "width": 8}
    rows = list(time_rows({**timed, "tokens": 8, "rounds": 6, "seed": 0}, CPU, lambda: None))
    assert {row.conditions["n"] for row in rows if row.quantity == "seconds"} == {8}
    assert {row.conditions["n"] for row in rows if row.quantity == "beyond_memory"} == {4096}


def small_memory(monkeypatch, free):
    monkeypatch.setattr(graph, "LARGE", free)
    monkeypatch.setattr(graph, "memory_available_bytes", lambda: free)


@pytest.mark.parametrize("name", ["self-attention", "restricted self-attention", "separable convolution"])
def test_paths_beyond_memory_are_a_row_beside_the_others(name, monkeypatch):
    small_memory(monkeypatch, 1_000_000)
    rows = list(path_rows({"layer": layer(name), "lengths": [8, 512], "matrix_length": 8}))
    assert table(rows, "beyond_memory", "n") == {(512,): 1}
    assert {row.conditions["n"] for row in rows if row.quantity == "hops"} == {8}


def test_paths_of_a_model_beyond_memory_are_a_row_beside_the_others(monkeypatch):
    small_memory(monkeypatch, 4_000_000)
    rows = list(path_rows({"model": "transformer", "lengths": [4, 128]}))
    assert table(rows, "beyond_memory", "n") == {(128,): 1}
    assert {row.conditions["n"] for row in rows if row.quantity == "hops"} == {4}


@pytest.mark.parametrize("foreseen", [True, False])
def test_spans_beyond_memory_are_rows_beside_the_others(foreseen, monkeypatch):
    if foreseen:
        monkeypatch.setattr(layers, "available_bytes", lambda device: 200_000)
    else:
        small_memory(monkeypatch, 200_000)
    rows = list(span_rows({"layer": layer("self-attention"), "lengths": [8, 4096], "backward_to": 4096}))
    passes = {(n, one) for n in (8, 4096) for one in ("forward", "forward and backward")}
    beyond = table(rows, "beyond_memory", "n", "pass")
    assert beyond.keys() == {one for one in passes if one[0] == 4096}
    assert table(rows, "work", "n", "pass").keys() == passes - beyond.keys()


def memory_for_eight_positions(monkeypatch):
    taken = signal._norms

    def limited(y, inputs, generator):
        if inputs[0].shape[1] > 8:
            raise MemoryError
        return taken(y, inputs, generator)

    monkeypatch.setattr(signal, "_norms", limited)


def test_signals_of_a_run_beyond_memory_are_rows_beside_the_others(monkeypatch, tmp_path):
    memory_for_eight_positions(monkeypatch)
    monkeypatch.setattr(trained_rows, "run_folder", lambda run, results: None)
    for name in ("trained_model", "untrained_model"):
        monkeypatch.setattr(trained_rows, name, lambda folder, trust_code: build_small_model("transformer"))
    options = RunOptions(results=tmp_path, data_directory=tmp_path)
    settings = {"run": "any", "lengths": [8, 12], "vocabulary_size": 100}
    rows = list(trained_rows.trained_signal_rows(settings, options))
    assert table(rows, "beyond_memory", "n", "training") == {(12, "before"): 1, (12, "after"): 1}
    norms = [row.conditions for row in rows if row.quantity == "norm"]
    assert {(one["n"], one["training"]) for one in norms} == {(8, "before"), (8, "after")}


@pytest.mark.parametrize("settings", [{"layer": layer("self-attention")}, {"model": "transformer"}])
def test_signals_beyond_memory_are_rows_beside_the_others(settings, monkeypatch):
    memory_for_eight_positions(monkeypatch)
    rows = list(signal_rows({**settings, "lengths": [8, 12]}))
    assert table(rows, "beyond_memory", "n") == {(12,): 1}
    assert {row.conditions["n"] for row in rows if row.quantity == "norm"} == {8}


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from benchmark.measure.layers import path_rows
layer = {"name": "self-attention", "width": 8}
rows = path_rows({"layer": layer, "lengths": [16, 16384], "matrix_length": 0})
print([(row.quantity, row.conditions["n"]) for row in rows])
"""


def test_an_allocation_that_fails_is_a_row_beside_the_others():
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("('leaks', 16), ('beyond_memory', 16384)]\n")


def test_memory_of_attention_grows_with_the_square():
    attention = build_layer({"name": "self-attention", "width": 8})
    needed = [forward_bytes(attention, 1, length, 8) for length in (512, 1024)]
    assert 3 < needed[1] / needed[0] < 4.5
    assert forward_bytes(attention, 2, 512, 8) == 2 * needed[0]
    recurrent = build_layer({"name": "recurrent", "width": 8})
    saved = [saved_bytes(recurrent, length, 8) for length in (128, 256)]
    assert 1.5 < saved[1] / saved[0] < 2.5


def test_times_of_every_layer_with_the_first_one_twice():
    sampled = []
    settings: dict[str, Any] = {
        "layers": {"attention": {"name": "self-attention"}, "lstm": {"name": "recurrent", "fused": False}},
        "lengths": [4, 8],
        "width": 8,
        "tokens": 16,
        "rounds": 6,
        "seed": 0,
    }
    rows = list(time_rows(settings, CPU, lambda: sampled.append(1)))
    assert {row.conditions["layer"] for row in rows} == {"attention", "lstm", "attention again"}
    assert len(rows) == 3 * 2 * 2 * 2
    for row in rows:
        low, high = ends(row)
        assert len(row.samples) == 6 and low <= row.value <= high
        assert row.conditions["batch"] == (16 // number(row, "n") if row.conditions["full"] else 1)
    assert len(sampled) == len(rows) * 8


def test_forward_passes_are_timed_in_evaluation_mode_and_those_with_backward_in_training(monkeypatch):
    """In any order, of layers that take part in both; the first calls, which are in no row, as well."""
    modes = []

    class Noting(SelfAttention):
        def forward(self, x):
            if not x.is_meta:  # where memory is asked for
                modes.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    monkeypatch.setitem(LAYERS, "self-attention", Noting)
    settings: dict[str, Any] = {"layers": {"a": {"name": "self-attention"}}, "lengths": [4], "width": 8}
    list(time_rows({**settings, "tokens": 8, "rounds": 6, "seed": 0}, CPU, lambda: None))
    assert set(modes) == {(False, False), (True, True)}


def test_utilisation_is_a_share_of_a_peak_of_the_same_rounds(monkeypatch):
    monkeypatch.setattr(speed, "PEAK_SIZE", 128)
    sampled = []
    settings: dict[str, Any] = {
        "layers": {"attention": {"name": "self-attention"}, "lstm": {"name": "recurrent"}},
        "length": 8,
        "batches": [1, 4],
        "width": 8,
        "rounds": 6,
        "seed": 0,
    }
    peak, *rows = utilisation_rows(settings, CPU, lambda: sampled.append(1))
    assert len(sampled) == (len(rows) + 1) * 8, "in six rounds and two before them"
    assert peak.quantity == "peak" and peak.value > 0 and len(peak.samples) == 6
    assert {(row.conditions["layer"], row.conditions["batch"]) for row in rows} == {
        (name, batch) for name in settings["layers"] for batch in (1, 4)
    }
    for row in rows:
        low, high = ends(row)
        assert row.quantity == "utilisation" and 0 < low <= row.value <= high and len(row.samples) == 6


class FakeWatch:
    """A machine on which something was seen."""

    def __init__(self, **_):
        self.samples = 0

    def start(self):
        pass

    def sample(self):
        self.samples += 1

    def stop(self):
        return SimpleNamespace(noisy=True, reasons=(f"something at {min(self.samples, 1)} sample",))


def test_a_record_of_times_is_marked_with_what_the_machine_did(monkeypatch, tmp_path):
    monkeypatch.setattr(layer_records, "MachineWatch", FakeWatch)
    timed: dict[str, Any] = {"layers": {"a": {"name": "self-attention"}}, "lengths": [4], "width": 8}
    asks = {
        "time": {**timed, "tokens": 8, "rounds": 6, "seed": 0},
        "span": {"layer": layer("convolution"), "lengths": [4], "backward_to": 4},
    }
    threads = torch.get_num_threads()
    options = RunOptions(results=tmp_path, data_directory=tmp_path, device="cpu", threads=threads)
    records = {
        kind: layer_records.measured(
            {"kind": kind, "run_id": "0" * 16, "subject": "a", "experiment": settings}, options
        )
        for kind, settings in asks.items()
    }
    assert (records["time"].noisy, records["time"].noise) == (True, ["something at 1 sample"])
    method = records["time"].timing_method
    assert method is not None and "after 2 warm-up rounds; 6 interleaved, shuffled rounds, none of" in method
    assert (records["span"].noisy, records["span"].noise, records["span"].timing_method) == (None, [], None)


def test_lengths_are_counted():
    import numpy as np

    rows = list(lengths_rows({"source": np.array([3, 3, 5]), "target": np.array([4])}))
    assert table(rows, "sentences", "side", "n") == {("source", 3): 2, ("source", 5): 1, ("target", 4): 1}
