"""What every comparison relies on: the rules of `models/__init__.py`, each as a check.

Models are checked in float64, where a difference above `TOLERANCE` is no rounding, and in evaluation mode
unless the rule speaks of training. Letters in shapes: B batch, S source, T target, D width, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from benchmark.check import CheckFailed, NotApplicable
from benchmark.check.hooks import Hooks, called
from benchmark.decoding import NEVER_PRODUCED, Hypothesis, beam_search, greedy
from models import BEGIN, END, PADDING, ModelConfig, Seq2SeqModel, Theory

TOLERANCE = 1e-5
"""Relative and absolute; float32 inside a float64 model is allowed for."""
TINY_PARAMETERS = 200_000
"""Most parameters of a model of test size at `VOCABULARY_SIZE`."""
VOCABULARY_SIZE = 61
EXTRA_LENGTH = 5


@dataclass(frozen=True)
class ModelUnderCheck:
    """A configuration, and models made of it."""

    name: str
    """What messages call it."""
    config: ModelConfig

    def hooks(self, *, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Hooks:
        """A model in evaluation mode, behind checked hooks."""
        torch.manual_seed(seed)
        with torch.device(device):
            model = called("build", self.config.build, VOCABULARY_SIZE)
        if not isinstance(model, Seq2SeqModel):
            raise CheckFailed(f"build: expected a models.Seq2SeqModel, got {type(model).__name__}")
        return Hooks(model.to(dtype).eval(), VOCABULARY_SIZE)


def at_test_size(config: ModelConfig) -> ModelConfig:
    """`config.tiny()` with dropout on, so that training mode is checked as well."""
    on = {
        name: max(getattr(config, name), 0.1)
        for name, field in type(config).model_fields.items()
        if "dropout" in name and field.annotation is float
    }
    return config.tiny().model_copy(update=on)


def variants(config: ModelConfig) -> Iterator[tuple[str, ModelConfig]]:
    """What changed, and `config` with it: each other value of every `Literal` and `bool` field.

    Combinations that the config refuses are left out.
    """
    for name, field in type(config).model_fields.items():
        now = getattr(config, name)
        values: Sequence[Any] = ()
        if field.annotation is bool:
            values = (True, False)
        elif get_origin(field.annotation) is Literal:
            values = get_args(field.annotation)
        for value in values:
            if value != now:
                try:
                    yield f"{name}={value}", type(config).model_validate(config.model_dump() | {name: value})
                except ValidationError:
                    continue


class Pairs(NamedTuple):
    """A batch of sentence pairs."""

    source: Tensor
    """(B, S) int64, each ends with END, padded at the right."""
    source_mask: Tensor
    target_in: Tensor
    """(B, T) int64, begins with BEGIN."""
    target_out: Tensor

    def to(self, device: torch.device) -> Pairs:
        return Pairs(*(part.to(device) for part in self))

    def select(self, rows: Sequence[int], *, source_padding: int = 0, target_padding: int = 0) -> Pairs:
        """These rows, cut to their longest or with `*_padding` columns more than that."""
        picked = Pairs(*(part[list(rows)] for part in self))
        source_length = int(picked.source_mask.sum(1).max())
        target_length = int((picked.target_out != PADDING).sum(1).max())
        lengths = (source_length, source_length, target_length, target_length)
        columns = (source_padding, source_padding, target_padding, target_padding)
        return Pairs(
            *(
                F.pad(part[:, :length], (0, more))
                for part, length, more in zip(picked, lengths, columns, strict=True)
            )
        )


def random_pairs(seed: int, *, sentences: int = 4, longest: int = 8) -> Pairs:
    """Random words at random lengths; on each side one sentence of one token and one of `longest`."""
    random = torch.Generator().manual_seed(seed)

    def side() -> list[Tensor]:
        lengths = torch.randint(1, longest + 1, (sentences,), generator=random)
        lengths[:2] = torch.tensor([1, longest])
        lengths = lengths[torch.randperm(sentences, generator=random)]
        words = [torch.randint(END + 1, VOCABULARY_SIZE, (int(n) - 1,), generator=random) for n in lengths]
        return [torch.cat((sentence, torch.tensor([END]))) for sentence in words]

    def padded(sentences: list[Tensor]) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=PADDING)

    source, target_out = padded(side()), padded(target := side())
    target_in = padded([torch.cat((torch.tensor([BEGIN]), sentence[:-1])) for sentence in target])
    return Pairs(source, source != PADDING, target_in, target_out)


def _other_words(words: Tensor) -> Tensor:
    """Any words, special ones and padding among them, different from `words` everywhere."""
    return (words + torch.randint(1, VOCABULARY_SIZE, words.shape)) % VOCABULARY_SIZE


def _require_close(hook: str, got: Tensor, expected: Tensor, what: str) -> None:
    if not torch.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE):
        difference = float((got - expected).abs().max())
        raise CheckFailed(
            f"{hook}: {what}: expected a difference of at most {TOLERANCE}, got {difference:.2g}"
        )


# The checks


def the_config_has_defaults_and_a_test_size(subject: ModelUnderCheck) -> str:
    """`Config()` needs no arguments; `tiny()` keeps every option and is small; `version` is an integer."""
    config, small = subject.config, called("tiny", subject.config.tiny)
    kind = type(config)
    called(f"{kind.__name__}()", kind)
    if type(kind.version) is not int:
        raise CheckFailed(f"Config.version: expected an integer, got {type(kind.version).__name__}")
    if type(small) is not kind:
        raise CheckFailed(f"tiny: expected a {kind.__name__}, got {type(small).__name__}")
    for name, field in kind.model_fields.items():
        is_option = field.annotation is bool or get_origin(field.annotation) is Literal
        if is_option and getattr(small, name) != getattr(config, name):
            raise CheckFailed(
                f"tiny: expected the same {name}, {getattr(config, name)!r}, got {getattr(small, name)!r}"
            )
    called("Config", kind.model_validate, small.model_dump())
    parameters = sum(p.numel() for p in called("build", small.build, VOCABULARY_SIZE).parameters())
    if parameters > TINY_PARAMETERS:
        raise CheckFailed(f"tiny: expected at most {TINY_PARAMETERS:,} parameters, got {parameters:,}")
    return ""


@torch.no_grad()
def the_hooks_answer_in_the_right_form(subject: ModelUnderCheck) -> str:
    """Every hook gives the type, shape, dtype and device that the contract says, and finite numbers."""
    for dtype in (torch.float64, torch.float32):
        hooks = subject.hooks(dtype=dtype)
        for seed in range(2):
            pairs = random_pairs(seed, sentences=2 + seed)
            _call_all_hooks(hooks, pairs)
            _call_all_hooks(hooks, pairs.select([0]))
    device = "cuda" if torch.cuda.is_available() else "meta"
    try:
        hooks = subject.hooks(dtype=torch.float32, device=device)
        _call_all_hooks(hooks, random_pairs(0, sentences=2, longest=2).to(hooks.device))
    except CheckFailed as failure:
        cause = failure.__cause__
        # A model may look at values, which the device that has none cannot give.
        valueless = isinstance(cause, NotImplementedError) or (
            cause is not None and "meta tensors" in str(cause)
        )
        if device != "meta" or not valueless:
            raise
        return "tensors made on the wrong device could not be looked for here"
    return ""


def _call_all_hooks(hooks: Hooks, pairs: Pairs) -> None:
    memory = hooks.encode(pairs.source, pairs.source_mask)
    hidden = hooks.decode(pairs.target_in, memory)
    hooks.logits(hidden)
    hooks.logits(hidden[:, 0])
    if hooks.device.type != "meta":
        hooks.cross_entropy(hidden, pairs.target_out, 0.1)
    state = hooks.start(memory)
    for token in pairs.target_in.unbind(1):
        step, state = hooks.decode_step(token, state)
        hooks.logits(step)


@torch.no_grad()
def no_target_position_sees_its_future(subject: ModelUnderCheck) -> str:
    """Logits before target word t stay exactly the same when the words from t on and all mates are changed.

    In training mode, with equal random numbers, all targets are changed from t on, and nothing else.
    """
    hooks = subject.hooks()
    pairs = random_pairs(0, sentences=4)
    sentences, length = pairs.target_in.shape

    def logits(source: Tensor, target_in: Tensor) -> Tensor:
        torch.manual_seed(1)
        return hooks.logits(hooks.decode(target_in, hooks.encode(source, pairs.source_mask)))

    for training in (False, True):
        hooks.model.train(training)
        before = logits(pairs.source, pairs.target_in)
        if not torch.equal(before, logits(pairs.source, pairs.target_in)):
            raise CheckFailed(
                "decode: expected equal logits for equal input and torch.manual_seed, got different ones"
            )
        for position in range(1, length):
            target_in = pairs.target_in.clone()
            target_in[:, position:] = _other_words(target_in[:, position:])
            _require_unchanged(before, logits(pairs.source, target_in), range(sentences), position, training)
            if training:
                continue
            row = position % sentences
            others = torch.arange(sentences) != row
            source = torch.where(
                others[:, None] & pairs.source_mask, _other_words(pairs.source), pairs.source
            )
            target_in[others] = _other_words(target_in[others])
            _require_unchanged(before, logits(source, target_in), [row], position, training)
    return ""


def _require_unchanged(
    before: Tensor, after: Tensor, rows: Sequence[int], position: int, training: bool
) -> None:
    for row in rows:
        difference = (before[row, :position] - after[row, :position]).abs().amax(-1)
        if difference.any():
            first = int(difference.nonzero()[0])
            mode = "training" if training else "evaluation"
            raise CheckFailed(
                f"decode: position {first} sees its future in {mode} mode: expected equal logits when the "
                f"words from position {position} on are others, got a difference of "
                f"{float(difference.max()):.2g}"
            )


class _Probes(TorchFunctionMode):
    """Adds zeros to the vectors of target words when they are looked up, to ask for gradients there."""

    LOOKUPS = (F.embedding, torch.embedding, torch.index_select, Tensor.index_select, Tensor.__getitem__)

    def __init__(self, words: Tensor) -> None:
        """`words` (B, T), each in one column only: a word that is looked up says where it stands."""
        super().__init__()
        self.position_of = torch.full((VOCABULARY_SIZE,), -1)
        self.position_of[words] = torch.arange(words.shape[1]).expand_as(words)
        self.probes: list[tuple[Tensor, Tensor]] = []
        """Zeros (N, D) that were added, and the target position (N,) of each row."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function not in self.LOOKUPS or not isinstance(result, Tensor) or not result.requires_grad:
            return result
        for index in (*args, *(kwargs or {}).values()):
            if isinstance(index, Tensor) and index.dtype == torch.int64:
                in_vocabulary = (
                    index.numel() > 0 and 0 <= int(index.min()) <= int(index.max()) < VOCABULARY_SIZE
                )
                if in_vocabulary and (self.position_of[index] >= 0).all():
                    probe = result.new_zeros(index.numel(), result.shape[-1]).requires_grad_()
                    self.probes.append((probe, self.position_of[index].flatten()))
                    return result + probe.view(result.shape)
        return result


