"""`seqbench check` names model, hook, what was expected, what was got; sound files of a user's own pass."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import models.transformer
from benchmark import resolution
from benchmark.check import check_model, check_named, check_task, outcome_of, preflight_model
from benchmark.check.model import (
    ModelUnderCheck,
    at_test_size,
    no_target_position_sees_its_future,
    the_hooks_answer_in_the_right_form,
    variants,
)
from benchmark.check.task import TASK_CHECKS, TaskUnderCheck
from benchmark.config import UserError, available
from benchmark.engines import child
from benchmark.resolution import resolve
from benchmark.store import RunFolder
from benchmark.study import Asked
from models.transformer import Transformer
from tasks import Task, TaskConfig
from tests.benchmark.test_cli import inside
from tests.benchmark.training_run import experiment, options


class Transposed(Transformer):
    def decode(self, target_in, memory):
        return super().decode(target_in, memory).transpose(0, 1)


class Half(Transformer):
    def logits(self, hidden):
        return super().logits(hidden).half()


class Elsewhere(Transformer):
    def start(self, memory):
        state = super().start(memory)
        room = torch.zeros(len(memory.source_mask), 2, 4, 8, dtype=memory.hidden.dtype)
        return dataclasses.replace(state, target=[(room, room)] * 2)


class NotANumber(Transformer):
    def logits(self, hidden):
        logits = super().logits(hidden)
        return torch.where(torch.arange(logits.shape[-1]) == 4, torch.nan, logits)


class OnlyHidden(Transformer):
    def decode_step(self, token, state):
        return super().decode_step(token, state)[0]


class NoRecord(Transformer):
    def encode(self, source, source_mask):
        return super().encode(source, source_mask).hidden


class TimeFirst(Transformer):
    def start(self, memory):
        state = super().start(memory)
        source = [(key.transpose(0, 2), value) for key, value in state.source]
        return dataclasses.replace(state, source=source)  # type: ignore[arg-type]


class Raising(Transformer):
    def decode(self, target_in, memory):
        return super().decode(target_in[:, :, None], memory)


BROKEN = [
    (Transposed, "decode: expected float64 (2, 8, D) on cpu, got float64 (8, 2, 16) on cpu"),
    (Half, "logits: expected float64 (2, 8, 61) on cpu, got float16 (2, 8, 61) on cpu"),
    (Elsewhere, "start: expected TransformerState.target[0][0] on meta, got cpu"),
    (NotANumber, "logits: expected finite numbers, got nan in 16 of 976 places"),
    (OnlyHidden, "decode_step: expected a tuple of hidden state (B, D) and State, got Tensor"),
    (NoRecord, "encode: expected a dataclass derived from models.Memory, got Tensor"),
    (
        TimeFirst,
        "start: expected TransformerState.source[0][0] to begin with the batch (2), got (8, 2, 2, 8)",
    ),
    (Raising, "decode raised ValueError: too many values to unpack (expected 3) (attention.py:"),
]


def config_of(model_class):
    def build(self, vocabulary_size):
        return model_class(self, vocabulary_size)

    config = type("Config", (models.transformer.Config,), {"__module__": __name__, "build": build})
    return config()


@pytest.mark.parametrize(("model_class", "message"), BROKEN, ids=[pair[0].__name__ for pair in BROKEN])
def test_a_broken_model_is_named_with_hook_expected_and_got(model_class, message):
    if model_class is Elsewhere and torch.cuda.is_available():
        message = message.replace("meta", "cuda")
    subject = ModelUnderCheck("mine.py", at_test_size(config_of(model_class)))
    outcome = outcome_of(the_hooks_answer_in_the_right_form, [subject])
    assert not outcome.ok
    assert outcome.message.startswith(f"mine.py: {message}")
    assert "\n" not in outcome.message
    with pytest.raises(UserError, match=r"^model\.name: mine\.py: "):
        preflight_model("mine.py", config_of(model_class))


class Peeking(Transformer):
    def decode(self, target_in, memory):
        return super().decode(target_in.roll(-1, 1), memory)


def test_a_model_that_peeks_is_refused_before_training():
    with pytest.raises(
        UserError, match=r"^model\.name: mine\.py: decode: position 0 sees its future in evaluation mode"
    ):
        preflight_model("mine.py", config_of(Peeking))


def test_a_model_of_the_repository_that_peeks_is_refused_before_training(tmp_path, monkeypatch):
    asked = [Asked(experiment=experiment("transformer", seed=seed)) for seed in (0, 1)]
    assert len(resolve(asked, options(tmp_path))) == 2
    monkeypatch.setattr(models.transformer.Config, "build", lambda self, size: Peeking(self, size))
    with pytest.raises(UserError, match=r"^model\.name: transformer: decode: position 0 sees its future"):
        resolve(asked, options(tmp_path))


def test_a_run_whose_model_of_the_repository_peeks_trains_nothing(tmp_path, monkeypatch):
    """Where nothing is open in a study, no process but the run's own has looked at it."""
    monkeypatch.setattr(models.transformer.Config, "build", lambda self, size: Peeking(self, size))
    one = experiment("transformer")
    folder = RunFolder(tmp_path / one.run_id())
    folder.open({"experiment": one.document()})
    with pytest.raises(UserError, match=r"^model\.name: transformer: decode: position 0 sees its future"):
        child.run_child(folder.path, options(tmp_path))
    assert folder.record() is None


