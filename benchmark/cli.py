"""The command. Results go to stdout, progress and logs to stderr; heavy libraries load when a command needs
them.

Exit codes: 0 as asked; 1 internal; 2 the user's input, in one line; 3 finished, but something failed or was
left out; 4 a check, a threshold or a replay did not hold; 5 nothing matched; 75 left to
another worker; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer

if TYPE_CHECKING:
    from benchmark.config import RunOptions
    from benchmark.record import Record, TrainRecord
    from benchmark.report.layout import Table
    from benchmark.report.study_results import StudyResults
    from benchmark.request import Request
    from benchmark.store import StudyFolder
    from benchmark.study import Made

app = typer.Typer(
    name="seqbench",
    help="Sequence models side by side, fairly: one trainer, one data module, one score.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  seqbench run quick",
)

P = ParamSpec("P")


class Wandb(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


class Form(StrEnum):
    terminal = "terminal"
    html = "html"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    svg = "svg"
    png = "png"
    json = "json"
    wandb = "wandb"


class Scale(StrEnum):
    quick = "quick"
    standard = "standard"
    full = "full"


class Kind(StrEnum):
    models = "models"
    tasks = "tasks"
    studies = "studies"
    runs = "runs"


def say(text: str) -> None:
    """One line for the user, beside the results."""
    sys.stderr.write(f"seqbench: {text}\n")
    sys.stderr.flush()


def show(text: str) -> None:
    """A result."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def of_many_records(command: Callable[P, int]) -> Callable[P, int]:
    """A command whose objects stay, a hundred thousand records among them: Python's collector would go
    through them again and again. `StudyRun` lets it work again where cells are to run, which may take days.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        from benchmark.store import uncollected

        with uncollected():
            return command(*args, **kwargs)

    return run


def ending(command: Callable[P, int]) -> Callable[P, None]:
    """Turn what a command returns or raises into the exit code of the process."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(_exit_code(functools.partial(command, *args, **kwargs)))

    return run


def _exit_code(command: Callable[[], int]) -> int:
    from benchmark.config import Unfinished, UserError
    from benchmark.store import StorageError

    try:
        check_siblings()
        return command()
    except UserError as error:
        say(str(error))
        return 2
    except Unfinished as error:
        if text := str(error):
            say(text)
        return error.exit_code
    except StorageError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception:
        traceback.print_exc()
        say("this is a mistake in seqbench, or in a model or task; the lines above say where")
        return 1


def check_siblings() -> None:
    """Refuse to run with a `models` or `tasks` that is not ours: these are common names for folders.

    Raises:
        UserError: another package would be imported.
    """
    import importlib.util

    from benchmark.config import ROOT, UserError

    for name in ("models", "tasks"):
        specification = importlib.util.find_spec(name)
        origin = specification.origin if specification is not None else None
        if origin is None or Path(origin).resolve().parent.parent != ROOT:
            raise UserError(
                f"{name}: Python would import {origin or 'none'}, not the package in {ROOT}; "
                "start it as `seqbench` or `python -P -m benchmark`"
            )


Results = Annotated[Path, typer.Option(help="Folder of the results.", show_default=True)]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of each process.  [default: all it may use]")
]
DataDirectory = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder of the data sets.  [default: SEQBENCH_DATA, else the user's cache]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Run the .py files that a study or record names.", show_default=False),
]

_RUN_HELP = """Run experiments: those of a study that have no complete record yet; then print the table.

WHAT is a study (a preset, a study file, results/<study>/study.yaml, or a record.json) and any number of
field=value. A value with commas is an axis of the grid. A model or task of your own is named by its file.
The command is also called sweep.

\b
Examples:
  seqbench run quick
  seqbench run model=transformer-small,lstm-small task=reverse seed=0,1 training.steps=500
  seqbench run multi30k-en-de training.seconds=60 --study short-try
  seqbench run model.name=mine.py task=reverse training.steps=500
  seqbench run results/multi30k-en-de/runs/0123456789abcdef/record.json
"""


