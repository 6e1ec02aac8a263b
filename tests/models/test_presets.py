"""Presets hold the sizes that they say: those of the papers, and small ones that may be compared."""

import pytest
import torch

from benchmark.config import BUDGETS, ROOT, experiment_from, load_yaml, presets
from benchmark.request import preset
from benchmark.search import Range, Search

VOCABULARY_SIZE = 37_000


def experiment_of(name):
    document = load_yaml(ROOT / "configs" / "models" / f"{name}.yaml")
    document.pop("search", None)  # of studies, and no part of an experiment
    if not any(budget in document["training"] for budget in BUDGETS):
        document["training"]["steps"] = 1
    return experiment_from({**document, "task": {"name": "rearrange"}}, files_allowed=False)


def theory_of(name):
    return experiment_of(name).model.theory(VOCABULARY_SIZE, 1, 1)


@pytest.mark.parametrize("name", presets("models"))
def test_a_preset_is_a_model_with_a_recipe_and_says_in_its_first_line_what_it_is(name):
    path = ROOT / "configs" / "models" / f"{name}.yaml"
    document = load_yaml(path)
    assert {"model", "training"} <= set(document) <= {"model", "training", "search"}
    assert path.read_text(encoding="utf-8").startswith("# ")
    with torch.device("meta"):
        model = experiment_of(name).model.build(VOCABULARY_SIZE)
    assert sum(parameter.numel() for parameter in model.parameters()) == theory_of(name).parameters


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("transformer-base", 63_082_496), ("transformer-big", 214_245_376)],
)
def test_the_published_transformers_have_their_number_of_parameters(name, parameters):
    assert theory_of(name).parameters == parameters


@pytest.mark.parametrize(("name", "width"), [("transformer-base", 512), ("transformer-big", 1024)])
def test_the_published_transformers_peak_at_the_papers_learning_rate(name, width):
    training = experiment_of(name).training
    assert training.learning_rate == pytest.approx(width**-0.5 * training.warmup_steps**-0.5, rel=1e-12)


def test_convs2s_has_the_published_blocks():
    config = experiment_of("convs2s-wmt14-en-de").model
    expected = ((512, 3),) * 10 + ((768, 3),) * 3 + ((2048, 1),) * 2
    assert config.blocks("encoder") == config.blocks("decoder") == expected
    assert 1 + sum(kernel - 1 for _, kernel in config.blocks("encoder")) == 27


@pytest.mark.parametrize("name", [name for name in presets("models") if name.endswith("-small")])
def test_a_small_preset_declares_a_space_around_its_recipe(name):
    experiment = experiment_of(name)
    space = Search(trials=2).space(name, preset("models", name)["search"])
    rate, dropout = space["training.learning_rate"], space["model.dropout"]
    assert isinstance(rate, Range) and isinstance(dropout, list)
    assert rate.low < experiment.training.learning_rate < rate.high
    assert min(dropout) < dict(experiment.model)["dropout"] < max(dropout)


def test_the_small_presets_have_equally_wide_spaces():
    spaces = [
        Search(trials=2).space(name, preset("models", name)["search"])
        for name in presets("models")
        if name.endswith("-small")
    ]
    assert len({tuple(space) for space in spaces}) == 1
    assert len({str(space["training.learning_rate"]) for space in spaces}) == 1
    assert len({len(list(space["model.dropout"])) for space in spaces}) == 1


def test_the_small_presets_are_matched_within_two_percent():
    bodies = {name: theory_of(name).body_parameters for name in presets("models") if name.endswith("-small")}
    assert len(bodies) >= 3
    assert max(bodies.values()) <= 1.02 * min(bodies.values()), bodies
