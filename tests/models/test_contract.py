"""Every architecture keeps the contract: each file in models/, each of its options, each preset.

Nothing is listed here: a new file or preset is found, and tested, by being there.
"""

import pytest

from benchmark.check import outcome_of
from benchmark.check.model import (
    MODEL_CHECKS,
    ModelUnderCheck,
    at_test_size,
    no_gradient_reaches_the_future,
    variants,
)
from benchmark.config import ROOT, available, checked, load_yaml, model_module, presets


def subjects():
    """Defaults and each other value of an option, at test size; presets, the small ones as they are."""
    for name in available("models"):
        small = at_test_size(model_module(name, files_allowed=False).module.Config())
        yield ModelUnderCheck(name, small)
        for changed, config in variants(small):
            yield ModelUnderCheck(f"{name} {changed}", config)
    bare = model_module("transformer", files_allowed=False).module.Config(feed_forward=0)
    yield ModelUnderCheck("transformer feed_forward=0", at_test_size(bare))
    for name in presets("models"):
        fields = dict(load_yaml(ROOT / "configs" / "models" / f"{name}.yaml")["model"])
        module = model_module(fields.pop("name"), files_allowed=False).module
        config = checked("model", module.Config, fields)
        yield ModelUnderCheck(name, config if name.endswith("-small") else at_test_size(config))


SUBJECTS = list(subjects())


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
@pytest.mark.parametrize("check", MODEL_CHECKS, ids=[check.__name__ for check in MODEL_CHECKS])
def test_contract(check, subject):
    outcome = outcome_of(check, [subject])
    assert outcome.ok, outcome.message


def test_every_architecture_and_its_options_are_found():
    names = {subject.name for subject in SUBJECTS}
    assert {"transformer", "transformer norm=post", "convs2s", "lstm", "lstm input_feeding=True"} <= names
    assert {"transformer-small", "transformer-big", "convs2s-wmt14-en-de", "lstm-luong"} <= names


def test_training_mode_is_checked_with_dropout_on():
    for subject in SUBJECTS:
        assert subject.config.dropout > 0


def test_the_check_of_gradients_sees_the_target_words_of_every_architecture():
    assert outcome_of(no_gradient_reaches_the_future, SUBJECTS).message == ""
