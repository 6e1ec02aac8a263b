"""Experiments: what is refused and in which words, what an id depends on, and that ids stay what they are."""

import dataclasses
import json
import math
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from benchmark.config import (
    ROOT,
    DataConfig,
    EvaluationConfig,
    RunOptions,
    TrainingConfig,
    UserError,
    available,
    dump_yaml,
    experiment_from,
    load_yaml,
    merged,
    model_module,
    nested,
    parse_override,
)

RAW = {
    "model": {"name": "transformer", "width": 16, "heads": 2},
    "task": {"name": "rearrange", "operation": "reverse"},
    "training": {"steps": 10, "precision": "float32"},
}


def experiment(**layers):
    return experiment_from(merged(RAW, nested(layers)), files_allowed=False)


REFUSED = [
    pytest.param({"model.haeds": 2}, "model.haeds: unknown field; did you mean 'heads'?", id="field"),
    pytest.param(
        {"model.learning_rate": 1.0},
        "model.learning_rate: unknown field; did you mean 'training.learning_rate'?",
        id="other section",
    ),
    pytest.param({"modle": {}}, "modle: unknown field; did you mean 'model'?", id="section"),
    pytest.param({"model.width": "x"}, "model.width: must be an integer, got 'x'", id="text for integer"),
    pytest.param({"model.width": 16.0}, "model.width: must be an integer, got 16.0", id="float for integer"),
    pytest.param({"model.width": True}, "model.width: must be an integer, got True", id="truth for integer"),
    pytest.param({"model.width": None}, "model.width: must be an integer, got None", id="none"),
    pytest.param({"model.tied": "no"}, "model.tied: must be true or false, got 'no'", id="text for truth"),
    pytest.param({"model.dropout": 1.0}, "model.dropout: must be at most 0.9, got 1.0", id="bound"),
    pytest.param(
        {"model.width": 15}, "model: heads must divide width, got 2 heads and width 15", id="relation"
    ),
    pytest.param(
        {"training.optimizer": "nesterov"}, "training: optimizer: nesterov takes a momentum", id="momentum"
    ),
    pytest.param(
        {"training.schedule": "lineer"},
        "training.schedule: must be 'inverse_sqrt', 'linear', 'cosine', 'constant' or 'plateau', "
        "got 'lineer'; did you mean 'linear'?",
        id="choice",
    ),
    pytest.param(
        {"training.learning_rate": "1e-3"},
        "training.learning_rate: must be a number, got '1e-3'",
        id="text for number",
    ),
    pytest.param(
        {"training.learning_rate": math.nan},
        "training.learning_rate: must be a finite number, got nan",
        id="nan",
    ),
    pytest.param(
        {"training.learning_rate": math.inf},
        "training.learning_rate: must be a finite number, got inf",
        id="infinity",
    ),
    pytest.param(
        {"training.learning_rate": 0},
        "training.learning_rate: must be greater than 0.0, got 0",
        id="not positive",
    ),
    pytest.param({"training": 3}, "training: must hold fields, got 3", id="no section"),
    pytest.param({"seed": -1}, "seed: must be an integer from 0 to 4294967295, got -1", id="seed"),
    pytest.param({"seed": True}, "seed: must be an integer from 0 to 4294967295, got True", id="seed truth"),
    pytest.param(
        {"model.name": "transfomer"},
        "model.name: no 'transfomer'; did you mean 'transformer'?; there are: convs2s, lstm, transformer; "
        "or the path of a .py file, on the command line",
        id="model",
    ),
    pytest.param(
        {"model.name": "mine.py"},
        "model.name: 'mine.py' is a file, and a file runs only when the command line names it; "
        "add model.name=mine.py, or --trust-code if you trust it",
        id="file",
    ),
    pytest.param({"model.name": "os.path"}, "model.name: no 'os.path'", id="module"),
    pytest.param({"model.name": "../models/lstm"}, "model.name: no '../models/lstm'", id="path"),
    pytest.param({"model.name": "layers"}, "model.name: no 'layers'", id="package"),
    pytest.param({"model._target_": "os.system"}, "model._target_: unknown field", id="hydra"),
    pytest.param(
        {"model.width": "x", "model.heads": "y"},
        "model.width: must be an integer, got 'x' (and 1 more mistake)",
        id="two",
    ),
    pytest.param(
        {"model.width": "\x1b[31m" + "x" * 99},
        "model.width: must be an integer, got '\\x1b[31m",
        id="terminal",
    ),
]


