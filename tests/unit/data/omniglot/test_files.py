import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.fake_omniglot import (
    FAKE,
    PARTS,
    drawings,
    is_ink,
    png,
    write_archive,
    write_archives,
    write_tree,
    write_trees,
)

from metasgd.data.class_pool import ClassPool
from metasgd.data.omniglot.files import FILE_LIMIT, decode_drawing, find_part, fingerprint, read_characters
from metasgd.data.omniglot.release import BACKGROUND, EVALUATION
from metasgd.errors import UserError

Write = Callable[[Path, str, dict[str, bytes]], Path]
BOTH_KINDS = pytest.mark.parametrize("write", [write_archive, write_tree])


def read(root: Path, image_size: int = 28) -> ClassPool:
    found = {part: path for part in PARTS if (path := find_part(root, part))}
    assert list(found) == list(PARTS)
    return read_characters(found, image_size, FAKE)


# --- where the files are


def test_an_archive_is_preferred_to_a_tree_and_the_root_to_torchvisions_folder(tmp_path: Path) -> None:
    root, inner = tmp_path, tmp_path / "omniglot-py"
    assert find_part(root, BACKGROUND) is None
    write_tree(inner, BACKGROUND, drawings(BACKGROUND))
    assert find_part(root, BACKGROUND) == inner / BACKGROUND
    write_tree(root, BACKGROUND, drawings(BACKGROUND))
    assert find_part(root, BACKGROUND) == root / BACKGROUND
    write_archive(inner, BACKGROUND, drawings(BACKGROUND))
    assert find_part(root, BACKGROUND) == inner / f"{BACKGROUND}.zip"
    write_archive(root, BACKGROUND, drawings(BACKGROUND))
    assert find_part(root, BACKGROUND) == root / f"{BACKGROUND}.zip"
    assert find_part(root, EVALUATION) is None


def test_the_fingerprint_of_an_archive_is_of_its_content(tmp_path: Path) -> None:
    members = drawings(EVALUATION)
    one, same = (write_archive(tmp_path / name, EVALUATION, members) for name in ("one", "same"))
    same.write_bytes(one.read_bytes())
    os.utime(same, (0, 0))
    assert fingerprint(one) == fingerprint(same)
    with same.open("ab") as file:
        file.write(b"\0")
    assert fingerprint(one) != fingerprint(same)


def test_the_fingerprint_of_a_tree_changes_with_its_files(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, EVALUATION, drawings(EVALUATION))
    seen = [fingerprint(tree)]
    first = min(tree.rglob("*.png"))
    os.utime(first, (0, 0))
    seen.append(fingerprint(tree))
    first.rename(first.with_name("renamed.png"))
    seen.append(fingerprint(tree))
    first.with_name("renamed.png").unlink()
    seen.append(fingerprint(tree))
    assert len(set(seen)) == 4
    (first.parent / "._hidden.png").write_bytes(b"left by a file manager")
    (first.parent / "notes.txt").write_bytes(b"not a drawing")
    assert fingerprint(tree) == seen[-1]


# --- what they show


def test_characters_are_sorted_by_name_and_grouped_by_alphabet(tmp_path: Path) -> None:
    pool = read(write_archives(tmp_path))
    assert pool.names == (
        "Aleph/character01",
        "Aleph/character02",
        "Aleph/character03",
        "Aleph/character04",
        "Beth_(old)/character01",
        "Beth_(old)/character02",
        "Daleth/character01",
        "Daleth/character02",
        "Daleth/character03",
        "Gimel/character01",
        "Gimel/character02",
        "Gimel/character03",
        "He/character01",
        "He/character02",
    )
    assert pool.groups.tolist() == [0] * 4 + [1] * 2 + [2] * 3 + [3] * 3 + [4] * 2
    assert pool.counts.tolist() == [3] * 14
    assert pool.images.shape == (42, 1, 28, 28)
    assert pool.images.dtype == np.uint8


