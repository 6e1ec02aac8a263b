"""Studies: what a request becomes, what is frozen, and what a second start does."""

import dataclasses
import re

import pytest

from benchmark.config import UserError, dump_yaml, load_yaml, presets
from benchmark.record import record_bytes
from benchmark.request import Request, request_from
from benchmark.store import StudyFolder, dump_study, load_study_yaml
from benchmark.study import (
    Decision,
    FrozenCell,
    Resolved,
    decide,
    decisions,
    known_runs,
    make,
    remaining,
)
from tests.benchmark.report.records import train_record

FIVE_HUNDRED = list(range(500))
SMALL = ["model=transformer-small", "task=reverse", "training.steps=10", "training.precision=float32"]


def resolve(asked):
    """10 steps for each second, float32; twice as many where operations are matched, a width of 64 more where
    parameters are.
    """
    resolved: list[Resolved] = []
    for one in asked:
        training, model = one.experiment.training, one.experiment.model
        steps = training.steps or int(10 * training.seconds)
        if one.match == "flops":
            steps = 2 * resolved[one.reference].experiment.training.steps
        if one.match == "parameters":
            model = model.model_copy(update={"width": model.width + 64})
        update = {"steps": steps, "seconds": None, "precision": "float32"}
        training = training.model_copy(update=update)
        experiment = dataclasses.replace(one.experiment, training=training, model=model)
        resolved.append(Resolved(experiment=experiment))
    return resolved


def write(path, document):
    path.write_text(dump_yaml(document))
    return str(path)


def cells(*arguments, **options):
    return request_from(arguments, **options).cells


def test_comma_lists_make_a_grid_with_the_seeds_outermost():
    request = request_from([*SMALL, "model=transformer-small,lstm-small", "seed=0,1"])
    assert [(cell.model_preset, cell.experiment.seed) for cell in request.cells] == [
        ("transformer-small", 0), ("lstm-small", 0), ("transformer-small", 1), ("lstm-small", 1),
    ]  # fmt: skip
    assert request.study == "try-reverse"
    assert request.measure == ("train",)


def test_a_list_is_an_axis_unless_the_field_itself_is_a_list():
    blocks = "model.encoder_blocks=[[8,3],[8,3]]"
    assert len(cells("model=convs2s-small", *SMALL[1:], blocks)) == 1
    both = cells("model=convs2s-small", *SMALL[1:], "model.encoder_blocks=[[[8,3]],[[8,5]]]")
    assert [cell.experiment.model.encoder_blocks for cell in both] == [((8, 3),), ((8, 5),)]
    assert len(cells(*SMALL, "training.learning_rate=1e-3,2e-3", "model.dropout=0.1,0.2,0.3")) == 6
    with pytest.raises(UserError, match=r"^seed: 1 is given twice; two cells would be one run$"):
        cells(*SMALL, "seed=1,1")


def test_layers_lie_over_each_other_in_the_stated_order(tmp_path):
    study = {
        "study": "s", "model": ["transformer-small", "lstm-small"], "task": "reverse",
        "training": {"seconds": 5},
        "data.batch_tokens": 100, "per_model": {"lstm-small": {"training.learning_rate": [0.5, 0.25]}},
    }  # fmt: skip
    path = write(tmp_path / "s.yaml", study)
    made = [
        (c.model_preset, c.experiment.training.learning_rate, c.experiment.data.batch_tokens)
        for c in cells(path)
    ]
    preset = load_yaml_preset("transformer-small")["training"]["learning_rate"]
    assert made == [("transformer-small", preset, 100), ("lstm-small", 0.5, 100), ("lstm-small", 0.25, 100)]
    overridden = cells(path, "training.learning_rate=0.125", "model=lstm-small", "training.steps=7")
    assert [cell.experiment.training.learning_rate for cell in overridden] == [0.125]
    assert overridden[0].experiment.training.budget == "steps"


