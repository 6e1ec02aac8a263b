"""Words into vectors and back: shared by all, so that architectures differ in encoder and decoder alone."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import PADDING
from models.layers.dropout import Dropout


def sinusoids(length: int, width: int) -> Tensor:
    """Position encodings (length, width) (Vaswani et al. 2017, section 3.5): sine at even channels, cosine at
    odd.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10_000.0) / width))
    table = torch.zeros(length, width, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency[: width // 2])
    return table.float()


class Positions(nn.Module):
    """One vector for each of `maximum_length` positions, learned or sinusoidal."""

    def __init__(
        self, maximum_length: int, width: int, *, learned: bool, standard_deviation: float = 0.1
    ) -> None:
        super().__init__()
        self.table: Tensor
        if learned:
            self.table = nn.Parameter(torch.randn(maximum_length, width) * standard_deviation)
        else:
            self.register_buffer("table", sinusoids(maximum_length, width), persistent=False)

    def forward(self, length: int, first: int = 0) -> Tensor:
        """Vectors (length, width) of positions `first`, `first` + 1, ...; ValueError beyond the table."""
        if first + length > len(self.table):
            raise ValueError(
                f"model.maximum_length: a sentence needs {first + length} positions and the model has "
                f"{len(self.table)}; raise it, or lower data.maximum_tokens"
            )
        return self.table[first : first + length]


class _CrossEntropy(torch.autograd.Function):
    """Projection and cross-entropy in one: gradients are made in the forward pass, chunk by chunk.

    With p = softmax(h W^T), e the smoothing and V words, d loss / d logits = p - e / V - (1 - e) onehot. The
    constant part needs no pass over the logits: it reaches the gradients of h and W as sums of W and of h,
    and the sum of the logits themselves is h times the sum of W.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, smoothing: float, chunk: int
    ) -> Tensor:
        share = smoothing / weight.shape[0]
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        matrix = weight.to(hidden.dtype)
        # Sums are taken in float32 at least: half precision cannot count that far.
        accurate = torch.promote_types(hidden.dtype, torch.float32)
        weight_sum = matrix.to(accurate).sum(0)
        hidden_sum = hidden.to(accurate).sum(0)
        loss = -share * (hidden_sum @ weight_sum) if smoothing else hidden.new_zeros((), dtype=accurate)
        hidden_gradient = torch.empty_like(hidden) if needs_gradient else None
        weight_gradient = torch.zeros_like(weight) if needs_gradient else None
        for begin in range(0, hidden.shape[0], chunk):
            part, word = hidden[begin : begin + chunk], target[begin : begin + chunk, None]
            logits = (part @ matrix.t()).to(accurate)
            probability = torch.softmax(logits, -1)
            # The largest probability is at least 1 / V, so its logarithm is safe; that of the word is not.
            log_normaliser = logits.amax(-1) - probability.amax(-1).log()
            loss = loss + log_normaliser.sum() - (1 - smoothing) * logits.gather(1, word).sum()
            if hidden_gradient is None or weight_gradient is None:
                continue
            probability.scatter_add_(1, word, probability.new_full((len(word), 1), smoothing - 1))
            gradient = probability.to(part.dtype)
            torch.mm(gradient, matrix, out=hidden_gradient[begin : begin + chunk])
            if weight_gradient.dtype == part.dtype:
                weight_gradient.addmm_(gradient.t(), part)
            else:  # chunks are summed in the precision of the weights, whatever that of the products
                weight_gradient += gradient.t() @ part
        if smoothing and hidden_gradient is not None and weight_gradient is not None:
            hidden_gradient -= (share * weight_sum).to(hidden.dtype)
            weight_gradient -= (share * hidden_sum).to(weight.dtype)
        ctx.save_for_backward(hidden_gradient, weight_gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        scale = gradient[0]
        return hidden_gradient * scale, weight_gradient * scale, None, None, None


def cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, smoothing: float, chunk: int = 1024
) -> Tensor:
    """Sum of label-smoothed cross-entropies in nats of `target` (N,) given logits `hidden @ weight.t()`.

    `hidden` (N, D), `weight` (V, D). Memory is one `chunk` of logits in place of three times all of them.
    Backward works once only in the sense of autograd: no second derivatives. Under autocast the products run
    in its precision, the normaliser and the sums in float32.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        precision = torch.get_autocast_dtype(hidden.device.type)
        hidden = hidden.to(precision)
    with torch.autocast(hidden.device.type, enabled=False):
        return _CrossEntropy.apply(hidden, weight, target, smoothing, chunk)


def cross_entropy_without_waiting(hidden: Tensor, weight: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """`cross_entropy` of the words in `target`, whose padding counts nothing.

    To leave padding out, an accelerator would have to wait until the program knows how much there is. Here
    its vectors are zero: each adds the logarithm of V, without a gradient, which is taken off again.
    """
    is_word = target != PADDING
    total = cross_entropy(hidden * is_word[:, None], weight, target, smoothing)
    return total - (~is_word).sum().to(total.dtype) * math.log(len(weight))


class Words(nn.Module):
    """The vocabulary-sized matrices: source and target embedding, and the output projection, tied or apart.

    Tied (Press and Wolf 2017; Vaswani et al. 2017, section 3.4), one matrix serves all three uses. Embeddings
    are drawn from N(0, `standard_deviation`^2), by default 1 / width, and multiplied by `scale` on the way
    in, by default sqrt(width), which gives them unit variance there and logits of unit variance on the way
    out.
    """

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        *,
        tied: bool,
        dropout: float,
        standard_deviation: float | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        deviation = width**-0.5 if standard_deviation is None else standard_deviation
        self.scale = math.sqrt(width) if scale is None else scale

        def matrix() -> nn.Parameter:
            return nn.Parameter(torch.randn(vocabulary_size, width) * deviation)

        self.source = matrix()
        self.target = self.source if tied else matrix()
        self.output = self.source if tied else matrix()
        self.dropout = Dropout(dropout)

    def embed_source(self, words: Tensor, positions: Tensor | None = None) -> Tensor:
        """(..., D) from ids (...), with `positions` added where given, after dropout."""
        return self._embed(words, self.source, positions)

    def embed_target(self, words: Tensor, positions: Tensor | None = None) -> Tensor:
        """(..., D) from ids (...), with `positions` added where given, after dropout."""
        return self._embed(words, self.target, positions)

    def _embed(self, words: Tensor, matrix: Tensor, positions: Tensor | None) -> Tensor:
        vectors = F.embedding(words, matrix) * self.scale
        return self.dropout(vectors if positions is None else vectors + positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., V) from (..., D)."""
        return F.linear(hidden, self.output)

    def cross_entropy(self, hidden: Tensor, target_out: Tensor, label_smoothing: float) -> Tensor:
        """`models.Seq2SeqModel.cross_entropy`, fused."""
        flat, words = hidden.flatten(0, -2), target_out.flatten()
        if hidden.device.type != "cpu":
            return cross_entropy_without_waiting(flat, self.output, words, label_smoothing)
        real = (words != PADDING).nonzero().squeeze(-1)
        if len(real) < len(words):
            flat, words = flat.index_select(0, real), words.index_select(0, real)
        return cross_entropy(flat, self.output, words, label_smoothing)
