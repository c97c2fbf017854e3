"""Omniglot fetched by torchvision's own code from a server of the test's own."""

import hashlib
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Literal

import pytest
from support.fake_omniglot import BACKGROUND, EVALUATION, PARTS, Fake, drawings, write_archive, write_archives
from torchvision.datasets import Omniglot as TorchvisionOmniglot

from metasgd.errors import UserError

BOTH = {f"/{part}.zip" for part in PARTS}


class Server(ThreadingHTTPServer):
    """Serves the fake archives.

    Attributes:
        asked_for: the paths of all requests.
        fails: how the answer for a path goes wrong.
    """

    def __init__(self, archives: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives = archives
        self.asked_for: list[str] = []
        self.fails: dict[str, Literal["cut short", "other content", "not found"]] = {}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked_for.append(self.path)
        content, failure = self.server.archives[self.path], self.server.fails.get(self.path)
        if failure == "not found":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if failure == "cut short":
            content = content[: len(content) // 2]
        if failure == "other content":
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Not on the terminal."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    served = write_archives(tmp_path / "served")
    archives = {f"/{part}.zip": (served / f"{part}.zip").read_bytes() for part in PARTS}
    server = Server(archives)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    md5s = {part: hashlib.md5(archives[f"/{part}.zip"]).hexdigest() for part in PARTS}
    monkeypatch.setattr(TorchvisionOmniglot, "zips_md5", md5s)
    monkeypatch.setattr(TorchvisionOmniglot, "download_url_prefix", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def problem_of_fetching(root: Path, cache_dir: Path) -> str:
    with pytest.raises(UserError) as caught:
        Fake(download=True).prepare(root, cache_dir)
    [problem] = caught.value.problems
    return problem


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_the_archives_are_fetched_once_and_nothing_else_is_left(tmp_path: Path, server: Server) -> None:
    root, cache_dir = tmp_path / "new" / "data", tmp_path / "cache"
    Fake(download=True).prepare(root, cache_dir)
    assert set(server.asked_for) == BOTH
    assert [path.name for path in root.iterdir()] == ["omniglot-py"]
    assert files(root) == [f"omniglot-py/{BACKGROUND}.zip", f"omniglot-py/{EVALUATION}.zip"]
    for path in BOTH:
        assert (root / f"omniglot-py{path}").read_bytes() == server.archives[path]

    server.asked_for.clear()
    Fake(download=True).prepare(root, cache_dir)
    assert len(Fake().pool("test", root, cache_dir)) == 4
    assert server.asked_for == []


def test_only_what_is_missing_is_fetched(tmp_path: Path, server: Server) -> None:
    write_archive(tmp_path / "data", BACKGROUND, drawings(BACKGROUND))
    Fake(download=True).prepare(tmp_path / "data", tmp_path / "cache")
    assert set(server.asked_for) == {f"/{EVALUATION}.zip"}


def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, server: Server) -> None:
    with pytest.raises(UserError, match="cannot be found"):
        Fake(download=False).prepare(tmp_path / "data", tmp_path / "cache")
    assert server.asked_for == []


@pytest.mark.parametrize(
    ("failure", "reason"),
    [("cut short", "corrupted|IncompleteRead"), ("other content", "corrupted"), ("not found", "404")],
)
def test_a_bad_download_is_named_and_no_file_is_left(tmp_path: Path, server: Server, failure, reason: str) -> None:
    root = tmp_path / "data"
    server.fails = dict.fromkeys(BOTH, failure)
    problem = problem_of_fetching(root, tmp_path / "cache")
    assert f"{BACKGROUND}.zip could not be fetched" in problem
    assert re.search(reason, problem)
    assert files(root) == []

    server.fails = {}
    Fake(download=True).prepare(root, tmp_path / "cache")
    assert len(files(root)) == 2


def test_an_archive_that_arrived_before_the_failure_stays(tmp_path: Path, server: Server) -> None:
    root = tmp_path / "data"
    server.fails = {f"/{EVALUATION}.zip": "cut short"}
    problem = problem_of_fetching(root, tmp_path / "cache")
    assert f"{EVALUATION}.zip could not be fetched" in problem
    assert f"{BACKGROUND}.zip" not in problem
    assert files(root) == [f"omniglot-py/{BACKGROUND}.zip"]


def test_an_absent_server_is_one_problem_with_what_to_do(tmp_path: Path, server: Server, monkeypatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and not listening: whoever calls is refused
        prefix = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setattr(TorchvisionOmniglot, "download_url_prefix", prefix)
        problem = problem_of_fetching(tmp_path / "data", tmp_path / "cache")
    assert problem.startswith("download is true, but images_background.zip could not be fetched")
    folder = str(tmp_path / "data")
    for said in (prefix, "Connection refused", folder, "put the .zip file there", "configs/glyphs.yaml"):
        assert said in problem
    assert files(tmp_path / "data") == []


def test_a_root_that_cannot_be_written_is_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    problem = problem_of_fetching(tmp_path / "file" / "data", tmp_path / "cache")
    assert "Not a directory" in problem
    assert server.asked_for == []