@pytest.mark.parametrize(("layer", "text"), REFUSED)
def test_a_mistake_is_named_in_one_line(layer, text):
    with pytest.raises(UserError) as caught:
        experiment(**layer)
    assert str(caught.value).startswith(text)
    assert all(character.isprintable() for character in str(caught.value))
    assert len(str(caught.value)) < 300


def test_a_budget_is_given_once():
    with pytest.raises(UserError, match=r"^training: set exactly one budget .* got steps and seconds$"):
        experiment_from({**RAW, "training": {"steps": 3, "seconds": 4}}, files_allowed=False)
    with pytest.raises(UserError, match=r"^training: set exactly one budget .* got none$"):
        experiment_from({**RAW, "training": {}}, files_allowed=False)


def test_a_layer_with_a_budget_clears_the_budgets_below():
    assert merged({"training": {"seconds": 60, "seed": 1}}, {"training": {"steps": 5}}) == {
        "training": {"seed": 1, "steps": 5}
    }
    assert merged({"training": {"seconds": 60}}, {"training": {"momentum": 0.5}})["training"]["seconds"] == 60


def test_a_layer_with_another_model_starts_from_its_defaults():
    below = {"model": {"name": "transformer", "heads": 2}}
    assert merged(below, {"model": {"name": "lstm"}}) == {"model": {"name": "lstm"}}
    assert merged(below, {"model": {"width": 8}})["model"] == {"name": "transformer", "heads": 2, "width": 8}


OVERRIDES = [
    ("training.learning_rate=1e-4", 1e-4),
    ("seed=0,1", [0, 1]),
    ("seed=[0,1]", [0, 1]),
    ("model.encoder_blocks=[[8,3]]", [[8, 3]]),
    ("model.x=[[8,3]],[[9,3]]", [[[8, 3]], [[9, 3]]]),
    ("task.source=no", "no"),
    ("task.source='1,2'", "1,2"),
    ("a=null", None),
    ("a=true", True),
    ("a=x=y", "x=y"),
    ("model.name=mine.py", "mine.py"),
]


@pytest.mark.parametrize(("text", "value"), OVERRIDES)
def test_an_override_is_a_yaml_value_and_commas_make_a_list(text, value):
    override = parse_override(text)
    assert override.value == value and type(override.value) is type(value)
    assert ".".join(override.path) == text.partition("=")[0]


@pytest.mark.parametrize("text", ["x", "=1", "a..b=1", "a=", "a=[1", "a=!!python/name:os.system", "a=1 #"])
def test_a_malformed_override_is_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        parse_override(text)
    assert "\n" not in str(caught.value)


