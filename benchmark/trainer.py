"""One run from experiment to record: the one Lightning Trainer, and what happens at which step.

Everything that happens during training is decided by the step alone (validations, checkpoints, batches,
random numbers), so a run that was cut off and resumed ends bit for bit where an undisturbed one does.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import subprocess
import time
import warnings
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, WandbLogger

from benchmark import checkpoint, tracking
from benchmark.config import Experiment, RunOptions, UserError
from benchmark.device import use_device
from benchmark.evaluation import Process, generate, mean_loss, score
from benchmark.history import WINDOW_STEPS, Steps, summary, training_rows, validation_row
from benchmark.measure.energy import EnergyMeter
from benchmark.measure.machine import gpu_uuid
from benchmark.measure.steps import Diverged, StepLog
from benchmark.measure.timing import Clock
from benchmark.module import Seq2SeqModule
from benchmark.outcome import (
    curves,
    data_counters,
    parameters,
    peak_memory_bytes,
    resolved_precision,
    score_run,
    speed,
)
from benchmark.progress import Progress
from benchmark.record import (
    CurvePoint,
    Provenance,
    Score,
    TrainRecord,
    available_cores,
    take_provenance,
    threads_of,
)
from benchmark.store import write_atomic
from models import Seq2SeqModel
from tasks import VALIDATION, Task
from tasks.data.corpus import Corpus, prepare
from tasks.data.module import DataModule

_CURVE = TypeAdapter(list[CurvePoint])
CHECKPOINT_STEPS = 500
"""Steps between two checkpoints at the most; each validation makes one too."""
RANKS_END_SECONDS = 60.0
"""That the other processes of a run get to end in, once all is computed."""


class Interrupted(Exception):
    """A signal ended the run at a step from which it can go on."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.exit_code = 128 + number


def corpus_of(experiment: Experiment, data_directory: Path, cache_directory: Path) -> tuple[Task, Corpus]:
    """The experiment's task and its token ids.

    Raises:
        UserError: what the task finds wrong with its data, or a cache that cannot be written to.
    """
    identity = {**experiment.document()["task"], "version": experiment.task.version}
    if experiment.task_file_sha256 is not None:
        identity["name"] = experiment.task_file_sha256
    limit = experiment.data.maximum_tokens
    try:
        task = experiment.task.build(data_directory)
        return task, prepare(task, identity, maximum_tokens=limit, cache_directory=cache_directory)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(f"{error.filename or cache_directory}: {error.strerror or error}") from None


def build_model(experiment: Experiment, vocabulary_size: int) -> Seq2SeqModel:
    """The model with the weights that the seed decides."""
    torch.manual_seed(experiment.seed)
    return experiment.model.build(vocabulary_size)


def validation_steps(steps: int, validations: int) -> set[int]:
    """After which steps a run is validated: evenly spaced, the last step among them."""
    return {round(number * steps / validations) for number in range(1, validations + 1)} - {0}


@dataclass
class _Signals:
    """While inside, the first SIGTERM or SIGINT waits for the end of the step; a second one kills."""

    wanted: bool
    received: int | None = None
    _previous: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> None:
        if self.wanted:
            self._previous = {
                number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)
            }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number


