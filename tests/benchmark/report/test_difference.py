"""What differs between two studies or two runs, which of it exceeds the noise, and what is never compared."""

import itertools
import json
import re
import statistics

import pytest

from benchmark.config import UserError
from benchmark.report.difference import Quantity, compare
from benchmark.report.difference_tables import terminal_difference
from benchmark.report.reproduction import reproduction
from benchmark.report.study_results import StudyResults
from benchmark.report.thresholds import check_thresholds, parse_threshold
from tests.benchmark.report.records import BLEU, provenance, scores, speed_record, train_record

TEST = ("test", "bleu")
HASHES = {
    "batch_stream_sha256": "1" * 64,
    "loss_curve_sha256": "2" * 64,
    "weights_sha256": "3" * 64,
    "hypotheses_sha256": {"test": "4" * 64},
}
FALLS = [-0.3, -0.5, -0.2, -0.9, -0.4, -0.1, -0.6]


def runs(values, model="transformer-small", **fields):
    """One run for each value of BLEU, seeds from 0 on."""
    letter = {"transformer-small": "a", "lstm-small": "b", "convs2s-small": "c"}[model]
    return [
        train_record(f"{letter}{seed:015x}", model, seed=seed, scores=scores({TEST: value}), **fields)
        for seed, value in enumerate(values)
    ]


def study(*records, name="a-study", **fields):
    trains = tuple(record for record in records if record.kind == "train")
    speeds = tuple(record for record in records if record.kind == "speed")
    return StudyResults(name=name, train_records=trains, speed_records=speeds, **fields)


def difference(first, second):
    """Of two records, two lists of them, or two studies."""
    sides = [study(*side) if isinstance(side, list) else side for side in (first, second)]
    return compare(*sides, names=("before", "after"))


def row(found, quantity, split=None):
    (one,) = [one for one in found.results if (one.quantity, one.split) == (quantity, split)]
    return one


def changed(values, by):
    return [value + change for value, change in zip(values, by, strict=True)]


