"""The page: what it says equals the records, what others wrote is inert, and nothing is loaded."""

import html
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from benchmark.config import ROOT
from benchmark.hypotheses import compress_lines, lines_sha256
from benchmark.record import CurvePoint, Row
from benchmark.report import charts
from benchmark.report.charts import study_charts
from benchmark.report.curves import with_curves
from benchmark.report.html import index_page, write_pages
from benchmark.report.placing import STALE_SECONDS
from benchmark.report.rounding import without_spread
from benchmark.report.samples import SENTENCES, Samples, marked
from benchmark.report.study_results import load_study
from benchmark.report.tables import train_tables
from benchmark.rescore import References
from benchmark.store import StorageError
from benchmark.study_texts import texts_folder
from benchmark.why.facts import Facts
from benchmark.why.page import TITLE, write_page
from tests.benchmark.report.records import layer_record, provenance, scores, speed_record, train_record
from tests.benchmark.report.test_budgets import cell
from tests.benchmark.why.test_table import scaling

COMMITTED = sorted((ROOT / "results").glob("*/report/index.html"))
PAYLOAD = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e{{ 7 * 7 }}"


def curve(offset):
    return [
        CurvePoint(
            step=step,
            train_seconds=step / 10,
            train_target_tokens=step * 700,
            validation_loss=4 - step / 1000 + offset,
            scores=scores({("validation", "bleu"): step / 100 + offset}),
        )
        for step in (1000, 2000, 3000)
    ]


def runs(models=("transformer-small", "convs2s-small", "lstm-small"), seeds=range(3)):
    return [
        train_record(
            f"{16 * number + seed:016x}",
            model,
            seed=seed,
            curve=curve(number + seed / 10),
            scores=scores({("test", "bleu"): 30.0 + 2 * number + seed / 7, ("validation", "bleu"): 29.0}),
        )
        for number, model in enumerate(models)
        for seed in seeds
    ]


def pages(folder, output, data_directory=None):
    samples = Samples(folder, References(folder, data_directory or folder))
    page = write_pages(load_study(folder), folder, output, samples)
    return {path.relative_to(output).as_posix(): path.read_text() for path in output.rglob("*.html")}, page


def cells_of(page):
    """Text of every cell of its tables."""
    cells = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, flags=re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip().removesuffix(" ≈") for cell in cells]


def test_every_cell_of_the_tables_is_in_the_page_and_twice_gives_the_same_bytes(study_folder, tmp_path):
    folder = study_folder(*runs(), speed_record())
    first, page = pages(folder, tmp_path / "one")
    second, _ = pages(folder, tmp_path / "two")
    assert first == second
    assert page == tmp_path / "one" / "index.html"
    assert len(first) == 1 + 9
    (table,) = train_tables(load_study(folder))
    found = cells_of(first["index.html"])
    for row in table.rows:
        assert set(row) <= set(found)
    for record in runs():
        assert f'href="runs/{record.run_id}.html"' in first["index.html"]
        own = cells_of(first[f"runs/{record.run_id}.html"])
        for score in record.scores:
            assert without_spread(score.value) in own
        assert "4,012,345" in own
        assert record.provenance.torch_version in own


def test_every_page_of_a_run_is_linked_from_the_first(study_folder, tmp_path):
    """Those of trials and of runs that failed or diverged as well."""
    final = runs()
    trials = [
        train_record("a" * 16, validation_loss=2.34567, curve=curve(0.0)),
        train_record("b" * 16, "lstm-small", status="diverged"),
    ]
    failed = train_record("f" * 16, seed=5, status="failed", failure="out of memory")
    cells = [
        *(cell(record, trial=number) for number, record in enumerate(trials, 1)),
        *map(cell, [*final, failed]),
    ]
    made, _ = pages(study_folder(*trials, *final, failed, cells=cells), tmp_path / "page")
    first = made.pop("index.html")
    assert len(made) == len(trials) + len(final) + 1
    assert [name for name in made if f'href="{name}"' not in first] == []
    # one loss reads the same in the search and on the page of its trial
    assert "2.35" in cells_of(first) and "2.35" in cells_of(made[f"runs/{'a' * 16}.html"])


