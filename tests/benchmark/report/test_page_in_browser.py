"""The page as a reader has it: in Chromium, from disk, with no network."""

import contextlib
import re
import shutil

import pytest

from benchmark.why.cells import ATTENTION, RECURRENT
from tests.benchmark.report.records import speed_record
from tests.benchmark.report.test_charts import utilisation
from tests.benchmark.report.test_html import COMMITTED, pages, runs
from tests.benchmark.why.test_table import scaling

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
GROUND = "getComputedStyle(document.body).backgroundColor"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        yield started
        started.close()


@contextlib.contextmanager
def watched(browser, index):
    """A page that is open; at its end it has complained of nothing and asked for files alone."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    yield page
    context.close()
    assert complaints == []
    assert all(url.startswith(("file://", "data:")) for url in asked)


@pytest.fixture
def opened(browser, study_folder, tmp_path):
    """The page of a small study."""
    _, index = pages(study_folder(*runs(seeds=range(4)), speed_record()), tmp_path / "page")
    with watched(browser, index) as page:
        yield page


def names(page):
    return page.locator("table tbody").first.locator("tr:visible > th").all_inner_texts()


def test_tables_are_sorted_and_filtered(opened):
    assert names(opened) == ["convs2s-small", "lstm-small", "transformer-small"]
    heading = opened.locator("thead button", has_text="BLEU").first
    heading.click()
    heading.click()
    assert names(opened) == ["lstm-small", "convs2s-small", "transformer-small"]
    assert heading.locator("xpath=..").get_attribute("aria-sort") == "descending"
    heading.focus()
    opened.keyboard.press("Enter")
    assert names(opened) == ["transformer-small", "convs2s-small", "lstm-small"]
    box = opened.locator("#comparison input[type=search]")
    box.fill("LSTM")
    assert names(opened) == ["lstm-small"]
    assert opened.locator("#comparison .filter output").inner_text() == "1 of 3"
    box.fill("")
    assert names(opened) == ["transformer-small", "convs2s-small", "lstm-small"]


def test_charts_are_drawn_hovered_and_changed(opened):
    figure = opened.locator("#curves-1")
    figure.scroll_into_view_if_needed()
    assert figure.locator("svg [aria-label=line] path").count() == 3
    first = figure.locator("svg").last.inner_html()
    figure.locator("select").first.select_option(label="validation loss, nats/token")
    assert figure.locator("svg").last.inner_html() != first
    figure.locator("input[type=checkbox]").first.uncheck()
    assert figure.locator("svg [aria-label=line] path").count() == 2
    figure.locator("svg [aria-label=dot] > *").last.hover(force=True)
    opened.wait_for_timeout(200)
    tip = figure.locator("svg [aria-label=tip]")
    assert "validation loss, nats/token:" in (tip.text_content() or "")
    assert "seeds: 4" in (tip.text_content() or "")


def test_learning_curves_are_over_steps_tokens_and_seconds(opened):
    """Of the fixture: 700 tokens and a tenth of a second for each step."""
    figure = opened.locator("#curves-1")
    ends = {}
    for label in ("optimiser steps", "target tokens, without padding", "training, s"):
        figure.locator("select").last.select_option(label=label)
        figure.locator(".drawing").focus()
        opened.keyboard.press("Home")
        opened.keyboard.press("ArrowRight")
        (ends[label],) = re.findall(
            rf"{re.escape(label)}: ([0-9,]+),", figure.locator("output").text_content() or ""
        )
        assert f"{label} →" in (figure.locator("svg").last.text_content() or "")
    assert list(ends.values()) == ["2,000", "1,400,000", "200"]


def test_speeds_of_layers_over_batches_and_devices_are_drawn(browser, study_folder, tmp_path):
    shares = {(layer, batch): 0.01 * batch for layer in (ATTENTION, RECURRENT) for batch in (1, 16, 64)}
    folder = study_folder(utilisation(512, shares), scaling("a", 1.5, 1.75))
    with watched(browser, pages(folder, tmp_path / "page")[1]) as page:
        over_batches, over_devices = page.locator("#layers-utilisation-512"), page.locator("#layers-scaling")
        assert over_batches.locator("svg [aria-label=line] path").count() == 2
        assert over_batches.locator("svg [aria-label=dot] > *").count() == 6
        assert over_devices.locator("svg [aria-label=dot] > *").count() == 2


def test_dark_and_light(opened):
    assert opened.evaluate(GROUND) == "rgb(255, 255, 255)"
    opened.locator("#theme").click()
    assert opened.evaluate(GROUND) == "rgb(20, 23, 26)"


def test_a_phone_scrolls_down_alone(opened):
    opened.set_viewport_size({"width": 360, "height": 740})
    opened.wait_for_timeout(300)  # charts are drawn again
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    opened.locator("table a").first.click()
    opened.wait_for_url("**/runs/*.html")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    assert "To make it again" in opened.locator("main").inner_text()
    opened.locator("nav a.name").click()
    opened.wait_for_url("**/index.html")


def test_keys_go_from_point_to_point_and_a_chart_is_one_stop(opened):
    drawing = opened.locator("#curves-1 .drawing")
    assert opened.locator("#curves-1 [tabindex='0']").count() == 1
    tip, told = drawing.locator("svg [aria-label=tip]"), opened.locator("#curves-1 output")
    opened.locator("#curves-1 input[type=checkbox]").last.focus()
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.className") == "drawing"
    steps = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp", "End", "ArrowLeft"):
        opened.keyboard.press(key)
        opened.wait_for_timeout(50)
        text = tip.text_content() or ""
        assert all(part in text for part in (told.text_content() or "").split(", ")[:1])
        steps += re.findall(r"optimiser steps: ([0-9,]+)", text)
    assert steps == ["2,000", "3,000", "1,000", "1,000", "3,000", "2,000"]
    opened.keyboard.press("Escape")
    opened.wait_for_timeout(50)
    assert (tip.text_content() or "", told.text_content()) == ("", "")


def told_of_quality(page):
    """What is said of the points of the first chart of quality, one after the other."""
    page.locator("#quality-1 .drawing").focus()
    told = []
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        told.append(page.locator("#quality-1 output").text_content())
    return told


def test_a_tip_has_the_digits_of_the_tables(opened):
    shown = {text for told in told_of_quality(opened) for text in re.findall(r"test BLEU: ([^,]+)", told)}
    cells = opened.locator("#comparison td").all_inner_texts()
    assert shown <= {cell.removesuffix(" ≈") for cell in cells}
    assert shown == {"34.21 ± 0.29", "32.21 ± 0.29", "30.21 ± 0.29"}


def test_the_front_is_said(opened):
    told = [re.split(r", (?=on|dominated)", text) for text in told_of_quality(opened)]
    dominated = "dominated: another is as good in both, and better in one"
    assert [(parts[0].partition(",")[0], parts[-1]) for parts in told] == [
        ("convs2s-small", dominated),
        ("lstm-small", "on the Pareto front"),
        ("transformer-small", dominated),
    ]


def test_a_series_has_one_colour_in_all_charts(opened):
    def colours(chart):
        items = opened.locator(f"{chart} .legend li")
        return {one.inner_text(): one.locator("path").get_attribute("fill") for one in items.all()}

    first, second = colours("#quality-1"), colours("#curves-1")
    assert first == second and len(set(first.values())) == 3


def test_the_chosen_theme_stays_on_the_pages_of_runs(opened):
    opened.locator("#theme").click()
    opened.locator("table a").first.click()
    opened.wait_for_url("**/runs/*.html")
    assert opened.evaluate(GROUND) == "rgb(20, 23, 26)"
    opened.locator("#theme").click()
    opened.go_back()
    opened.reload()
    assert opened.evaluate(GROUND) == "rgb(255, 255, 255)"


def test_the_name_of_a_row_stays_while_its_table_is_moved(opened):
    opened.set_viewport_size({"width": 390, "height": 800})
    wide = opened.locator("#comparison .wide").first
    more = opened.locator("#comparison .more").first
    more.wait_for(state="visible")
    wide.evaluate("one => one.scrollTo(10000, 0)")
    more.wait_for(state="hidden")
    left = wide.locator("tbody th").first.bounding_box()["x"]
    assert left == pytest.approx(wide.bounding_box()["x"], abs=1)


def test_paper_is_dark_on_light_has_everything_and_cuts_nothing(opened):
    opened.locator("#theme").click()
    opened.set_viewport_size({"width": 703, "height": 1000})  # A4 less its margins
    opened.emulate_media(media="print", color_scheme="dark")
    assert opened.evaluate("getComputedStyle(document.body).color") == "rgb(26, 29, 33)"
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.locator("details:not([open])").count() == 0
    tables = "[...document.querySelectorAll('.wide table')].map(t => t.getBoundingClientRect().right)"
    assert max(opened.evaluate(tables)) <= 703
    opened.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.locator("details[open]").count() == 0


@pytest.mark.parametrize("index", COMMITTED, ids=[path.parts[-3] for path in COMMITTED])
def test_a_page_of_the_results_works(browser, index):
    with watched(browser, index) as page:
        table = page.locator("table.sortable").first
        table.locator("thead button").last.click()
        assert table.locator("th[aria-sort=ascending]").count() == 1
        page.locator("#theme").click()
        assert page.evaluate(GROUND) == "rgb(20, 23, 26)"
        page.set_viewport_size({"width": 360, "height": 740})
        page.wait_for_timeout(300)  # charts are drawn again
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        runs = page.locator("table a")
        assert bool(runs.count()) == any((index.parent / "runs").glob("*.html"))
        if runs.count():
            runs.first.click()
            page.wait_for_url("**/runs/*.html")
            assert "To make it again" in page.locator("main").inner_text()
            assert page.evaluate(GROUND) == "rgb(20, 23, 26)"
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
