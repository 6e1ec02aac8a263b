"""The store: a file is there whole or not at all, whatever happens and whenever; nothing leaves the study."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.config import ROOT, UserError, load_yaml
from benchmark.record import UnreadableRecord, record_bytes
from benchmark.store import FREE_BYTES, StorageError, StudyFolder, checked_name, differences, write_atomic
from tests.benchmark.report.records import train_record
from tests.benchmark.store_work import made_study

RUN = "0123456789abcdef"


def work(cases):
    """Exit code and error of each [results folder, fault, log], in a process without torch."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.benchmark.store_work"],
        cwd=ROOT, input=json.dumps(cases, default=str), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(ended.stdout)


def state(results):
    """Content of every file under its final name, but for locks and who holds them."""
    return {
        str(path.relative_to(results)): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file() and not path.name.endswith((".tmp", ".lock")) and path.name != "lease.json"
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed")
    assert work([[results, "", None]]) == [[0, ""]]
    assert not list(results.rglob("lease.json"))
    return state(results)


STUDY_FILE = "study/study.yaml"


@pytest.fixture(scope="module")
def stages(undisturbed, tmp_path_factory):
    """What `study.yaml` holds once it is made, and once its search is decided."""
    folder = StudyFolder(tmp_path_factory.mktemp("made"), "study")
    folder.prepare()
    made_study(folder)
    made = folder.study_path.read_bytes()
    assert undisturbed[STUDY_FILE] not in (made, None)
    return made, undisturbed[STUDY_FILE]


def is_part(after, whole, stages):
    """Whether every file that is there is whole."""
    return after.get(STUDY_FILE, stages[0]) in stages and after.items() <= {
        **whole, STUDY_FILE: after.get(STUDY_FILE),
    }.items()  # fmt: skip


def test_killed_at_any_call_every_file_is_whole_and_a_second_start_ends_the_same(
    tmp_path, undisturbed, stages
):
    killed = work([[tmp_path / str(number), f"any:{number}:kill", None] for number in range(400)])
    # A probe, the study made and decided, two texts, two files of each run, and of three a lease and the
    # output: 21 files, each opened, written, synced and renamed.
    assert len(killed) - 1 >= 84
    assert [code for code, _ in killed] == [-9] * (len(killed) - 1) + [0]
    for number in range(len(killed)):
        after = state(tmp_path / str(number))
        assert is_part(after, undisturbed, stages), f"killed at call {number}"
    again = work([[tmp_path / str(number), "", None] for number in range(len(killed))])
    assert again == [[0, ""]] * len(killed)
    for number in range(len(killed)):
        assert state(tmp_path / str(number)) == undisturbed, f"killed at call {number}"
        assert not list((tmp_path / str(number)).rglob("runs/*/.*.tmp"))


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_a_full_disk_is_named_and_leaves_older_records_and_no_half_file(
    tmp_path, undisturbed, stages, call, error
):
    *failed, last = work(
        [[tmp_path / str(number), f"{call}:{number}:{error}", None] for number in range(100)]
    )
    assert last == [0, ""]
    assert len(failed) >= 21
    strerror = os.strerror(getattr(errno, error))
    for number, (code, text) in enumerate(failed):
        assert code == 1
        assert text.endswith(strerror)
        if text.startswith("UserError: "):  # before work, exit code 2
            assert f"{number}/study: cannot be written to: " in text
        else:
            assert "bytes could not be written: " in text or ".leases.lock: cannot be locked: " in text
            assert f"{number}/study/" in text
        assert is_part(state(tmp_path / str(number)), undisturbed, stages)
        assert not list((tmp_path / str(number)).rglob(".*.tmp"))


def test_data_reach_the_disk_before_the_name_and_the_name_before_the_end(tmp_path):
    log = tmp_path / "log"
    work([[tmp_path, "write:-1:kill", log]])
    calls = log.read_text().split("\n")
    end = calls.index(f"open {RUN}", calls.index(f"open {RUN}") + 1)  # of its config, then of its record
    start = end - 4
    assert calls[start].startswith("open .record.json")
    assert [one.split(" ")[0] for one in calls[start : start + 6]] == [
        "open", "write", "fsync", "replace", "open", "fsync",
    ]  # fmt: skip
    assert calls[start + 3].startswith("replace .record.json")
    assert calls[start + 4] == f"open {RUN}"


def test_a_quota_is_named_with_path_and_bytes(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "file"
    write_atomic(path, b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError, match=r"/file: 5,000 bytes could not be written: File too large$"):
            write_atomic(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_temporary_file_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "outside").write_text("old")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(tmp_path / "outside")
    with contextlib.suppress(StorageError):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "old"


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", ".x", "a b", "x" * 65, "ä", "a\n", "\x1b[31m"]
)
def test_a_name_that_could_be_another_folder_is_refused(name):
    with pytest.raises(UserError, match=r"^study: .* cannot name a folder") as caught:
        checked_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a", "multi30k-en-de", "A_1.b", "x" * 64])
def test_a_plain_name_is_taken(name):
    assert checked_name(name) == name


@pytest.mark.parametrize("linked", ["study", "study/runs", "study/texts", f"study/runs/{RUN}"])
def test_a_link_out_of_the_study_is_not_written_through(tmp_path, linked):
    results, outside = tmp_path / "results", tmp_path / "outside"
    outside.mkdir()
    (results / linked).parent.mkdir(parents=True)
    (results / linked).symlink_to(outside)
    folder = StudyFolder(results, "study")
    with pytest.raises(UserError, match=r"is a link to .*outside"):
        (folder.prepare if "0" not in linked else lambda: folder.run(RUN))()
    assert not list(outside.iterdir())


def test_results_may_themselves_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    StudyFolder(tmp_path / "results", "study").prepare()
    assert (tmp_path / "disk" / "study" / "runs").is_dir()


def test_a_folder_that_cannot_be_made_or_written_is_named_before_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"study: cannot be made: Not a directory$"):
        StudyFolder(tmp_path / "file", "study").prepare()
    with pytest.raises(UserError, match=r"^/proc/results/study: cannot be made: "):
        StudyFolder(Path("/proc/results"), "study").prepare()

    def full(path, data):
        raise StorageError("x") from OSError(28, "No space left on device")

    monkeypatch.setattr("benchmark.store.write_atomic", full)
    with pytest.raises(UserError, match=r"study: cannot be written to: No space left on device$"):
        StudyFolder(tmp_path, "study").prepare()


def test_a_disk_without_room_is_named_before_work(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, FREE_BYTES - 1))
    with pytest.raises(UserError, match=r"67,108,863 bytes are free, and a study needs 67,108,864$"):
        StudyFolder(tmp_path, "study").prepare()