def test_a_score_of_one_seed_reads_the_same_in_the_table_and_on_its_run_s_page(study_folder, tmp_path):
    values = {("test", "bleu"): 34.567, ("test", "sequence_accuracy"): 0.4567, ("validation", "bleu"): 5.0}
    record = train_record("a" * 16, scores=scores(values), curve=curve(0.0))
    made, _ = pages(study_folder(record), tmp_path / "page")
    own, table = cells_of(made[f"runs/{'a' * 16}.html"]), cells_of(made["index.html"])
    for text in ("34.6", "0.457", "5.00"):
        assert text in own and text in table
    first = own.index("700,000") - 1
    assert own[first : first + 5] == ["1,000", "700,000", "100", "3.00", "10.0"]


def test_the_highest_mean_is_marked_and_what_the_seeds_do_not_tell_from_it(study_folder, tmp_path):
    def marks(seeds, apart):
        made = [
            train_record(
                f"{16 * number + seed:016x}",
                model,
                seed=seed,
                scores=scores({("test", "bleu"): 30.0 + apart * number + seed / 50}),
            )
            for number, model in enumerate(("transformer-small", "lstm-small"))
            for seed in range(seeds)
        ]
        shutil.rmtree(tmp_path / "a-study", ignore_errors=True)
        page = pages(study_folder(*made), tmp_path / "page")[0]["index.html"]
        comparison = page[: page.index('id="significance"')] if 'id="significance"' in page else page
        # on paper and to a screen reader a shade says nothing
        assert comparison.count("≈</abbr>") == comparison.count('class="level"')
        return re.findall(r'<td class="(best|level)">', comparison)

    assert marks(seeds=1, apart=5) == ["best", "level"]
    assert marks(seeds=8, apart=5) == ["best"]


def test_texts_from_others_are_inert(study_folder, tmp_path):
    broken = train_record("f" * 16, PAYLOAD[:40], status="failed", failure=PAYLOAD)
    hostile = [
        train_record(
            f"{number:016x}",
            f"{PAYLOAD}{number}"[-60:],
            scores=scores({("test", "bleu"): 30.0 + number}),
            provenance=provenance(device=PAYLOAD),
        )
        for number in range(2)
    ]
    folder = study_folder(broken, *hostile)
    made, _ = pages(folder, tmp_path / "page")
    for text in made.values():
        assert "<img" not in text.replace("&lt;img", "")
        assert "alert(1)</script>" not in text
        assert "\u202e" not in text
        assert "{{ 7 * 7 }}" in text or PAYLOAD[-11:] not in text
        assert len(re.findall(r"<script", text)) == text.count("</script>")


def test_a_page_says_what_its_study_is(study_folder, tmp_path):
    folder = study_folder(layer_record(0xA, "path", subject="hops"))
    layers = pages(folder, tmp_path / "page")[0]["index.html"]
    assert f"<h1>{TITLE}</h1>" in layers and f"<title>{TITLE}</title>" in layers
    assert ">a-study</a>" in layers, "which of several such studies"
    text = write_page(Facts([]), tmp_path / "text", "quick").read_text()
    (lead,) = re.findall('<p class="quiet">(.*?)</p>', layers)
    assert html.unescape(lead).replace("measurements", "measurements at scale quick") in text
    shutil.rmtree(tmp_path / "a-study")
    trained = pages(study_folder(*runs(seeds=[0])), tmp_path / "page")[0]["index.html"]
    assert "<h1>a-study</h1>" in trained
    assert "transformer-small, convs2s-small, lstm-small on multi30k-en-de." in trained


