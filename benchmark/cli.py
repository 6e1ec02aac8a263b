"""The command. Results go to stdout, progress and logs to stderr; heavy libraries load when a command needs
them.

Exit codes: 0 as asked; 1 internal; 2 the user's input, in one line; 3 finished, but something failed or was
left out; 4 a check or a replay did not hold; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import contextlib
import functools
import json
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
    from benchmark.engines.local import Supervisor
    from benchmark.store import StudyFolder
    from benchmark.study import FrozenCell, Made, Request

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
    markdown = "markdown"
    json = "json"


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


def ending(command: Callable[P, int]) -> Callable[P, None]:
    """Turn what a command returns or raises into the exit code of the process."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        raise typer.Exit(_exit_code(functools.partial(command, *args, **kwargs)))

    return run


def _exit_code(command: Callable[[], int]) -> int:
    from benchmark.config import UserError
    from benchmark.store import StorageError

    try:
        check_siblings()
        return command()
    except UserError as error:
        say(str(error))
        return 2
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

\b
Examples:
  seqbench run quick
  seqbench run model=transformer-small,lstm-small task=grammar-translation seed=0,1
  seqbench run multi30k-en-de training.seconds=60 --study short-try
  seqbench run model.name=mine.py task=reverse training.steps=500
  seqbench run results/multi30k-en-de/runs/0123456789abcdef/record.json