def test_at_full_size_every_pixel_is_the_drawings_own(tmp_path: Path) -> None:
    pool = read(write_archives(tmp_path), image_size=105)
    for path in (p for part in PARTS for p in drawings(part)):
        _, alphabet, character, name = path.split("/")
        c = pool.names.index(f"{alphabet}/{character}")
        number_in_file_name = int(name.removesuffix(".png").split("_")[1])
        image = pool.images[pool.starts[c] + number_in_file_name - 1, 0]
        np.testing.assert_array_equal(image, np.where(is_ink(path), 255, 0))


def test_archives_and_trees_give_the_same_bits(tmp_path: Path) -> None:
    from_archives = read(write_archives(tmp_path / "archives"))
    from_trees = read(write_trees(tmp_path / "trees"))
    for field in ("images", "starts", "counts", "groups"):
        np.testing.assert_array_equal(getattr(from_archives, field), getattr(from_trees, field))
    assert from_archives.names == from_trees.names


@pytest.mark.parametrize("mode", ["1", "L"])
@pytest.mark.parametrize("image_size", [20, 28, 105])
def test_a_reduced_drawing_keeps_its_ink_where_it_was(mode: str, image_size: int) -> None:
    ink = np.zeros((105, 105), dtype=bool)
    ink[:, :42] = True  # the left 2/5
    small = decode_drawing(png(ink, mode), "here", image_size)
    assert small.shape == (image_size, image_size)
    assert small.dtype == np.uint8
    assert small.mean() == pytest.approx(255 * 2 / 5, abs=3)
    third = image_size // 3
    assert (small[:, : third - 1] >= 250).all()
    assert (small[:, -third:] <= 5).all()


# --- what is wrong with them


def with_claimed_size(data: bytes, width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


BLANK = png(np.zeros((105, 105), dtype=bool))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "not an intact PNG", id="empty"),
        pytest.param(b"GIF89a" + b"\0" * 100, "not an intact PNG", id="not a PNG"),
        pytest.param(BLANK[:20], "Truncated", id="cut in its header"),
        pytest.param(BLANK[:60], "not an intact drawing", id="cut in its pixels"),
        pytest.param(
            png(np.zeros((105, 104), dtype=bool)), "104×105 pixels, Omniglot's drawings have 105×105", id="narrow"
        ),
        pytest.param(png(np.zeros((28, 28), dtype=bool)), "28×28 pixels", id="small"),
        pytest.param(png(np.zeros((105, 105), dtype=bool), "RGB"), "mode RGB", id="in color"),
        pytest.param(with_claimed_size(BLANK, 9000, 9000), "9000×9000 pixels", id="below what Pillow warns of"),
        pytest.param(with_claimed_size(BLANK, 10_000, 10_000), "100000000 pixels", id="Pillow warns"),
        pytest.param(with_claimed_size(BLANK, 60_000, 60_000), "3600000000 pixels", id="Pillow refuses"),
    ],
)
def test_a_bad_drawing_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=rf"^right/here\.png: .*{reason}.* Put an intact copy in its place$"):
        decode_drawing(data, "right/here.png", 28)


def test_no_flipped_bit_changes_a_drawing_unnoticed() -> None:
    data = png(is_ink("any"))
    intact = decode_drawing(data, "here", 28)
    refused = 0
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            np.testing.assert_array_equal(decode_drawing(bytes(flipped), "here", 28), intact)
        except UserError:
            refused += 1
    assert refused > 0.9 * 8 * len(data)


def problems(root: Path) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        read(root)
    return caught.value.problems


