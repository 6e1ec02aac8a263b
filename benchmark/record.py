"""Records: what was measured, in typed fields with units in their names, and None where it was not measured.

A record is written once and never edited. Its file is JSON, and its second line is a checksum of all bytes
after it; reading trusts nothing: a file that is cut off, changed, of another version or of wrong types is an
`UnreadableRecord` that says why. In files of version 1 the checksum is of the canonical JSON of the rest.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from benchmark.config import HARNESS_VERSION, ROOT, RunOptions, UserError, canonical_json, explained, shown
from benchmark.measure.machine import container_cores, container_memory_bytes

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 2
"""Raised when a field is renamed, removed or means something else; readers refuse what is newer."""

ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "GLIBC_TUNABLES",
    "MALLOC_ARENA_MAX",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "PYTORCH_CUDA_ALLOC_CONF",
    "THP_MEM_ALLOC_ENABLE",
)
"""The variables that change speed or rounding. No other is ever stored: an environment holds secrets."""

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
_MAXIMUM_RECORD_BYTES = 256 * 2**20


class UnreadableRecord(UserError):
    """A file that is no record of this version, with its name and the reason."""


class UntouchableRecord(UnreadableRecord):
    """One that may be whole: of a newer version, or on a disk that does not give it. It is not made again."""


_RULES = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class _Record(BaseModel):
    model_config = ConfigDict(**_RULES, frozen=True)


class Provenance(_Record):
    """Where numbers come from, taken by code. Neither host name, user nor paths are kept."""

    commit: str
    """Of seqbench; "unknown" outside a checkout."""
    dirty: bool | None
    """Whether the code differed from `commit`; None where that is unknown."""
    seqbench_version: str
    harness_version: int
    device: str
    """Name of the accelerator, or the model of the processor."""
    device_memory_bytes: int | None
    """Of the accelerator."""
    devices: int
    """Processes that shared the global batch."""
    processor: str
    processor_features: list[str]
    """Those of the instruction sets that decide speed and rounding."""
    cores: int
    """That this process may run on."""
    threads: int
    """That it computed with, per process."""
    memory_bytes: int | None
    """Of the machine, or what the container may use of it."""
    platform: str
    precision: Literal["float32", "bfloat16"]
    python_version: str
    torch_version: str
    lightning_version: str
    numpy_version: str
    sacrebleu_version: str
    sentencepiece_version: str
    environment: dict[str, str]
    """The variables of `ENVIRONMENT` that were set."""

    @property
    def device_class(self) -> Literal["cpu", "cuda"]:
        """What `--device` calls it."""
        return "cpu" if self.device_memory_bytes is None else "cuda"


@pydantic_dataclass(frozen=True, slots=True, kw_only=True, config=_RULES)
class Score:
    """One metric on one split; the value never travels without its signature."""

    split: str
    metric: str
    value: float
    signature: str
    sentences: int


class CurvePoint(_Record):
    """What one validation measured."""

    step: int
    train_seconds: float
    """Training steps until then."""
    train_target_tokens: int
    validation_loss: float | None
    """Nats per target token, without label smoothing."""
    scores: list[Score] = []
    """Of greedy output."""
    generated_sentences: int | None = None
    generate_seconds: float | None = None
    """What generating them greedily took, on all processes together."""


class TrainRecord(_Record):
    """One training run and what it scored."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["train"] = "train"

    run_id: str
    study: str
    model_preset: str
    """What reports call the model: its preset, else its name."""
    model_name: str
    model_version: int
    task_preset: str
    task_name: str
    task_version: int
    task_fingerprint: str = ""
    """Of the files that the data come from; empty where the config says all."""
    seed: int
    experiment: dict[str, JsonValue]
    """The resolved experiment, whose hash is `run_id`."""
    provenance: Provenance
    finished_at: str | None = None
    """UTC, ISO 8601; a label, no measurement."""

    status: Literal["done", "failed", "diverged"]
    failure: str | None = None
    """Why the run failed or diverged, in one line."""
    diverged_step: int | None = None
    """The step whose loss was not finite."""
    last_finite_loss: float | None = None

    parameters: int | None = None
    body_parameters: int | None = None
    """Without matrices that have a row for each word; what a match of parameters holds equal."""
    vocabulary_parameters: int | None = None
    vocabulary_size: int | None = None
    operations_per_step: float | None = None
    """Mean over steps, forward and backward, padding and output projection included; 2 per multiply-add."""

    training_pairs: int | None = None
    pairs_dropped_empty: int | None = None
    """Training pairs with an empty side."""
    pairs_dropped_long: int | None = None
    """Training pairs with a side longer than `data.maximum_tokens`."""
    sources_truncated: int | None = None
    """Sources at evaluation that were cut at `data.maximum_tokens`."""
    targets_truncated: int | None = None
    """Validation targets that were cut there: the loss is of what is left. Scores are of the whole text."""

    steps: int | None = None
    """Optimiser steps taken."""
    train_seconds: float | None = None
    """Sum over training steps; validation, checkpoints and start-up are outside."""
    energy_joules: float | None = None
    """Of the same steps: drawn by the GPU, else by all packages of the processor. None where the device does
    not count it, for runs on several devices, and for those that share theirs: another process computes on
    the GPU, or cores are left to others.
    """
    wall_seconds_total: float | None = None
    """From start to end of the run, over all its resumptions."""
    train_target_tokens: int | None = None
    """Without padding, summed over steps."""
    train_source_tokens: int | None = None
    train_padded_tokens: int | None = None
    """Positions of source and target, padding included."""
    train_sentences: int | None = None
    train_target_tokens_per_second: float | None = None
    """Without padding, as run: median over steady-state windows."""
    train_target_tokens_per_second_p10: float | None = None
    train_target_tokens_per_second_p90: float | None = None
    train_source_and_target_tokens_per_second: float | None = None
    train_padded_tokens_per_second: float | None = None
    """Source and target, padding included."""
    train_sentences_per_second: float | None = None
    updates_per_second: float | None = None
    padding_share: float | None = None
    """Of all positions of source and target in the batches."""
    step_seconds_median: float | None = None
    step_seconds_p10: float | None = None
    step_seconds_p90: float | None = None
    steady_state: bool | None = None
    """Whether step times settled; None where there were too few to tell."""
    warmup_steps_excluded: int | None = None
    generate_sentences_per_second: float | None = None
    """As run, at `evaluation.batch_sentences`, over the test splits."""
    generate_target_tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    """Of the accelerator, else of the process (resident set)."""
    timing_method: str | None = None
    """Timer, synchronisation and summary behind the figures above."""

    validation_loss: float | None = None
    """Of what is scored (the averaged weights): nats per target token, without label smoothing."""
    validation_loss_best: float | None = None
    """Lowest of the validations during training."""
    validation_loss_last: float | None = None
    validation_perplexity_per_token: float | None = None
    """Per subword, or per symbol."""
    validation_perplexity_per_word: float | None = None
    """Per word of the raw reference between blanks; None where a target was cut, whose other words have no
    loss.
    """
    curve: list[CurvePoint] = []
    scores: list[Score] = []
    """Of the weights that are kept, on every split that was scored; test splits once."""
    checkpoints_averaged: int | None = None
    validations_done: int | None = None
    stopped_early: bool | None = None

    batch_stream_sha256: str | None = None
    """Of the pairs' indices in the order of training: equal for all architectures with one task, seed and
    batch.
    """
    loss_curve_sha256: str | None = None
    """Of the float32 loss of every step."""
    weights_sha256: str | None = None
    """Of the weights that are scored."""
    hypotheses_sha256: dict[str, str] = {}
    """By split: of the output's lines, each ended by a line feed, in UTF-8."""

    bitwise: bool | None = None
    """Whether the run again on the same processor, threads and versions gives the same bits."""
    not_bitwise_because: str | None = None
    resumed_times: int = 0
    wandb_mode: Literal["online", "offline", "disabled"] | None = None


