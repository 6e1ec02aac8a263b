"""The contract has teeth: a model broken on purpose fails the check that is there for it.

Each mutant is a real model with one mistake that people make.
"""

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import models.convs2s
import models.layers.attention
import models.lstm
import models.transformer
from benchmark.check import outcome_of
from benchmark.check.model import (
    MODEL_CHECKS,
    ModelUnderCheck,
    a_seed_decides_weights_and_training,
    a_state_survives_selection,
    at_test_size,
    beam_search_scores_are_those_of_teacher_forcing,
    cached_decoding_equals_teacher_forcing,
    every_parameter_gets_a_gradient,
    greedy_words_are_the_likeliest,
    no_gradient_reaches_the_future,
    no_target_position_sees_its_future,
    padding_and_batch_mates_are_inert,
    the_config_has_defaults_and_a_test_size,
    the_loss_is_finite_in_bfloat16,
    the_loss_is_the_cross_entropy_of_the_logits,
    the_next_word_depends_on_the_last_one_and_on_the_source,
    theory_equals_what_is_counted,
)
from models import PADDING, Theory
from models.layers.attention import causal_bias
from models.layers.recurrent import BidirectionalRecurrence, reversal


def subject_of(architecture, model_class=None, **methods):
    """A tiny model of an architecture, of `model_class` where given, its Config with other `methods`."""

    def build(self, vocabulary_size):
        return model_class(self, vocabulary_size)

    own = {"build": build} if model_class else {}
    config = type("Config", (architecture.Config,), {"__module__": __name__, **own, **methods})
    return ModelUnderCheck("mutant", at_test_size(config()))


def assert_caught(subject, *checks, containing=""):
    for check in checks:
        outcome = outcome_of(check, [subject])
        assert not outcome.ok, f"{check.__name__} missed it"
        assert containing in outcome.message
        assert outcome.message.startswith("mutant: ")


@pytest.fixture
def causal(monkeypatch):
    """Replace what keeps attention from the future."""

    def put(bias):
        monkeypatch.setattr(models.layers.attention, "causal_bias", bias)

    return put


def test_a_mask_that_is_removed(causal):
    causal(lambda length, device: torch.zeros(length, length, device=device))
    assert_caught(
        subject_of(models.transformer),
        no_target_position_sees_its_future,
        no_gradient_reaches_the_future,
        containing="sees its future",
    )
    assert_caught(subject_of(models.transformer), cached_decoding_equals_teacher_forcing)


def test_a_mask_that_is_off_by_one(causal):
    causal(lambda length, device: causal_bias(length, device).triu(2))
    assert_caught(
        subject_of(models.transformer),
        no_target_position_sees_its_future,
        no_gradient_reaches_the_future,
        containing="sees its future",
    )


def test_padding_on_both_sides_in_the_decoder():
    class Same(models.convs2s.ConvS2S):
        def decode(self, target_in, memory):
            embedded = self.words.embed_target(target_in, self.target_positions(target_in.shape[1]))
            x = self.decoder_in(embedded)
            for block in self.decoder:
                past = block.kernel // 2
                x = block(x, F.pad(block.dropout(x), (0, 0, past, past)), embedded, memory)
            return self.dropout(self.decoder_out(x))

    assert_caught(
        subject_of(models.convs2s, Same),
        no_target_position_sees_its_future,
        no_gradient_reaches_the_future,
        containing="sees its future",
    )


def test_a_decoder_that_reads_in_both_directions():
    class Both(models.lstm.LSTM):
        def __init__(self, config, vocabulary_size):
            super().__init__(config, vocabulary_size)
            self.both = BidirectionalRecurrence(config.width)

        def decode(self, target_in, memory):
            hidden = super().decode(target_in, memory)
            return hidden + self.both(hidden, reversal(torch.ones_like(target_in, dtype=torch.bool)))

    assert_caught(
        subject_of(models.lstm, Both),
        no_target_position_sees_its_future,
        no_gradient_reaches_the_future,
        containing="sees its future",
    )


def test_batch_norm_over_time():
    class BatchNorm(models.transformer.Transformer):
        def __init__(self, config, vocabulary_size):
            super().__init__(config, vocabulary_size)
            self.batch_norm = nn.BatchNorm1d(config.width)

        def decode(self, target_in, memory):
            return self.batch_norm(super().decode(target_in, memory).transpose(1, 2)).transpose(1, 2)

        def decode_step(self, token, state):
            hidden, state = super().decode_step(token, state)
            return self.batch_norm(hidden), state

    subject = subject_of(models.transformer, BatchNorm)
    assert_caught(subject, no_target_position_sees_its_future, containing="in training mode")
    # In evaluation mode it is a fixed scale, which no other check can tell from a sound model.
    assert outcome_of(cached_decoding_equals_teacher_forcing, [subject]).ok


