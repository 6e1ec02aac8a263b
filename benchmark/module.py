"""The one LightningModule, whatever the architecture: loss, optimiser, schedule, nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

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
    """Trains a `Seq2SeqModel` with label-smoothed cross-entropy."""

    def __init__(self, model: Seq2SeqModel, training: TrainingConfig, seed: int) -> None:
        super().__init__()
        self.model, self.training_config, self.seed = model, training, seed
        self.plateau_cuts = 0
        """`plateau` only: how often the rate was cut."""

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Cross-entropy in nats per target word of the *global* batch.

        Each process divides its own sum by the global count; DDP averages gradients over processes, hence the
        factor.
        """
        seed_generator(self.device, step_seed(self.seed, self.global_step, self.global_rank))
        hidden = self.model.decode(batch.target_in, self.model.encode(batch.source, batch.source_mask))
        total = self.model.cross_entropy(hidden, batch.target_out, self.training_config.label_smoothing)
        return total * (self.trainer.world_size / batch.target_tokens)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        training = self.training_config
        optimizer = optimizer_of(training, self.model.parameters())

        def factor(step: int) -> float:
            return rate_factor(training, step) * training.plateau_factor**self.plateau_cuts

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        # Lightning refuses to under autocast, for fear of a gradient scaler inside the fused optimiser; there
        # is none for bfloat16.
        if gradient_clip_val is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plateau_cuts"] = self.plateau_cuts

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau_cuts = checkpoint["plateau_cuts"]