def test_a_study_file_varies_any_field_beside_the_presets(tmp_path):
    study = {
        "study": "s", "model": ["transformer-small", "lstm-small"], "task": "reverse",
        "training": {"steps": 5}, "model.dropout": [0.05, 0.25], "task.train_pairs": 321,
        "per_model": {"lstm-small": {"model.width": 32}},
    }  # fmt: skip
    path = write(tmp_path / "s.yaml", study)
    made = [
        (c.model_preset, c.experiment.model.dropout, c.experiment.task.train_pairs, c.experiment.model.width)
        for c in cells(path)
    ]
    assert made == [
        ("transformer-small", 0.05, 321, 160), ("transformer-small", 0.25, 321, 160),
        ("lstm-small", 0.05, 321, 32), ("lstm-small", 0.25, 321, 32),
    ]  # fmt: skip
    (one, _) = cells(path, "model=lstm-small", "task.train_pairs=123")
    assert (one.experiment.model.dropout, one.experiment.task.train_pairs) == (0.05, 123)
    twice = write(tmp_path / "t.yaml", {**study, "settings": [{"training.steps": 3}, {"training.steps": 3}]})
    with pytest.raises(UserError, match=r"t\.yaml: settings: .* is given twice; two cells would be one run$"):
        cells(twice)


def load_yaml_preset(name):
    from benchmark.config import ROOT

    return load_yaml(ROOT / "configs" / "models" / f"{name}.yaml")


@pytest.mark.parametrize("study", presets("studies"))
def test_every_study_preset_is_valid(study):
    request = request_from([study])
    assert request.cells or request.trials
    assert request.study == study


REFUSED = [
    (["model=transfomer-small", *SMALL[1:]],
     "model: no 'transfomer-small'; did you mean 'transformer-small'?"),
    (["model=mine.py", *SMALL[1:]], "model: no 'mine.py'"),
    (["multi30k-en-ed"], "study: no 'multi30k-en-ed'"),
    ([*SMALL, "quick", "quack"], "one study at a time"),
    ([], "nothing to run"),
    (["task=reverse", "training.steps=1"], "model: which? give model=NAME; there are: convs2s-small,"),
    ([*SMALL, "modle.width=3"], "modle: unknown field; did you mean 'model'?"),
    ([*SMALL, "model.haeds=2"], "model.haeds: unknown field; did you mean 'heads'?"),
    ([*SMALL, "model.heads=3"], "model: heads must divide width, got 3 heads and width 160"),
    ([*SMALL, "model=[]"], "model: the list is empty"),
    ([*SMALL, "seed=[]"], "seed: the list is empty"),
    ([*SMALL, "measure=[]"], "measure: the list is empty; there are: train, speed, overhead"),
    ([*SMALL[1:], "model=lstm-small,lstm-small"],
     "model: 'lstm-small' is given twice; two cells would be one run"),
    (["model=lstm-small", "task=reverse,reverse", "training.steps=1"],
     "task: 'reverse' is given twice; two cells would be one run"),
    ([*SMALL, "measure=trian"], "measure: must be of train, speed, overhead, got 'trian'"),
    ([*SMALL, "task.name=x.py"], "task.name: x.py: cannot be read: No such file"),
    (
        [*SMALL, f"seed={FIVE_HUNDRED}", f"training.warmup_steps={FIVE_HUNDRED}"],
        "the grid has more than 200,000 cells",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), REFUSED)
def test_a_mistake_in_a_request_is_named(arguments, text):
    with pytest.raises(UserError) as caught:
        request_from(arguments)
    assert str(caught.value).startswith(text)


def test_a_mistake_in_a_study_file_is_named_with_the_file(tmp_path):
    path = write(tmp_path / "s.yaml", {"sutdy": "x"})
    with pytest.raises(UserError, match=r"s\.yaml: sutdy: unknown field; did you mean 'study'\?$"):
        request_from([path])
    path = write(tmp_path / "s.yaml", {"study": "x", "per_model": {"lstm-smal": {}}, "task": "reverse"})
    with pytest.raises(UserError, match=r"^per_model: no 'lstm-smal'; did you mean 'lstm-small'\?"):
        request_from([path, "model=lstm-small"])
    path = write(
        tmp_path / "s.yaml", {"study": "../x", "model": "lstm-small", "task": "reverse", "training.steps": 1}
    )
    with pytest.raises(UserError, match="cannot name a folder"):
        request_from([path])


# Files outside the repository

