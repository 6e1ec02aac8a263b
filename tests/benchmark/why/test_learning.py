"""What needs training: verdicts from seeds, and that a model which learned nothing proves nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from benchmark.record import LayerRecord, SpeedRow, TrainRecord
from benchmark.report.comparison import Matched
from benchmark.report.layout import NOT_MEASURED
from benchmark.report.study_results import StudyResults
from benchmark.why.claims import CLAIMS
from benchmark.why.cost import tables_2_and_3
from benchmark.why.facts import Facts
from benchmark.why.finding import CONTRADICTED, SUPPORTED, UNDECIDED, Finding
from benchmark.why.page import why_tables
from benchmark.why.table import further_tables
from tests.benchmark.report.records import provenance, scores, speed_record, train_record
from tests.benchmark.why.synthetic import row
from tests.benchmark.why.test_claims import reason

BY_NUMBER = {claim.number: claim for claim in CLAIMS}


def finding(number: str, facts: Facts) -> Finding:
    """The verdict; an undecided one has its reason, and no other has one."""
    found = BY_NUMBER[number].finding(facts)
    why = reason(BY_NUMBER[number], facts)
    assert bool(why) == (found.verdict == UNDECIDED), found.effect
    assert found.effect.endswith(why)
    return found


def runs(task: str, seeds: int = 7, **models: tuple[float, float]) -> list[TrainRecord]:
    """Of each model: accuracy at the smallest and at the largest trained distance, and a seed's own noise."""
    return [
        train_record(
            f"{task} {model} {seed}",
            f"{model}-small",
            seed=seed,
            task_preset=task,
            task_name=task,
            scores=scores(
                {
                    ("distance_1_trained", "sequence_accuracy"): near + 0.1 * seed,
                    ("distance_16_trained", "sequence_accuracy"): far - 0.1 * seed,
                    ("distance_32", "sequence_accuracy"): far / 2,
                }
            ),
        )
        for model, (near, far) in models.items()
        for seed in range(seeds)
    ]


GOOD, FALLS, NOTHING = (98.0, 95.0), (97.0, 40.0), (2.0, 1.8)


@pytest.mark.parametrize(
    ("recall", "agreement", "verdict"),
    [
        ({"transformer": GOOD, "lstm": FALLS}, {"transformer": GOOD, "lstm": FALLS}, SUPPORTED),
        ({"transformer": GOOD, "lstm": FALLS}, {"transformer": GOOD, "lstm": GOOD}, SUPPORTED),
        ({"transformer": GOOD, "lstm": FALLS}, {"transformer": FALLS, "lstm": GOOD}, UNDECIDED),
        ({"transformer": FALLS, "lstm": GOOD}, {"transformer": GOOD, "lstm": GOOD}, CONTRADICTED),
        ({"transformer": NOTHING, "lstm": GOOD}, {"transformer": GOOD, "lstm": GOOD}, UNDECIDED),
        ({"transformer": GOOD, "lstm": NOTHING}, {"transformer": GOOD, "lstm": GOOD}, UNDECIDED),
        ({"transformer": NOTHING, "lstm": NOTHING}, {"transformer": NOTHING, "lstm": NOTHING}, UNDECIDED),
    ],
    ids=["both", "one", "split", "lstm", "transformer learned nothing", "lstm learned nothing", "nobody"],
)
def test_learning_over_a_distance(recall: Any, agreement: Any, verdict: str) -> None:
    facts = Facts([], [*runs("recall", **recall), *runs("agreement", **agreement)])
    found = finding("S4.5", facts)
    assert found.verdict == verdict, found.effect


