"""Nothing wrong ever gets the final name, whatever the answer is and whenever the process dies."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tasks.data.download import fetch, find_data_directory, verify

TEXT = "".join(f"line {number**5}\n" for number in range(20_000)).encode()
BODY = gzip.compress(TEXT)
SHA256 = hashlib.sha256(TEXT).hexdigest()
PAGE = b"<!DOCTYPE html><html><body>Please log in to this network</body></html>"

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """Gives the answers one after another; the last one again and again."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    requests: int = 0


def body(content: bytes, *, announced: int | None = None, pause_seconds: float = 0.0) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(content)
        handler.wfile.flush()
        time.sleep(pause_seconds)

    return answer


def without_length(content: bytes) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def status(code: int, location: str | None = None) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        if location:
            handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = state.answers[min(state.requests, len(state.answers) - 1)]
            state.requests += 1
            with contextlib.suppress(ConnectionError):  # of a client that was killed, as the test wanted
                answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        state.url = f"http://127.0.0.1:{listening.server_address[1]}/text.gz"
        thread = threading.Thread(target=partial(listening.serve_forever, poll_interval=0.01))
        thread.start()
        yield state
        listening.shutdown()
        thread.join()


def get(server: Server, path: Path) -> None:
    fetch(server.url, path, sha256=SHA256, maximum_bytes=10 * len(BODY))


def refusal(server: Server, path: Path) -> str:
    with pytest.raises(ValueError, match=re.escape(server.url)) as error:
        get(server, path)
    assert not path.exists()
    assert [left.name for left in path.parent.iterdir() if not left.name.endswith(".lock")] == []
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith("or put the file into a folder and name that with --data-dir or SEQBENCH_DATA")
    return text


def test_a_right_answer_is_kept_and_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.answers = [body(BODY)]
    path = tmp_path / "new" / "text.gz"
    get(server, path)
    get(server, path)
    assert path.read_bytes() == BODY
    assert server.requests == 1


