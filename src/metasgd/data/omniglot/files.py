"""Omniglot's files: where they are, whether they are all there and intact, and what they show."""

import hashlib
import io
import re
import struct
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from metasgd.data.class_pool import ClassPool
from metasgd.data.omniglot.archive import Limits, read_images
from metasgd.data.omniglot.release import Release
from metasgd.errors import UserError, raise_problems

SIDE = 105  # pixels
TORCHVISION_FOLDER = "omniglot-py"
RESAMPLING = Image.Resampling.LANCZOS
MOST_PROBLEMS = 10  # a tree can lack thousands of drawings
FILE_LIMIT = 2**16  # bytes; the drawings have a few hundred
ADVICE = "Put an intact copy in its place"
# what Pillow raises on damaged PNG files, or warns of; and those below
DAMAGE = (
    Warning,
    Image.DecompressionBombError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    struct.error,
    zlib.error,
)

# path → content of the drawings of one part, "images_background/Greek/character01/0394_01.png"
Files = dict[str, bytes]


def find_part(root: Path, part: str) -> Path | None:
    """The archive or the extracted tree of ``part`` in ``root`` or in torchvision's folder there.

    An archive is preferred to a tree beside it: its content carries checksums.
    """
    folders = (root, root / TORCHVISION_FOLDER)
    archives = [folder / f"{part}.zip" for folder in folders]
    trees = [folder / part for folder in folders]
    return next((path for path in archives if path.is_file()), next((path for path in trees if path.is_dir()), None))


def fingerprint(found: Path) -> str:
    """A hash that changes with the files: of an archive's content; of a tree's paths, sizes and times."""
    if found.is_file():
        with found.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for path in _tree_files(found):
        status = path.stat()
        line = (path.relative_to(found).as_posix(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        digest.update(repr(line).encode())
    return digest.hexdigest()


def read_characters(found: Mapping[str, Path], image_size: int, release: Release) -> ClassPool:
    """All the characters, sorted by name, ``"Alphabet/characterNN"``; each alphabet is a group.

    Args:
        found: the archive or tree of each part.
        image_size: height and width of the pool's images.
        release: what must be there.

    Returns:
        images ``[M, 1, image_size, image_size]``, ink 255 on 0; a character's drawings in the order of their
        file names.

    Raises:
        UserError: something is damaged, missing or too much; each file is named.
    """
    files = {part: _read_part(path, part) for part, path in found.items()}
    raise_problems(_shorten([p for part in files for p in _part_problems(found[part], files[part], part, release)]))
    drawings: dict[str, list[tuple[str, bytes]]] = defaultdict(list)
    for part, content in files.items():
        for path, data in sorted(content.items()):
            _, alphabet, character, _ = path.split("/")
            # an archive's paths begin with the part's name, which is the tree's own
            where = f"{found[part]}, member {path}" if found[part].is_file() else f"{found[part].parent / path}"
            drawings[f"{alphabet}/{character}"].append((where, data))
    names = sorted(drawings)
    alphabets = sorted({name.split("/")[0] for name in names})
    images = np.empty((len(names), release.drawings, 1, image_size, image_size), dtype=np.uint8)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for c in progress.track(range(len(names)), description="Decoding Omniglot"):
            for d, (where, data) in enumerate(drawings[names[c]]):
                images[c, d, 0] = decode_drawing(data, where, image_size)
    groups = np.array([alphabets.index(name.split("/")[0]) for name in names], dtype=np.int64)
    return ClassPool.of_equal_counts(images, tuple(names), groups)


def decode_drawing(data: bytes, where: str, image_size: int) -> NDArray[np.uint8]:
    """One drawing, ``[image_size, image_size]``, ink 255 on 0, reduced by Pillow's Lanczos filter.

    Lanczos is antialiased: each pixel weighs all the area it stands for. MAML's own code reduces so.

    Raises:
        UserError: not an intact PNG of 105×105 black-on-white pixels.
    """
    try:
        with warnings.catch_warnings(action="error"):
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                image.verify()  # decoding does not look at the checksums, and this image cannot be decoded after it
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                # known before any pixel is decoded: a small file can claim gigabytes
                if image.size != (SIDE, SIDE):
                    raise ValueError(f"{image.width}×{image.height} pixels, Omniglot's drawings have {SIDE}×{SIDE}")
                if image.mode not in ("1", "L"):
                    raise ValueError(f"pixels of mode {image.mode}, not black and white")
                small = image.convert("L").resize((image_size, image_size), RESAMPLING)
    except UnidentifiedImageError as error:  # its message has nothing to tell
        raise UserError(f"{where}: not an intact PNG image. {ADVICE}") from error
    except DAMAGE as error:
        raise UserError(f"{where}: not an intact drawing ({error}). {ADVICE}") from error
    return 255 - np.asarray(small)


def _read_part(found: Path, part: str) -> Files:
    if found.is_file():
        return dict(read_images(found, limits=Limits(member_bytes=FILE_LIMIT, total_bytes=2**27)))
    return {f"{part}/{path.relative_to(found).as_posix()}": _read_file(path) for path in _tree_files(found)}


def _tree_files(tree: Path) -> list[Path]:
    found = [path for path in tree.glob("*/*/*.png") if not any(p.startswith(".") for p in path.parts[-3:])]
    return sorted(found)


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). {ADVICE}") from error
    if len(data) > FILE_LIMIT:
        raise UserError(f"{path}: over {FILE_LIMIT} bytes, too large for a drawing. {ADVICE}")
    return data


def _part_problems(found: Path, files: Files, part: str, release: Release) -> list[str]:
    well_placed = re.compile(re.escape(part) + r"/[^/]+/character[0-9]+/[^/]+\.png")
    stray = [path for path in files if not well_placed.fullmatch(path)]
    if stray:
        layout = f"{part}/ALPHABET/characterNN/NAME.png"
        return [f"{found}: {path!r} does not belong there, only {layout} does. {ADVICE}" for path in stray]
    drawings = Counter(path.rsplit("/", 1)[0].split("/", 1)[1] for path in files)
    present = {name.split("/")[0] for name in drawings}
    expected = {
        f"{alphabet}/character{number:02d}"
        for alphabet, characters in release.parts[part].items()
        if alphabet in present  # one that lacks altogether is named once
        for number in range(1, characters + 1)
    }
    return [
        f"{found}: alphabet {alphabet!r} is missing. {ADVICE}"
        for alphabet in sorted(set(release.parts[part]) - present)
    ] + [
        f"{found}: character {name!r} has {n} drawings, {wanted} are expected. {ADVICE}"
        for name in sorted(expected | set(drawings))
        if (n := drawings[name]) != (wanted := release.drawings * (name in expected))
    ]


def _shorten(problems: list[str]) -> list[str]:
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], f"… and {len(problems) - MOST_PROBLEMS} more of this kind"]
