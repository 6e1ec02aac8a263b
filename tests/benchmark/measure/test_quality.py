"""Scores: known values, degenerate corpora, and equality with sacrebleu's own command on stored files."""

import json
import math
import subprocess
import sys

import pytest

from benchmark.hypotheses import compress_lines
from benchmark.measure.quality import (
    METRICS,
    bleu,
    chrf,
    count_words,
    perplexity,
    sequence_accuracy,
    token_accuracy,
)

KNOWN = [  # metric, hypotheses, references, value worked out by hand
    pytest.param("bleu", ["a b c d"], ["a b c d"], 100.0, id="bleu: equal"),
    # precisions 4/5, 3/4, 2/3, 1/2, no brevity penalty
    pytest.param(
        "bleu", ["a b c d x"], ["a b c d e"], 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25, id="bleu: tail"
    ),
    # all n-grams match, four words against eight
    pytest.param("bleu", ["a b c d"], ["a b c d e f g h"], 100 * math.exp(1 - 8 / 4), id="bleu: brevity"),
    # counts are summed over the corpus before precisions: 4+0 of 8, 3 of 6, 2 of 4, 1 of 2
    pytest.param("bleu", ["a b c d", "w x y z"], ["a b c d", "e f g h"], 50.0, id="bleu: corpus, not mean"),
    # 1-grams 2/4; then smoothing halves: 1/(2*3), 1/(4*2), 1/(8*1)
    pytest.param("bleu", ["a x b y"], ["a b c d"], 100 * (2 / 4 / 6 / 8 / 8) ** 0.25, id="bleu: smoothing"),
    pytest.param("bleu", ["a b c"], ["a b c"], 0.0, id="bleu: no four tokens"),
    pytest.param(
        "bleu", ["A b c d"], ["a b c d"], 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25, id="bleu: cased"
    ),
    pytest.param("bleu", [""], ["a b c d"], 0.0, id="bleu: empty hypothesis"),
    pytest.param("bleu", ["a b c d"], [""], 0.0, id="bleu: empty reference"),
    pytest.param("bleu", [""], [""], 0.0, id="bleu: both empty"),
    pytest.param("bleu", ["a b c d", ""], ["a b c d", ""], 100.0, id="bleu: an empty pair counts nothing"),
    pytest.param("chrf", ["abcdef"], ["abcdef"], 100.0, id="chrf: equal"),
    pytest.param("chrf", ["ab cdef"], ["abcd ef"], 100.0, id="chrf: blanks do not count"),
    # only 1-grams exist: precision 1, recall 1/2 over orders that both have; F2 = 5pr / (4p + r)
    pytest.param("chrf", ["a"], ["ab"], 100 * 5 * 0.5 / 4.5, id="chrf: recall weighs more"),
    pytest.param("chrf", ["ab"], ["a"], 100 * 5 * 0.5 / 3, id="chrf: precision weighs less"),
    pytest.param("chrf", [""], ["abc"], 0.0, id="chrf: empty hypothesis"),
    pytest.param("chrf", ["abc"], [""], 0.0, id="chrf: empty reference"),
    pytest.param("chrf", [""], [""], 0.0, id="chrf: both empty"),
    pytest.param("sequence_accuracy", ["1 2", "3"], ["1 2", "4"], 50.0, id="sequences: one of two"),
    pytest.param(
        "sequence_accuracy", [" 1  2 "], ["1 2"], 100.0, id="sequences: amount of blank is no difference"
    ),
    pytest.param("sequence_accuracy", ["1 2 3"], ["1 2"], 0.0, id="sequences: too long"),
    pytest.param("sequence_accuracy", ["", ""], ["", "1"], 50.0, id="sequences: empty"),
    pytest.param("token_accuracy", ["1 2 3"], ["1 3 2"], 100 / 3, id="tokens: by position"),
    pytest.param(
        "token_accuracy", ["1", "1 2 3"], ["1 2", "9 2"], 50.0, id="tokens: missing wrong, extra ignored"
    ),
    pytest.param("token_accuracy", ["2 3 4"], ["1 2 3"], 0.0, id="tokens: shifted"),
    pytest.param("token_accuracy", ["1 2 3 4", "x"], ["1 2 3 4", "1"], 80.0, id="tokens: corpus, not mean"),
    pytest.param("token_accuracy", [""], ["1"], 0.0, id="tokens: empty hypothesis"),
    pytest.param("token_accuracy", [""], [""], 100.0, id="tokens: both empty"),
    pytest.param("token_accuracy", ["1"], [""], 0.0, id="tokens: empty reference"),
]


