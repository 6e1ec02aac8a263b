"""What the report says of differences: by name, in families, over common seeds; and over sentences."""

import json
import random
import re
import statistics
from dataclasses import replace

import pytest
import scipy.stats
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.config import UserError
from benchmark.hypotheses import compress_lines, hypotheses_path, lines_sha256
from benchmark.measure.quality import METRICS
from benchmark.measure.resampling import paired_bootstrap_p, randomisation_p
from benchmark.record import record_bytes
from benchmark.report.comparison import groups
from benchmark.report.sentence_significance import compare_sentences, sentence_rows, sentence_tables
from benchmark.report.significance import LARGEST_FAMILY, families, significance_rows
from benchmark.report.study_results import StudyResults, load_study
from benchmark.report.tables import markdown_table, tables, terminal_table
from benchmark.study_texts import keep_texts, texts_folder
from tasks import Task
from tests.benchmark.report.records import provenance, scores, train_record

MODELS = ("transformer-small", "convs2s-small", "lstm-small")
NOISE = (0.3, -0.2, 0.5, 0.1, -0.4, 0.2, 0.0, 0.25, -0.1, 0.15)


def records_of(seeds, *, offsets=(0.0, 3.0, 3.05), **fields):
    """Three models; the second is clearly above the first, and the third where the second is."""
    return [
        train_record(
            f"{m}{seed:x}" * 8,
            model,
            seed=seed,
            scores=scores(
                {
                    ("test", "bleu"): 30.0 + offset + NOISE[(seed + 3 * m) % 10],
                    ("test", "chrf"): 50.0 + offset,
                    ("validation", "bleu"): 29.0 + offset,
                }
            ),
            **fields,
        )
        for m, (model, offset) in enumerate(zip(MODELS, offsets, strict=True))
        for seed in range(seeds)
    ]


def study(records):
    return StudyResults(name="a-study", train_records=tuple(records), model_order=MODELS)


def words_of(records):
    (group,) = groups(records, MODELS)
    return [[pair.words for pair in family.pairs] for family in families(group)]


def test_pairs_stand_in_the_order_of_rows_with_names_for_what_seven_seeds_say():
    (group,) = groups(records_of(7), MODELS)
    found = families(group)
    assert [(one.split, one.metric) for one in found] == [("test", "bleu"), ("test", "chrf")]
    assert [(pair.first.model, pair.second.model) for pair in found[0].pairs] == [
        (MODELS[0], MODELS[1]), (MODELS[0], MODELS[2]), (MODELS[1], MODELS[2]),
    ]  # fmt: skip
    assert [pair.words for pair in found[0].pairs] == [
        "convs2s-small higher", "lstm-small higher", "not distinguishable with 7 seeds",
    ]  # fmt: skip


def test_a_pair_is_compared_over_its_common_seeds_against_scipy():
    every = records_of(7)
    del every[1], every[12]  # seed 1 of the first model, seed 6 of the second
    (row, *_) = significance_rows(groups(every, MODELS))
    assert (row["seeds"], row["number_of_seeds"]) == ("0 2 3 4 5", 5)
    values = {(one.model_preset, one.seed): one.scores[0].value for one in every}
    first, second = ([values[model, seed] for seed in (0, 2, 3, 4, 5)] for model in MODELS[:2])
    expected = scipy.stats.ttest_rel(first, second).confidence_interval()
    assert row["mean_difference"] - row["half_width_95"] == pytest.approx(expected.low)
    assert row["mean_difference"] + row["half_width_95"] == pytest.approx(expected.high)
    exact = scipy.stats.permutation_test(
        (first, second), lambda a, b: statistics.fmean(a) - statistics.fmean(b),
        permutation_type="samples", vectorized=False,
    )  # fmt: skip
    assert row["p_sign_flips"] == pytest.approx(exact.pvalue)
    # second of three: the pair with six common seeds has a smaller p
    assert row["p_holm"] == pytest.approx(2 * exact.pvalue)
    assert (row["family"], row["seeds_to_decide"]) == (3, 7)
    assert row["words"] == "undecidable with 5 seeds (needs 7)"


