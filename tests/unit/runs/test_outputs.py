"""A place that cannot be written is refused before the work, and nothing is left behind by trying."""

import os
import stat
from pathlib import Path

import pytest

from metasgd.errors import UserError
from metasgd.runs.outputs import validate_folder, validate_output, write_output
from metasgd.runs.storage import write_whole


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("folder", "which is a folder"),
        (".", "which is a folder"),
        ("file.txt/x.csv", "Not a directory"),
        ("x" * 251 + ".csv", "File name too long"),
        ("new/" + "y" * 300 + "/x.csv", "File name too long"),
        ("a\0b.csv", "null"),
        ("pipe", "no regular file"),
    ],
)
def test_an_impossible_place_is_named(tmp_path, name, said):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=said) as raised:
        validate_output(tmp_path / name, "--save")
    assert str(raised.value).startswith("--save is ")
    assert contents(tmp_path) == before


def test_a_device_is_not_replaced():
    with pytest.raises(UserError, match="--output is /dev/null, which is no regular file"):
        validate_output(Path("/dev/null"), "--output")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_what_is_read_is_not_overwritten(tmp_path):
    read, link = tmp_path / "read.ckpt", tmp_path / "link.ckpt"
    read.touch()
    link.symlink_to(read)
    for place in (read, link):
        with pytest.raises(UserError, match="read here and would be overwritten"):
            validate_output(place, "--save", [tmp_path / "gone", read])


@pytest.mark.parametrize(
    "name", ["x.csv", "new/folder/x.csv", "old.csv", "=[/red] $\\frac$ \n.csv", "x" * 230 + ".csv"]
)
def test_a_possible_place_is_left_as_it_was_and_can_be_written(tmp_path, name):
    (tmp_path / "old.csv").write_text("old")
    before = contents(tmp_path)
    validate_output(tmp_path / name, "--output")
    assert contents(tmp_path) == before
    write_output(tmp_path / name, b"new", "--output")
    assert (tmp_path / name).read_bytes() == b"new"


def test_what_passes_is_what_can_be_written(tmp_path):
    """Names around the longest, against the file system itself."""
    for length in range(235, 258):
        place = tmp_path / ("n" * length)
        try:
            write_whole(place, b"x")
            possible = True
            place.unlink()
        except OSError:
            possible = False
        try:
            validate_output(place, "--output")
            passed = True
        except UserError:
            passed = False
        assert passed == possible, length


def test_a_folder_under_a_file_or_of_a_long_name_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "run", tmp_path / ("n" * 300) / "version_0"):
        with pytest.raises(UserError, match="--name is .*it cannot be written"):
            validate_folder(place, "--name")
    validate_folder(tmp_path / "runs" / "train" / "version_0", "--name")
    assert contents(tmp_path) == ["file"]
