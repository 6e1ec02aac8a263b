"""Speeds that may be compared: all models of a study timed in interleaved, shuffled rounds in one process.

Every round gives each contestant the same batches of the task. The first model takes part twice, which shows
what difference the machine makes up by itself (A/A). Beside each model stand its limit, the time that its
matrix products alone would take at the peak measured in the same rounds, its plain PyTorch form, and the same
steps through the trainer.
"""

from __future__ import annotations

import itertools
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from benchmark.config import Experiment, RunOptions, UserError, one_line
from benchmark.decoding import beam_search, greedy
from benchmark.device import choose_device, use_device
from benchmark.evaluation import Process
from benchmark.measure.machine import MachineWatch, gpu_uuid
from benchmark.measure.operations import training_operations
from benchmark.measure.plain import plain_form
from benchmark.measure.steps import FLUSH_STEPS, WARMUP_STEPS, StepLog
from benchmark.measure.timing import Clock, Interval, interleaved, median, ratio
from benchmark.module import Seq2SeqModule, optimizer_of, seed_generator, step_seed
from benchmark.outcome import resolved_precision
from benchmark.record import CAPTURED, SpeedRecord, SpeedRow, available_cores, take_provenance, threads_of
from benchmark.schedule import rate_factor
from benchmark.trainer import build_model, corpus_of, make_trainer, quiet, wait_for_ranks
from models import BEGIN, END, ModelConfig, Seq2SeqModel
from tasks import TRAIN, Batch
from tasks.data import batching
from tasks.data.batching import Shapes
from tasks.data.corpus import Corpus
from tasks.data.module import DataModule

ROUNDS, WARMUP_ROUNDS = 15, 2
GENERATION_ROUNDS = 7
SMALLEST_BATCH = 16
"""Tokens: a sentence pair."""
OVERHEAD_STEP_SECONDS = (0.06, 0.02)
OVERHEAD_ROUNDS, OVERHEAD_STEPS = 40, FLUSH_STEPS
"""Of the comparison with a plain loop; in each round the trainer looks at its losses once."""
CUDA_DIFFERENCE = 0.01
"""Relative, of the losses of the first `ALIKE_STEPS` equal steps."""
ALIKE_STEPS = 10
STEPS = 5
"""Training steps of a contestant in one round."""
GENERATED_WORDS = 64
"""Words that generation is forced to produce, so that all models do equally much."""
GENERATION_BEAM = 4
GENERATED_SENTENCES = 1000
"""At most so many are generated until each is as long as its source."""
WITHOUT_CACHE = ", whole prefix again"
PEAK_SIZE, CUDA_PEAK_SIZE = 2048, 8192
"""Of square matrices whose products reach a device's peak."""
AGAIN = "train again"
"""The second entry of the first model."""


Number = TypeVar("Number", int, float)


class CannotCapture(Exception):
    """A step that cannot be a CUDA graph; why, in one line."""


@dataclass(frozen=True)
class Contestant:
    """One thing that is timed in every round."""

    model: str
    phase: str
    work: Callable[[int], float]
    """Seconds of a round."""
    amount: Callable[[int], float]
    """What the round produces, in `unit`s."""
    quantity: str
    unit: str
    operations: float | None = None
    """Of a round, in closed form, where it is the same in each."""


class PlainLoop:
    """Training as a short program does it, on the given model: the measure of what the trainer adds."""

    def __init__(
        self,
        experiment: Experiment,
        model: nn.Module,
        device: torch.device,
        *,
        fused: bool,
        capturable: bool = False,
    ) -> None:
        self.training, self.seed, self.device = experiment.training, experiment.seed, device
        self.model = model.to(device).train()
        self.process = Process(device=device, precision=experiment.training.precision)
        self.optimizer = optimizer_of(
            self.training, self.model.parameters(), fused=fused, capturable=capturable
        )
        self.steps = 0
        self.graphs: list[list[torch.cuda.CUDAGraph]] = []
        """By round, of `TimedBatches.captured`."""

    def loss(self, batch: Batch) -> Tensor:
        """Nats per target word."""
        assert isinstance(self.model, Seq2SeqModel)
        hidden = self.model.decode(batch.target_in, self.model.encode(batch.source, batch.source_mask))
        total = self.model.cross_entropy(hidden, batch.target_out, self.training.label_smoothing)
        return total * (1 / batch.target_tokens)

    def step(self, batch: Batch) -> Tensor:
        """One step; the loss before it."""
        seed_generator(self.device, step_seed(self.seed, self.steps, 0))
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * rate_factor(self.training, self.steps)
        self.steps += 1
        return self.update(batch)

    def update(self, batch: Batch) -> Tensor:
        """What a device does in a step; the loss before it."""
        with self.process.autocast():
            loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        if self.training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
        self.optimizer.step()
        return loss.detach()


