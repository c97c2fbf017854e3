"""A release with the shape of Omniglot and 14 characters, made on the spot."""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metasgd.data.omniglot.release import BACKGROUND, EVALUATION, Release
from metasgd.data.omniglot.source import Omniglot

FAKE = Release(
    parts={BACKGROUND: {"Gimel": 3, "Aleph": 4, "Beth_(old)": 2}, EVALUATION: {"He": 2, "Daleth": 3}},
    drawings=3,
    random_sizes=(8, 2, 4),
    val_alphabets=("Beth_(old)",),
)
PARTS = tuple(FAKE.parts)


class Fake(Omniglot):
    release = FAKE


def is_ink(path: str) -> NDArray[np.bool_]:
    """What the drawing shows, ``[105, 105]``: strokes that look different after any turn."""
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    ink = np.zeros((105, 105), dtype=bool)
    for top, left in rng.integers(5, 80, size=(4, 2)):
        ink[top : top + 4, left : left + 20] = True
        ink[top : top + 12, left : left + 4] = True
    return ink


def png(ink: NDArray[np.bool_], mode: str = "1") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.where(ink, 0, 255).astype(np.uint8)).convert(mode).save(file, "PNG")
    return file.getvalue()


def drawings(part: str) -> dict[str, bytes]:
    """Path → content, as in the part's archive."""
    paths = [
        f"{part}/{alphabet}/character{number:02d}/0{number}_{drawing:02d}.png"
        for alphabet, characters in FAKE.parts[part].items()
        for number in range(1, characters + 1)
        for drawing in range(1, FAKE.drawings + 1)
    ]
    return {path: png(is_ink(path)) for path in paths}


def write_archive(folder: Path, part: str, members: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(path, content)
    return folder / f"{part}.zip"


def write_tree(folder: Path, part: str, members: dict[str, bytes]) -> Path:
    for path, content in members.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder / part


def write_archives(folder: Path) -> Path:
    for part in PARTS:
        write_archive(folder, part, drawings(part))
    return folder


def write_trees(folder: Path) -> Path:
    for part in PARTS:
        write_tree(folder, part, drawings(part))
    return folder
