"""Weights of attention as they are read while a model runs, against loops in float64 and known values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.measure.attention_maps import attention_maps, entropy, head_divergence, offset_shares
from models import BEGIN, Memory, Seq2SeqModel, State, convs2s, lstm, transformer
from models.layers import attention as attention_module

SOURCE = torch.tensor([7, 5, 9, 8, 6, 3])
TARGET_IN = torch.tensor([BEGIN, 5, 9, 7])


def built(module: Any, **fields: Any) -> Any:
    torch.manual_seed(0)
    return module.Config(**fields).tiny().build(20).eval()


def by_loops(query: Tensor, key: Tensor, allowed: Any) -> Tensor:
    """Weights (H, T, S) from (H, T, d) and (H, S, d), one number at a time."""
    weights = torch.zeros(*query.shape[:2], key.shape[1], dtype=torch.float64)
    for head in range(len(query)):
        for i, q in enumerate(query[head].double()):
            scores = {
                j: math.exp(float((q * k).sum()) / math.sqrt(len(q)))
                for j, k in enumerate(key[head].double())
                if allowed(i, j)
            }
            for j, score in scores.items():
                weights[head, i, j] = score / sum(scores.values())
    return weights


@pytest.mark.parametrize("explicit", [True, False], ids=["written out", "fused kernel"])
def test_the_transformer_s_maps_are_its_queries_on_its_keys(
    explicit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not explicit:
        monkeypatch.setattr(attention_module, "_EXPLICIT_SCORES", 0)
    model = built(transformer)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    original = attention_module.attention

    def watching(query: Tensor, key: Tensor, *rest: Any, **fields: Any) -> Tensor:
        seen[str(len(seen))] = query[0], key[0]
        return original(query, key, *rest, **fields)

    monkeypatch.setattr(attention_module, "attention", watching)
    maps = attention_maps(model, SOURCE, TARGET_IN)
    assert [(one.part, one.layer) for one in maps] == [
        ("encoder", 1), ("encoder", 2), ("decoder", 1), ("source", 1), ("decoder", 2), ("source", 2),
    ]  # fmt: skip
    assert len(seen) == len(maps)
    for one, (query, key) in zip(maps, seen.values(), strict=True):
        expected = by_loops(query, key, lambda i, j, one=one: one.part != "decoder" or j <= i)
        torch.testing.assert_close(one.weights.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (built(convs2s), 2),
        (built(lstm), 1),
        (built(lstm, attention="additive"), 1),
        (built(lstm, attention="dot"), 1),
    ],
    ids=["convs2s", "lstm", "additive", "dot"],
)
def test_models_without_self_attention_have_maps_of_the_source_alone(model: Any, layers: int) -> None:
    maps = attention_maps(model, SOURCE, TARGET_IN)
    assert [(one.part, one.layer) for one in maps] == [("source", n) for n in range(1, layers + 1)]
    for one in maps:
        assert one.weights.shape == (1, len(TARGET_IN), len(SOURCE))
        torch.testing.assert_close(one.weights.sum(-1), torch.ones(1, len(TARGET_IN)))


class WithTorchAttention(Seq2SeqModel):
    """A user's model, of PyTorch's own layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True)
        self.across = nn.MultiheadAttention(16, 2, batch_first=True)

    def encode(self, source: Tensor, source_mask: Tensor) -> Memory:
        memory = Memory(source_mask)
        self.hidden = self.layer(self.words(source), src_key_padding_mask=~source_mask)
        return memory

    def decode(self, target_in: Tensor, memory: Memory) -> Tensor:
        return self.across(self.words(target_in), self.hidden, self.hidden, need_weights=False)[0]

    def start(self, memory: Memory) -> State:
        raise NotImplementedError

    def decode_step(self, token: Tensor, state: State) -> tuple[Tensor, State]:
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        raise NotImplementedError


def test_pytorch_s_own_attention_is_seen_as_well() -> None:
    torch.manual_seed(0)
    model = WithTorchAttention().eval()
    encoder, source = attention_maps(model, SOURCE, TARGET_IN)
    assert (encoder.part, encoder.weights.shape) == ("encoder", (2, 6, 6))
    assert (source.part, source.weights.shape) == ("source", (2, 4, 6))
    with torch.no_grad():
        words, queries = model.words(SOURCE[None]), model.words(TARGET_IN[None])
        _, inside = model.layer.self_attn(words, words, words, average_attn_weights=False)
        _, across = model.across(queries, model.hidden, model.hidden, average_attn_weights=False)
    torch.testing.assert_close(encoder.weights, inside[0])
    torch.testing.assert_close(source.weights, across[0])


def test_a_watched_model_computes_what_it_computes_unwatched() -> None:
    model = built(transformer)
    mask = torch.ones(1, len(SOURCE), dtype=torch.bool)
    before = model.decode(TARGET_IN[None], model.encode(SOURCE[None], mask))
    attention_maps(model, SOURCE, TARGET_IN)
    assert torch.equal(model.decode(TARGET_IN[None], model.encode(SOURCE[None], mask)), before)


def test_sides_of_one_length_are_refused() -> None:
    with pytest.raises(ValueError, match="must differ in length, both have 6 words"):
        attention_maps(built(transformer), SOURCE, SOURCE)


def test_heads_that_agree_are_not_apart_and_heads_on_different_words_are_log_2_h() -> None:
    same = torch.softmax(torch.randn(1, 5, 8), -1).expand(4, 5, 8)
    assert head_divergence(same) == pytest.approx(0.0, abs=1e-6)
    apart = torch.eye(4)[:, None].expand(4, 3, 4)
    assert head_divergence(apart) == pytest.approx(2.0)
    half = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])
    expected = 0.8112781244591328 - 0.5  # H(3/4, 1/4) less the mean of 0 and 1
    assert head_divergence(half) == pytest.approx(expected)
    assert entropy(torch.full((8,), 0.125)) == pytest.approx(3.0)


def test_a_head_of_the_word_before_has_its_share_there() -> None:
    before = torch.zeros(1, 6, 6)
    before[0, 0, 0] = 1.0
    for query in range(1, 6):
        before[0, query, query - 1] = 1.0
    shares = offset_shares(before, 2)[0].tolist()
    assert shares == pytest.approx([0.0, 1.0, 1 / 6, 0.0, 0.0])
