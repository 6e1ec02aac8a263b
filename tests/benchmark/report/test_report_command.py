"""`seqbench report` as a user calls it: what it prints, what it writes, its exit codes."""

import shutil
import webbrowser

import pytest
import sacrebleu
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.record import record_bytes
from tests.benchmark.report.records import provenance, scores, speed_record, train_record
from tests.benchmark.report.test_html import REFERENCES, lay_output, runs, with_output


@pytest.fixture
def results(study_folder, tmp_path, monkeypatch):
    """The working directory: studies `a-study`, its copy `second`, `devices`, `failed` and `empty`."""
    made = [with_output(record, "dog") for record in runs(seeds=[0])]
    bleu = sacrebleu.corpus_bleu(made[0][1], [REFERENCES]).score
    given = {"scores": scores({("test", "bleu"): bleu}, sentences=len(REFERENCES))}
    made = [(record.model_copy(update=given), output) for record, output in made]
    folder = study_folder(*(record for record, _ in made), speed_record())
    lay_output(folder, made)
    (tmp_path / "results").mkdir()
    shutil.copytree(folder, tmp_path / "results" / "second")
    folder.rename(tmp_path / "results" / "a-study")
    failed = train_record("f" * 16, status="failed", failure="oom_host")
    scored = {"scores": scores({("test", "bleu"): 30.0})}
    devices = [
        train_record("a" * 16, **scored),
        train_record("b" * 16, seed=1, provenance=provenance(device="Another Processor"), **scored),
    ]
    for name, records in (("failed", [failed]), ("devices", devices), ("empty", [])):
        (tmp_path / "results" / name / "runs").mkdir(parents=True)
        for record in records:
            run = tmp_path / "results" / name / "runs" / record.run_id
            run.mkdir()
            (run / "record.json").write_bytes(record_bytes(record))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def report(*arguments):
    ended = CliRunner().invoke(app, ["report", *arguments, "--data-dir", "."])
    return ended.exit_code, ended.stdout, ended.stderr


TABLES = "results/a-study/report/tables"
CASES = [
    (["a-study", "--format", "html"], 0, ["results/a-study/report/index.html\n"], {"index.html", "runs"}),
    (["a-study", "--format", "latex"], 0, [r"\caption{a{-}study: multi30k{-}en{-}de}"], None),
    (["a-study", "--format", "csv"], 0, [f"{TABLES}/comparison.csv\n", f"{TABLES}/speed.csv\n"], {"tables"}),
    (["a-study", "--format", "png"], 0, ["results/a-study/report/figures/quality-1-test-bleu-by-train.png\n"],
     {"figures"}),
    (["a-study", "second"], 0, ["a-study: multi30k-en-de", "second: multi30k-en-de"], None),
    (["a-study", "second", "--format", "html"], 0,
     ["a-study/report/index.html\n", "second/report/index.html"], {"index.html", "runs"}),
    (["devices"], 0, ["(float32, A Processor @ 2.00GHz,", "(float32, Another Processor,"], None),
    (["devices", "--across-devices"], 0, ["device: several devices", "1 run on A Processor @ 2.00GHz"], None),
    (["a-study", "--forensics"], 0, ["a-study: multi30k-en-de", "international"], None),
    (["a-study", "--forensics", "--json"], 0, ['"forensics": [', '"bleu_lower_cased"'], None),
    (["failed"], 3, ["failed: transformer-small seed 0", "oom_host"], None),
    (["failed", "a-study"], 3, ["oom_host", "a-study: multi30k-en-de"], None),
    (["empty"], 3, ["study empty: no records yet"], None),
    (["empty", "--format", "html"], 3, ["results/empty/report/index.html\n"], None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "said", "made"), CASES, ids=[" ".join(case[0]) for case in CASES]
)
def test_a_report_as_it_is_asked_for(results, arguments, code, said, made):
    ended = report(*arguments)
    assert ended[0] == code, ended
    for text in said:
        assert text in ended[1]
    folder = results / "a-study" / "report"
    assert ({path.name for path in folder.iterdir()} if folder.exists() else None) == made
    for line in ended[1].splitlines():
        if line.startswith("results/"):
            assert (results.parent / line).stat().st_size > 0


REFUSED = [
    (["a-study", "second", "--format", "csv", "--output", "x"],
     "--output: one study at a time with --format csv; got 2"),
    (["a-study", "--format", "csv", "--forensics"],
     "--forensics: is not part of --format csv; leave one of the two out"),
    (["a-study", "--open", "--format", "latex"],
     "--open: shows the page, which is --format html; leave one of the two out"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "text"), REFUSED)
def test_what_does_not_go_together_is_one_line(results, arguments, text):
    assert report(*arguments) == (2, "", f"seqbench: {text}\n")
    assert not (results / "a-study" / "report").exists()


@pytest.mark.parametrize("starts", [True, False])
def test_a_page_is_shown_in_a_browser(results, monkeypatch, starts):
    asked = []

    def opened(address):
        asked.append(address)
        return starts

    monkeypatch.setattr(webbrowser, "open", opened)
    code, output, errors = report("a-study", "--open")
    page = results / "a-study" / "report" / "index.html"
    assert (code, output) == (0, "results/a-study/report/index.html\n")
    assert asked == [page.as_uri()]
    assert page.is_file()
    told = "seqbench: no browser could be started; open results/a-study/report/index.html\n"
    assert errors == ("" if starts else told)