"""


@ending
def run(
    what: Annotated[list[str], typer.Argument(metavar="WHAT...", help="A study, and field=value.")],
    results: Results = Path("results"),
    data_directory: DataDirectory = None,
    study: Annotated[str | None, typer.Option(help="Name of the study's folder in the results.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes that share each batch.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each process.  [default: all it may use]")
    ] = None,
    wandb: Annotated[Wandb, typer.Option(help="Where wandb keeps its mirror of the runs.")] = Wandb.auto,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and run none.")] = False,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> int:
    from benchmark.config import RunOptions
    from benchmark.store import StudyFolder
    from benchmark.study import request_from

    request = request_from(what, study=study, trust_code=trust_code)
    folder = StudyFolder(results, request.study)
    if dry_run:
        _show_cells(request, folder, as_json)
        return 0
    options = RunOptions(
        results=results,
        data_directory=_data_directory(data_directory),
        device=device,
        devices=devices,
        threads=threads,
        wandb=wandb.value,
        trust_code=trust_code,
        progress=sys.stderr.isatty(),
        study=request.study,
    )
    return _run_study(request, folder, options, as_json)


app.command("run", help=_RUN_HELP)(run)
app.command("sweep", help=_RUN_HELP, hidden=True)(run)


def _data_directory(given: Path | None) -> Path:
    from benchmark.config import UserError
    from tasks.data.download import find_data_directory

    try:
        return find_data_directory(given)
    except ValueError as error:
        raise UserError(str(error)) from None


def _run_study(request: Request, folder: StudyFolder, options: RunOptions, as_json: bool) -> int:
    import dataclasses

    from benchmark import tracking
    from benchmark.config import UserError
    from benchmark.engines.local import ChildFailed, Interrupted, Refused, Supervisor, resolve
    from benchmark.study import make, remaining

    folder.prepare()
    try:
        mode, why = tracking.choose_mode(options.wandb)
    except ValueError as error:
        raise UserError(str(error)) from None
    options = dataclasses.replace(options, wandb=mode)
    supervisor = Supervisor()
    try:
        with supervisor.handling_signals():
            made = make(request, folder, lambda experiments: resolve(supervisor, experiments, options))
            todo = remaining(made, folder) if "train" in made.measure else []
            _say_plan(folder, made, len(todo))
            if todo:
                say(why)
            refused = _run_cells(supervisor, folder, todo, options)
            speed_failed = _run_speed(supervisor, folder, made, options)
    except Interrupted as error:
        say(f"{error}; started again, the study goes on where it stopped")
        return error.exit_code
    except Refused:
        return 2
    except ChildFailed as error:
        say(str(error))
        return 1
    _mirror(folder, options)
    if todo and refused == len(todo):
        return 2
    return max(_show_results(folder, made, as_json), 3 if refused or speed_failed else 0)


def _mirror(folder: StudyFolder, options: RunOptions) -> None:
    """Show the comparison in wandb. Whatever goes wrong there is said and changes no result."""
    if options.wandb == "disabled":
        return
    from benchmark.config import one_line
    from benchmark.report.wandb_table import log_comparison

    try:
        log_comparison(folder.path, options.wandb)  # type: ignore[arg-type]
    except Exception as error:
        say(one_line(f"wandb has no table of this study: {type(error).__name__}: {error}"))


def _say_plan(folder: StudyFolder, made: Made, todo: int) -> None:
    there = len(made.cells) - todo
    parts = [f"{len(made.cells)} runs", f"{there} done" if there else "", f"{todo} to do"]
    text = f"{folder.path}: {', '.join(part for part in parts if part)}"
    if made.others:
        text += f"; {made.others} of earlier requests are kept"
    say(text)


def _run_cells(
    supervisor: Supervisor, folder: StudyFolder, todo: Sequence[FrozenCell], options: RunOptions
) -> int:
    """Run what is missing; how many runs a mistake of the user kept from starting."""
    from benchmark.engines.local import Refused, run_cell

    refused = 0
    for number, cell in enumerate(todo, start=1):
        name = f"{cell.model_preset}, {cell.task_preset}, seed {cell.experiment.seed}"
        say(f"[{number}/{len(todo)}] {name} (run {cell.run_id})")
        try:
            record = run_cell(supervisor, cell, folder, options)
        except Refused:
            refused += 1
            continue
        if record.status != "done":
            say(f"run {cell.run_id} {record.status}: {record.failure}")
    return refused


def _run_speed(supervisor: Supervisor, folder: StudyFolder, made: Made, options: RunOptions) -> bool:
    """Compare speeds where the study asks for it; whether one failed."""
    from benchmark.engines.local import Refused, run_speed_cell, speed_device
    from benchmark.study import remaining_speed, speed_cells

    if "speed" not in made.measure:
        return False
    failed = False
    for cell in remaining_speed(speed_cells(made, speed_device(options)), folder):
        say(f"speed of {', '.join(cell.experiments)} on {cell.task_preset} (run {cell.run_id})")
        try:
            record = run_speed_cell(supervisor, cell, folder, options)
        except Refused:
            failed = True
            continue
        if record.status == "failed":
            say(f"run {cell.run_id} failed: {record.failure}")
            failed = True
    return failed


def _show_cells(request: Request, folder: StudyFolder, as_json: bool) -> None:
    from benchmark.record import UnreadableRecord
    from benchmark.study import known_runs

    rows = []
    for cell, run_id in known_runs(request, folder):
        status = "to do"
        if run_id is not None:
            with contextlib.suppress(UnreadableRecord):
                record = folder.run(run_id).record()
                status = record.status if record is not None else "to do"
        experiment = cell.experiment
        rows.append(
            {
                "run_id": run_id,
                "model": cell.model_preset,
                "task": cell.task_preset,
                "seed": experiment.seed,
                "status": status,
                "experiment": experiment.document(),
            }
        )
    if as_json:
        show(json.dumps({"study": folder.name, "cells": rows}, indent=1))
        return
    names = ["run_id", "model", "task", "seed", "status"]
    lines = [[str(row[name] if row[name] is not None else "-") for name in names] for row in rows]
    settings = _settings(rows)
    _show_columns([["run", *names[1:], "settings"], *map(list.__add__, lines, ([one] for one in settings))])


def _settings(rows: list[dict[str, Any]]) -> list[str]:
    """Of each cell, the fields that vary among those of its model and task."""
    from benchmark.report.comparison import flattened

    fields = [{**flattened(row["experiment"]), "seed": None} for row in rows]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row, one in zip(rows, fields, strict=True):
        groups.setdefault((row["model"], row["task"]), []).append(one)
    texts = []
    for row, one in zip(rows, fields, strict=True):
        others = groups[row["model"], row["task"]]
        varying = [name for name in one if any(other.get(name) != one[name] for other in others)]
        texts.append(" ".join(f"{name}={one[name]}" for name in varying))
    return texts


def _show_columns(lines: list[list[str]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    show("\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines))


def _show_results(folder: StudyFolder, made: Made, as_json: bool) -> int:
    from benchmark.record import UnreadableRecord
    from benchmark.report.study_results import load_study
    from benchmark.report.tables import terminal_table

    runs = []
    for cell in made.cells if "train" in made.measure else []:
        status: str | None
        status, failure = None, None
        try:
            record = folder.run(cell.run_id).record()
            if record is not None:
                status, failure = record.status, record.failure
        except UnreadableRecord as error:
            failure = str(error)
        runs.append(
            {
                "run_id": cell.run_id,
                "model": cell.model_preset,
                "task": cell.task_preset,
                "seed": cell.experiment.seed,
                "status": status,
                "failure": failure,
            }
        )
    if as_json:
        show(json.dumps({"study": folder.name, "folder": str(folder.path), "runs": runs}, indent=1))
    else:
        show(terminal_table(load_study(folder.path), _width()))
        say(f"again at any time:  seqbench report {folder.path}")
    return 0 if all(one["status"] == "done" for one in runs) else 3


def _width() -> int:
    return shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else 120


_REPORT_HELP = """Print the tables of a study from its records.