MODEL = """
import pathlib
pathlib.Path(__file__).with_suffix(".marker").touch()
from models.transformer import Config
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    return path


def test_a_file_that_the_command_line_names_runs(mine):
    (cell,) = cells(f"model.name={mine}", *SMALL[1:])
    assert cell.model_preset == "mine"
    assert cell.experiment.model_file_sha256 is not None


def test_a_file_that_only_a_study_names_does_not_run_without_trust(mine, tmp_path):
    base = {"task": "reverse", "training": {"steps": 1, "precision": "float32"}}
    hostile = [
        {**base, "model": {"name": str(mine)}},
        {**base, "model": [{"name": str(mine)}]},
        {**base, "model": "lstm-small", "per_model": {"lstm-small": {"model.name": str(mine)}}},
        {**base, "model": "lstm-small", "task": {"name": str(mine)}},
    ]
    for number, study in enumerate(hostile):
        path = write(tmp_path / f"{number}.yaml", study)
        with pytest.raises(UserError, match="is a file, and a file runs only when the command line names it"):
            request_from([path])
        assert not mine.with_suffix(".marker").exists()
    assert request_from([str(tmp_path / "0.yaml")], trust_code=True).cells
    assert mine.with_suffix(".marker").exists()


def test_a_record_with_a_file_runs_again_only_with_trust(mine, tmp_path):
    experiment = cells(f"model.name={mine}", *SMALL[1:])[0].experiment
    mine.with_suffix(".marker").unlink()
    record = train_record("0123456789abcdef").model_copy(update={"experiment": experiment.document()})
    path = tmp_path / "record.json"
    path.write_bytes(record_bytes(record))
    mine.write_text(MODEL + "\n# one more line, so that it is read anew\n")
    with pytest.raises(UserError, match="is a file"):
        request_from([str(path)])
    with pytest.raises(UserError, match="has changed since the run was made"):
        request_from([str(path)], trust_code=True)
    mine.write_text(MODEL)
    request = request_from([str(path)], trust_code=True)
    assert request.study == "rerun-0123456789abcdef"
    assert request.cells[0].experiment == experiment


def test_a_frozen_study_does_not_make_a_file_run(mine, tmp_path):
    """A study.yaml of somebody else that holds my request's hash with another file in it."""
    folder = StudyFolder(tmp_path, "s")
    folder.prepare()
    request = request_from(SMALL, study="s")
    made = make(request, folder, resolve)
    document = load_yaml(folder.study_path)
    document["cells"][0]["experiment"]["model"]["name"] = str(mine)
    folder.study_path.write_text(dump_yaml(document))
    with pytest.raises(UserError, match=r"was edited: model\.name is "):
        make(request, folder, resolve)
    assert not mine.with_suffix(".marker").exists()
    assert made.added == 1


# Freezing


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder(tmp_path / "results", "s")
    folder.prepare()
    return folder


BUDGET = ["model=transformer-small", "task=reverse", "training.seconds=2"]


def test_a_budget_is_resolved_once_for_all_seeds_and_then_kept(folder):
    asked = []

    def counting(experiments):
        asked.extend(experiments)
        return resolve(experiments)

    made = make(request_from([*BUDGET, "seed=0,1,2"]), folder, counting)
    assert len(asked) == 1
    assert [cell.experiment.training.steps for cell in made.cells] == [20, 20, 20]
    assert [cell.experiment.seed for cell in made.cells] == [0, 1, 2]
    before = folder.study_path.read_bytes()
    again = make(request_from([*BUDGET, "seed=0,1,2"]), folder, counting)
    assert (len(asked), again.added, again.cells) == (1, 0, made.cells)
    assert folder.study_path.read_bytes() == before


def test_a_wider_request_adds_cells_and_a_narrower_one_keeps_them(folder):
    first = make(request_from([*BUDGET, "seed=0,1"]), folder, resolve)
    wider = make(request_from([*BUDGET, "seed=1,2"]), folder, lambda asked: pytest.fail("seeds share steps"))
    assert (wider.added, wider.others) == (1, 1)
    assert [cell.experiment.training.steps for cell in wider.cells] == [20, 20]
    assert [cell.experiment.seed for cell in wider.cells] == [1, 2]
    assert wider.cells[0] == first.cells[1]
    assert len(load_yaml(folder.study_path)["cells"]) == 3
    again = make(request_from([*BUDGET, "seed=1,2"]), folder, lambda asked: pytest.fail("all is there"))
    assert again.cells == wider.cells


def test_a_frozen_study_is_a_request_for_its_own_cells(folder):
    made = make(request_from([*BUDGET, "seed=0,1"], study="s"), folder, resolve)
    before = folder.study_path.read_bytes()
    for name in (str(folder.study_path), str(folder.path)):
        request = request_from([name])
        assert request.study == "s"
        again = make(request, folder, lambda experiments: pytest.fail("nothing is open"))
        assert [cell.run_id for cell in again.cells] == [cell.run_id for cell in made.cells]
        assert (again.added, again.others) == (0, 0)
    assert folder.study_path.read_bytes() == before
    with pytest.raises(UserError, match="take no field=value"):
        request_from([str(folder.study_path), "seed=3"])


