"""A number that moves is a version that rises: losses of models and of a run, known and tied to versions."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmark.check.model import VOCABULARY_SIZE, random_pairs
from benchmark.config import HARNESS_VERSION, ROOT, experiment_from, load_yaml
from models import Seq2SeqModel
from tests.benchmark.training_run import curve_rows, experiment, run

MEANT = "if that was meant, raise {} and put the new numbers here; if not, it is a mistake"


class Golden(NamedTuple):
    """Sums over words of the cross-entropy of one batch, in nats."""

    version: int
    of_set_weights: float
    """Of weights that this file draws: the function."""
    of_first_weights: float
    """Of the weights that a seed gives: the initialisation as well."""


MODELS = {
    "transformer-small": Golden(1, 178.68557558482559, 209.298263),
    "convs2s-small": Golden(1, 195.4958577118335, 172.921054),
    "lstm-small": Golden(1, 177.5212606499178, 190.553810),
}


def loss_of(model: Seq2SeqModel) -> float:
    pairs = random_pairs(11, sentences=6, longest=12)
    with torch.inference_mode():
        hidden = model.decode(pairs.target_in, model.encode(pairs.source, pairs.source_mask))
        return float(model.cross_entropy(hidden, pairs.target_out, 0.1))


AT_TEST_SIZE = {
    "transformer-base": Golden(1, 176.40577560605485, 186.803522),
    "convs2s-wmt14-en-de": Golden(1, 183.98843443305563, 172.543587),
    "lstm-luong": Golden(1, 178.37194205764027, 183.756742),
}
"""As the papers arrange them: post-norm, widening blocks, input feeding, words that are not tied."""


@pytest.mark.parametrize("preset", [*MODELS, *AT_TEST_SIZE])
def test_a_model_whose_function_changes_has_another_version(preset: str) -> None:
    document = load_yaml(ROOT / "configs" / "models" / f"{preset}.yaml")
    config = experiment_from(
        {"model": document["model"], "task": {"name": "rearrange"}, "training": {"steps": 1}},
        files_allowed=False,
    ).model
    config = config if preset in MODELS else config.tiny()
    torch.manual_seed(7)
    model = config.build(VOCABULARY_SIZE).double().eval()
    first = loss_of(model)
    random = np.random.default_rng(7)  # whose numbers are equal on all machines, to the last bit
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            drawn = random.random(parameter.shape) - 0.5
            scale = 4 * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 1
            parameter.copy_(torch.from_numpy(scale * drawn))
    golden = MODELS.get(preset) or AT_TEST_SIZE[preset]
    got = Golden(config.version, loss_of(model), first)
    assert (
        got.version == golden.version
        and got.of_set_weights == pytest.approx(golden.of_set_weights, rel=1e-10)
        and got.of_first_weights == pytest.approx(golden.of_first_weights, rel=1e-6)
    ), f"{preset} computes {got}, not {golden}: " + MEANT.format("its Config.version")


HARNESS = 1
TASK = 1
BATCHES = "ac55b55aca4ea7384b66028421cc4bdce1097bfed35a8c5e83cb859d21f396a7"
LOSSES = [4.188945, 4.069039, 3.891128]
VALIDATION_LOSS = 3.747002


def test_a_run_whose_losses_change_has_another_version(tmp_path: Path) -> None:
    training = {"steps": 3, "validations": 1, "learning_rate": 0.01, "warmup_steps": 2}
    one = experiment("transformer", training=training)
    record = run(one, tmp_path)
    assert record is not None
    losses = [row["value"] for row in curve_rows(record, tmp_path) if row["quantity"] == "train_loss"]
    got = (HARNESS_VERSION, one.task.version, record.batch_stream_sha256)
    assert (
        got == (HARNESS, TASK, BATCHES)
        and losses == pytest.approx(LOSSES, rel=2e-5)
        and record.validation_loss == pytest.approx(VALIDATION_LOSS, rel=2e-5)
    ), f"a run gives {got}, {losses}, {record.validation_loss}: " + MEANT.format(
        "HARNESS_VERSION (or the version of the task or the model, where that is what changed)"
    )
