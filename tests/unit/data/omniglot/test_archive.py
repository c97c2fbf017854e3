import os
import struct
import zipfile
from pathlib import Path

import pytest

from metasgd.data.omniglot.archive import Limits, read_images
from metasgd.errors import UserError


def make(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refusal(archive: Path, limits: Limits | None = None) -> str:
    """The message; and no member has been given out before it."""
    read = read_images(archive, limits=limits)
    with pytest.raises(UserError) as caught:
        next(read)
    assert str(archive) in str(caught.value)
    return str(caught.value)


def test_images_come_sorted_by_path_and_others_are_left_out(tmp_path: Path) -> None:
    archive = make(
        tmp_path / "a.zip",
        ("p/", b""),
        ("p/b.png", b"2" * 1000),
        ("p/a.png", b"1"),
        ("p/a.txt", b"text"),
        ("__MACOSX/p/._a.png", b"fork"),
        ("p/.hidden.png", b"hidden"),
    )
    assert list(read_images(archive)) == [("p/a.png", b"1"), ("p/b.png", b"2" * 1000)]


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04" + b"\0" * 60])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert "damaged or incomplete" in refusal(tmp_path / "a.zip")


def test_an_absent_archive_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.zip")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_archive_is_refused(tmp_path: Path, share: float) -> None:
    archive = make(tmp_path / "a.zip", *((f"p/{i}.png", os.urandom(100)) for i in range(10)))
    os.truncate(archive, int(archive.stat().st_size * share))
    assert "damaged or incomplete" in refusal(archive)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wrong_checksum_names_the_member(tmp_path: Path, method: int) -> None:
    archive = make(tmp_path / "a.zip", ("p/good.png", b"g" * 50), ("p/worse.png", b"w" * 50), method=method)
    data = bytearray(archive.read_bytes())
    data[data.index(b"p/worse.png") + len(b"p/worse.png") + 1] ^= 4
    archive.write_bytes(data)
    read = read_images(archive)
    assert next(read) == ("p/good.png", b"g" * 50)
    with pytest.raises(UserError, match=r"a\.zip, member p/worse\.png: damaged"):
        next(read)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_flipped_bit_gives_other_content_or_another_error(tmp_path: Path, method: int) -> None:
    archive = make(tmp_path / "a.zip", ("p/a.png", b"abc" * 20), ("p/b.png", b"xyz" * 20), method=method)
    intact, data = set(read_images(archive)), archive.read_bytes()
    refused = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        archive.write_bytes(flipped)
        try:
            # it may lack a member, if the table of contents is cut by a wrong length in it
            assert set(read_images(archive)) <= intact
        except UserError:
            refused += 1
    assert refused > 0.4 * 8 * len(data)


def patch_records(archive: Path, local_offset: int, central_offset: int, value: bytes) -> None:
    """Overwrite a field of the only member, in its local header and in the central directory."""
    data = bytearray(archive.read_bytes())
    for start in (data.index(b"PK\x03\x04") + local_offset, data.index(b"PK\x01\x02") + central_offset):
        data[start : start + len(value)] = value
    archive.write_bytes(data)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", ("p/a.png", b"content"))
    patch_records(archive, 6, 8, struct.pack("<H", 1))
    assert "encrypted" in refusal(archive)


def test_a_member_that_unpacks_to_more_than_it_declares_is_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", ("p/a.png", b"0" * 10_000))
    patch_records(archive, 22, 24, struct.pack("<I", 100))
    assert "p/a.png: damaged" in refusal(archive)


def test_a_member_that_unpacks_to_less_than_it_declares_is_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", ("p/a.png", b"0" * 100))
    patch_records(archive, 22, 24, struct.pack("<I", 10_000))
    assert "p/a.png: damaged" in refusal(archive)


@pytest.mark.parametrize("name", ["/etc/a.png", "C:/a.png", "p\\a.png", "../a.png", "p/../../a.png"])
def test_any_path_is_but_a_name_since_nothing_is_written(tmp_path: Path, name: str) -> None:
    archive = make(tmp_path / "a.zip", ("a/first.png", b"fine"), (name, b"x"))
    expected = [("a/first.png", b"fine")] + [(name, b"x")] * (".." not in name)  # which counts as hidden
    assert sorted(read_images(archive)) == sorted(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_two_members_of_one_path_are_refused(tmp_path: Path) -> None:
    archive = make(tmp_path / "a.zip", ("p/a.png", b"1"), ("p/b.png", b"2"))
    archive.write_bytes(archive.read_bytes().replace(b"p/b.png", b"p/a.png"))
    assert "'p/a.png': two members have this path" in refusal(archive)


def test_an_unbounded_compression_method_is_refused(tmp_path: Path) -> None:
    assert "compression method" in refusal(make(tmp_path / "a.zip", ("p/a.png", b"1"), method=zipfile.ZIP_LZMA))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(members=2), "3 members, 2 are allowed"),
        (Limits(member_bytes=999), r"'p/b.png': unpacks to 1000 bytes, 999 are allowed"),
        (Limits(total_bytes=1500), r"'p/c.png': unpacks, with those before it, to over 1500 bytes"),
    ],
)
def test_what_exceeds_a_limit_is_refused_before_it_is_read(tmp_path: Path, limits: Limits, reason: str) -> None:
    archive = make(tmp_path / "a.zip", ("p/a.png", b"1"), ("p/b.png", b"2" * 1000), ("p/c.png", b"3" * 999))
    assert reason in refusal(archive, limits)
    at_the_limit = Limits(members=3, member_bytes=1000, total_bytes=2000)
    assert len(list(read_images(archive, limits=at_the_limit))) == 3