def test_who_is_behind_and_has_not_learned_the_task_is_the_reason() -> None:
    facts = Facts(
        [], [*runs("recall", transformer=NOTHING, lstm=GOOD), *runs("agreement", transformer=GOOD, lstm=GOOD)]
    )
    claim, found = BY_NUMBER["S4.5"], finding("S4.5", facts)
    assert "must have learned the task at the smallest distance (80 % on average)" in claim.test
    assert found.effect.endswith(
        "not decided: recall: transformer is behind and has not learned it (2.30 % at the smallest distance, "
        "less than 80 %); agreement: no difference at the largest distance"
    )
    rule = "without the rule that who is behind must have learned the smallest distance: contradicted"
    assert rule in found.conditions
    for lstm in (GOOD, FALLS):  # where the rule changes nothing it is not spoken of
        models: dict[str, Any] = {"transformer": GOOD, "lstm": lstm}
        same = finding("S4.5", Facts([], [*runs("recall", **models), *runs("agreement", **models)]))
        assert not any("without the rule" in one for one in same.conditions)


def test_few_seeds_decide_nothing_and_the_claim_says_how_many_it_takes() -> None:
    models = {"transformer": GOOD, "lstm": FALLS}
    found = finding("S4.5", Facts([], [*runs("recall", 3, **models), *runs("agreement", 3, **models)]))
    assert found.verdict == UNDECIDED
    assert "undecidable with 3 seeds (needs 7)" in found.effect
    assert finding("S4.5", Facts([])).effect.startswith("no transformer was trained on recall")


def heads(before: float, after: float, seeds: int = 7) -> list[LayerRecord]:
    found = []
    for seed in range(seeds):
        rows = []
        for training, divergence, share in (("before", before, 0.2), ("after", after, 0.9)):
            where = {"part": "encoder", "layer": 1, "training": training}
            rows.append(row("head divergence", divergence + 0.01 * seed, heads=4, **where))
            rows.append(row("entropy of a head", 2.0 - divergence, heads=4, **where))
            rows.append(row("share at one distance", share, head=1, offset=-1, **where))
        found.append(
            LayerRecord(
                kind="attention",
                run_id=f"{seed:016x}",
                study="why",
                subject=f"transformer-small on recall, seed {seed}",
                settings={"seed": seed, "task": "recall"},
                status="done",
                provenance=provenance(),
                rows=rows,
            )
        )
    return found


def test_heads() -> None:
    assert finding("S4.13", Facts(heads(0.1, 0.8))).verdict == SUPPORTED
    assert finding("S4.13", Facts(heads(0.8, 0.1))).verdict == CONTRADICTED
    other = [
        one.model_copy(update={"settings": {**one.settings, "task": "agreement"}}) for one in heads(0.5, 0.5)
    ]
    assert finding("S4.13", Facts([*heads(0.1, 0.8), *other])).verdict == SUPPORTED
    falling = [
        one.model_copy(update={"settings": {**one.settings, "task": "agreement"}}) for one in heads(0.8, 0.1)
    ]
    assert finding("S4.13", Facts([*heads(0.1, 0.8), *falling])).verdict == UNDECIDED
    few = finding("S4.13", Facts(heads(0.1, 0.8, 3)))
    assert few.verdict == UNDECIDED and "needs 6" in few.effect
    assert "sharper are further apart too" in BY_NUMBER["S4.13"].test
    sharpness, roles, _ = finding("S4.13", Facts(heads(0.1, 0.8))).conditions
    assert "the entropy of a head goes from 1.90 ± 0.00 to 1.20 ± 0.00 bits" in sharpness
    assert "mean over 7 seeds, before training and after: before 0 of 1, after 1.00 of 1" in roles


def test_two_runs_of_one_seed_and_runs_that_failed_are_said() -> None:
    every = [one for task in ("recall", "agreement") for one in runs(task, transformer=GOOD, lstm=FALLS)]
    twice = finding("S4.5", Facts([], [*every, *runs("recall", 1, transformer=GOOD)]))
    assert twice.verdict == UNDECIDED
    assert twice.effect == "transformer was trained on recall several times with seed 0"
    lost = train_record("f" * 16, "lstm-small", seed=9, task_name="recall", status="diverged")
    found = finding("S4.5", Facts([], [*every, lost]))
    assert "failed or diverged, and in no figure: lstm on recall seed 9" in found.conditions


