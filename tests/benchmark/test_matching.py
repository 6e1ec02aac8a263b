"""What a match finds: a width, or a number of steps, and what it says where there is none."""

import numpy as np
import pytest

from benchmark.config import UserError, experiment_from
from benchmark.matching import (
    at_equal_parameters,
    body_parameters,
    steps_of_operations,
    steps_of_seconds,
)
from benchmark.measure.operations import training_operations
from benchmark.request import TOLERANCE
from benchmark.resolution import resolve
from benchmark.study import Asked
from benchmark.trainer import corpus_of
from models import ModelConfig
from models.convs2s import Config as ConvS2S
from models.lstm import Config as LSTM
from models.transformer import Config as Transformer
from tasks.data.module import DataModule
from tests.benchmark.training_run import experiment, options

ALL = [Transformer(), ConvS2S(), LSTM()]


@pytest.mark.parametrize("config", ALL, ids=lambda one: type(one).__module__)
@pytest.mark.parametrize("wanted", [2_000_000, 7_000_000, 44_000_000])
def test_the_width_moves_until_the_parameters_agree(config, wanted):
    found = at_equal_parameters(config, wanted, "x")
    built = sum(parameter.numel() for parameter in found.build(50).parameters())
    in_vocabulary = found.theory(50, 1, 1).vocabulary_parameters
    assert abs(built - in_vocabulary - wanted) <= TOLERANCE * wanted
    assert {**found.model_dump(), "width": 0} == {**config.model_dump(), "width": 0}, "nothing else moves"
    assert at_equal_parameters(found, wanted, "x") is found


def test_of_the_widths_that_will_do_the_most_even_is_taken():
    """A width of 203 has neighbours from 201 to 205 within 2 %, of which 204 is a multiple of 4."""
    found = at_equal_parameters(LSTM(), body_parameters(LSTM(width=203), "lstm"), "lstm")
    assert dict(found)["width"] == 204


def test_a_width_that_cannot_be_found_names_the_closest():
    coarse = Transformer(width=64, heads=64, feed_forward=64, encoder_layers=1, decoder_layers=1)
    wanted = 4 * body_parameters(coarse, "t") // 2
    with pytest.raises(UserError) as error:
        at_equal_parameters(coarse, wanted, "t")
    assert str(error.value).startswith(f"match: t cannot have {wanted:,} parameters within 2%: width ")
    assert "comes closest, with " in str(error.value)


def test_a_model_without_closed_form_or_width_is_refused():
    class Odd(ModelConfig):
        depth: int = 1

    with pytest.raises(UserError, match=r"^match: odd has no theory\(\), so its parameters cannot be"):
        body_parameters(Odd(), "odd")

    class Fixed(LSTM):
        def model_dump(self, **_):
            return {"depth": 1}

    with pytest.raises(UserError, match=r"^match: fixed has no field width that could be moved"):
        at_equal_parameters(Fixed(), 1, "fixed")


def cost(count):
    """Of steps: 3, 2, 4, 3, 2, 4, ...; together 3, 5, 9, 12, ..., 300 after 100, 302, 306."""
    return np.resize([3.0, 2.0, 4.0], count)


@pytest.mark.parametrize(
    ("wanted", "steps"), [(2.99, 1), (298.0, 99), (299.0, 100), (301.4, 101), (303.5, 101), (304.5, 102)]
)
def test_steps_are_those_whose_sum_comes_closest(wanted, steps):
    assert np.cumsum(cost(102))[[98, 99, 100, 101]].tolist() == [297, 300, 302, 306]
    assert steps_of_operations(wanted, cost, "x") == steps


def test_a_budget_of_too_few_steps_to_be_equal_is_refused():
    closest = r"^match: x cannot have equal operations within 2%: 2 steps come closest \(25\.0% off\); give"
    with pytest.raises(UserError, match=closest):
        steps_of_operations(4.0, cost, "x")
    with pytest.raises(UserError, match=r"equal seconds within 2%: 3 steps come closest \(7\.7% off\)"):
        steps_of_seconds(1.3, 0.4, "x")
    assert steps_of_seconds(1.3, 0.01, "x") == 130