def test_a_target_that_is_not_shifted():
    class Unshifted(models.lstm.LSTM):
        """Reads at position t the word that it is to predict there."""

        def decode(self, target_in, memory):
            return super().decode(torch.cat((target_in[:, 1:], target_in[:, :1]), 1), memory)

    assert_caught(
        subject_of(models.lstm, Unshifted),
        no_target_position_sees_its_future,
        no_gradient_reaches_the_future,
        containing="sees its future",
    )


def test_a_target_that_is_shifted_twice():
    class Late(models.transformer.Transformer):
        def decode(self, target_in, memory):
            return super().decode(F.pad(target_in[:, :-1], (1, 0)), memory)

    assert_caught(
        subject_of(models.transformer, Late), the_next_word_depends_on_the_last_one_and_on_the_source
    )


def test_a_decoder_that_ignores_the_source():
    class Blind(models.transformer.Transformer):
        def encode(self, source, source_mask):
            return super().encode(torch.full_like(source, 5), source_mask)

    assert_caught(
        subject_of(models.transformer, Blind), the_next_word_depends_on_the_last_one_and_on_the_source
    )


def test_source_padding_that_is_looked_at():
    class Unmasked(models.transformer.Transformer):
        def encode(self, source, source_mask):
            return replace(super().encode(source, torch.ones_like(source_mask)), source_mask=source_mask)

    assert_caught(subject_of(models.transformer, Unmasked), padding_and_batch_mates_are_inert)


def test_an_encoder_that_mixes_the_batch():
    class Centred(models.lstm.LSTM):
        def encode(self, source, source_mask):
            memory = super().encode(source, source_mask)
            return replace(memory, hidden=memory.hidden - memory.hidden.mean(0, keepdim=True))

    subject = subject_of(models.lstm, Centred)
    assert_caught(subject, padding_and_batch_mates_are_inert, no_target_position_sees_its_future)


def test_a_reversal_that_ignores_lengths(monkeypatch):
    monkeypatch.setattr(models.lstm, "reversal", lambda mask: reversal(torch.ones_like(mask)))
    assert_caught(subject_of(models.lstm), padding_and_batch_mates_are_inert, containing="among other")


def test_positions_that_stand_still_while_generating():
    class Still(models.transformer.Transformer):
        def decode_step(self, token, state):
            hidden, after = super().decode_step(token, replace(state, length=0))
            return hidden, replace(after, length=state.length + 1)

    assert_caught(
        subject_of(models.transformer, Still),
        cached_decoding_equals_teacher_forcing,
        greedy_words_are_the_likeliest,
        beam_search_scores_are_those_of_teacher_forcing,
    )


def test_a_cache_that_selection_does_not_reach():
    @dataclass
    class Stuck(models.transformer.TransformerState):
        def select(self, index):
            return replace(super().select(index), target=[(k.clone(), v.clone()) for k, v in self.target])

    class Model(models.transformer.Transformer):
        def start(self, memory):
            return Stuck(**vars(super().start(memory)))

        def decode_step(self, token, state):
            fitting = [(key[: len(token)], value[: len(token)]) for key, value in state.target]
            hidden, after = super().decode_step(token, replace(state, target=fitting))
            return hidden, Stuck(**vars(after))

    subject = subject_of(models.transformer, Model)
    assert outcome_of(cached_decoding_equals_teacher_forcing, [subject]).ok
    assert_caught(subject, a_state_survives_selection, beam_search_scores_are_those_of_teacher_forcing)


def test_a_cache_that_copies_share():
    class Shared(models.convs2s.ConvS2S):
        """Keeps the windows of the last step in the model."""

        def decode_step(self, token, state):
            if state.length:
                state = replace(state, windows=[window[: len(token)] for window in self.windows])
            hidden, after = super().decode_step(token, state)
            self.windows: list[torch.Tensor] = after.windows
            return hidden, after

    subject = subject_of(models.convs2s, Shared)
    assert outcome_of(cached_decoding_equals_teacher_forcing, [subject]).ok
    assert_caught(subject, a_state_survives_selection)


def test_a_parameter_without_a_gradient():
    class Idle(models.transformer.Transformer):
        def __init__(self, config, vocabulary_size):
            super().__init__(config, vocabulary_size)
            self.idle = nn.Linear(4, 4)

    assert_caught(
        subject_of(models.transformer, Idle), every_parameter_gets_a_gradient, containing="idle.weight"
    )


