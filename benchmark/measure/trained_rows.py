"""What is measured of trained runs, before training and after: where they look, what reaches the answer."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmark.config import RunOptions, experiment_from
from benchmark.measure.attention_maps import (
    REACH,
    AttentionMap,
    attention_maps,
    entropy,
    head_divergence,
    offset_shares,
)
from benchmark.measure.layers import if_it_fits, model_profiles, profile_rows
from benchmark.measure.signal import BATCH, GROUPS, model_signal
from benchmark.record import Row
from benchmark.trained import run_folder, trained_model, trained_record, untrained_model
from benchmark.trainer import corpus_of
from models import BEGIN, Seq2SeqModel
from tasks.data.corpus import Corpus, Split
from tasks.data.vocabulary import SPECIAL, Vocabulary

Settings = Mapping[str, Any]


def trained_signal_rows(settings: Settings, options: RunOptions) -> Iterator[Row]:
    """Of a `run` before its training and after.

    With a test `split`: from the source of its pairs, those of the most common length, to the first word of
    the target. Else from random words at `lengths`.

    Raises:
        UserError: the run is not done, or its weights are not there.
    """
    for training, model in _models(settings, options).items():
        if "split" in settings:
            split = _corpus(settings, options).splits[settings["split"]]
            pairs = _of_one_length([_pair(split, number) for number in range(len(split))])
            pairs = [pairs[number % len(pairs)] for number in range(GROUPS * BATCH)]
            source, target = (torch.stack([pair[side] for pair in pairs]) for side in (0, 2))
            conditions = {"n": source.shape[1], "from": "source", "training": training}
            for profile in model_signal(model, source, target, [0], side="source"):
                yield from profile_rows(profile, {**conditions, "output": 0})
            continue
        for length in settings["lengths"]:
            conditions = {"n": length, "training": training}
            rows = partial(_rows_of_random_words, model, settings["vocabulary_size"], conditions)
            yield from if_it_fits(conditions, rows)


def _rows_of_random_words(model: Seq2SeqModel, words: int, conditions: dict[str, Any]) -> Iterator[Row]:
    length = conditions["n"]
    for side, profile in model_profiles(model, words, length, [length // 2, length - 1]):
        yield from profile_rows(profile, {**conditions, "output": profile.output, **side})


def _models(settings: Settings, options: RunOptions) -> dict[str, Seq2SeqModel]:
    """The model of a run before its training and after."""
    folder, trust_code = run_folder(settings["run"], options.results), options.trust_code
    return {
        "before": untrained_model(folder, trust_code=trust_code),
        "after": trained_model(folder, trust_code=trust_code),
    }


def _corpus(settings: Settings, options: RunOptions) -> Corpus:
    """The data that a run was trained on."""
    record = trained_record(run_folder(settings["run"], options.results))
    experiment = experiment_from(record.experiment, files_allowed=options.trust_code)
    return corpus_of(experiment, options.data_directory, options.cache_directory)[1]


def attention_rows(settings: Settings, options: RunOptions) -> Iterator[Row]:
    """Of a trained `run`: how its heads differ on `sentences` pairs of a test `split`, before training and
    after; and all weights on the first of these pairs.

    Raises:
        UserError: the run is not done, or its weights are not there.
    """
    corpus = _corpus(settings, options)
    split = corpus.splits[settings["split"]]
    pairs = [_pair(split, number)[:2] for number in range(min(settings["sentences"], len(split)))]
    # keys tell source from target by their number
    pairs = [(source, target) for source, target in pairs if len(source) != len(target)]
    models = _models(settings, options)
    for when, model in models.items():
        every = [attention_maps(model, source, target) for source, target in pairs]
        yield from _differences(every, when)
    if pairs:
        source, target = pairs[0]
        words = [[_word(corpus.vocabulary, index) for index in side.tolist()] for side in (source, target)]
        yield from _shown(attention_maps(models["after"], source, target), *words)


def _pair(split: Split, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Source, target as the decoder reads it, whose end is only to be written, and target as it is."""
    source, target = (torch.from_numpy(side[number].astype("int64")) for side in (split.source, split.target))
    return source, torch.cat((torch.tensor([BEGIN]), target[:-1])), target


def _of_one_length(pairs: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Those of the most common lengths, of sources and targets."""
    lengths = Counter((len(pair[0]), len(pair[2])) for pair in pairs)
    most = max(lengths, key=lambda length: (lengths[length], length))
    return [pair for pair in pairs if (len(pair[0]), len(pair[2])) == most]


def _word(vocabulary: Vocabulary, index: int) -> str:
    return SPECIAL[index] if index < len(SPECIAL) else vocabulary.decode([index])


def _differences(every: Sequence[Sequence[AttentionMap]], when: str) -> Iterator[Row]:
    """Of each attention with several heads: how far they are apart, and what each does most."""
    with_heads = [[one for one in maps if len(one.weights) > 1] for maps in every]
    for maps in zip(*with_heads, strict=True):
        part, layer, heads = maps[0].part, maps[0].layer, len(maps[0].weights)
        where = {"part": part, "layer": layer, "training": when}
        samples = [head_divergence(one.weights) for one in maps]
        yield Row(
            quantity="head divergence", value=statistics.fmean(samples), unit="bits", samples=samples,
            conditions={**where, "heads": heads},
        )  # fmt: skip
        bits = [float(entropy(one.weights.double()).mean()) for one in maps]
        yield Row(
            quantity="entropy of a head", value=statistics.fmean(bits), unit="bits", samples=bits,
            conditions={**where, "heads": heads},
        )  # fmt: skip
        if part != "encoder":  # a target of one word has no distances
            continue
        shares = torch.stack([offset_shares(one.weights) for one in maps]).mean(0)
        for head, (share, column) in enumerate(zip(*(x.tolist() for x in shares.max(-1)), strict=True), 1):
            yield Row(
                quantity="share at one distance", value=share, unit="share",
                conditions={**where, "head": head, "offset": column - REACH},
            )  # fmt: skip


def _shown(maps: Sequence[AttentionMap], source: list[str], target: list[str]) -> Iterator[Row]:
    """The words of a pair, and for each head and query its weights on them, with their entropy."""
    words: dict[str, Any] = {"source": source, "target": target}
    yield Row(quantity="words", value=len(source) + len(target), unit="words", conditions=words)
    for one in maps:
        for head, rows in enumerate(one.weights, 1):
            for query, weights in enumerate(rows):
                yield Row(
                    quantity="attention",
                    value=float(entropy(weights.double())),
                    unit="bits",
                    samples=[round(weight, 4) for weight in weights.tolist()],
                    conditions={"part": one.part, "layer": one.layer, "head": head, "query": query},
                )
