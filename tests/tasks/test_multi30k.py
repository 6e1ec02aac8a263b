"""Files are found where they may lie, checked against their hashes, and fetched where they are missing."""

from __future__ import annotations

import gzip
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks import multi30k
from tasks.multi30k import SHA256, Config

needs_data = pytest.mark.skipif(
    "SEQBENCH_DATA" not in os.environ, reason="SEQBENCH_DATA names no folder with multi30k"
)


@pytest.fixture
def data() -> Path:
    folder = Path(os.environ["SEQBENCH_DATA"])
    return folder / "multi30k" if (folder / "multi30k").is_dir() else folder


@needs_data
@pytest.mark.parametrize("target", ["de", "fr"])
def test_splits_have_their_published_sizes(data: Path, target: str) -> None:
    task = Config.model_validate({"target": target}).build(data.parent)
    sizes = [sum(1 for _ in task.pairs(split)) for split in ("train", "validation", *task.test_splits)]
    assert sizes == [29_000, 1_014, 1_000, 1_000]
    assert next(task.pairs("train"))[0] == "Two young, White males are outside near many bushes."
    assert not task.texts_may_be_copied


@needs_data
def test_the_example_of_the_docstring_is_real(data: Path) -> None:
    documentation = multi30k.__doc__ or ""
    for target in ("de", "fr"):
        source, reference = next(Config.model_validate({"target": target}).build(data).pairs("train"))
        assert f"    en    {source}\n" in documentation
        assert f"    {target}    {reference}\n" in documentation


@needs_data
def test_an_altered_file_is_refused_with_both_hashes_and_stays_where_it_is(
    data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "val.de.gz"
    path.chmod(0o644)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content))
    Config().build(tmp_path)
    path.write_bytes(gzip.compress(content + b"one more line\n"))
    with pytest.raises(
        ValueError, match=f"val.de.gz: expected content of SHA-256 {SHA256['val.de']}, got [0-9a-f]+$"
    ):
        Config().build(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=f"expected content of SHA-256 {SHA256['val.de']}, got a file of [0-9a-f]+$"
    ):
        Config().build(tmp_path)
    assert path.exists()


@pytest.fixture
def mirror(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _: str, *details: object) -> None:
            requests.append(str(details[0]))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(data))) as server:
        monkeypatch.setattr(multi30k, "REPOSITORY", f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield requests
        server.shutdown()
        thread.join()


@needs_data
def test_what_is_missing_is_fetched_once_to_the_folder_multi30k(mirror: list[str], tmp_path: Path) -> None:
    task = Config().build(tmp_path / "cache")
    assert sum(1 for _ in task.pairs("validation")) == 1_014
    assert len(mirror) == 8
    assert (tmp_path / "cache" / "multi30k" / "train.de.gz").is_file()
    Config().build(tmp_path / "cache")
    assert len(mirror) == 8
    Config(target="fr").build(tmp_path / "cache")
    assert len(mirror) == 12


def test_without_files_and_without_a_network_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi30k, "REPOSITORY", "http://127.0.0.1:9")
    with pytest.raises(
        ValueError, match=r"Connection refused.*; try again, or put the file into a folder and name that"
    ):
        Config().build(tmp_path)


def test_two_languages_must_differ() -> None:
    with pytest.raises(ValidationError, match="source and target must differ, got en twice"):
        Config(target="en")
