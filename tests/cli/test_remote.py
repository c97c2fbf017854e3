"""Runs in a remote file system; in this process, whose memory stands for it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from support.runs import TINY
from upath import UPath

from metasgd.cli.main import main


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    bucket = UPath("memory://bucket")
    bucket.mkdir(exist_ok=True)
    yield bucket
    bucket.fs.rm("/bucket", recursive=True)


def state(path):
    with path.open("rb") as file:
        return torch.load(file, weights_only=True)


def test_a_run_trains_resumes_and_is_evaluated_in_a_remote_file_system(bucket, tmp_path):
    place = ["--trainer.logger.init_args.save_dir", str(bucket / "runs")]
    run = bucket / "runs" / "sinusoid" / "version_0"
    assert main(["fit", *TINY, *place]) == 0
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert (run / "config.yaml").is_file()
    longer = ["--trainer.max_steps", "12"]
    assert main(["fit", *TINY, *place, *longer, "--ckpt_path", "last"]) == 0
    assert state(run / "checkpoints" / "last.ckpt")["global_step"] == 12
    assert main(["test", *TINY, *place, "--ckpt_path", "best"]) == 0
    assert json.loads((run / "results.json").read_text())["n_tasks"] == 40
    assert not list(tmp_path.iterdir())

    # the same as in a folder
    assert main(["fit", *TINY]) == 0
    assert main(["fit", *TINY, *longer, "--ckpt_path", "last"]) == 0
    local = state(UPath("runs/sinusoid/version_0/checkpoints/last.ckpt"))["state_dict"]
    remote = state(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert all(torch.equal(local[name], remote[name]) for name in local)


def test_a_damaged_or_missing_remote_checkpoint_is_refused(bucket, capsys):
    place = ["--trainer.logger.init_args.save_dir", str(bucket / "runs")]
    assert main(["test", *TINY, *place, "--ckpt_path", "last"]) == 2
    assert "no run in memory://bucket/runs/sinusoid has checkpoints/last.ckpt" in capsys.readouterr().err
    damaged = bucket / "damaged.ckpt"
    damaged.write_bytes(b"no checkpoint")
    assert main(["test", *TINY, "--ckpt_path", str(damaged)]) == 2
    assert "memory://bucket/damaged.ckpt cannot be read: it is damaged" in capsys.readouterr().err
    assert main(["test", *TINY, "--ckpt_path", str(bucket / "none.ckpt")]) == 2
    assert "which is not there" in capsys.readouterr().err


def test_an_address_that_cannot_be_reached_is_refused(bucket, capsys):
    assert main(["fit", *TINY, "--trainer.logger.init_args.save_dir", "nowhere://bucket/runs"]) == 2
    assert "trainer.logger.init_args.save_dir is nowhere://bucket/runs, which cannot" in capsys.readouterr().err


class GoneError(Exception):
    """As the packages behind fsspec have them: of no type that anyone else knows."""


@pytest.mark.parametrize("writes", [1, 2, 5, 9, 12])
def test_a_place_that_is_gone_in_mid_run_is_named_and_the_run_resumes_later(bucket, monkeypatch, capfd, writes):
    """Its first files are the probe, TensorBoard's events and the configuration; then come events and checkpoints."""
    arguments = ["fit", *TINY, "--trainer.logger.init_args.save_dir", str(bucket / "runs"), "--trainer.max_steps", "30"]
    arguments += ["--last_checkpoint.every_n_steps", "2", "--ckpt_path", "resume"]
    arguments += ["--trainer.logger.init_args.version", "0"]
    fine, count = MemoryFileSystem._open, iter(range(writes))

    def failing(self, path, mode="rb", **options):
        if mode != "rb" and next(count, None) is None:
            raise GoneError("no route to the bucket")
        return fine(self, path, mode, **options)

    with monkeypatch.context() as patched:
        patched.setattr(MemoryFileSystem, "_open", failing)
        assert main(arguments) == 2
    said = capfd.readouterr().err
    assert said.count("error:") == 1
    assert "GoneError: no route to the bucket" in said
    assert "resume with --ckpt_path last" in said or "resume with --ckpt_path" in said
    assert "Traceback" not in said
    assert main(arguments) == 0
    assert state(bucket / "runs/sinusoid/version_0/checkpoints/last.ckpt")["global_step"] == 30


@pytest.fixture(params=[403, 404, 500])
def server(request):
    """The address of a server that answers everything with this."""

    class Refusing(BaseHTTPRequestHandler):
        def answer(self):
            self.send_error(request.param)

        do_GET = do_HEAD = do_PUT = answer

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def refused(arguments, capsys):
    """What was said of it, in one message."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1
    assert "Traceback" not in said
    return said


def test_a_server_that_refuses_is_named(server, tmp_path, monkeypatch, capsys):
    pytest.importorskip("aiohttp", reason="fsspec reads http:// with it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metasgd"])
    said = refused(["test", *TINY, "--ckpt_path", f"{server}/last.ckpt"], capsys)
    assert f"--ckpt_path is {server}/last.ckpt, which" in said or f"the checkpoint {server}/last.ckpt cannot be" in said
    place = ["--trainer.logger.init_args.save_dir", f"{server}/runs"]
    assert f"trainer.logger.init_args.save_dir is {server}/runs, which does not answer" in refused(
        ["fit", *TINY, *place], capsys
    )
    assert f"{server}/runs" in refused(["fit", *TINY, *place, "--ckpt_path", "last"], capsys)
    assert not list(tmp_path.iterdir())