def test_dotted_and_nested_fields_are_one():
    assert nested({"a.b": 1, "a": {"c.d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}
    with pytest.raises(UserError, match=r"^a\.b: is given twice$"):
        nested({"a.b": 1, "a": {"b": 2}})


YAML = [
    pytest.param("a: 1e-4", {"a": 1e-4}, id="number without a dot"),
    pytest.param("a: no", {"a": "no"}, id="Norway"),
    pytest.param("a: 012", {"a": 12}, id="no octal"),
    pytest.param("\ufeffa: 1", {"a": 1}, id="byte order mark"),
    pytest.param("a: &x [1]\nb: *x", {"a": [1], "b": [1]}, id="alias"),
    pytest.param("a: 1\na: 2", '{}:2: found duplicate key "a"; a field is given once', id="repeated"),
    pytest.param(
        "a: !!python/object:os.x {}", "{}:1: not valid YAML: could not determine a constructor", id="object"
    ),
    pytest.param("a: !!python/object/apply:os.system [touch x]", "{}:1: not valid YAML", id="call"),
    pytest.param("a: 2020-01-01", "{}: datetime.date(2020, 1, 1) is a date; put it in quotes", id="date"),
    pytest.param("1: a", "{}: a field name must be text, got 1", id="key"),
    pytest.param("- a", "{}: must hold fields (name: value), got ['a']", id="list"),
    pytest.param("", "{}: must hold fields (name: value), got None", id="empty"),
    pytest.param("a: [", "{}:1: not valid YAML: ", id="cut off"),
    pytest.param("a: &a [*a]", "{}: nested deeper than 20 levels", id="self"),
    pytest.param("[" * 5000, "{}: ", id="deep"),
    pytest.param("a: " + "1" * 5000, "{}: not valid YAML: ", id="huge integer"),
    pytest.param(
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        "{}: more than 500,000 values once its aliases are written out",
        id="alias bomb",
    ),
]


@pytest.mark.parametrize(("text", "expected"), YAML)
def test_yaml_is_read_as_plain_values_or_refused_in_one_line(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode())
    if isinstance(expected, dict):
        assert load_yaml(path) == expected
        return
    with pytest.raises(UserError) as caught:
        load_yaml(path)
    assert str(caught.value).startswith(expected.format(path))
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["x.yaml"]


def test_a_file_that_is_not_utf8_is_named_with_line_and_byte(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(UserError, match=r"x\.yaml:2: not UTF-8: byte 0xff at offset 8$"):
        load_yaml(path)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(
    document=st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), plain, min_size=1, max_size=4)
)
def test_yaml_that_is_written_is_read_back_equal(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("yaml") / "x.yaml"
    path.write_bytes(dump_yaml(document).encode())
    assert json.dumps(load_yaml(path)) == json.dumps(document)


def test_what_is_an_experiments_document_and_what_is_not():
    one = experiment(seed=3)
    document = one.document()
    assert one.is_document(document)
    assert one.is_document(document), "sections that were compared before"
    assert not experiment(seed=4).is_document(document)
    assert not one.is_document({**document, "model_file_sha256": "0" * 64})
    for section in document:
        assert not one.is_document({name: part for name, part in document.items() if name != section})
        assert not one.is_document({**document, section: None})
        assert not one.is_document({**document, section: {"steps": 1}})
    document["training"]["steps"] += 1
    assert not one.is_document({**document, "training": dict(document["training"])})


def test_a_document_gives_the_same_experiment_again():
    one = experiment(**{"model.name": "convs2s", "model.encoder_blocks": [[16, 3], [16, 5]]})
    assert experiment_from(json.loads(json.dumps(one.document())), files_allowed=False) == one


# Identity


def _another(annotation, value):
    """A value of a field's type that it does not have; `auto` is none, for it leaves a choice open."""
    for candidate in (*get_args(annotation), True, False, 7, 0.25, "x", (7,), ((7, 3),)):
        try:
            TypeAdapter(annotation).validate_python(candidate, strict=True)
        except ValidationError:
            continue
        if candidate not in (value, "auto"):
            return candidate
    raise AssertionError(f"no other value of {annotation}")


@pytest.mark.parametrize(
    ("section", "name"),
    [
        *(("model", name) for name in available("models")), *(("task", name) for name in available("tasks")),
        ("data", None), ("training", None), ("evaluation", None),
    ],
)  # fmt: skip
def test_every_field_is_part_of_the_id(section, name):
    one = experiment(**({f"{section}.name": name} if name else {}))
    config = getattr(one, section)
    for field, info in type(config).model_fields.items():
        update = {field: _another(info.annotation, getattr(config, field))}
        changed = dataclasses.replace(one, **{section: config.model_copy(update=update)})
        assert changed.run_id() != one.run_id(), field


def test_versions_code_and_seed_are_part_of_the_id(monkeypatch):
    ids = {experiment().run_id()}
    for target in (type(experiment().model), type(experiment().task)):
        with monkeypatch.context() as patch:
            patch.setattr(target, "version", target.version + 1)
            ids.add(experiment().run_id())
    with monkeypatch.context() as patch:
        patch.setattr("benchmark.config.HARNESS_VERSION", 10**6)
        ids.add(experiment().run_id())
    ids.add(dataclasses.replace(experiment(), model_file_sha256="0").run_id())
    ids.add(experiment(seed=1).run_id())
    assert len(ids) == 6


def test_no_run_option_is_part_of_an_experiment():
    fields = {field.name for field in dataclasses.fields(RunOptions)}
    sections = (DataConfig, TrainingConfig, EvaluationConfig)
    assert fields.isdisjoint(name for section in sections for name in section.model_fields)
    assert fields.isdisjoint(experiment().document())


def test_an_open_choice_has_no_id():
    for layer in ({"training.precision": "auto"}, {"training.seconds": 3.0}):
        with pytest.raises(AssertionError, match="resolve"):
            experiment(**layer).run_id()


MODEL = """
from typing import Self
from models import ModelConfig

class Config(ModelConfig):
    width: int = 3
"""


def test_a_file_is_known_by_name_and_content_wherever_it_lies(tmp_path):
    ids = []
    for folder, text in (("a", MODEL), ("b", MODEL), ("c", MODEL + "\n# other")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "mine.py"
        path.write_text(text)
        raw = {**RAW, "model": {"name": str(path)}}
        ids.append(experiment_from(raw, files_allowed=True).run_id())
    assert ids[0] == ids[1] != ids[2]


def test_a_recorded_file_that_has_changed_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    document = experiment_from({**RAW, "model": {"name": str(path)}}, files_allowed=True).document()
    path.write_text(MODEL + "\n")
    with pytest.raises(UserError, match=r"mine\.py has changed since the run was made"):
        experiment_from(document, files_allowed=True)


def test_a_file_that_may_not_run_does_not(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'marker')!r}).touch()\n{MODEL}")
    with pytest.raises(UserError, match="is a file"):
        model_module(str(path), files_allowed=False)
    assert not (tmp_path / "marker").exists()
    model_module(str(path), files_allowed=True)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (", r"mine\.py:1: SyntaxError"),
        ("\nimport no_such_module_at_all", r"mine\.py:2: ModuleNotFoundError: No module named"),
        ("x = 1", r"mine\.py: must export a class Config derived from models\.ModelConfig"),
        ("class Config: pass", r"mine\.py: must export a class Config"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        model_module(str(path), files_allowed=True)


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"^model\.name: nowhere\.py: cannot be read: No such file"):
        model_module("nowhere.py", files_allowed=True)


@pytest.mark.parametrize(
    "preset", sorted((ROOT / "configs" / "models").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_model_preset_is_valid(preset):
    sections = nested(load_yaml(preset))
    sections.pop("search", None)  # of studies, and no part of an experiment
    raw = merged(RAW, sections, {"training": {"steps": 1}})
    assert experiment_from(raw, files_allowed=False).model_name in available("models")
    assert preset.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize(
    "preset", sorted((ROOT / "configs" / "tasks").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_task_preset_is_valid(preset):
    if preset.stem == "parallel-text":
        pytest.skip("its files are the user's to name")
    raw = merged(RAW, nested(load_yaml(preset)), {"training": {"steps": 1}})
    assert experiment_from(raw, files_allowed=False).task_name in available("tasks")
    assert preset.read_text(encoding="utf-8").startswith("# ")


GOLDEN = Path(__file__).parent / "golden_run_ids.json"


def test_the_ids_of_these_experiments_never_change():
    """A changed default would give old results another meaning: raise a version and freeze new ids."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found = {
        name: experiment_from(one["experiment"], files_allowed=False).run_id() for name, one in golden.items()
    }
    assert found == {name: one["run_id"] for name, one in golden.items()}