def test_a_study_looks_at_each_architecture_once(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(resolution, "preflight_hooks", lambda name, config: looked.append(name))
    asked = [
        Asked(experiment=experiment(name, model={"dropout": dropout}))
        for name in ("lstm", "transformer")
        for dropout in (0.0, 0.1)
    ]
    resolve(asked, options(tmp_path))
    assert looked == ["lstm", "transformer"]


def test_a_model_without_a_test_size_is_refused_in_one_line():
    class Sizeless(models.transformer.Config):
        def tiny(self):
            raise NotImplementedError("Config has no tiny()")

    with pytest.raises(
        UserError, match=r"^model\.name: mine\.py: tiny: NotImplementedError: Config has no tiny"
    ):
        preflight_model("mine.py", Sizeless())


def test_a_sound_model_passes_the_preflight_and_random_numbers_stay_as_they_were():
    before = torch.get_rng_state()
    preflight_model("transformer", config_of(Transformer))
    assert torch.equal(before, torch.get_rng_state())


OWN_MODEL = '''
from dataclasses import dataclass
import torch
from torch import Tensor, nn
from models import Memory, ModelConfig, Seq2SeqModel, State

class Config(ModelConfig):
    width: int = 64
    bias: bool = True

    def build(self, vocabulary_size):
        return Mean(self, vocabulary_size)

    def tiny(self):
        return self.model_copy(update={"width": 8})

@dataclass
class MeanMemory(Memory):
    mean: Tensor

@dataclass
class MeanState(State):
    total: Tensor
    length: int

class Mean(Seq2SeqModel):
    """The mean of the source's words plus the mean of the target's words so far."""
    def __init__(self, config, vocabulary_size):
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, config.width)
        self.output = nn.Linear(config.width, vocabulary_size, bias=config.bias)

    def encode(self, source, source_mask):
        weights = source_mask / source_mask.sum(1, keepdim=True)
        return MeanMemory(source_mask, (self.words(source) * weights.to(self.words.weight)[..., None]).sum(1))

    def decode(self, target_in, memory):
        counts = torch.arange(1, target_in.shape[1] + 1, device=target_in.device)
        return torch.tanh(self.words(target_in).cumsum(1) / counts[:, None] + memory.mean[:, None])

    def start(self, memory):
        return MeanState(memory, torch.zeros_like(memory.mean), 0)

    def decode_step(self, token, state):
        total, length = state.total + self.words(token), state.length + 1
        return torch.tanh(total / length + state.memory.mean), MeanState(state.memory, total, length)

    def logits(self, hidden):
        return self.output(hidden)
'''

OWN_TASK = """
from tasks import Task, TaskConfig

class Config(TaskConfig):
    def build(self, data_directory):
        return Doubling()

class Doubling(Task):
    metrics = ("sequence_accuracy",)
    vocabulary = "symbols"

    def pairs(self, split):
        first = {"train": 0, "validation": 50, "test": 60}[split]
        for number in range(first, first + 10):
            yield " ".join(str(number)), " ".join(str(number) * 2)
"""


def test_a_model_file_of_the_users_own_is_checked_with_its_options(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_MODEL)
    outcomes = check_named(str(path), tmp_path)
    assert [outcome.message for outcome in outcomes if not outcome.ok] == []
    assert "theory equals what is counted" in [outcome.name for outcome in outcomes]
    assert any("no theory()" in outcome.message for outcome in outcomes)
    path.write_text(OWN_MODEL.replace("self.words(token)", "self.words(token).detach() * config_bias"))
    failed = [outcome for outcome in check_named(str(path), tmp_path) if not outcome.ok]
    assert any("decode_step raised NameError" in outcome.message for outcome in failed)


def test_a_users_own_model_and_task_are_trained_reported_and_trained_again(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_MODEL)
    (tmp_path / "doubling.py").write_text(OWN_TASK)
    common = ["--results", tmp_path / "results", "--device", "cpu", "--threads", "1", "--wandb", "disabled"]
    code, _, errors = inside(
        "run", f"model.name={tmp_path}/mine.py", "model.width=8", f"task.name={tmp_path}/doubling.py",
        "training.steps=4", "training.validations=2", "training.precision=float32", "--study", "own", *common,
    )  # fmt: skip
    assert code == 0, errors
    [path] = (tmp_path / "results").glob("own/runs/*/record.json")
    record = json.loads(path.read_text())
    assert (record["status"], record["steps"], record["training_pairs"]) == ("done", 4, 10)
    assert {score["split"] for score in record["scores"]} == {"validation", "test"}

    code, output, errors = inside("report", tmp_path / "results" / "own", "--rescore", "--trust-code")
    assert code == 0, errors
    assert "1/0/0" in output and "mine" in output and "doubling" in output

    shutil.rmtree(path.parent)
    study = tmp_path / "results" / "own" / "study.yaml"
    code, _, errors = inside("run", study, *common)
    assert code == 2 and "--trust-code" in errors
    code, _, errors = inside("run", study, "--trust-code", *common)
    assert code == 0, errors
    again = json.loads(path.read_text())
    for name in ("run_id", "loss_curve_sha256", "weights_sha256", "hypotheses_sha256", "scores"):
        assert again[name] == record[name], name


def test_a_mistake_that_only_one_option_shows_is_named_with_it(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        OWN_MODEL.replace("bias=config.bias)", "bias=config.bias)\n        assert config.bias, 'no bias'")
    )
    failed = [outcome for outcome in check_model(str(path)) if not outcome.ok]
    assert all(f"{path} bias=False: build raised AssertionError: no bias" in one.message for one in failed)
    assert failed


def test_a_model_without_a_test_size_is_told_so(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_MODEL.replace("def tiny(self)", "def small(self)"))
    (outcome,) = check_model(str(path))
    assert not outcome.ok
    assert "Config has no tiny()" in outcome.message


def test_a_task_file_of_the_users_own_is_checked(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN_TASK)
    assert [outcome.message for outcome in check_named(str(path), tmp_path) if not outcome.ok] == []


REFUSED = [
    ("transfromer", "check: no 'transfromer'; did you mean 'transformer'?"),
    ("no.py", "model.name: no.py: cannot be read"),
    ("empty.py", "must export a class Config derived from models.ModelConfig, or from tasks.TaskConfig"),
    ("parallel_text", "task.train: there is no file"),
]


@pytest.mark.parametrize(("name", "message"), REFUSED)
def test_what_cannot_be_checked_is_said_in_one_line(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path("empty.py").write_text("")
    with pytest.raises(UserError) as caught:
        check_named(name, tmp_path)
    assert message in str(caught.value)


def test_data_that_are_missing_are_said_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"^task\.train: "):
        check_task("parallel-text", data_directory=tmp_path)


@pytest.mark.parametrize(
    "name", [name for name in available("tasks") if name not in ("multi30k", "parallel_text")]
)
def test_every_generated_task_keeps_the_contract(tmp_path, name):
    outcomes = check_task(name, data_directory=tmp_path, tiny=True)
    assert [outcome.message for outcome in outcomes if not outcome.ok] == []


@pytest.mark.parametrize("preset", ["copy", "reverse", "sort"])
def test_a_preset_of_a_task_can_be_checked(tmp_path, preset):
    outcomes = check_task(preset, {"train_pairs": 500}, data_directory=tmp_path)
    assert [outcome.message for outcome in outcomes if not outcome.ok] == []


PAIRS = {
    "train": [("a b", "b a"), ("b", "b"), ("a", "a")],
    "validation": [("b b", "b b")],
    "test": [("a a", "a a")],
}


class Fixed(Task):
    metrics = ("sequence_accuracy",)
    vocabulary = "symbols"

    def __init__(self, pairs):
        self.by_split = pairs

    def pairs(self, split) -> Iterator[tuple[str, str]]:
        return iter(self.by_split[split])


class Restless(Fixed):
    built = 0

    def __init__(self, pairs):
        Restless.built += 1
        super().__init__(pairs | {"train": pairs["train"] * Restless.built})


class Generated(TaskConfig):
    def tiny(self):
        return self


def task_outcomes(pairs=PAIRS, task_class=Fixed, config=TaskConfig, **attributes):
    made = type("Made", (task_class,), attributes)

    def build(self, data_directory):
        return made(pairs)

    own_config = type("Config", (config,), {"__module__": __name__, "build": build})
    subject = TaskUnderCheck("mine", own_config(), Path())
    outcomes = [outcome_of(check, [subject]) for check in TASK_CHECKS]
    return [f"{outcome.name}: {outcome.message}" for outcome in outcomes if not outcome.ok]


BROKEN_TASKS = [
    ({"pairs": PAIRS | {"validation": []}}, "pairs('validation'): expected at least one pair, got none"),
    ({"pairs": PAIRS | {"test": [("a\nb", "b")]}}, "expected text without line ends, got 'a\\nb'"),
    ({"pairs": PAIRS | {"test": [("a", 3)]}}, "pair 0: expected source and target text, got ('a', 3)"),
    ({"pairs": PAIRS | {"test": [("a", "\ud800")]}}, "expected text that UTF-8 can hold"),
    ({"task_class": Restless}, "pairs('train'): built afresh: expected the same pairs in order, got others"),
    (
        {"pairs": PAIRS | {"test": [("A  b", "b")]}, "config": Generated},
        "expected disjoint splits, got: 1 of 1 different sources of test are in train, as 'a b'",
    ),
    (
        {"pairs": PAIRS | {"test": [("a b", "b")]}},
        "expected at most 10% overlap, got: 1 of 1 different sources",
    ),
    ({"metrics": ("blue",)}, "metrics: expected names among bleu, chrf"),
    ({"metrics": ()}, "metrics: expected at least one of bleu"),
    ({"vocabulary": "letters"}, "vocabulary: expected 'symbols' or 'subwords', got 'letters'"),
    (
        {"vocabulary": "subwords"},
        "vocabulary_size: expected an integer for subwords and None for symbols, got None",
    ),
    ({"vocabulary": "subwords", "vocabulary_size": 9000}, "vocabulary_size: the training text gives only"),
    ({"test_splits": ("test", "test")}, "test_splits: expected different names"),
    ({"fingerprint": lambda self: 3}, "fingerprint: expected text, got int"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN_TASKS)
def test_a_broken_task_is_named_with_expected_and_got(change, message):
    failed = task_outcomes(**change)
    assert any(message in outcome for outcome in failed), failed


def test_a_sound_task_passes_and_a_symbol_that_training_lacks_is_only_told():
    assert task_outcomes() == []
    assert task_outcomes(pairs=PAIRS | {"test": [("a a", "a new")]}) == []


def test_variants_change_one_option_at_a_time_and_leave_out_what_is_refused():
    changed = dict(variants(models.transformer.Config().tiny()))
    assert sorted(changed) == ["norm=post", "positions=learned", "positions=none", "tied=False"]
    assert changed["norm=post"].model_dump() == models.transformer.Config(norm="post").tiny().model_dump()


def test_checks_see_a_mistake_in_any_of_several_models():
    subjects = [
        ModelUnderCheck("sound", at_test_size(config_of(Transformer))),
        ModelUnderCheck("peeking", at_test_size(config_of(Peeking))),
    ]
    outcome = outcome_of(no_target_position_sees_its_future, subjects)
    assert outcome.message.startswith("peeking: ")
    assert isinstance(subjects[0].hooks().model, nn.Module)
