"""The learning rate at each step, as a formula of the step alone."""

from __future__ import annotations

import math

from benchmark.config import TrainingConfig


def rate_factor(training: TrainingConfig, step: int) -> float:
    """Learning rate of `step`, counted from 0, as a share of `learning_rate`."""
    assert training.steps is not None
    warmup = training.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    match training.schedule:
        case "inverse_sqrt":  # Vaswani et al. 2017, equation 3
            return math.sqrt(max(warmup, 1) / (step + 1))
        case "constant" | "plateau":
            return 1.0
        case "linear":
            begin = max(warmup, training.hold_fraction * training.steps)
            passed = (step - begin) / max(training.steps - begin, 1)
            return 1.0 - (1.0 - training.final_fraction) * min(max(passed, 0.0), 1.0)
        case "cosine":
            passed = min((step - warmup) / max(training.steps - warmup, 1), 1.0)
            return (
                training.final_fraction + (1 - training.final_fraction) * (1 + math.cos(math.pi * passed)) / 2
            )