\b
Examples:
  seqbench report multi30k-en-de
  seqbench report results/multi30k-en-de --format markdown --output table.md
  seqbench report multi30k-en-de --rescore
"""


@app.command(help=_REPORT_HELP)
@ending
def report(
    study: Annotated[str, typer.Argument(help="A study's name in the results, or its folder.")],
    results: Results = Path("results"),
    data_directory: DataDirectory = None,
    form: Annotated[Form, typer.Option("--format", help="What to print.")] = Form.terminal,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score the stored output again first; 4 where it differs.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None,
    as_json: Json = False,
    trust_code: TrustCode = False,
) -> int:
    from benchmark.config import UserError
    from benchmark.report.study_results import load_study
    from benchmark.report.tables import markdown_table, terminal_table
    from benchmark.store import write_atomic

    folder = _study_folder(study, results)
    if output is not None and not output.absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder {output.absolute().parent}")
    code = 0
    if rescore:
        code = _rescore(folder, _data_directory(data_directory), trust_code)
    loaded = load_study(folder)
    if as_json or form is Form.json:
        text = json.dumps(_report_document(loaded), indent=1) + "\n"
    elif form is Form.markdown:
        text = markdown_table(loaded)
    else:
        text = terminal_table(loaded, _width())
    if output is None:
        show(text)
    else:
        write_atomic(output, text.encode())
    return code or (3 if loaded.unreadable else 0)


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
    return sorted(path.parent.name for path in results.glob("*/study.yaml"))


def _report_document(loaded: Any) -> dict[str, Any]:
    from benchmark.report.comparison import rows
    from benchmark.report.tables import study_remarks

    return {
        "study": loaded.name,
        "rows": rows(loaded.train_records, loaded.model_order),
        "speed": [
            {
                "task": record.task_preset,
                "device": record.provenance.device,
                "rows": [r.model_dump() for r in record.rows],
            }
            for record in loaded.speed_records
        ],
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
        rows = [{"name": one.name, "ok": one.ok, "message": one.message} for one in outcomes]
        show(json.dumps(rows, indent=1))
    else:
        for one in outcomes:
            show(
                f"{'ok    ' if one.ok else 'FAILED'}  {one.name}"
                + (f": {one.message}" if one.message else "")
            )
    return 0 if all(one.ok for one in outcomes) else 4


_LIST_HELP = """List presets, studies and runs.

\b
Examples:
  seqbench list
  seqbench list models
  seqbench list runs --results results --json
"""


@app.command("list", help=_LIST_HELP)
@ending
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="Only these.")] = None,
    results: Results = Path("results"),
    as_json: Json = False,
) -> int:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in Kind if kind is None else [kind]:
        found[one.value] = list(_runs(results) if one is Kind.runs else _presets(one.value))
    if as_json:
        show(json.dumps(found, indent=1))
        return 0
    width = max((len(row["name"]) for rows in found.values() for row in rows), default=0)
    for name, rows in found.items():
        if rows or kind is not None:
            show(f"{name}:")
        for row in rows:
            show(f"  {row['name']:{width}}  {row['about']}".rstrip())
    return 0


def _presets(kind: str) -> Iterator[dict[str, Any]]:
    from benchmark.config import ROOT, one_line, presets
    from benchmark.study import first_comment

    for name in presets(kind):
        about = one_line(first_comment(ROOT / "configs" / kind / f"{name}.yaml"))
        yield {"name": name, "about": about}


def _runs(results: Path) -> Iterator[dict[str, Any]]:
    from benchmark.config import one_line
    from benchmark.store import StudyFolder

    for study in _studies(results):
        contents = StudyFolder(results, study).contents()
        for record in contents.records:
            if record.kind == "train":
                about = f"{record.model_preset}, {record.task_preset}, seed {record.seed}, {record.status}"
            else:
                about = f"speed, {record.task_preset}, {record.status}"
            name = f"{study}/{record.run_id}"
            yield {"name": name, "about": one_line(about), "kind": record.kind, "status": record.status}
        for error in contents.unreadable:
            yield {"name": study, "about": f"unreadable: {error}", "kind": None, "status": None}


@app.command(hidden=True)
@ending
def cell(run_folder: Path, options: Annotated[str, typer.Option()]) -> int:
    """One run, in a process of its own; `run` starts it."""
    from benchmark.engines.child import die_with_parent, options_from_json, run_child

    die_with_parent()
    return run_child(run_folder, options_from_json(options))


@app.command(hidden=True)
@ending
def speed(run_folder: Path, options: Annotated[str, typer.Option()]) -> int:
    """The speeds of a study's models, in a process of its own; `run` starts it."""
    from benchmark.engines.child import die_with_parent, options_from_json, run_speed_child

    die_with_parent()
    return run_speed_child(run_folder, options_from_json(options))


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


def main() -> None:
    """Run the command line."""
    app()