class Timetable(Callback):
    """What happens between steps: validations, checkpoints, early stop, end by signal."""

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        data: DataModule,
        folder: Path,
        log: StepLog,
        progress: Progress | None,
        signals: _Signals,
        provenance: Provenance,
        energy: EnergyMeter,
    ) -> None:
        assert experiment.training.steps is not None
        self.experiment, self.task, self.data, self.folder = experiment, task, data, folder
        self.step_log, self.progress, self.signals, self.energy = log, progress, signals, energy
        self.run_id = experiment.run_id()
        self.machine = _machine(provenance)
        self.data_fingerprint = task.fingerprint()
        self.steps = experiment.training.steps
        self.validation_steps = validation_steps(self.steps, experiment.training.validations)
        self.curve: list[CurvePoint] = []
        self.seconds_before = 0.0
        """Wall time of earlier attempts at this run."""
        self.peak_memory_before = 0
        self.resumed_times = 0
        self.not_bitwise_because: str | None = None
        self.stopped_early = False
        self._start = time.perf_counter()
        self._saved = 0

    def validation_losses(self) -> list[float]:
        return [point.validation_loss for point in self.curve if point.validation_loss is not None]

    def peak_memory_bytes(self) -> int:
        """The largest of all attempts."""
        return max(self.peak_memory_before, peak_memory_bytes(self.step_log.clock))

    def wall_seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self._start

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.global_step != len(self.step_log.losses):  # one that Lightning counted in another way
            raise UserError(f"{self.folder}: made by an older seqbench; remove it to train from the start")
        self.energy.resume()
        if self.stopped_early:  # in an earlier attempt, which `fit` knows nothing of
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.step_log.flush(trainer)
        self.energy.pause()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.energy.look()
        step = trainer.global_step
        validate = step in self.validation_steps
        interrupted = self.signals.received is not None
        if validate or interrupted or step - self._saved >= CHECKPOINT_STEPS:
            self.step_log.flush(trainer)  # which waits for the device
            self.energy.pause()
            if validate:
                assert isinstance(module, Seq2SeqModule)
                self._validate(trainer, module, step)
            self._save(trainer, step)
            self.energy.resume()
            self.step_log.restart_clock()
        if interrupted and step < self.steps:
            assert self.signals.received is not None
            raise Interrupted(self.signals.received)

    def _save(self, trainer: Trainer, step: int) -> None:
        self._saved = step
        trainer.save_checkpoint(checkpoint.training_path(self.folder, step))
        if trainer.is_global_zero:
            checkpoint.remove_old(self.folder)

    def _validate(self, trainer: Trainer, module: Seq2SeqModule, step: int) -> None:
        process = _process(trainer, module, self.experiment)
        training = self.experiment.training
        loss, _ = mean_loss(module.model, self.data.val_dataloader(), process)
        if not math.isfinite(loss):  # the step's own loss was, but not the weights it left
            raise Diverged(step, self.step_log.losses[-1])
        scores: list[Score] = []
        output = None
        if training.validation_sentences != 0:
            greedily = self.experiment.evaluation.model_copy(update={"beam": 1})
            output = generate(
                module.model,
                self.data,
                VALIDATION,
                greedily,
                process,
                sentences=training.validation_sentences,
            )
            _, references = self.data.corpus.texts(VALIDATION)
            scores = score(
                VALIDATION, self.task.metrics, output.hypotheses, references[: len(output.hypotheses)]
            )
        best = min(self.validation_losses(), default=None)
        if training.schedule == "plateau" and best is not None and loss >= best:
            module.plateau_cuts += 1
        self.curve.append(
            CurvePoint(
                step=step,
                train_seconds=sum(self.step_log.seconds),
                train_target_tokens=self.step_log.total("target_tokens"),
                validation_loss=loss,
                scores=scores,
                generated_sentences=None if output is None else len(output.hypotheses),
                generate_seconds=None if output is None else output.seconds,
            )
        )
        if trainer.is_global_zero:
            checkpoint.save_weights(
                module.model.state_dict(), self.folder, step, self.experiment.training.average_checkpoints
            )
        self._report(trainer, loss, scores)
        if self._should_stop():
            self.stopped_early = step < self.steps
            trainer.should_stop = True

    def _should_stop(self) -> bool:
        patience = self.experiment.training.patience
        if patience is None:
            return False
        losses = self.validation_losses()
        return len(losses) - 1 - losses.index(min(losses)) >= patience

    def _report(self, trainer: Trainer, loss: float, scores: list[Score]) -> None:
        step, values = validation_row(self.curve[-1])
        logger = trainer.logger
        if logger is not None:
            tracking.guarded(lambda: logger.log_metrics(values, step))
        if self.progress is not None:
            shown = f"validation loss {loss:.3f}"
            self.progress.validated(
                step, ", ".join([shown, *(f"{one.metric} {one.value:.1f}" for one in scores[:1])])
            )

    def state_dict(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "machine": self.machine,
            "data": self.data_fingerprint,
            "curve": _CURVE.dump_json(self.curve).decode(),
            "seconds_before": self.wall_seconds(),
            "resumed_times": self.resumed_times,
            "not_bitwise_because": self.not_bitwise_because,
            "stopped_early": self.stopped_early,
            "peak_memory_bytes": self.peak_memory_bytes(),
            "energy_joules": self.energy.joules,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("data", self.data_fingerprint) != self.data_fingerprint:
            raise UserError(
                f"{self.folder}: the data files have changed since it began to train; put them back, or "
                "remove the folder to train from the start"
            )
        if state_dict["run_id"] != self.run_id:
            raise UserError(
                f"{self.folder}: its checkpoint belongs to run {state_dict['run_id']} and not to "
                f"{self.run_id}; remove the folder to train from the start"
            )
        self.curve = _CURVE.validate_json(state_dict["curve"])
        self.seconds_before, self.stopped_early = state_dict["seconds_before"], state_dict["stopped_early"]
        self.peak_memory_before = state_dict["peak_memory_bytes"]
        self.energy.restore(state_dict.get("energy_joules"))
        self.resumed_times = state_dict["resumed_times"] + 1
        self.not_bitwise_because = state_dict["not_bitwise_because"]
        changed = [name for name, value in self.machine.items() if state_dict["machine"].get(name) != value]
        if changed and self.not_bitwise_because is None:
            self.not_bitwise_because = f"resumed with another {' and '.join(changed)}"


class StepLogger(Callback):
    """Sends losses and speed to Lightning's logger, rarely: one call costs as much as many small kernels."""

    def __init__(self, log: StepLog, timetable: Timetable) -> None:
        self.step_log, self.timetable = log, timetable
        self._sent = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """What an earlier attempt has sent is there."""
        self._sent = len(self.step_log.losses)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if len(self.step_log.losses) - self._sent >= WINDOW_STEPS:
            self._send(trainer)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.step_log.flush(trainer)
        self._send(trainer)

    def _send(self, trainer: Trainer) -> None:
        logger, log = trainer.logger, self.step_log
        if logger is None:
            return
        known = len(log.losses)
        steps = Steps(
            losses=log.losses, seconds=log.seconds, target_tokens=log.counts["target_tokens"][:known]
        )
        training = self.timetable.experiment.training
        for step, values in training_rows(steps, training, self.timetable.curve, after=self._sent):
            tracking.guarded(partial(logger.log_metrics, values, step))
        self._sent = known // WINDOW_STEPS * WINDOW_STEPS


def _machine(provenance: Provenance) -> dict[str, str | int]:
    """What bitwise equality depends on."""
    return {
        "processor": provenance.processor,
        "device": provenance.device,
        "number of devices": provenance.devices,
        "number of threads": provenance.threads,
        "torch version": provenance.torch_version,
        "NumPy version": np.__version__,  # which draws dropout's masks
    }


def _process(trainer: Trainer, module: LightningModule, experiment: Experiment) -> Process:
    return Process(
        device=module.device,
        rank=trainer.global_rank,
        world=trainer.world_size,
        precision=experiment.training.precision,
    )


def make_trainer(
    experiment: Experiment,
    device: torch.device,
    *,
    devices: int = 1,
    callbacks: list[Callback],
    logger: Logger | None,
    folder: Path,
) -> Trainer:
    """The Trainer of every run. It trains; what else happens is the callbacks' affair."""
    training = experiment.training
    assert training.steps is not None
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if training.precision == "bfloat16" else "32-true",
        max_steps=training.steps,
        callbacks=callbacks,
        logger=logger if logger is not None else False,
        plugins=[checkpoint.SafeCheckpointIO()],
        default_root_dir=folder,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=2**31,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def quiet() -> None:
    """Keep Lightning's advice off the terminal; its errors are raised."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")


def run_cell(experiment: Experiment, run_folder: Path, options: RunOptions) -> TrainRecord | None:
    """Train, score and write the record of one run, from where an earlier attempt left off.

    Returns the record, on the first of several processes; None on the others. A loss that is not finite ends
    in a record too. Raises `UserError` for what the user can mend, `Interrupted` after a signal.
    """
    quiet()
    device = use_device(options.device, threads_of(options))
    task, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
    model = build_model(experiment, len(corpus.vocabulary))
    provenance = take_provenance(
        device=device, precision=resolved_precision(experiment), devices=options.devices
    )
    # Several processes would stop at different steps and wait for each other: there a signal just kills.
    signals = _Signals(wanted=options.devices == 1)
    data = DataModule(corpus, batch_tokens=experiment.data.batch_tokens, seed=experiment.seed)
    module = Seq2SeqModule(model, experiment.training, experiment.seed)
    log = StepLog(Clock(device))
    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    progress = None
    if first:
        label = f"{options.model_preset or experiment.model_name} seed {experiment.seed}"
        progress = Progress(log, label, experiment.training.steps or 0, bar=options.progress)
    folder = run_folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    energy = EnergyMeter(gpu_uuid(device))
    timetable = Timetable(experiment, task, data, folder, log, progress, signals, provenance, energy)
    mode: tracking.Mode = "disabled"
    logger = None
    if first and options.wandb != "auto":  # whoever starts runs has chosen for all of them
        logger, mode = tracking.lightning_logger(
            options.wandb,
            study=options.study,
            run_id=experiment.run_id(),
            experiment_document=experiment.document(),
            directory=tracking.run_directory(options.results / options.study),
            device_class=device.type,
            is_trial=options.is_trial,
        )
    watching = [progress] if progress else []
    callbacks: list[Callback] = [log, *watching, StepLogger(log, timetable), timetable]
    trainer = make_trainer(
        experiment, device, devices=options.devices, callbacks=callbacks, logger=logger, folder=run_folder
    )
    common: dict[str, Any] = {
        "run_id": experiment.run_id(),
        "study": options.study,
        "model_preset": options.model_preset or experiment.model_name,
        "model_name": experiment.model_name,
        "model_version": experiment.model.version,
        "task_preset": options.task_preset or experiment.task_name,
        "task_name": experiment.task_name,
        "task_version": experiment.task.version,
        "task_fingerprint": task.fingerprint(),
        "seed": experiment.seed,
        "experiment": experiment.document(),
        "provenance": provenance,
        "wandb_mode": mode,
        "vocabulary_size": len(corpus.vocabulary),
        **parameters(experiment, model, len(corpus.vocabulary)),
        **data_counters(corpus, task),
    }
    latest = checkpoint.latest(folder)
    if latest is None and checkpoint.has_any(folder):
        raise UserError(f"{folder}: none of its checkpoints is whole; remove the folder to start again")
    try:
        with signals:
            trainer.fit(module, datamodule=data, ckpt_path=latest)
        log.flush(trainer)
    except Diverged as error:
        energy.pause()
        record = TrainRecord(
            **common,
            status="diverged",
            failure=str(error),
            diverged_step=error.step,
            last_finite_loss=error.last_finite,
            **speed(log, experiment, data),
            peak_memory_bytes=timetable.peak_memory_bytes(),
            energy_joules=_joules(energy, device, options),
            curve=timetable.curve,
            wall_seconds_total=timetable.wall_seconds(),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _end_log(logger, record)
        return record if first else None
    averaged = [point.step for point in timetable.curve][-experiment.training.average_checkpoints :]
    measured = score_run(experiment, task, trainer, module.model, averaged, data, run_folder, options)
    if not first:
        return None
    wait_for_ranks(trainer)
    write_atomic(run_folder / "curves.jsonl.gz", curves(log))
    record = TrainRecord(
        **common,
        status="done",
        **speed(log, experiment, data),
        **measured,
        peak_memory_bytes=timetable.peak_memory_bytes(),
        energy_joules=_joules(energy, device, options),
        curve=timetable.curve,
        validations_done=len(timetable.curve),
        stopped_early=timetable.stopped_early,
        validation_loss_best=min(timetable.validation_losses(), default=None),
        validation_loss_last=timetable.curve[-1].validation_loss if timetable.curve else None,
        wall_seconds_total=timetable.wall_seconds(),
        batch_stream_sha256=log.stream,
        loss_curve_sha256=log.loss_curve_sha256(),
        bitwise=timetable.not_bitwise_because is None,
        not_bitwise_because=timetable.not_bitwise_because,
        resumed_times=timetable.resumed_times,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _end_log(logger, record)
    return record


def _joules(energy: EnergyMeter, device: torch.device, options: RunOptions) -> float | None:
    """None where what was metered is not this run's: each of several processes meters its own GPU, and a
    processor all that runs on it, which may be other runs of the study.
    """
    if device.type != "cuda" and threads_of(options) < available_cores():
        return None
    return energy.joules if options.devices == 1 else None


def wait_for_ranks(trainer: Trainer) -> None:
    """Until this run's other processes have ended: Lightning looks at them every few seconds, and the time of
    one that nobody waited for is lost to who measures what this run takes of the machine.
    """
    for process in getattr(trainer.strategy.launcher, "procs", []):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(RANKS_END_SECONDS)


def _end_log(logger: WandbLogger | None, record: TrainRecord) -> None:
    if logger is not None:
        tracking.guarded(lambda: logger.experiment.summary.update(summary(record)))
        tracking.guarded(lambda: logger.finalize("success"))
