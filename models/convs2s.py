"""ConvS2S (Gehring et al. 2017, arXiv:1705.03122).

Letters in shapes: B batch, S source, T target, D width, C channels of a block, k kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models import Memory, ModelConfig, Seq2SeqModel, State, Theory
from models.layers.attention import attention, padding_bias
from models.layers.convolution import GatedConvolution, NormalisedLinear
from models.layers.dropout import Dropout
from models.layers.embedding import Positions, Words
from models.layers.stack import Stack

HALF = math.sqrt(0.5)
"""A sum of two times this has the variance of each (section 3.4)."""


class Config(ModelConfig):
    width: int = Field(default=208, ge=1)
    """Channels of embeddings and, where `*_channels` does not say otherwise, of every block."""
    kernel: int = Field(default=3, ge=1)
    """Positions that one convolution sees; odd, so that the encoder stays centred."""
    encoder_layers: int = Field(default=4, ge=1)
    decoder_layers: int = Field(default=4, ge=1)
    encoder_blocks: tuple[tuple[int, int], ...] | None = None
    """(channels, kernel) of each encoder block, for encoders that widen; replaces `encoder_layers` and
    `kernel`.
    """
    decoder_blocks: tuple[tuple[int, int], ...] | None = None
    """Likewise for the decoder."""
    dropout: float = Field(default=0.1, ge=0, le=0.9)
    """Of embeddings, of every convolution's input and of the decoder's output (section 4.2)."""
    scale_encoder_gradient: bool = True
    """Divide the gradient of the encoder by the number of attentions that read it (section 3.5). The gradient
    is then not that of the loss; off where gradients themselves are measured."""
    maximum_length: int = Field(default=1024, ge=1)
    """Longest sentence in tokens: positions are learned."""
    tied: bool = True
    """One matrix for source embedding, target embedding and output projection."""

    @model_validator(mode="after")
    def _centred(self) -> Self:
        for _, kernel in self.blocks("encoder"):
            if kernel % 2 == 0:
                raise ValueError(f"kernel must be odd so that the encoder stays centred, got {kernel}")
        for side in ("encoder", "decoder"):
            if any(channels < 1 or kernel < 1 for channels, kernel in self.blocks(side)):
                raise ValueError(f"{side}_blocks needs channels and kernels of at least 1")
            if not self.blocks(side):
                raise ValueError(f"{side}_blocks needs at least one block")
        return self

    def blocks(self, side: str) -> tuple[tuple[int, int], ...]:
        """(channels, kernel) of every block of `side`, encoder or decoder."""
        if side == "encoder":
            return self.encoder_blocks if self.encoder_blocks is not None else self._even(self.encoder_layers)
        return self.decoder_blocks if self.decoder_blocks is not None else self._even(self.decoder_layers)

    def _even(self, layers: int) -> tuple[tuple[int, int], ...]:
        return ((self.width, self.kernel),) * layers

    def build(self, vocabulary_size: int) -> ConvS2S:
        return ConvS2S(self, vocabulary_size)

    def tiny(self) -> Self:
        def narrow(blocks: tuple[tuple[int, int], ...] | None) -> tuple[tuple[int, int], ...] | None:
            return (
                blocks
                and tuple((16 if channels == blocks[0][0] else 24, kernel) for channels, kernel in blocks)[
                    -3:
                ]
            )

        small = {"width": 16, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0, "maximum_length": 128}
        blocks = {
            "encoder_blocks": narrow(self.encoder_blocks),
            "decoder_blocks": narrow(self.decoder_blocks),
        }
        return self.model_copy(update=small | blocks)

    def theory(self, vocabulary_size: int, source_length: int, target_length: int) -> Theory:
        width, body, operations = self.width, 0, 0

        def linear(inputs: int, outputs: int, positions: int) -> None:
            nonlocal body, operations
            body += inputs * outputs + 2 * outputs  # directions, lengths and biases
            operations += 2 * positions * inputs * outputs

        for side, positions in (("encoder", source_length), ("decoder", target_length)):
            blocks = self.blocks(side)
            inputs = blocks[0][0]
            body += self.maximum_length * width
            linear(width, inputs, positions)
            for channels, kernel in blocks:
                if channels != inputs:
                    linear(inputs, channels, positions)
                linear(kernel * inputs, 2 * channels, positions)
                if side == "decoder":
                    linear(channels, width, positions)
                    linear(width, channels, positions)
                    operations += 4 * width * source_length * target_length
                inputs = channels
            linear(inputs, width, positions)
        words = (1 if self.tied else 3) * vocabulary_size * width
        operations += 2 * target_length * width * vocabulary_size
        return Theory(parameters=body + words, vocabulary_parameters=words, operations=operations)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[0] * ctx.factor, None


@dataclass
class ConvS2SMemory(Memory):
    key: Tensor
    """(B, S, D): encoder output."""
    value: Tensor
    """(B, S, D): encoder output plus source embedding."""
    bias: Tensor
    """(B, 1, 1, S), minus infinity at padding."""


@dataclass
class ConvS2SState(State):
    windows: list[Tensor]
    """(B, k - 1, C): the last inputs of every decoder block's convolution."""
    length: int
    """Words so far."""