def exact_p(differences):
    """By looking at every assignment of signs."""
    seen = abs(sum(differences)) - 1e-9
    sums = [
        abs(sum(sign * one for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(one >= seen for one in sums) / len(sums)


def test_studies_are_compared_seed_by_seed():
    values = [30.0, 31.0, 29.0, 33.0, 30.5, 28.0, 32.0]
    found = difference(runs(values), runs(changed(values, FALLS)))
    one = row(found, "bleu", "test")
    assert one.seeds == (0, 1, 2, 3, 4, 5, 6)
    assert one.difference == pytest.approx(statistics.fmean(FALLS))
    # t(6) at 97.5 %; the spread of the seeds themselves is three times that of their differences
    assert one.half_width_95 == pytest.approx(2.44691 * statistics.stdev(FALLS) / 7**0.5, rel=1e-5)
    assert one.p_adjusted == pytest.approx(exact_p(FALLS))
    assert one.words == "first higher"
    text = terminal_difference(found)
    assert "-0.43 ± 0.25" in text
    assert "A higher" in text


def test_few_seeds_decide_nothing_and_that_is_said():
    found = difference(runs([30.0, 31.0, 32.0]), runs([20.0, 21.0, 22.0]))
    assert row(found, "bleu", "test").words == "undecidable with 3 seeds (needs 6)"


def test_the_cells_of_a_task_are_one_family():
    models = ("transformer-small", "lstm-small", "convs2s-small")
    first = [record for model in models for record in runs([30.0] * 7, model)]
    second = [record for model in models for record in runs(changed([30.0] * 7, FALLS), model)]
    by_model = {one.cell.model: one for one in difference(first, second).results if one.quantity == "bleu"}
    assert {one.family for one in by_model.values()} == {3}
    assert by_model["lstm-small"].p_adjusted == pytest.approx(3 * 2 / 2**7)
    assert by_model["lstm-small"].words == "first higher"


def test_what_tells_one_study_from_the_other_is_config_and_what_varies_within_is_a_setting():
    def grid(rate, widths):
        return [
            train_record(
                f"{width:016x}", experiment={"model": {"width": width}, "training": {"learning_rate": rate}}
            )
            for width in widths
        ]

    found = difference(grid(0.001, [64, 128]), grid(0.002, [128, 256]))
    assert [cell.settings for cell in found.cells] == ["width=128"]
    assert [(one.field, one.first, one.second) for one in found.config] == [
        ("training.learning_rate", 0.001, 0.002)
    ]
    assert found.unpaired == (
        "only in A: transformer-small width=64 on multi30k-en-de seed 0",
        "only in B: transformer-small width=256 on multi30k-en-de seed 0",
    )
    # one width alone in B is the setting that it is in A
    assert len(difference(grid(0.001, [64, 128]), grid(0.002, [128])).cells) == 1


def test_versions_are_config_and_the_machine_is_environment():
    second = train_record(
        "b" * 16,
        model_version=2,
        provenance=provenance(
            harness_version=2, torch_version="2.14.0", environment={"OMP_NUM_THREADS": "2"}
        ),
    )
    found = difference(train_record("a" * 16), second)
    assert [(one.field, one.first, one.second) for one in found.config] == [
        ("model.version", 1, 2), ("harness.version", 1, 2),
    ]  # fmt: skip
    assert [(one.field, one.first, one.second) for one in found.environment] == [
        ("torch_version", ("2.13.0+cpu",), ("2.14.0",)), ("environment.OMP_NUM_THREADS", (None,), ("2",)),
    ]  # fmt: skip
    text = terminal_difference(found)
    assert "model.version" in text
    assert "torch_version" in text


OTHER_DATA = {
    "task version": ({"task_version": 2}, "task.version: 1 in A, 2 in B"),
    "data files": ({"task_fingerprint": "f" * 8}, "task.fingerprint: '' in A, 'ffffffff' in B"),
    "data settings": (
        {"experiment": {"task": {"language_pair": "en-fr"}}},
        "task.language_pair: 'en-de' in A, 'en-fr' in B",
    ),
    "signature": (
        {"scores": scores({TEST: 30.0}, bleu_signature=BLEU.replace("13a", "intl"))},
        "signature of bleu: tok:13a in A, tok:intl in B",
    ),
    "sentences": ({"scores": scores({TEST: 30.0}, sentences=5)}, "sentences of test: 1,000 in A, 5 in B"),
}


@pytest.mark.parametrize(("fields", "text"), OTHER_DATA.values(), ids=OTHER_DATA)
def test_scores_of_other_data_or_another_signature_are_refused(fields, text):
    plain = {"scores": scores({TEST: 30.0})}
    first, second = train_record("a" * 16, **plain), train_record("b" * 16, **{**plain, **fields})
    name = "transformer-small on multi30k-en-de: A and B must not be compared"
    for sides in ((first, second), ([first], [second])):
        with pytest.raises(UserError) as error:
            difference(*sides)
        assert str(error.value) == f"{name}: {text}"


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("device", "Another Processor", "device"),
        ("threads", 4, "threads"),
        ("precision", "bfloat16", "precision"),
    ],
)
def test_speeds_of_another_machine_are_listed_and_not_compared(field, value, reason):
    elsewhere = provenance(**{field: value})
    first = runs([30.0] * 7)
    second = runs([31.0] * 7, provenance=elsewhere, train_target_tokens_per_second=8000.0)
    found = difference([*first, speed_record()], [*second, speed_record(provenance=elsewhere)])
    one = row(found, "train_target_tokens_per_second")
    assert one.words == f"not comparable: {reason}"
    assert (one.p_adjusted, one.half_width_95, one.is_comparable) == (None, None, False)
    assert {one.words for one in found.speeds} == {f"not comparable: {reason}"}
    assert row(found, "bleu", "test").words == "second higher"
    (check,) = check_thresholds([parse_threshold("train_seconds:5%")], found)
    assert (check.holds, check.words) == (False, f"not comparable: {reason}")


def test_speed_records_differ_only_where_their_intervals_do_not_overlap():
    plain = speed_record()

    def moved(row):
        by = {"transformer-small": 50.0, "lstm-small": 500.0}.get(row.model, 0.0) * (row.phase == "train")
        values = {"value": row.value + by, "low": row.low + by, "high": row.high + by}
        return row.model_copy(update=values if row.quantity == "target_tokens_per_second" else {})

    other = plain.model_copy(update={"rows": [moved(one) for one in plain.rows[::-1]], "noisy": True})

    def words(first, second):
        rows = [one for one in difference(first, second).speeds if one.phase == "train"]
        return {one.model: one.words for one in rows if one.quantity == "target_tokens_per_second"}

    overlapping = "not distinguishable"
    assert words(plain, other) == {"transformer-small": overlapping, "lstm-small": "second higher"}
    assert words(other, plain) == {"transformer-small": overlapping, "lstm-small": "first higher"}
    found = difference(plain, other)
    assert len(found.speeds) == len(plain.rows)
    assert found.remarks == ("noisy: there was other load or throttling while the speeds of B were timed",)
    (check,) = check_thresholds(
        [parse_threshold("train_target_tokens_per_second:-5%")], difference(plain, plain)
    )[:1]
    assert check.where == "speed of transformer-small on multi30k-en-de"
    assert difference(plain, plain).is_identical


def test_a_speed_row_under_other_conditions_is_another_row():
    plain = speed_record()
    rows = [one.model_copy(update={"conditions": {"baseline": "other"}}) for one in plain.rows]
    found = difference(plain, plain.model_copy(update={"rows": rows}))
    assert not found.speeds
    assert not found.has_matched


def test_two_single_runs_say_nothing_of_noise_unless_their_hashes_are_equal():
    first = train_record("a" * 16, scores=scores({TEST: 30.0}), **HASHES)
    slower = first.model_copy(update={"train_seconds": 1000.0})
    other = slower.model_copy(update={"weights_sha256": "5" * 64, "scores": scores({TEST: 30.1})})
    same = "the hashes of batch stream, loss curve, weights and output are equal: the results are the same"
    assert difference(first, slower).remarks == (same,)
    assert difference(first, other).remarks == (
        "one run against one: nothing about noise follows from one seed",
    )
    assert [one.hash for one in difference(first, other).hashes if not one.is_equal] == ["weights_sha256"]
    assert not difference(first, slower).is_identical
    assert "weights_sha256  3333" in terminal_difference(difference(first, other))
    unhashed = train_record("a" * 16)
    assert same not in difference(unhashed, unhashed).remarks


def test_hashes_of_studies_name_the_seeds_that_differ():
    first = runs([30.0] * 3, **HASHES)
    second = [
        one.model_copy(update={"loss_curve_sha256": "9" * 64}) if one.seed == 1 else one for one in first
    ]
    (one,) = [one for one in difference(first, second).hashes if not one.is_equal]
    assert (one.hash, one.differing_seeds) == ("loss_curve_sha256", (1,))
    assert "differ at seeds 1" in terminal_difference(difference(first, second))


def test_what_is_identical_is_said():
    found = difference(runs([30.0, 31.0], **HASHES), runs([30.0, 31.0], **HASHES))
    assert found.is_identical
    assert "identical: A and B have the same config, environment and results" in terminal_difference(found)
    assert json.loads(json.dumps(found.document()))["identical"] is True
    for other in (
        runs([30.0, 31.5], **HASHES),
        runs([30.0, 31.0], **{**HASHES, "weights_sha256": "7" * 64}),
        runs([30.0], **HASHES),
        runs([30.0, 31.0], **HASHES, provenance=provenance(python_version="3.12")),
    ):
        assert not difference(runs([30.0, 31.0], **HASHES), other).is_identical


def test_only_runs_that_are_done_enter_a_value():
    first, second = runs([30.0, 31.0, 32.0]), runs([30.0, 31.5])
    failure = {"failure": "the loss of step 7 is not finite", "diverged_step": 7}
    second.append(train_record("a" * 16, seed=2, status="diverged", scores=scores({TEST: 1.0}), **failure))
    found = difference(first, second)
    assert row(found, "bleu", "test").seeds == (0, 1)
    assert found.unpaired == (
        "transformer-small on multi30k-en-de seed 2: done in A, "
        "diverged (the loss of step 7 is not finite) in B",
    )


def test_counts_have_no_noise():
    found = difference(runs([30.0] * 7), runs([30.0] * 7, parameters=5))
    one = row(found, "parameters")
    assert (one.words, one.p_adjusted, one.difference) == ("differs", None, 5.0 - 4_012_345)
    assert "4,012,345" in terminal_difference(found)


def test_more_seeds_than_can_be_enumerated_are_cut_and_that_is_said():
    values = [30.0 + 0.01 * seed for seed in range(21)]
    found = difference(runs(values), runs(values[::-1]))
    assert len(row(found, "bleu", "test").seeds) == 20
    assert "scores, losses and speeds are compared over the first 20 common seeds" in found.remarks


def test_studies_of_other_models_have_nothing_in_common():
    found = difference(runs([30.0]), runs([30.0], "lstm-small"))
    assert not found.has_matched
    assert not found.is_identical


def test_a_study_and_a_record_are_not_compared():
    with pytest.raises(
        UserError,
        match=r"^before is a study and after a train record; give two of one kind: study, train or speed$",
    ):
        difference(runs([30.0]), train_record("a" * 16))
    with pytest.raises(UserError, match=r"^before is a speed record and after a train record"):
        difference(speed_record(), train_record("a" * 16))


def test_text_from_records_does_nothing_in_a_terminal():
    evil = "\x1b[31m\u202eevil\n"
    first = train_record("a" * 16, experiment={"training": {"schedule": evil}})
    second = train_record("a" * 16, provenance=provenance(device=evil))
    text = terminal_difference(difference([first], [second]))
    assert "\\x1b[31m" in text
    assert not {"\x1b", "\u202e"} & set(text)


def test_two_runs_fit_a_terminal_of_120_columns():
    second = train_record("b" * 16, train_target_tokens_per_second=4111.1, peak_memory_bytes=2**30)
    text = terminal_difference(difference(train_record("a" * 16), second), width=120)
    assert max(map(len, text.split("\n"))) <= 120
    assert re.search(r"^peak memory, MiB +1,234 +1,024 +-210 +-17\.0 ", text, re.M)


@pytest.mark.parametrize("name", ["train_seconds", "peak_memory_bytes", "energy_joules"])
def test_what_belongs_to_a_machine_has_noise_and_is_not_compared_across_machines(name):
    assert Quantity(name).needs_one_machine and Quantity(name).is_tested
    assert not Quantity("parameters").needs_one_machine


# Thresholds


def checks(first, second, *texts):
    return check_thresholds([parse_threshold(text) for text in texts], difference(first, second))


@pytest.mark.parametrize(
    ("threshold", "after", "holds"),
    [
        ("bleu:-0.5", 29.6, True),
        ("bleu:-0.5", 29.4, False),
        ("bleu:-0.5", 99.0, True),
        ("bleu:0.5", 29.4, True),
        ("bleu:+0.5", 30.6, False),
        ("bleu:-5%", 28.6, True),
        ("bleu:-5%", 28.4, False),
        ("bleu:5%", 31.6, False),
        ("bleu:-0", 30.0, True),
        ("bleu:-0", 29.9, False),
        ("bleu:.5%", 30.1, True),
    ],
)
def test_a_negative_threshold_guards_against_falls_and_a_positive_against_rises(threshold, after, holds):
    # the mean of each side decides, not any seed
    (check,) = checks(runs([20.0, 40.0]), runs([after + 20, after - 20]), threshold)
    assert check.holds is holds


def test_a_threshold_holds_in_every_cell_and_split_or_not_at_all():
    first = [*runs([30.0]), *runs([40.0], "lstm-small")]
    second = [*runs([30.0]), *runs([39.0], "lstm-small")]
    found = {check.where: check.holds for check in checks(first, second, "bleu:-0.5")}
    assert found == {
        "transformer-small on multi30k-en-de, test": True,
        "lstm-small on multi30k-en-de, test": False,
    }


def test_a_metric_means_the_test_splits():
    def one(test, validation):
        return train_record("a" * 16, scores=scores({TEST: test, ("validation", "bleu"): validation}))

    (check,) = checks(one(30.0, 30.0), one(30.0, 1.0), "bleu:-0.5")
    assert check.holds
    only_validation = train_record("a" * 16, scores=scores({("validation", "bleu"): 30.0}))
    (check,) = checks(only_validation, only_validation, "bleu:-0.5")
    assert (check.holds, check.words) == (False, "bleu was not measured in both, on a test split")


def test_a_threshold_on_what_one_side_did_not_measure_does_not_hold():
    second = runs([30.0, 31.0], generate_sentences_per_second=None)
    (check,) = checks(runs([30.0, 31.0]), second, "generate_sentences_per_second:-5%")
    assert not check.holds
    assert check.where == "transformer-small on multi30k-en-de, seed 0, 1"
    assert check.words == "generate_sentences_per_second was not measured in both"
    # nor does one at a seed that failed
    failed = train_record("a" * 16, seed=1, status="failed", failure="oom_host")
    found = checks(runs([30.0, 31.0]), [*runs([30.0]), failed], "bleu:-0.5")
    assert [(check.holds, check.where) for check in found] == [
        (True, "transformer-small on multi30k-en-de, test"),
        (False, "transformer-small on multi30k-en-de, test, seed 1"),
    ]
    # what neither measured in one cell does not matter where another cell has it
    others = runs([50.0], "lstm-small")
    blank = [one.model_copy(update={"scores": []}) for one in others]
    assert [check.holds for check in checks([*runs([30.0]), *blank], [*runs([30.0]), *blank], "bleu:-1")] == [
        True
    ]


@pytest.mark.parametrize(
    "text",
    ["bleu", "bleu:", ":-5%", "bleu:five", "bleu:--5", "bleu:nan", "bleu:1e", "bleu:5%%", "bleu:1e400"],
)
def test_a_malformed_threshold_is_refused(text):
    with pytest.raises(UserError, match="must have the form FIELD:THRESHOLD, as in bleu:-0"):
        parse_threshold(text)


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(UserError) as error:
        checks(runs([30.0]), runs([30.0]), "train_target_token_per_second:-5%")
    assert str(error.value) == (
        "--fail-on: 'train_target_token_per_second': unknown field; "
        "did you mean 'train_target_tokens_per_second'?"
    )


# A run that was made again


def made(**fields):
    values = {"scores": scores({TEST: 30.0}), **HASHES, **fields}
    return train_record("a" * 16, **values)


def test_equal_hashes_and_scores_reproduce_whatever_the_speed():
    result = reproduction(made(), made(train_seconds=1.0, peak_memory_bytes=1, finished_at="now"))
    assert result.holds is True
    assert result.lines == (
        f"reproduced: equal to run {'a' * 16} in batch_stream_sha256, loss_curve_sha256, weights_sha256, "
        "hypotheses_sha256.test, test bleu",
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"batch_stream_sha256": "9" * 64}, "batch_stream_sha256"),
        ({"loss_curve_sha256": "9" * 64}, "loss_curve_sha256"),
        ({"weights_sha256": "9" * 64}, "weights_sha256"),
        ({"hypotheses_sha256": {"test": "9" * 64}}, "hypotheses_sha256.test"),
        ({"scores": scores({TEST: 30.0 + 1e-12})}, "test bleu"),
    ],
)
def test_one_differing_bit_on_an_equal_machine_does_not_reproduce(fields, named):
    result = reproduction(made(), made(**fields))
    assert result.holds is False
    assert result.lines[0] == f"did not reproduce run {'a' * 16}: on an equal machine differ {named}"


