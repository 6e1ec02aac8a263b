"""The three architectures as PyTorch's own modules give them: what our forms are timed against.

Sizes, dropout and work are those of the model beside it; what differs is what a straightforward program would
use: `nn.Transformer`, `nn.Conv1d` with weight norm, `nn.LSTM` on packed sequences, `nn.Dropout`, all logits
at once, `F.cross_entropy` and an unfused Adam. `loss(batch, smoothing)` is the mean over words.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models import ModelConfig
from models.convs2s import Config as ConvS2SConfig
from models.layers.embedding import sinusoids
from models.layers.stack import Stack
from models.lstm import Config as LSTMConfig
from models.transformer import Config as TransformerConfig
from tasks import Batch


class Plain(nn.Module, ABC):
    def __init__(self, vocabulary_size: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, width)
        nn.init.normal_(self.embedding.weight, std=width**-0.5)
        self.output = nn.Linear(width, vocabulary_size, bias=False)
        self.output.weight = self.embedding.weight
        self.dropout = nn.Dropout(dropout)

    @abstractmethod
    def hidden(self, batch: Batch) -> Tensor:
        """(B, T, D) under teacher forcing."""

    def loss(self, batch: Batch, smoothing: float) -> Tensor:
        logits = self.output(self.hidden(batch))
        return F.cross_entropy(
            logits.flatten(0, 1), batch.target_out.flatten(), ignore_index=0, label_smoothing=smoothing
        )


class PlainTransformer(Plain):
    def __init__(self, config: TransformerConfig, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, config.width, config.dropout)
        with warnings.catch_warnings():  # that nested tensors do not go with pre-norm, which nobody asked for
            warnings.simplefilter("ignore")
            self.transformer = nn.Transformer(
                config.width,
                config.heads,
                config.encoder_layers,
                config.decoder_layers,
                config.feed_forward,
                config.dropout,
                batch_first=True,
                norm_first=config.norm == "pre",
            )
        for layer in (*self.transformer.encoder.layers, *self.transformer.decoder.layers):
            # nn.Transformer also drops attention weights and inner activations, which the paper does not
            # (section 5.4).
            layer.dropout.p = 0.0
            for part in layer.modules():
                if isinstance(part, nn.MultiheadAttention):
                    part.dropout = 0.0
        self.register_buffer("positions", sinusoids(config.maximum_length, config.width))
        self.scale = math.sqrt(config.width)

    def _embed(self, words: Tensor) -> Tensor:
        positions = self.get_buffer("positions")[: words.shape[1]]
        return self.dropout(self.embedding(words) * self.scale + positions)

    def hidden(self, batch: Batch) -> Tensor:
        length = batch.target_in.shape[1]
        future = torch.ones(length, length, dtype=torch.bool, device=batch.target_in.device).triu(1)
        padding = ~batch.source_mask
        decoded: Tensor = self.transformer(
            self._embed(batch.source),
            self._embed(batch.target_in),
            tgt_mask=future,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return decoded


class _PlainBlock(nn.Module):
    def __init__(self, inputs: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.convolution = weight_norm(nn.Conv1d(inputs, 2 * channels, kernel))
        self.widen = nn.Identity() if inputs == channels else weight_norm(nn.Linear(inputs, channels))

    def forward(self, padded: Tensor) -> Tensor:
        """(B, C, T) from (B, in, T + k - 1)."""
        return F.glu(self.convolution(padded), 1)


class PlainConvS2S(Plain):
    def __init__(self, config: ConvS2SConfig, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, config.width, config.dropout)
        self.source_positions = nn.Embedding(config.maximum_length, config.width)
        self.target_positions = nn.Embedding(config.maximum_length, config.width)
        self.kernels = {
            side: [kernel for _, kernel in config.blocks(side)] for side in ("encoder", "decoder")
        }
        self.ends = nn.ModuleDict()
        stacks = {}
        for side in ("encoder", "decoder"):
            inputs = config.blocks(side)[0][0]
            self.ends[f"{side}_in"] = weight_norm(nn.Linear(config.width, inputs))
            blocks = []
            for channels, kernel in config.blocks(side):
                blocks.append(_PlainBlock(inputs, channels, kernel))
                inputs = channels
            stacks[side] = Stack(blocks)
            self.ends[f"{side}_out"] = weight_norm(nn.Linear(inputs, config.width))
        self.encoder, self.decoder = stacks["encoder"], stacks["decoder"]
        decoder = [channels for channels, _ in config.blocks("decoder")]
        self.queries = Stack(weight_norm(nn.Linear(channels, config.width)) for channels in decoder)
        self.contexts = Stack(weight_norm(nn.Linear(config.width, channels)) for channels in decoder)

    def _embed(self, words: Tensor, positions: nn.Embedding) -> Tensor:
        return self.dropout(self.embedding(words) + positions.weight[: words.shape[1]])

    def hidden(self, batch: Batch) -> Tensor:
        half = math.sqrt(0.5)
        embedded = self._embed(batch.source, self.source_positions)
        words = batch.source_mask[:, :, None]
        x = self.ends["encoder_in"](embedded)
        for block, kernel in zip(self.encoder, self.kernels["encoder"], strict=True):
            padded = F.pad((self.dropout(x) * words).transpose(1, 2), (kernel // 2, kernel // 2))
            x = (block(padded).transpose(1, 2) + block.widen(x)) * half
        key = self.ends["encoder_out"](x)
        value = (key + embedded) * half
        lengths = batch.source_mask.sum(1)[:, None, None]
        embedded = self._embed(batch.target_in, self.target_positions)
        x = self.ends["decoder_in"](embedded)
        layers = zip(self.decoder, self.kernels["decoder"], self.queries, self.contexts, strict=True)
        for block, kernel, to_query, from_context in layers:
            residual = block.widen(x)
            hidden = block(F.pad(self.dropout(x).transpose(1, 2), (kernel - 1, 0))).transpose(1, 2)
            scores = ((to_query(hidden) + embedded) * half) @ key.transpose(1, 2)
            weights = scores.masked_fill(~batch.source_mask[:, None], -math.inf).softmax(-1)
            context = (weights @ value) * lengths.sqrt()
            x = ((from_context(context) + hidden) * half + residual) * half
        return self.dropout(self.ends["decoder_out"](x))


class PlainLSTM(Plain):
    def __init__(self, config: LSTMConfig, vocabulary_size: int) -> None:
        super().__init__(vocabulary_size, config.width, config.dropout)
        width = config.width
        assert not config.input_feeding and config.attention == "general"
        self.encoder = Stack(
            nn.LSTM(width, width, batch_first=True, bidirectional=True) for _ in range(config.encoder_layers)
        )
        self.merges = Stack(nn.Linear(2 * width, width) for _ in range(config.encoder_layers))
        self.encoder_norm, self.output_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.key = nn.Linear(width, width, bias=False)
        self.bridge = nn.Linear(width, 2 * width * config.decoder_layers)
        self.decoder = Stack(
            nn.LSTM(width if layer == 0 else 2 * width, width, batch_first=True)
            for layer in range(config.decoder_layers)
        )
        self.query, self.combine = nn.Linear(2 * width, width), nn.Linear(2 * width, width)

    def hidden(self, batch: Batch) -> Tensor:
        x = self.dropout(self.embedding(batch.source) * math.sqrt(self.embedding.embedding_dim))
        lengths = batch.source_mask.sum(1)
        for layer, merge in zip(self.encoder, self.merges, strict=True):
            packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            both, _ = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=x.shape[1])
            x = x + self.dropout(merge(both))
        memory = self.encoder_norm(x)
        words = batch.source_mask[:, :, None]
        starts = torch.tanh(self.bridge((memory * words).sum(1) / lengths[:, None])).chunk(
            2 * len(self.decoder), -1
        )
        embedded = self.dropout(self.embedding(batch.target_in) * math.sqrt(self.embedding.embedding_dim))

        def run(layer: nn.Module, number: int, inputs: Tensor) -> Tensor:
            start = starts[2 * number][None].contiguous(), starts[2 * number + 1][None].contiguous()
            return self.dropout(layer(inputs, start)[0])

        bottom = run(self.decoder[0], 0, embedded)
        scores = self.query(torch.cat((bottom, embedded), -1)) @ self.key(memory).transpose(1, 2)
        scores = scores / math.sqrt(memory.shape[-1])
        context = scores.masked_fill(~batch.source_mask[:, None], -math.inf).softmax(-1) @ memory
        x = embedded + bottom
        for number, above in enumerate(self.decoder[1:], 1):
            x = x + run(above, number, torch.cat((x, context), -1))
        return self.dropout(self.output_norm(self.combine(torch.cat((x, context), -1))))


_FORMS: dict[type[ModelConfig], Any] = {
    TransformerConfig: PlainTransformer,
    ConvS2SConfig: PlainConvS2S,
    LSTMConfig: PlainLSTM,
}


def plain_form(config: ModelConfig, vocabulary_size: int) -> Plain | None:
    """The plain form of a model of the same sizes; None where there is no such form."""
    form = _FORMS.get(type(config))
    if isinstance(config, LSTMConfig) and (config.input_feeding or config.attention != "general"):
        return None
    if not getattr(config, "tied", True) or getattr(config, "positions", "sinusoidal") != "sinusoidal":
        return None
    if getattr(config, "feed_forward", 1) == 0:
        return None
    return None if form is None else form(config, vocabulary_size)
