"""The contract as a library: is this model or task sound enough to be compared?

`seqbench check` runs it on a user's own file, the contract tests on everything in `models/` and `tasks/`.
Each check is one function whose docstring says the rule (`MODEL_CHECKS`, `TASK_CHECKS`); it raises
`CheckFailed` where the rule does not hold, and returns a remark, empty as a rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmark.config import (
    NotOfThisKind,
    UserError,
    available,
    checked,
    model_module,
    one_line,
    presets,
    task_module,
    unknown_name,
)
from benchmark.request import preset


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    name: str
    ok: bool
    message: str
    """One line: what is wrong, where, what was expected and what was got; or a remark; or nothing."""
    applies: bool = True
    """Whether there was anything to check."""


class CheckFailed(Exception):
    """A rule does not hold; the text is one line."""

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))


class NotApplicable(Exception):
    """There is nothing to check, which is no fault; the text says why."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...


SubjectT = TypeVar("SubjectT", bound=_Named)


def outcome_of(check: Callable[[SubjectT], str], subjects: list[SubjectT]) -> Outcome:
    """One check on all subjects; the first that fails is named."""
    import torch

    name = check.__name__.replace("_", " ")
    remarks: dict[str, None] = {}
    applies = False
    for subject in subjects:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                remarks[check(subject)] = None
            applies = True
        except NotApplicable as reason:
            remarks[str(reason)] = None
        except CheckFailed as failure:
            return Outcome(name, False, f"{subject.name}: {failure}")
        except Exception as error:  # of the code under check, which may do anything
            return Outcome(name, False, f"{subject.name}: {described(error)}")
    return Outcome(name, True, "; ".join(remark for remark in remarks if remark), applies)


def described(error: BaseException) -> str:
    """`ValueError: text (file:line)`, the line being where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace else ""
    text = one_line(str(error).partition("\n")[0])
    return f"{type(error).__name__}: {text}{where}"


def check_named(name: str, data_directory: Path) -> list[Outcome]:
    """Check a model or a task, by its name, its preset's name, or the path of its .py file.

    Raises:
        UserError: there is no such model or task, or it needs settings or data that are not there.
    """
    if name.endswith(".py"):
        try:
            model_module(name, files_allowed=True)
        except NotOfThisKind as no_model:
            try:
                task_module(name, files_allowed=True)
            except NotOfThisKind:
                raise UserError(f"{no_model}, or from tasks.TaskConfig") from None
            return check_task(name, data_directory=data_directory)
        return check_model(name)
    names = {kind: [*available(kind), *presets(kind)] for kind in ("models", "tasks")}
    if name in names["models"]:
        return check_model(name)
    if name in names["tasks"]:
        return check_task(name, data_directory=data_directory)
    error = unknown_name("check", name, [*names["models"], *names["tasks"]])
    raise UserError(f"{error}; or the path of a .py file")


def _section(kind: str, name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name of the model or task, and its options, from a preset's name or its own."""
    if name.endswith(".py") or name in available(f"{kind}s"):
        return name, dict(options)
    section = preset(f"{kind}s", name).get(kind)
    if not isinstance(section, dict) or not isinstance(section.get("name"), str):
        raise UserError(f"{kind}: preset {name} needs a section {kind} with a name")
    return section["name"], {key: value for key, value in section.items() if key != "name"} | dict(options)


def check_model(name: str, options: Mapping[str, Any] | None = None) -> list[Outcome]:
    """Run every model check, at the size that `Config.tiny()` gives.

    Args:
        name: a file of `models/` by its stem, a preset, or the path of a .py file. What is no preset is
            checked with every other value of its options too.
        options: fields of its `Config`, over those of the preset.
    """
    from benchmark.check.model import MODEL_CHECKS, ModelUnderCheck, at_test_size, variants

    module_name, fields = _section("model", name, options or {})
    config = checked("model", model_module(module_name, files_allowed=True).module.Config, fields)
    subjects = []
    try:
        small = at_test_size(config)
        subjects.append(ModelUnderCheck(name, small))
        if module_name == name:
            subjects += [ModelUnderCheck(f"{name} {changed}", other) for changed, other in variants(small)]
    except Exception as error:  # of the code under check, which may do anything
        return [Outcome("a config gives a model of test size", False, f"{name}: tiny: {described(error)}")]
    return [outcome_of(check, subjects) for check in MODEL_CHECKS]


def preflight_hooks(name: str, config: Any) -> None:
    """What is checked of every model before anything is trained: it builds, answers in the right form and
    sees no future.

    Takes a fraction of a second, at the size that `config.tiny()` gives. The random state stays as it was.

    Raises:
        UserError: the model is not sound; one line that names model, hook, what was expected, what was got.
    """
    from benchmark.check.model import (
        ModelUnderCheck,
        at_test_size,
        it_builds,
        no_target_position_sees_its_future,
        the_hooks_answer_in_the_right_form,
    )

    try:
        small = ModelUnderCheck(name, at_test_size(config))
    except Exception as error:  # of the code under check, which may do anything
        raise UserError(f"model.name: {name}: tiny: {described(error)}") from error
    _require(it_builds, ModelUnderCheck(name, config))
    _require(the_hooks_answer_in_the_right_form, small)
    _require(no_target_position_sees_its_future, small)


def preflight_model(name: str, config: Any) -> None:
    """What is checked of a model outside the repository: its hooks, and that closed forms, where there are
    any, are those of the model.

    Closed forms are counted at their own size too, on the meta device, which takes seconds where a model
    works word by word. Errors as of `preflight_hooks`.
    """
    from benchmark.check.model import ModelUnderCheck, at_test_size, theory_equals_what_is_counted

    preflight_hooks(name, config)
    for size in (at_test_size(config), config):
        _require(theory_equals_what_is_counted, ModelUnderCheck(name, size))


def _require(check: Callable[[SubjectT], str], subject: SubjectT) -> None:
    outcome = outcome_of(check, [subject])
    if not outcome.ok:
        raise UserError(f"model.name: {outcome.message}")


def preflight_task(name: str, config: Any, data_directory: Path) -> None:
    """What is checked of a task of the user's own before anything is trained: all but its vocabulary.

    Raises:
        UserError: the task is not sound, in one line.
    """
    from benchmark.check.task import BEFORE_TRAINING, TaskUnderCheck

    subject = TaskUnderCheck(name, config, data_directory)
    for check in BEFORE_TRAINING:
        outcome = outcome_of(check, [subject])
        if not outcome.ok:
            raise UserError(f"task.name: {outcome.message}")


def check_task(
    name: str, options: Mapping[str, Any] | None = None, *, data_directory: Path, tiny: bool = False
) -> list[Outcome]:
    """Run every task check.

    Args:
        name: a file of `tasks/` by its stem, a preset, or the path of a .py file.
        options: fields of its `Config`, over those of the preset.
        tiny: at the size that `Config.tiny()` gives.

    Raises:
        UserError: settings or data that the task needs are not there.
    """
    from benchmark.check.task import TASK_CHECKS, TaskUnderCheck

    module_name, fields = _section("task", name, options or {})
    config = checked("task", task_module(module_name, files_allowed=True).module.Config, fields)
    subject = TaskUnderCheck(name, config.tiny() if tiny else config, data_directory)
    try:
        subject.build()
    except (ValueError, OSError) as error:
        text = str(error)
        raise UserError(text if text.startswith("task.") else f"task: {text}") from None
    except Exception as error:  # of the code under check, which may do anything
        return [Outcome("a config gives a task", False, f"{name}: build: {described(error)}")]
    return [outcome_of(check, [subject]) for check in TASK_CHECKS]