def test_a_table_of_layers_names_the_runs_that_it_is_made_from(study_folder, tmp_path):
    folder = study_folder(scaling("a", 1.5, 1.8), scaling("b", 1.5, 1.8))
    page = pages(folder, tmp_path / "page")[0]["index.html"]
    table = page[page.index("<h3>Training on more devices</h3>") :]
    assert f"<p>from the records of a-study: {'a' * 16}, {'b' * 16}</p>" in table.partition("</section>")[0]


def test_many_curves_make_no_large_page(study_folder, tmp_path, monkeypatch):
    """Of 9 rows with 3 points each: what a point takes, and what is left when there are too many."""
    study = load_study(folder := study_folder(*runs()))
    curves = with_curves(study.train_records, folder)
    (chart,) = (one for one in study_charts(study, curves) if one.kind == "curves")
    document = chart.document()
    assert len(json.dumps(document["points"], separators=(",", ":"))) < 70 * len(chart.points)
    place = document["fields"].index("loss") + 1
    assert [row[place] for row in document["points"]] == [pytest.approx(p["loss"]) for p in chart.points]
    assert [document["series"][row[0]] for row in document["points"]] == [p["series"] for p in chart.points]
    monkeypatch.setattr(charts, "MOST_CURVE_POINTS", 1)
    monkeypatch.setattr(charts, "FEWEST_OF_CURVE", 2)
    (chart,) = (one for one in study_charts(study, curves) if one.kind == "curves")
    assert [point["step"] for point in chart.points] == [1000, 3000] * 3
    assert "2 validations each" in chart.caption


def test_every_comparison_of_more_than_two_rows_has_a_filter(study_folder, tmp_path):
    page = pages(study_folder(*runs()), tmp_path / "page")[0]["index.html"]
    assert 'data-filters="comparison-0"' in page
    shutil.rmtree(tmp_path / "a-study")
    folder = study_folder(*runs(models=("lstm-small", "convs2s-small")))
    assert "data-filters=" not in pages(folder, tmp_path / "page")[0]["index.html"]


def command_of(page):
    (text,) = re.findall(r"<pre>(.*?)</pre>", page)
    return html.unescape(text)


def test_a_page_is_the_same_bytes_from_every_working_directory(study_folder, tmp_path, monkeypatch):
    folder, run_id = study_folder(*runs()), runs()[0].run_id
    first, _ = pages(folder, tmp_path / "page")
    monkeypatch.chdir(tmp_path)
    assert pages(Path(folder.name), Path("page"))[0] == first
    record = f"results/a-study/runs/{run_id}/record.json"
    assert command_of(first[f"runs/{run_id}.html"]) == f"seqbench run {record} --device cpu --threads 2"


@pytest.mark.parametrize(
    ("experiment", "given", "options"),
    [
        ({}, {"threads": 3}, "--device cpu --threads 3"),
        ({}, {"device_memory_bytes": 2**36}, "--device cuda --threads 2"),
        ({}, {"threads": 1, "devices": 2}, "--device cpu --threads 1 --devices 2"),
        ({"model_file_sha256": "0" * 64}, {}, "--device cpu --threads 2 --trust-code"),
        ({"task_file_sha256": "0" * 64}, {}, "--device cpu --threads 2 --trust-code"),
    ],
)
def test_the_command_of_a_run_has_what_its_bits_rest_on(study_folder, tmp_path, experiment, given, options):
    record = train_record("a" * 16, provenance=provenance(**given))
    record = record.model_copy(update={"experiment": {**record.experiment, **experiment}})
    made, _ = pages(study_folder(record), tmp_path / "page")
    assert command_of(made[f"runs/{'a' * 16}.html"]).endswith(f"record.json {options}")


