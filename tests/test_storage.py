import errno
import os

import pytest
from upath import UPath

from metasgd.errors import UserError
from metasgd.storage import place_of, write_whole


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