CAPTURED = "train captured"
"""A phase of speed records, on CUDA: steps as graphs, which leave out the time that a program takes to launch
kernels.
"""


class SpeedRow(_Record):
    """One quantity of one model, or of a ratio of two, with its interval."""

    model: str
    phase: str
    """`train`, `generate_greedy`, `generate_beam`, ..."""
    quantity: str
    value: float
    unit: str
    low: float | None = None
    """Ends of the 95 % interval over rounds."""
    high: float | None = None
    rounds: int | None = None
    conditions: dict[str, JsonValue] = {}


class SpeedRecord(_Record):
    """Models timed in interleaved, shuffled rounds in one process: what may be compared as speed."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["speed"] = "speed"
    run_id: str
    study: str
    task_preset: str
    task_name: str
    task_version: int
    status: Literal["done", "failed"]
    failure: str | None = None
    provenance: Provenance
    finished_at: str | None = None
    experiments: dict[str, dict[str, JsonValue]] = {}
    """By the models' names in `rows`."""
    rows: list[SpeedRow] = []
    timing_method: str | None = None
    noisy: bool | None = None
    """Whether other load or throttling was seen on the machine; None where nothing tells."""
    noise: list[str] = []
    """What was seen, in plain words."""


class Row(_Record):
    """One value of a curve, a grid or a matrix."""

    quantity: str
    value: float
    unit: str
    low: float | None = None
    """Ends of the 95 % interval."""
    high: float | None = None
    samples: list[float] = []
    """What the value was summarised from, in the order of the rounds."""
    conditions: dict[str, JsonValue] = {}