def test_how_it_was_timed_and_what_disturbed_it_is_said_once_for_each_kind(study_folder, tmp_path):
    still, moving = [1.0] * 12, [1.0 + number / 4 for number in range(12)]
    times = [Row(quantity="seconds", value=1.0, unit="s", samples=one) for one in (still, moving)]
    shared = {"noisy": True, "noise": ["2.0 tasks shared 2 cores"]}
    made = [
        speed_record(noisy=True, noise=[]),
        layer_record(0xA, "time", subject="attention", rows=times, **shared),
        layer_record(0xB, "time", subject="recurrence", rows=times, **shared),
        layer_record(0xC, "time", subject="convolution", rows=times, noisy=False),
        layer_record(0xD, "path", subject="hops", timing_method=None),
    ]
    text = pages(study_folder(*made), tmp_path / "page")[0]["index.html"]
    section = text[text.index('<section id="provenance"') :]
    assert re.findall("<li>(.*?)</li>", section.partition("</section>")[0])[1:] == [
        "timing of 1 speed record: perf_counter, median of rounds",
        "timing of 3 time records: the clock; 9 rounds",
        f"noisy, speed of {'5' * 16}: other load or throttling was seen on the machine",
        "noisy, time of attention; recurrence: 2.0 tasks shared 2 cores",
        "drift: 3 of 6 series of time records never settled",
    ]
    speed = text[text.index('<section id="speed"') :].partition("</section>")[0]
    assert speed.count("<strong>noisy: ") == 2  # training and generation


def test_it_asks_for_nothing_from_elsewhere(study_folder, tmp_path):
    made, _ = pages(study_folder(*runs(), speed_record()), tmp_path / "page")
    for text in made.values():
        outside = re.findall(r'(?:src|href)="([^"]*)"', text)
        assert all(one.startswith(("#", "data:", "runs/", "../index.html")) for one in outside), outside
        assert "default-src 'none'" in text
        assert "@import" not in text
        assert "url(" not in text.partition("<style>")[2].partition("</style>")[0]


REFERENCES = [f"the cat number {number} sits here" for number in range(50)]


def with_output(record, word):
    """A run that wrote `word` for cat, and its output."""
    output = [line.replace("cat", word) for line in REFERENCES]
    return record.model_copy(update={"hypotheses_sha256": {"test": lines_sha256(output)}}), output


def lay_output(folder, made):
    """Beside the records their output, and in the study the texts of the split."""
    for record, output in made:
        path = folder / "runs" / record.run_id / "hypotheses.test.txt.gz"
        path.write_bytes(compress_lines(output))
    texts = texts_folder(folder, made[0][0].experiment["task"], version=1, fingerprint="")
    texts.mkdir(parents=True)
    sources = [f"die Katze Nummer {number} sitzt hier" for number in range(50)]
    for side, lines in (("source", sources), ("reference", REFERENCES)):
        (texts / f"test.{side}.txt.gz").write_bytes(compress_lines(lines))


def test_sentences_stand_beside_those_of_the_other_models(study_folder, tmp_path):
    made = list(map(with_output, runs(seeds=[0]), ("cat", "dog", PAYLOAD)))
    folder = study_folder(*(record for record, _ in made))
    lay_output(folder, made)
    page = pages(folder, tmp_path / "page")[0][f"runs/{made[0][0].run_id}.html"]
    assert page.count("die Katze Nummer") == SENTENCES
    assert page.count("<del>cat</del> <ins>dog</ins>") == SENTENCES
    assert "<img" not in page
    own = folder / "runs" / made[0][0].run_id / "hypotheses.test.txt.gz"
    own.write_bytes(compress_lines(["changed"] * 50))
    page = pages(folder, tmp_path / "page")[0][f"runs/{made[0][0].run_id}.html"]
    assert "die Katze" not in page and "this run's output of test as it was scored is not at hand" in page