@ending
@of_many_records
def run(
    what: Annotated[list[str], typer.Argument(metavar="WHAT...", help="A study, and field=value.")],
    results: Results = Path("results"),
    data_directory: DataDirectory = None,
    study: Annotated[str | None, typer.Option(help="Name of the study's folder in the results.")] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes that share each batch.")] = 1,
    threads: Threads = None,
    wandb: Annotated[Wandb, typer.Option(help="Where wandb keeps its mirror of the runs.")] = Wandb.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and run none.")] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast/--keep-going", help="Whether the first failed run ends the study.")
    ] = False,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> int:
    from benchmark.config import RunOptions
    from benchmark.request import request_from
    from benchmark.store import StudyFolder

    request = request_from(what, study=study, trust_code=trust_code)
    folder = StudyFolder(results, request.study)
    _refuse_a_copy(what, folder, study)
    options = RunOptions(
        results=results,
        data_directory=_data_directory(data_directory),
        device=device,
        devices=devices,
        threads=_threads(threads, devices),
        wandb=wandb.value,
        trust_code=trust_code,
        progress=sys.stderr.isatty(),
        study=request.study,
    )
    if dry_run:
        from benchmark.running import planned

        _show_cells(planned(request, folder), folder, options, as_json)
        return 0
    if devices > 1:
        from benchmark.device import check_devices

        check_devices(options)
    given = _record_to_replay(what, folder)
    if given is not None and (there := folder.run(request.cells[0].experiment.run_id()).result()):
        say(f"run again before, {there.finished_at}; remove {folder.path} to run it once more")
    code = _run_study(request, folder, options, as_json, fail_fast)
    return max(code, _say_reproduction(given, request, folder)) if given and code in (0, 3) else code


app.command("run", help=_RUN_HELP)(run)
app.command("sweep", help=_RUN_HELP, hidden=True)(run)


def _data_directory(given: Path | None) -> Path:
    from benchmark.config import UserError
    from tasks.data.download import find_data_directory

    try:
        return find_data_directory(given)
    except ValueError as error:
        raise UserError(str(error)) from None


def _run_study(
    request: Request,
    folder: StudyFolder,
    options: RunOptions,
    as_json: bool,
    fail_fast: bool,
) -> int:
    import dataclasses

    from benchmark import tracking
    from benchmark.config import UserError
    from benchmark.engines.local import Refused
    from benchmark.running import StudyRun

    folder.prepare()
    mode, why = tracking.choose_mode(options.wandb)
    options = dataclasses.replace(options, wandb=mode)
    study_run = StudyRun(folder, options, say=say, fail_fast=fail_fast, begins=why)
    try:
        outcome = study_run.run(request)
    except (UserError, Refused):
        folder.remove_if_empty()
        raise
    _mirror(folder, study_run.options)
    if outcome.exit_code == 2:
        return 2
    unhappy = _show_results(folder, outcome.made, as_json)
    return outcome.exit_code or (3 if unhappy else 0)


def _refuse_a_copy(what: Sequence[str], folder: StudyFolder, study: str | None) -> None:
    """A frozen study goes on where it lies, or where --study says."""
    from benchmark.config import UserError

    for one in what:
        path = Path(one) / "study.yaml" if os.path.isdir(one) else Path(one)
        is_frozen = path.name == "study.yaml" and os.path.isdir(path.parent / "runs")
        if study is None and is_frozen and path.parent.resolve() != folder.path.resolve():
            raise UserError(
                f"{path}: is of study {folder.name}, and would go on in {folder.path}; say where with "
                "--study and --results"
            )


def _record_to_replay(what: Sequence[str], folder: StudyFolder) -> TrainRecord | None:
    """The record that is to be run again, read before anything runs; None where WHAT is something else."""
    from benchmark.record import read_record

    path = next((Path(one) for one in what if "=" not in one and one.endswith(".json")), None)
    record = read_record(path) if path is not None else None
    if path is None or record is None or record.kind != "train":
        return None
    # A record is no evidence of itself.
    own = folder.path / "runs" / record.run_id / path.name
    return None if path.resolve() == own.resolve() else record


def _say_reproduction(given: TrainRecord, request: Request, folder: StudyFolder) -> int:
    from benchmark.report.escaping import for_terminal
    from benchmark.report.reproduction import reproduction

    again = folder.run(request.cells[0].experiment.run_id()).record()
    if again is None or again.kind != "train":
        return 0
    result = reproduction(given, again)
    for line in result.lines:
        say(for_terminal(line))
    return 4 if result.holds is False else 0


def _mirror(folder: StudyFolder, options: RunOptions) -> None:
    """Show the comparison in wandb. Whatever goes wrong there is said and changes no result."""
    if options.wandb == "disabled":
        return
    from benchmark import tracking
    from benchmark.report.wandb_table import log_comparison

    try:
        log_comparison(folder.path, options.wandb)  # type: ignore[arg-type]
    except Exception as error:
        say(f"wandb has no table of this study: {tracking.reason(error)}")