def no_gradient_reaches_the_future(subject: ModelUnderCheck) -> str:
    """The logits at target position t have a gradient of exactly 0 at every word after t."""
    hooks = subject.hooks()
    pairs = random_pairs(1, sentences=3)
    memory = hooks.encode(pairs.source, pairs.source_mask)
    # Words beyond 16, so that no number of a position can be taken for one.
    target_in = (16 + torch.randperm(VOCABULARY_SIZE - 16)[:24]).view(3, 8)
    target_in[:, 0] = BEGIN
    with _Probes(target_in) as seen:
        logits = hooks.logits(hooks.decode(target_in, memory))
    if not seen.probes:
        return "no lookup of the target's words was seen, so its gradient could not be looked at"
    weights = torch.randn_like(logits)
    probes = [probe for probe, _ in seen.probes]
    for position in range(logits.shape[1]):
        score = (logits[:, position] * weights[:, position]).sum()
        gradients = torch.autograd.grad(
            score, probes, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for gradient, (_, positions) in zip(gradients, seen.probes, strict=True):
            ahead = gradient.abs().sum(-1) * (positions > position)
            if ahead.any():
                word = int(positions[ahead.argmax()])
                raise CheckFailed(
                    f"decode: position {position} sees its future: expected no gradient at word {word}, "
                    f"got {float(ahead.max()):.2g}"
                )
    return ""


@torch.no_grad()
def the_next_word_depends_on_the_last_one_and_on_the_source(subject: ModelUnderCheck) -> str:
    """Logits change with the word just produced and with the source: nothing is shifted out of sight."""
    hooks = subject.hooks()
    pairs = random_pairs(2, sentences=3)
    memory = hooks.encode(pairs.source, pairs.source_mask)
    before = hooks.logits(hooks.decode(pairs.target_in, memory))
    for position in range(pairs.target_in.shape[1]):
        target_in = pairs.target_in.clone()
        target_in[:, position] = END + 1 + (target_in[:, position] % (VOCABULARY_SIZE - END - 2))
        after = hooks.logits(hooks.decode(target_in, memory))
        if torch.equal(before[:, position], after[:, position]):
            raise CheckFailed(
                f"decode: expected the logits at position {position} to depend on target_in[:, {position}], "
                f"got no change"
            )
    source = torch.where(pairs.source_mask, _other_words(pairs.source), pairs.source)
    after = hooks.logits(hooks.decode(pairs.target_in, hooks.encode(source, pairs.source_mask)))
    if torch.equal(before, after):
        raise CheckFailed("decode: expected the logits to depend on the source, got no change")
    return ""


@torch.no_grad()
def cached_decoding_equals_teacher_forcing(subject: ModelUnderCheck) -> str:
    """A chain of `decode_step` gives what `decode` gives, at every position."""
    hooks = subject.hooks()
    for seed in range(3):
        pairs = random_pairs(seed, sentences=2 + seed, longest=8 if seed else 17)
        memory = hooks.encode(pairs.source, pairs.source_mask)
        expected = hooks.decode(pairs.target_in, memory)
        state = hooks.start(memory)
        for position, token in enumerate(pairs.target_in.unbind(1)):
            hidden, state = hooks.decode_step(token, state)
            _require_close(
                "decode_step", hidden, expected[:, position], f"differs from decode at position {position}"
            )
    return ""


@torch.no_grad()
def a_state_survives_selection(subject: ModelUnderCheck) -> str:
    """`State.select` reorders, repeats and drops sentences at any step, and its copies share no storage."""
    hooks = subject.hooks()
    pairs = random_pairs(3, sentences=4)
    memory = hooks.encode(pairs.source, pairs.source_mask)
    state, rows = hooks.start(memory), torch.arange(4)
    history = torch.empty(4, 0, dtype=torch.int64)
    for picked in ([3, 3, 0, 1, 2], [4, 2, 2, 0], [1, 0], [1], [0, 0, 0]):
        index = torch.tensor(picked)
        copies = [called("State.select", state.select, index) for _ in range(2)]
        rows, history = rows[index], history[index]
        answers = []
        for copy in copies:
            token = torch.randint(END + 1, VOCABULARY_SIZE, (len(index),))
            target_in = torch.cat((history, token[:, None]), 1)
            hidden, after = hooks.decode_step(token, copy)
            answers.append((target_in, hidden, after))
        for target_in, hidden, _ in answers:
            own = hooks.encode(pairs.source[rows], pairs.source_mask[rows])
            expected = hooks.decode(target_in, own)[:, -1]
            _require_close(
                "State.select", hidden, expected, f"rows {picked} go on differently from a fresh start"
            )
        history, _, state = answers[0]
    return ""


def _teacher_forced(hooks: Hooks, pairs: Pairs, sentences: list[list[int]]) -> Tensor:
    """Log-probabilities (B, T + 1, V) of the word after each prefix, among those that may be produced."""
    target_in = torch.full((len(sentences), 1 + max(map(len, sentences))), PADDING)
    target_in[:, 0] = BEGIN
    for row, words in enumerate(sentences):
        target_in[row, 1 : len(words) + 1] = torch.tensor(words, dtype=torch.int64)
    logits = hooks.logits(hooks.decode(target_in, hooks.encode(pairs.source, pairs.source_mask)))
    logits[..., list(NEVER_PRODUCED)] = -torch.inf
    return logits.log_softmax(-1)


@torch.no_grad()
def greedy_words_are_the_likeliest(subject: ModelUnderCheck) -> str:
    """Along a greedy output, teacher forcing finds no likelier word; sentences leave at different times."""
    hooks = subject.hooks()
    for seed in range(2):
        pairs = random_pairs(seed, sentences=6)
        limits = (pairs.source_mask.sum(1) + EXTRA_LENGTH).tolist()
        sentences = called("greedy", _greedy, hooks, pairs)
        scores = _teacher_forced(hooks, pairs, sentences)
        for row, words in enumerate(sentences):
            for position, word in enumerate([*words, END][: limits[row]]):
                lost = float(scores[row, position].max() - scores[row, position, word])
                if lost > TOLERANCE:
                    raise CheckFailed(
                        f"decode_step: greedy word {position} of sentence {row}: expected the likeliest by "
                        f"decode, got one that is {lost:.2g} nats less likely"
                    )
    return ""


def _greedy(hooks: Hooks, pairs: Pairs) -> list[list[int]]:
    return greedy(hooks.model, pairs.source, pairs.source_mask, extra_length=EXTRA_LENGTH)


def _beam_search(hooks: Hooks, pairs: Pairs) -> list[Hypothesis]:
    return beam_search(
        hooks.model, pairs.source, pairs.source_mask, beam=3, alpha=0.6, extra_length=EXTRA_LENGTH
    )


@torch.no_grad()
def beam_search_scores_are_those_of_teacher_forcing(subject: ModelUnderCheck) -> str:
    """The log-probability of a beam's output is what `decode` gives, the state reordered at every step."""
    hooks = subject.hooks()
    pairs = random_pairs(4, sentences=5)
    limits = (pairs.source_mask.sum(1) + EXTRA_LENGTH).tolist()
    found = called("beam_search", _beam_search, hooks, pairs)
    scores = _teacher_forced(hooks, pairs, [hypothesis.words for hypothesis in found])
    for row, hypothesis in enumerate(found):
        said = [*hypothesis.words, END][: limits[row]]
        expected = sum(float(scores[row, position, word]) for position, word in enumerate(said))
        # Each step of the search rounds to float32.
        if abs(hypothesis.log_probability - expected) > 10 * TOLERANCE * len(said):
            raise CheckFailed(
                f"decode_step: log-probability of sentence {row} along the beam: expected {expected:.6f} by "
                f"decode, got {hypothesis.log_probability:.6f}"
            )
    return ""


@torch.no_grad()
def padding_and_batch_mates_are_inert(subject: ModelUnderCheck) -> str:
    """Loss and greedy output of a sentence are the same alone, with mates, in any order, or padded more."""
    hooks = subject.hooks()
    pairs = random_pairs(10, sentences=5)
    rows = list(range(5))
    alone = [pairs.select([row]) for row in rows]
    expected_losses = torch.stack([_sentence_losses(hooks, pair)[0] for pair in alone])
    expected_words = [called("greedy", _greedy, hooks, pair)[0] for pair in alone]
    order = torch.randperm(5).tolist()
    company = [
        ("among other sentences", rows, pairs),
        ("in another order", order, pairs.select(order)),
        ("with more padding", rows, pairs.select(rows, source_padding=3, target_padding=2)),
        ("with one mate", rows[:2], pairs.select(rows[:2], source_padding=1)),
    ]
    for where, which, batch in company:
        losses = _sentence_losses(hooks, batch)
        _require_close("decode", losses, expected_losses[which], f"loss of a sentence {where}")
        for row, words in zip(which, called("greedy", _greedy, hooks, batch), strict=True):
            if words != expected_words[row]:
                what = f"greedy output of a sentence {where}: expected {expected_words[row]}, got {words}"
                raise CheckFailed(f"decode_step: {what}")
    return ""


def _sentence_losses(hooks: Hooks, pairs: Pairs) -> Tensor:
    """(B,) nats; their sum must be the loss of the batch."""
    hidden = hooks.decode(pairs.target_in, hooks.encode(pairs.source, pairs.source_mask))
    rows = [slice(row, row + 1) for row in range(len(hidden))]
    losses = torch.stack([hooks.cross_entropy(hidden[row], pairs.target_out[row], 0.1) for row in rows])
    total = hooks.cross_entropy(hidden, pairs.target_out, 0.1)
    _require_close("cross_entropy", total, losses.sum(), "of a batch is not the sum over its sentences")
    return losses


def every_parameter_gets_a_gradient(subject: ModelUnderCheck) -> str:
    """After a few batches each parameter had a gradient that is finite and not all zero."""
    hooks = subject.hooks()
    alive: set[str] = set()
    for seed in range(3):
        hooks.model.zero_grad()
        called("backward", _loss(hooks, random_pairs(seed)).backward)
        for name, parameter in hooks.model.named_parameters():
            if parameter.grad is None:
                continue
            if not torch.isfinite(parameter.grad).all():
                raise CheckFailed(
                    f"backward: expected a finite gradient of {name}, got {_first_wrong(parameter.grad)}"
                )
            if parameter.grad.any():
                alive.add(name)
    dead = [
        name
        for name, parameter in hooks.model.named_parameters()
        if name not in alive and parameter.requires_grad
    ]
    if dead:
        raise CheckFailed(f"backward: expected a gradient of every parameter, got none of {', '.join(dead)}")
    return ""


def _loss(hooks: Hooks, pairs: Pairs) -> Tensor:
    hidden = hooks.decode(pairs.target_in, hooks.encode(pairs.source, pairs.source_mask))
    return hooks.cross_entropy(hidden, pairs.target_out, 0.1)


def _first_wrong(values: Tensor) -> float:
    return float(values[~torch.isfinite(values)][0])


def the_loss_is_the_cross_entropy_of_the_logits(subject: ModelUnderCheck) -> str:
    """`cross_entropy` equals PyTorch's on `logits`, with and without label smoothing, gradients too."""
    hooks = subject.hooks()
    pairs = random_pairs(5)
    parameters = list(hooks.model.parameters())
    with torch.no_grad():
        states = hooks.decode(pairs.target_in, hooks.encode(pairs.source, pairs.source_mask))
    for smoothing in (0.0, 0.1):
        hidden = states.clone().requires_grad_()
        plain = F.cross_entropy(
            hooks.logits(hidden).flatten(0, 1),
            pairs.target_out.flatten(),
            ignore_index=PADDING,
            reduction="sum",
            label_smoothing=smoothing,
        )
        loss = hooks.cross_entropy(hidden, pairs.target_out, smoothing)
        _require_close("cross_entropy", loss, plain, f"with label smoothing {smoothing}")
        inputs = [hidden, *parameters]
        expected = torch.autograd.grad(plain, inputs, allow_unused=True, materialize_grads=True)
        got = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        for one, other in zip(got, expected, strict=True):
            _require_close("cross_entropy", one, other, f"gradient with label smoothing {smoothing}")
    return ""


def a_seed_decides_weights_and_training(subject: ModelUnderCheck) -> str:
    """Equal `torch.manual_seed`s give equal weights, losses and gradients: a run can be done again."""
    runs = []
    for _ in range(2):
        hooks = subject.hooks(dtype=torch.float32, seed=5)
        hooks.model.train()
        torch.manual_seed(6)
        loss = _loss(hooks, random_pairs(6))
        called("backward", loss.backward)
        gradients = {
            f"gradient of {name}": p.grad for name, p in hooks.model.named_parameters() if p.grad is not None
        }
        runs.append({**hooks.model.state_dict(), "loss": loss.detach(), **gradients})
    for name, value in runs[0].items():
        if not torch.equal(value, runs[1][name]):
            raise CheckFailed(
                f"build, decode: expected equal values from equal seeds, got a different {name}"
            )
    return ""


def the_loss_is_finite_in_bfloat16(subject: ModelUnderCheck) -> str:
    """Under bf16 autocast on a CPU, loss and gradients are finite; the loss is within 5 % of float32's."""
    hooks = subject.hooks(dtype=torch.float32)
    pairs = random_pairs(7)
    expected = float(_loss(hooks, pairs).detach())
    model = hooks.model

    def loss() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.decode(pairs.target_in, model.encode(pairs.source, pairs.source_mask))
            return model.cross_entropy(hidden, pairs.target_out, 0.1)

    total = called("under bf16 autocast, a hook", loss)
    called("backward under bf16 autocast", total.backward)
    if not abs(float(total.detach()) - expected) <= 0.05 * abs(expected):
        raise CheckFailed(
            f"cross_entropy: under bf16 autocast: expected {expected:.4g} within 5 %, "
            f"got {float(total.detach()):.4g}"
        )
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            got = _first_wrong(parameter.grad)
            raise CheckFailed(
                f"backward: under bf16 autocast: expected a finite gradient of {name}, got {got}"
            )
    return ""


def it_builds(subject: ModelUnderCheck) -> str:
    """The config gives a model."""
    _counted_parameters(subject.config, VOCABULARY_SIZE)
    return ""


def theory_equals_what_is_counted(subject: ModelUnderCheck) -> str:
    """`Config.theory` gives the parameters and the operations that are counted; a model may do without it."""
    config = subject.config
    if type(config).theory is ModelConfig.theory:
        raise NotApplicable("no theory(): the model cannot take part in comparisons at equal operations")

    def theory(vocabulary_size: int, source_length: int, target_length: int) -> Theory:
        answer = called("theory", config.theory, vocabulary_size, source_length, target_length)
        if not isinstance(answer, Theory):
            raise CheckFailed(f"theory: expected a models.Theory, got {type(answer).__name__}")
        return answer

    said = theory(VOCABULARY_SIZE, 1, 1)
    counted, one_word_more = (
        _counted_parameters(config, size) for size in (VOCABULARY_SIZE, VOCABULARY_SIZE + 1)
    )
    if said.parameters != counted:
        raise CheckFailed(f"theory: expected {counted:,} parameters, as counted, got {said.parameters:,}")
    in_vocabulary = VOCABULARY_SIZE * (one_word_more - counted)
    if said.vocabulary_parameters != in_vocabulary:
        raise CheckFailed(
            f"theory: expected {in_vocabulary:,} parameters with a row for each word, as counted, "
            f"got {said.vocabulary_parameters:,}"
        )
    for source_length, target_length in ((1, 1), (5, 2), (2, 4), (40, 50)):
        operations = counted_operations(subject, source_length, target_length)
        got = theory(VOCABULARY_SIZE, source_length, target_length).operations
        if got != operations:
            raise CheckFailed(
                f"theory: expected {operations:,} operations for {source_length} source and {target_length} "
                f"target words, as counted, got {got:,}"
            )
    return ""


def _counted_parameters(config: ModelConfig, vocabulary_size: int) -> int:
    try:
        with torch.device("meta"):  # of any size, at no cost
            model = config.build(vocabulary_size)
    except Exception:  # of the code under check: one that looks at its values as it makes them
        model = called("build", config.build, vocabulary_size)
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def counted_operations(subject: ModelUnderCheck, source_length: int, target_length: int) -> int:
    """Operations of the contractions executed for one sentence pair, forward, projection included.

    Counted on the meta device, where nothing is fused away; on the CPU without oneDNN for a model that looks
    at values.
    """
    try:
        return _operations_on("meta", subject, source_length, target_length)
    except CheckFailed:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")  # said by flags() itself
            with torch.backends.mkldnn.flags(enabled=False):
                return _operations_on("cpu", subject, source_length, target_length)


def _operations_on(device: str, subject: ModelUnderCheck, source_length: int, target_length: int) -> int:
    hooks = subject.hooks(dtype=torch.float32, device=device)
    hooks.model.requires_grad_(False)  # the counter asks tensors that need one for a gradient function
    source = torch.full((1, source_length), END + 1, device=device)
    target_in = torch.full((1, target_length), END + 1, device=device)
    source_mask = torch.ones(1, source_length, dtype=torch.bool, device=device)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hooks.logits(hooks.decode(target_in, hooks.encode(source, source_mask)))
    return int(counter.get_total_flops())


MODEL_CHECKS: tuple[Callable[[ModelUnderCheck], str], ...] = (
    the_config_has_defaults_and_a_test_size,
    the_hooks_answer_in_the_right_form,
    no_target_position_sees_its_future,
    no_gradient_reaches_the_future,
    the_next_word_depends_on_the_last_one_and_on_the_source,
    cached_decoding_equals_teacher_forcing,
    a_state_survives_selection,
    greedy_words_are_the_likeliest,
    beam_search_scores_are_those_of_teacher_forcing,
    padding_and_batch_mates_are_inert,
    every_parameter_gets_a_gradient,
    the_loss_is_the_cross_entropy_of_the_logits,
    a_seed_decides_weights_and_training,
    the_loss_is_finite_in_bfloat16,
    theory_equals_what_is_counted,
)
