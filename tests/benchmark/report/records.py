"""Records as a study would have left them, for the tests of reports."""

from benchmark.record import Provenance, Score, SpeedRecord, SpeedRow, TrainRecord

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
    rows = [
        SpeedRow(
            model="transformer-small",
            phase="train",
            quantity="target_tokens_per_second",
            value=4001.7,
            unit="tokens/s",
            low=3950.0,
            high=4050.0,
            rounds=12,
        ),
        SpeedRow(
            model="lstm-small",
            phase="train",
            quantity="ratio_to transformer-small",
            value=0.8012,
            unit="1",
            low=0.781,
            high=0.822,
            rounds=12,
        ),
        SpeedRow(
            model="transformer-small",
            phase="train",
            quantity="a_a_noise_floor",
            value=0.0123,
            unit="1",
            conditions={"batch_tokens": 768},
        ),
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