def test_equal_operations_are_equal_over_the_batches_that_come(tmp_path):
    reference, other = experiment("transformer", training={"steps": 40}), experiment("lstm")
    first, second = resolve(
        [Asked(experiment=reference), Asked(experiment=other, match="flops", reference=0)], options(tmp_path)
    )
    assert first.experiment == reference

    def operations(one):
        _, corpus = corpus_of(one, tmp_path / "data", tmp_path / "cache")
        data = DataModule(corpus, batch_tokens=one.data.batch_tokens, seed=one.seed)
        shapes = data.training.shapes(one.training.steps)
        return training_operations(one.model, len(corpus.vocabulary), shapes)

    mine, theirs = operations(first.experiment), operations(second.experiment)
    assert abs(mine.sum() - theirs.sum()) <= theirs.mean()


def test_equal_seconds_follow_the_time_of_a_step(tmp_path, monkeypatch):
    import benchmark.resolution as resolution

    def timed(experiments, _):
        return [0.5 if one.model_name == "lstm" else 0.1 for one in experiments]

    monkeypatch.setattr(resolution, "seconds_per_step", timed)
    entries = [
        Asked(experiment=experiment("transformer", training={"steps": 100})),
        Asked(experiment=experiment("lstm"), match="seconds", reference=0),
        Asked(experiment=experiment("lstm")),
        Asked(experiment=experiment("transformer", training={"steps": None, "seconds": 7.0})),
        Asked(experiment=experiment("lstm"), match="seconds", reference=3),
    ]
    found = resolve(entries, options(tmp_path))
    assert [one.experiment.training.steps for one in found] == [100, 20, 12, 70, 14]
    assert found[1].measured["seconds_per_step"] == 0.5
    assert "1 threads, 1 devices" in found[1].measured["device"]
    assert found[2].measured == {}
    assert [one.held for one in found] == [None, 10.0, None, None, 7.0]


def test_the_matched_width_is_resolved_before_its_budget(tmp_path):
    wide = {"width": 96, "encoder_layers": 2, "decoder_layers": 2}
    entries = [
        Asked(experiment=experiment("lstm", model={"width": 64})),
        Asked(experiment=experiment("convs2s", model=wide), match="parameters", reference=0),
    ]
    first, second = (one.experiment for one in resolve(entries, options(tmp_path)))
    lstm, convs2s = body_parameters(first.model, "lstm"), body_parameters(second.model, "convs2s")
    assert abs(convs2s - lstm) <= TOLERANCE * lstm
    assert dict(second.model)["width"] != 96 and second.training.steps == 12


@pytest.mark.parametrize("honest_below", [0, 64], ids=["always", "at full size alone"])
def test_a_model_that_says_what_it_is_not_is_refused_before_it_is_matched(tmp_path, honest_below):
    """A file whose theory claims half of its parameters."""
    path = tmp_path / "cheat.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from models import lstm\n"
        "class Config(lstm.Config):\n"
        "    def theory(self, vocabulary_size, source_length, target_length):\n"
        "        told = super().theory(vocabulary_size, source_length, target_length)\n"
        f"        lie = told.body_parameters // 2 if self.width >= {honest_below} else 0\n"
        "        return replace(told, parameters=told.parameters - lie)\n"
    )
    cheat = experiment_from(
        {
            "model": {"name": str(path), "width": 64},
            "task": {"name": "rearrange", "train_pairs": 300, "validation_pairs": 20, "test_pairs": 20},
            "training": {"steps": 5, "precision": "float32"},
        },
        files_allowed=True,
    )
    entries = [
        Asked(experiment=experiment("lstm")),
        Asked(experiment=cheat, match="parameters", reference=0),
    ]
    refusal = r"^model\.name: .*theory: expected [\d,]+ parameters, as counted"
    with pytest.raises(UserError, match=refusal):
        resolve(entries, options(tmp_path))
    entries = [Asked(experiment=cheat), Asked(experiment=experiment("lstm"), match="parameters", reference=0)]
    with pytest.raises(UserError, match=refusal):  # what others are matched to
        resolve(entries, options(tmp_path))
