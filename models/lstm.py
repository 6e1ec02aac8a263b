"""LSTM sequence to sequence with attention, in the arrangement of GNMT.

Bidirectional encoder (Bahdanau et al. 2015), residual connections between layers and attention queried by the
bottom decoder layer, whose answer all layers above read (Wu et al. 2016, section 3), dot, general and
additive attention and input feeding (Luong et al. 2015). Without input feeding the bottom decoder layer needs
no attention, so every layer runs over the whole sequence as one fused kernel; with it, training goes step by
step.

Letters in shapes: B batch, S source, T target, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from models import Memory, ModelConfig, Seq2SeqModel, State, Theory
from models.layers.attention import attention, padding_bias
from models.layers.dropout import Dropout
from models.layers.embedding import Words
from models.layers.mixing import mixed
from models.layers.recurrent import BidirectionalRecurrence, Recurrence, reversal
from models.layers.stack import Stack


class Config(ModelConfig):
    width: int = Field(default=192, ge=1)
    """Channels of embeddings and hidden states."""
    encoder_layers: int = Field(default=2, ge=1)
    """Bidirectional layers of the encoder."""
    decoder_layers: int = Field(default=2, ge=1)
    attention: Literal["dot", "general", "additive"] = "general"
    """Score of a query q and a memory state m: q m or q W m (Luong et al. 2015), both over sqrt(D) so that
    they start soft, or v tanh(q + W m) (Bahdanau et al. 2015).
    """
    input_feeding: bool = False
    """The output of each step enters the next (Luong et al. 2015, section 3.3): no fused kernel in the
    decoder.
    """
    dropout: float = Field(default=0.15, ge=0, le=0.9)
    """Of embeddings, of every layer's output before it is added, and of the final hidden state."""
    tied: bool = True
    """One matrix for source embedding, target embedding and output projection."""

    def build(self, vocabulary_size: int) -> LSTM:
        return LSTM(self, vocabulary_size)

    def tiny(self) -> Self:
        return self.model_copy(update={"width": 16, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0})

    def theory(self, vocabulary_size: int, source_length: int, target_length: int) -> Theory:
        width, source, target = self.width, source_length, target_length

        def recurrence(inputs: int) -> int:
            return 4 * width * (inputs + width)

        linear = 2 * width * width  # from two vectors to one
        bottom = recurrence(2 * width if self.input_feeding else width)
        above = (self.decoder_layers - 1) * recurrence(2 * width)
        per_source = self.encoder_layers * (2 * recurrence(width) + linear)
        key = width * width if self.attention != "dot" else 0
        per_target = bottom + above + 2 * linear  # query and output
        bridge = self.decoder_layers * linear

        body = per_source + self.encoder_layers * 17 * width + key + per_target + bridge
        body += (8 + 8 * (self.decoder_layers - 1)) * width  # biases of the decoder's recurrences
        body += (
            2 * width + 2 * self.decoder_layers * width + 4 * width
        )  # of query, output and bridge; two norms
        body += width if self.attention == "additive" else 0
        words = (1 if self.tied else 3) * vocabulary_size * width

        mixing = 4 * width * source * target
        operations = 2 * source * (per_source + key) + 2 * bridge + 2 * target * per_target + mixing
        operations += 2 * target * width * vocabulary_size
        return Theory(parameters=body + words, vocabulary_parameters=words, operations=operations)


@dataclass
class LSTMMemory(Memory):
    hidden: Tensor
    """(B, S, D)"""
    key: Tensor
    """(B, S, D): the memory as attention compares it."""
    bias: Tensor
    """(B, 1, 1, S), minus infinity at padding."""
    starts: list[tuple[Tensor, Tensor]]
    """First h and c (B, D) of every decoder layer."""


@dataclass
class LSTMState(State):
    layers: list[tuple[Tensor, Tensor]]
    """h and c (B, D) of every decoder layer."""
    output: Tensor
    """(B, D): what input feeding feeds."""