def test_a_loss_that_counts_padding():
    class Padded(models.transformer.Transformer):
        def cross_entropy(self, hidden, target_out, label_smoothing=0.0):
            return super().cross_entropy(
                hidden, target_out.masked_fill(target_out == PADDING, 1), label_smoothing
            )

    assert_caught(
        subject_of(models.transformer, Padded),
        the_loss_is_the_cross_entropy_of_the_logits,
        padding_and_batch_mates_are_inert,
    )


def test_a_loss_with_a_wrong_gradient():
    class Detached(models.transformer.Transformer):
        def cross_entropy(self, hidden, target_out, label_smoothing=0.0):
            return super().cross_entropy(hidden * 0.5 + hidden.detach() * 0.5, target_out, label_smoothing)

    assert_caught(
        subject_of(models.transformer, Detached),
        the_loss_is_the_cross_entropy_of_the_logits,
        containing="gradient",
    )


def test_random_numbers_that_no_seed_decides():
    class Noisy(models.transformer.Transformer):
        random = torch.Generator().manual_seed(0)

        def decode(self, target_in, memory):
            hidden = super().decode(target_in, memory)
            if self.training:
                hidden = hidden + torch.randn(hidden.shape, generator=self.random).to(hidden)
            return hidden

    assert_caught(
        subject_of(models.transformer, Noisy),
        a_seed_decides_weights_and_training,
        no_target_position_sees_its_future,
    )


def test_a_loss_that_overflows_in_bfloat16():
    class Overflowing(models.transformer.Transformer):
        def cross_entropy(self, hidden, target_out, label_smoothing=0.0):
            loss = super().cross_entropy(hidden, target_out, label_smoothing)
            return loss / (hidden.dtype != torch.bfloat16 and not torch.is_autocast_enabled("cpu"))

    assert_caught(
        subject_of(models.transformer, Overflowing), the_loss_is_finite_in_bfloat16, containing="got inf"
    )


@pytest.mark.parametrize(
    ("field", "containing"),
    [
        ("parameters", "parameters, as counted"),
        ("vocabulary_parameters", "with a row for each word"),
        ("operations", "operations for 1 source and 1 target words"),
    ],
)
def test_a_closed_form_that_is_wrong(field, containing):
    def theory(self, vocabulary_size, source_length, target_length):
        right = models.convs2s.Config.theory(self, vocabulary_size, source_length, target_length)
        return replace(right, **{field: getattr(right, field) + 2})

    assert_caught(
        subject_of(models.convs2s, theory=theory), theory_equals_what_is_counted, containing=containing
    )


def test_a_model_without_a_closed_form_is_told_and_not_failed():
    outcome = outcome_of(
        theory_equals_what_is_counted, [subject_of(models.lstm, theory=models.ModelConfig.theory)]
    )
    assert outcome.ok
    assert "no theory()" in outcome.message


def test_a_test_size_that_drops_an_option():
    def tiny(self):
        return models.lstm.Config.tiny(self).model_copy(update={"tied": not self.tied})

    assert_caught(
        subject_of(models.lstm, tiny=tiny), the_config_has_defaults_and_a_test_size, containing="same tied"
    )


def test_a_model_that_looks_words_up_in_its_own_way_is_told():
    class OneHot(models.lstm.LSTM):
        def decode(self, target_in, memory):
            words = F.one_hot(target_in, len(self.words.target)).to(self.words.target.dtype)
            embedded = self.words.dropout(words @ self.words.target * self.words.scale)
            bottom = self.dropout(self.bottom.sequence(embedded, memory.starts[0]))
            context = self._attend(self.query(torch.cat((bottom, embedded), -1)), memory)
            x = embedded + bottom
            for layer, start in zip(self.above, memory.starts[1:], strict=True):
                x = x + self.dropout(layer.sequence(torch.cat((x, context), -1), start))
            return self._output(x, context)

    outcome = outcome_of(no_gradient_reaches_the_future, [subject_of(models.lstm, OneHot)])
    assert outcome.ok
    assert "no lookup" in outcome.message


def test_an_untouched_subclass_passes_everything():
    subject = subject_of(models.lstm, models.lstm.LSTM)
    outcomes = [outcome_of(check, [subject]) for check in MODEL_CHECKS]
    assert [outcome.message for outcome in outcomes if not outcome.ok] == []
    assert isinstance(subject.config.theory(10, 1, 1), Theory)
