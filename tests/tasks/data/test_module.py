"""Step k is the same batch in every run; budgets become steps exactly; each sentence is scored once."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from tasks import Batch
from tasks.data.corpus import Corpus, prepare
from tasks.data.module import DataModule
from tasks.rearrange import Config


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    task = Config(operation="reverse").tiny().build(Path())
    return prepare(task, {}, maximum_tokens=64, cache_directory=tmp_path_factory.mktemp("corpora"))


def module(corpus: Corpus, seed: int = 0, **trainer: int) -> DataModule:
    data = DataModule(corpus, batch_tokens=60, seed=seed)
    if trainer:
        state = {"global_step": 0, "global_rank": 0, "world_size": 1} | trainer
        data.trainer = SimpleNamespace(**state)  # type: ignore[assignment]
    return data


def first(data: DataModule, number: int) -> list[list[int]]:
    return [batch.indices.tolist() for batch in itertools.islice(data.train_dataloader(), number)]


def test_a_resumed_run_sees_what_an_undisturbed_one_does(corpus: Corpus) -> None:
    epoch = len(module(corpus).training)
    whole = first(module(corpus), 2 * epoch + 3)
    for step in (0, 1, epoch - 1, epoch, epoch + 1, 2 * epoch):
        assert first(module(corpus, global_step=step), len(whole) - step) == whole[step:]


def test_the_step_is_read_when_iteration_begins(corpus: Corpus) -> None:
    data = module(corpus, global_step=0)
    loader = data.train_dataloader()
    data.trainer.global_step = 5  # type: ignore[union-attr, misc]
    assert next(iter(loader)).indices.tolist() == first(module(corpus), 6)[5]


def test_epochs_follow_each_other_with_every_pair_once_each(corpus: Corpus) -> None:
    epoch = len(module(corpus).training)
    seen = first(module(corpus), 2 * epoch)
    for half in (seen[:epoch], seen[epoch:]):
        assert sorted(pair for batch in half for pair in batch) == list(range(200))
    assert seen[:epoch] != seen[epoch:]
    assert first(module(corpus, seed=1), 1) != first(module(corpus), 1)


def test_processes_get_the_same_global_batches(corpus: Corpus) -> None:
    loaders = [module(corpus, global_rank=rank, world_size=3).train_dataloader() for rank in range(3)]
    for shares in itertools.islice(zip(*loaders, strict=True), 10):
        assert len({tuple(share.indices.tolist()) for share in shares}) == 1
        assert sorted(pair for share in shares for pair in share.own) == sorted(shares[0].indices)


@pytest.mark.parametrize("world", [1, 2, 7])
@pytest.mark.parametrize("split", ["validation", "test", "test_longer"])
def test_evaluation_counts_every_sentence_once_over_all_processes(
    corpus: Corpus, split: str, world: int
) -> None:
    data = module(corpus)
    shares = [
        list(data.evaluation_batches(split, batch_sentences=6, rank=rank, world=world))
        for rank in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    assert sorted(int(pair) for share in shares for batch in share for pair in batch.own) == list(range(20))
    words = sum(int((batch.target_out != 0).sum()) for share in shares for batch in share)
    assert words == corpus.counters[split]["target_tokens"]


def test_validation_loss_counts_every_sentence_once(corpus: Corpus) -> None:
    seen = [
        int(pair)
        for rank in range(3)
        for batch in module(corpus, global_rank=rank, world_size=3).val_dataloader()
        for pair in batch.own
    ]
    assert sorted(seen) == list(range(20))


def test_budgets_become_steps_exactly(corpus: Corpus) -> None:
    data = module(corpus)
    epoch = len(data.training)
    assert [data.steps_of_epochs(epochs) for epochs in (1, 2, 0.01, 1.5)] == [
        epoch, 2 * epoch, 1, -(-3 * epoch // 2),
    ]  # fmt: skip
    held = [batch.target_tokens for batch in itertools.islice(data.train_dataloader(), 2 * epoch + 2)]
    for tokens in (
        1,
        held[0],
        held[0] + 1,
        sum(held[:epoch]),
        sum(held[:epoch]) + 1,
        sum(held[: 2 * epoch + 2]),
    ):
        steps = data.steps_of_tokens(tokens)
        assert sum(held[:steps]) >= tokens > sum(held[: steps - 1])


class Recorder(LightningModule):
    """Learns nothing and remembers which batches it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        assert isinstance(batch, Batch)
        self.seen.append(batch.indices.tolist())
        return self.weight * batch.target_tokens

    def validation_step(self, batch: Batch, _: int) -> None:
        self.validated += batch.own.tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(corpus: Corpus, steps: int, folder: Path, checkpoint: Path | None = None) -> Recorder:
    recorder = Recorder()
    trainer = Trainer(
        max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", val_check_interval=5, check_val_every_n_epoch=None, num_sanity_val_steps=0,
        enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(recorder, datamodule=module(corpus), ckpt_path=checkpoint, weights_only=True)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return recorder


# Lightning 2.6 asks torch 2.13 an outdated question.
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
def test_lightning_resumes_with_the_next_batch(corpus: Corpus, tmp_path: Path) -> None:
    whole = fit(corpus, 32, tmp_path)
    assert whole.seen == first(module(corpus), 32)
    assert sorted(whole.validated[:20]) == list(range(20))
    fit(corpus, 13, tmp_path)
    resumed = fit(corpus, 32, tmp_path, tmp_path / "13.ckpt")
    assert resumed.seen == whole.seen[13:]