def test_an_edited_study_is_refused_with_the_field(folder):
    request = request_from(BUDGET)
    make(request, folder, resolve)
    original = folder.study_path.read_text()
    for old, new, text in (
        (
            '"learning_rate": 0.002',
            '"learning_rate": 0.003',
            r"training\.learning_rate is 0\.003, was 0\.002",
        ),
        ('"steps": 20', '"steps": 30', "its fields give run "),
        ('"steps": 20', '"steps": "x"', r"training\.steps: must be an integer"),
        (
            '"steps": 20',
            '"steps": 20, ]',
            r"study\.yaml:\d+: not a cell as seqbench writes it, one on a line: ",
        ),
        (
            '"steps": 20',
            '"steps": 19, "steps": 20',
            r"study\.yaml:\d+: not a cell .*: a field is given twice",
        ),
        ("schema_version: 1", "schema_version: 2", "has schema version 2; this seqbench reads up to 1"),
        ("cells:", "cels:", "cells: must be a list"),
    ):
        assert original.count(old) >= 1
        folder.study_path.write_text(original.replace(old, new, 1))
        with pytest.raises(UserError, match=text):
            make(request, folder, resolve)


def test_a_frozen_study_is_yaml_however_it_is_laid_out(folder):
    request = request_from(BUDGET)
    made = make(request, folder, resolve)
    document = load_yaml(folder.study_path)
    assert document == load_study_yaml(folder.study_path)
    folder.study_path.write_text(dump_yaml(document))
    before = folder.study_path.read_bytes()
    again = make(request, folder, lambda asked: pytest.fail("all is there"))
    assert again.cells == made.cells
    assert folder.study_path.read_bytes() == before, "what has not changed is not written again"
    empty = folder.study_path.with_name("empty.yaml")
    empty.write_text(dump_study({"study": "s", "cells": []}))
    assert load_study_yaml(empty) == load_yaml(empty) == {"study": "s", "cells": []}


def test_a_run_s_config_is_the_same_file_however_it_is_written(folder):
    (cell,) = make(request_from(BUDGET), folder, resolve).cells
    run = folder.run(cell.run_id)
    cell.open(run)
    assert run.config_path.read_text() == dump_yaml(cell.document())
    assert load_yaml(run.config_path) == cell.document()


def test_a_new_version_of_a_model_is_another_cell(folder, monkeypatch):
    request = request_from(BUDGET)
    made = make(request, folder, resolve)
    config = type(request.cells[0].experiment.model)
    monkeypatch.setattr(config, "version", config.version + 1)
    again = make(request, folder, resolve)
    assert (again.added, again.others) == (1, 1)
    assert again.cells[0].asked != made.cells[0].asked


def test_what_is_missing_or_failed_runs_and_what_is_done_or_diverged_does_not(folder):
    made = make(request_from([*BUDGET, "seed=0,1,2,3,4"]), folder, resolve)
    for cell, status in zip(made.cells, ("done", "failed", "diverged", "unreadable"), strict=False):
        run = folder.run(cell.run_id)
        run.open(cell.document())
        if status == "unreadable":
            run.record_path.write_bytes(b"{")
            continue
        record = train_record(cell.run_id, status=status)
        run.write_record(record.model_copy(update={"experiment": cell.experiment.document()}))
    assert [cell.experiment.seed for cell in remaining(made.cells, folder)] == [1, 3, 4]


def test_a_record_of_another_experiment_is_refused(folder):
    (cell,) = make(request_from(BUDGET), folder, resolve).cells
    made = make(request_from(BUDGET), folder, resolve)
    run = folder.run(cell.run_id)
    run.open(cell.document())
    document = cell.experiment.document() | {"seed": 7}
    run.write_record(train_record(cell.run_id).model_copy(update={"experiment": document}))
    with pytest.raises(UserError, match=r"record\.json: is of another experiment: seed is 7, was 0"):
        remaining(made.cells, folder)


def test_the_cells_are_known_before_anything_is_made(folder):
    request = request_from([*BUDGET, "seed=0,1"])
    assert [run_id for _, run_id in known_runs(request, folder)] == [None, None]
    made = make(request_from(BUDGET), folder, resolve)
    assert [run_id for _, run_id in known_runs(request, folder)] == [made.cells[0].run_id, None]
    resolved = request_from(SMALL)
    assert known_runs(resolved, folder)[0][1] == resolved.cells[0].experiment.run_id()


