"""Attention and the Transformer equal loops, and PyTorch's own modules with the same weights."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

import models.layers.attention
from models.layers.attention import MultiHeadAttention, attention, causal_bias, padding_bias
from models.layers.embedding import Positions, sinusoids
from models.transformer import Config
from tests.references.gradients import assert_equal_with_gradients, sentence_lengths
from tests.references.naive_attention import layer_norm, multi_head, position_encoding

LENGTHS = [1, 2, 7, 63]
WIDTH, HEADS = 12, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def mask_of(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def drawn(layer):
    """In float64 with every parameter drawn anew: biases of 0 and norms of 1 would hide mistakes."""
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    return layer


def own_weights(layer):
    key, value = layer.key_value_weight.chunk(2)
    key_bias, value_bias = layer.key_value_bias.chunk(2)
    return [
        (layer.query_weight, layer.query_bias),
        (key, key_bias),
        (value, value_bias),
        (layer.output.weight, layer.output.bias),
    ]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_loops(length, causal):
    layer = drawn(MultiHeadAttention(WIDTH, HEADS))
    batch = 2 if length < 63 else 1
    x = torch.randn(batch, length, WIDTH, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([multi_head(row, row, own_weights(layer), HEADS, causal=causal) for row in x])
    assert_equal_with_gradients(layer(x, causal=causal), expected, [x, *layer.parameters()])


@pytest.mark.parametrize("length", LENGTHS)
def test_source_attention_equals_loops_over_the_words(length):
    layer = drawn(MultiHeadAttention(WIDTH, HEADS))
    lengths = sentence_lengths(length)
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(3, length, WIDTH, dtype=torch.float64, requires_grad=True)
    got = layer.look(x, *layer.keys_and_values(memory), padding_bias(mask_of(lengths)))
    expected = torch.stack(
        [multi_head(x[i], memory[i, :words], own_weights(layer), HEADS) for i, words in enumerate(lengths)]
    )
    assert_equal_with_gradients(got, expected, [x, memory, *layer.parameters()])


def torch_attention(layer, query, memory, **masks):
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64)
    weights = torch_attention_weights(layer)
    return functional_call(reference, weights, (query, memory, memory), {"need_weights": False, **masks})[0]


def torch_attention_weights(layer, prefix=""):
    return {
        f"{prefix}in_proj_weight": torch.cat((layer.query_weight, layer.key_value_weight)),
        f"{prefix}in_proj_bias": torch.cat((layer.query_bias, layer.key_value_bias)),
        f"{prefix}out_proj.weight": layer.output.weight,
        f"{prefix}out_proj.bias": layer.output.bias,
    }


@pytest.mark.parametrize("length", LENGTHS)
def test_attention_equals_pytorchs_module(length):
    layer = drawn(MultiHeadAttention(WIDTH, HEADS))
    x = torch.randn(3, length, WIDTH, dtype=torch.float64, requires_grad=True)
    mask = mask_of(sentence_lengths(length))
    leaves = [x, *layer.parameters()]
    expected = torch_attention(layer, x, x, key_padding_mask=~mask)
    assert_equal_with_gradients(layer(x, padding_bias(mask)), expected, leaves)
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    assert_equal_with_gradients(layer(x, causal=True), torch_attention(layer, x, x, attn_mask=future), leaves)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_fused_kernel_and_the_written_out_form_are_one_function(monkeypatch, causal, padded, scale):
    shape = (3, HEADS, 7, 4)
    query, key, value = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(3))
    bias = padding_bias(mask_of([7, 3, 1])) if padded else None
    options = {"causal": causal, "scale": scale}
    written_out = attention(query, key, value, bias, **options)
    monkeypatch.setattr(models.layers.attention, "_EXPLICIT_SCORES", 0)
    fused = attention(query, key, value, bias, **options)
    assert_equal_with_gradients(fused, written_out, [query, key, value])


def test_a_long_sequence_takes_the_fused_kernel_and_equals_the_written_out_form(monkeypatch):
    query = torch.randn(1, 1, 300, 4, dtype=torch.float64, requires_grad=True)
    fused = attention(query, query, query, causal=True)
    monkeypatch.setattr(models.layers.attention, "_EXPLICIT_SCORES", 300 * 300)
    assert_equal_with_gradients(fused, attention(query, query, query, causal=True), [query])


def test_biases_rule_out_padding_and_future_and_nothing_else():
    assert padding_bias(mask_of([2, 1])).tolist() == [[[[0.0, 0.0]]], [[[0.0, -math.inf]]]]
    assert causal_bias(2, torch.device("cpu")).tolist() == [[0.0, -math.inf], [0.0, 0.0]]


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_sinusoids_equal_the_formula(width):
    expected = torch.tensor(position_encoding(63, width), dtype=torch.float64)
    torch.testing.assert_close(sinusoids(63, width).double(), expected, rtol=0, atol=1e-6)


def test_positions_may_start_anywhere_and_end_with_the_table():
    positions = Positions(9, 4, learned=False)
    torch.testing.assert_close(positions(3, first=6), sinusoids(9, 4)[6:])
    with pytest.raises(ValueError, match=r"needs 10 positions and the model has 9; raise it"):
        positions(4, first=6)


def layer_weights(layer, attentions, arounds):
    """Weights of one of our layers under the names of PyTorch's."""
    weights: dict[str, torch.Tensor] = {}
    for name, own in attentions.items():
        weights |= torch_attention_weights(own, f"{name}.")
    for number, around in enumerate(arounds, start=1):
        weights |= {f"norm{number}.weight": around.norm.weight, f"norm{number}.bias": around.norm.bias}
    for name, linear in (("linear1", layer.feed_forward.inner), ("linear2", layer.feed_forward.outer)):
        weights |= {f"{name}.weight": linear.weight, f"{name}.bias": linear.bias}
    return weights