class _PlainFormLoop(PlainLoop):
    def loss(self, batch: Batch) -> Tensor:
        form: Any = self.model
        loss: Tensor = form.loss(batch, self.training.label_smoothing)
        return loss


class TimedBatches:
    """The batches of every round, the same for all contestants, and the work done on them."""

    def __init__(self, data: DataModule, device: torch.device, rounds: int, seed: int) -> None:
        split = data.corpus.splits[TRAIN]
        plan = data.training.epoch(0)
        chosen = random.Random(seed).choices(range(len(plan)), k=rounds * STEPS)
        batches = [batching.collate(split, plan[number], rank=0, world=1).to(device) for number in chosen]
        self.batches = [batches[number * STEPS : (number + 1) * STEPS] for number in range(rounds)]

    def timed(self, loop: PlainLoop, clock: Clock) -> Callable[[int], float]:
        """Seconds that the loop takes for a round's batches."""

        def work(number: int) -> float:
            begin = clock.mark()
            for batch in self.batches[number]:
                loop.step(batch)
            return clock.seconds(begin, clock.mark())

        return work

    def captured(self, loop: PlainLoop, clock: Clock) -> Callable[[int], float]:
        """The same as CUDA graphs, one for each batch: no kernel waits for the program to launch it.

        Every batch is a step of the loop twice: before the capture, so that kernels are loaded, and after it,
        so that the device has the graph when it is timed.

        Raises:
            CannotCapture: in a step the program waits for a value of the device.
        """
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
            loop.step(self.batches[0][0])  # what a first step allocates is not to be captured
            torch.cuda.set_sync_debug_mode("error")
            try:
                loop.step(self.batches[0][0])
            except RuntimeError as error:
                raise CannotCapture(one_line(str(error))) from None
            finally:
                torch.cuda.set_sync_debug_mode("default")
            for batch in itertools.chain.from_iterable(self.batches):
                loop.step(batch)
        torch.cuda.current_stream().wait_stream(aside)
        graphs, pool = [], torch.cuda.graph_pool_handle()
        for batches in self.batches:
            round_ = [torch.cuda.CUDAGraph() for _ in batches]
            for graph, batch in zip(round_, batches, strict=True):
                with torch.cuda.graph(graph, pool=pool):
                    loop.update(batch)
            graphs.append(round_)
        for graph in itertools.chain.from_iterable(graphs):
            graph.replay()
        loop.graphs = graphs  # which keep none of the loop's tensors alive: `work` keeps the loop

        def work(number: int) -> float:
            begin = clock.mark()
            for graph in loop.graphs[number]:
                graph.replay()
            return clock.seconds(begin, clock.mark())

        return work

    def target_tokens(self, number: int) -> float:
        return sum(batch.target_tokens for batch in self.batches[number])

    def operations(self, experiment: Experiment, vocabulary_size: int, number: int) -> float | None:
        """Of a round's steps; None for a model without a closed form."""
        batches = self.batches[number]
        shapes = Shapes(
            sentences=np.array([len(batch.source) for batch in batches]),
            source_length=np.array([batch.source.shape[1] for batch in batches]),
            target_length=np.array([batch.target_in.shape[1] for batch in batches]),
            target_tokens=np.array([_projected(batch) for batch in batches]),
        )
        operations = training_operations(experiment.model, vocabulary_size, shapes)
        return None if operations is None else float(operations.sum())


def _projected(batch: Batch) -> int:
    """Target positions that the output projection takes: on an accelerator padding, too."""
    return batch.target_tokens if batch.target_in.device.type == "cpu" else batch.target_in.numel()


