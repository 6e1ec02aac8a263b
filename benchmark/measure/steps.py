"""What each training step did and how long it took, as run.

The loss stays on the device until the log is flushed, so that watching a run does not make it wait. A run's
own speed is told here; speeds that may be compared come from `benchmark.measure.speed`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from benchmark.measure.timing import LEAST_STEADY, Clock, steady_from
from tasks import Batch

FLUSH_STEPS = 25
"""Steps between two looks at the losses: a loss that is not finite is noticed at most this much later."""
WARMUP_STEPS = 20
"""Steps at the start, and after a resumption, that no speed is taken from: allocation, choice of kernels."""
WINDOW_STEPS = 20
"""A rate is the median over windows of this many steps: single batches differ in shape."""
LEAST_WINDOWS = 2

COUNTS = ("target_tokens", "source_tokens", "padded_tokens", "sentences")


class Diverged(Exception):
    """The loss of a step was not finite."""

    def __init__(self, step: int, last_finite: float | None) -> None:
        super().__init__(f"the loss of step {step} is not finite")
        self.step, self.last_finite = step, last_finite


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Rates of a run, medians over windows of steady steps."""

    steady_state: bool | None
    """Whether speed settled; None where there were too few windows to tell. Where it did not, all count."""
    warmup_steps_excluded: int
    target_tokens_per_second: float
    target_tokens_per_second_p10: float
    target_tokens_per_second_p90: float
    source_and_target_tokens_per_second: float
    padded_tokens_per_second: float
    sentences_per_second: float
    updates_per_second: float
    step_seconds_median: float
    step_seconds_p10: float
    step_seconds_p90: float


@dataclass
class StepLog(Callback):
    """Losses, times and counts of every step since the first, through all resumptions.

    Steps are timed from the end of the step before, so that loading data counts; validation and checkpoints
    do not.
    """

    clock: Clock
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=lambda: {name: [] for name in COUNTS})
    warm: list[bool] = field(default_factory=list)
    """Whether a step is far enough from a start to take its speed."""
    stream: str = ""
    """Hash chain of the pairs in all batches so far."""

    def __post_init__(self) -> None:
        self._pending: list[tuple[Tensor, Any, Any]] = []
        self._mark: Any = None
        self._since_start = 0

    def restart_clock(self) -> None:
        """Leave out what happened since the last step."""
        self._mark = self.clock.mark()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._since_start = 0
        self.restart_clock()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        begin, self._mark = self._mark, self.clock.mark()
        self._pending.append((outputs["loss"], begin, self._mark))
        self._since_start += 1
        self.warm.append(self._since_start > WARMUP_STEPS)
        self.counts["target_tokens"].append(batch.target_tokens)
        self.counts["source_tokens"].append(batch.source_tokens)
        self.counts["padded_tokens"].append(batch.padded_tokens)
        self.counts["sentences"].append(len(batch.indices))
        chain = self.stream.encode() + batch.indices.astype("<i4").tobytes()
        self.stream = hashlib.sha256(chain).hexdigest()
        if len(self._pending) >= FLUSH_STEPS:
            self.flush(trainer)

    def flush(self, trainer: Trainer) -> None:
        """Bring losses and times over from the device. Raises `Diverged`."""
        if not self._pending:
            return
        losses = torch.stack([loss for loss, _, _ in self._pending]).float()
        if trainer.world_size > 1:
            losses = trainer.strategy.reduce(losses, reduce_op="mean")
        self.seconds += [self.clock.seconds(begin, end) for _, begin, end in self._pending]
        self._pending.clear()
        for loss in losses.tolist():
            if not math.isfinite(loss):
                self._leave_out(len(self.losses))
                raise Diverged(len(self.losses) + 1, self.losses[-1] if self.losses else None)
            self.losses.append(loss)

    def _leave_out(self, steps: int) -> None:
        """What was done after so many steps, before their losses were seen."""
        del self.seconds[steps:], self.warm[steps:]
        for counts in self.counts.values():
            del counts[steps:]

    def state_dict(self) -> dict[str, Any]:
        assert not self._pending, "flush before a checkpoint"
        return {
            "losses": torch.tensor(self.losses, dtype=torch.float32),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "warm": torch.tensor(self.warm, dtype=torch.bool),
            "stream": self.stream,
            **{name: torch.tensor(values, dtype=torch.int64) for name, values in self.counts.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses, self.seconds = state_dict["losses"].tolist(), state_dict["seconds"].tolist()
        self.warm, self.stream = state_dict["warm"].tolist(), state_dict["stream"]
        self.counts = {name: state_dict[name].tolist() for name in COUNTS}

    def total(self, name: str) -> int:
        return sum(self.counts[name])

    def loss_curve_sha256(self) -> str:
        """Of the float32 losses of all steps, in nats per target word."""
        return hashlib.sha256(np.array(self.losses, "<f4").tobytes()).hexdigest()

    def _by_window(self, values: Any, steady: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Sums over windows of steady steps."""
        kept = np.asarray(values, np.float64)[steady]
        windows = len(kept) // WINDOW_STEPS
        sums: NDArray[np.float64] = kept[: windows * WINDOW_STEPS].reshape(windows, WINDOW_STEPS).sum(1)
        return sums

    def throughput(self) -> Throughput | None:
        """None with fewer than `LEAST_WINDOWS` after the warm-up."""
        steady = np.array(self.warm, bool)
        windows = int(steady.sum()) // WINDOW_STEPS
        if windows < LEAST_WINDOWS:
            return None
        settled = None
        if windows >= LEAST_STEADY:
            settled = steady_from(
                (
                    self._by_window(self.seconds, steady)
                    / self._by_window(self.counts["target_tokens"], steady)
                ).tolist()
            )
            steady[np.flatnonzero(steady)[: (settled or 0) * WINDOW_STEPS]] = False

        def by_window(values: Any) -> NDArray[np.float64]:
            return self._by_window(values, steady)

        seconds = by_window(self.seconds)
        target = by_window(self.counts["target_tokens"]) / seconds
        step_seconds = np.asarray(self.seconds)[steady]

        def median_rate(values: Any) -> float:
            return float(np.median(by_window(values) / seconds))

        source = np.array(self.counts["source_tokens"])
        return Throughput(
            steady_state=None if windows < LEAST_STEADY else settled is not None,
            warmup_steps_excluded=int((~steady).sum()),
            target_tokens_per_second=float(np.median(target)),
            target_tokens_per_second_p10=float(np.quantile(target, 0.1)),
            target_tokens_per_second_p90=float(np.quantile(target, 0.9)),
            source_and_target_tokens_per_second=median_rate(source + np.array(self.counts["target_tokens"])),
            padded_tokens_per_second=median_rate(self.counts["padded_tokens"]),
            sentences_per_second=median_rate(self.counts["sentences"]),
            updates_per_second=median_rate(np.ones(len(steady))),
            step_seconds_median=float(np.median(step_seconds)),
            step_seconds_p10=float(np.quantile(step_seconds, 0.1)),
            step_seconds_p90=float(np.quantile(step_seconds, 0.9)),
        )
