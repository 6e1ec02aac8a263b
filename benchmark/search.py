"""The search before a comparison: equally many trials for each architecture, over its own space.

Random search (Bergstra and Bengio 2012): independent draws, so that nothing is tuned but the number of
trials, and one more trial never changes those before it. The first trial is the recipe as the preset has it.
Trials see validation data alone, and the lowest validation loss decides.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from benchmark.config import BUDGETS, UserError, explained, flattened, nested, shown
from benchmark.record import TrainRecord

DRAWS = 1000
"""How often a trial is drawn anew because an earlier one had the same values."""


class _Strict(BaseModel):
    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


class Range(_Strict):
    """Numbers from `low` to `high`."""

    low: float
    high: float
    log: bool = False
    """Uniform in the logarithm."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(f"low must be below high, and positive with log; got {self.low}, {self.high}")
        return self

    def draw(self, source: random.Random) -> float:
        """To three digits, so that a table can show what was run."""
        if self.log:
            value = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = source.uniform(self.low, self.high)
        return float(f"{value:.3g}")


Space = dict[str, "list[Any] | Range"]
"""By dotted name of a field: the values it may take."""


class Search(_Strict):
    """The `search` section of a study."""

    trials: int = Field(ge=1)
    """For each model on each task."""
    seed: int = 0
    """Of the draws, and of the trials' training."""
    training: dict[str, Any] = {}
    """Fields of `training` that trials have in place of the study's, as a shorter budget."""
    spaces: dict[str, Any] = {}
    """By model: its space, in place of the one that its preset declares."""

    @property
    def identity(self) -> dict[str, Any]:
        """What is the same for all models of a study."""
        return {"trials": self.trials, "seed": self.seed, "training": dict(self.training)}

    @property
    def overrides(self) -> dict[str, Any]:
        return {"training": dict(self.training)} if self.training else {}

    def space(self, model: str, declared: Any) -> Space:
        """The space of a model; `declared` is the section `search` of its preset.

        Raises:
            UserError: there is none, or it is malformed.
        """
        section = self.spaces.get(model, declared)
        if not section:
            raise UserError(
                f"search: {model} declares no space; give its preset a section search, or the study "
                f"search.spaces.{model}"
            )
        space = dict(_leaves(section, f"search: {model}"))
        for name in space:
            section_name, _, field = name.partition(".")
            if section_name not in ("model", "training", "data"):
                raise UserError(f"search: {model}: {name}: a trial varies fields of model, training and data")
            if section_name == "training" and field in BUDGETS:
                raise UserError(f"search: {model}: {name}: a budget is equal in all trials, and not searched")
            if name in flattened(self.overrides):
                raise UserError(
                    f"search: {model}: {name}: is in the space and in search.training; leave one out"
                )
        return space


def search_from(fields: Mapping[str, Any]) -> Search | None:
    """The search that a study asks for; None where it asks for none."""
    section = fields.get("search")
    if not section:
        return None
    try:
        return Search.model_validate(section)
    except ValidationError as error:
        raise UserError(explained(error, "search", Search)) from None


def _leaves(section: Any, where: str, path: tuple[str, ...] = ()) -> Iterable[tuple[str, list[Any] | Range]]:
    if not isinstance(section, dict):
        raise UserError(f"{where}: must hold fields and their values, got {shown(section)}")
    for key, value in section.items():
        name = ".".join((*path, key))
        if isinstance(value, list):
            if not value:
                raise UserError(f"{where}: {name}: the list is empty")
            yield name, value
        elif isinstance(value, dict) and "low" in value:
            try:
                yield name, TypeAdapter(Range).validate_python(_as_floats(value))
            except ValidationError as error:
                raise UserError(explained(error, f"{where}: {name}", Range)) from None
        else:
            yield from _leaves(value, where, (*path, key))


def _as_floats(value: dict[str, Any]) -> dict[str, Any]:
    return {key: float(one) if type(one) is int else one for key, one in value.items()}


def trial_values(
    space: Space, search: Search, label: str, number: int, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of trial `number` (from 1), nested; the first trial is the `recipe` and changes none.

    `recipe` has the values that the preset gives the fields of the space. The search's seed, the label and
    the number decide.

    Raises:
        UserError: the space does not hold that many different settings.
    """
    if number == 1:
        return {}
    seen = [dict(recipe)]
    for trial in range(2, number + 1):
        for draw in range(DRAWS):
            source = random.Random(f"{search.seed} {label} {trial} {draw}")
            values = {
                name: choices.draw(source) if isinstance(choices, Range) else source.choice(choices)
                for name, choices in sorted(space.items())
            }
            if values not in seen:
                seen.append(values)
                break
        else:
            raise UserError(
                f"search.trials: the space of {label} has fewer than {search.trials} settings; ask for fewer"
            )
    return nested(seen[number - 1])


def best_trial(records: Iterable[TrainRecord]) -> TrainRecord | None:
    """Of a model's trials the one with the lowest validation loss; None where none ended well.

    What diverged or failed was a trial all the same: each architecture had equally many.
    """
    done = [one for one in records if one.status == "done" and one.validation_loss is not None]
    return min(done, key=lambda one: (one.validation_loss, one.run_id), default=None)
