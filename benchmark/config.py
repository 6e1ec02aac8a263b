"""What determines a result: the experiment, read from YAML and `key=value`, checked once, frozen, hashed.

An `Experiment` holds all that determines a result and nothing else; where to write, how to log and on how
many devices are `RunOptions`. Every way in (files, command line, cells of a study, stored records) ends in
`experiment_from`. This module imports neither torch nor a model until an experiment is made.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from models import ModelConfig
    from tasks import TaskConfig

HARNESS_VERSION = 1
"""Raised when training, decoding or scoring gives other numbers for one experiment; part of every run id."""

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the packages `models`, `tasks` and `benchmark`, and the presets in `configs`."""

BUDGETS = ("steps", "tokens", "epochs", "seconds")
SECTIONS = ("model", "task", "data", "training", "evaluation")

_MAXIMUM_FILE_BYTES = 16 * 2**20
_MAXIMUM_VALUES = 500_000
_MAXIMUM_DEPTH = 20


def one_line(text: str) -> str:
    """`text` with line ends and control characters escaped, so that no input can act in a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text.strip())


def shown(value: object) -> str:
    """`value` as an error text quotes it: one line, 60 characters at most."""
    text = one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


class UserError(ValueError):
    """A mistake in what the user gave, in one line; the command prints it and ends with exit code 2."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class NotOfThisKind(UserError):
    """A file of a model or task that exports no config of what was looked for."""


class Unfinished(Exception):
    """Work ended before its end: the command says the text, where there is one, and ends with `exit_code`."""

    exit_code = 1


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(_Section):
    batch_tokens: int = Field(default=1024, ge=1)
    """Padded positions of the longer side in one global batch: sentences x max(source, target) length."""
    maximum_tokens: int = Field(default=256, ge=2, le=16_383)
    """Training pairs with a longer side are dropped, longer sources at evaluation are cut; both are
    counted.
    """


class TrainingConfig(_Section):
    steps: int | None = Field(default=None, ge=1)
    """Budget in optimiser steps. Exactly one of `steps`, `tokens`, `epochs` and `seconds` is set."""
    tokens: int | None = Field(default=None, ge=1)
    """Budget in target tokens without padding; turned into steps when the study is made."""
    epochs: float | None = Field(default=None, gt=0)
    """Budget in passes over the training split; turned into steps when the study is made."""
    seconds: float | None = Field(default=None, gt=0)
    """Budget in seconds of training steps on this device; turned into steps when the study is made."""

    optimizer: Literal["adam", "sgd", "nesterov"] = "adam"
    """Adam (Kingma and Ba 2015) in every comparison; the others are for the papers' own recipes."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """The highest rate of the schedule."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Adam: decay of the mean of gradients."""
    beta2: float = Field(default=0.98, ge=0, lt=1)
    """Adam: decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-9, gt=0)
    """Adam: added to the root of the mean square."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """SGD and Nesterov only."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Adam: decoupled from the gradient (Loshchilov and Hutter 2019); SGD and Nesterov: added to it."""

    schedule: Literal["inverse_sqrt", "linear", "cosine", "constant", "plateau"] = "linear"
    """Shape of the learning rate after the warm-up."""
    warmup_steps: int = Field(default=200, ge=0)
    """Steps from 0 to `learning_rate`, linearly."""
    hold_fraction: float = Field(default=1 / 3, ge=0, le=1)
    """`linear` only: share of the budget at the full rate before it falls linearly."""
    final_fraction: float = Field(default=0.02, ge=0, le=1)
    """`linear` and `cosine`: the last rate as a share of the highest."""
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    """`plateau` only: what the rate is multiplied by when validation loss has stopped falling."""

    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of probability spread over the vocabulary (Szegedy et al. 2016)."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Largest global norm of the gradient; none for no clipping."""

    validations: int = Field(default=10, ge=1)
    """Evenly spaced over the budget; each scores the validation split and keeps the weights."""
    validation_sentences: int | None = Field(default=None, ge=0)
    """How many validation sentences are generated for the quality metric at each validation; none for all."""
    patience: int | None = Field(default=None, ge=1)
    """Validations without a better validation loss before an early stop; none to spend the whole budget."""
    average_checkpoints: int = Field(default=5, ge=1)
    """How many of the last validations' weights are averaged into what is scored."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto` takes bfloat16 where a short measurement on this device shows that it is faster."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        named = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(named) != 1:
            raise ValueError(
                f"set exactly one budget of {', '.join(BUDGETS)}; got {' and '.join(named) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.optimizer == "nesterov" and self.momentum == 0:
            raise ValueError("optimizer: nesterov takes a momentum above 0, got none; set momentum")
        return self

    @property
    def budget(self) -> str:
        """Which of `BUDGETS` is set."""
        return next(name for name in BUDGETS if getattr(self, name) is not None)


class EvaluationConfig(_Section):
    beam: int = Field(default=1, ge=1)
    """Hypotheses kept at each step; 1 is greedy."""
    length_penalty: float = Field(default=0.6, ge=0)
    """Exponent of GNMT's length penalty (Wu et al. 2016, equation 14); beam search only."""
    extra_length: int = Field(default=50, ge=0)
    """An output has at most as many tokens as its source plus this (Vaswani et al. 2017, section 6.1)."""
    batch_sentences: int = Field(default=128, ge=1)
    """Sentences generated side by side."""
    test: bool = True
    """Whether test splits are scored at the end; false in a search, which must not see them."""


