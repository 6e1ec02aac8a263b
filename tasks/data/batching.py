"""Which pairs form a batch, and in what order: a function of lengths, budget, seed and epoch alone.

Pairs are sorted by the length of their longer side, then of their target, then roughly of their source;
equals in an order drawn from (seed, epoch). That sequence is cut into batches of sentences x longest side <=
the budget, and the batches are shuffled. Since the longer sides in the sorted sequence are the same in every
epoch, so is the number of batches. On Multi30k en-de with 768 tokens 2.0 % of the positions are padding, 4.4
% if the source plays no part.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tasks import Batch
from tasks.data.corpus import LONGEST_TOKENS, Sentences, Split
from tasks.data.vocabulary import BEGIN, PADDING

LENGTH_BITS = LONGEST_TOKENS.bit_length()
"""Three lengths of 14 bits leave 22 bits of the sort key for chance."""


class Shapes(NamedTuple):
    """What N global batches look like, each (N,) int64."""

    sentences: NDArray[np.int64]
    source_length: NDArray[np.int64]
    """Of the longest source, END included."""
    target_length: NDArray[np.int64]
    target_tokens: NDArray[np.int64]
    """Words of the targets, END included, padding left out."""


@dataclass(frozen=True)
class Plan:
    """The batches of one epoch, in order."""

    order: NDArray[np.int32]
    """(N,) pairs, sorted by length."""
    starts: NDArray[np.int32]
    """(B,) where in `order` each batch begins."""
    ends: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The pairs of one batch."""
        return self.order[self.starts[number] : self.ends[number]]