LayerKind = Literal[
    "span", "path", "signal", "complexity", "time", "utilisation", "scaling", "lengths", "attention"
]


class LayerRecord(_Record):
    """What was measured of layers, and of models outside of their training."""

    schema_version: int = SCHEMA_VERSION
    kind: LayerKind
    run_id: str
    study: str
    subject: str
    """What was measured, as reports call it."""
    settings: dict[str, JsonValue] = {}
    """What the measurement was asked for; with kind and subject it makes the run's id."""
    status: Literal["done", "failed"]
    failure: str | None = None
    provenance: Provenance
    finished_at: str | None = None
    rows: list[Row] = []
    timing_method: str | None = None
    noisy: bool | None = None
    """As in `SpeedRecord`."""
    noise: list[str] = []


Record = TrainRecord | SpeedRecord | LayerRecord
_KINDS: dict[str, type[Record]] = {
    "train": TrainRecord,
    "speed": SpeedRecord,
    **dict.fromkeys(get_args(LayerKind), LayerRecord),
}


_CHECKSUM = b'{\n "checksum_sha256": "%s",\n'
_CHECKSUM_BYTES = len(_CHECKSUM % bytes(64))
_BEGIN = re.compile(rb' "schema_version": ([0-9]+),\n "kind": "([a-z]+)",\n')


def record_bytes(record: Record) -> bytes:
    """The record's file."""
    document = {**record.model_dump(mode="json"), "schema_version": SCHEMA_VERSION}
    text = json.dumps(document, indent=1, ensure_ascii=True, allow_nan=False) + "\n"
    rest = text.encode()[len("{\n") :]
    return _CHECKSUM % hashlib.sha256(rest).hexdigest().encode() + rest


def record_from_bytes(data: bytes, name: str, shared: Shared | None = None) -> Record:
    """The record in a file's content; `name` is what errors call the file.

    With `shared` it comes without its curve, and what it has in common with others is one object.

    Raises:
        UnreadableRecord: not a whole, unchanged record of a version that is known here.
    """
    rest = data[_CHECKSUM_BYTES:]
    if data[:_CHECKSUM_BYTES] == _CHECKSUM % hashlib.sha256(rest).hexdigest().encode():
        begin = _BEGIN.match(rest)
        if begin is not None and int(begin[1]) == SCHEMA_VERSION and (kind := begin[2].decode()) in _KINDS:
            text = b"{\n" + rest
            return _validated(kind, text, name) if shared is None else shared.record(kind, text, name)
    document = _document(data, name)
    # Of the present version, and its checksum does not hold; or of an older one.
    checksum = document.pop("checksum_sha256", None)
    if document["schema_version"] == 1 and checksum == _checksum_of_version_1(document, name):
        if shared is not None:
            document.pop("curve", None)
        return _validated(document["kind"], json.dumps(document).encode(), name)
    raise UnreadableRecord(f"{name}: its checksum does not hold: the file was changed or damaged")