def test_two_budgets_that_resolve_to_one_are_one_run(folder):
    request = request_from([*BUDGET, "training.seconds=2.0,2.01"])
    assert isinstance(request, Request)
    made = make(request, folder, resolve)
    assert len(made.cells) == made.added == 1
    assert isinstance(made.cells[0], FrozenCell)


LIKE_ITS_PRESET = {"model.dropout": 0.1}
ONE_RUN = [
    (
        {"settings": [{}, LIKE_ITS_PRESET]},
        "reverse with settings {}", f"reverse with settings {LIKE_ITS_PRESET}",
    ),
    (
        {"settings": [{"model.width": 64}, {"model": {"width": 64}, "seed": [1, 0]}]},
        "reverse with settings {'model.width': 64}",
        "reverse with settings {'model.width': 64, 'seed': [1, 0]}",
    ),
    ({"task": ["reverse", {"name": "rearrange", "operation": "reverse"}]}, "reverse", "rearrange"),
]  # fmt: skip


@pytest.mark.parametrize("match", [{}, {"match": ["parameters", "flops"]}])
@pytest.mark.parametrize(("fields", "first", "second"), ONE_RUN)
def test_two_cells_that_are_one_run_are_refused(fields, first, second, match, tmp_path):
    study = {
        "model": ["transformer-small", "lstm-small"], "task": "reverse",
        "training": {"steps": 5, "learning_rate": 2e-3, "warmup_steps": 300}, **fields, **match,
    }  # fmt: skip
    text = re.escape(f"transformer-small on {first} and transformer-small on {second} are one run: ")
    with pytest.raises(UserError, match=f"^{text}"):
        request_from([write(tmp_path / "s.yaml", study)])


def test_settings_that_share_their_fields_and_no_seed_are_two_runs(tmp_path):
    study = {
        "model": "lstm-small", "task": "reverse", "training": {"steps": 5},
        "settings": [{"model.width": 64, "seed": [0, 2]}, {"model.width": 64, "seed": 1}],
    }  # fmt: skip
    assert [cell.experiment.seed for cell in cells(write(tmp_path / "s.yaml", study))] == [0, 2, 1]


# Matches


PAIR = ["model=transformer-small,lstm-small", "task=reverse", "training.precision=float32"]


def test_a_match_is_a_grid_of_its_own_against_the_first_model(folder):
    asked = []

    def noting(entries):
        asked.extend(entries)
        return resolve(entries)

    request = request_from([*PAIR, "training.steps=10", "match=parameters,flops", "seed=0,1"])
    made = make(request, folder, noting)
    assert [(one.experiment.model_name, one.match, one.reference) for one in asked] == [
        ("transformer", None, None), ("lstm", "parameters", 0), ("lstm", "flops", 0),
    ]  # fmt: skip
    found = [
        (cell.match, cell.model_preset, cell.experiment.seed, cell.experiment.training.steps)
        for cell in made.cells
    ]
    assert found == [
        ("parameters", "transformer-small", 0, 10), ("flops", "transformer-small", 0, 10),
        ("parameters", "lstm-small", 0, 10), ("flops", "lstm-small", 0, 20),
        ("parameters", "transformer-small", 1, 10), ("flops", "transformer-small", 1, 10),
        ("parameters", "lstm-small", 1, 10), ("flops", "lstm-small", 1, 20),
    ]  # fmt: skip
    widths = {
        cell.match: dict(cell.experiment.model)["width"]
        for cell in made.cells
        if cell.model_preset == "lstm-small"
    }
    assert widths == {"parameters": 192 + 64, "flops": 192}
    assert len(made.runs) == 6, "the reference is one run, whatever is matched to it"
    again = make(request, folder, lambda entries: pytest.fail("all is frozen"))
    assert (again.cells, again.added) == (made.cells, 0)
    thawed = make(request_from([str(folder.study_path)]), folder, lambda entries: pytest.fail("frozen"))
    assert [cell.key for cell in thawed.cells] == [cell.key for cell in made.cells]
    more = make(
        request_from([*PAIR, "training.steps=10", "match=parameters,flops", "seed=2"]),
        folder,
        lambda entries: pytest.fail("another seed takes what is frozen"),
    )
    assert [cell.experiment.training.steps for cell in more.cells] == [10, 10, 10, 20]