def test_a_changed_config_is_refused_with_every_field_that_differs(tmp_path):
    run = StudyFolder(tmp_path, "study").run(RUN)
    document = {"experiment": {"training": {"steps": 10, "beta1": 0.9}, "seed": 0}}
    run.open(document)
    run.open(document)
    text = run.config_path.read_text().replace("steps: 10", "steps: 20").replace("seed: 0", "sede: 0")
    run.config_path.write_text(text)
    with pytest.raises(UserError) as caught:
        run.open(document)
    for part in ("training.steps is 20, was 10", "seed is missing, was 0", "sede is 0, was not there", RUN):
        assert part in str(caught.value)


def test_differences_tell_types_apart():
    assert differences({"a": 1}, {"a": True}) == ["a is True, was 1"]
    assert differences({"a": 1.0}, {"a": 1}) == ["a is 1, was 1.0"]
    assert differences({"a": {"b": [1]}}, {"a": {"b": [1]}}) == []


def test_one_bad_record_does_not_hide_the_others(tmp_path):
    folder = StudyFolder(tmp_path, "study")
    for number in range(3):
        record = train_record(f"{number:016x}")
        run = folder.run(record.run_id)
        run.open({"experiment": {}})
        run.write_record(record)
    folder.run(f"{1:016x}").record_path.write_bytes(b"{")
    (folder.path / "runs" / "no-run").mkdir()
    (folder.path / "runs" / f"{5:016x}").mkdir()
    contents = folder.contents()
    assert [one.run_id for one in contents.records] == [f"{0:016x}", f"{2:016x}"]
    assert [str(one).partition(": ")[0] for one in contents.unreadable.values()] == [
        str(folder.run(f"{1:016x}").record_path)
    ]


def test_a_record_in_another_run_s_folder_is_no_record(tmp_path):
    run = StudyFolder(tmp_path, "study").run(RUN)
    run.open({"experiment": {}})
    run.record_path.write_bytes(record_bytes(train_record("f" * 16)))
    with pytest.raises(UnreadableRecord, match="is the record of run 'ffffffffffffffff'"):
        run.record()


def test_a_run_id_is_no_path(tmp_path):
    with pytest.raises(UserError, match="is no run id"):
        StudyFolder(tmp_path, "study").run("../../etc/passwd")


def test_study_files_survive_as_yaml(undisturbed, tmp_path):
    (tmp_path / "x.yaml").write_bytes(undisturbed[f"study/runs/{RUN}/config.yaml"])
    assert load_yaml(tmp_path / "x.yaml")["experiment"] == train_record(RUN).experiment
