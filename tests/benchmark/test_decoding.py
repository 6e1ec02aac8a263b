"""Generation finds what loops over single sentences find, and does not depend on how sentences are batched.

The model is a table: its next word depends on the source and on all words so far, and it can be asked about
any prefix.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from benchmark.decoding import beam_search, greedy, length_penalty
from models import BEGIN, END, PADDING, UNKNOWN, Memory, Seq2SeqModel, State
from tests.references.naive_search import beam_search as naive_beam_search
from tests.references.naive_search import exhaustive_search, greedy_search, penalty

STATES = 9973
NOT_ALLOWED = [PADDING, UNKNOWN, BEGIN]


@dataclass
class TableMemory(Memory):
    key: torch.Tensor


@dataclass
class TableState(State):
    key: torch.Tensor


class TableModel(Seq2SeqModel):
    """Logits after a prefix are a row of a random table, whose number is a hash of source and prefix."""

    def __init__(self, vocabulary_size, *, end_bonus=0.0, seed=0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        table = torch.randn(STATES, vocabulary_size, generator=random) * 2
        table[:, END] += end_bonus
        self.table = nn.Parameter(table)
        self.steps = []

    def encode(self, source, source_mask):
        return TableMemory(source_mask, (source * source_mask).sum(1) * 31 % STATES)

    def decode(self, target_in, memory):
        raise NotImplementedError("generation needs no teacher forcing")

    def start(self, memory):
        return TableState(memory, memory.key)

    def decode_step(self, token, state):
        self.steps.append(len(token))
        key = (state.key * 131 + token * 7 + 1) % STATES
        return self.table[key], TableState(state.memory, key)

    def logits(self, hidden):
        return hidden + 0.0

    def log_probabilities(self, source):
        """For the naive searches: a function from words so far to log-probabilities of the next."""

        def after(words):
            key = sum(source) * 31 % STATES
            for word in [BEGIN, *words]:
                key = (key * 131 + word * 7 + 1) % STATES
            logits = self.table[key].detach().clone()
            logits[NOT_ALLOWED] = -torch.inf
            return logits.double().log_softmax(-1).tolist()

        return after


def batch_of(sources):
    longest = max(map(len, sources))
    source = torch.tensor([[*words, *[PADDING] * (longest - len(words))] for words in sources])
    return source, source != PADDING


def random_sources(number, *, longest=7, vocabulary_size=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, longest, (number,), generator=random).tolist()
    return [
        [*torch.randint(END + 1, vocabulary_size, (length,), generator=random).tolist(), END]
        for length in lengths
    ]


def allowed(vocabulary_size):
    return [word for word in range(vocabulary_size) if word not in NOT_ALLOWED]


@pytest.mark.parametrize("end_bonus", [-3.0, 0.0, 2.0])
def test_greedy_equals_a_loop_of_argmax(end_bonus):
    model = TableModel(12, end_bonus=end_bonus)
    sources = random_sources(40, vocabulary_size=12)
    got = greedy(model, *batch_of(sources), extra_length=5)
    expected = [
        greedy_search(model.log_probabilities(words), allowed(12), END, len(words) + 5) for words in sources
    ]
    assert got == expected
    assert len({len(words) for words in got}) > 1


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("end_bonus", [-2.0, 0.0])
def test_a_wide_beam_finds_what_exhaustive_search_finds(alpha, end_bonus):
    model = TableModel(6, end_bonus=end_bonus)
    sources = [words for words in random_sources(40, longest=4) if len(words) <= 3]
    found = beam_search(model, *batch_of(sources), beam=48, alpha=alpha, extra_length=1)
    for words, hypothesis in zip(sources, found, strict=True):
        expected, total = exhaustive_search(
            model.log_probabilities(words), allowed(6), END, len(words) + 1, alpha
        )
        assert hypothesis.words == expected
        assert hypothesis.log_probability == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("beam", [1, 2, 3, 5])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("end_bonus", [-4.0, 0.0, 2.0])
def test_beam_search_equals_a_naive_beam_that_never_stops_early(beam, alpha, end_bonus):
    model = TableModel(9, end_bonus=end_bonus)
    sources = random_sources(24, vocabulary_size=9)
    found = beam_search(model, *batch_of(sources), beam=beam, alpha=alpha, extra_length=4)
    for words, hypothesis in zip(sources, found, strict=True):
        expected, total = naive_beam_search(
            model.log_probabilities(words), allowed(9), END, len(words) + 4, beam, alpha
        )
        assert hypothesis.words == expected
        assert hypothesis.log_probability == pytest.approx(total, abs=1e-4)


def test_a_beam_of_one_without_length_penalty_is_greedy():
    model = TableModel(12)
    source, mask = batch_of(random_sources(40, vocabulary_size=12))
    found = beam_search(model, source, mask, beam=1, alpha=0.0, extra_length=5)
    assert [hypothesis.words for hypothesis in found] == greedy(model, source, mask, extra_length=5)


def test_what_is_found_does_not_depend_on_the_batch():
    model = TableModel(12)
    sources = random_sources(30, vocabulary_size=12)

    def found_in(batch):
        return beam_search(model, *batch_of(batch), beam=3, alpha=0.6, extra_length=5)

    alone = [found_in([words])[0] for words in sources]
    assert [hypothesis.words for hypothesis in found_in(sources)] == [
        hypothesis.words for hypothesis in alone
    ]
    together = greedy(model, *batch_of(sources), extra_length=5)
    assert together == [greedy(model, *batch_of([words]), extra_length=5)[0] for words in sources]
    assert together[::-1] == greedy(model, *batch_of(sources[::-1]), extra_length=5)


@pytest.mark.parametrize("extra_length", [0, 1, 9])
def test_a_sentence_that_does_not_end_has_as_many_words_as_its_source_and_some_more(extra_length):
    model = TableModel(9, end_bonus=-1e9)
    sources = random_sources(10, vocabulary_size=9)
    limits = [len(words) + extra_length for words in sources]
    got = greedy(model, *batch_of(sources), extra_length=extra_length)
    assert [len(words) for words in got] == limits
    found = beam_search(model, *batch_of(sources), beam=2, alpha=0.6, extra_length=extra_length)
    assert [len(hypothesis.words) for hypothesis in found] == limits
    assert all(END not in hypothesis.words for hypothesis in found)


def test_words_that_no_sentence_holds_are_never_produced():
    model = TableModel(9, end_bonus=-2.0)
    with torch.no_grad():
        model.table[:, NOT_ALLOWED] += 100.0
    source, mask = batch_of(random_sources(20, vocabulary_size=9))
    words = [word for sentence in greedy(model, source, mask, extra_length=5) for word in sentence]
    for hypothesis in beam_search(model, source, mask, beam=3, alpha=0.6, extra_length=5):
        words += hypothesis.words
    assert words
    assert not set(words) & {*NOT_ALLOWED, END}


def test_a_model_that_ends_at_once_gives_empty_sentences():
    model = TableModel(9, end_bonus=1e9)
    source, mask = batch_of(random_sources(5, vocabulary_size=9))
    assert greedy(model, source, mask, extra_length=5) == [[]] * 5
    found = beam_search(model, source, mask, beam=3, alpha=0.6, extra_length=5)
    assert [hypothesis.words for hypothesis in found] == [[]] * 5


def test_finished_sentences_leave_the_batch():
    model = TableModel(12)
    source, mask = batch_of(random_sources(64, vocabulary_size=12))
    greedy(model, source, mask, extra_length=20)
    assert model.steps[0] == 64
    assert model.steps[-1] < 16
    model.steps.clear()
    beam_search(model, source, mask, beam=2, alpha=0.0, extra_length=20)
    assert model.steps[0] == 128
    assert model.steps[-1] < 64


def test_the_length_penalty_is_that_of_gnmt():
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(7, 1.0) == 2.0
    assert length_penalty(19, 0.5) == penalty(19, 0.5) == 2.0