def measure_speed(
    experiments: dict[str, Experiment], options: RunOptions, run_id: str, *, overhead: bool
) -> SpeedRecord:
    """Time the experiments' models, by the names that reports call them; with `overhead`, the trainer, too.

    Raises:
        UserError: they do not share task, data and precision, so that their speeds say nothing together.
    """
    quiet()
    first = next(iter(experiments.values()))
    for name, experiment in experiments.items():
        for section in ("task", "data"):
            if experiment.document()[section] != first.document()[section]:
                raise UserError(
                    f"measure: speed compares models on one task; {name} has another {section} section"
                )
        if experiment.training.precision != first.training.precision:
            raise UserError(f"measure: speed compares models in one precision; {name} has another")
    device = use_device(options.device, threads_of(options))
    _, corpus = corpus_of(first, options.data_directory, options.cache_directory)
    data = DataModule(corpus, batch_tokens=first.data.batch_tokens, seed=first.seed)
    clock = Clock(device)
    rounds = TimedBatches(data, device, ROUNDS, first.seed)
    trained, generated = [matrix_products(device, clock, first.training.precision)], []
    for name, experiment in experiments.items():
        trained += _training(name, experiment, corpus, rounds, device, clock)
        generated += _generation(name, experiment, corpus, device, clock)
    trained.append(_launched(next(iter(experiments)), first, corpus, rounds, device, clock, phase=AGAIN))
    watch = MachineWatch(threads=torch.get_num_threads(), cores=available_cores(), gpu=gpu_uuid(device))
    watch.start()
    seconds = {
        **_timed(trained, rounds=ROUNDS, watch=watch),
        **_timed(generated, rounds=GENERATION_ROUNDS, watch=watch),
    }
    rows = _rows([*trained, *generated], seconds, experiments, rounds, len(corpus.vocabulary))
    if overhead:
        rows += _overhead_rows(next(iter(experiments)), first, options)
    seen = watch.stop()
    provenance = take_provenance(device=device, precision=resolved_precision(first))
    return SpeedRecord(
        run_id=run_id,
        study=options.study,
        task_preset=options.task_preset,
        task_name=first.task_name,
        task_version=first.task.version,
        status="done",
        provenance=provenance,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        experiments={name: experiment.document() for name, experiment in experiments.items()},
        rows=rows,
        noisy=seen.noisy,
        noise=list(seen.reasons),
        timing_method=f"{clock.name}; {ROUNDS} interleaved, shuffled rounds of {STEPS} steps after "
        f"{WARMUP_ROUNDS} warm-up rounds; medians with intervals of order statistics, ratios as geometric "
        "means over rounds with t-intervals",
    )


