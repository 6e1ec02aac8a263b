"""What wandb gets of a run while it trains is what its record gives afterwards, row by row."""

import json
from pathlib import Path
from typing import ClassVar

import pytest

from benchmark import tracking
from benchmark.history import (
    WINDOW_STEPS,
    Steps,
    plateau_cuts,
    rows_of_record,
    summary,
    training_rows,
    validation_row,
)
from benchmark.record import CurvePoint
from benchmark.report import wandb_runs
from benchmark.report.wandb_runs import log_runs, steps_of
from tests.benchmark.test_tracking import stored_records, wandb_folders  # noqa: F401  (a fixture)
from tests.benchmark.training_run import experiment, run


def rows_in(folder: Path, run: str = "offline-run-*") -> list[dict[str, float]]:
    """The history of every such run in a folder, without what wandb adds of its own."""
    rows = []
    for record in stored_records(folder, run):
        if record.HasField("history"):
            row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            rows.append({key: value for key, value in row.items() if not key.startswith("_")})
    return sorted(rows, key=lambda row: (row["trainer/global_step"], sorted(row)))


def summary_in(folder: Path, run: str = "offline-run-*") -> dict[str, object]:
    values: dict[str, object] = {}
    for record in stored_records(folder, run):
        if record.HasField("summary"):
            values |= {
                "/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update
            }
    return values


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_rebuilt_from_its_record_is_the_run_as_it_was_logged(wandb_folders, tmp_path):  # noqa: F811
    import wandb

    one = experiment("lstm", training={"steps": 130, "validations": 3, "schedule": "plateau"})
    record = run(one, tmp_path, wandb="offline")
    assert record is not None and record.wandb_mode == "offline"
    tracking.finish(record.status)  # as the end of a run's process does
    assert wandb.run is None
    live = rows_in(wandb_folders / "wandb_dir")
    assert [row["trainer/global_step"] for row in live] == [43, 50, 87, 100, 130]
    assert live[1]["train/loss"] > 0 and "val/loss" in live[0]
    folder = tmp_path / "results" / "study"
    run_folder = folder / "runs" / one.run_id()
    from benchmark.record import record_bytes

    (run_folder / "record.json").write_bytes(record_bytes(record))
    assert log_runs(folder, "offline") == (0, 1, []), "it is there already"
    ended = summary_in(wandb_folders / "wandb_dir")
    for path in sorted((wandb_folders / "wandb_dir").rglob("*"), reverse=True):
        path.unlink() if path.is_file() or path.is_symlink() else path.rmdir()
    assert log_runs(folder, "offline") == (1, 0, [])
    assert rows_in(wandb_folders / "wandb_dir") == live
    rebuilt = summary_in(wandb_folders / "wandb_dir")
    expected = summary(record)
    assert {name: rebuilt[name] for name in expected} == expected
    assert {name: ended[name] for name in expected} == expected
    assert log_runs(folder, "offline") == (0, 1, [])
    (wandb_run,) = (wandb_folders / "wandb_dir" / "wandb").glob(f"offline-run-*-{one.run_id()}")
    (wandb_run / "seqbench-whole").unlink()  # as of a run that was killed
    (run_folder / "curves.jsonl.gz").rename(tmp_path / "curves")
    (run_folder / "curves.jsonl.gz").write_bytes(b"damaged")
    logged, there, (left_out,) = log_runs(folder, "offline")
    assert (logged, there) == (0, 0) and "curves.jsonl.gz: damaged: " in left_out
    assert wandb_run.exists(), "nothing is lost"
    (tmp_path / "curves").rename(run_folder / "curves.jsonl.gz")
    assert log_runs(folder, "offline") == (1, 0, [])
    assert rows_in(wandb_folders / "wandb_dir") == live, "in the place of what was cut off"


def test_a_run_that_the_server_has_in_part_is_completed(tmp_path, monkeypatch):
    one = experiment("lstm", training={"steps": 130, "validations": 3})
    record = run(one, tmp_path)
    assert record is not None
    folder = tmp_path / "results" / "study"
    from benchmark.record import record_bytes

    (folder / "runs" / one.run_id() / "record.json").write_bytes(record_bytes(record))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb_dir"))

    last = next(validation_row(point)[1] for point in record.curve if point.step == 87)

    class Server:
        """A run that was cut off after step 87, resumed."""

        resumed = True
        dir = str(tmp_path / "wandb_dir" / "files")

        def __init__(self) -> None:
            self.summary: dict[str, object] = {"trainer/global_step": 87, **last}
            self.rows: list[dict[str, float]] = []
            self.finish = lambda: None

        def log(self, row: dict[str, float]) -> None:
            self.rows.append(row)

    (tmp_path / "wandb_dir" / "files").mkdir(parents=True)
    server = Server()
    monkeypatch.setattr(wandb_runs, "start_run", lambda mode, **_: server)
    assert log_runs(folder, "online") == (1, 0, [])
    assert [row["trainer/global_step"] for row in server.rows] == [100, 130]
    assert server.summary["status"] == "done"
    assert log_runs(folder, "online") == (0, 1, []), "twice without doubling"
    assert len(server.rows) == 2


