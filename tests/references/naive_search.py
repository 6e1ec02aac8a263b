"""Greedy and beam search written out: one sentence at a time, in Python lists.

`log_probabilities(words)` gives the log-probability of each word after `words`; `allowed` are the words that
may be produced, END among them.
"""

import itertools


def penalty(length, alpha):
    """Wu et al. 2016, equation 14."""
    return ((5 + length) / 6) ** alpha


def greedy_search(log_probabilities, allowed, end, limit):
    words: list[int] = []
    while len(words) < limit:
        scores = log_probabilities(words)
        word = max(allowed, key=lambda word: scores[word])
        if word == end:
            break
        words.append(word)
    return words


def beam_search(log_probabilities, allowed, end, limit, beam, alpha):
    """Best (words, log-probability). Always runs to the limit, to check early stopping against."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    finished = []
    for length in range(1, limit + 1):
        candidates = []
        for total, words in alive:
            scores = log_probabilities(words)
            candidates += [(total + scores[word], [*words, word]) for word in allowed]
        candidates.sort(key=lambda candidate: -candidate[0])
        for total, words in candidates[:beam]:
            if words[-1] == end:
                finished.append((total / penalty(length, alpha), words[:-1], total))
        alive = [candidate for candidate in candidates[: 2 * beam] if candidate[1][-1] != end][:beam]
    if not finished:
        total, words = alive[0]
        return words, total
    _, words, total = max(finished)
    return words, total


def exhaustive_search(log_probabilities, allowed, end, limit, alpha):
    """Best (words, log-probability) of all outputs that end within the limit, END counted."""
    others = [word for word in allowed if word != end]
    outputs = []
    for length in range(limit):
        for words_before_end in itertools.product(others, repeat=length):
            said = [*words_before_end, end]
            total = sum(log_probabilities(said[:i])[word] for i, word in enumerate(said))
            outputs.append((total / penalty(len(said), alpha), said[:-1], total))
    _, words, total = max(outputs)
    return words, total
