"""Scores made again from stored output: the same, or said to differ; never an edited record, never torch."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark.config import UserError
from benchmark.hypotheses import compress_lines, hypotheses_path, lines_sha256, read_lines
from benchmark.measure.quality import METRICS, count_words
from benchmark.record import Score, record_bytes
from benchmark.rescore import rescore
from benchmark.study_texts import keep_texts, kept_references, texts_folder
from tasks import Task
from tasks.data.corpus import prepare
from tasks.grammar import Config as Grammar
from tests.benchmark.report.records import train_record
from tests.benchmark.test_cli import inside

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["one two three four", "five", "", "six\u2028seven eight nine"]
REFERENCES = ["four three two one", "five", "", "nine eight seven\rsix"]
HYPOTHESES = ["four three two two", "five", "ten", "nine eight\u0085seven six"]

TASK_FILE = f"""
from tasks import Task, TaskConfig
class Lines(Task):
    metrics = ("bleu",)
    vocabulary = "symbols"
    texts_may_be_copied = False
    def __init__(self, count): self.count = count
    def pairs(self, split):
        yield from zip({SOURCES!r}[:self.count], {REFERENCES!r}[:self.count])
    def fingerprint(self): return "data-1"
class Config(TaskConfig):
    count: int = 4
    def build(self, data_directory): return Lines(self.count)