class Block(nn.Module):
    """One gated convolution with its residual connection."""

    def __init__(self, inputs: int, channels: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.convolution = GatedConvolution(inputs, channels, kernel, dropout=dropout)
        self.widen = NormalisedLinear(inputs, channels) if inputs != channels else nn.Identity()
        self.dropout = Dropout(dropout)

    @property
    def kernel(self) -> int:
        return self.convolution.kernel


class DecoderBlock(Block):
    """A block that looks at the source between convolution and residual connection (section 3.3)."""

    def __init__(self, inputs: int, channels: int, kernel: int, dropout: float, width: int) -> None:
        super().__init__(inputs, channels, kernel, dropout)
        self.query = NormalisedLinear(channels, width)
        self.context = NormalisedLinear(width, channels)

    def forward(self, x: Tensor, window: Tensor, embedded: Tensor, memory: ConvS2SMemory) -> Tensor:
        """(B, T, C) from the residual input `x` (B, T, in) and the same after dropout with its past,
        `window`.
        """
        hidden = self.convolution(window)  # (B, T, C)
        query = (self.query(hidden) + embedded) * HALF
        query, key, value = (part[:, None] for part in (query, memory.key, memory.value))  # one head each
        context = attention(query, key, value, memory.bias, scale=1.0)[:, 0]  # (B, T, D)
        # A mean of m values has 1/m of their variance if they weigh the same: scale back by m sqrt(1/m).
        context = context * memory.source_mask.sum(1).to(context.dtype).sqrt()[:, None, None]
        hidden = (self.context(context) + hidden) * HALF
        return (hidden + self.widen(x)) * HALF


class ConvS2S(Seq2SeqModel):
    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        width, dropout = config.width, config.dropout
        self.words = Words(
            vocabulary_size, width, tied=config.tied, dropout=dropout, standard_deviation=0.1, scale=1.0
        )
        self.source_positions = Positions(config.maximum_length, width, learned=True)
        self.target_positions = Positions(config.maximum_length, width, learned=True)
        self.dropout = Dropout(dropout)
        self.gradient_factor = 1 / len(config.blocks("decoder")) if config.scale_encoder_gradient else 1.0

        inputs = config.blocks("encoder")[0][0]
        self.encoder_in = NormalisedLinear(width, inputs, dropout=dropout)
        encoder = []
        for channels, kernel in config.blocks("encoder"):
            encoder.append(Block(inputs, channels, kernel, dropout))
            inputs = channels
        self.encoder = Stack(encoder)
        self.encoder_out = NormalisedLinear(inputs, width)

        inputs = config.blocks("decoder")[0][0]
        self.decoder_in = NormalisedLinear(width, inputs, dropout=dropout)
        decoder = []
        for channels, kernel in config.blocks("decoder"):
            decoder.append(DecoderBlock(inputs, channels, kernel, dropout, width))
            inputs = channels
        self.decoder = Stack(decoder)
        self.decoder_out = NormalisedLinear(inputs, width)

    def encode(self, source: Tensor, source_mask: Tensor) -> ConvS2SMemory:
        words = source_mask.unsqueeze(-1)
        embedded = self.words.embed_source(source, self.source_positions(source.shape[1]))  # (B, S, D)
        x = self.encoder_in(embedded)
        for block in self.encoder:
            past = block.kernel // 2
            window = F.pad(
                block.dropout(x) * words, (0, 0, past, past)
            )  # zeros around the words and at padding
            x = (block.convolution(window) + block.widen(x)) * HALF
        key = self.encoder_out(x)
        if self.gradient_factor != 1.0 and key.requires_grad:
            key = _ScaleGradient.apply(key, self.gradient_factor)
        return ConvS2SMemory(source_mask, key, (key + embedded) * HALF, padding_bias(source_mask))

    def decode(self, target_in: Tensor, memory: Memory) -> Tensor:
        assert isinstance(memory, ConvS2SMemory)
        embedded = self.words.embed_target(target_in, self.target_positions(target_in.shape[1]))  # (B, T, D)
        x = self.decoder_in(embedded)
        for block in self.decoder:
            window = F.pad(block.dropout(x), (0, 0, block.kernel - 1, 0))
            x = block(x, window, embedded, memory)
        return self.dropout(self.decoder_out(x))

    def start(self, memory: Memory) -> ConvS2SState:
        assert isinstance(memory, ConvS2SMemory)
        batch = len(memory.key)
        windows = [
            memory.key.new_zeros(
                batch, block.kernel - 1, block.convolution.linear.direction.shape[1] // block.kernel
            )
            for block in self.decoder
        ]
        return ConvS2SState(memory, windows, 0)

    def decode_step(self, token: Tensor, state: State) -> tuple[Tensor, ConvS2SState]:
        assert isinstance(state, ConvS2SState) and isinstance(state.memory, ConvS2SMemory)
        embedded = self.words.embed_target(
            token[:, None], self.target_positions(1, state.length)
        )  # (B, 1, D)
        x = self.decoder_in(embedded)
        windows = []
        for block, past in zip(self.decoder, state.windows, strict=True):
            window = torch.cat((past, block.dropout(x)), 1)  # (B, k, C)
            windows.append(window[:, 1:])
            x = block(x, window, embedded, state.memory)
        hidden = self.dropout(self.decoder_out(x))[:, 0]
        return hidden, ConvS2SState(state.memory, windows, state.length + 1)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.words.logits(hidden)

    def cross_entropy(self, hidden: Tensor, target_out: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return self.words.cross_entropy(hidden, target_out, label_smoothing)