def test_rows_of_json_have_equal_names_and_plain_values():
    rows = significance_rows(groups(records_of(1), MODELS))
    assert len(rows) == 6 and len({tuple(row) for row in rows}) == 1
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[0]["minimum_detectable_difference"] is None and rows[0]["half_width_95"] is None
    assert rows[0]["words"] == "undecidable with 1 seed (needs 7)"


def test_failed_and_diverged_runs_are_no_seeds():
    every = records_of(7)
    every[3] = train_record(every[3].run_id, MODELS[0], seed=3, status="diverged", scores=every[3].scores)
    assert significance_rows(groups(every, MODELS))[0]["seeds"] == "0 1 2 4 5 6"


def test_models_without_a_common_seed_have_no_table_and_a_pair_without_one_says_so():
    apart = [one for one in records_of(4) if (one.seed < 2) == (one.model_preset == MODELS[0])]
    assert words_of(apart)[0][:2] == ["no seed in common"] * 2
    assert "no seed in common" in terminal_table(study(apart))
    two = [one for one in apart if one.model_preset in MODELS[:2]]
    assert words_of(two) == []
    text = terminal_table(study(two))
    assert "these seeds say" not in text
    assert "significance tested: no, no two models have a seed in common" in " ".join(text.split())


def test_settings_of_one_model_are_no_two_models():
    every = [
        train_record(f"{i}{seed}" * 8, seed=seed, scores=scores({("test", "bleu"): 30.0 + i}),
                     experiment={"model": {"width": width}})
        for i, width in enumerate((64, 128)) for seed in range(7)
    ]  # fmt: skip
    assert words_of(every) == []
    other = train_record("f" * 16, "lstm-small", scores=scores({("test", "bleu"): 33.0}))
    (group,) = groups([*every, other])
    names = [f"{pair.first.label}/{pair.second.label}" for pair in families(group)[0].pairs]
    assert len(names) == 3 and "width=64/width=128" in names


def test_validation_is_tested_where_no_test_split_was_scored():
    every = [
        one.model_copy(update={"scores": [s for s in one.scores if s.split == "validation"]})
        for one in records_of(7)
    ]
    assert [row["split"] for row in significance_rows(groups(every))] == ["validation"] * 3


def test_a_search_is_no_family():
    every = [
        train_record(f"{i:02x}" * 8, MODELS[i % 2], scores=scores({("test", "bleu"): 30.0 + i}),
                     experiment={"training": {"learning_rate": 0.001 * (1 + i)}})
        for i in range(11)
    ]  # fmt: skip
    assert (
        significance_rows(groups(every[:-1])) and len(significance_rows(groups(every[:-1]))) == LARGEST_FAMILY
    )
    assert significance_rows(groups(every)) == []
    assert "11 rows make 55 pairs, and up to 45 are tested" in " ".join(terminal_table(study(every)).split())


def test_of_more_seeds_than_can_be_enumerated_flips_are_drawn_and_that_is_said():
    every = [
        train_record(f"{m:x}" * 8 + f"{seed:08x}", model, seed=seed,
                     scores=scores({("test", "bleu"): 30.0 + m + NOISE[(seed + m) % 10]}))
        for m, model in enumerate(MODELS[:2]) for seed in range(23)
    ]  # fmt: skip
    (row,) = significance_rows(groups(every))
    assert row["number_of_seeds"] == 23
    said = "of more than 20 seeds in common, 100,000 flips of signs are drawn"
    assert said in terminal_table(study(every))


def test_families_do_not_cross_the_borders_of_tables():
    other = records_of(2, provenance=provenance(threads=4))
    rows = significance_rows(groups([*records_of(2), *other]))
    assert sorted({row["table"] for row in rows}) == [1, 2]
    assert {row["family"] for row in rows} == {3}