def _show_cells(request: Request, folder: StudyFolder, options: RunOptions, as_json: bool) -> None:
    from benchmark.engines.local import slots
    from benchmark.forecast import forecast, summary
    from benchmark.request import settings_of
    from benchmark.study import known_runs

    plan = forecast(known_runs(request, folder), folder)
    rows = [
        {
            "run_id": one.run_id,
            "model": one.cell.model_preset,
            "task": one.cell.task_preset,
            "match": one.cell.match,
            "trial": one.cell.trial,
            "seed": one.cell.experiment.seed,
            "status": one.status,
            "goes_on_at_step": one.step,
            "expected_seconds": one.seconds,
            "expected_peak_memory_bytes": one.memory_bytes,
            "experiment": one.cell.experiment.document(),
        }
        for one in plan
    ]
    if as_json:
        show(json.dumps({"study": folder.name, "cells": rows}, indent=1))
        return
    names = ["run_id", "model", "task", "match", "trial", "seed", "status"]
    names = [name for name in names if any(row[name] is not None for row in rows) or name == "run_id"]
    shown = [
        row if one.status != "interrupted" else {**row, "status": f"interrupted, goes on at step {one.step}"}
        for row, one in zip(rows, plan, strict=True)
    ]
    lines = [[str(row[name] if row[name] is not None else "-") for name in names] for row in shown]
    settings = settings_of([one.cell for one in plan])
    _show_columns([["run", *names[1:], "settings"], *map(list.__add__, lines, ([one] for one in settings))])
    for line in summary(plan, side_by_side=len(slots(options))):
        say(line)
    if "speed" in request.measure:
        say("and speeds, which are compared after the runs")
    if request.undecided:
        say(f"and {request.undecided} runs of the comparison, which follow from the search")


