import errno
import os
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.storage import place_of, validate_writable, write_whole


def test_an_address_that_cannot_be_reached_is_refused():
    with pytest.raises(UserError, match=r"some.option is nowhere://bucket/runs, which cannot be reached from here"):
        place_of("nowhere://bucket/runs", "some.option")


def test_a_folder_may_lie_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place_of("~/runs", "some.option") == UPath(tmp_path / "runs")
    assert place_of("runs", "some.option") == UPath("runs")


@pytest.mark.parametrize("root", ["memory://bucket/of-this-test", "a folder"])
def test_a_file_replaces_the_one_before(root, tmp_path):
    root = UPath(tmp_path) if root == "a folder" else UPath(root)
    place = root / "new" / "folder" / "results.json"
    for content in (b"first", b"and longer", b""):
        write_whole(place, content)
        assert place.read_bytes() == content
    assert [p.name for p in place.parent.iterdir()] == ["results.json"]


def test_a_write_that_fails_leaves_the_file_before_and_nothing_else(tmp_path, monkeypatch):
    place = UPath(tmp_path) / "last.ckpt"
    write_whole(place, b"whole")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(place, b"this does not fit")
    assert place.read_bytes() == b"whole"
    assert [p.name for p in place.parent.iterdir()] == ["last.ckpt"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    place = UPath(tmp_path) / "last.ckpt"
    place.write_bytes(b"whole")
    dead = next(pid for pid in range(2, 2**22) if not Path(f"/proc/{pid}").exists())
    left = [f".last.ckpt.{dead}", ".last.ckpt.999999999"]  # no system counts that far
    staying = [f".last.ckpt.{os.getpid()}", ".last.ckpt.1", f".best.ckpt.{dead}", ".last.ckpt.mine", ".last.ckpt"]
    for name in left + staying:
        (place.parent / name).touch()
    write_whole(place, b"the next")
    assert {p.name for p in tmp_path.iterdir()} == {*staying, "last.ckpt"} - {f".last.ckpt.{os.getpid()}"}


def test_an_address_is_filled_in_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    assert place_of("$SCRATCH/runs", "x") == place_of("${SCRATCH}/runs", "x") == UPath(tmp_path) / "runs"
    assert place_of("~/runs", "x") == UPath("/home/me/runs")
    for unset in ("$UNSET/runs", "${UNSET}/runs"):
        with pytest.raises(UserError, match=r"some.option is .*, but the environment has no variable UNSET"):
            place_of(unset, "some.option")
    (tmp_path / "$UNSET").mkdir()
    assert place_of("$UNSET", "x") == UPath("$UNSET")


class BackendError(Exception):
    """As those of botocore, aiohttp and azure: of no type that others know."""


def test_an_error_of_a_remote_file_system_is_one_of_the_system(monkeypatch):
    def raise_problems(*args, **kwargs):
        raise BackendError("AccessDenied")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", raise_problems)
    monkeypatch.setattr(MemoryFileSystem, "_open", raise_problems)
    bucket = UPath("memory://bucket/of-this-test")
    with pytest.raises(OSError, match="BackendError: AccessDenied"):
        write_whole(bucket / "last.ckpt", b"x")
    with pytest.raises(
        UserError, match="some.option is memory://bucket/of-this-test, which .* .BackendError: AccessDenied"
    ):
        validate_writable(bucket, "some.option")


def test_a_place_that_can_be_written_is_left_as_it_was():
    bucket = UPath("memory://bucket/of-another-test")
    validate_writable(bucket, "some.option")
    assert not bucket.fs.find(bucket.path)
