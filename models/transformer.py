"""The Transformer (Vaswani et al. 2017, arXiv:1706.03762).

Letters in shapes: B batch, S source, T target, D width, H heads, d = D / H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models import Memory, ModelConfig, Seq2SeqModel, State, Theory
from models.layers.attention import MultiHeadAttention, padding_bias
from models.layers.dropout import Dropout
from models.layers.embedding import Positions, Words
from models.layers.stack import Stack

FIRST_ROOM = 32
"""Words that the buffers of generation hold at first."""


class Config(ModelConfig):
    width: int = Field(default=160, ge=1)
    """Channels of every hidden state."""
    heads: int = Field(default=4, ge=1)
    """Attention heads; divides `width`."""
    feed_forward: int = Field(default=480, ge=0)
    """Channels inside the position-wise feed-forward network; with 0 there is no such sub-layer."""
    encoder_layers: int = Field(default=4, ge=1)
    decoder_layers: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, le=0.9)
    """Of embeddings and of every sub-layer's output before it is added (section 5.4)."""
    norm: Literal["pre", "post"] = "pre"
    """Layer normalisation of each sub-layer's input, or of the sum as published."""
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
    """What says where a word stands; without it the encoder reads a bag of words."""
    maximum_length: int = Field(default=1024, ge=1)
    """Longest sentence in tokens."""
    tied: bool = True
    """One matrix for source embedding, target embedding and output projection (section 3.4)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} heads and width {self.width}")
        return self

    def build(self, vocabulary_size: int) -> Transformer:
        return Transformer(self, vocabulary_size)

    def tiny(self) -> Self:
        small = {"width": 16, "heads": 2, "encoder_layers": 2, "decoder_layers": 2, "maximum_length": 128}
        return self.model_copy(
            update=small | {"feed_forward": 24 if self.feed_forward else 0, "dropout": 0.0}
        )

    def theory(self, vocabulary_size: int, source_length: int, target_length: int) -> Theory:
        width, inner, source, target = self.width, self.feed_forward, source_length, target_length
        attention = 4 * width * (width + 1)
        norm = 2 * width
        feed_forward = 2 * width * inner + width + inner + norm if inner else 0
        body = self.encoder_layers * (attention + feed_forward + norm)
        body += self.decoder_layers * (2 * attention + feed_forward + 2 * norm)
        body += 2 * norm if self.norm == "pre" else 0
        body += 2 * self.maximum_length * width if self.positions == "learned" else 0
        words = (1 if self.tied else 3) * vocabulary_size * width
        per_encoder = source * (8 * width**2 + 4 * width * inner) + 4 * width * source**2
        per_decoder = target * (12 * width**2 + 4 * width * inner) + 4 * source * width**2
        per_decoder += 4 * width * target**2 + 4 * width * source * target
        operations = self.encoder_layers * per_encoder + self.decoder_layers * per_decoder
        operations += 2 * target * width * vocabulary_size
        return Theory(parameters=body + words, vocabulary_parameters=words, operations=operations)


@dataclass
class TransformerMemory(Memory):
    hidden: Tensor
    """(B, S, D)"""
    bias: Tensor
    """(B, 1, 1, S), minus infinity at padding."""


@dataclass
class TransformerState(State):
    source: list[tuple[Tensor, ...]]
    """Keys and values (B, H, S, d) of the memory for every decoder layer."""
    target: list[tuple[Tensor, ...]]
    """Buffers (B, H, room, d) for keys and values of every decoder layer, filled up to `length`."""
    length: int
    """Words so far."""


class SubLayer(nn.Module):
    """Residual connection, dropout and layer normalisation around a function (section 3.1)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)
        self.before = config.norm == "pre"

    def enter(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.before else x

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        x = x + self.dropout(update)
        return x if self.before else self.norm(x)


class FeedForward(nn.Module):
    """Position-wise network (section 3.3)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = nn.Linear(config.width, config.feed_forward)
        self.outer = nn.Linear(config.feed_forward, config.width)
        for layer in (self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.relu(self.inner(x)))


class _Layer(nn.Module):
    """What the layers of both sides have in common: they end in a feed-forward network, or in none."""

    feed_forward: FeedForward | None
    around_feed_forward: SubLayer | None

    def _fed_forward(self, x: Tensor) -> Tensor:
        if self.feed_forward is None or self.around_feed_forward is None:
            return x
        return self.around_feed_forward.leave(x, self.feed_forward(self.around_feed_forward.enter(x)))


class EncoderLayer(_Layer):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.width, config.heads)
        self.feed_forward = FeedForward(config) if config.feed_forward else None
        self.around_attention = SubLayer(config)
        self.around_feed_forward = SubLayer(config) if config.feed_forward else None

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.around_attention.leave(x, self.attention(self.around_attention.enter(x), bias))
        return self._fed_forward(x)


class DecoderLayer(_Layer):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(config.width, config.heads)
        self.source_attention = MultiHeadAttention(config.width, config.heads)
        self.feed_forward = FeedForward(config) if config.feed_forward else None
        self.around_self, self.around_source = SubLayer(config), SubLayer(config)
        self.around_feed_forward = SubLayer(config) if config.feed_forward else None

    def forward(self, x: Tensor, source: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        x = self.around_self.leave(x, self.self_attention(self.around_self.enter(x), causal=True))
        return self._rest(x, source, bias)

    def step(
        self, x: Tensor, source: tuple[Tensor, ...], bias: Tensor, past: tuple[Tensor, ...], length: int
    ) -> Tensor:
        """One position (B, 1, D); its keys and values go into position `length` of the buffers `past`."""
        entered = self.around_self.enter(x)
        for buffer, new in zip(past, self.self_attention.keys_and_values(entered), strict=True):
            buffer[:, :, length] = new[:, :, 0]
        key, value = (buffer[:, :, : length + 1] for buffer in past)
        x = self.around_self.leave(x, self.self_attention.look(entered, key, value))
        return self._rest(x, source, bias)

    def _rest(self, x: Tensor, source: tuple[Tensor, ...], bias: Tensor) -> Tensor:
        update = self.source_attention.look(self.around_source.enter(x), source[0], source[1], bias)
        x = self.around_source.leave(x, update)
        return self._fed_forward(x)


def _positions(config: Config) -> Positions | None:
    if config.positions == "none":
        return None
    return Positions(config.maximum_length, config.width, learned=config.positions == "learned")


def _at(positions: Positions | None, length: int, first: int = 0) -> Tensor | None:
    return None if positions is None else positions(length, first)


class Transformer(Seq2SeqModel):
    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.words = Words(vocabulary_size, config.width, tied=config.tied, dropout=config.dropout)
        self.source_positions, self.target_positions = _positions(config), _positions(config)
        self.encoder = Stack(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = Stack(DecoderLayer(config) for _ in range(config.decoder_layers))
        final_norm = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.width) if final_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.width) if final_norm else nn.Identity()

    def encode(self, source: Tensor, source_mask: Tensor) -> TransformerMemory:
        bias = padding_bias(source_mask)
        x = self.words.embed_source(source, _at(self.source_positions, source.shape[1]))  # (B, S, D)
        for layer in self.encoder:
            x = layer(x, bias)
        return TransformerMemory(source_mask, self.encoder_norm(x), bias)

    def decode(self, target_in: Tensor, memory: Memory) -> Tensor:
        assert isinstance(memory, TransformerMemory)
        x = self.words.embed_target(target_in, _at(self.target_positions, target_in.shape[1]))  # (B, T, D)
        for layer in self.decoder:
            x = layer(x, layer.source_attention.keys_and_values(memory.hidden), memory.bias)
        return self.decoder_norm(x)

    def start(self, memory: Memory) -> TransformerState:
        assert isinstance(memory, TransformerMemory)
        source: list[tuple[Tensor, ...]] = [
            layer.source_attention.keys_and_values(memory.hidden) for layer in self.decoder
        ]
        empty = [tuple(x.new_zeros(*x.shape[:2], FIRST_ROOM, x.shape[3]) for x in pair) for pair in source]
        return TransformerState(memory, source, empty, 0)

    def decode_step(self, token: Tensor, state: State) -> tuple[Tensor, TransformerState]:
        assert isinstance(state, TransformerState) and isinstance(state.memory, TransformerMemory)
        x = self.words.embed_target(token[:, None], _at(self.target_positions, 1, state.length))  # (B, 1, D)
        target = state.target
        if state.length == target[0][0].shape[2]:
            # Twice the room when it is full: copying at every step would cost a quarter of the time.
            target = [tuple(torch.cat((x, torch.zeros_like(x)), 2) for x in pair) for pair in target]
        for layer, source, past in zip(self.decoder, state.source, target, strict=True):
            x = layer.step(x, source, state.memory.bias, past, state.length)
        return self.decoder_norm(x)[:, 0], TransformerState(
            state.memory, state.source, target, state.length + 1
        )

    def logits(self, hidden: Tensor) -> Tensor:
        return self.words.logits(hidden)

    def cross_entropy(self, hidden: Tensor, target_out: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return self.words.cross_entropy(hidden, target_out, label_smoothing)
