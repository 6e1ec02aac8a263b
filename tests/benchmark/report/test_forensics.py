"""One output under many scores, against sacrebleu's own functions."""

import math
import re
from collections import Counter

import pytest
import sacrebleu

from benchmark.hypotheses import compress_lines, lines_sha256
from benchmark.report.forensics import (
    VARIANTS,
    forensic_rows,
    forensic_tables,
    length_classes,
    split_compounds,
)
from benchmark.report.sentence_significance import Outputs
from benchmark.report.study_results import load_study
from benchmark.rescore import References
from benchmark.study_texts import texts_folder
from tests.benchmark.report.records import scores, train_record

REFERENCES = [
    "A well-known Man walks.",
    "Two dogs run over the grass, and a third one sleeps in the sun.",
    "The state-of-the-art machine, which nobody has ever seen before, stands in the hall of old works today.",
]
OUTPUT = [
    "a well-known man walks .",
    "Two dogs run over grass, and one sleeps in the sun.",
    "The state-of-the-art machine which nobody has seen stands in the hall of an old factory today.",
]
SCORES = {one.name: one.score for one in VARIANTS}


def test_each_variant_is_what_sacrebleu_gives_for_its_settings():
    def bleu(ours, theirs, **settings):
        return sacrebleu.corpus_bleu(ours, [theirs], force=True, **settings).score

    assert SCORES["bleu"](OUTPUT, REFERENCES) == bleu(OUTPUT, REFERENCES)
    assert SCORES["bleu_lower_cased"](OUTPUT, REFERENCES) == bleu(OUTPUT, REFERENCES, lowercase=True)
    assert SCORES["bleu_international"](OUTPUT, REFERENCES) == bleu(OUTPUT, REFERENCES, tokenize="intl")
    assert SCORES["bleu_blanks"](OUTPUT, REFERENCES) == bleu(OUTPUT, REFERENCES, tokenize="none")
    assert SCORES["chrf"](OUTPUT, REFERENCES) == sacrebleu.corpus_chrf(OUTPUT, [REFERENCES]).score
    by_hand = [
        [
            side.replace(".", " .").replace("  .", " .").replace(",", " ,").replace("-", " ##AT##-##AT## ")
            for side in lines
        ]
        for lines in (OUTPUT, REFERENCES)
    ]
    expected = bleu(*by_hand, tokenize="none", smooth_method="none")
    assert SCORES["bleu_compound_split"](OUTPUT, REFERENCES) == pytest.approx(expected, abs=1e-12)
    assert SCORES["bleu_compound_split"](OUTPUT, REFERENCES) > SCORES["bleu"](OUTPUT, REFERENCES)
    mean = sum(sacrebleu.sentence_bleu(o, [r]).score for o, r in zip(OUTPUT, REFERENCES, strict=True)) / 3
    assert SCORES["bleu_mean_of_sentences"](OUTPUT, REFERENCES) == pytest.approx(mean, abs=1e-12)


def test_the_first_variant_is_what_multi_bleu_gives_of_tokenised_text():
    """An n-gram matches no more often than it is in the reference."""
    ours, theirs = (
        [re.sub(r" ?([.,])", r" \1", one).split() for one in side] for side in (OUTPUT, REFERENCES)
    )

    def n_grams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    precisions = [
        sum((n_grams(o, n) & n_grams(t, n)).total() for o, t in zip(ours, theirs, strict=True))
        / sum(n_grams(o, n).total() for o in ours)
        for n in (1, 2, 3, 4)
    ]
    lengths = [sum(map(len, side)) for side in (ours, theirs)]
    brevity = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    assert SCORES["bleu"](OUTPUT, REFERENCES) == pytest.approx(100 * brevity * math.prod(precisions) ** 0.25)


def test_the_reference_itself_scores_full():
    for name, score in SCORES.items():
        assert score(REFERENCES, REFERENCES) == pytest.approx(1.0 if name == "length_ratio" else 100.0)


def test_hyphens_inside_words_alone_are_split():
    assert split_compounds("a well-known - b -c d-") == "a well ##AT##-##AT## known - b -c d-"


def test_rows_and_tables_of_a_study(study_folder, tmp_path):
    def record(number, output):
        first = scores({("test", "bleu"): SCORES["bleu"](output, REFERENCES)}, sentences=3)
        return train_record(
            f"{number:016x}",
            f"model-{number}",
            scores=first,
            hypotheses_sha256={"test": lines_sha256(output)},
        )

    outputs = [OUTPUT, REFERENCES]
    made = [record(number, output) for number, output in enumerate(outputs)]
    folder = study_folder(*made)
    for one, output in zip(made, outputs, strict=True):
        (folder / "runs" / one.run_id / "hypotheses.test.txt.gz").write_bytes(compress_lines(output))
    texts = texts_folder(folder, made[0].experiment["task"], version=1, fingerprint="")
    texts.mkdir(parents=True)
    (texts / "test.reference.txt.gz").write_bytes(compress_lines(REFERENCES))
    study = load_study(folder)
    found = Outputs(folder, References(folder, tmp_path))
    rows = forensic_rows(study, found)
    assert found.left_out == []
    assert [(row["model"], row["sentences_of_1_to_9_words"]) for row in rows] == [
        ("model-0", 1),
        ("model-1", 1),
    ]
    assert rows[0]["sentences_of_30_and_more_words"] == 0
    assert rows[0]["bleu_of_30_and_more_words"] is None
    assert rows[1]["bleu_of_15_to_19_words"] == pytest.approx(100)
    assert sum(rows[0][f"sentences_of_{name.replace(' ', '_')}_words"] for name in length_classes()) == 3
    first, second = forensic_tables(study, rows)
    assert first.heading[-1].startswith("Cite the first column")
    assert second.heading == first.heading[:-1]
    begins = [line.partition(":")[0] for line in second.heading]
    assert begins[:4] == ["device", "budget", "runs", "held equal"]
    assert [row[0] for row in first.rows] == ["model-0", "model-1"]
    assert second.rows[1][-1] == "-"
    unscored = made[0].model_copy(
        update={"run_id": "e" * 16, "seed": 1, "scores": [], "hypotheses_sha256": {}}
    )
    not_tested = load_study(study_folder(*made, unscored))
    assert forensic_rows(not_tested, Outputs(folder, References(folder, tmp_path))) == rows
    (folder / "runs" / made[0].run_id / "hypotheses.test.txt.gz").write_bytes(compress_lines(["x"] * 3))
    changed = Outputs(folder, References(folder, tmp_path))
    assert [row["model"] for row in forensic_rows(study, changed)] == ["model-1"]
    assert "run 0000000000000000, test, bleu: the stored output is not" in changed.left_out[0]