def speeds(ratio: float, noise: float = 1.02, lstm: float | None = None) -> StudyResults:
    """Of ConvS2S and of an LSTM, which are as fast as each other where `lstm` does not say otherwise."""

    def ratio_of(model: str, value: float, baseline: str, quantity: str = "speed_ratio") -> SpeedRow:
        return SpeedRow(
            model=model, phase="train", quantity=quantity, value=value, unit="ratio",
            low=0.98 * value, high=1.02 * value, conditions={"baseline": baseline},
        )  # fmt: skip

    rows = [
        ratio_of("convs2s", ratio, "transformer"),
        ratio_of("lstm", ratio if lstm is None else lstm, "transformer"),
        ratio_of("lstm", 9.0, "plain form"),
        ratio_of("transformer", noise, "transformer, itself", "noise_floor"),
    ]
    experiments = {name: {"model": {"name": name}} for name in ("transformer", "convs2s", "lstm")}
    return StudyResults(name="speed", speed_records=(speed_record(rows=rows, experiments=experiments),))


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [(0.8, 1.02, SUPPORTED), (1.3, 1.02, CONTRADICTED), (1.3, 1.4, UNDECIDED), (1.0, 1.0, UNDECIDED)],
)
def test_training_speed(ratio: float, noise: float, verdict: str) -> None:
    found = finding("C.2", Facts([], [], [speeds(ratio, noise)]))
    assert found.verdict == verdict, found.effect
    assert f"{ratio:.3f} ({0.98 * ratio:.3f} to {1.02 * ratio:.3f}) times" in found.effect


def test_speeds_of_plain_forms_follow_from_the_ratios() -> None:
    record = speeds(1.5).speed_records[0]
    ratio = record.rows[0].model_copy(update={"conditions": {"baseline": "plain form"}})
    plain = [
        ratio.model_copy(update={"model": model, "value": value})
        for model, value in (("transformer", 1.2), ("convs2s", 2.0))
    ]
    rows = [*(row for row in record.rows if row.conditions["baseline"] != "plain form"), *plain]
    study = StudyResults(name="speed", speed_records=(record.model_copy(update={"rows": rows}),))
    assert finding("C.2", Facts([], [], [study])).conditions[1:] == (
        "of the forms of PyTorch's own modules, from the same ratios: speed: convs2s 0.900 times",
    )


@pytest.mark.parametrize(
    ("records", "verdict"),
    [
        ([speeds(0.8, lstm=1.0)], UNDECIDED),
        ([speeds(0.8, lstm=1.4)], CONTRADICTED),
        ([speeds(1.3), speeds(1.3), speeds(0.8, lstm=1.4)], CONTRADICTED),
        ([speeds(1.3), speeds(0.8, lstm=1.0)], CONTRADICTED),
        ([speeds(0.8), speeds(0.8, lstm=1.0)], SUPPORTED),
        ([speeds(0.8), speeds(1.3)], UNDECIDED),
    ],
    ids=["not of both", "behind one", "behind one, thrice", "open", "open, ahead", "one of each"],
)
def test_a_record_of_speeds_has_one_say(records: list[StudyResults], verdict: str) -> None:
    """It supports where the Transformer is faster than both others, and contradicts where one is faster."""
    found = finding("C.2", Facts([], [], records))
    assert found.verdict == verdict, found.effect


def translation(seeds: int = 7, match: str = "seconds", slower: float = 1.0, **bleu: float) -> StudyResults:
    """`slower`: how many times as long the LSTM took."""
    records = [
        train_record(
            f"{model} {seed}", f"{model}-small", seed=seed,
            scores=scores({("test_2016_flickr", "bleu"): value + 0.05 * seed}),
            operations_per_step=2e9, train_seconds=100.0 * (slower if model == "lstm" else 1.0),
        )
        for model, value in bleu.items()
        for seed in range(seeds)
    ]  # fmt: skip
    matches = {record.run_id: {match: Matched()} for record in records} if match else {}
    return StudyResults(name="multi30k-en-de", train_records=tuple(records), matches=matches)