def _validated(kind: str, data: bytes, name: str) -> Record:
    try:
        return _KINDS[kind].model_validate_json(data)
    except ValidationError as error:
        raise UnreadableRecord(f"{name}: {explained(error, '', _KINDS[kind])}") from None


def _document(data: bytes, name: str) -> dict[str, Any]:
    """JSON of a known version and kind."""
    document = _json(data, name)
    if not isinstance(document, dict):
        raise UnreadableRecord(f"{name}: not a record: holds {shown(document)}")
    version, kind = document.get("schema_version"), document.get("kind")
    if type(version) is not int or version < 1:
        raise UnreadableRecord(f"{name}: not a record: its schema_version is {shown(version)}")
    if version > SCHEMA_VERSION:
        raise UntouchableRecord(
            f"{name}: has schema version {shown(version)}, and this seqbench reads up to {SCHEMA_VERSION}; "
            "a newer seqbench reads it"
        )
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnreadableRecord(f"{name}: is of kind {shown(kind)}; known are {', '.join(_KINDS)}")
    return document


def _json(data: bytes, name: str) -> Any:
    try:
        return json.loads(data.decode(), parse_constant=refused_constant, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"{name}: not a record: {_reason(error)}") from None


def read_record(path: str | Path, shared: Shared | None = None) -> Record:
    """The record in a file; as `record_from_bytes`, with its errors, also where the file cannot be read."""
    try:
        # A buffer would take memory for the most that is read, however small the file.
        with open(path, "rb", buffering=0) as file:
            large = os.fstat(file.fileno()).st_size > _MAXIMUM_RECORD_BYTES
            data = b"" if large else file.readall()
    except OSError as error:
        raise UntouchableRecord(f"{path}: cannot be read: {error.strerror}") from None
    if large:
        raise UnreadableRecord(f"{path}: larger than {_MAXIMUM_RECORD_BYTES // 2**20} MiB; no record is")
    return record_from_bytes(data, str(path), shared)


class Shared:
    """Reads very many records fast, and makes them fit into memory: without their curves, which are most of
    them, and what they have in common once.

    Fields are found in the text as `record_bytes` lays it out: no string of JSON holds a line end, and what
    is inside a field is further right.
    """

    def __init__(self) -> None:
        self._experiments: dict[tuple[bytes, bytes], dict[str, JsonValue]] = {}
        self._provenances: dict[bytes, Provenance] = {}
        self._fields: dict[type[Record], set[str]] = {}

    def record(self, kind: str, text: bytes, name: str) -> Record:
        """The record in a file's text; errors as `record_from_bytes`."""
        text, _ = _cut_out(text, b'\n "curve": [\n', b"\n ],", b'\n "curve": [],')
        text, experiment = _cut_out(text, b'\n "experiment": {\n', b"\n },", b'\n "experiment": {},')
        _, provenance = _cut_out(text, b'\n "provenance": {\n', b"\n },")
        record = _validated(kind, text, name)
        fields = vars(record)
        if experiment:
            fields["experiment"] = self._experiment(experiment, name)
        fields["provenance"] = self._provenances.setdefault(provenance, record.provenance)
        every = self._fields.setdefault(type(record), set(type(record).model_fields))
        # Pydantic keeps the names of the fields that were given, for each record anew.
        object.__setattr__(record, "__pydantic_fields_set__", every)
        return record

    def _experiment(self, text: bytes, name: str) -> dict[str, JsonValue]:
        """From the field's text; its sections are shared with experiments that differ in the seed alone."""
        seed = _SEED.search(text)
        if seed is None:
            return _experiment(text, name)
        key = text[: seed.start()], text[seed.end() :]
        if key not in self._experiments:
            self._experiments[key] = _experiment(text, name)
        return {**self._experiments[key], "seed": int(seed[1])}


