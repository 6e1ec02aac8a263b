"""The one LightningModule, whatever the architecture: loss, optimiser, schedule, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmark.config import TrainingConfig
from benchmark.schedule import rate_factor
from models import Seq2SeqModel
from tasks import Batch


def step_seed(seed: int, step: int, rank: int) -> int:
    """What a step's random numbers start from: a function of these three, so that it can be redone."""
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_generator(device: torch.device, seed: int) -> None:
    """Of the device that a step computes on."""
    if device.type == "cpu":
        # torch.manual_seed keeps the seed for other devices too, each time with a printed stack: 0.6 ms.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def optimizer_of(
    training: TrainingConfig,
    parameters: Iterable[nn.Parameter],
    *,
    fused: bool = True,
    capturable: bool = False,
) -> Optimizer:
    """The optimiser of a run, at its highest rate; the last two are Adam's alone."""
    if training.optimizer != "adam":
        return torch.optim.SGD(
            parameters,
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
            nesterov=training.optimizer == "nesterov",
        )
    # Fused is one kernel over all parameters: the plain form spends most of its time between small ones.
    return torch.optim.AdamW(
        parameters,
        lr=training.learning_rate,
        betas=(training.beta1, training.beta2),
        eps=training.epsilon,
        weight_decay=training.weight_decay,
        fused=fused or None,
        capturable=capturable,
    )


class Seq2SeqModule(LightningModule):
    """Trains a `Seq2SeqModel` with label-smoothed cross-entropy.

    A step goes through as few of Lightning's hooks as it can: those of its automatic optimisation cost as
    much as a small model's layer.
    """

    def __init__(self, model: Seq2SeqModel, training: TrainingConfig, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.training_config, self.seed = model, training, seed
        self.plateau_cuts = 0
        """`plateau` only: how often the rate was cut."""

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """One update; the loss before it, in nats per target word of the *global* batch.

        Each process divides its own sum by the global count; DDP averages gradients over processes, hence the
        factor.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        seed_generator(self.device, step_seed(self.seed, self.global_step, self.global_rank))
        hidden = self.model.decode(batch.target_in, self.model.encode(batch.source, batch.source_mask))
        total = self.model.cross_entropy(hidden, batch.target_out, self.training_config.label_smoothing)
        loss = total * (self.trainer.world_size / batch.target_tokens)
        optimizer.zero_grad()
        # What follows computes in the types that the forward pass has chosen.
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)
            self.clip()
            optimizer.step()
        self._set_rate(optimizer, self.global_step)  # of the next step
        return loss.detach()

    def clip(self) -> None:
        """Bound the norm of the gradients."""
        if self.training_config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.training_config.gradient_clip)

    def configure_optimizers(self) -> Optimizer:
        optimizer = optimizer_of(self.training_config, self.model.parameters())
        self._set_rate(optimizer, 0)
        return optimizer

    def _set_rate(self, optimizer: Optimizer | LightningOptimizer, step: int) -> None:
        training = self.training_config
        factor = rate_factor(training, step) * training.plateau_factor**self.plateau_cuts
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * factor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plateau_cuts"] = self.plateau_cuts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau_cuts = checkpoint["plateau_cuts"]