@dataclass(frozen=True)
class _Form:
    """One section of an experiment, as experiments are shown: a grid of thousands has few different ones."""

    section: str
    document: dict[str, Any]
    _equal: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was found to be equal, by its identity, and held, so that nothing else can have that."""

    def equals(self, found: Any) -> bool:
        """Whether a section that was read says the same; sections that many share are compared once."""
        if found is not None and self._equal.get(id(found)) is found:
            return True
        if found != self.document:
            return False
        if len(self._equal) >= _MAXIMUM_FORMS:
            self._equal.clear()
        self._equal[id(found)] = found
        return True

    @cached_property
    def yaml(self) -> str:
        """As `Experiment.yaml` has it."""
        return _indented_yaml({self.section: self.document})

    @cached_property
    def canonical(self) -> str:
        """As canonical JSON."""
        return canonical_json(self.document)


def _indented_yaml(document: Mapping[str, Any]) -> str:
    return textwrap.indent(dump_yaml(document), "  ")


_FORMS: dict[tuple[int, str], tuple[BaseModel, _Form]] = {}
"""By the section's identity, since equal numbers of two types are equal and are not written alike."""
_MAXIMUM_FORMS = 10_000


def _form(section: str, config: BaseModel, name: str = "") -> _Form:
    known = _FORMS.get((id(config), name))
    if known is not None:
        return known[1]
    fields = config.model_dump(mode="json")
    if isinstance(config, TrainingConfig):
        fields = {key: value for key, value in fields.items() if key not in BUDGETS or value is not None}
    document = {"name": name, **fields} if name else fields
    form = _Form(section, document)
    if len(_FORMS) >= _MAXIMUM_FORMS:
        _FORMS.clear()
    _FORMS[id(config), name] = config, form  # held, so that nothing else can have its identity
    return form


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that determines a result, and nothing else."""

    model_name: str
    """A file of `models/` by its stem, or the path of a .py file."""
    model: ModelConfig
    task_name: str
    """A file of `tasks/` by its stem, or the path of a .py file."""
    task: TaskConfig
    training: TrainingConfig
    data: DataConfig = field(default_factory=DataConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    """Enters initialisation, order of batches and dropout; not the data of a generated task."""
    model_file_sha256: str | None = None
    """Of a model outside the repository: the hash of its file."""
    task_file_sha256: str | None = None

    def document(self) -> dict[str, Any]:
        """Nested plain values in the form of the YAML files; `experiment_from` reads them."""
        return {
            **{form.section: dict(form.document) for form in self._written.forms},
            "seed": self.seed,
            **self._written.hashes,
        }

    def is_document(self, found: Mapping[str, Any]) -> bool:
        """Whether that is equal to `document()`, told fast."""
        written = self._written
        return (
            len(found) == len(written.forms) + 1 + len(written.hashes)
            and found.get("seed") == self.seed
            and all(form.equals(found.get(form.section)) for form in written.forms)
            and all(found.get(name) == sha256 for name, sha256 in written.hashes.items())
        )

    def yaml(self) -> str:
        """The document as YAML, under the name `experiment`."""
        return self._written.yaml.of(self.seed)

    def canonical(self) -> str:
        """The document as canonical JSON."""
        return self._written.canonical.of(self.seed)

    def run_id(self) -> str:
        """16 hexadecimal digits: SHA-256 of the document with the versions of model, task and harness.

        A file outside the repository enters by its name and content, not by where it lies. Budgets and
        precision must be resolved, since "auto" and seconds mean other things on other devices.
        """
        return self._run_id

    @cached_property
    def _run_id(self) -> str:
        assert self.training.steps is not None, "resolve the budget first"
        assert self.training.precision != "auto", "resolve the precision first"
        return hashlib.sha256(self._written.identity.of(self.seed).encode()).hexdigest()[:16]

    @cached_property
    def _written(self) -> _Written:
        forms = (
            _form("model", self.model, self.model_name),
            _form("task", self.task, self.task_name),
            _form("data", self.data),
            _form("training", self.training),
            _form("evaluation", self.evaluation),
        )
        files = {"model_file_sha256": self.model_file_sha256, "task_file_sha256": self.task_file_sha256}
        hashes = {name: sha256 for name, sha256 in files.items() if sha256 is not None}
        versions = {"model": self.model.version, "task": self.task.version, "harness": HARNESS_VERSION}
        key = (*map(id, forms), *files.values(), *versions.values())
        known = _WRITTEN.get(key)
        if known is None:
            if len(_WRITTEN) >= _MAXIMUM_FORMS:
                _WRITTEN.clear()
            known = _WRITTEN[key] = _Written(forms, hashes, versions)
        return known


class _Seeded(NamedTuple):
    """A text with a place for the seed."""

    before: str
    after: str

    def of(self, seed: int) -> str:
        return f"{self.before}{seed}{self.after}"


class _Written:
    """Experiments that differ in their seed alone, as they are written: a study may have thousands."""

    def __init__(
        self, forms: tuple[_Form, ...], hashes: Mapping[str, str], versions: Mapping[str, int]
    ) -> None:
        self.forms = forms
        """In the order of `SECTIONS`."""
        self.hashes = hashes
        """Of the files outside the repository."""
        self._versions = versions

    @cached_property
    def yaml(self) -> _Seeded:
        sections = "".join(form.yaml for form in self.forms)
        hashes = _indented_yaml(self.hashes) if self.hashes else ""
        return _Seeded(f"experiment:\n{sections}  seed: ", f"\n{hashes}")

    @cached_property
    def canonical(self) -> _Seeded:
        return _seeded(self._fields())

    @cached_property
    def identity(self) -> _Seeded:
        """What a run's id is the hash of."""
        fields = self._fields()
        for form in self.forms:
            if f"{form.section}_file_sha256" in self.hashes:
                name = Path(form.document["name"]).name
                fields[form.section] = canonical_json({**form.document, "name": name})
        return _seeded({**fields, "versions": canonical_json(self._versions)})

    def _fields(self) -> dict[str, str]:
        fields = {form.section: form.canonical for form in self.forms}
        return fields | {name: canonical_json(sha256) for name, sha256 in self.hashes.items()}