def _show_columns(lines: list[list[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    show("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines))


def _show_results(folder: StudyFolder, made: Made, as_json: bool) -> bool:
    """Print what a study has now; whether a run is not done, or a record cannot be read."""
    from benchmark.record import UnreadableRecord
    from benchmark.report.study_results import load_study
    from benchmark.report.tables import terminal_table

    loaded = load_study(folder.path, folder)
    there: dict[str, Record] = {one.run_id: one for one in (*loaded.train_records, *loaded.trials)}
    runs = []
    for cell in made.runs if "train" in made.measure else []:
        record, failure = there.get(cell.run_id), None
        if record is None:
            try:
                record = folder.record(cell.run_id)
            except UnreadableRecord as error:
                failure = str(error)
        runs.append(
            {
                "run_id": cell.run_id,
                "model": cell.model_preset,
                "task": cell.task_preset,
                "seed": cell.experiment.seed,
                "trial": cell.trial,
                "status": record.status if record is not None else None,
                "failure": record.failure if record is not None else failure,
            }
        )
    if as_json:
        for line in loaded.unreadable:
            say(f"left out: {line}")
        show(json.dumps({"study": folder.name, "folder": str(folder.path), "runs": runs}, indent=1))
    else:
        show(terminal_table(loaded, _width()))
        say(f"again at any time:  seqbench report {folder.path}")
    # A trial of a search is a trial however it ended.
    failed = any(one["status"] != "done" and one["trial"] is None for one in runs)
    return failed or loaded.is_broken or bool(loaded.unreadable)


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120


def _threads(threads: int | None, devices: int = 1) -> int | None:
    """Of each process; UserError where there are not so many cores."""
    from benchmark.config import UserError
    from benchmark.record import available_cores

    cores = available_cores()
    if threads is not None and threads * devices > cores:
        each = f" for each of {devices} processes" if devices > 1 else ""
        raise UserError(f"--threads: {threads} are asked for{each}, and {cores} cores may be used")
    return threads


_WHY_HELP = """Measure what section 4 of "Attention Is All You Need" claims, and give a verdict on each claim.

Operations, sequential depth, path length, signal and time of the layers of Table 1, and of the three
architectures; from scale standard on it trains small models as well. Started again it does what is missing,
and writes the page.

\b
Examples:
  seqbench why --scale quick
  seqbench why
  seqbench why --run results/multi30k-en-de/runs/0123456789abcdef
"""


@app.command(help=_WHY_HELP)
@ending
def why(
    scale: Annotated[
        Scale, typer.Option(help="How much is measured: in minutes, in one to two hours, in many hours.")
    ] = Scale.standard,
    results: Results = Path("results"),
    data_directory: DataDirectory = None,
    runs: Annotated[
        list[Path] | None,
        typer.Option("--run", metavar="FOLDER", help="A trained run, whose signal is measured as well."),
    ] = None,
    study: Annotated[str, typer.Option(help="Name of the study's folder in the results.")] = "why",
    seed: Annotated[
        int,
        typer.Option(min=0, help="Of untrained weights and of the order of rounds; takes its own --study."),
    ] = 0,
    device: Device = "auto",
    threads: Threads = None,
    wandb: Annotated[Wandb, typer.Option(help="Where wandb keeps its mirror of the runs.")] = Wandb.auto,
    trust_code: TrustCode = False,
    as_json: Json = False,
) -> int:
    from dataclasses import replace

    from benchmark import tracking
    from benchmark.config import RunOptions
    from benchmark.report.study_results import load_study
    from benchmark.store import StudyFolder
    from benchmark.why.facts import Facts
    from benchmark.why.measuring import reproduce
    from benchmark.why.page import claim_rows, terminal_page, write_page

    threads = _threads(threads)
    mode, line = tracking.choose_mode(wandb.value)
    say(line)
    folder = StudyFolder(results, study)
    options = RunOptions(
        results=results,
        data_directory=_data_directory(data_directory),
        device=device,
        threads=threads,
        wandb=mode,
        trust_code=trust_code,
        progress=sys.stderr.isatty(),
        study=study,
    )
    records, code = reproduce(scale.value, folder, options, runs or [], say, seed)
    # The folder may hold those of other machines and scales, of which this page says nothing.
    loaded, own = load_study(folder.path), {record.run_id for record in records}
    loaded = replace(loaded, layer_records=tuple(one for one in loaded.layer_records if one.run_id in own))
    facts = Facts.of(loaded)
    write_page(facts, folder.path / "report", scale.value)
    page = _page(loaded, folder.path, None, options.data_directory, trust_code)
    if as_json:
        show(json.dumps({"study": study, "page": str(page), "claims": claim_rows(facts)}, indent=1))
    else:
        show(terminal_page(facts, _width()))
    say(f"the page: {page}; as text, with its figures: {page.with_name('why.md')}")
    return 3 if loaded.unreadable or any(record.status == "failed" for record in records) else code


_REPORT_HELP = """Make the report of a study from its records: tables, or the page with everything.

\b
Examples:
  seqbench report multi30k-en-de
  seqbench report results/multi30k-en-de --format markdown --output table.md
  seqbench report multi30k-en-de --format html --open
  seqbench report multi30k-en-de multi30k-en-de-long --format latex
  seqbench report multi30k-en-de --format svg --output figures
  seqbench report multi30k-en-de --format csv --output tables
  seqbench report multi30k-en-de --rescore
  seqbench report multi30k-en-de --format wandb
  seqbench report multi30k-en-de --significance
"""


@app.command(help=_REPORT_HELP)
@ending
@of_many_records
def report(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY...", help="Studies' names in the results, or their folders.")
    ],
    results: Results = Path("results"),
    data_directory: DataDirectory = None,
    form: Annotated[
        Form,
        typer.Option("--format", help="What to make; html, csv, svg, png: in STUDY/report, or --output."),
    ] = Form.terminal,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the stored output again first; 4 where it differs.")
    ] = False,
    significance: Annotated[
        bool,
        typer.Option("--significance", help="Also test differences over sentences, from the stored output."),
    ] = False,
    forensics: Annotated[
        bool,
        typer.Option("--forensics", help="Also score the stored output in the ways that papers mix up."),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write to this file, or folder, instead.")] = None,
    across_devices: Annotated[
        bool,
        typer.Option("--across-devices", help="One table for runs on several devices: scores, no speeds."),
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Make the page and show it in a browser.")
    ] = False,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> int:
    import webbrowser

    from benchmark.config import UserError
    from benchmark.report.study_results import load_study
    from benchmark.report.tables import write_csv
    from benchmark.store import write_atomic

    folders = [_study_folder(study, results) for study in studies]
    if open_page:
        if form not in (Form.terminal, Form.html) or as_json:
            raise UserError("--open: shows the page, which is --format html; leave one of the two out")
        form = Form.html
    elif as_json:
        form = Form.json
    into_folder = form in (Form.html, Form.csv, Form.svg, Form.png)
    for name, wanted in (("--significance", significance), ("--forensics", forensics)):
        if (into_folder or form is Form.wandb) and wanted:
            raise UserError(f"{name}: is not part of --format {form.value}; leave one of the two out")
    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder {output.absolute().parent}")
    if output is not None and (into_folder or form is Form.json) and len(folders) > 1:
        raise UserError(f"--output: one study at a time with --format {form.value}; got {len(folders)}")
    if output is not None and output.exists() and output.is_dir() != into_folder:
        kind = ("a file", "a folder") if into_folder else ("a folder", "a file")
        raise UserError(f"--output: {output} is {kind[0]}; --format {form.value} makes {kind[1]}")
    if across_devices and form is Form.wandb:
        raise UserError("--across-devices: is not part of --format wandb; leave one of the two out")
    code, texts = 0, []
    for folder in folders:
        if rescore:
            code = max(code, _rescore(folder, _data_directory(data_directory), trust_code))
        if form is Form.wandb:
            code = max(code, _rebuild_wandb(folder, output))
            continue
        loaded = load_study(folder, across_devices=across_devices)
        code = max(code, 3 if loaded.unreadable or loaded.is_broken or not loaded.has_results else 0)
        if form is not Form.html:
            for line in loaded.unreadable:
                say(f"left out: {line}")
        if form is Form.html:
            page = _page(loaded, folder, output, _data_directory(data_directory), trust_code)
            show(str(page))
            if open_page and not webbrowser.open(page.absolute().as_uri()):
                say(f"no browser could be started; open {page}")
        elif form in (Form.svg, Form.png):
            _figures(loaded, folder, output or folder / "report" / "figures", form)
        elif form is Form.csv:
            show("\n".join(map(str, write_csv(loaded, output or folder / "report" / "tables"))))
        else:
            text, complete = _report_text(
                loaded, folder, form, significance, forensics, _data_directory(data_directory), trust_code
            )
            texts.append(text)
            code = max(code, 0 if complete else 3)
    if texts and output is None:
        show("\n".join(texts))
    elif texts and output is not None:
        write_atomic(output, "\n".join(texts).encode())
    return code


def _report_text(
    loaded: StudyResults,
    folder: Path,
    form: Form,
    significance: bool,
    forensics: bool,
    data_directory: Path,
    trust_code: bool,
) -> tuple[str, bool]:
    """A study's report as text, and whether all that was asked for beside its tables could be made."""
    from benchmark.report.tables import latex_table, markdown_table, terminal_table

    complete = True
    further: list[Table] = []
    sentence_rows: list[dict[str, Any]] | None = None
    if significance:
        further, sentence_rows, whole = _sentence_significance(loaded, folder, data_directory, trust_code)
        complete = complete and whole
    scored: list[dict[str, Any]] | None = None
    if forensics:
        tables, scored, whole = _forensics(loaded, folder, data_directory, trust_code)
        further, complete = [*further, *tables], complete and whole
    if form is Form.json:
        document = _report_document(loaded)
        if scored is not None:
            document["forensics"] = scored
        if sentence_rows is not None:
            document["sentence_significance"] = sentence_rows
        return json.dumps(document, indent=1) + "\n", complete
    if form is Form.markdown:
        return markdown_table(loaded, further=further), complete
    if form is Form.latex:
        return latex_table(loaded, further=further), complete
    return terminal_table(loaded, _width(), further=further), complete


def _page(
    loaded: StudyResults, folder: Path, output: Path | None, data_directory: Path, trust_code: bool
) -> Path:
    """The study's page, written."""
    from tqdm import tqdm

    from benchmark.report.html import write_pages
    from benchmark.report.samples import Samples
    from benchmark.rescore import References

    samples = Samples(folder, References(folder, data_directory, trust_code=trust_code))
    page = write_pages(
        loaded,
        folder,
        output or folder / "report",
        samples,
        lambda records: tqdm(list(records), desc=loaded.name, unit="run", leave=False, disable=None),
    )
    for line in (*samples.left_out, *loaded.unreadable):
        say(f"left out: {line}")
    return page


def _figures(loaded: StudyResults, folder: Path, output: Path, form: Form) -> None:
    """Write the study's figures and show their files."""
    from benchmark.report.figures import write_figures

    written = write_figures(loaded, folder, output, "svg" if form is Form.svg else "png")
    show("\n".join(map(str, written)) if written else "no figures: nothing was measured that one shows")


def _rebuild_wandb(folder: Path, output: Path | None) -> int:
    """Log to wandb what it does not have yet: every run and the tables."""
    from benchmark import tracking
    from benchmark.config import UserError
    from benchmark.report.wandb_runs import log_runs
    from benchmark.report.wandb_table import log_comparison

    if output is not None:
        raise UserError("--output: a report to wandb goes to no file; leave one of the two out")
    mode, why = tracking.choose_mode("auto")
    say(why)
    if mode == "disabled":
        return 3
    try:
        found = log_runs(folder, mode)
        table = log_comparison(folder, mode)
    except tracking.NotStarted as error:
        raise UserError(f"wandb does not start: {error}") from None
    show(
        f"runs: {found.logged} logged, {found.there} were there; "
        f"tables: {'were there, or have no rows' if table is None else f'logged as {table}'}"
    )
    for line in found.left_out:
        say(f"left out: {line}")
    return 3 if found.left_out else 0


def _study_folder(study: str, results: Path) -> Path:
    from benchmark.config import UserError, unknown_name

    if "/" in study or (Path(study) / "runs").is_dir():
        if not (Path(study) / "runs").is_dir():
            missing = "no such study" if not Path(study).exists() else "no study: it has no folder runs"
            raise UserError(f"{study}: {missing}")
        return Path(study)
    there = _studies(results)
    if study not in there:
        raise unknown_name(f"study: {results}", study, there)
    return results / study


def _studies(results: Path) -> list[str]:
    """Those that were made, and those of measurements alone, which no `study.yaml` lists."""
    return sorted({path.parent.name for name in ("study.yaml", "runs") for path in results.glob(f"*/{name}")})


def _report_document(loaded: Any) -> dict[str, Any]:
    from benchmark.report.budgets import budget_rows
    from benchmark.report.comparison import layer_rows, rows
    from benchmark.report.search import search_rows
    from benchmark.report.significance import significance_rows
    from benchmark.report.tables import study_remarks
    from benchmark.why.facts import Facts
    from benchmark.why.page import claim_rows

    return {
        "study": loaded.name,
        "rows": rows(loaded.groups),
        "significance": significance_rows(loaded.groups),
        "budget": budget_rows(loaded.groups),
        "search": search_rows(loaded),
        "speed": [
            {
                "task": record.task_preset,
                "device": record.provenance.device,
                "noisy": record.noisy,
                "noise": record.noise,
                "rows": [r.model_dump() for r in record.rows],
            }
            for record in loaded.speed_records
        ],
        "layers": layer_rows(loaded.layer_records),
        "claims": claim_rows(Facts.of(loaded)) if loaded.layer_records else [],
        "remarks": study_remarks(loaded),
    }


def _rescore(folder: Path, data_directory: Path, trust_code: bool) -> int:
    from benchmark.rescore import rescore

    scores = rescore(folder, data_directory, trust_code=trust_code)
    differing = [one for one in scores if one.difference is not None]
    for one in differing:
        say(f"run {one.run_id}, {one.split}, {one.metric}: {one.difference}")
    say(f"{len(scores)} scores made again, {len(differing)} differ; scores.json lies beside each record")
    return 4 if differing else 0


def _sentence_significance(
    loaded: StudyResults, folder: Path, data_directory: Path, trust_code: bool
) -> tuple[list[Table], list[dict[str, Any]], bool]:
    """The tests over sentences as tables and as rows, and whether all output took part."""
    from benchmark.report.sentence_significance import compare_sentences, sentence_rows, sentence_tables

    found = compare_sentences(loaded, folder, data_directory, trust_code=trust_code, announce=say)
    for line in (*found.untested, *found.left_out):
        say(line)
    return sentence_tables(loaded, found), sentence_rows(found), not found.left_out


def _forensics(
    loaded: StudyResults, folder: Path, data_directory: Path, trust_code: bool
) -> tuple[list[Table], list[dict[str, Any]], bool]:
    """Stored output under other scores, as tables and as rows, and whether all output took part."""
    from benchmark.report.forensics import forensic_rows, forensic_tables
    from benchmark.report.sentence_significance import Outputs
    from benchmark.rescore import References

    outputs = Outputs(folder, References(folder, data_directory, trust_code=trust_code))
    rows = forensic_rows(loaded, outputs)
    for line in outputs.left_out:
        say(line)
    if not rows:
        say("no output of a test split that is scored by BLEU")
    return forensic_tables(loaded, rows), rows, not outputs.left_out


_DIFF_HELP = """Show what differs between two studies, or two runs, and which differences exceed the noise.

A and B are studies (a name in the results, or a folder), or records (a record.json, the folder of a run, or
STUDY/RUN-ID). Runs of two studies are compared seed by seed. What must not be compared is refused.

With --fail-on the exit code is 4 where a field of B is worse by more than the threshold in any cell:
negative against falls, positive against rises, with % as a share of A.

\b
Examples:
  seqbench diff multi30k-en-de multi30k-en-de-again
  seqbench diff quick/0123456789abcdef results/other/runs/0123456789abcdef/record.json
  seqbench diff before after --fail-on bleu:-0.5 --fail-on "train_target_tokens_per_second:-5%"
"""


@app.command(help=_DIFF_HELP)
@ending
@of_many_records
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A study or a record.")],
    second: Annotated[str, typer.Argument(metavar="B", help="What to hold against it.")],
    results: Results = Path("results"),
    as_json: Json = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option("--fail-on", metavar="FIELD:THRESHOLD", help="Most that a field may get worse."),
    ] = None,
) -> int:
    from benchmark.report.difference import compare
    from benchmark.report.difference_tables import terminal_difference
    from benchmark.report.escaping import for_terminal
    from benchmark.report.thresholds import check_thresholds, parse_threshold

    thresholds = [parse_threshold(text) for text in fail_on or []]
    difference = compare(_side(first, results), _side(second, results), names=(first, second))
    checks = check_thresholds(thresholds, difference)
    if not difference.has_matched:
        say(for_terminal(f"{first} and {second} have no model, task, settings and seed in common"))
        return 5
    if as_json:
        document = {**difference.document(), "checks": [vars(check) for check in checks]}
        show(json.dumps(document, indent=1, allow_nan=False))
    else:
        show(terminal_difference(difference, checks, _width()))
    if not all(check.holds for check in checks):
        return 4
    return 3 if difference.unreadable else 0


def _side(name: str, results: Path) -> StudyResults | Record:
    """What A or B of `diff` names: a file, a folder, STUDY/RUN-ID or a study's name."""
    from benchmark.config import UserError
    from benchmark.record import read_record
    from benchmark.report.study_results import load_study

    if name.endswith(".json"):
        return read_record(Path(name))
    study, _, run_id = name.rstrip("/").partition("/")
    for path in (Path(name), results / study / "runs" / run_id if run_id else Path(name)):
        if any((path / file).is_file() for file in ("record.json", "config.yaml")):
            return read_record(path / "record.json")
    if run_id and not Path(name).exists() and study in _studies(results):
        raise UserError(f"{name}: {results / study} has no run {run_id}")
    return load_study(_study_folder(name, results))


_CHECK_HELP = """Check that a model or a task is sound: what every comparison relies on.

A model: cached decoding equals teacher forcing, no position sees its future, padding is inert, and more. A
task: its splits, its vocabulary, and that training and test do not overlap.

\b
Examples:
  seqbench check transformer
  seqbench check mine.py
  seqbench check grammar
"""


@app.command(help=_CHECK_HELP)
@ending
def check(
    name: Annotated[str, typer.Argument(metavar="MODEL|TASK", help="A name, or the path of a .py file.")],
    data_directory: DataDirectory = None,
    as_json: Json = False,
) -> int:
    from benchmark.check import check_named

    outcomes = check_named(name, _data_directory(data_directory))
    if as_json:
        rows = [
            {"name": one.name, "ok": one.ok, "applies": one.applies, "message": one.message}
            for one in outcomes
        ]
        show(json.dumps(rows, indent=1))
    else:
        for one in outcomes:
            show(
                f"{('ok' if one.applies else '-') if one.ok else 'FAILED':6}  {one.name}"
                + (f": {one.message}" if one.message else "")
            )
    return 0 if all(one.ok for one in outcomes) else 4


_DOCTOR_HELP = """Look at this machine: what on it would spoil a run, or a comparison of speeds.

In some 15 seconds: versions, devices, threads against the cores that may be used, memory, folders, wandb; and
measured, the precision worth using, the speed of matrix products, noise, drift, and whether the machine is
shared or throttled now. Each line ends in ok, in look (a comparison needs care) or in wrong; the exit code is
4 where something is wrong.

\b
Examples:
  seqbench doctor
  seqbench doctor --json
  seqbench doctor --results /scratch/results --data-dir ~/data
"""


@app.command(help=_DOCTOR_HELP)
@ending
def doctor(
    results: Results = Path("results"), data_directory: DataDirectory = None, as_json: Json = False
) -> int:
    from benchmark.doctor import Finding, examine, measured_in_child

    found: list[Finding] = []
    for finding in examine(results, data_directory, measured_in_child):
        if not as_json:
            if not found or found[-1].section != finding.section:
                show(f"{finding.section}:")
            show(f"  {finding.line()}")
        found.append(finding)
    if as_json:
        show(json.dumps({"findings": [finding.document() for finding in found]}, indent=1))
    return 4 if any(finding.verdict == "wrong" for finding in found) else 0


_LIST_HELP = """List presets, studies and runs.

\b
Examples:
  seqbench list
  seqbench list models
  seqbench list runs --results results --json
"""


@app.command("list", help=_LIST_HELP)
@ending
@of_many_records
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> int:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in Kind if kind is None else [kind]:
        found[one.value] = list(_runs(results) if one is Kind.runs else _presets(one.value))
    code = 3 if any(row["status"] is None for row in found.get("runs", [])) else 0
    if as_json:
        show(json.dumps(found, indent=1))
        return code
    width = max((len(row["name"]) for rows in found.values() for row in rows), default=0)
    for name, rows in found.items():
        if rows or kind is not None:
            show(f"{name}:")
        for row in rows:
            show(f"  {row['name']:{width}}  {row['about']}".rstrip())
    return code


def _presets(kind: str) -> Iterator[dict[str, Any]]:
    from benchmark.config import ROOT, one_line, presets
    from benchmark.request import first_comment

    for name in presets(kind):
        about = one_line(first_comment(ROOT / "configs" / kind / f"{name}.yaml"))
        yield {"name": name, "about": about}


def _runs(results: Path) -> Iterator[dict[str, Any]]:
    from benchmark.config import UserError, one_line
    from benchmark.store import StudyFolder

    for study in _studies(results):
        try:
            contents = StudyFolder(results, study).contents()
        except UserError as error:  # a folder that somebody copied and named
            yield {"name": one_line(study), "about": f"unreadable: {error}", "kind": None, "status": None}
            continue
        for record in contents.records:
            if record.kind == "train":
                about = f"{record.model_preset}, {record.task_preset}, seed {record.seed}, {record.status}"
            elif record.kind == "speed":
                about = f"speed, {record.task_preset}, {record.status}"
            else:
                about = f"{record.kind}, {record.subject}, {record.status}"
            name = f"{study}/{record.run_id}"
            yield {"name": name, "about": one_line(about), "kind": record.kind, "status": record.status}
        for unreadable in contents.unreadable.values():
            yield {"name": study, "about": f"unreadable: {unreadable}", "kind": None, "status": None}


@app.command(hidden=True)
@ending
def cell(run_folder: Path, options: Annotated[str, typer.Option()]) -> int:
    """One run, in a process of its own; `run` starts it."""
    from benchmark.engines.child import die_with_parent, options_from_json, or_not_stored, run_child

    die_with_parent()
    return or_not_stored(lambda: run_child(run_folder, options_from_json(options)))


@app.command(hidden=True)
@ending
def speed(run_folder: Path, options: Annotated[str, typer.Option()]) -> int:
    """The speeds of a study's models, in a process of its own; `run` starts it."""
    from benchmark.engines.child import die_with_parent, options_from_json, or_not_stored, run_speed_child

    die_with_parent()
    return or_not_stored(lambda: run_speed_child(run_folder, options_from_json(options)))


@app.command(hidden=True)
@ending
def layers(run_folders: list[Path], options: Annotated[str, typer.Option()]) -> int:
    """Measurements of layers, one after another, in a process of their own; `why` starts it."""
    from benchmark.engines.child import die_with_parent, options_from_json, or_not_stored, run_layers_child

    die_with_parent()
    return or_not_stored(lambda: run_layers_child(run_folders, options_from_json(options)))


@app.command(hidden=True)
@ending
def capacity() -> int:
    """What this machine can do, as JSON; `doctor` starts it."""
    from pydantic import TypeAdapter

    from benchmark.engines.child import die_with_parent
    from benchmark.measure.capacity import Capacity, measured_capacity

    die_with_parent()
    with contextlib.redirect_stdout(sys.stderr):
        found = measured_capacity()
    show(TypeAdapter(Capacity).dump_json(found).decode())
    return 0


@app.command(hidden=True)
@ending
def resolve(options: Annotated[str, typer.Option()]) -> int:
    """Experiments from stdin to stdout, with their budgets in steps; `run` starts it."""
    from benchmark.engines.child import die_with_parent, options_from_json, resolve_child

    die_with_parent()
    documents = json.loads(sys.stdin.read())
    with contextlib.redirect_stdout(sys.stderr):
        resolved = resolve_child(documents, options_from_json(options))
    show(json.dumps(resolved))
    return 0


def run_and_end() -> None:
    """`main` in a process of its own, which then ends at once: to take a hundred thousand records apart, and
    torch, takes seconds.
    """
    codes: list[int] = []
    atexit.register(_end_at_once, codes)  # before all others, so that it comes after them
    try:
        main()
    except SystemExit as ended:
        if isinstance(ended.code, int):
            codes.append(ended.code)
        raise


def _end_at_once(codes: Sequence[int]) -> None:
    if not codes:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # Python tells of it
    logging.shutdown()
    os._exit(codes[0])


def main() -> None:
    """Run the command line."""
    # A cache that cannot be written is no reason to talk; Lightning imports it.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.Abort:
        say("interrupted")
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        # typer's errors of a command line have their class in different places in its versions
        if not hasattr(error, "format_message"):
            raise
        text = error.format_message()
        if "\n" in text:  # the help, where no command was given
            show(text)
        else:
            context = getattr(error, "ctx", None)
            say(f"{text.rstrip('.')}; {context.command_path if context else 'seqbench'} --help tells more")
        sys.exit(2)
