"""What a run amounts to: scores of the weights that are kept, speed as run, curves, as records hold them."""

from __future__ import annotations

import gzip
import io
import json
import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Trainer

from benchmark import checkpoint
from benchmark.config import Experiment, RunOptions
from benchmark.evaluation import Generated, Process, generate, mean_loss, score
from benchmark.hypotheses import compress_lines, hypotheses_path, lines_sha256
from benchmark.measure.operations import training_operations
from benchmark.measure.quality import count_words, perplexity
from benchmark.measure.steps import StepLog
from benchmark.measure.timing import Clock
from benchmark.record import Score
from benchmark.store import write_atomic
from benchmark.study_texts import keep_texts, texts_folder
from models import Seq2SeqModel
from tasks import VALIDATION, Task
from tasks.data.corpus import Corpus
from tasks.data.module import DataModule


def resolved_precision(experiment: Experiment) -> Literal["float32", "bfloat16"]:
    precision = experiment.training.precision
    assert precision != "auto", "resolve the precision first"
    return precision


def parameters(experiment: Experiment, model: Seq2SeqModel, vocabulary_size: int) -> dict[str, int | None]:
    """Counted, except that which of them belong to the vocabulary is the closed form's word."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        theory = experiment.model.theory(vocabulary_size, 1, 1)
    except NotImplementedError:
        return {"parameters": parameters}
    return {
        "parameters": parameters,
        "body_parameters": parameters - theory.vocabulary_parameters,
        "vocabulary_parameters": theory.vocabulary_parameters,
    }


def data_counters(corpus: Corpus, task: Task) -> dict[str, int]:
    train = corpus.counters["train"]
    scored = (VALIDATION, *task.test_splits)
    return {
        "training_pairs": train["pairs"],
        "pairs_dropped_empty": train["dropped_empty"],
        "pairs_dropped_long": train["dropped_long"],
        "sources_truncated": sum(corpus.counters[split]["truncated_sources"] for split in scored),
        "targets_truncated": corpus.counters[VALIDATION]["truncated_targets"],
    }


def speed(log: StepLog, experiment: Experiment, data: DataModule) -> dict[str, Any]:
    """What the run's steps did and how fast, as run."""
    operations = None
    if log.losses:
        shapes = data.training.shapes(len(log.losses))
        operations = training_operations(experiment.model, len(data.corpus.vocabulary), shapes)
    target, source, padded = (log.total(name) for name in ("target_tokens", "source_tokens", "padded_tokens"))
    values: dict[str, Any] = {
        "steps": len(log.losses),
        "train_seconds": sum(log.seconds),
        "train_target_tokens": target,
        "train_source_tokens": source,
        "train_padded_tokens": padded,
        "train_sentences": log.total("sentences"),
        "operations_per_step": None if operations is None else float(operations.mean()),
        "padding_share": 1 - (target + source) / padded if padded else None,
        "warmup_steps_excluded": log.warm.count(False),
        "timing_method": f"{log.clock.name} around each step, data loading included; as run, "
        "rates are medians over windows of 20 steps",
    }
    throughput = log.throughput()
    if throughput is not None:
        values |= {
            "steady_state": throughput.steady_state,
            "warmup_steps_excluded": throughput.warmup_steps_excluded,
            "train_target_tokens_per_second": throughput.target_tokens_per_second,
            "train_target_tokens_per_second_p10": throughput.target_tokens_per_second_p10,
            "train_target_tokens_per_second_p90": throughput.target_tokens_per_second_p90,
            "train_source_and_target_tokens_per_second": throughput.source_and_target_tokens_per_second,
            "train_padded_tokens_per_second": throughput.padded_tokens_per_second,
            "train_sentences_per_second": throughput.sentences_per_second,
            "updates_per_second": throughput.updates_per_second,
            "step_seconds_median": throughput.step_seconds_median,
            "step_seconds_p10": throughput.step_seconds_p10,
            "step_seconds_p90": throughput.step_seconds_p90,
        }
    return values


def peak_memory_bytes(clock: Clock) -> int:
    """Of the accelerator, else of this process (resident set), until now."""
    if clock.on_cuda:
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def score_run(
    experiment: Experiment,
    task: Task,
    trainer: Trainer,
    model: Seq2SeqModel,
    averaged: Sequence[int],
    data: DataModule,
    run_folder: Path,
    options: RunOptions,
) -> dict[str, Any]:
    """Score the mean of the weights after the steps `averaged`; write what it produced. On every process."""
    folder = run_folder / "checkpoints"
    weights = checkpoint.average_weights(folder, averaged)
    model.load_state_dict(weights)
    device = torch.device(trainer.strategy.root_device)
    model.to(device)
    process = Process(
        device=device,
        rank=trainer.global_rank,
        world=trainer.world_size,
        precision=experiment.training.precision,
    )
    loss, tokens = mean_loss(model, data.val_dataloader(), process)
    scores: list[Score] = []
    hashes: dict[str, str] = {}
    outputs: list[Generated] = []
    splits = [VALIDATION, *(task.test_splits if experiment.evaluation.test else ())]
    for split in splits:
        output = generate(model, data, split, experiment.evaluation, process)
        _, references = data.corpus.texts(split)
        scores += score(split, task.metrics, output.hypotheses, references)
        if split != VALIDATION:
            outputs.append(output)
        if not trainer.is_global_zero:
            continue
        hashes[split] = lines_sha256(output.hypotheses)
        write_atomic(hypotheses_path(run_folder, split), compress_lines(output.hypotheses))
    if trainer.is_global_zero:
        checkpoint.save(weights, folder / checkpoint.AVERAGED)
        texts = texts_folder(
            options.results / options.study,
            experiment.document()["task"],
            version=experiment.task.version,
            fingerprint=task.fingerprint(),
        )
        keep_texts(texts, task, splits)
    _, references = data.corpus.texts(VALIDATION)
    per_word = None
    if not data.corpus.counters[VALIDATION]["truncated_targets"]:
        per_word = _finite(perplexity(loss * tokens, count_words(references)))
    seconds = sum(output.seconds for output in outputs)
    return {
        "validation_loss": loss,
        "validation_perplexity_per_token": _finite(perplexity(loss * tokens, tokens)),
        "validation_perplexity_per_word": per_word,
        "scores": scores,
        "hypotheses_sha256": hashes,
        "weights_sha256": checkpoint.weights_sha256(weights),
        "checkpoints_averaged": len(averaged),
        "generate_sentences_per_second": sum(len(o.hypotheses) for o in outputs) / seconds
        if outputs
        else None,
        "generate_target_tokens_per_second": sum(o.tokens for o in outputs) / seconds if outputs else None,
    }


def _finite(value: float) -> float | None:
    """None for what is too large for a number."""
    return value if math.isfinite(value) else None


def curves(log: StepLog) -> bytes:
    """Long rows of what has one value for each step, as gzipped JSON lines."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as file:
        for quantity, unit, values in (
            ("train_loss", "nats per target token", log.losses),
            ("step_seconds", "seconds", log.seconds),
            ("train_target_tokens", "tokens", log.counts["target_tokens"]),
        ):
            for step, value in enumerate(values, 1):
                row = {"quantity": quantity, "value": value, "unit": unit, "conditions": {"step": step}}
                file.write(json.dumps(row).encode() + b"\n")
    return buffer.getvalue()