def test_a_file_that_was_compressed_again_is_still_known(server: Server, tmp_path: Path) -> None:
    server.answers = [body(gzip.compress(TEXT, compresslevel=1))]
    get(server, tmp_path / "text.gz")
    verify(tmp_path / "text.gz", SHA256)


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_an_answer_that_is_cut_is_fetched_again(server: Server, tmp_path: Path, quarter: int) -> None:
    cut = BODY[: len(BODY) * quarter // 4]
    server.answers = [body(cut, announced=len(BODY)), body(BODY)]
    get(server, tmp_path / "text.gz")
    assert (tmp_path / "text.gz").read_bytes() == BODY
    assert server.requests == 2


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_an_answer_that_is_cut_twice_is_refused(server: Server, tmp_path: Path, quarter: int) -> None:
    cut = BODY[: len(BODY) * quarter // 4]
    server.answers = [body(cut, announced=len(BODY))]
    text = refusal(server, tmp_path / "text.gz")
    assert f"the answer ended after {len(cut)} of {len(BODY)} bytes" in text
    assert server.requests == 2


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_cut_answer_without_a_length_is_refused(server: Server, tmp_path: Path, quarter: int) -> None:
    cut = BODY[: len(BODY) * quarter // 4]
    server.answers = [without_length(cut)]
    text = refusal(server, tmp_path / "text.gz")
    assert SHA256 in text
    assert hashlib.sha256(cut).hexdigest() in text or hashlib.sha256(b"").hexdigest() in text


def test_a_page_in_place_of_the_file_is_refused_with_both_hashes(server: Server, tmp_path: Path) -> None:
    server.answers = [body(PAGE)]
    text = refusal(server, tmp_path / "text.gz")
    assert f"expected content of SHA-256 {SHA256}, got a file of {hashlib.sha256(PAGE).hexdigest()}" in text


def test_another_text_is_refused_with_both_hashes(server: Server, tmp_path: Path) -> None:
    other = TEXT.replace(b"line 1\n", b"line 2\n")
    server.answers = [body(gzip.compress(other))]
    text = refusal(server, tmp_path / "text.gz")
    assert f"expected content of SHA-256 {SHA256}, got {hashlib.sha256(other).hexdigest()}" in text


def test_an_altered_answer_is_refused(server: Server, tmp_path: Path) -> None:
    altered = bytearray(BODY)
    altered[len(BODY) // 2] ^= 1
    server.answers = [body(bytes(altered))]
    assert SHA256 in refusal(server, tmp_path / "text.gz")


def test_a_redirect_is_followed_and_what_it_leads_to_is_checked(server: Server, tmp_path: Path) -> None:
    server.answers = [status(302, "/elsewhere.gz"), body(BODY)]
    get(server, tmp_path / "text.gz")
    server.answers, server.requests = [status(302, "/login"), body(PAGE)], 0
    assert hashlib.sha256(PAGE).hexdigest() in refusal_elsewhere(server, tmp_path / "other" / "text.gz")


def refusal_elsewhere(server: Server, path: Path) -> str:
    path.parent.mkdir()
    return refusal(server, path)


def test_a_redirect_without_end_or_to_a_file_is_refused(server: Server, tmp_path: Path) -> None:
    server.answers = [status(302, server.url)]
    refusal(server, tmp_path / "text.gz")
    server.answers = [status(302, "file:///etc/passwd")]
    refusal(server, tmp_path / "text.gz")


def test_a_wrong_length_is_refused(server: Server, tmp_path: Path) -> None:
    server.answers = [body(BODY, announced=len(BODY) - 10)]
    text = refusal(server, tmp_path / "text.gz")
    assert SHA256 in text


def test_an_answer_without_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.answers = [without_length(BODY * 50)]
    text = refusal(server, tmp_path / "text.gz")
    assert f"the answer is longer than {10 * len(BODY)} bytes" in text


def test_a_missing_file_and_a_dead_server_are_named(server: Server, tmp_path: Path) -> None:
    server.answers = [status(404)]
    assert "HTTP Error 404" in refusal(server, tmp_path / "text.gz")
    server.url = "http://127.0.0.1:9/text.gz"
    assert "Connection refused" in refusal(server, tmp_path / "text.gz")


def test_a_disk_that_does_not_take_the_file_is_named(server: Server, tmp_path: Path) -> None:
    server.answers = [body(BODY)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, before[1]))
    try:
        text = refusal(server, tmp_path / "text.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert text.startswith(f"{tmp_path}/text.gz: could not be written: File too large (it takes ")


CHILD = """
import sys
from pathlib import Path
from tasks.data.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], maximum_bytes=10**9)
"""


def test_a_process_killed_during_a_download_leaves_no_wrong_file_and_can_start_again(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [body(BODY[:2000], announced=len(BODY), pause_seconds=3), body(BODY)]
    path = tmp_path / "text.gz"
    child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(path), SHA256])
    while server.requests == 0:
        time.sleep(0.01)
    time.sleep(0.2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not path.exists()
    get(server, path)
    assert path.read_bytes() == BODY
    assert sorted(left.name for left in tmp_path.iterdir() if not left.name.endswith(".lock")) == ["text.gz"]


def test_processes_that_start_together_fetch_once(server: Server, tmp_path: Path) -> None:
    server.answers = [body(BODY, pause_seconds=0.3)]
    path = tmp_path / "text.gz"
    threads = [threading.Thread(target=get, args=(server, path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == 1
    assert path.read_bytes() == BODY


def test_the_data_directory_is_the_named_one_then_the_variable_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, variable = tmp_path / "named", tmp_path / "variable"
    named.mkdir()
    variable.mkdir()
    monkeypatch.setenv("SEQBENCH_DATA", str(variable))
    assert find_data_directory(named) == named
    assert find_data_directory(None) == variable
    monkeypatch.delenv("SEQBENCH_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_data_directory(None) == tmp_path / "seqbench" / "data"


def test_a_data_directory_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=f"^--data-dir: there is no folder {tmp_path}/nowhere$"):
        find_data_directory(tmp_path / "nowhere")
    monkeypatch.setenv("SEQBENCH_DATA", f"{tmp_path}/gone")
    with pytest.raises(ValueError, match=f"^SEQBENCH_DATA: there is no folder {tmp_path}/gone$"):
        find_data_directory(None)