def matrix_products(device: torch.device, clock: Clock, precision: str) -> Contestant:
    """Matrix products of a size at which the device is at its best."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    size = CUDA_PEAK_SIZE if clock.on_cuda else PEAK_SIZE
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def work(_: int) -> float:
        begin = clock.mark()
        torch.mm(a, b, out=out)
        return clock.seconds(begin, clock.mark())

    return Contestant(
        "device", "peak", work, lambda _: 2.0 * size**3, "operations_per_second", "operations/s"
    )


def _timed(
    contestants: Sequence[Contestant], *, rounds: int, watch: MachineWatch
) -> dict[tuple[str, str], list[float]]:
    def watched(work: Callable[[int], float], number: int) -> float:
        watch.sample()
        return work(number)

    works = {f"{one.model} {one.phase}": partial(watched, one.work) for one in contestants}
    seconds = interleaved(works, rounds=rounds, warmup=WARMUP_ROUNDS, seed=0)
    return {(one.model, one.phase): seconds[f"{one.model} {one.phase}"] for one in contestants}


def _training(
    name: str,
    experiment: Experiment,
    corpus: Corpus,
    rounds: TimedBatches,
    device: torch.device,
    clock: Clock,
) -> list[Contestant]:
    """A model in training, its plain form, and on CUDA its steps as graphs."""
    found = [_launched(name, experiment, corpus, rounds, device, clock)]
    form = plain_form(experiment.model, len(corpus.vocabulary))
    if form is not None:
        plain = _PlainFormLoop(_endless(experiment), form, device, fused=False)
        found.append(_contestant(name, "train plain form", rounds, rounds.timed(plain, clock)))
    if clock.on_cuda:
        loop = _loop(experiment, corpus, device, capturable=True)
        try:
            found.append(_contestant(name, CAPTURED, rounds, rounds.captured(loop, clock)))
        except CannotCapture as error:
            sys.stderr.write(f"{name}: its step cannot be captured: {error}\n")
    return found


def _launched(
    name: str,
    experiment: Experiment,
    corpus: Corpus,
    rounds: TimedBatches,
    device: torch.device,
    clock: Clock,
    phase: str = "train",
) -> Contestant:
    """A model in training, step by step."""
    loop = _loop(experiment, corpus, device, capturable=False)
    return _contestant(name, phase, rounds, rounds.timed(loop, clock))


def _loop(experiment: Experiment, corpus: Corpus, device: torch.device, *, capturable: bool) -> PlainLoop:
    model = build_model(experiment, len(corpus.vocabulary))
    return PlainLoop(_endless(experiment), model, device, fused=True, capturable=capturable)


def _endless(experiment: Experiment) -> Experiment:
    """With a schedule that does not end while it is timed."""
    return replace(experiment, training=experiment.training.model_copy(update={"steps": 10**6}))


def _contestant(name: str, phase: str, rounds: TimedBatches, work: Callable[[int], float]) -> Contestant:
    return Contestant(name, phase, work, rounds.target_tokens, "target_tokens_per_second", "tokens/s")


def _generation(
    name: str, experiment: Experiment, corpus: Corpus, device: torch.device, clock: Clock
) -> list[Contestant]:
    """A model that generates with a full batch, one sentence alone, a full batch without its cache, with a
    beam, and many sentences of which finished ones leave.
    """
    size, evaluation = len(corpus.vocabulary), experiment.evaluation
    model = build_model(experiment, size).to(device).eval()
    endless: Any = _Endless(model)
    process = Process(device=device, precision=experiment.training.precision)

    def contestant(
        phase: str,
        generate: Callable[[], object],
        amount: float,
        operations: float | None = None,
        unit: str = "target_tokens",
    ) -> Contestant:
        def work(_: int) -> float:
            begin = clock.mark()
            with process.autocast():
                generate()
            return clock.seconds(begin, clock.mark())

        units = f"{unit.rpartition('_')[2]}/s"
        return Contestant(name, phase, work, lambda _: amount, f"{unit}_per_second", units, operations)

    def greedily(sentences: int) -> Contestant:
        ((source, mask),) = _sources(corpus, sentences, sentences, device)
        return contestant(
            f"generate {GENERATED_WORDS} words, batch {len(source)}",
            partial(_cached, model, source, mask, GENERATED_WORDS),
            len(source) * GENERATED_WORDS,
            _generation_operations(experiment.model, size, source, GENERATED_WORDS),
        )

    batch = evaluation.batch_sentences
    ((source, mask),) = _sources(corpus, batch, batch, device)
    every = list(_sources(corpus, GENERATED_SENTENCES, batch, device))
    many = sum(len(source) for source, _ in every)

    def until_as_long_as_the_source() -> None:
        for source, mask in every:
            greedy(endless, source, mask, extra_length=0)

    together = greedily(batch)
    return [
        together,
        greedily(1),
        contestant(
            f"{together.phase}{WITHOUT_CACHE}",
            partial(_whole_prefix, model, source, mask, GENERATED_WORDS),
            len(source) * GENERATED_WORDS,
        ),
        contestant(
            f"generate to the longest length, batch {len(source)}, beam {GENERATION_BEAM}",
            partial(
                beam_search,
                endless,
                source,
                mask,
                beam=GENERATION_BEAM,
                alpha=evaluation.length_penalty,
                extra_length=evaluation.extra_length,
            ),
            int(mask.sum()) + len(source) * evaluation.extra_length,
        ),
        contestant(
            f"generate {many} sentences, each as long as its source, batch {len(source)}",
            until_as_long_as_the_source,
            many,
            unit="sentences",
        ),
    ]


def _generation_operations(
    config: ModelConfig, vocabulary_size: int, source: Tensor, words: int
) -> float | None:
    """Of greedy generation with a cache: those of one forward pass, whose decoder sees each prefix once."""
    try:
        return float(len(source) * config.theory(vocabulary_size, source.shape[1], words).operations)
    except NotImplementedError:
        return None


def _sources(
    corpus: Corpus, sentences: int, batch_sentences: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the first sentences of the validation split, those of about equal length together as where
    they are scored, each padded, with its mask.
    """
    split = corpus.splits["validation"]
    first = np.arange(min(sentences, len(split)), dtype=np.int32)
    ordered = first[np.argsort(split.source.lengths()[first], kind="stable")]
    for begin in range(0, len(ordered), batch_sentences):
        batch = batching.collate(split, ordered[begin : begin + batch_sentences], rank=0, world=1)
        yield batch.source.to(device), batch.source_mask.to(device)


