"""Committed pages, read as a program reads what a browser is given, beside the records that they are of.

What tests expect of a page is computed from the files' JSON by formulas of their own; only the number of
digits is that of `rounding.py`.
"""

import html
import json
import math
import re
import statistics
from dataclasses import dataclass, field
from html.parser import HTMLParser

from scipy import stats

from benchmark.config import ROOT
from benchmark.report.rounding import mean_text, without_spread

RESULTS = ROOT / "results"
METRICS = {
    "BLEU": "bleu",
    "chrF": "chrf",
    "sequence accuracy %": "sequence_accuracy",
    "token accuracy %": "token_accuracy",
}


@dataclass
class ReadTable:
    title: str = ""
    notes: list[str] = field(default_factory=list)
    """The lines between the title and the table."""
    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, str]] = field(default_factory=list)
    """By the column's title, its lines joined by |."""
    runs: list[list[str]] = field(default_factory=list)
    """The run ids that each row leads to."""


class Reader(HTMLParser):
    """The tables of a page by their ids, in order; those without an id by a number."""

    def __init__(self, page):
        super().__init__()
        self.tables, self.charts, self.facts = {}, {}, {}
        self._title, self._notes, self._table = "", [], ReadTable()
        self._cells, self._text, self._links, self._bold = [], None, [], ""
        self._is_data = self._is_head = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "table":
            self._table = ReadTable(self._title, self._notes)
            self.tables[given.get("id", len(self.tables))] = self._table
        elif tag == "tr":
            self._cells, self._links = [], []
        elif tag in ("td", "th", "li", "h3", "b"):
            self._text = "" if tag != "b" else self._text
        elif tag == "br" and self._text is not None:
            self._text += "|"
        elif tag == "a" and self._text is not None:
            self._links.append(given["href"].removeprefix("runs/").removesuffix(".html"))
        elif tag == "script":
            self._is_data = given.get("id") == "charts"
        elif tag == "thead":
            self._is_head = True
        if tag == "h3":
            self._notes = []

    def handle_data(self, text):
        if self._is_data:
            self.charts = {one["name"]: one for one in json.loads(text)["charts"]}
            self._is_data = False
        elif self._text is not None:
            self._text += text

    def handle_endtag(self, tag):
        text = " ".join((self._text or "").split())
        if tag == "b":
            self._bold, self._text = text, ""
        elif tag == "li":
            self._notes.append(text)
            if self._bold:
                self.facts[text], self._bold = self._bold, ""
        elif tag == "h3":
            self._title = text
        elif tag in ("td", "th"):
            self._cells.append(text.removesuffix(" ≈"))
        elif tag == "thead":
            self._table.columns, self._is_head = self._cells, False
        elif tag == "tr" and not self._is_head:
            columns = self._table.columns or [str(place) for place in range(len(self._cells))]
            self._table.rows.append(dict(zip(columns, self._cells, strict=True)))
            self._table.runs.append(self._links)
        if tag in ("td", "th", "li", "h3"):
            self._text = None


def points_of(chart):
    """Of a chart, by the names of their fields and the series."""
    return [
        {"series": chart["series"][number], **dict(zip(chart["fields"], values, strict=True))}
        for number, *values in chart["points"]
    ]


def read_page(study):
    return Reader((RESULTS / study / "report" / "index.html").read_text())


@dataclass
class ReadClaim:
    verdict: str
    effect: str
    conditions: list[str]
    """All that is said beneath it, prediction and test too."""


def read_claims(study):
    """Of a page of `why`, by number."""
    page = (RESULTS / study / "report" / "index.html").read_text()
    found = {}
    for number, article in re.findall(
        r'<article class="claim"[^>]* id="([^"]*)">(.*?)</article>', page, re.DOTALL
    ):
        ((verdict, effect),) = re.findall(r'<span class="verdict">(.*?)</span>: (.*?)</p>', article)
        items = re.findall(r"<li>(.*?)</li>", article)
        verdict, effect, *notes = (
            html.unescape(re.sub("<[^>]*>", "", one)) for one in (verdict, effect, *items)
        )
        found[number] = ReadClaim(verdict, effect, notes)
    return found


def read_records(study):
    """By run id, as JSON has them."""
    found = [json.loads(path.read_text()) for path in (RESULTS / study).glob("runs/*/record.json")]
    return {one["run_id"]: one for one in found}


def section(page, name):
    return [table for key, table in page.tables.items() if str(key).startswith(f"{name}-")]


def match_of(table):
    """What a table of comparison holds equal; empty where it says of nothing."""
    return table.title.partition(", equal ")[2].partition(" (")[0]


def half_width(values):
    if len(values) == 1:
        return None
    quantile = stats.t.ppf(0.975, len(values) - 1)
    return float(quantile * statistics.stdev(values) / math.sqrt(len(values)))


def mean_of(values):
    return mean_text(statistics.fmean(values), half_width(values))


def split_and_metric(column):
    """Of a column's title; None where it is no score's."""
    text = column.replace("_|", "_").replace("|", " ")
    for title, metric in METRICS.items():
        if text.endswith(f" {title}"):
            return text.removesuffix(f" {title}"), metric
    return None


def score(record, split, metric):
    (value,) = (one["value"] for one in record["scores"] if (one["split"], one["metric"]) == (split, metric))
    return value


def first_test_split(record):
    return next(one["split"] for one in record["scores"] if one["split"] != "validation")


def over_seeds(records, name):
    values = [record[name] for record in records]
    middle = without_spread(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({without_spread(min(values))} to {without_spread(max(values))})"