OTHER_MACHINES = [
    ({"processor": "B"}, "processor A Processor @ 2.00GHz against B"),
    ({"processor_features": ["avx2", "avx512f"]}, "processor features avx2 against avx2 avx512f"),
    ({"device": "B"}, "device A Processor @ 2.00GHz against B"),
    ({"devices": 2}, "devices 1 against 2"),
    ({"threads": 4}, "threads 2 against 4"),
    ({"torch_version": "2.14.0"}, "torch version 2.13.0+cpu against 2.14.0"),
]


@pytest.mark.parametrize(("machine", "reason"), OTHER_MACHINES)
def test_on_another_machine_only_the_batch_stream_must_be_equal(machine, reason):
    other = {"weights_sha256": "9" * 64, "scores": scores({TEST: 30.25}), "provenance": provenance(**machine)}
    result = reproduction(made(), made(**other))
    assert result.holds is True
    assert result.lines == (
        f"not bitwise comparable ({reason}): the batch stream is that of run {'a' * 16}; "
        "differing, as may be: weights_sha256, test bleu",
        "test bleu: 30.00, again 30.25 (+0.25)",
    )
    result = reproduction(made(), made(**other, batch_stream_sha256="9" * 64))
    assert result.holds is False
    assert result.lines[0].startswith(f"did not reproduce run {'a' * 16}: seed and step alone decide")


