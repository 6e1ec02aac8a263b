"""The LSTM and its sequence-to-sequence model written out: one sentence, one word at a time."""

import torch

from tests.references.naive_attention import attend


def cell(x, h, c, weights):
    """One step of an LSTM (Hochreiter and Schmidhuber 1997); gates in order input, forget, cell, output."""
    w_ih, w_hh, b_ih, b_hh = weights
    gates = w_ih @ x + b_ih + w_hh @ h + b_hh
    width = len(h)
    enter, forget, candidate, leave = (gates[i * width : (i + 1) * width] for i in range(4))
    c = torch.sigmoid(forget) * c + torch.sigmoid(enter) * torch.tanh(candidate)
    return torch.sigmoid(leave) * torch.tanh(c), c


def recurrence(inputs, weights, start=None):
    """Hidden states (T, D) over `inputs` (T, in)."""
    width = weights[1].shape[1]
    h, c = start if start is not None else (inputs.new_zeros(width), inputs.new_zeros(width))
    states = []
    for x in inputs:
        h, c = cell(x, h, c, weights)
        states.append(h)
    return torch.stack(states)


def norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5) * weight + bias


def lstm_weights(parameters, prefix):
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [parameters[f"{prefix}.{name}"] for name in names]


def linear(x, parameters, prefix):
    return parameters[f"{prefix}.weight"] @ x + parameters[f"{prefix}.bias"]


def lstm_seq2seq(parameters, source, target_in, *, encoder_layers, decoder_layers, attention, input_feeding):
    """Hidden states (T, D) of one sentence pair without padding."""
    width = parameters["words.source"].shape[1]
    scale = width**0.5
    x = parameters["words.source"][source] * scale
    for number in range(encoder_layers):
        prefix = f"encoder.{number}"
        forwards = recurrence(x, lstm_weights(parameters, f"{prefix}.forwards"))
        backwards = recurrence(x.flip(0), lstm_weights(parameters, f"{prefix}.backwards")).flip(0)
        both = torch.cat((forwards, backwards), 1)
        x = x + torch.stack([linear(row, parameters, f"{prefix}.merge") for row in both])
    memory = norm(x, parameters["encoder_norm.weight"], parameters["encoder_norm.bias"])
    first = torch.tanh(linear(sum(memory) / len(memory), parameters, "bridge"))
    states = [
        (first[2 * i * width : (2 * i + 1) * width], first[(2 * i + 1) * width : (2 * i + 2) * width])
        for i in range(decoder_layers)
    ]
    names = ["bottom", *(f"above.{number}" for number in range(decoder_layers - 1))]
    fed = torch.zeros(width, dtype=x.dtype)
    outputs = []
    for word in target_in:
        embedded = parameters["words.target"][word] * scale
        inputs = torch.cat((embedded, fed)) if input_feeding else embedded
        states[0] = cell(inputs, *states[0], lstm_weights(parameters, "bottom"))
        query = linear(torch.cat((states[0][0], embedded)), parameters, "query")
        context = _context(query, memory, parameters, attention)
        x = embedded + states[0][0]
        for index, name in enumerate(names[1:], start=1):
            states[index] = cell(torch.cat((x, context)), *states[index], lstm_weights(parameters, name))
            x = x + states[index][0]
        output = linear(torch.cat((x, context)), parameters, "output")
        fed = norm(output, parameters["output_norm.weight"], parameters["output_norm.bias"])
        outputs.append(fed)
    return torch.stack(outputs)


def _context(query, memory, parameters, attention):
    if attention == "dot":
        return attend(query, memory, memory, len(query) ** -0.5)
    keys = [parameters["key.weight"] @ row for row in memory]
    if attention == "general":
        return attend(query, keys, memory, len(query) ** -0.5)
    scores = torch.stack([parameters["score"] @ torch.tanh(query + key) for key in keys])
    weights = torch.exp(scores) / torch.exp(scores).sum()
    return sum(weight * row for weight, row in zip(weights, memory, strict=True))