def test_what_waits_on_this_disk_is_not_at_the_server(tmp_path, monkeypatch):
    one = experiment("lstm")
    record = run(one, tmp_path)
    assert record is not None
    folder = tmp_path / "results" / "study"
    from benchmark.record import record_bytes

    (folder / "runs" / one.run_id() / "record.json").write_bytes(record_bytes(record))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb_dir"))
    kept = tmp_path / "wandb_dir" / "wandb" / f"offline-run-20260101_000000-{one.run_id()}"
    kept.mkdir(parents=True)
    (kept / "seqbench-whole").write_text("done\n")
    assert log_runs(folder, "offline") == (0, 1, [])
    rows: list[dict[str, float]] = []

    class Server:
        resumed = False
        dir = str(tmp_path / "wandb_dir" / "files")
        summary: ClassVar[dict[str, object]] = {}
        log = staticmethod(rows.append)
        finish = staticmethod(lambda: None)

    (tmp_path / "wandb_dir" / "files").mkdir()
    monkeypatch.setattr(wandb_runs, "start_run", lambda mode, **_: Server)
    assert log_runs(folder, "online") == (1, 0, [])
    assert rows
    assert not kept.exists(), "its rows are at the server"
    kept.mkdir()
    (kept / "seqbench-whole").write_text("done\n")
    (kept / "run.wandb.synced").touch()
    assert log_runs(folder, "online") == (0, 1, [])


def test_what_was_seen_of_a_run_that_failed_is_kept(tmp_path, monkeypatch):
    from benchmark.record import record_bytes
    from tests.benchmark.report.records import train_record

    record = train_record("0" * 16, status="failed", failure="killed (9)")
    run_folder = tmp_path / "study" / "runs" / record.run_id
    run_folder.mkdir(parents=True)
    (run_folder / "record.json").write_bytes(record_bytes(record))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb_dir"))
    seen = tmp_path / "wandb_dir" / "wandb" / f"offline-run-20260101_000000-{record.run_id}"
    seen.mkdir(parents=True)
    assert log_runs(tmp_path / "study", "offline") == (0, 1, [])
    logged, there, (left_out,) = log_runs(tmp_path / "study", "online")
    assert (logged, there) == (0, 0)
    assert left_out == f"run {record.run_id}: failed; what was seen of it waits here: wandb sync {seen}"
    assert seen.exists()


def test_rows_are_the_means_of_whole_windows() -> None:
    steps = Steps(
        losses=[float(i) for i in range(120)],
        seconds=[0.5] * 120,
        target_tokens=[10 + i % 2 for i in range(120)],
    )
    training = experiment("lstm", training={"steps": 120, "warmup_steps": 100, "learning_rate": 1.0}).training
    rows = list(training_rows(steps, training, []))
    assert [step for step, _ in rows] == [50, 100]
    assert rows[1][1]["train/loss"] == pytest.approx(sum(range(50, 100)) / WINDOW_STEPS)
    assert rows[0][1]["train/learning_rate"] == pytest.approx(0.5)
    assert rows[0][1]["speed/train_target_tokens_per_second"] == pytest.approx(10.5 / 0.5)
    assert list(training_rows(steps, training, [], after=60)) == rows[1:]
    unknown = Steps(losses=steps.losses, seconds=steps.seconds, target_tokens=[])
    assert set(next(training_rows(unknown, training, []))[1]) == {"train/loss", "train/learning_rate"}


def test_a_plateau_cuts_where_the_module_does() -> None:
    training = experiment("lstm", training={"schedule": "plateau"}).training
    losses = [3.0, 2.0, 2.0, 2.5, 1.0, 1.5]
    curve = [
        CurvePoint(step=i, train_seconds=0.0, train_target_tokens=0, validation_loss=loss)
        for i, loss in enumerate(losses)
    ]
    assert [plateau_cuts(training, curve[:count]) for count in range(7)] == [0, 0, 0, 1, 2, 2, 3]
    assert plateau_cuts(experiment("lstm").training, curve) == 0


def test_curves_that_are_missing_or_damaged(tmp_path: Path) -> None:
    from benchmark.config import UserError

    assert steps_of(tmp_path / "none.gz").losses == []
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8bnot gzip")
    with pytest.raises(UserError, match=r"bad\.gz: damaged: "):
        steps_of(tmp_path / "bad.gz")


def test_a_record_without_curves_has_its_validations(tmp_path: Path) -> None:
    one = experiment("lstm")
    record = run(one, tmp_path)
    assert record is not None
    empty = Steps(losses=[], seconds=[], target_tokens=[])
    rows = rows_of_record(record, empty, one.training)
    assert [step for step, _ in rows] == [point.step for point in record.curve]