def test_without_texts_sentences_are_the_outputs_alone(study_folder, tmp_path):
    made = list(map(with_output, runs(seeds=[0]), ("cat", "dog", PAYLOAD)))
    folder = study_folder(*(record for record, _ in made))
    lay_output(folder, made)
    shutil.rmtree(folder / "texts")
    page = pages(folder, tmp_path / "page", tmp_path / "nowhere")[0][f"runs/{made[1][0].run_id}.html"]
    assert "Without source and reference" in page and "--data-dir" in page
    assert '">source<' not in page and '">reference<' not in page and "die Katze" not in page
    for word in ("cat", "dog"):
        assert len(re.findall(f"<td>the {word} number [0-9]+ sits here</td>", page)) == SENTENCES
    assert "<img" not in page and "<ins>" not in page
    alone, _ = pages(study_folder(made[0][0].model_copy(update={"run_id": "9" * 16})), tmp_path / "page")
    assert "Not shown: this run's output of test" in alone[f"runs/{'9' * 16}.html"]


def test_sentences_stand_beside_those_of_the_same_match_precision_and_setting(study_folder, tmp_path):
    def one(number, model, word, **fields):
        record = train_record(f"{number:016x}", model, **fields)
        made = record.model_copy(update={"scores": scores({("test", "bleu"): 30.0})})
        return with_output(made.model_copy(update={"operations_per_step": 1e9}), word)

    def words(number):
        page = pages(folder, tmp_path / "page")[0][f"runs/{number:016x}.html"]
        return set(re.findall("<ins>([a-z]+)</ins>", page)), "equal seconds" in page, "equal flops" in page

    low = {"provenance": provenance(precision="bfloat16")}
    half = {"experiment": {"training": {"learning_rate": 0.0005}}}
    made = [
        one(0, "transformer-small", "reference"),
        one(1, "lstm-small", "flops"), one(2, "lstm-small", "seconds"),
        one(3, "convs2s-small", "ofseconds"),
        one(4, "lstm-small", "low", **low), one(5, "convs2s-small", "lowtoo", **low),
        one(6, "lstm-small", "half", **half), one(7, "mine", "halftoo", **half),
        one(8, "lstm-small", "whole"), one(9, "mine", "wholetoo"),
    ]  # fmt: skip
    records = [record for record, _ in made]
    timed = {"held": 1.0, "seconds_per_step": 1 / 5000}
    cells = [
        cell(records[0], match="seconds"), cell(records[0], match="flops"),
        cell(records[1], match="flops", held=1.0), cell(records[2], match="seconds", **timed),
        cell(records[3], match="seconds", **timed),
    ]  # fmt: skip
    folder = study_folder(*records, cells=cells)
    lay_output(folder, made)
    assert words(1) == ({"flops", "reference"}, False, True)
    assert words(2) == words(3) == ({"seconds", "ofseconds", "reference"}, True, False)
    assert words(4) == words(5) == ({"low", "lowtoo"}, False, False)
    assert words(6) == words(7) == ({"half", "halftoo"}, False, False)
    assert words(8) == words(9) == ({"whole", "wholetoo"}, False, False)


def test_without_texts_it_says_why_once(study_folder, tmp_path):
    made = [record.model_copy(update={"hypotheses_sha256": {"test": "0" * 64}}) for record in runs()]
    folder = study_folder(*made)
    samples = Samples(folder, References(folder, tmp_path / "nowhere"))
    write_pages(load_study(folder), folder, tmp_path / "page", samples)
    (line,) = samples.left_out
    assert line.startswith("sources and references of sentences: ")


def test_differences_are_those_of_words():
    assert [tuple(part) for part in marked("a b d e", "a b c d")] == [
        ("a b", "same"), ("c", "missing"), ("d", "same"), ("e", "added"),
    ]  # fmt: skip
    assert [tuple(part) for part in marked("", "a")] == [("a", "missing")]


@pytest.mark.parametrize("index", COMMITTED, ids=[path.parts[-3] for path in COMMITTED])
def test_a_page_of_the_results_is_what_its_records_give(index):
    """But for the drawings, whose bytes are matplotlib's."""
    folder = index.parents[1]
    study = load_study(folder)
    page = index_page(study, with_curves((*study.train_records, *study.trials), folder))
    made, committed = (re.sub(r'src="data:image[^"]*"', "", text) for text in (page, index.read_text()))
    is_same = made == committed  # a failing `==` of two pages would be explained for minutes
    assert is_same, f"to make it again: seqbench report {folder.relative_to(ROOT)} --format html"


