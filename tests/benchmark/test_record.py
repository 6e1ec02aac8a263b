"""Records: a file is whole and of this version, or it is named with the reason; no secret gets in."""

import hashlib
import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import record as record_module
from benchmark.config import ROOT, canonical_json
from benchmark.record import (
    SCHEMA_VERSION,
    CurvePoint,
    Score,
    Shared,
    SpeedRecord,
    SpeedRow,
    TrainRecord,
    UnreadableRecord,
    available_cores,
    read_record,
    record_bytes,
    record_from_bytes,
    take_provenance,
)
from tests.benchmark.report.records import provenance, train_record

FULL = train_record(
    "0123456789abcdef",
    train_seconds=0.1 + 0.2,
    scores=[Score(split="test", metric="bleu", value=31.4, signature="a|b", sentences=10)],
    hypotheses_sha256={"test": "00"},
)
SPEED = SpeedRecord(
    run_id="0123456789abcdef",
    study="s",
    task_preset="t",
    task_name="t",
    task_version=1,
    status="done",
    provenance=provenance(),
    rows=[SpeedRow(model="m", phase="train", quantity="q", value=1.5, unit="u", low=1.0)],
)


@pytest.mark.parametrize("record", [FULL, SPEED], ids=["train", "speed"])
def test_a_record_is_read_back_equal_and_written_the_same_again(record, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(record_bytes(record))
    assert read_record(path) == record
    assert record_bytes(read_record(path)) == record_bytes(record)


def test_the_second_line_is_the_checksum_of_what_follows():
    data = record_bytes(FULL)
    first, second, rest = data.split(b"\n", 2)
    assert first == b"{"
    assert second == b' "checksum_sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",'
    assert json.loads(data)["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("record", [FULL, SPEED], ids=["train", "speed"])
def test_a_record_of_version_1_is_read(record):
    document = {**record.model_dump(mode="json"), "schema_version": 1}
    document["checksum_sha256"] = hashlib.sha256(canonical_json(document).encode()).hexdigest()
    read = record_from_bytes(json.dumps(document, indent=1).encode(), "r")
    assert read == record.model_copy(update={"schema_version": 1})
    document["study"] = "another"
    with pytest.raises(UnreadableRecord, match="its checksum does not hold"):
        record_from_bytes(json.dumps(document).encode(), "r")


def test_records_that_were_committed_by_earlier_versions_are_read():
    paths = sorted((ROOT / "results").glob("*/runs/*/record.json"))
    versions = {read_record(path).schema_version for path in paths}
    assert 1 in versions and versions <= {1, SCHEMA_VERSION}


def test_a_record_is_read_without_its_curve_and_with_what_others_have_too():
    point = CurvePoint(step=1, train_seconds=1.0, train_target_tokens=2, validation_loss=3.0)
    point = point.model_copy(update={"scores": FULL.scores})
    tricky = FULL.model_copy(update={"curve": [point, point], "failure": '\n "curve": [\n 1\n ],'})
    shared = Shared()
    for data in (record_bytes(tricky), record_bytes(FULL), record_bytes(SPEED)):
        whole = record_from_bytes(data, "r")
        light = record_from_bytes(data, "r", shared)
        assert light == whole.model_copy(update={"curve": []} if whole.kind == "train" else {})
        assert record_bytes(light) == record_bytes(light.model_copy())
    other = FULL.model_copy(update={"experiment": {**FULL.experiment, "seed": 7}, "seed": 7})
    first, second = (record_from_bytes(record_bytes(record), "r", shared) for record in (FULL, other))
    assert isinstance(first, TrainRecord) and isinstance(second, TrainRecord)
    assert first.provenance is second.provenance
    assert first.experiment["model"] is second.experiment["model"]
    assert (first.experiment["seed"], second.experiment["seed"]) == (FULL.experiment["seed"], 7)


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(record_bytes(FULL)) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_record_is_named_and_never_read_as_another(position, byte, cut):
    data = record_bytes(FULL)
    damaged = data[:position] if cut else data[:position] + bytes([byte]) + data[position + 1 :]
    try:
        read = record_from_bytes(damaged, "record.json")
    except UnreadableRecord as error:
        text = str(error)
    else:
        assert read == FULL  # a blank became another blank
        return
    assert text.startswith("record.json: ")
    assert text.isprintable()


def _with(**fields):
    document = {**json.loads(record_bytes(FULL)), **fields}
    document.pop("checksum_sha256")
    rest = json.dumps(document, indent=1).encode()[2:]
    return b'{\n "checksum_sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",\n' + rest


UNREADABLE = [
    pytest.param(b"", "r: not a record: ", id="empty"),
    pytest.param(b"\xff", "r: not a record: not UTF-8 at byte 0", id="bytes"),
    pytest.param(b"[" * 10**5, "r: not a record: nested too deep", id="deep"),
    pytest.param(b'{"a": NaN}', "r: not a record: NaN is no number of a record", id="nan"),
    pytest.param(b'{"a": 1, "a": 2}', "r: not a record: a field is given twice", id="repeated"),
    pytest.param(b'{"a": ' + b"1" * 5000 + b"}", "r: not a record: ", id="huge integer"),
    pytest.param(b"3", "r: not a record: holds 3", id="number"),
    pytest.param(b"{}", "r: not a record: its schema_version is None", id="no version"),
    pytest.param(_with(kind="trian"), "r: is of kind 'trian'; known are train, speed", id="kind"),
    pytest.param(_with(kind=["train"]), "r: is of kind ['train']", id="kind of another type"),
    pytest.param(_with(steps="3"), "r: steps: must be an integer, got '3'", id="type"),
    pytest.param(_with(stpes=3), "r: stpes: unknown field; did you mean 'steps'?", id="unknown field"),
    pytest.param(
        _with(schema_version=SCHEMA_VERSION + 1),
        f"r: has schema version {SCHEMA_VERSION + 1}, and this seqbench reads up to {SCHEMA_VERSION}",
        id="newer",
    ),
    pytest.param(
        record_bytes(FULL).replace(b"31.4", b"41.4"), "r: its checksum does not hold", id="better score"
    ),
]


@pytest.mark.parametrize(("data", "text"), UNREADABLE)
def test_an_unreadable_record_says_why(data, text):
    with pytest.raises(UnreadableRecord) as caught:
        record_from_bytes(data, "r")
    assert str(caught.value).startswith(text)


def test_no_record_holds_what_is_no_number():
    with pytest.raises(ValueError, match="finite"):
        train_record("0123456789abcdef", train_seconds=float("nan"))


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(UnreadableRecord, match=r"none\.json: cannot be read: No such file"):
        read_record(tmp_path / "none.json")


def test_provenance_keeps_no_secret_and_no_name(monkeypatch):
    import getpass
    import socket

    monkeypatch.setenv("WANDB_API_KEY", "sentinel-secret-sentinel")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    taken = take_provenance(device=torch.device("cpu"), precision="float32")
    text = taken.model_dump_json()
    assert "sentinel" not in text
    assert taken.environment["OMP_NUM_THREADS"] == "3"
    if len(socket.gethostname()) > 4:
        assert socket.gethostname() not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


def test_provenance_knows_the_commit_and_whether_code_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    for folder in ("models", "tasks", "benchmark", "configs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "m")
    monkeypatch.setattr(record_module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    commit = record_module._commit.__wrapped__
    monkeypatch.delenv("GIT_DIR")
    head = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert commit() == (head, False)
    (tmp_path / "results").write_text("a result is no change of the code")
    assert commit() == (head, False)
    (tmp_path / "models" / "new.py").write_text("")
    assert commit() == (head, True)


def test_outside_a_checkout_the_commit_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "ROOT", tmp_path)
    assert record_module._commit.__wrapped__() == ("unknown", None)


def test_cores_are_those_of_the_container(monkeypatch):
    for quota in (0.5, 1.9):
        monkeypatch.setattr(record_module, "container_cores", lambda quota=quota: quota)
        assert available_cores() == 1
    monkeypatch.setattr(record_module, "container_cores", lambda: None)
    assert available_cores() >= 1


def test_records_are_read_without_torch(tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(record_bytes(FULL))
    program = (
        "import sys; from pathlib import Path; from benchmark.record import read_record;"
        f"read_record(Path({str(path)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