"""


class Pairs(Task):
    metrics = ("bleu", "chrf")
    vocabulary = "symbols"

    def pairs(self, split):
        yield from zip(SOURCES, REFERENCES, strict=True)


def scored(split="test", metrics=("bleu", "chrf", "token_accuracy"), references=REFERENCES):
    scores = [METRICS[metric](HYPOTHESES, references) for metric in metrics]
    return [
        Score(split=split, metric=s.metric, value=s.value, signature=s.signature, sentences=s.sentences)
        for s in scores
    ]


def write_run(folder, record, hypotheses=HYPOTHESES, split="test"):
    run = folder / "runs" / record.run_id
    run.mkdir(parents=True)
    (run / "record.json").write_bytes(record_bytes(record))
    hypotheses_path(run, split).write_bytes(compress_lines(hypotheses))
    return run


def a_study(tmp_path, **fields):
    record = train_record(
        "a" * 16, **{"scores": scored(), "hypotheses_sha256": {"test": lines_sha256(HYPOTHESES)}, **fields}
    )
    folder = tmp_path / "a-study"
    run = write_run(folder, record)
    texts = texts_folder(
        folder, record.experiment["task"], version=record.task_version, fingerprint=record.task_fingerprint
    )
    keep_texts(texts, Pairs(), ["test"])
    return folder, run


def test_scores_are_made_again_from_the_studys_folder_alone(tmp_path):
    folder, run = a_study(tmp_path)
    before = (run / "record.json").read_bytes()
    result = rescore(folder, tmp_path / "no data")
    assert [(r.metric, r.value, r.difference) for r in result] == [
        (score.metric, score.value, None) for score in scored()
    ]
    assert (run / "record.json").read_bytes() == before
    stored = json.loads((run / "scores.json").read_text())
    assert stored["run_id"] == "a" * 16
    assert [score["value"] for score in stored["scores"]] == [score.value for score in scored()]
    content = (run / "scores.json").read_bytes()
    rescore(folder, tmp_path)
    assert (run / "scores.json").read_bytes() == content


def changed(index, **fields):
    scores = scored()
    scores[index] = replace(scores[index], **fields)
    return {"scores": scores}


@pytest.mark.parametrize(
    ("fields", "index", "text"),
    [
        (changed(0, value=scored()[0].value + 2e-9), 0, "is 47"),
        (changed(1, value=0.0), 1, "was 0.0"),
        (changed(0, signature="nrefs:1|tok:none"), 0, "was nrefs:1|tok:none"),
        (changed(2, sentences=3), 2, "4 sentences, were 3"),
        (changed(2, metric="taste"), 2, "no metric 'taste' here"),
        ({"hypotheses_sha256": {"test": "0" * 64}}, 0, "not what the run produced"),
    ],
)
def test_what_differs_from_the_record_is_said(tmp_path, fields, index, text):
    folder, _ = a_study(tmp_path, **fields)
    result = rescore(folder, tmp_path)
    assert text in (result[index].difference or "").replace(str(scored()[0].value), "47")


def test_rounding_below_the_tolerance_is_no_difference(tmp_path):
    folder, _ = a_study(tmp_path, **changed(0, value=scored()[0].value + 1e-12))
    assert rescore(folder, tmp_path)[0].difference is None


def test_missing_damaged_or_unequal_output_is_said_and_the_other_runs_are_scored(tmp_path):
    folder, _ = a_study(tmp_path)
    other = train_record(
        "b" * 16, seed=1, scores=scored(), hypotheses_sha256={"test": lines_sha256(HYPOTHESES)}
    )
    path = hypotheses_path(write_run(folder, other), "test")
    for content, text in [
        (path.read_bytes()[:-3], "hypotheses.test.txt.gz: not a complete gzip"),
        (compress_lines(HYPOTHESES[:-1]), "3 hypotheses for 4 references"),
        (None, "hypotheses.test.txt.gz is missing"),
    ]:
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        first, second = [[r for r in rescore(folder, tmp_path) if r.run_id == i * 16] for i in "ab"]
        assert all(r.difference is None for r in first)
        assert all(text in (r.difference or "") and r.value is None for r in second)


def test_two_tasks_of_one_study_keep_their_own_references(tmp_path):
    folder, _ = a_study(tmp_path)
    other = train_record(
        "b" * 16,
        experiment={"task": {"language_pair": "en-fr"}},
        scores=scored(references=HYPOTHESES),
        hypotheses_sha256={"test": lines_sha256(HYPOTHESES)},
    )
    write_run(folder, other)

    class Others(Pairs):
        def pairs(self, split):
            yield from zip(SOURCES, HYPOTHESES, strict=True)

    texts = texts_folder(folder, other.experiment["task"], version=1, fingerprint="")
    keep_texts(texts, Others(), ["test"])
    assert all(r.difference is None for r in rescore(folder, tmp_path))


def test_validation_output_may_be_of_its_first_sentences(tmp_path):
    few = HYPOTHESES[:2]
    score = METRICS["chrf"](few, REFERENCES[:2])
    record = train_record(
        "a" * 16,
        scores=[
            Score(
                split="validation", metric="chrf", value=score.value, signature=score.signature, sentences=2
            )
        ],
        hypotheses_sha256={"validation": lines_sha256(few)},
    )
    write_run(tmp_path / "a-study", record, few, "validation")
    texts = texts_folder(tmp_path / "a-study", record.experiment["task"], version=1, fingerprint="")
    keep_texts(texts, Pairs(), ["validation"])
    assert [r.difference for r in rescore(tmp_path / "a-study", tmp_path)] == [None]


@pytest.fixture
def task_of_a_file(tmp_path):
    import hashlib

    path = tmp_path / "lines.py"
    path.write_text(TASK_FILE)
    return {
        "experiment": {"task": {"name": str(path)}},
        "hash": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def record_of_a_file(task_of_a_file, **fields):
    experiment = {
        "model": {"name": "transformer"},
        "task": {**task_of_a_file["experiment"]["task"], "count": 4},
        "task_file_sha256": task_of_a_file["hash"],
        "training": {"steps": 5000},
        "seed": 0,
    }
    record = train_record(
        "a" * 16,
        scores=scored(),
        hypotheses_sha256={"test": lines_sha256(HYPOTHESES)},
        task_fingerprint="data-1",
    )
    return record.model_copy(update={"experiment": experiment, "task_name": "lines", **fields})


def test_texts_that_may_not_be_copied_come_from_the_task(tmp_path, task_of_a_file):
    folder = tmp_path / "a-study"
    write_run(folder, record_of_a_file(task_of_a_file))
    assert all(r.difference is None for r in rescore(folder, tmp_path, trust_code=True))
    assert not (folder / "texts").exists()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"task_version": 7}, "was version 7 and is now 1"),
        ({"task_fingerprint": "x"}, "data files have changed"),
    ],
)
def test_a_task_whose_data_are_others_now_is_refused(tmp_path, task_of_a_file, fields, text):
    folder = tmp_path / "a-study"
    write_run(folder, record_of_a_file(task_of_a_file, **fields))
    with pytest.raises(UserError, match=text):
        rescore(folder, tmp_path, trust_code=True)


def test_a_task_file_that_only_a_record_names_does_not_run(tmp_path, task_of_a_file):
    folder = tmp_path / "a-study"
    write_run(folder, record_of_a_file(task_of_a_file))
    with pytest.raises(UserError, match="trust-code"):
        rescore(folder, tmp_path)


def test_texts_are_kept_once_and_only_where_they_may_be(tmp_path):
    keep_texts(tmp_path / "t", Pairs(), ["test"])
    assert kept_references(tmp_path / "t", "test") == REFERENCES
    assert kept_references(tmp_path / "t", "other") is None
    written = sorted((tmp_path / "t").iterdir())
    times = [path.stat().st_mtime_ns for path in written]
    keep_texts(tmp_path / "t", Pairs(), ["test"])
    assert [path.stat().st_mtime_ns for path in written] == times

    class Licensed(Pairs):
        texts_may_be_copied = False

    keep_texts(tmp_path / "licensed", Licensed(), ["test"])
    assert not (tmp_path / "licensed").exists()


def test_the_folder_of_texts_is_a_plain_name_whatever_the_task_is_called(tmp_path):
    folder = texts_folder(tmp_path, {"name": "../../x y.py"}, version=1, fingerprint="")
    assert folder.parent == tmp_path / "texts" and folder.name.startswith("xy-")


def test_rescoring_needs_no_torch(tmp_path):
    folder, _ = a_study(tmp_path)
    program = (
        "import sys; from pathlib import Path\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] not in ('torch', 'pytorch_lightning', 'models'), name\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from benchmark.config import available\n"
        "import importlib\n"
        "for task in available('tasks'): importlib.import_module(f'tasks.{task}')\n"
        "from benchmark.rescore import rescore\n"
        "print(len(rescore(Path(sys.argv[1]), Path('.'))))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr) == ("3\n", "")


TRANSLATION = [
    "model=transformer-small", "model.width=32", "model.feed_forward=64", "model.encoder_layers=1",
    "model.decoder_layers=1", "task.name=grammar", "task.nouns=20", "task.verbs=9", "task.adjectives=6",
    "task.adverbs=3", "task.vocabulary_size=400", "task.train_pairs=200", "task.validation_pairs=20",
    "task.test_pairs=20", "training.steps=60", "training.average_checkpoints=1", "training.validations=3",
    "training.validation_sentences=15",
    "training.warmup_steps=5", "training.learning_rate=0.01", "training.precision=float32",
]  # fmt: skip


def test_a_translation_is_trained_and_scored_as_sacrebleu_itself_scores_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, _, errors = inside(
        "run", *TRANSLATION, "--study", "s", "--results", tmp_path / "results", "--device", "cpu",
        "--threads", "1", "--wandb", "disabled",
    )  # fmt: skip
    assert code == 0, errors
    [path] = (tmp_path / "results").glob("s/runs/*/record.json")
    record = json.loads(path.read_text())

    curve = [(point["step"], point["generated_sentences"], point["scores"]) for point in record["curve"]]
    assert [(step, sentences) for step, sentences, _ in curve] == [(20, 15), (40, 15), (60, 15)]
    for _, _, scores in curve:
        assert {(score["split"], score["metric"]) for score in scores} >= {
            ("validation", "bleu"), ("validation", "chrf"),
        }  # fmt: skip
    final = {(score["split"], score["metric"]): score for score in record["scores"]}

    texts = texts_folder(
        tmp_path / "results" / "s",
        record["experiment"]["task"],
        version=1,
        fingerprint=record["task_fingerprint"],
    )
    for split in ("validation", "test"):
        hypotheses = read_lines(hypotheses_path(path.parent, split))
        references = kept_references(texts, split)
        assert references is not None
        for name, lines in (("hypotheses", hypotheses), ("references", references)):
            (tmp_path / name).write_text("".join(line + "\n" for line in lines))
        for metric in ("bleu", "chrf"):
            outcome = subprocess.run(
                [sys.executable, "-m", "sacrebleu", tmp_path / "references", "-i", tmp_path / "hypotheses",
                 "--metrics", metric, "--format", "json", "--width", "12", "--force"],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            theirs, ours = json.loads(outcome.stdout), final[split, metric]
            assert ours["value"] == pytest.approx(theirs["score"], abs=1e-11) and ours["value"] > 0
            assert ours["signature"] == theirs["signature"]
            assert ours["sentences"] == len(references) == 20

    tiny = Grammar().tiny()
    corpus = prepare(tiny.build(tmp_path), {}, maximum_tokens=256, cache_directory=tmp_path / "own")
    nats = record["validation_loss"] * corpus.counters["validation"]["target_tokens"]
    assert record["validation_perplexity_per_token"] == pytest.approx(math.exp(record["validation_loss"]))
    words = count_words(corpus.texts("validation")[1])
    assert record["validation_perplexity_per_word"] == pytest.approx(math.exp(nats / words))

    before = path.read_bytes()
    code, _, errors = inside("report", tmp_path / "results" / "s", "--rescore")
    assert code == 0, errors
    assert f"{len(final)} scores made again, 0 differ" in errors
    assert path.read_bytes() == before