_WRITTEN: dict[tuple[int | str | None, ...], _Written] = {}
"""By the identities of the forms, which it holds, the hashes of files and the versions."""


def _seeded(fields: Mapping[str, str]) -> _Seeded:
    """Canonical JSON of an object whose values are given as such, and that has a seed."""
    every = {**fields, "seed": "\0"}  # no text of JSON has this character
    before, _, after = ",".join(f'"{name}":{every[name]}' for name in sorted(every)).partition("\0")
    return _Seeded(f"{{{before}", f"{after}}}")


def default_cache_directory() -> Path:
    """The user's cache folder of seqbench (XDG)."""
    import platformdirs

    return platformdirs.user_cache_path("seqbench")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What a run needs to know and its result does not depend on; no part of the run id."""

    results: Path
    data_directory: Path
    """What tasks read; a download goes here too."""
    cache_directory: Path = field(default_factory=default_cache_directory)
    """What is derived from data and can be made again: vocabularies and token ids."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    devices: int = 1
    """Processes that share the global batch."""
    threads: int | None = None
    """Of the CPU, for each process; none for all that this process may use."""
    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    trust_code: bool = False
    """Whether a .py file that a record or study names may be run."""
    progress: bool = False
    """Whether a bar can be drawn on the terminal; else plain lines tell how a run is doing."""
    study: str = ""
    """The study that the run belongs to."""
    model_preset: str = ""
    """What reports call the model: its preset, else its name."""
    task_preset: str = ""
    is_trial: bool = False
    """Whether the run is tried by a search, and not compared."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text. NaN and infinity are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


# Reading


class Override(NamedTuple):
    """`training.learning_rate=1e-3,2e-3` as a path and a value; a list is an axis of the study's grid."""

    path: tuple[str, ...]
    value: Any