def test_the_table_follows_those_of_quality_and_shows_every_pair_in_both_forms():
    found = tables(study(records_of(7)))[:-1]  # the last one is what is published
    assert [one.title for one in found] == [
        "a-study: multi30k-en-de", "a-study: multi30k-en-de, significance",
    ]  # fmt: skip
    assert len(found[1].rows) == 6 and {len(row) for row in found[1].rows} == {len(found[1].columns)}
    first = found[1].rows[0]
    assert first[:4] == ["test BLEU", "transformer-small", "convs2s-small", "7"]
    assert re.fullmatch(r"-\d\.\d\d ± 0\.\d\d", first[4])
    assert first[5:8] == ["0.016", "0.047", "convs2s-small higher"]
    assert first[8] == "0.00 (0.00 to 0.41)"
    text = terminal_table(study(records_of(7)), width=120)
    assert max(map(len, text.split("\n"))) <= 120
    assert markdown_table(study(records_of(7))).count("| convs2s-small higher |") == 2


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        (lambda every: every, "significance tested: yes; same data and preprocessing: yes;"),
        (lambda every: every, "a metric beyond BLEU: yes (chrF); signatures shown: yes;"),
        (
            lambda every: every[::7],
            "significance tested: no, there is 1 seed in common, and it takes 7;",
        ),
        (lambda every: every[:7], "significance tested: no, there is one model;"),
        (
            lambda every: [
                one.model_copy(update={"scores": [s for s in one.scores if s.metric == "bleu"]})
                for one in every
            ],
            "a metric beyond BLEU: no;",
        ),
        (
            lambda every: [
                *every[1:],
                train_record("f" * 16, MODELS[0], experiment={"data": {"maximum_tokens": 9}},
                             scores=every[0].scores),
            ],
            "same data and preprocessing: no, data.maximum_tokens varies;",
        ),
    ],
)  # fmt: skip
def test_a_checklist_stands_under_each_table_of_scores(change, answer):
    text = " ".join(terminal_table(study(change(records_of(7)))).split())
    assert text.count("Checklist (Marie et al. 2021)") == 1
    assert answer in text


def test_runs_without_scores_have_no_checklist():
    assert "Checklist" not in terminal_table(study([train_record("a" * 16)]))


# Over sentences

WORDS = [f"w{i}" for i in range(50)]


class Lines(Task):
    metrics = ("bleu",)
    vocabulary = "symbols"

    def pairs(self, split):
        draw = random.Random(1)
        for _ in range(30):
            yield "a source", " ".join(draw.choices(WORDS, k=8))


REFERENCES = [reference for _, reference in Lines().pairs("test")]


def output(rate, seed):
    draw = random.Random(seed)
    return [" ".join("x" if draw.random() < rate else word for word in line.split()) for line in REFERENCES]


@pytest.fixture
def study_with_output(tmp_path):
    """A writer of a study of two models, of which the second makes more mistakes; returns its folder."""

    def write(seeds, metrics=("bleu", "chrf"), keep=True):
        folder = tmp_path / "a-study"
        for m, model in enumerate(MODELS[:2]):
            for seed in range(seeds):
                lines = output(0.2 + 0.2 * m, 100 * m + seed)
                values = {("test", metric): METRICS[metric](lines, REFERENCES).value for metric in metrics}
                signatures = {metric: METRICS[metric](lines, REFERENCES).signature for metric in metrics}
                record = train_record(
                    f"{m}{seed:x}" * 8,
                    model,
                    seed=seed,
                    scores=[
                        replace(one, signature=signatures[one.metric])
                        for one in scores(values, sentences=30)
                    ],
                    hypotheses_sha256={"test": lines_sha256(lines)},
                )  # fmt: skip
                run = folder / "runs" / record.run_id
                run.mkdir(parents=True)
                (run / "record.json").write_bytes(record_bytes(record))
                hypotheses_path(run, "test").write_bytes(compress_lines(lines))
        if keep:
            task = record.experiment["task"]
            keep_texts(texts_folder(folder, task, version=1, fingerprint=""), Lines(), ["test"])
        return folder

    return write


def compared(folder, tmp_path):
    return compare_sentences(load_study(folder), folder, tmp_path)