def test_a_match_with_another_reference_is_another_cell(folder):
    make(request_from([*PAIR, "training.steps=10", "match=flops"]), folder, resolve)
    made = make(request_from([*PAIR, "training.steps=15", "match=flops"]), folder, resolve)
    assert [cell.experiment.training.steps for cell in made.cells] == [15, 30]
    assert made.others == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["match=flop"],
            r"^match: must be of parameters, flops, seconds, got 'flop'; did you mean 'flops'",
        ),
        (["match=flops", "model=lstm-small"], "^match: holds something equal between models, and the study"),
        (
            ["match=flops", "training.steps=10,20"],
            "^training.steps: match: flops decides it, so a study holds one value of it, got 10 and 20$",
        ),
        (
            ["match=parameters", "model.width=64,128"],
            "^model.width: match: parameters decides it, so a study holds one value of it, got 64 and 128$",
        ),
        (["match="], "^match: "),
        (["match=flops", "training.patience=2"], "^training.patience: an early stop would break the match"),
    ],
)
def test_a_match_that_makes_no_sense_is_refused(arguments, text):
    with pytest.raises(UserError, match=text):
        request_from([*PAIR, "training.steps=10", *arguments])


def test_one_model_under_two_names_is_refused(folder, tmp_path):
    study = {
        "study": "s", "model": ["transformer-small", {"name": "transformer", "width": 160, "heads": 4,
        "feed_forward": 448, "encoder_layers": 4, "decoder_layers": 4, "dropout": 0.1}], "task": "reverse",
        "training": {"steps": 5, "precision": "float32", "learning_rate": 2e-3, "warmup_steps": 300},
    }  # fmt: skip
    with pytest.raises(
        UserError, match=r"^model: transformer-small and transformer are one run \(\w{16}\); leave"
    ):
        make(request_from([write(tmp_path / "s.yaml", study)]), folder, resolve)


def test_models_that_are_matched_share_their_data(folder, tmp_path):
    study = {
        "model": ["transformer-small", "lstm-small"], "task": "reverse", "match": "parameters",
        "training": {"steps": 5}, "per_model": {"lstm-small": {"data.batch_tokens": 100}},
    }  # fmt: skip
    text = (
        "^match: parameters: transformer-small, which the others are matched to, does not run on the data of "
        r"lstm-small: data\.batch_tokens is 100, was "
    )
    with pytest.raises(UserError, match=text):
        request_from([write(tmp_path / "s.yaml", study)])


def test_all_of_a_match_are_matched_to_one_model_whenever_they_were_asked_for(folder):
    arguments = ["task=reverse", "training.precision=float32", "training.steps=10", "match=parameters"]
    make(request_from(["model=transformer-small,lstm-small", *arguments]), folder, resolve)
    text = "match: parameters: this study matches to transformer-small, and lstm-small comes first now; ask"
    with pytest.raises(UserError, match=text):
        make(request_from(["model=lstm-small,convs2s-small", *arguments]), folder, resolve)
    made = make(request_from(["model=transformer-small,convs2s-small", *arguments]), folder, resolve)
    assert (made.added, made.others) == (1, 1)


def test_a_frozen_study_in_another_folder_is_known_to_its_first_request(folder, tmp_path):
    request = request_from([*PAIR, "training.steps=10", "match=flops"])
    made = make(request, folder, resolve)
    elsewhere = StudyFolder(tmp_path / "results", "t")
    elsewhere.prepare()
    make(request_from([str(folder.study_path)], study="t"), elsewhere, resolve)
    again = make(request, elsewhere, lambda asked: pytest.fail("all is frozen"))
    assert (again.added, again.cells) == (0, made.cells)


@pytest.mark.parametrize("extra", [{"match": "parameters"}, {"search": {"trials": 1}}])
def test_two_models_of_one_name_are_refused_where_each_needs_its_own(extra, tmp_path):
    study = {
        "model": [{"name": "lstm", "width": 64}, {"name": "lstm", "width": 128}, "transformer-small"],
        "task": "reverse", "training": {"steps": 5}, **extra,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"^model: 2 are called lstm; with a search or a match each needs"):
        request_from([write(tmp_path / "s.yaml", study)])


# Settings and search


def test_settings_are_combinations_and_not_a_product(tmp_path):
    study = {
        "study": "s", "model": ["transformer-small", "lstm-small"], "task": "reverse",
        "training": {"steps": 5}, "seed": [0, 1],
        "settings": [
            {"training.learning_rate": 1e-3, "model.dropout": 0.1},
            {"training": {"learning_rate": 2e-3}, "model.dropout": 0.2},
        ],
        "per_model": {"lstm-small": {"settings": [{"model.dropout": 0.5}]}},
    }  # fmt: skip
    found = [
        (cell.model_preset, cell.experiment.training.learning_rate, dict(cell.experiment.model)["dropout"])
        for cell in cells(write(tmp_path / "s.yaml", study), "seed=0")
    ]
    assert found == [
        ("transformer-small", 1e-3, 0.1), ("transformer-small", 2e-3, 0.2), ("lstm-small", 2e-3, 0.5),
    ]  # fmt: skip


