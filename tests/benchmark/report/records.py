"""Records as a study would have left them, for the tests of reports."""

from benchmark.record import LayerRecord, Provenance, Score, SpeedRecord, SpeedRow, TrainRecord

BLEU = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
CHRF = "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"


def provenance(**fields):
    return Provenance(
        **{
            "commit": "c" * 40,
            "dirty": False,
            "seqbench_version": "0.1.0",
            "harness_version": 1,
            "device": "A Processor @ 2.00GHz",
            "device_memory_bytes": None,
            "devices": 1,
            "processor": "A Processor @ 2.00GHz",
            "processor_features": ["avx2"],
            "cores": 2,
            "threads": 2,
            "memory_bytes": 2**33,
            "platform": "Linux 6 x86_64",
            "precision": "float32",
            "python_version": "3.11.2",
            "torch_version": "2.13.0+cpu",
            "lightning_version": "2.6.6",
            "numpy_version": "2.4.6",
            "sacrebleu_version": "2.6.0",
            "sentencepiece_version": "0.2.3",
            "environment": {},
            **fields,
        }
    )


def scores(values, *, bleu_signature=BLEU, sentences=1000):
    """Scores by (split, metric)."""
    signatures = {"bleu": bleu_signature, "chrf": CHRF}
    return [
        Score(
            split=split,
            metric=metric,
            value=value,
            signature=signatures.get(metric, "v1"),
            sentences=sentences,
        )
        for (split, metric), value in values.items()
    ]


def train_record(run_id, model="transformer-small", *, seed=0, experiment=None, **fields):
    document = {
        "model": {"name": model.partition("-")[0], "width": 128},
        "task": {"name": "multi30k", "language_pair": "en-de"},
        "data": {"batch_tokens": 768},
        "training": {"steps": 5000, "learning_rate": 0.001, "precision": "float32"},
        "seed": seed,
    }
    for section, values in (experiment or {}).items():
        document[section] = {**document.get(section, {}), **values}
    status = fields.get("status", "done")
    measured = {
        "parameters": 4_012_345,
        "body_parameters": 2_987_654,
        "steps": 5000,
        "train_seconds": 721.5,
        "train_target_tokens_per_second": 4001.7,
        "generate_sentences_per_second": 251.2,
        "peak_memory_bytes": 1234 * 2**20,
    }
    return TrainRecord(
        **{
            "run_id": run_id,
            "study": "a-study",
            "model_preset": model,
            "model_name": model.partition("-")[0],
            "model_version": 1,
            "task_preset": "multi30k-en-de",
            "task_name": "multi30k",
            "task_version": 1,
            "seed": seed,
            "experiment": document,
            "provenance": provenance(),
            "status": "done",
            **(measured if status == "done" else {}),
            **fields,
        }
    )


def speed_record(run_id="5" * 16, **fields):
    def row(model, phase, quantity, value, low, high, **conditions):
        ends = {"low": low, "high": high, "rounds": 12, "conditions": conditions}
        return SpeedRow(model=model, phase=phase, quantity=quantity, value=value, unit="1", **ends)

    rate, words = "target_tokens_per_second", "generate 64 words, batch 32"
    rows = [
        row("device", "peak", "operations_per_second", 1.8e11, 1.7e11, 1.9e11),
        row("transformer-small", "train", rate, 4001.7, 3950.0, 4050.0),
        row("lstm-small", "train", rate, 4400.0, 4350.0, 4450.0),
        row("lstm-small", "train", "speed_ratio", 1.0995, 1.081, 1.12, baseline="transformer-small"),
        row("transformer-small", "train", "speed_ratio", 1.2, 1.15, 1.25, baseline="plain form"),
        row("transformer-small", "train", "share_of_matrix_product_limit", 0.61, 0.6, 0.62),
        row("transformer-small", "train again", "noise_floor", 1.0123, 0.99, 1.03, baseline="itself"),
        row("transformer-small", words, rate, 6000.0, 5900.0, 6100.0),
        row("transformer-small", words, "speed_ratio", 6.4, 6.2, 6.6, baseline="whole prefix"),
    ]
    return SpeedRecord(
        **{
            "run_id": run_id,
            "study": "a-study",
            "task_preset": "multi30k-en-de",
            "task_name": "multi30k",
            "task_version": 1,
            "status": "done",
            "provenance": provenance(),
            "rows": rows,
            "timing_method": "perf_counter, median of rounds",
            **fields,
        }
    )


def layer_record(number, kind, **fields):
    given = {"status": "done", "provenance": provenance(), "timing_method": "the clock; 9 rounds", **fields}
    return LayerRecord(run_id=f"{number:016x}", study="a-study", kind=kind, **given)