def test_every_seed_of_the_first_metric_is_tested_over_sentences(study_with_output, tmp_path):
    folder = study_with_output(2)
    found = compared(folder, tmp_path)
    (one,) = found.comparisons
    assert (one.split, one.metric, one.seeds, one.sentences) == ("test", "bleu", (0, 1), 30)
    for seed in (0, 1):
        pair = (output(0.2, seed), output(0.4, 100 + seed), REFERENCES)
        assert one.randomisation_p[seed] == randomisation_p("bleu", *pair)
        assert one.bootstrap_p[seed] == paired_bootstrap_p("bleu", *pair)
    assert found.left_out == () and one.interval is None
    (row,) = sentence_rows(found)
    assert row["randomisation_p"] == list(one.randomisation_p)
    (table,) = sentence_tables(load_study(folder), found)
    assert [line.partition(":")[0] for line in table.heading[:3]] == ["device", "budget", "runs"]
    assert "offered from 10 seeds in common on" in table.notes[-1]
    assert len(table.rows[0]) == len(table.columns) == 7


def test_ten_seeds_have_an_interval_over_seeds_and_sentences(study_with_output, tmp_path):
    folder = study_with_output(10, metrics=("token_accuracy",))
    (one,) = compared(folder, tmp_path).comparisons
    assert one.interval is not None and one.interval.number_of_seeds == 10
    values = [
        [METRICS["token_accuracy"](output(rate, first + s), REFERENCES).value for s in range(10)]
        for rate, first in ((0.4, 100), (0.2, 0))  # rows are in the order of names
    ]
    assert one.interval.mean_difference == pytest.approx(
        statistics.fmean(values[0]) - statistics.fmean(values[1])
    )
    assert -30 < one.interval.low < one.interval.mean_difference < one.interval.high < -10
    (table,) = sentence_tables(load_study(folder), compared(folder, tmp_path))
    assert re.fullmatch(r"-18\.3 \(-2\d\.\d to -1\d\.\d\)", table.rows[0][-1])
    assert table.rows[0][3] == "10" and table.rows[0][4].count("/") == 2


def test_output_that_is_missing_or_not_the_records_is_left_out_with_the_words_of_rescore(
    study_with_output, tmp_path
):
    folder = study_with_output(3, metrics=("token_accuracy",))
    hypotheses_path(folder / "runs" / ("00" * 8), "test").unlink()
    hypotheses_path(folder / "runs" / ("12" * 8), "test").write_bytes(compress_lines(output(0.9, 5)))
    found = compared(folder, tmp_path)
    assert found.comparisons[0].seeds == (1,)
    missing, changed = found.left_out
    assert missing == f"run {'00' * 8}, test, token_accuracy: hypotheses.test.txt.gz is missing"
    assert "the stored output is not what the run produced" in changed


def test_references_that_nobody_has_are_the_error_of_rescore(study_with_output, tmp_path):
    folder = study_with_output(1, keep=False)
    with pytest.raises(UserError, match=r"task\.language_pair: unknown field"):
        compared(folder, tmp_path)


def seqbench(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_adds_the_tests_over_sentences(study_with_output, tmp_path):
    folder = study_with_output(2, metrics=("token_accuracy",))
    arguments = ["report", folder, "--significance", "--data-dir", tmp_path]
    code, text, errors = seqbench(*arguments)
    assert (code, errors.count("\n")) == (0, 1) and "2 pairs of outputs to compare" in errors
    assert "significance over sentences" in text and "Randomisation p: of 10,000 trials" in text
    assert "significance over sentences" not in seqbench("report", folder)[1]
    code, text, _ = seqbench(*arguments, "--json")
    document = json.loads(text)
    assert [row["seeds"] for row in document["sentence_significance"]] == [[0, 1]]
    assert len(document["significance"]) == 1
    hypotheses_path(folder / "runs" / ("00" * 8), "test").unlink()
    code, text, errors = seqbench(*arguments, "--format", "markdown")
    assert code == 3 and "hypotheses.test.txt.gz is missing" in errors
    assert "significance over sentences" in text


def test_a_study_of_one_model_says_why_nothing_is_tested(study_with_output, tmp_path):
    folder = study_with_output(1, metrics=("token_accuracy",))
    (folder / "runs" / ("10" * 8) / "record.json").unlink()
    code, text, errors = seqbench("report", folder, "--significance", "--data-dir", tmp_path)
    assert code == 0 and "not tested: there is one model" in errors
    assert "significance over sentences" not in text