SEARCH = {
    "study": "s", "model": ["transformer-small", "lstm-small"], "task": "reverse", "seed": [4, 5],
    "training": {"steps": 50, "precision": "float32"},
    "search": {
        "trials": 3,
        "training": {"steps": 9},
        "spaces": {
            "transformer-small": {
                "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                "model.dropout": [0.0, 0.3],
            },
            "lstm-small": {"training": {"learning_rate": {"low": 1e-3, "high": 2e-3}}},
        },
    },
}  # fmt: skip


def test_a_search_gives_each_model_as_many_trials_and_no_test_data(tmp_path):
    path = write(tmp_path / "s.yaml", SEARCH)
    request = request_from([path])
    assert request.cells == ()
    assert [(cell.model_preset, cell.trial) for cell in request.trials] == [
        (model, trial) for model in ("transformer-small", "lstm-small") for trial in (1, 2, 3)
    ]
    for cell in request.trials:
        assert (cell.experiment.evaluation.test, cell.experiment.seed) == (False, 0)
        assert cell.experiment.training.steps == 9
    recipe, *others = [cell.experiment for cell in request.trials[:3]]
    assert recipe.training.learning_rate == 2e-3, "the first trial is the recipe"
    for one in others:
        assert 1e-4 <= one.training.learning_rate <= 1e-2
        assert dict(one.model)["dropout"] in (0.0, 0.3)
    more = request_from([path, "search.trials=5"])
    assert [cell.experiment for cell in more.trials[:3]] == [cell.experiment for cell in request.trials[:3]]
    other_seed = request_from([path, "search.seed=1"])
    assert other_seed.trials[1].experiment.training != request.trials[1].experiment.training


def test_what_a_search_decides_goes_into_the_comparison(tmp_path, folder):
    path = write(tmp_path / "s.yaml", SEARCH)
    chosen = {
        ("transformer-small", "reverse"): {"training": {"learning_rate": 0.5}, "model": {"dropout": 0.3}},
        ("lstm-small", "reverse"): {"training": {"learning_rate": 0.25}},
    }
    request = after([path], chosen)
    found = [
        (cell.model_preset, cell.experiment.seed, cell.experiment.training.learning_rate)
        for cell in request.cells
    ]
    assert found == [
        ("transformer-small", 4, 0.5), ("lstm-small", 4, 0.25),
        ("transformer-small", 5, 0.5), ("lstm-small", 5, 0.25),
    ]  # fmt: skip
    assert {cell.experiment.training.steps for cell in request.cells} == {50}
    assert all(cell.experiment.evaluation.test for cell in request.cells)
    made = make(request, folder, resolve)
    assert [cell.trial for cell in made.cells] == [1, 2, 3, 1, 2, 3, None, None, None, None]
    thawed = request_from([str(folder.study_path)])
    assert (len(thawed.trials), len(thawed.cells)) == (6, 4)


def after(arguments, chosen):
    request = request_from(arguments)
    assert request.after_search is not None
    return request.after_search(chosen)


def decided(model, trials=3, **settings):
    return Decision(
        model=model, task="reverse", trials=trials, trial=2, run_id="0" * 16, settings=settings
    )  # fmt: skip