@pytest.mark.parametrize(
    ("studies", "verdict"),
    [
        ([translation(transformer=36, convs2s=34, lstm=33)], SUPPORTED),
        ([translation(transformer=36, convs2s=34, lstm=36)], UNDECIDED),
        ([translation(transformer=33, convs2s=34, lstm=30)], CONTRADICTED),
        (
            [
                translation(transformer=36, convs2s=34, lstm=33),
                translation(transformer=30, convs2s=34, lstm=33),
            ],
            UNDECIDED,
        ),
        ([translation(3, transformer=36, convs2s=34, lstm=33)], UNDECIDED),
        ([translation(7, "parameters", transformer=36, convs2s=34, lstm=33)], SUPPORTED),
        ([translation(7, "parameters", 1.2, transformer=36, convs2s=34, lstm=33)], UNDECIDED),
    ],
    ids=["best", "level", "beaten", "one of each", "few seeds", "equal seconds as run", "other costs"],
)
def test_translation(studies: list[StudyResults], verdict: str) -> None:
    found = finding("C.1", Facts([], [], studies))
    assert found.verdict == verdict, found.effect


def test_what_was_learned_at_other_seconds_is_among_the_conditions() -> None:
    found = finding("C.1", Facts([], [], [translation(slower=1.2, transformer=36, convs2s=34, lstm=33)]))
    assert found.effect.startswith("no study of translation lies beside this one whose models took equal")
    (condition,) = found.conditions
    assert condition.startswith(
        "at other seconds of training (convs2s-small 100, lstm-small 120, transformer-small 100 on A "
        "Processor @ 2.00GHz): multi30k-en-de, equal seconds, test_2016_flickr BLEU: convs2s-small 34.15 "
    )


def test_the_cost_of_training_is_counted_and_also_computed_as_in_the_paper() -> None:
    utilisation = LayerRecord(
        kind="utilisation", run_id="1" * 16, study="why", subject="layers", status="done",
        provenance=provenance(), rows=[row("peak", 1e11, layer="matrix products")],
    )  # fmt: skip
    tables = list(tables_2_and_3(Facts([utilisation], [], [translation(transformer=36, lstm=33)])))
    measured, published = tables
    assert published.heading == ["not measured here"]
    study, model, device, seeds, bleu, counted, seconds, joules, paper = measured.rows[1]
    assert (study, model, seeds) == ("multi30k-en-de, equal seconds", "transformer-small", "7")
    assert device == "A Processor @ 2.00GHz, 2"
    assert bleu.startswith("36.15 ")
    assert float(counted) == pytest.approx(2e9 * 5000)
    assert float(paper) == pytest.approx(float(seconds) * 1e11, rel=0.01)
    assert joules == NOT_MEASURED
    other = utilisation.model_copy(update={"provenance": provenance(precision="bfloat16")})
    (measured, _) = tables_2_and_3(Facts([other], [], [translation(transformer=36, lstm=33)]))
    assert measured.rows[1][-1] == NOT_MEASURED


@pytest.mark.parametrize(
    ("measured_on", "found"),
    [({}, True), ({"precision": "bfloat16"}, False), ({"threads": 1}, False), ({"device": "another"}, False)],
    ids=["alike", "precision", "threads", "device"],
)
@pytest.mark.parametrize("memory", [None, 2**36], ids=["processor", "GPU"])
def test_the_peak_of_a_study_of_speeds_counts_where_it_was_measured_alike(
    measured_on: dict[str, Any], found: bool, memory: int | None
) -> None:
    """The threads of the process count on a processor alone."""
    where = provenance(device_memory_bytes=memory, **measured_on)
    speed = StudyResults(name="speed", speed_records=(speed_record(provenance=where),))
    study = translation(transformer=36, lstm=33)
    runs = [
        one.model_copy(update={"provenance": provenance(device_memory_bytes=memory)})
        for one in study.train_records
    ]
    (measured, _) = tables_2_and_3(
        Facts([], [], [dataclasses.replace(study, train_records=tuple(runs)), speed])
    )
    seconds, paper = measured.rows[1][-3], measured.rows[1][-1]
    if found or (memory is not None and "threads" in measured_on):
        assert float(paper) == pytest.approx(float(seconds) * 1.8e11, rel=0.01)
        assert measured.remarks == []
    else:
        assert paper == NOT_MEASURED
        one = "2 threads" if memory is None else "1 device"
        assert measured.remarks == [
            f"no peak of matrix products was measured on A Processor @ 2.00GHz, {one}, float32"
        ]