class LSTM(Seq2SeqModel):
    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        width = config.width
        self.kind, self.input_feeding = config.attention, config.input_feeding
        self.words = Words(vocabulary_size, width, tied=config.tied, dropout=config.dropout)
        self.dropout = Dropout(config.dropout)
        self.encoder = Stack(BidirectionalRecurrence(width) for _ in range(config.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.key = nn.Identity() if config.attention == "dot" else nn.Linear(width, width, bias=False)
        self.bridge = nn.Linear(width, 2 * width * config.decoder_layers)
        self.bottom = Recurrence(2 * width if config.input_feeding else width, width)
        self.above = Stack(Recurrence(2 * width, width) for _ in range(config.decoder_layers - 1))
        self.query = nn.Linear(2 * width, width)
        if config.attention == "additive":
            self.score = nn.Parameter(torch.empty(width).uniform_(-(width**-0.5), width**-0.5))
        self.output = nn.Linear(2 * width, width)
        self.output_norm = nn.LayerNorm(width)

    def encode(self, source: Tensor, source_mask: Tensor) -> LSTMMemory:
        rows = reversal(source_mask)
        x = self.words.embed_source(source)  # (B, S, D)
        for layer in self.encoder:
            x = x + self.dropout(layer(x, rows))
        hidden = self.encoder_norm(x)
        words = source_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * words).sum(1) / words.sum(1)  # (B, D)
        starts = torch.tanh(self.bridge(mean)).chunk(2 * (len(self.above) + 1), -1)
        return LSTMMemory(
            source_mask,
            hidden,
            self.key(hidden),
            padding_bias(source_mask),
            list(zip(starts[::2], starts[1::2], strict=True)),
        )

    def _attend(self, query: Tensor, memory: LSTMMemory) -> Tensor:
        """Context (B, T, D) for queries (B, T, D)."""
        if self.kind == "additive":
            scores = (torch.tanh(query[:, :, None] + memory.key[:, None]) @ self.score[:, None])[
                ..., 0
            ]  # (B, T, S)
            return mixed(torch.softmax(scores + memory.bias[:, 0], -1) @ memory.hidden)
        query, key, value = (x[:, None] for x in (query, memory.key, memory.hidden))  # one head each
        return attention(query, key, value, memory.bias)[:, 0]

    def _output(self, x: Tensor, context: Tensor) -> Tensor:
        return self.dropout(self.output_norm(self.output(torch.cat((x, context), -1))))

    def decode(self, target_in: Tensor, memory: Memory) -> Tensor:
        assert isinstance(memory, LSTMMemory)
        if self.input_feeding:
            return self._decode_step_by_step(target_in, memory)
        embedded = self.words.embed_target(target_in)  # (B, T, D)
        bottom = self.dropout(self.bottom.sequence(embedded, memory.starts[0]))
        context = self._attend(self.query(torch.cat((bottom, embedded), -1)), memory)
        x = embedded + bottom
        for layer, start in zip(self.above, memory.starts[1:], strict=True):
            x = x + self.dropout(layer.sequence(torch.cat((x, context), -1), start))
        return self._output(x, context)

    def _decode_step_by_step(self, target_in: Tensor, memory: LSTMMemory) -> Tensor:
        state = self.start(memory)
        outputs = []
        for embedded in self.words.embed_target(target_in).unbind(1):
            output, state = self._step(embedded, state)
            outputs.append(output)
        return torch.stack(outputs, 1)

    def start(self, memory: Memory) -> LSTMState:
        assert isinstance(memory, LSTMMemory)
        return LSTMState(memory, list(memory.starts), torch.zeros_like(memory.hidden[:, 0]))

    def decode_step(self, token: Tensor, state: State) -> tuple[Tensor, LSTMState]:
        assert isinstance(state, LSTMState)
        return self._step(self.words.embed_target(token), state)

    def _step(self, embedded: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        memory = state.memory
        assert isinstance(memory, LSTMMemory)
        fed = torch.cat((embedded, state.output), -1) if self.input_feeding else embedded
        layers = [self.bottom.step(fed, state.layers[0])]
        bottom = self.dropout(layers[0][0])
        query = self.query(torch.cat((bottom, embedded), -1))
        context = self._attend(query[:, None], memory)[:, 0]
        x = embedded + bottom
        for layer, past in zip(self.above, state.layers[1:], strict=True):
            layers.append(layer.step(torch.cat((x, context), -1), past))
            x = x + self.dropout(layers[-1][0])
        output = self._output(x, context)
        return output, LSTMState(memory, layers, output)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.words.logits(hidden)

    def cross_entropy(self, hidden: Tensor, target_out: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return self.words.cross_entropy(hidden, target_out, label_smoothing)