def test_what_a_search_has_decided_is_frozen_and_its_trials_with_it(tmp_path, folder):
    path = write(tmp_path / "s.yaml", SEARCH)
    make(request_from([path]), folder, resolve)
    first = make(request_from([path, "search.trials=4"]), folder, resolve)
    assert first.added == 2, "as long as nothing is decided there may be more"
    rate = {"training.learning_rate": 0.5}
    decide([decided("transformer-small", 4, **rate), decided("lstm-small", 4)], folder)
    decide([decided("lstm-small", 4, **rate)], folder)
    assert {key: dict(one.settings) for key, one in decisions(folder).items()} == {
        ("transformer-small", "reverse"): rate, ("lstm-small", "reverse"): {},
    }, "what another worker has decided stays"  # fmt: skip
    before = folder.study_path.read_bytes()
    for arguments, text in (
        (
            ["search.trials=5"],
            "search.trials is 5, was 4; a search with other settings needs another --study",
        ),
        (["search.trials=3"], "search.trials is 3, was 4"),
        (["search.trials=4", "search.seed=1"], "search.seed is 1, was 0"),
        (["search.trials=4", "search.training.steps=10"], "search.training.steps is 10, was 9"),
        (
            ["search.trials=4", "training.warmup_steps=7"],
            "trial 1 of transformer-small on reverse is not the one that",
        ),
    ):
        with pytest.raises(UserError, match=text):
            make(request_from([path, *arguments]), folder, resolve)
    assert folder.study_path.read_bytes() == before
    chosen = {key: dict[str, object]() for key in decisions(folder)}
    make(after([path, "search.trials=4"], chosen), folder, resolve)
    elsewhere = StudyFolder(tmp_path / "results", "t")
    elsewhere.prepare()
    make(request_from([str(folder.study_path)], study="t"), elsewhere, resolve)
    assert decisions(elsewhere) == decisions(folder)


def test_a_frozen_study_whose_search_is_not_decided_is_no_request(tmp_path, folder):
    make(request_from([write(tmp_path / "s.yaml", SEARCH)]), folder, resolve)
    with pytest.raises(UserError, match="the search of transformer-small on reverse is not decided, and"):
        request_from([str(folder.study_path)])


def test_a_narrower_request_leaves_what_the_study_measures(folder):
    make(request_from([*BUDGET, "measure=train,speed"]), folder, resolve)
    made = make(request_from([*BUDGET, "measure=train"]), folder, resolve)
    assert made.measure == ("train",)
    assert load_yaml(folder.study_path)["measure"] == ["train", "speed"]
    made = make(request_from([*BUDGET, "measure=overhead"]), folder, resolve)
    assert made.measure == ("overhead", "speed"), "the trainer is timed with the models"
    assert load_yaml(folder.study_path)["measure"] == ["train", "speed", "overhead"]


@pytest.mark.parametrize("where", ["field=value", "settings"])
def test_what_a_search_decides_is_not_set_beside_it(where, tmp_path):
    study, line = dict(SEARCH), []
    if where == "settings":
        study["settings"] = [{"training.learning_rate": 0.1}]
    else:
        line = ["training.learning_rate=0.1"]
    text = f"^training.learning_rate: is in the search space of transformer-small, and set by {where}, over"
    with pytest.raises(UserError, match=text):
        request_from([write(tmp_path / "s.yaml", study), *line])


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ({"trials": 3, "spaces": {"transformer-small": {}}},
         "^search: transformer-small declares no space; give its preset a section search"),
        ({"trials": 0}, r"^search\.trials: must be at least 1, got 0$"),
        ({"trails": 3}, r"^search\.trails: unknown field; did you mean 'trials'\? "),
        ({"trials": 9, "spaces": {"transformer-small": {"model.dropout": [0.1, 0.2]}}},
         r"^search\.trials: the space of transformer-small reverse has fewer than 9 settings"),
        ({"trials": 2, "spaces": {"transformer-small": {"evaluation.beam": [1, 2]}}},
         "^search: transformer-small: evaluation.beam: a trial varies fields of model, training and data$"),
        ({"trials": 2, "spaces": {"transformer-small": {"training.learning_rate": {"low": 2, "high": 1}}}},
         r"low must be below high, and positive with log; got 2\.0, 1\.0$"),
        ({"trials": 2, "spaces": {"transformer-small": {"training.steps": [5, 6]}}},
         "^search: transformer-small: training.steps: a budget is equal in all trials, and not searched$"),
        ({"trials": 2, "training": {"learning_rate": 0.1},
          "spaces": {"transformer-small": {"training.learning_rate": [0.1, 0.2]}}},
         "^search: transformer-small: training.learning_rate: is in the space and in search.training; leave"),
        ({"trials": 2, "spaces": {"transformer-smal": {"model.dropout": [0.1, 0.2]}}},
         r"^search\.spaces: no 'transformer-smal'; did you mean 'transformer-small'\?"),
        ({"trials": 2, "spaces": {"transformer-small": {"model.dropuot": [0.1, 0.2]}}},
         r"^model\.dropuot: unknown field; did you mean 'dropout'\?$"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_made_is_refused(search, text, tmp_path):
    study = {"model": "transformer-small", "task": "reverse", "training": {"steps": 5}, "search": search}
    with pytest.raises(UserError, match=text):
        request_from([write(tmp_path / "s.yaml", study)])
