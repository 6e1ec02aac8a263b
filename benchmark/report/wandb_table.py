"""A study's comparison as tables and figures in wandb: a mirror of the records, logged once.

wandb shows the first rows only of a table that is logged again, and a study that is reported again has the
same rows: so the tables are immutable, and the run that holds them is named after the records that they come
from.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.record import Record, record_bytes
from benchmark.report.figures import write_figures
from benchmark.report.study_results import StudyResults, load_study
from benchmark.report.tables import flat_rows
from benchmark.tracking import Mode, is_uploaded, or_offline, project, quiet_settings, run_directory


def log_comparison(study_folder: Path, mode: Mode) -> str | None:
    """Log the tables of a study's `flat_rows` in one run, with the figures of its report.

    The run is of type `report`; its files go to WANDB_DIR, else into the study's folder. Logging the same
    records again does nothing.

    Returns:
        The run's id; None if nothing was logged: wandb is disabled, or there are no records, or they are
        logged already.
    """
    study = load_study(study_folder)
    tables = flat_rows(study)
    if mode == "disabled" or not tables:
        return None
    run_id = _run_id(study)
    directory = run_directory(study_folder)
    for table in directory.glob(f"wandb/*run-*-{run_id}/files/media/table/*.table.json"):
        if mode == "offline" or is_uploaded(table.parents[3]):
            return None
    import wandb

    def start(mode: Mode) -> wandb.Run:
        return wandb.init(
            project=project(),
            group=study.name,
            job_type="report",
            name=f"report {study.name}",
            id=run_id,
            resume="allow",
            dir=directory,
            mode=mode,
            settings=quiet_settings(),
        )

    run = or_offline(mode, start)
    try:
        if run.resumed:  # another machine has logged these records
            return None
        run.log({name: _table(table) for name, table in tables.items()})
        with tempfile.TemporaryDirectory() as drawn:
            figures = write_figures(study, study_folder, Path(drawn), "png")
            run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
    finally:
        run.finish()
    return run_id


def _run_id(study: StudyResults) -> str:
    """Another one where a record is another, of the study or of those beside it, which its claims read."""
    digest = hashlib.sha256(study.name.encode())
    for one in (study, *study.beside):
        every: list[Record] = [*one.train_records, *one.trials, *one.speed_records, *one.layer_records]
        for record in every:
            digest.update(record_bytes(record))
    return f"report-{digest.hexdigest()[:16]}"


def _table(table: Sequence[dict[str, Any]]) -> Any:
    import wandb

    columns: list[str | int] = [*table[0]]
    return wandb.Table(
        columns=columns,
        data=[list(row.values()) for row in table],
        # a column may hold numbers in one row and nothing in another
        allow_mixed_types=True,
        log_mode="IMMUTABLE",
    )
