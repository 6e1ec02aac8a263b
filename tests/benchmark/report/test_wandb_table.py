"""The comparison in wandb holds every row of the records, once."""

import json

import pytest

from benchmark.record import Row
from benchmark.report.budgets import budget_rows
from benchmark.report.comparison import groups, layer_rows, rows, speed_rows
from benchmark.report.significance import significance_rows
from benchmark.report.study_results import load_study
from benchmark.report.wandb_table import log_comparison
from benchmark.why.facts import Facts
from benchmark.why.page import claim_rows
from tests.benchmark.report.records import layer_record, scores, speed_record, train_record


@pytest.fixture
def wandb_directory(tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        (tmp_path / name.lower()).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return tmp_path / "wandb_dir"


def tables_in(directory):
    result = {}
    for path in directory.glob("wandb/offline-run-*/files/media/table/*.table.json"):
        content = json.loads(path.read_text())
        name = path.name.partition("_")[0]
        assert name not in result
        result[name] = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
    return result


def records():
    return [
        train_record(
            f"{m}{seed}" * 8,
            model,
            seed=seed,
            scores=scores({("test", "bleu"): 30.123456789 + m + seed, ("validation", "bleu"): 29.0}),
        )
        for m, model in enumerate(("lstm-small", "transformer-small"))
        for seed in range(2)
    ] + [train_record("f" * 16, "convs2s-small", status="failed", failure="oom_host")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_row_is_logged_once_at_full_precision(study_folder, wandb_directory):
    folder = study_folder(*records(), speed_record())
    run_id = log_comparison(folder, "offline")
    assert run_id is not None and run_id.startswith("report-")
    logged = tables_in(wandb_directory)
    assert logged["comparison"] == rows(groups(records()))
    assert logged["significance"] == significance_rows(groups(records()))
    assert logged["speed"] == speed_rows([speed_record()])
    assert logged["budget"] == budget_rows(groups(records()))
    assert len(logged["budget"]) == 3
    (run,) = wandb_directory.glob("wandb/offline-run-*")
    assert run.name.endswith(run_id)
    images = [path.name for path in run.glob("files/media/images/figures/*.png")]
    assert sum(name.startswith("quality-1-test-bleu-by-train") for name in images) == 1

    assert log_comparison(folder, "offline") is None
    assert len(list(wandb_directory.glob("wandb/offline-run-*"))) == 1

    study_folder(train_record("e" * 16, seed=2))
    assert log_comparison(folder, "offline") not in (None, run_id)


def test_nothing_is_logged_without_records_or_when_wandb_is_disabled(study_folder, wandb_directory):
    assert log_comparison(study_folder(), "offline") is None
    assert log_comparison(study_folder(*records()), "disabled") is None
    assert not list(wandb_directory.iterdir())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_claims_and_layers_are_logged_as_the_report_has_them(study_folder, wandb_directory):
    row = Row(quantity="hops", value=1.0, unit="hops", conditions={"n": 8})
    record = layer_record(0xA, "path", subject="self-attention", rows=[row])
    folder = study_folder(record)
    assert log_comparison(folder, "offline") is not None
    logged = tables_in(wandb_directory)
    assert logged["layers"] == layer_rows([record])
    claims = claim_rows(Facts.of(load_study(folder)))
    assert [one["claim"] for one in logged["claims"]] == [one["claim"] for one in claims]
    for one, claim in zip(logged["claims"], claims, strict=True):
        lists = {"conditions": "; ".join(claim["conditions"]), "runs": " ".join(claim["runs"])}
        assert one == {**claim, **lists}
    assert any(one["runs"] == record.run_id for one in logged["claims"])
    assert set(logged) == {"layers", "claims"}