@torch.inference_mode()
def _cached(model: Seq2SeqModel, source: Tensor, mask: Tensor, words: int) -> Tensor:
    """Greedy generation of exactly `words` words, (B, words)."""
    state = model.start(model.encode(source, mask))
    token = torch.full((len(source),), BEGIN, device=source.device)
    produced = []
    for _ in range(words):
        hidden, state = model.decode_step(token, state)
        token = model.logits(hidden).argmax(-1)
        produced.append(token)
    return torch.stack(produced, 1)


class _Endless(nn.Module):
    """A model that never ends a sentence, so that a search runs to its limit."""

    def __init__(self, model: Seq2SeqModel) -> None:
        super().__init__()
        self.encode, self.start, self.decode_step = model.encode, model.start, model.decode_step
        self._logits = model.logits

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self._logits(hidden)
        logits[..., END] = -torch.inf
        return logits


@torch.inference_mode()
def _whole_prefix(model: Seq2SeqModel, source: Tensor, mask: Tensor, words: int) -> Tensor:
    """The same without a cache: each word decodes the whole prefix again and projects its last position."""
    memory = model.encode(source, mask)
    prefix = torch.full((len(source), 1), BEGIN, device=source.device)
    for _ in range(words):
        token = model.logits(model.decode(prefix, memory)[:, -1]).argmax(-1)
        prefix = torch.cat((prefix, token[:, None]), 1)
    return prefix[:, 1:]


def _rows(
    contestants: Sequence[Contestant],
    times: dict[tuple[str, str], list[float]],
    experiments: dict[str, Experiment],
    rounds: TimedBatches,
    vocabulary_size: int,
) -> list[SpeedRow]:
    def row(one: Contestant, quantity: str, unit: str, interval: Interval, **conditions: Any) -> SpeedRow:
        return SpeedRow(
            model=one.model,
            phase=one.phase,
            quantity=quantity,
            value=interval.value,
            unit=unit,
            low=interval.low,
            high=interval.high,
            rounds=len(times[one.model, one.phase]),
            conditions=conditions,
        )

    rows = []
    for one in contestants:
        rates = [one.amount(number) / taken for number, taken in enumerate(times[one.model, one.phase])]
        rows.append(row(one, one.quantity, one.unit, median(rates)))
    products = next(one for one in contestants if one.phase == "peak")
    peak = products.amount(0) / min(times[products.model, products.phase])
    baseline = next(iter(experiments))
    for one in contestants:
        key = (one.model, one.phase)
        # A model of a user's may come without its closed form, and then without a limit.
        operations = (
            [rounds.operations(experiments[one.model], vocabulary_size, number) for number in range(ROUNDS)]
            if one.phase in ("train", CAPTURED)
            else [one.operations] * len(times[key])
        )
        limits = [count / peak for count in operations if count is not None]
        if limits:
            rows.append(row(one, "share_of_matrix_product_limit", "ratio", ratio(limits, times[key])))
        if one.phase == "train":
            if one.model != baseline:
                rows.append(
                    row(
                        one,
                        "speed_ratio",
                        "ratio",
                        ratio(times[baseline, "train"], times[key]),
                        baseline=baseline,
                    )
                )
            plain = times.get((one.model, "train plain form"))
            if plain is not None:
                rows.append(row(one, "speed_ratio", "ratio", ratio(plain, times[key]), baseline="plain form"))
        if one.phase == CAPTURED:
            if one.model != baseline and (baseline, CAPTURED) in times:
                against = ratio(times[baseline, CAPTURED], times[key])
                rows.append(row(one, "speed_ratio", "ratio", against, baseline=baseline))
            launched = ratio(times[one.model, "train"], times[key])
            rows.append(row(one, "speed_ratio", "ratio", launched, baseline="kernels launched one by one"))
        if one.phase == AGAIN:
            noise = ratio(times[one.model, "train"], times[key])
            rows.append(row(one, "noise_floor", "ratio", noise, baseline=f"{one.model}, itself"))
        whole = times.get((one.model, f"{one.phase}{WITHOUT_CACHE}"))
        if whole is not None:
            rows.append(
                row(
                    one,
                    "speed_ratio",
                    "ratio",
                    ratio(whole, times[key]),
                    baseline="whole prefix decoded again",
                )
            )
    return rows