@BOTH_KINDS
def test_everything_that_lacks_or_is_too_much_is_named_at_once(tmp_path: Path, write: Write) -> None:
    background, evaluation = drawings(BACKGROUND), drawings(EVALUATION)
    background = {path: data for path, data in background.items() if "/Gimel/" not in path}
    del background[f"{BACKGROUND}/Aleph/character01/01_02.png"]
    background[f"{BACKGROUND}/Aleph/character02/02_04.png"] = BLANK
    evaluation = {path: data for path, data in evaluation.items() if "/He/character02/" not in path}
    evaluation[f"{EVALUATION}/He/character03/03_01.png"] = BLANK
    evaluation[f"{EVALUATION}/Zayin/character01/01_01.png"] = BLANK
    first, second = write(tmp_path, BACKGROUND, background), write(tmp_path, EVALUATION, evaluation)
    said = [problem.removesuffix(". Put an intact copy in its place") for problem in problems(tmp_path)]
    assert said == [
        f"{first}: alphabet 'Gimel' is missing",
        f"{first}: character 'Aleph/character01' has 2 drawings, 3 are expected",
        f"{first}: character 'Aleph/character02' has 4 drawings, 3 are expected",
        f"{second}: character 'He/character02' has 0 drawings, 3 are expected",
        f"{second}: character 'He/character03' has 1 drawings, 0 are expected",
        f"{second}: character 'Zayin/character01' has 1 drawings, 0 are expected",
    ]


@BOTH_KINDS
def test_an_alphabet_of_the_other_part_is_not_counted_twice(tmp_path: Path, write: Write) -> None:
    moved = {path.replace(BACKGROUND, EVALUATION): d for path, d in drawings(BACKGROUND).items() if "/Aleph/" in path}
    write(tmp_path, BACKGROUND, drawings(BACKGROUND))
    second = write(tmp_path, EVALUATION, drawings(EVALUATION) | moved)
    assert problems(tmp_path)[0].startswith(f"{second}: character 'Aleph/character01' has 3 drawings, 0 are expected")


@pytest.mark.parametrize(
    "path",
    [
        "Aleph/character01/01_01.png",  # packed without its outer folder
        f"{EVALUATION}/Aleph/character01/01_09.png",
        f"{BACKGROUND}/01_01.png",
        f"{BACKGROUND}/Aleph/character01/deeper/01_01.png",
        f"{BACKGROUND}/Aleph/notes/01_01.png",
    ],
)
def test_a_drawing_in_a_wrong_place_of_an_archive_is_named(tmp_path: Path, path: str) -> None:
    write_archives(tmp_path)
    write_archive(tmp_path, BACKGROUND, drawings(BACKGROUND) | {path: BLANK})
    [problem] = problems(tmp_path)
    assert repr(path) in problem
    assert f"only {BACKGROUND}/ALPHABET/characterNN/NAME.png does" in problem


def test_of_many_problems_the_first_ten_are_named(tmp_path: Path) -> None:
    write_archives(tmp_path)
    strays = {f"stray{i:02d}.png": BLANK for i in range(25)}
    write_archive(tmp_path, BACKGROUND, drawings(BACKGROUND) | strays)
    said = problems(tmp_path)
    assert len(said) == 11
    assert "stray09.png" in said[9]
    assert "15 more" in said[10]


@BOTH_KINDS
def test_a_damaged_drawing_is_named_by_its_own_path(tmp_path: Path, write: Write) -> None:
    write(tmp_path, BACKGROUND, drawings(BACKGROUND))
    path = f"{EVALUATION}/He/character02/02_03.png"
    found = write(tmp_path, EVALUATION, drawings(EVALUATION) | {path: BLANK[:60]})
    [problem] = problems(tmp_path)
    where = f"{found}, member {path}" if write is write_archive else str(tmp_path / path)
    assert problem.startswith(f"{where}: not an intact drawing")


def test_a_file_of_a_tree_that_is_too_large_is_refused(tmp_path: Path) -> None:
    write_trees(tmp_path)
    path = tmp_path / EVALUATION / "He/character02/02_03.png"
    os.truncate(path, FILE_LIMIT + 1)
    [problem] = problems(tmp_path)
    assert problem.startswith(f"{path}: over {FILE_LIMIT} bytes")


def test_a_folder_in_a_drawings_place_is_named(tmp_path: Path) -> None:
    write_trees(tmp_path)
    path = tmp_path / EVALUATION / "He/character02/02_03.png"
    path.unlink()
    path.mkdir()
    [problem] = problems(tmp_path)
    assert problem.startswith(f"{path}: cannot be read (Is a directory)")
