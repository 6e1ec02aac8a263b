"""What lies on disk is what the task gave; built once, whole or not at all, and again where damaged."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.data import corpus as corpus_module
from tasks.data.corpus import Corpus, prepare
from tasks.data.vocabulary import END, UNKNOWN
from tests.tasks.data.pairs_task import PairsTask

TRAIN = [("a b c", "c b a"), ("a", "a"), ("b b", "b b b b")]
SPLITS = {"train": TRAIN, "validation": [("c", "c a")], "test": [("a new", "b"), ("", ""), ("b", "c")]}


def prepared(
    folder: Path, task: PairsTask | None = None, maximum_tokens: int = 16, name: str = "x"
) -> Corpus:
    return prepare(
        task or PairsTask(SPLITS), {"name": name}, maximum_tokens=maximum_tokens, cache_directory=folder
    )


def texts_of_ids(corpus: Corpus, split: str) -> list[tuple[str, str]]:
    pairs = corpus.splits[split]
    return [
        (corpus.vocabulary.decode(pairs.source[i]), corpus.vocabulary.decode(pairs.target[i]))
        for i in range(len(pairs))
    ]


def test_ids_say_what_the_task_said_and_end_with_end(tmp_path: Path) -> None:
    corpus = prepared(tmp_path)
    assert texts_of_ids(corpus, "train") == TRAIN
    assert all(corpus.splits["train"].source[i][-1] == END for i in range(3))
    assert corpus.splits["train"].target.lengths().tolist() == [4, 2, 5]
    assert corpus.counters["train"]["target_tokens"] == 11


def test_vocabulary_is_fitted_on_train_alone(tmp_path: Path) -> None:
    corpus = prepared(tmp_path)
    assert corpus.splits["test"].source[0].tolist() == [corpus.vocabulary.encode("a")[0], UNKNOWN, END]
    assert corpus.texts("test")[0][0] == "a new"


def test_empty_sides_are_dropped_from_training_and_kept_elsewhere(tmp_path: Path) -> None:
    pairs = [("a", ""), (" \u2028", "b"), ("a", "b")]
    corpus = prepared(tmp_path, PairsTask({"train": pairs, "validation": pairs, "test": pairs}))
    assert corpus.counters["train"]["dropped_empty"] == 2
    assert len(corpus.splits["train"]) == 1
    assert corpus.counters["test"]["dropped_empty"] == 0
    assert len(corpus.splits["test"]) == 3
    assert corpus.texts("test") == (["a", " \u2028", "a"], ["", "b", "b"])
    assert corpus.splits["test"].target[0].tolist() == [END]


def test_maximum_tokens_drops_in_training_and_cuts_elsewhere_with_end_counted(tmp_path: Path) -> None:
    pairs = [("a b c d", "a"), ("a b c", "a b c"), ("a", "a b c d e")]
    corpus = prepared(
        tmp_path, PairsTask({"train": pairs, "validation": pairs, "test": pairs}), maximum_tokens=4
    )
    assert corpus.counters["train"] | {"source_tokens": 0, "target_tokens": 0} == {
        "pairs": 1, "dropped_empty": 0, "dropped_long": 2, "truncated_sources": 0, "truncated_targets": 0,
        "source_tokens": 0, "target_tokens": 0,
    }  # fmt: skip
    assert corpus.counters["test"]["truncated_sources"] == corpus.counters["test"]["truncated_targets"] == 1
    assert texts_of_ids(corpus, "test") == [("a b c", "a"), ("a b c", "a b c"), ("a", "a b c")]
    assert corpus.texts("test")[1][2] == "a b c d e"


def test_every_separator_but_a_line_end_stays_inside_its_text(tmp_path: Path) -> None:
    separators = ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\r", "\x1c", "\x1d", "\x1e"]
    pairs = [(f"a{separator}b", f"{separator}c{separator}") for separator in separators]
    corpus = prepared(tmp_path, PairsTask({"train": pairs, "validation": pairs, "test": pairs}))
    assert corpus.texts("test") == ([source for source, _ in pairs], [target for _, target in pairs])
    assert texts_of_ids(corpus, "train") == pairs


def test_a_line_end_inside_a_text_is_refused(tmp_path: Path) -> None:
    task = PairsTask(SPLITS | {"test": [("a", "b"), ("a\nb", "c")]})
    with pytest.raises(ValueError, match=r"^test: pair 1 holds a line end; a task gives texts without$"):
        prepared(tmp_path, task)


def test_a_split_without_pairs_says_where_they_went(tmp_path: Path) -> None:
    task = PairsTask(SPLITS | {"train": [("a b c d", "a"), ("", "a")]})
    text = r"^train: no pair is left \(1 with an empty side, 1 with more than data.maximum_tokens=3\)$"
    with pytest.raises(ValueError, match=text):
        prepared(tmp_path, task, maximum_tokens=3)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_cache_is_used_and_its_key_holds_what_ids_depend_on(tmp_path: Path) -> None:
    task = PairsTask(SPLITS)
    first = prepared(tmp_path, task)
    calls = task.calls
    assert prepared(tmp_path, task).folder == first.folder
    assert task.calls == calls
    assert prepared(tmp_path, task, maximum_tokens=17).folder != first.folder
    assert prepared(tmp_path, task, name="y").folder != first.folder
    task.fingerprint = lambda: "other"  # type: ignore[method-assign]
    assert prepared(tmp_path, task).folder != first.folder


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "counter", "nonsense"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str) -> None:
    folder = prepared(tmp_path).folder
    path = folder / "train.source.tokens"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "flip":
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    elif damage == "remove":
        path.unlink()
    elif damage == "counter":
        description = json.loads((folder / "corpus.json").read_bytes())
        description["counters"]["train"]["pairs"] = 7
        (folder / "corpus.json").write_text(json.dumps(description))
    else:
        (folder / "corpus.json").write_text("[[[")
    corpus = prepared(tmp_path)
    assert texts_of_ids(corpus, "train") == TRAIN
    assert corpus.counters["train"]["pairs"] == 3
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {corpus.folder.name}


def test_a_build_that_fails_leaves_nothing_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(corpus_module._Writer, "write", full)
        with pytest.raises(OSError, match="No space left"):
            prepared(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert texts_of_ids(prepared(tmp_path), "train") == TRAIN


SLOW_BUILD = """
import sys, time
from pathlib import Path
from tasks.data.corpus import prepare
from tests.tasks.data.pairs_task import PairsTask
from tests.tasks.data.test_corpus import SPLITS
class Slow(PairsTask):
    def pairs(self, split):
        if split == "test":
            print("halfway", flush=True)
            time.sleep(60)
        return super().pairs(split)