_SEED = re.compile(rb'\n  "seed": ([0-9]+)(?=[,\n])')


def _experiment(text: bytes, name: str) -> dict[str, JsonValue]:
    experiment: dict[str, JsonValue] = _json(b"{" + text.strip().rstrip(b",") + b"}", name)["experiment"]
    return experiment


def _cut_out(text: bytes, begin: bytes, end: bytes, instead: bytes = b"") -> tuple[bytes, bytes]:
    """`text` without the first part from `begin` to `end`, and that part; it is empty where there is none."""
    first = text.find(begin)
    last = text.find(end, first)
    if first < 0 or last < 0:
        return text, b""
    last += len(end)
    return text[:first] + instead + text[last:], text[first:last]


def _checksum_of_version_1(document: dict[str, Any], name: str) -> str:
    try:
        return hashlib.sha256(canonical_json(document).encode()).hexdigest()
    except (ValueError, RecursionError) as error:
        raise UnreadableRecord(f"{name}: not a record: {_reason(error)}") from None


def refused_constant(constant: str) -> None:
    """NaN and infinity are no JSON."""
    raise ValueError(f"{constant} is no number of a record")


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose every field is given once."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a field is given twice")
    return result


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start}"
    return str(error)


def take_provenance(
    *, device: torch.device, precision: Literal["float32", "bfloat16"], devices: int = 1
) -> Provenance:
    """What this process computes with; call it once threads are set."""
    import torch

    model, features = processor()
    on_cuda = device.type == "cuda"
    commit, dirty = _commit()
    return Provenance(
        commit=commit,
        dirty=dirty,
        seqbench_version=_version("seqbench"),
        harness_version=HARNESS_VERSION,
        device=device_name(device),
        device_memory_bytes=torch.cuda.get_device_properties(device).total_memory if on_cuda else None,
        devices=devices,
        processor=model,
        processor_features=features,
        cores=available_cores(),
        threads=torch.get_num_threads(),
        memory_bytes=memory_bytes(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        precision=precision,
        python_version=platform.python_version(),
        torch_version=torch.__version__,
        lightning_version=_version("pytorch-lightning"),
        numpy_version=_version("numpy"),
        sacrebleu_version=_version("sacrebleu"),
        sentencepiece_version=_version("sentencepiece"),
        environment={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    )


def device_name(device: torch.device) -> str:
    """Of the accelerator, or the model of the processor."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    return processor()[0]


def available_cores() -> int:
    """Cores that this process may use: the smaller of its affinity and its container's quota, at least 1.

    torch takes the host's cores instead, and more threads than cores cost a multiple of the time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_cores()
    return max(1, cores if quota is None else min(cores, int(quota)))


def threads_of(options: RunOptions) -> int:
    """CPU threads of one process of a run: what was asked for, else its share of the cores."""
    return options.threads or max(1, available_cores() // options.devices)


@functools.cache
def _commit() -> tuple[str, bool | None]:
    if not (ROOT / ".git").exists():  # an installed copy may lie inside somebody else's repository
        return "unknown", None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=30,
            encoding="utf-8",
            errors="replace",
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--verify", "HEAD")
        return commit, git("status", "--porcelain", "--", "models", "tasks", "benchmark", "configs") != ""
    except (OSError, subprocess.SubprocessError):
        return "unknown", None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(2**20)
    except OSError:
        return ""


def processor() -> tuple[str, list[str]]:
    """Its model, and those of its instruction sets that decide speed and rounding."""
    fields: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").split("\n"):
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    model = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    return model, [feature for feature in _FEATURES if feature in flags]


def memory_bytes() -> int | None:
    """Of the machine, or what the container may use of it."""
    sizes = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = container_memory_bytes()
    if limit is not None:
        sizes.append(limit)
    return min(sizes) if sizes else None