def pytorch_transformer(model, config, source, source_mask, target_in):
    """Hidden states by PyTorch's own layers with our model's weights."""
    options = {
        "dropout": 0.0,
        "batch_first": True,
        "norm_first": config.norm == "pre",
        "dtype": torch.float64,
    }
    sizes = (config.width, config.heads, config.feed_forward)
    parameters = dict(model.named_parameters())

    def embedded(words, side):
        if config.positions == "learned":
            positions = parameters[f"{side}_positions.table"][: words.shape[1]]
        else:
            table = position_encoding(words.shape[1], config.width)
            positions = torch.tensor(table, dtype=torch.float32).double()
        matrix = parameters["words.source"] if config.tied else parameters[f"words.{side}"]
        return matrix[words] * math.sqrt(config.width) + positions

    memory = embedded(source, "source")
    for layer in model.encoder:
        weights = layer_weights(
            layer,
            {"self_attn": layer.attention},
            [layer.around_attention, layer.around_feed_forward],
        )
        reference = nn.TransformerEncoderLayer(*sizes, **options)
        memory = functional_call(reference, weights, (memory,), {"src_key_padding_mask": ~source_mask})
    x = embedded(target_in, "target")
    future = torch.ones(target_in.shape[1], target_in.shape[1], dtype=torch.bool).triu(1)
    if config.norm == "pre":
        memory = layer_norm(memory, model.encoder_norm.weight, model.encoder_norm.bias)
    for layer in model.decoder:
        weights = layer_weights(
            layer,
            {"self_attn": layer.self_attention, "multihead_attn": layer.source_attention},
            [layer.around_self, layer.around_source, layer.around_feed_forward],
        )
        decoder_reference = nn.TransformerDecoderLayer(*sizes, **options)
        masks = {"tgt_mask": future, "memory_key_padding_mask": ~source_mask}
        x = functional_call(decoder_reference, weights, (x, memory), masks)
    return layer_norm(x, model.decoder_norm.weight, model.decoder_norm.bias) if config.norm == "pre" else x


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "pre"},
        {"norm": "post"},
        {"norm": "post", "positions": "learned", "tied": False},
    ],
    ids=str,
)
def test_the_transformer_equals_pytorchs_layers(options, length):
    config = Config(**options).tiny().model_copy(update={"width": WIDTH, "heads": HEADS})
    model = drawn(config.build(11))
    lengths = sentence_lengths(length)
    source, target_in = torch.randint(4, 11, (3, length)), torch.randint(4, 11, (3, length))
    mask = mask_of(lengths)
    got = model.decode(target_in, model.encode(source, mask))
    expected = pytorch_transformer(model, config, source, mask, target_in)
    matrix = model.words.source if config.tied else model.words.output
    assert_equal_with_gradients(model.logits(got), expected @ matrix.t(), list(model.parameters()))