def parse_yaml(text: str, where: str) -> Any:
    """The plain value in a YAML 1.2 text; errors as `load_yaml`, which call it `where`."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        # YAML 1.2: `no` stays a word and `1e-4` is a number. The safe loader makes plain values only.
        loaded = YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = str(error.problem).partition(" with value")[0]
        raise UserError(f"{where}{line}: {problem}; a field is given once") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not valid YAML: {error.problem or error.context}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {str(error) or type(error).__name__}") from None
    counter = [0]
    return _plain(loaded, where, 0, counter)


def _plain(value: Any, where: str, depth: int, counter: list[int]) -> Any:
    """A copy without aliases, of dicts with text keys, lists, text, numbers, booleans and None alone."""
    counter[0] += 1
    if counter[0] > _MAXIMUM_VALUES:
        raise UserError(f"{where}: more than {_MAXIMUM_VALUES:,} values once its aliases are written out")
    if depth > _MAXIMUM_DEPTH:
        raise UserError(f"{where}: nested deeper than {_MAXIMUM_DEPTH} levels, or an alias holds itself")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise UserError(f"{where}: a field name must be text, got {shown(key)}")
        return {key: _plain(item, where, depth + 1, counter) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, where, depth + 1, counter) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UserError(f"{where}: {shown(value)} is a {type(value).__name__}; put it in quotes to make it text")


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file, as plain values.

    Raises:
        UserError: the file cannot be read, is not UTF-8, is no mapping, repeats a field, holds no plain
        values.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAXIMUM_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAXIMUM_FILE_BYTES:
        raise UserError(f"{path}: larger than {_MAXIMUM_FILE_BYTES // 2**20} MiB; no configuration is")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise UserError(f"{path}:{line}: not UTF-8: {byte}") from None
    value = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: must hold fields (name: value), got {shown(value)}")
    return value


def dump_yaml(document: Mapping[str, Any]) -> str:
    """YAML that `load_yaml` reads back to an equal mapping, in the order given."""
    import io

    from ruamel.yaml import YAML

    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.allow_unicode = False  # characters like U+0085 would be read back as line ends
    writer.width = 1000
    writer.representer.ignore_aliases = lambda data: True
    stream = io.StringIO()
    writer.dump(dict(document), stream)
    return stream.getvalue()


def parse_override(text: str) -> Override:
    """`a.b=1` or `a.b=1,2`: a path and a YAML value; commas outside brackets and quotes make a list."""
    key, equals, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise UserError(f"{shown(text)}: must have the form field=value, as in training.learning_rate=1e-3")
    if not value.strip():
        raise UserError(f"{key}: has no value; write {key}=null for none")
    values = parse_yaml(f"[{value}]", key)
    if not isinstance(values, list) or not values:
        raise UserError(f"{key}: has no value that YAML can read: {shown(value)}")
    return Override(path, values[0] if len(values) == 1 else values)


def nested(fields: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """`fields` with dotted keys written out: {"training.steps": 1} becomes {"training": {"steps": 1}}.

    A field that is given in both forms is refused.
    """
    result: dict[str, Any] = {}
    for key, value in fields.items():
        path = key.split(".")
        if not all(path):
            raise UserError(f"{where}{key}: a field name is empty")
        inner: Any = nested(value, f"{where}{key}.") if isinstance(value, dict) else value
        for part in reversed(path):
            inner = {part: inner}
        _join(result, inner, where)
    return result


def _join(target: dict[str, Any], addition: dict[str, Any], where: str) -> None:
    for key, value in addition.items():
        if key not in target:
            target[key] = value
        elif isinstance(target[key], dict) and isinstance(value, dict):
            _join(target[key], value, f"{where}{key}.")
        else:
            raise UserError(f"{where}{key}: is given twice")


def flattened(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted name."""
    result: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            result.update(flattened(value, f"{prefix}{name}."))
        else:
            result[f"{prefix}{name}"] = value
    return result