prepare(Slow(SPLITS), {"name": "x"}, maximum_tokens=16, cache_directory=Path(sys.argv[1]))
"""


def test_a_build_that_is_killed_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"halfway\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    leftovers = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(leftovers) == 1
    assert ".tmp" in leftovers[0].name
    corpus = prepared(tmp_path)
    assert texts_of_ids(corpus, "train") == TRAIN
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {corpus.folder.name}


def _prepare_and_count(folder: str, queue: multiprocessing.Queue[int]) -> None:
    task = PairsTask(SPLITS)
    prepared(Path(folder), task)
    queue.put(task.calls)


def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[int] = context.Queue()
    children = [context.Process(target=_prepare_and_count, args=(str(tmp_path), queue)) for _ in range(3)]
    for child in children:
        child.start()
    calls = sorted(queue.get() for _ in children)
    for child in children:
        child.join()
    assert calls[:2] == [0, 0]
    assert calls[2] > 0


def test_arrays_that_are_open_survive_a_rebuild(tmp_path: Path) -> None:
    corpus = prepared(tmp_path)
    (corpus.folder / "corpus.json").unlink()
    prepared(tmp_path)
    assert texts_of_ids(corpus, "train") == TRAIN


def test_ids_need_sixteen_bits_only_while_they_fit(tmp_path: Path) -> None:
    many = [(str(number), str(number)) for number in range(66_000)]
    corpus = prepared(tmp_path, PairsTask(SPLITS | {"train": many}))
    assert corpus.splits["train"].source.tokens.dtype == np.int32
    assert texts_of_ids(corpus, "train")[-3:] == many[-3:]
    assert prepared(tmp_path, name="small").splits["train"].source.tokens.dtype == np.uint16


LONG_LINE = """
import resource, sys
from pathlib import Path
from tasks.data.corpus import prepare
from tests.tasks.data.pairs_task import PairsTask
kind = sys.argv[2]
long = "abc " * 1_000_000
train = [(f"abc {n} defg hijk", f"lmno {n} pq") for n in range(300)]
splits = {"train": [*train, (long, "a"), ("a", long)], "validation": train[:2], "test": [(long, long)]}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = prepare(PairsTask(splits, kind, 400), {}, maximum_tokens=64, cache_directory=Path(sys.argv[1]))
assert corpus.counters["train"]["dropped_long"] == 2, corpus.counters
assert corpus.counters["test"]["truncated_sources"] == 1
assert corpus.splits["test"].source.lengths().tolist() == [64]
assert len(corpus.texts("test")[1][0]) == len(long)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("kind", ["symbols", "subwords"])
def test_a_line_of_a_million_tokens_is_dropped_or_cut_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LONG_LINE, str(tmp_path), kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 150, f"{done.stdout} MiB"


def test_a_subword_vocabulary_of_many_pairs_is_learned_from_evenly_spaced_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus_module, "FITTED_PAIRS", 100)
    sample = corpus_module._evenly_spaced((str(number), "") for number in range(1000))
    assert [int(source) for source, _ in sample] == list(range(0, 1000, 16))


@pytest.mark.parametrize("maximum_tokens", [1, 16_384])
def test_maximum_tokens_out_of_range_is_refused(tmp_path: Path, maximum_tokens: int) -> None:
    text = f"^data.maximum_tokens: must be 2 to 16383, got {maximum_tokens}$"
    with pytest.raises(ValueError, match=text):
        prepared(tmp_path, maximum_tokens=maximum_tokens)


def test_opening_does_not_read_the_tokens_into_memory(tmp_path: Path) -> None:
    tokens = prepared(tmp_path).splits["train"].source.tokens
    base = tokens
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_cache_folder_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        prepared(tmp_path / "file")