def test_an_interrupted_page_leaves_the_old_one_whole(study_folder, tmp_path):
    folder = study_folder(*runs())
    before, _ = pages(folder, tmp_path / "page")

    def interrupted(records):
        yield next(iter(records))
        raise KeyboardInterrupt

    study = load_study(study_folder(*runs(seeds=range(5))))
    with pytest.raises(KeyboardInterrupt):
        write_pages(
            study, folder, tmp_path / "page", Samples(folder, References(folder, folder)), interrupted
        )
    left = {
        p.relative_to(tmp_path / "page").as_posix(): p.read_text()
        for p in (tmp_path / "page").rglob("*.html")
    }
    assert left == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    after, _ = pages(folder, tmp_path / "page")
    assert len(after) == 1 + 15


def test_what_a_user_laid_beside_the_pages_stays(study_folder, tmp_path):
    folder, output = study_folder(*runs()), tmp_path / "page"
    pages(folder, output)
    theirs = [output / "runs" / "notes.html", output / "runs" / "a.txt", output / "notes.html"]
    for path in theirs:
        path.write_text("mine")
    run_id = runs()[0].run_id
    shutil.rmtree(folder / "runs" / run_id)
    pages(folder, output)
    assert [path.read_text() for path in theirs] == ["mine"] * 3
    assert not (output / "runs" / f"{run_id}.html").exists()


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("failing", ["old", "runs", "index.html"])
def test_an_old_page_stays_whole_where_the_new_one_cannot_take_its_place(
    study_folder, tmp_path, monkeypatch, failing
):
    folder, output = study_folder(*runs(seeds=[0])), tmp_path / "page"
    pages(folder, output)
    (output / "runs" / "mine.txt").write_text("mine")
    before, replace = content(output), Path.replace

    def stopped(self, target):
        if target.name == failing:
            monkeypatch.undo()  # what was moved may be moved back
            raise OSError(28, "No space left on device")
        return replace(self, target)

    study_folder(*runs(seeds=[0, 1]))
    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(StorageError, match="cannot be written: No space left on device"):
        pages(folder, output)
    assert content(output) == before
    pages(folder, output)
    after = content(output)
    assert len(after) == len(before) + 3
    assert after["index.html"] != before["index.html"] and after["runs/mine.txt"] == b"mine"


def test_what_killed_reports_left_goes_when_it_is_old(study_folder, tmp_path):
    folder, output = study_folder(*runs(seeds=[0])), tmp_path / "page"
    for name, age in (("old", 2 * STALE_SECONDS), ("young", 0)):
        left = output / f".report.{name}.tmp"
        (left / "runs").mkdir(parents=True)
        for path in (left / "runs", left):
            os.utime(path, (time.time() - age,) * 2)
    pages(folder, output)
    assert sorted(path.name for path in output.iterdir()) == [".report.young.tmp", "index.html", "runs"]


def test_a_folder_that_cannot_be_written_is_named(study_folder, tmp_path):
    folder = study_folder(*runs())
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        pages(folder, tmp_path / "file" / "page")


def test_records_that_cannot_be_read_are_counted_and_named(study_folder, tmp_path):
    folder = study_folder(*runs())
    for run_id in (f"{number:016x}" for number in (0, 1)):
        (folder / "runs" / run_id / "record.json").write_text("{}")
    text = pages(folder, tmp_path / "page")[0]["index.html"]
    assert "<b>2</b>records unreadable" in text
    assert text.count("unreadable, left out: runs/") == 2


def test_without_records_it_says_so(study_folder, tmp_path):
    text = pages(study_folder(), tmp_path / "page")[0]["index.html"]
    assert "no records yet" in text
