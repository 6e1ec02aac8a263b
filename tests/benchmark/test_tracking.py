"""wandb's mode is chosen once, in one line; an absent, silent or refusing server costs seconds, no run."""

import http.server
import json
import socket
import threading
import time

import pytest

from benchmark import tracking
from benchmark.tracking import choose_mode, lightning_logger

KEY = "0123456789" * 4
DOCUMENT = {"model": {"name": "transformer", "width": 8}, "task": {"name": "reverse"}, "seed": 0}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers everything with a refusal, as a server does to a wrong key."""

    def do_GET(self):
        self.send_response(401)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, format, *args):
        pass


@pytest.fixture
def refusing_server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def silent_server():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def wandb_folders(tmp_path, monkeypatch):
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    return tmp_path


@pytest.mark.parametrize(
    ("requested", "env", "mode"),
    [
        ("disabled", {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}, "disabled"),
        ("offline", {"WANDB_API_KEY": KEY}, "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "disabled"),
        ("auto", {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "offline"),
        ("auto", {"WANDB_MODE": "dryrun"}, "offline"),
        ("auto", {}, "offline"),
        ("online", {}, "offline"),
        ("auto", {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "offline"),
    ],
)
def test_mode_without_a_network(requested, env, mode, tmp_path):
    chosen, reason = choose_mode(requested, {"HOME": str(tmp_path), **env})
    assert chosen == mode
    assert f"wandb is {mode}" in reason and "\n" not in reason


def test_a_key_and_an_answer_of_any_kind_mean_online(refusing_server, tmp_path):
    env = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": refusing_server, "HOME": str(tmp_path)}
    mode, reason = choose_mode("auto", env)
    assert mode == "online"
    assert KEY not in reason


def test_the_key_may_lie_in_netrc(refusing_server, tmp_path):
    env = {"WANDB_BASE_URL": refusing_server, "HOME": str(tmp_path)}
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password " + KEY + "\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert choose_mode("auto", env)[0] == "online"
    (tmp_path / ".netrc").write_text("machine other.example login user password " + KEY + "\n")
    assert choose_mode("auto", env)[0] == "offline"
    (tmp_path / "elsewhere").write_text("machine 127.0.0.1 login user password " + KEY + "\n")
    assert choose_mode("auto", {**env, "NETRC": str(tmp_path / "elsewhere")})[0] == "online"


@pytest.mark.parametrize(
    ("key", "mode", "fault"),
    [
        (KEY + "\n", "disabled", "WANDB_API_KEY begins or ends with a blank or a line end"),
        (" " + KEY, "disabled", "WANDB_API_KEY begins or ends with a blank or a line end"),
        ("shorty", "offline", "WANDB_API_KEY has 6 characters, and a key has 40 or more"),
        ("local-" + KEY[1:], "offline", "WANDB_API_KEY has 39 characters, and a key has 40 or more"),
        (KEY[1:] + "$", "offline", "WANDB_API_KEY has characters that are none of a key"),
        ("local-" + KEY, "online", ""),
        ("head.pay-load.sign", "online", ""),
    ],
)
def test_a_key_that_can_be_none_is_named_and_never_shown(key, mode, fault, refusing_server, tmp_path):
    env = {"WANDB_API_KEY": key, "WANDB_BASE_URL": refusing_server, "HOME": str(tmp_path)}
    chosen, line = choose_mode("auto", env)
    assert chosen == mode
    assert fault in line and "\n" not in line and key.strip() not in line
    if mode != "disabled":
        return
    assert choose_mode("auto", {**env, "WANDB_MODE": "offline"})[0] == "disabled", (
        "wandb refuses it there too"
    )
    assert choose_mode("disabled", env)[1] == "wandb is disabled (as asked)"


def test_what_wandb_does_not_take_is_named_without_what_it_was_given(wandb_folders, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "a-secret")
    folder = wandb_folders / "run"
    arguments = {"study": "s", "run_id": "x", "experiment_document": DOCUMENT, "directory": folder}
    assert lightning_logger("online", device_class="cpu", **arguments) == (None, "disabled")
    last = caplog.messages[-1]
    assert last.startswith("wandb does not start, and the run goes on without it: init_timeout: ")
    assert "a-secret" not in caplog.text and "\n" not in last


def test_a_server_that_never_answers_delays_the_start_by_seconds_only(silent_server, monkeypatch, tmp_path):
    monkeypatch.setattr(tracking, "PROBE_SECONDS", 0.5)
    started = time.perf_counter()
    mode, reason = choose_mode(
        "auto", {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": silent_server, "HOME": str(tmp_path)}
    )
    assert mode == "offline" and "no answer from 127.0.0.1" in reason
    assert time.perf_counter() - started < 3


def test_a_name_lookup_that_hangs_delays_the_start_by_seconds_only(monkeypatch, tmp_path):
    released = threading.Event()

    def hanging(address, timeout):
        released.wait(10)
        raise OSError("no such name")

    monkeypatch.setattr(tracking, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", hanging)
    started = time.perf_counter()
    try:
        assert choose_mode("auto", {"WANDB_API_KEY": KEY, "HOME": str(tmp_path)})[0] == "offline"
        assert time.perf_counter() - started < 3
    finally:
        released.set()


@pytest.mark.parametrize(
    ("requested", "env", "text"),
    [
        ("onlin", {}, "wandb: must be one of auto, online, offline, disabled, got 'onlin'"),
        (
            "auto",
            {"WANDB_MODE": "maybe"},
            "WANDB_MODE: must be one of online, offline, disabled, got 'maybe'",
        ),
        ("auto", {"WANDB_BASE_URL": "file:///etc"}, "WANDB_BASE_URL: must be an http or https address"),
    ],
)
def test_an_unknown_mode_is_named(requested, env, text):
    with pytest.raises(ValueError, match=text.replace("/", "\\/")):
        choose_mode(requested, env)


def stored_records(folder, run="offline-run-*"):
    """What wandb wrote offline, in its own format, which is private: the version is pinned."""
    import wandb  # noqa: F401
    from wandb.proto import wandb_internal_pb2

    for file in folder.glob(f"wandb/{run}/*.wandb"):
        data, position, partial = file.read_bytes(), 7, b""
        while position + 7 <= len(data):
            left_in_block = 32768 - position % 32768
            if left_in_block < 7:
                position += left_in_block
                continue
            length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
            partial += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):
                record = wandb_internal_pb2.Record.FromString(partial)  # type: ignore[attr-defined]  # made at import
                partial = b""
                yield record


def offline_run_configs(folder):
    return [record.run for record in stored_records(folder) if record.HasField("run")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("is_trial", "kind"), [(False, "train"), (True, "search")])
def test_an_offline_run_carries_study_id_tags_and_the_nested_config(wandb_folders, is_trial, kind):
    import wandb

    logger, mode = lightning_logger(
        "offline",
        study="a-study",
        run_id="0123456789abcdef",
        experiment_document=DOCUMENT,
        directory=wandb_folders / "run",
        device_class="cpu",
        is_trial=is_trial,
    )
    assert logger is not None and mode == "offline"
    logger.log_metrics({"train/loss": 1.0}, step=1)
    wandb.finish()
    tracking.settle()
    (run,) = offline_run_configs(wandb_folders / "run")
    assert (run.run_id, run.run_group, run.job_type) == ("0123456789abcdef", "a-study", kind)
    assert (run.project, run.entity) == ("seqbench", "")
    assert list(run.tags) == ["transformer", "reverse", "cpu"]
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {name: config[name] for name in DOCUMENT} == DOCUMENT


def test_disabled_makes_nothing(wandb_folders):
    folder = wandb_folders / "run"
    arguments = {"study": "s", "run_id": "x", "experiment_document": DOCUMENT, "directory": folder}
    assert lightning_logger("disabled", device_class="cpu", **arguments) == (None, "disabled")
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_server_that_refuses_the_run_leaves_it_offline_and_a_line_says_so(
    wandb_folders, refusing_server, monkeypatch, caplog
):
    import wandb

    monkeypatch.setenv("WANDB_BASE_URL", refusing_server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(tracking, "START_SECONDS", 3.0)
    started = time.perf_counter()
    logger, mode = lightning_logger(
        "online",
        study="a-study",
        run_id="0123456789abcdef",
        experiment_document=DOCUMENT,
        directory=wandb_folders / "run",
        device_class="cpu",
    )
    assert time.perf_counter() - started < 15
    assert logger is not None and mode == "offline"
    logger.log_metrics({"train/loss": 1.0}, step=1)
    wandb.finish()
    tracking.settle()
    assert list((wandb_folders / "run").glob("wandb/offline-run-*/*.wandb"))
    (line,) = (one for one in caplog.messages if one.startswith("wandb is offline from here on: "))
    assert "0" * 40 not in line and "\n" not in line