@dataclass(frozen=True)
class Batching:
    """Batches of a split, sorted and cut once; `epoch` orders them."""

    source_lengths: NDArray[np.int32]
    target_lengths: NDArray[np.int32]
    boundaries: NDArray[np.int32]
    """(B + 1,) positions in the sorted sequence."""
    seed: int

    def __len__(self) -> int:
        """Batches of an epoch, the same in each."""
        return len(self.boundaries) - 1

    def epoch(self, epoch: int) -> Plan:
        """Order of one epoch, shuffled."""
        random = np.random.PCG64(np.random.SeedSequence([self.seed, epoch]))
        order = _sorted(self.source_lengths, self.target_lengths, random)
        # Raw words of the generator, whose stream numpy promises to keep; its `shuffle` may change.
        batches = np.argsort(random.random_raw(len(self)), kind="stable")
        return Plan(order, self.boundaries[:-1][batches], self.boundaries[1:][batches])

    def shapes(self, steps: int) -> Shapes:
        """Of the batches of the first `steps` steps."""
        parts = [self._shapes(self.epoch(epoch)) for epoch in range(-(-steps // len(self)))]
        return Shapes(*(np.concatenate(values)[:steps] for values in zip(*parts, strict=True)))

    def _shapes(self, plan: Plan) -> Shapes:
        source, target = self.source_lengths[plan.order], self.target_lengths[plan.order]
        # `reduceat` sums from each index to the next one, and batches lie end to end in the sorted sequence.
        cuts = self.boundaries[:-1]
        number = np.searchsorted(cuts, plan.starts)
        return Shapes(
            sentences=(plan.ends - plan.starts).astype(np.int64),
            source_length=np.maximum.reduceat(source, cuts)[number].astype(np.int64),
            target_length=np.maximum.reduceat(target, cuts)[number].astype(np.int64),
            target_tokens=np.add.reduceat(target, cuts, dtype=np.int64)[number],
        )

    def in_order(self) -> Plan:
        """Every pair once, longest batch first, so that a batch too large for the device fails at once."""
        order = _sorted(self.source_lengths, self.target_lengths, None)
        return Plan(order, self.boundaries[:-1][::-1], self.boundaries[1:][::-1])


def by_tokens(split: Split, batch_tokens: int, seed: int) -> Batching:
    """Batches of sentences x longest side <= `batch_tokens`; a longer pair is a batch of its own."""
    if batch_tokens < 1:
        raise ValueError(f"data.batch_tokens: must be positive, got {batch_tokens}")
    source, target = split.source.lengths(), split.target.lengths()
    longest = memoryview(np.sort(np.maximum(source, target)).data)  # much faster to index than an array
    boundaries = [0]
    while (start := boundaries[-1]) < len(longest):
        # The cost of a batch grows with its end, for the sequence is sorted.
        end = bisect_right(
            range(start + 1, min(len(longest), start + batch_tokens // longest[start]) + 1),
            batch_tokens,
            key=partial(_positions, longest, start),
        )
        boundaries.append(start + max(1, end))
    return Batching(source, target, np.array(boundaries, np.int32), seed)


def _positions(longest: memoryview[int], start: int, end: int) -> int:
    return (end - start) * longest[end - 1]


def by_sentences(split: Split, batch_sentences: int) -> Batching:
    """Batches of `batch_sentences` pairs of about equal length."""
    if batch_sentences < 1:
        raise ValueError(f"evaluation.batch_sentences: must be positive, got {batch_sentences}")
    boundaries = np.array([*range(0, len(split), batch_sentences), len(split)], np.int32)
    return Batching(split.source.lengths(), split.target.lengths(), boundaries, 0)


def _sorted(
    source: NDArray[np.int32], target: NDArray[np.int32], random: np.random.PCG64 | None
) -> NDArray[np.int32]:
    """Pairs by (longer side, target, source // 2, chance); without chance, equals keep their order."""
    assert len(source) < 1 << 31
    assert max(source.max(), target.max()) < 1 << LENGTH_BITS
    chance = 64 - 3 * LENGTH_BITS
    key = np.maximum(source, target).astype(np.uint64) << np.uint64(chance + 2 * LENGTH_BITS)
    key |= target.astype(np.uint64) << np.uint64(chance + LENGTH_BITS)
    # In twos: more equals, so that the company of a sentence changes from epoch to epoch, for little padding.
    key |= (source >> 1).astype(np.uint64) << np.uint64(chance)
    if random is not None:
        key |= random.random_raw(len(source)) >> np.uint64(64 - chance)
    return np.argsort(key, kind="stable").astype(np.int32)


def collate(split: Split, pairs: NDArray[np.int32], *, rank: int, world: int) -> Batch:
    """The share of process `rank` of `world` in a global batch: rows rank, rank + world, ...

    A process without a row gets the first one with nothing to predict, so that it can take part in the step.
    """
    own = pairs[rank::world]
    rows = own if len(own) else pairs[:1]
    source, source_mask = _padded(split.source, rows)
    target_out, target_mask = _padded(split.target, rows)
    target_in = np.empty_like(target_out)
    target_in[:, 0] = BEGIN
    target_in[:, 1:] = target_out[:, :-1]
    target_in[~target_mask] = PADDING
    if not len(own):
        target_out[:] = PADDING
    source_lengths, target_lengths = _lengths(split.source, pairs), _lengths(split.target, pairs)
    return Batch(
        source=torch.from_numpy(source),
        source_mask=torch.from_numpy(source_mask),
        target_in=torch.from_numpy(target_in),
        target_out=torch.from_numpy(target_out),
        target_tokens=int(target_lengths.sum()),
        source_tokens=int(source_lengths.sum()),
        padded_tokens=len(pairs) * int(source_lengths.max() + target_lengths.max()),
        indices=pairs,
        own=own,
    )


def _lengths(sentences: Sentences, pairs: NDArray[np.int32]) -> NDArray[np.int64]:
    return sentences.offsets[pairs + 1] - sentences.offsets[pairs]


def _padded(sentences: Sentences, pairs: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Token ids (B, L), padded at the right, and where they are words."""
    starts = sentences.offsets[pairs]
    lengths = sentences.offsets[pairs + 1] - starts
    positions = np.arange(lengths.max())
    mask = positions < lengths[:, None]
    padded = np.full(mask.shape, PADDING, np.int64)
    padded[mask] = sentences.tokens[(starts[:, None] + positions)[mask]]
    return padded, mask