def _overhead_rows(name: str, experiment: Experiment, options: RunOptions) -> list[SpeedRow]:
    """What the trainer costs at steps of two durations, as near as the size of the batch can bring them.

    Of the model itself, and of the same at test size where its optimiser alone takes longer than a step is to
    take.
    """

    def overhead(one: Experiment, batch_tokens: int, rounds: int, steps: int) -> Overhead:
        data = one.data.model_copy(update={"batch_tokens": batch_tokens})
        return trainer_overhead(replace(one, data=data), options, rounds=rounds, steps=steps)

    small, large = SMALLEST_BATCH, experiment.data.batch_tokens
    lines = []
    for size, one in (
        ("as compared", experiment),
        ("test size", replace(experiment, model=experiment.model.tiny())),
    ):
        # A step's time is a line: what each word costs, and the optimiser, which costs the same always.
        slow, fast = (overhead(one, tokens, 6, 5).step.value for tokens in (large, small))
        each = max((slow - fast) / max(large - small, 1), sys.float_info.min)
        lines.append((size, one, fast, each))
    rows = []
    for wanted in OVERHEAD_STEP_SECONDS:
        size, one, fast, each = next((line for line in lines if line[2] <= wanted), lines[-1])
        batch_tokens = min(max(small, round(small + (wanted - fast) / each)), 8 * large)
        found = overhead(one, batch_tokens, OVERHEAD_ROUNDS, OVERHEAD_STEPS)
        if not found.agrees:
            raise RuntimeError(f"{name}: the trainer and a plain loop disagree on the losses of equal steps")
        rows.append(
            SpeedRow(
                model=name,
                phase="train",
                quantity="trainer_speed_ratio",
                value=found.ratio.value,
                unit="ratio",
                low=found.ratio.low,
                high=found.ratio.high,
                rounds=OVERHEAD_ROUNDS,
                conditions={
                    "baseline": "plain loop",
                    "steps_of_a_round": OVERHEAD_STEPS,
                    "step_milliseconds": round(found.step.value * 1000, 1),
                    "size": size,
                    "batch_tokens": batch_tokens,
                    "equal_losses": found.equal_losses,
                },
            )
        )
    return rows


def _alike(some: Sequence[float], others: Sequence[float]) -> bool:
    """The losses of the first steps, which differences have had no time to grow in."""
    return np.allclose(some[:ALIKE_STEPS], others[:ALIKE_STEPS], rtol=CUDA_DIFFERENCE, atol=0)


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Training through the trainer beside the plain loop."""

    ratio: Interval
    """Speed of the trainer as a share of the loop's."""
    step: Interval
    """Seconds of a step of the loop."""
    equal_losses: bool
    """Bit for bit."""
    agrees: bool
    """The same; on CUDA, whose kernels add in no fixed order, within `CUDA_DIFFERENCE`."""


class Taken(NamedTuple):
    """What training took, in rounds of equally many steps."""

    seconds: list[float]
    tokens: list[int]
    """Of the target, END included and padding not."""
    losses: list[float]
    """Of every step, those of the warm-up too."""