@pytest.mark.parametrize(("metric", "hypotheses", "references", "value"), KNOWN)
def test_known_values(metric, hypotheses, references, value):
    score = METRICS[metric](hypotheses, references)
    assert score.value == pytest.approx(value, abs=1e-9)
    assert (score.metric, score.sentences) == (metric, len(references))


@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_refuses_unequal_numbers_of_sentences_and_none_at_all(metric):
    with pytest.raises(ValueError, match=r"^1 hypotheses for 2 references; each needs its own$"):
        METRICS[metric](["a"], ["a", "b"])
    with pytest.raises(ValueError, match=r"^2 hypotheses for 1 references"):
        METRICS[metric](["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no sentences"):
        METRICS[metric]([], [])


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0b", "\x0c", "\r", "\x1c"])
def test_a_separator_inside_a_sentence_makes_no_second_sentence(separator):
    sentences = [f"one{separator}two three four five", "six seven eight nine"]
    assert bleu(sentences, sentences).sentences == 2
    assert bleu(sentences, sentences).value == pytest.approx(100)
    assert sequence_accuracy(sentences, sentences).value == token_accuracy(sentences, sentences).value == 100


REFERENCES = [
    "Ein Mann schläft in einem grünen Raum auf einem Sofa.",
    'Zwei Männer stehen am Herd und "bereiten" Essen zu.',
    "Ein Junge mit Kopfhörern sitzt auf den Schultern einer Frau.",
    "",
    "Ein\u2028kleines Mädchen klettert, 3.5 Meter hoch, in ein Spielhaus aus Holz.",
]
HYPOTHESES = [
    "Ein Mann schläft auf einer grünen Couch in einem Raum.",
    "Zwei Männer stehen am Herd und bereiten etwas zu .  ",
    "Ein Junge sitzt auf den Schultern einer Frau.",
    "Nichts",
    "",
]


def test_scores_and_signatures_are_those_of_sacrebleus_command_on_stored_files(tmp_path):
    # the rule: what the record says is what anyone gets from the files
    hypotheses, references = tmp_path / "hypotheses.test.txt.gz", tmp_path / "test.reference.txt.gz"
    hypotheses.write_bytes(compress_lines(HYPOTHESES))
    references.write_bytes(compress_lines(REFERENCES))
    command = [sys.executable, "-m", "sacrebleu", str(references), "-i", str(hypotheses)]
    command += ["-m", "bleu", "chrf", "--width", "12", "--format", "json"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    expected_bleu, expected_chrf = json.loads(run.stdout)
    for score, expected in [
        (bleu(HYPOTHESES, REFERENCES), expected_bleu),
        (chrf(HYPOTHESES, REFERENCES), expected_chrf),
    ]:
        assert score.value == pytest.approx(expected["score"], abs=1e-9)
        assert 0 < score.value < 100
        assert score.signature == expected["signature"]


def test_perplexity_is_the_exponential_of_nats_per_token():
    assert perplexity(3 * math.log(7), 3) == pytest.approx(7)
    assert perplexity(0.0, 1) == 1
    assert perplexity(1e6, 1) == math.inf
    with pytest.raises(ValueError, match="at least one token"):
        perplexity(1.0, 0)


def test_words_of_perplexity_are_those_between_blanks_and_one_end_per_sentence():
    assert count_words(["Ein Mann schläft.", "", " a  b "]) == 4 + 1 + 3
    assert count_words([]) == 0
