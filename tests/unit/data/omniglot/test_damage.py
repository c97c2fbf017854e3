"""Absent and damaged files of Omniglot, through the source itself."""

import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.fake_omniglot import BACKGROUND, EVALUATION, Fake, drawings, write_archive, write_archives

from metasgd.data.omniglot.source import Omniglot
from metasgd.errors import UserError


@pytest.mark.parametrize("present", [[], [BACKGROUND], [EVALUATION]])
def test_absent_data_is_one_problem_with_every_way_out(tmp_path: Path, present: list[str]) -> None:
    for part in present:
        write_archive(tmp_path, part, drawings(part))
    with pytest.raises(UserError) as caught:
        Omniglot().prepare(tmp_path, tmp_path / "cache")
    [problem] = caught.value.problems
    missing = " and ".join(part for part in (BACKGROUND, EVALUATION) if part not in present)
    assert f"root is {tmp_path}: Omniglot's {missing} cannot be found" in problem
    for way_out in (
        "images_background.zip",
        "images_evaluation.zip",
        "github.com/brendenlake/omniglot",
        "set download to true",
        "configs/glyphs.yaml",
    ):
        assert way_out in problem
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("download", [False, True])
def test_an_unreadable_root_is_named(tmp_path: Path, monkeypatch, download: bool) -> None:
    def refuse_stat(self: Path, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", refuse_stat)
    with pytest.raises(UserError, match=r"root is .*Permission denied.*Allow reading it"):
        Fake(download=download).prepare(tmp_path, tmp_path / "cache")


Members = dict[str, bytes]
DRAWING = f"{EVALUATION}/He/character01/01_02.png"


def truncate(archive: Path, members: Members) -> None:
    os.truncate(archive, archive.stat().st_size // 2)


def flip_a_byte(archive: Path, members: Members) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(DRAWING.encode()) + len(DRAWING) + 50] ^= 1
    archive.write_bytes(data)


def lose_a_member(archive: Path, members: Members) -> None:
    write_archive(archive.parent, EVALUATION, {path: data for path, data in members.items() if path != DRAWING})


def add_a_member(archive: Path, members: Members) -> None:
    write_archive(archive.parent, EVALUATION, members | {DRAWING.replace("01_02", "01_09"): members[DRAWING]})


def put_a_bomb(archive: Path, members: Members) -> None:
    write_archive(archive.parent, EVALUATION, members | {DRAWING: bytes(10_000_000)})


def leave_the_folder(archive: Path, members: Members) -> None:
    write_archive(archive.parent, EVALUATION, members | {f"{EVALUATION}/../../escaped.png": members[DRAWING]})


def encrypt(archive: Path, members: Members) -> None:
    with zipfile.ZipFile(archive) as opened:
        local = opened.getinfo(DRAWING).header_offset
    data = bytearray(archive.read_bytes())
    central = data.rindex(DRAWING.encode()) - 46
    for flags in (local + 6, central + 8):
        data[flags : flags + 2] = struct.pack("<H", 1)
    archive.write_bytes(data)


def be_a_web_page(archive: Path, members: Members) -> None:
    archive.write_text("<html>404: not found</html>")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "damaged or incomplete (File is not a zip file)"),
        (flip_a_byte, f"member {DRAWING}: damaged"),
        (lose_a_member, "'He/character01' has 2 drawings, 3 are expected"),
        (add_a_member, "'He/character01' has 4 drawings, 3 are expected"),
        (put_a_bomb, "unpacks to 10000000 bytes, 65536 are allowed"),
        (encrypt, "is encrypted"),
        (be_a_web_page, "damaged or incomplete (File is not a zip file)"),
    ],
)
def test_a_damaged_archive_is_named_and_none_of_it_is_cached(
    tmp_path: Path, damage: Callable[[Path, Members], None], reason: str
) -> None:
    root, cache_dir = write_archives(tmp_path / "data"), tmp_path / "cache"
    archive = root / f"{EVALUATION}.zip"
    damage(archive, drawings(EVALUATION))
    with pytest.raises(UserError) as caught:
        Fake().prepare(root, cache_dir)
    [problem] = caught.value.problems
    assert str(archive) in problem
    assert reason in problem
    assert "Put an intact copy" in problem
    assert os.listdir(cache_dir) == []
    assert sorted(os.listdir(tmp_path)) == ["cache", "data"]
    Fake().prepare(write_archives(root), cache_dir)
    assert len(os.listdir(cache_dir)) == 1


def test_a_name_that_leaves_the_folder_is_a_name_alone(tmp_path: Path) -> None:
    root = write_archives(tmp_path / "data")
    leave_the_folder(root / f"{EVALUATION}.zip", drawings(EVALUATION))
    Fake().prepare(root, tmp_path / "cache")
    assert not list(tmp_path.parent.rglob("escaped.png"))