def test_a_record_that_was_resumed_elsewhere_promises_no_bits():
    given = made(bitwise=False, not_bitwise_because="resumed with another processor")
    result = reproduction(given, made(weights_sha256="9" * 64))
    assert result.holds is True
    assert "(the record: resumed with another processor)" in result.lines[0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"model_version": 2, "run_id": "b" * 16},
            "model version 1 against 2, run id 'aaaaaaaaaaaaaaaa' against ",
        ),
        ({"provenance": provenance(harness_version=2)}, "harness version 1 against 2"),
        ({"task_fingerprint": "f"}, "data files '' against 'f'"),
        ({"status": "diverged", "diverged_step": 3}, "it was done and is diverged"),
    ],
)
def test_other_code_data_or_end_does_not_reproduce(fields, text):
    result = reproduction(made(), made().model_copy(update=fields))
    assert result.holds is False
    assert result.lines[0].startswith(f"did not reproduce run {'a' * 16}: {text}")


def test_nothing_is_said_of_a_run_that_failed_or_kept_no_hash():
    failed = train_record("a" * 16, status="failed", failure="oom_host")
    for given, again, why in [
        (made(), failed, "the run failed"),
        (failed, made(), "the record is of a run that failed"),
        (train_record("a" * 16), made(), "the two records have no hash and no score in common"),
    ]:
        result = reproduction(given, again)
        assert result.holds is None
        assert result.lines == (f"whether run {'a' * 16} reproduces cannot be said: {why}",)


def test_a_run_that_diverges_again_at_the_same_step_reproduces():
    given = train_record("a" * 16, status="diverged", diverged_step=7, last_finite_loss=3.5)
    assert reproduction(given, given).holds is True
    later = given.model_copy(update={"diverged_step": 8})
    assert reproduction(given, later).holds is False
