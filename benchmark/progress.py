"""One line that shows how a run is doing: loss, target tokens per second, validation quality."""

from __future__ import annotations

import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from benchmark.measure.steps import FLUSH_STEPS, StepLog


class Progress(Callback):
    """A bar for a terminal, or a plain line every `quiet_seconds` and after each validation."""

    def __init__(
        self, log: StepLog, label: str, steps: int, *, bar: bool, quiet_seconds: float = 30.0
    ) -> None:
        self.step_log, self.label, self.steps, self.quiet_seconds = log, label, steps, quiet_seconds
        self.bar, self.validation = bar, ""
        self._bar: tqdm[Any] | None = None
        self._last_line = time.perf_counter()

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.bar:
            self._bar = tqdm(
                total=self.steps,
                initial=trainer.global_step,
                desc=self.label,
                unit="step",
                dynamic_ncols=True,
            )

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % FLUSH_STEPS and step != self.steps:
            return
        if self._bar is not None:
            self._bar.n = step
            self._bar.set_postfix_str(self._state())
        elif time.perf_counter() - self._last_line > self.quiet_seconds:
            self._line(step)

    def _state(self) -> str:
        parts = []
        if self.step_log.losses:
            recent = self.step_log.losses[-FLUSH_STEPS:]
            parts.append(f"loss {sum(recent) / len(recent):.3f}")
        seconds = sum(self.step_log.seconds[-4 * FLUSH_STEPS :])
        if seconds:
            tokens = sum(
                self.step_log.counts["target_tokens"][: len(self.step_log.seconds)][-4 * FLUSH_STEPS :]
            )
            parts.append(f"{tokens / seconds:,.0f} target tokens/s")
        return ", ".join([*parts, *([self.validation] if self.validation else [])])

    def _line(self, step: int) -> None:
        self._last_line = time.perf_counter()
        sys.stderr.write(f"{self.label}: step {step:,} of {self.steps:,}: {self._state()}\n")
        sys.stderr.flush()

    def validated(self, step: int, text: str) -> None:
        """Show the newest validation."""
        self.validation = text
        if self._bar is not None:
            self._bar.set_postfix_str(self._state())
        else:
            self._line(step)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.n = trainer.global_step
            self._bar.close()
