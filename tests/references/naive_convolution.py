"""ConvS2S written out: one sentence, one position at a time (Gehring et al. 2017, section 3)."""

import math

import torch

from tests.references.naive_attention import attend


def normalised(parameters, prefix):
    """w = g v / |v| for each row (Salimans and Kingma 2016), and the bias."""
    rows = zip(parameters[f"{prefix}.direction"], parameters[f"{prefix}.length"], strict=True)
    matrix = torch.stack([length * row / torch.sqrt((row**2).sum()) for row, length in rows])
    return matrix, parameters[f"{prefix}.bias"]


def linear(x, parameters, prefix):
    """(T, inputs) to (T, outputs)."""
    matrix, bias = normalised(parameters, prefix)
    return torch.stack([matrix @ row + bias for row in x])


def gated_convolution(x, parameters, prefix, kernel, before):
    """(T, inputs) to (T, D): a position sees `before` positions before it and kernel - 1 - `before` after."""
    matrix, bias = normalised(parameters, prefix)
    nothing = torch.zeros_like(x[0])
    rows = []
    for position in range(len(x)):
        where = range(position - before, position - before + kernel)
        window = torch.cat([x[i] if 0 <= i < len(x) else nothing for i in where])
        value, gate = (matrix @ window + bias).chunk(2)
        rows.append(value * torch.sigmoid(gate))
    return torch.stack(rows)


def convs2s(parameters, source, target_in, *, encoder_blocks, decoder_blocks, encoder_gradient):
    """Hidden states (T, D) of one sentence pair without padding; `*_blocks` are (channels, kernel)."""
    half = math.sqrt(0.5)
    embedded = parameters["words.source"][source] + parameters["source_positions.table"][: len(source)]
    x = linear(embedded, parameters, "encoder_in")
    for number, (_, kernel) in enumerate(encoder_blocks):
        prefix = f"encoder.{number}"
        hidden = gated_convolution(x, parameters, f"{prefix}.convolution.linear", kernel, kernel // 2)
        x = (hidden + _residual(x, parameters, prefix)) * half
    key = linear(x, parameters, "encoder_out")
    # The value of `key`, and `encoder_gradient` times its gradient.
    key = encoder_gradient * key + (1 - encoder_gradient) * key.detach()
    value = (key + embedded) * half

    target = parameters["words.target"][target_in] + parameters["target_positions.table"][: len(target_in)]
    x = linear(target, parameters, "decoder_in")
    for number, (_, kernel) in enumerate(decoder_blocks):
        prefix = f"decoder.{number}"
        hidden = gated_convolution(x, parameters, f"{prefix}.convolution.linear", kernel, kernel - 1)
        queries = (linear(hidden, parameters, f"{prefix}.query") + target) * half
        context = torch.stack([attend(query, key, value, 1.0) for query in queries])
        context = linear(context * len(source) * math.sqrt(1 / len(source)), parameters, f"{prefix}.context")
        x = ((context + hidden) * half + _residual(x, parameters, prefix)) * half
    return linear(x, parameters, "decoder_out")


def _residual(x, parameters, prefix):
    return linear(x, parameters, f"{prefix}.widen") if f"{prefix}.widen.bias" in parameters else x
