"""Generation, greedy and with a beam, through `start`, `decode_step` and `logits` alone.

Sentences leave the batch when they are finished, so that the time goes to the ones that are not. Letters in
shapes: B sentences still open, K beam, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models import BEGIN, END, PADDING, UNKNOWN, Seq2SeqModel

NEVER_PRODUCED = (PADDING, BEGIN, UNKNOWN)


class Hypothesis(NamedTuple):
    """A finished sentence: its words without END, and the log-probability of words and END in nats."""

    words: list[int]
    log_probability: float


def _scores(model: Seq2SeqModel, hidden: Tensor) -> Tensor:
    """Logits (..., V) in float32 with the words that no sentence holds ruled out."""
    logits = model.logits(hidden).float()
    logits[..., list(NEVER_PRODUCED)] = -torch.inf
    return logits


@torch.inference_mode()
def greedy(model: Seq2SeqModel, source: Tensor, source_mask: Tensor, *, extra_length: int) -> list[list[int]]:
    """The likeliest word at each step. Words without END, a list for each sentence.

    `source` (B, S) int64, `source_mask` (B, S) bool. A sentence has at most as many words as its source (END
    included) plus `extra_length` (Vaswani et al. 2017, section 6.1).
    """
    device = source.device
    limit = source_mask.sum(1) + extra_length
    produced = torch.full((len(source), int(limit.max())), END, device=device)
    state = model.start(model.encode(source, source_mask))
    rows = torch.arange(len(source), device=device)
    token = torch.full((len(source),), BEGIN, device=device)
    finished = torch.zeros(len(source), dtype=torch.bool, device=device)
    for step in range(produced.shape[1]):
        hidden, state = model.decode_step(token, state)
        token = _scores(model, hidden).argmax(-1)
        produced[rows, step] = torch.where(finished, END, token)
        finished = finished | (token == END) | (limit[rows] <= step + 1)
        closed = int(finished.sum())
        if closed == len(rows):
            break
        if closed * 8 >= len(
            rows
        ):  # copying the state for every single sentence would cost more than it saves
            keep = (~finished).nonzero().squeeze(-1)
            state, rows, token, finished = state.select(keep), rows[keep], token[keep], finished[keep]
    sentences = produced.tolist()
    return [words[: words.index(END)] if END in words else words for words in sentences]


def length_penalty(length: int | Tensor, alpha: float) -> float | Tensor:
    """What log-probabilities are divided by (Wu et al. 2016, equation 14): ((5 + length) / 6) ** alpha."""
    return ((5 + length) / 6) ** alpha


@torch.inference_mode()
def beam_search(
    model: Seq2SeqModel, source: Tensor, source_mask: Tensor, *, beam: int, alpha: float, extra_length: int
) -> list[Hypothesis]:
    """The best finished hypothesis of a beam of `beam`, a list with one for each sentence.

    Hypotheses are ranked by log-probability over `length_penalty`, length counted with END. A sentence leaves
    when its `beam` finished hypotheses cannot be overtaken by any that is still open; one cut off at its
    length limit counts as finished without END, and only where nothing else finished.
    """
    device = source.device
    sentences = len(source)
    limit = (source_mask.sum(1) + extra_length).tolist()
    state = model.start(model.encode(source, source_mask))
    state = state.select(torch.arange(sentences, device=device).repeat_interleave(beam))
    rows = list(range(sentences))  # which sentence each group of K rows works on
    token = torch.full((sentences * beam,), BEGIN, device=device)
    # At the start all K rows of a sentence are equal: only the first may speak.
    total = torch.full((sentences, beam), -torch.inf, device=device)
    total[:, 0] = 0.0
    words = torch.empty((sentences, beam, 0), dtype=torch.int64, device=device)
    finished: list[list[tuple[float, Hypothesis]]] = [[] for _ in range(sentences)]

    for step in range(1, max(limit) + 1):
        hidden, state = model.decode_step(token, state)
        scores = _scores(model, hidden)
        scores = scores - scores.logsumexp(-1, keepdim=True)
        vocabulary_size = scores.shape[-1]
        candidates = (total[:, :, None] + scores.view(len(rows), beam, -1)).flatten(1)  # (B, K V)
        # Each open hypothesis can end once, so 2 K candidates hold at least K that go on.
        best, where = candidates.topk(2 * beam, -1)
        origin, next_word = where // vocabulary_size, where % vocabulary_size  # (B, 2 K)
        ends = next_word == END

        penalty = float(length_penalty(step, alpha))
        best_list, origin_list, ends_list = best.tolist(), origin.tolist(), ends.tolist()
        for row, sentence in enumerate(rows):
            for rank in range(
                beam
            ):  # END below the first K ranks is dropped, as in the reference implementations
                if ends_list[row][rank] and best_list[row][rank] > -torch.inf:
                    prefix = words[row, origin_list[row][rank]].tolist()
                    log_probability = best_list[row][rank]
                    finished[sentence].append(
                        (log_probability / penalty, Hypothesis(prefix, log_probability))
                    )

        best = best.masked_fill(ends, -torch.inf)
        total, chosen = best.topk(beam, -1)  # (B, K)
        origin, next_word = origin.gather(1, chosen), next_word.gather(1, chosen)
        words = torch.cat(
            (words.gather(1, origin[:, :, None].expand(-1, -1, words.shape[-1])), next_word[:, :, None]), -1
        )

        keep = []
        best_open = total[:, 0].tolist()
        for row, sentence in enumerate(rows):
            done = finished[sentence]
            if step >= limit[sentence]:
                if not done:
                    log_probability = best_open[row]
                    done.append(
                        (log_probability / penalty, Hypothesis(words[row, 0].tolist(), log_probability))
                    )
                continue
            # Log-probabilities only fall, and the penalty is largest at the limit: no open hypothesis can
            # pass this.
            bound = best_open[row] / float(length_penalty(limit[sentence], alpha))
            if len(done) >= beam and sorted(score for score, _ in done)[-beam] >= bound:
                continue
            keep.append(row)
        if not keep:
            break
        kept = torch.tensor(keep, device=device)
        origin, next_word, total, words = origin[kept], next_word[kept], total[kept], words[kept]
        rows = [rows[row] for row in keep]
        state = state.select((kept[:, None] * beam + origin).flatten())
        token = next_word.flatten()
    return [max(done, key=lambda pair: pair[0])[1] for done in finished]
