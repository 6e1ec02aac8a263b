"""The report as pages: one file that holds the whole study, and one for each run.

A page opens from disk and loads nothing: styles, scripts and data are in it. Texts from others are escaped by
the templates; the data of charts cannot end the element that holds them.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from benchmark.config import one_line
from benchmark.record import LayerRecord, Record, TrainRecord
from benchmark.report import charts, looks
from benchmark.report.comparison import group_titles
from benchmark.report.curves import with_curves
from benchmark.report.layout import Table
from benchmark.report.matrices import ranking_remarks, ranking_tables, significance_matrices
from benchmark.report.placing import made_aside
from benchmark.report.published import published_tables
from benchmark.report.reaching import reaching_tables
from benchmark.report.run_page import run_document
from benchmark.report.samples import Samples
from benchmark.report.search import search_tables
from benchmark.report.significance import significance_tables
from benchmark.report.study_results import StudyResults
from benchmark.report.tables import noise_of, speed_tables, study_remarks, topics, train_tables
from benchmark.store import write_atomic
from benchmark.why.facts import Facts, series_of, unsettled
from benchmark.why.figures import INTERACTIVE, MAPS, draw
from benchmark.why.page import TITLE, count_of, findings, first_paragraph
from benchmark.why.table import further_tables, table_1

ROWS_OF_A_SHORT_COMPARISON, ROWS_OF_A_SHORT_TABLE = 2, 8
"""At most these many rows need no filter."""
_RUN_PAGE = re.compile(r"[0-9a-f]{16}\.html")
"""A page that a report has made: run ids alone are so named."""


@dataclass(frozen=True)
class Text:
    """One cell of a table in a page."""

    text: str
    kind: str = ""
    """Classes of its look."""
    is_level: bool = False
    """Whether it has the sign of what the seeds do not tell from the highest mean."""

    @property
    def parts(self) -> list[str]:
        """Between which the line may end: a value, and its range in parentheses."""
        value, found, rest = self.text.partition(" (")
        return [value, f"({rest}"] if found and " to " in rest else [self.text]


@dataclass
class Section:
    """A part of the page, with an entry in its navigation."""

    id: str
    name: str
    lead: str = ""
    items: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def add(self, *tables: Table) -> None:
        for table in tables:
            short = ROWS_OF_A_SHORT_COMPARISON if self.id == "comparison" else ROWS_OF_A_SHORT_TABLE
            filtered = len(table.rows) > short
            self.items.append(
                {
                    "table": _table(table),
                    "id": f"{self.id}-{len(self.items)}",
                    "filtered": filtered,
                    "runs": [],
                }
            )

    def draw(self, *found: charts.Chart | None) -> None:
        self.items += [{"chart": chart} for chart in found if chart is not None]


def write_pages(
    study: StudyResults,
    study_folder: Path,
    folder: Path,
    samples: Samples,
    progress: Callable[[Iterable[TrainRecord]], Iterable[TrainRecord]] = lambda records: records,
) -> Path:
    """Write `index.html` and `runs/<id>.html` into `folder`; the path of the first.

    Pages that are there stay until all new ones are whole; what a user laid beside them stays.

    Raises:
        StorageError: the folder cannot be written.
    """
    environment = _environment()
    records = (*study.train_records, *study.trials)
    curves = with_curves(records, study_folder)
    with made_aside(folder) as new:
        (new / "runs").mkdir()
        template = environment.get_template("run.html.j2")
        for record in progress(records):
            document = run_document(study, curves.get(record.run_id, record), samples)
            text = template.render(style=_asset("page.css"), shell=_asset("shell.js"), **document)
            (new / "runs" / f"{record.run_id}.html").write_text(text, encoding="utf-8")
        write_atomic(new / "index.html", index_page(study, curves).encode())
        _replace(new, folder)
    return folder / "index.html"


def _replace(new: Path, folder: Path) -> None:
    """Put the new page in the place of the old one, which comes back where that fails.

    The pages of runs are exchanged as one folder; what a user laid between them is copied first.
    """
    runs, old = folder / "runs", new / "old"
    if runs.exists():
        shutil.copytree(
            runs,
            new / "runs",
            symlinks=True,
            ignore=lambda place, names: [
                name for name in names if place == str(runs) and _RUN_PAGE.fullmatch(name)
            ],
            dirs_exist_ok=True,
        )
        runs.replace(old)
    try:
        (new / "runs").replace(runs)
        try:
            (new / "index.html").replace(folder / "index.html")
        except BaseException:
            runs.replace(new / "runs")
            raise
    except BaseException:
        if old.exists() and not runs.exists():
            old.replace(runs)
        raise


def index_page(study: StudyResults, curves: dict[str, TrainRecord]) -> str:
    """The page of a study; the same text for the same records."""
    sections = [section for section in _sections(study, curves) if section.items or section.lines]
    drawn = [item["chart"] for section in sections for item in section.items if "chart" in item]
    document = {"looks": looks.looks(drawn), "charts": [chart.document() for chart in drawn]}
    # In JSON a `<` may be written so anywhere, and no `</script>` is left.
    data = json.dumps(_inert_inside(document), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        _environment()
        .get_template("index.html.j2")
        .render(
            study=study.name,
            title=TITLE if study.layer_records else study.name,
            lead=_lead(study),
            facts=_facts(study),
            sections=sections,
            charts=Markup(data),
            style=_asset("page.css"),
            shell=_asset("shell.js"),
            scripts=[_asset(name) for name in ("d3-7.9.0.min.js", "plot-0.6.17.min.js", "page.js")]
            if drawn
            else [_asset("page.js")],
        )
    )


def _sections(study: StudyResults, curves: dict[str, TrainRecord]) -> list[Section]:
    groups = study.groups
    titles = group_titles(study.name, groups)
    shaded = "Shaded: the highest mean (bold), and what these seeds do not tell from it (≈)."
    comparison = Section("comparison", "Comparison", f"{shaded} Rows lead to their runs.")
    comparison.add(*train_tables(study))
    if not any(item["table"]["marked"] for item in comparison.items):
        comparison.lead = "Rows lead to their runs."
    ranking = Section("ranking", "What is held equal", lines=ranking_remarks(groups))
    ranking.add(*ranking_tables(groups))
    if ranking.items:
        ranking.lead = shaded
    quality = Section("quality", "Quality against speed")
    learning = Section("curves", "Learning curves")
    learning.add(*reaching_tables(groups, titles, curves))
    distance = Section("distance", "Accuracy against distance")
    speed = Section("speed", "Speed")
    speed.add(*speed_tables(study))
    published = Section("published", "Published elsewhere", "Not measured here, and not to be mixed with it.")
    published.add(*published_tables(topics(study)))
    layers = Section("layers", "Layers")
    drawn = {section.id: section for section in (quality, learning, distance, speed, layers)}
    for chart in charts.study_charts(study, curves):
        drawn[chart.section].draw(chart)
    why = [_claims(study), _table_1(study)] if study.layer_records else []
    significance = Section("significance", "Significance")
    significance.add(*significance_matrices(groups, titles), *significance_tables(groups, titles))
    search = Section("search", "Search")
    search.add(*search_tables(study))
    problems = Section(
        "left-out",
        "What is not in the tables",
        lines=[line for line in study_remarks(study) if line not in ranking.lines],
    )
    provenance = Section("provenance", "How it was measured", lines=_provenance(study))
    return [
        *why, comparison, ranking, quality, learning, distance, speed, published, layers, significance,
        search, problems,
        provenance,
    ]  # fmt: skip


def _claims(study: StudyResults) -> Section:
    """The ledger: every claim with its prediction, its test, what was measured and the verdict."""
    ledger = findings(Facts.of(study))
    section = Section(
        "claims",
        "Claims",
        f"{count_of(ledger)}. The edge of the former is double.",
    )
    section.items = [
        {"claim": claim, "finding": finding, "runs": _runs_by_study(study, finding.runs)}
        for claim, finding in ledger
    ]
    return section


def _runs_by_study(study: StudyResults, runs: Sequence[str]) -> list[dict[str, Any]]:
    """Runs that were read, by the study that they are of; those with a page of their own here."""
    with_page = {record.run_id for record in (*study.train_records, *study.trials)}
    elsewhere: dict[str, str] = {}
    for one in study.beside:
        elsewhere |= {record.run_id: one.name for record in (*one.train_records, *one.trials)}
        elsewhere |= {record.run_id: one.name for record in one.speed_records}
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        place = study.name if run in with_page else elsewhere.get(run, study.name)
        found.setdefault(place, []).append({"id": run, "has_page": run in with_page})
    return [{"study": name, "runs": mine} for name, mine in found.items()]


def _table_1(study: StudyResults) -> Section:
    """Table 1 with what was measured beside it, and the figures."""
    facts = Facts.of(study)
    section = Section("table-1", "Table 1, measured")
    for table in (table_1(facts), *further_tables(facts)):
        section.add(table)
        section.items[-1]["runs"] = _runs_by_study(study, table.records)
    with tempfile.TemporaryDirectory() as drawn:
        for name, caption in draw(facts, Path(drawn), without=INTERACTIVE):
            data = base64.b64encode((Path(drawn) / name).read_bytes()).decode()
            kind = "map" if Path(name).stem in MAPS else "lines"
            image = f"data:image/svg+xml;base64,{data}"
            section.items.append({"image": image, "kind": kind, "caption": caption})
    return section


def _lead(study: StudyResults) -> str:
    if study.layer_records:
        return first_paragraph()
    models = dict.fromkeys(r.model_preset for r in study.train_records)
    tasks = dict.fromkeys(r.task_preset or r.task_name for r in study.train_records)
    if not models:
        return "Measurements, each with what it was measured on."
    return f"{', '.join(models)} on {', '.join(tasks)}."


def _facts(study: StudyResults) -> list[dict[str, str]]:
    records = (*study.train_records, *study.trials)
    states = [sum(record.status == state for record in records) for state in ("done", "failed", "diverged")]
    facts = []
    if records:
        facts.append({"name": "runs done, failed, diverged", "value": " / ".join(f"{n:,}" for n in states)})
    if study.unreadable:
        facts.append({"name": "records unreadable", "value": f"{len(study.unreadable):,}"})
    if study.missing:
        facts.append({"name": "runs not made yet", "value": f"{len(study.missing):,}"})
    if study.trials:
        facts.append({"name": "of them trials of the search", "value": f"{len(study.trials):,}"})
    seeds = {record.seed for record in study.train_records if record.status == "done"}
    if seeds:
        facts.append({"name": "seed" if len(seeds) == 1 else "seeds", "value": f"{len(seeds):,}"})
    hours = sum(record.train_seconds or 0.0 for record in records) / 3600
    if hours:
        facts.append({"name": "hours of training", "value": f"{hours:,.1f}"})
    if study.layer_records:
        facts.append({"name": "measurements of layers", "value": f"{len(study.layer_records):,}"})
    return facts


def _provenance(study: StudyResults) -> list[str]:
    found: dict[str, int] = {}
    records: list[Record] = [*study.train_records, *study.trials]
    records += [*study.speed_records, *study.layer_records]
    for record in records:
        one = record.provenance
        changed = {True: ", with changes", False: "", None: ""}[one.dirty]
        line = (
            f"{one.device}, {one.threads} of {one.cores} cores as threads, {one.precision}, torch "
            f"{one.torch_version}, Python {one.python_version}, {one.platform}, seqbench "
            f"{one.seqbench_version} at commit {one.commit[:12]}{changed}"
        )
        found[line] = found.get(line, 0) + 1
    lines = [f"{number:,} record{'' if number == 1 else 's'}: {line}" for line, number in found.items()]
    return [*lines, *_timing(records)]


def _timing(records: Sequence[Record]) -> list[str]:
    """By kind of record: how it was timed, what disturbed it, and how many series of times kept drifting."""
    methods: dict[tuple[str, str], int] = {}
    noisy: dict[tuple[str, str], list[str]] = {}
    drifting: dict[str, tuple[int, int]] = {}
    for record in records:
        if record.timing_method:
            key = record.kind, record.timing_method
            methods[key] = methods.get(key, 0) + 1
        if isinstance(record, TrainRecord):
            continue
        if record.noisy:
            what = record.run_id if record.kind == "speed" else record.subject
            noisy.setdefault((record.kind, noise_of(record)), []).append(what)
        if isinstance(record, LayerRecord) and (series := len(series_of(record))):
            some, every = drifting.get(record.kind, (0, 0))
            drifting[record.kind] = some + unsettled(record), every + series
    return [
        *(
            f"timing of {number:,} {kind} record{'' if number == 1 else 's'}: {method}"
            for (kind, method), number in methods.items()
        ),
        *(f"noisy, {kind} of {'; '.join(names)}: {seen}" for (kind, seen), names in noisy.items()),
        *(
            f"drift: {some:,} of {every:,} series of {kind} records never settled"
            for kind, (some, every) in drifting.items()
            if some
        ),
    ]


def _table(table: Table) -> dict[str, Any]:
    """For the template: each cell with its look."""
    rows = [
        [_cell(table, row, column, text) for column, text in enumerate(texts)]
        for row, texts in enumerate(table.rows)
    ]
    return {
        "title": table.title,
        "heading": table.heading,
        "columns": table.columns,
        "rows": rows,
        "runs": [[{"name": name, "id": run_id} for name, run_id in runs] for runs in table.runs],
        "remarks": table.remarks,
        "notes": table.notes,
        "marked": bool(table.best),
    }


def _cell(table: Table, row: int, column: int, text: str) -> Text:
    kinds = []
    if table.columns[column].is_text:
        kinds.append("text")
        if len(text) > 60:
            kinds.append("long")
    if (row, column) in table.best:
        kinds.append("best")
    if (row, column) in table.level:
        kinds.append("level")
    return Text(text, " ".join(kinds), is_level=(row, column) in table.level)


def _environment() -> jinja2.Environment:
    def read(name: str) -> str:
        return str(_asset(name))

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        finalize=_inert,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _inert(value: Any) -> Any:
    """Texts without control characters and direction marks; they are escaped after this."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _inert_inside(value: Any) -> Any:
    if isinstance(value, dict):
        return {_inert(name): _inert_inside(one) for name, one in value.items()}
    return [_inert_inside(one) for one in value] if isinstance(value, list | tuple) else _inert(value)


def _asset(name: str) -> Markup:
    """A file of the page's own."""
    return Markup(resources.files("benchmark.report").joinpath("page", name).read_text(encoding="utf-8"))
