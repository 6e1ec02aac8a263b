"""The page as a reader has it: in Chromium, from disk, with no network."""

import shutil

import pytest

from tests.benchmark.report.records import speed_record
from tests.benchmark.report.test_html import pages, runs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, "--disable-sync"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, study_folder, tmp_path):
    """A page that is open, and whatever it asked for or complained of."""
    _, index = pages(study_folder(*runs(seeds=range(4)), speed_record()), tmp_path / "page")
    context = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme="light")
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(index.as_uri())
    yield page
    context.close()
    assert complaints == []
    assert all(url.startswith("file://") for url in asked)


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
    box = opened.locator("#significance input[type=search]")
    if box.count():
        before = opened.locator("#significance tbody tr:visible").count()
        box.first.fill("lstm")
        assert 0 < opened.locator("#significance tbody tr:visible").count() < before


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


def test_dark_and_light(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(ground) == "rgb(255, 255, 255)"
    opened.locator("#theme").click()
    assert opened.evaluate(ground) == "rgb(20, 23, 26)"


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