def ablation(
    seed: int, loss: float, bleu: float, *, parameters: int, threads: int = 2, **model: Any
) -> TrainRecord:
    return train_record(
        f"{sum(map(ord, str((seed, threads, model)))):016x}", seed=seed, experiment={"model": model},
        provenance=provenance(threads=threads), validation_loss=loss, parameters=parameters,
        scores=scores({("test_2016_flickr", "bleu"): bleu, ("test_2017_flickr", "bleu"): 1.0}),
    )  # fmt: skip


def test_variations_of_the_transformer_stand_in_a_table_for_each_device() -> None:
    """Values of one variation are over its seeds; a run that diverged enters none, and is counted."""
    lost = train_record("f" * 16, seed=2, status="diverged", experiment={"model": {"feed_forward": 0}})
    runs = [
        *(ablation(seed, 1.5 + seed, 36 + seed, parameters=4_140_000, feed_forward=512) for seed in range(3)),
        *(ablation(seed, 2.5, 30 + seed, parameters=2_960_000, feed_forward=0) for seed in range(2)),
        ablation(0, 1.4, 37, parameters=4_140_000, threads=8, feed_forward=512),
        lost,
    ]
    first, second, published = tables_2_and_3(
        Facts([], [], [StudyResults(name="ablations", train_records=tuple(runs))])
    )
    assert first.title.startswith("Table 3, measured") and published.title.startswith("Published")
    assert first.heading == [
        "A Processor @ 2.00GHz, 2 threads, float32; 5,000 steps of training; "
        "runs: 5 done, 0 failed, 1 diverged"
    ]
    assert second.heading[0].startswith("A Processor @ 2.00GHz, 8 threads")
    without, whole = sorted(first.rows, key=lambda row: row[-1])
    assert whole[:3] == ["feed_forward=512", "3", "2.50"] and whole[3].startswith("37.0 ")
    assert without[:3] == ["feed_forward=0", "2", "2.50"] and without[3].startswith("30.5 ")
    assert (without[4], whole[4]) == ("3", "4.1")
    assert [row[3] for row in second.rows] == ["37.0"]


def test_table_2_says_what_every_study_ran_on_and_how_its_runs_ended() -> None:
    study = translation(transformer=36, lstm=33)
    runs = [
        one.model_copy(update={"status": "failed"}) if one.seed == 6 else one for one in study.train_records
    ]
    facts = Facts([], [], [dataclasses.replace(study, train_records=tuple(runs))])
    measured, published = further_tables(facts)
    assert measured.records == sorted(one.run_id for one in runs if one.status == "done")
    assert list(published.records) == []
    assert measured.heading == [
        "multi30k-en-de, equal seconds: A Processor @ 2.00GHz, 2 threads, float32; 5,000 steps of training; "
        "runs: 12 done, 2 failed, 0 diverged"
    ]


def test_texts_of_the_tables_have_no_markup_of_their_own():
    """Every form escapes them, so that a backtick would be read as one."""
    for table in why_tables(Facts.of(StudyResults(name="why"))):
        titles = [line for column in table.columns for line in column.title]
        cells = [text for row in table.rows for text in row]
        texts = [table.title, *table.heading, *titles, *cells, *table.remarks, *table.notes]
        assert not [text for text in texts if "`" in text]