def varying_fields(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each nested document the fields in which they differ, by dotted name; None for one it lacks."""
    fields = [flattened(document) for document in documents]
    names = [
        name
        for name in dict.fromkeys(name for one in fields for name in one)
        if len({canonical_json(one.get(name)) for one in fields}) > 1
    ]
    return [{name: one.get(name) for name in names} for one in fields]


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """The layers over each other, later ones winning field by field.

    A layer that sets one budget clears the budgets below it; one that names another model or task clears that
    section's fields below it, since they belong to the other architecture.
    """
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if not isinstance(value, dict):
                result[key] = value
                continue
            below = result.get(key)
            below = dict(below) if isinstance(below, dict) else {}
            if key in ("model", "task") and "name" in value and value["name"] != below.get("name"):
                below = {}
            if key == "training" and any(value.get(name) is not None for name in BUDGETS):
                for name in BUDGETS:
                    below.pop(name, None)
            result[key] = {**below, **value}
    return result


# Names


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean 'heads'?` for `haeds`, or nothing where nothing is near."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_name(what: str, name: str, valid: Iterable[str]) -> UserError:
    """An error that names the nearest valid name and lists all of them."""
    names = sorted(set(valid))
    there_are = ", ".join(names) or "none"
    return UserError(f"{what}: no {shown(name)}{nearest(name, names)}; there are: {there_are}")


def available(package: str) -> list[str]:
    """Architectures (`models`) or tasks (`tasks`) by name, from their folder; nothing is imported."""
    return sorted(path.stem for path in (ROOT / package).glob("*.py") if not path.stem.startswith("_"))


def presets(kind: str) -> list[str]:
    """Names of the presets in `configs/<kind>`; kind is `models`, `tasks` or `studies`."""
    return sorted(path.stem for path in (ROOT / "configs" / kind).glob("*.yaml"))


class Loaded(NamedTuple):
    """A model or task file that was imported."""

    module: ModuleType
    file_sha256: str | None
    """None for a file of the repository, which has a version instead."""


def model_module(name: str, *, files_allowed: bool) -> Loaded:
    """The module of an architecture, by its name in `models/` or by the path of its file.

    Raises:
        UserError: no such model; or a file that may not be run, does not run, or exports no `Config`.
    """
    import models

    return _module("model", name, models.ModelConfig, files_allowed)


def task_module(name: str, *, files_allowed: bool) -> Loaded:
    """The module of a task, by its name in `tasks/` or by the path of its file; errors as `model_module`."""
    import tasks

    return _module("task", name, tasks.TaskConfig, files_allowed)


def _module(kind: Literal["model", "task"], name: str, base: type[BaseModel], files_allowed: bool) -> Loaded:
    if not name.endswith(".py"):
        return _own_module(kind, name)
    if not files_allowed:
        raise UserError(
            f"{kind}.name: {shown(name)} is a file, and a file runs only when the command line names it; "
            f"add {kind}.name={name}, or --trust-code if you trust it"
        )
    path = Path(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{kind}.name: {name}: cannot be read: {error.strerror}") from None
    return _file_module(kind, path.resolve(), content, base)


@cache
def _own_module(kind: str, name: str) -> Loaded:
    package = f"{kind}s"
    if name not in available(package):
        error = unknown_name(f"{kind}.name", name, available(package))
        raise UserError(f"{error}; or the path of a .py file, on the command line")
    return Loaded(importlib.import_module(f"{package}.{name}"), None)


@cache
def _file_module(kind: str, path: Path, content: bytes, base: type[BaseModel]) -> Loaded:
    sha256 = hashlib.sha256(content).hexdigest()
    module_name = f"_seqbench_{kind}_{path.stem}_{sha256[:16]}"
    specification = importlib.util.spec_from_file_location(module_name, path)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    module.__file__ = str(path)
    sys.modules[module_name] = module
    try:
        # What was hashed is what runs: the loader would read the file a second time, or a stale cache of it.
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[module_name]
        line = _line_in(error, str(path))
        raise UserError(f"{kind}.name: {path}{line}: {type(error).__name__}: {error}") from error
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, base)):
        wanted = f"{base.__module__}.{base.__name__}"
        raise NotOfThisKind(f"{kind}.name: {path}: must export a class Config derived from {wanted}")
    return Loaded(module, sha256)


def _line_in(error: Exception, path: str) -> str:
    if isinstance(error, SyntaxError) and error.filename == path:
        return f":{error.lineno}"
    line = ""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line


# Checking


def experiment_from(raw: Mapping[str, Any], *, files_allowed: bool) -> Experiment:
    """The experiment that nested plain values describe.

    Args:
        raw: as `Experiment.document` gives it; sections and fields that are left out take their defaults.
        files_allowed: whether `model.name` and `task.name` may be files outside the repository; their code
        runs.

    Raises:
        UserError: the first mistake, in one line that begins with the field's path.
    """
    valid = (*SECTIONS, "seed", "model_file_sha256", "task_file_sha256")
    sections: dict[str, dict[str, Any]] = {}
    for key, value in raw.items():
        if key not in valid:
            raise UserError(f"{key}: unknown field{_suggestion(key, '', valid)}")
        if key in SECTIONS:
            if not isinstance(value, dict):
                raise UserError(f"{key}: must hold fields, got {shown(value)}")
            sections[key] = dict(value)
    loaded: dict[str, Loaded] = {}
    configs: dict[str, Any] = {}
    for kind, find in (("model", model_module), ("task", task_module)):
        section = sections.get(kind, {})
        name = section.pop("name", None)
        if not isinstance(name, str):
            got = "" if name is None else f", got {shown(name)}"
            there_are = ", ".join(available(f"{kind}s"))
            raise UserError(f"{kind}.name: must name a {kind}{got}; there are: {there_are}")
        loaded[kind] = find(name, files_allowed=files_allowed)
        recorded = raw.get(f"{kind}_file_sha256")
        if recorded is not None and recorded != loaded[kind].file_sha256:
            raise UserError(
                f"{kind}.name: {name} has changed since the run was made (sha256 then: {recorded})"
            )
        configs[kind] = checked(kind, loaded[kind].module.Config, section)
    experiment = Experiment(
        model_name=raw["model"]["name"],
        model=configs["model"],
        task_name=raw["task"]["name"],
        task=configs["task"],
        data=checked("data", DataConfig, sections.get("data", {})),
        training=checked("training", TrainingConfig, sections.get("training", {})),
        evaluation=checked("evaluation", EvaluationConfig, sections.get("evaluation", {})),
        seed=checked_seed(raw.get("seed", 0)),
        model_file_sha256=loaded["model"].file_sha256,
        task_file_sha256=loaded["task"].file_sha256,
    )
    positions = getattr(experiment.model, "maximum_length", None)
    longest = experiment.data.maximum_tokens + experiment.evaluation.extra_length
    if isinstance(positions, int) and positions < longest:
        raise UserError(
            f"model.maximum_length: {positions} positions are too few for outputs of up to {longest} tokens "
            "(data.maximum_tokens + evaluation.extra_length); raise it, or lower those"
        )
    return experiment


def checked_seed(value: Any) -> int:
    """`value`, if it can be a seed; errors as `experiment_from`."""
    if type(value) is not int or not 0 <= value < 2**32:
        raise UserError(f"seed: must be an integer from 0 to {2**32 - 1}, got {shown(value)}")
    return value


def checked(section: str, config: type[BaseModel], values: dict[str, Any]) -> Any:
    """The section of an experiment that `values` give, of class `config`; errors as `experiment_from`."""
    try:
        # JSON mode: strict, and yet a list may be a tuple, as no YAML file can write one.
        return _validated(config, json.dumps(values))
    except ValidationError as error:
        raise UserError(explained(error, section, config)) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{section}: {error}") from None


@lru_cache(maxsize=10_000)
def _validated(config: type[BaseModel], text: str) -> BaseModel:
    return config.model_validate_json(text)


_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "model_attributes": "a mapping",
    "set": "a list",
}
_BOUNDS = {
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def explained(error: ValidationError, section: str, config: type[BaseModel]) -> str:
    """The first mistake that pydantic found, in one line: path, what is wrong, what was got, what to do."""
    errors = error.errors(include_url=False)
    # An unknown name explains more than what follows from it.
    first = min(errors, key=lambda one: one["type"] != "extra_forbidden")
    kind, got, context = first["type"], first["input"], first.get("ctx", {})
    path = ".".join(part for part in (section, *map(str, first["loc"])) if part)
    what, _, how = kind.rpartition("_")
    if kind == "extra_forbidden":
        text = f"unknown field{_suggestion(str(first['loc'][-1]), section, config.model_fields)}"
    elif kind == "missing":
        text = "is missing"
    elif kind == "value_error":
        text = str(context["error"])
    elif kind == "literal_error":
        text = f"must be {context['expected']}, got {shown(got)}"
        expected = str(context["expected"]).split("'")[1::2]
        text += nearest(got, expected) if isinstance(got, str) else ""
    elif kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        text = f"must be {words} {context[bound]}, got {shown(got)}"
    elif kind == "int_from_float":
        text = f"must be an integer, got {shown(got)}"
    elif kind == "finite_number":
        text = f"must be a finite number, got {shown(got)}"
    elif how in ("type", "parsing", "size") and what in _TYPES:
        text = f"must be {_TYPES[what]}, got {shown(got)}"
    else:
        text = f"{first['msg'][:1].lower()}{first['msg'][1:]}, got {shown(got)}"
    more = len(errors) - 1
    return f"{path}: {text}" + (f" (and {more} more mistake{'s' if more > 1 else ''})" if more else "")


def _suggestion(name: str, section: str, valid: Iterable[str]) -> str:
    names = list(valid)
    near = nearest(name, names)
    if near:
        return near
    others: dict[str, type[BaseModel]] = {
        "training": TrainingConfig,
        "data": DataConfig,
        "evaluation": EvaluationConfig,
    }
    for other, config in others.items():
        if other != section and name in config.model_fields:
            return f"; did you mean '{other}.{name}'?"
    return f"; there are: {', '.join(names)}"