class _Beside(Callback):
    """A plain loop that takes turns with the trainer, while all of the trainer's processes wait.

    Which of them is first changes from step to step (trainer, loop; loop, trainer; and again): whoever comes
    first to a batch of new lengths pays for what libraries then keep for it.
    """

    def __init__(self, loop: PlainLoop, batches: Iterable[Batch], clock: Clock) -> None:
        self._loop, self._batches, self._clock = loop, iter(batches), clock
        self._begin: Any = None
        self._of_trainer: list[tuple[Any, Any, int]] = []
        """Of each step when it began and ended, and how many target words it had."""
        self._of_loop: list[tuple[Any, Any, int]] = []
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._begin = self._clock.mark()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        trainer.strategy.barrier()  # nothing where there is one process
        if trainer.is_global_zero:
            self._of_trainer.append((self._begin, self._clock.mark(), batch.target_tokens))
            if len(self._of_trainer) % 2:  # this step, and the next one before the trainer's
                for _ in range(min(2, trainer.max_steps - len(self._of_loop))):
                    self._take()
        trainer.strategy.barrier()
        self._begin = self._clock.mark()

    def _take(self) -> None:
        begin = self._clock.mark()
        batch = next(self._batches)
        self._losses.append(self._loop.step(batch.to(self._loop.device)))
        self._of_loop.append((begin, self._clock.mark(), batch.target_tokens))

    def taken(self, losses: list[float], steps: int) -> tuple[Taken, Taken]:
        """By the trainer, whose `losses` are given, and by the loop, in rounds of so many steps."""

        def of(timed: list[tuple[Any, Any, int]], losses: list[float]) -> Taken:
            seconds = [self._clock.seconds(begin, end) for begin, end, _ in timed]
            return Taken(_by_round(seconds, steps), _by_round([words for *_, words in timed], steps), losses)

        return of(self._of_trainer, losses), of(self._of_loop, [loss.item() for loss in self._losses])


def _by_round(values: Sequence[Number], steps: int) -> list[Number]:
    """Sums over rounds, without the warm-up."""
    return [
        sum(values[start + 1 : start + steps], start=values[start])
        for start in range(WARMUP_STEPS, len(values), steps)
    ]


def side_by_side(
    experiment: Experiment,
    options: RunOptions,
    *,
    rounds: int,
    steps: int,
    batch_tokens: int | None = None,
) -> tuple[Taken, Taken]:
    """The trainer on `options.devices` beside the plain loop on one, in so many rounds of so many steps.

    Both train the same model from the same start, on the same batches unless the trainer's are to hold other
    `batch_tokens`. They take turns at every step, so that what the machine does meanwhile slows both;
    start-up and the steps of the warm-up are left out. Of several processes the first has the result.
    """
    quiet()
    device = use_device(options.device, threads_of(options))
    _, corpus = corpus_of(experiment, options.data_directory, options.cache_directory)
    training = experiment.training.model_copy(update={"steps": WARMUP_STEPS + rounds * steps})
    experiment = replace(experiment, training=training)

    def data(batch_tokens: int) -> DataModule:
        """One for each: a data module that a trainer uses goes on where that one is."""
        return DataModule(corpus, batch_tokens=batch_tokens, seed=experiment.seed)

    clock = Clock(device)
    loop = PlainLoop(experiment, build_model(experiment, len(corpus.vocabulary)), device, fused=True)
    own_tokens = experiment.data.batch_tokens
    beside, log = _Beside(loop, data(own_tokens).train_dataloader(), clock), StepLog(clock)
    module = Seq2SeqModule(build_model(experiment, len(corpus.vocabulary)), training, experiment.seed)
    trainer = make_trainer(
        experiment,
        device,
        devices=options.devices,
        callbacks=[beside, log],  # in this order: what another callback does after a step is the trainer's
        logger=None,
        folder=options.results,
    )
    trainer.fit(module, datamodule=data(batch_tokens or own_tokens))
    log.flush(trainer)
    wait_for_ranks(trainer)
    return beside.taken(log.losses, steps)


def trainer_overhead(experiment: Experiment, options: RunOptions, *, rounds: int, steps: int) -> Overhead:
    """Time the trainer against the plain loop, as `side_by_side` does."""
    trainer, loop = side_by_side(experiment, options, rounds=rounds, steps=steps)
    equal = trainer.losses == loop.losses
    on_cuda = choose_device(options.device).type == "cuda"
    return Overhead(
        ratio=ratio(loop.seconds, trainer.seconds),
        step=median([seconds / steps for seconds in loop.seconds]),
        equal_losses=equal,
        agrees=equal or (on_cuda and _alike(trainer.losses, loop.losses)),
    )
