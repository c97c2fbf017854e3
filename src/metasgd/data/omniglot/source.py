"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al. 2015)."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import ClassVar, Literal
from urllib.error import HTTPError

import numpy as np
import PIL
from numpy.typing import NDArray

from metasgd.data.cache import digest_of, load_or_build, staging_folder
from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.images.decoding import PictureForm
from metasgd.data.images.polarity import Ink
from metasgd.data.omniglot.files import (
    RESAMPLING,
    SIDE,
    TORCHVISION_FOLDER,
    find_part,
    fingerprint,
    read_characters,
)
from metasgd.data.omniglot.redrawn import REDRAWING, with_redrawn
from metasgd.data.omniglot.release import BACKGROUND, EVALUATION, OFFICIAL, Release
from metasgd.data.rng import SPLITS, Split
from metasgd.data.source import ClassSource, Sampler
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.distortion import MOST_DISTORTION, MOST_THICKNESS, Distorted
from metasgd.data.transforms.rotation import Rotated
from metasgd.errors import UserError, raise_problems

MOST_REDRAWN = 20
SPLIT_SALT = "metasgd/omniglot/1"


class Omniglot(ClassSource):
    """Handwritten characters as classes, drawn in ink 255 on 0.

    Reads, from ``data.root`` or its folder ``omniglot-py``, the two archives of the official release,
    ``images_background.zip`` and ``images_evaluation.zip``, in place, or the trees extracted from them.

    Args:
        split: ``random``: 1,100 characters to train, 100 to validate, 423 to test, whatever their alphabet,
            as MAML's code has it; the same ones every time. ``official``: train on 25 and validate on 5 of
            the 30 background alphabets, test on the 20 evaluation alphabets.
        rotations: in training, a character rotated by 90°, 180° and 270° is three more classes.
        eval_rotations: in validation and test, each of a task's characters is rotated by 0°, 90°, 180° or 270° at
            random, as in the code published with MAML. Tasks are easier for it, since characters that resemble one
            another mostly come in different rotations.
        mirrors: in training, the mirror image of a character, rotated or not, is one more class.
        distortion: in training, how much every drawing is rotated, stretched, slanted and moved at random, support
            and query alike, each time it is drawn; see ``Distorted``. 0 leaves them.
        image_size: height and width in pixels, 1 to 105.
        download: fetch the archives into ``data.root`` if they are not there, through torchvision.
        thickness: in training, how much the strokes of every drawing are thickened or thinned at random, 0 to 1.
        recomposed: in training, the left half of a character beside the right half of the next of its alphabet is one
            more class, of an alphabet of such ones.
        redrawn: in training, how often each drawing is drawn again by its own strokes, which are bent and whose ends
            and crossings are moved, as one more drawing of its character; 0 to 20. See ``PenDrawing.again``. The first
            run takes some minutes for it: each such drawing is made once.

    Raises:
        UserError: an option is out of range.

    Example:
        >>> Omniglot("official", image_size=32).form
        PictureForm(channels=1, height=32, width=32, fit='pad')

    References:
        Lake, Salakhutdinov and Tenenbaum, Science 350, 2015.
    """

    ink: Ink | None = "light"
    release: ClassVar[Release] = OFFICIAL

    def __init__(
        self,
        split: Literal["random", "official"] = "random",
        rotations: bool = True,
        eval_rotations: bool = False,
        mirrors: bool = False,
        distortion: float = 0.0,
        image_size: int = 28,
        download: bool = False,
        thickness: float = 0.0,
        recomposed: bool = False,
        redrawn: int = 0,
    ) -> None:
        problems = []
        if split not in ("random", "official"):
            problems.append(f"split is {split!r}: use 'random' or 'official'")
        if not 1 <= image_size <= SIDE:
            problems.append(f"image_size is {image_size}: use 1 to {SIDE} pixels")
        if not 0 <= distortion <= MOST_DISTORTION:
            problems.append(f"distortion is {distortion}: use 0 to {MOST_DISTORTION}")
        if not 0 <= thickness <= MOST_THICKNESS:
            problems.append(f"thickness is {thickness}: use 0 to {MOST_THICKNESS}")
        if not 0 <= redrawn <= MOST_REDRAWN:
            problems.append(f"redrawn is {redrawn}: use 0 to {MOST_REDRAWN}")
        raise_problems(problems)
        self.split = split
        self.rotations = rotations
        self.eval_rotations = eval_rotations
        self.mirrors = mirrors
        self.distortion = distortion
        self.thickness = thickness
        self.recomposed = recomposed
        self.redrawn = redrawn
        self.image_size = image_size
        self.download = download

    @property
    def form(self) -> PictureForm:
        return PictureForm(channels=1, height=self.image_size, width=self.image_size, fit="pad")

    def prepare(self, root: Path, cache_dir: Path) -> None:
        if self.download:
            with _root_named(root):
                missing = [part for part in self.release.parts if find_part(root, part) is None]
            for part in missing:
                _download(root, part)
        self._of_split("val", root, cache_dir)  # whose cache all splits share; only training draws again

    def pool(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        chosen = self._of_split(split, root, cache_dir)
        if split == "train" and self.recomposed:
            chosen = chosen.with_recomposed()
        if split == "train" and self.mirrors:
            chosen = chosen.with_mirrors()
        return chosen.with_rotations() if split == "train" and self.rotations else chosen

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        sampler = ClassSampler(self.pool(split, root, cache_dir), split, seed, shape)
        if split == "train":
            changed = self.distortion or self.thickness
            return Distorted(sampler, self.distortion, split, seed, self.thickness) if changed else sampler
        return Rotated(sampler, split, seed) if self.eval_rotations else sampler

    def _of_split(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        """The characters of one split, those of training with their drawings drawn again."""
        with _root_named(root):
            found = _find_parts(root, self.release)
            content = {part: fingerprint(path) for part, path in found.items()}
        made_by: tuple[object, ...] = (PIL.__version__, RESAMPLING.name, sorted(content.items()))

        def decoded(image_size: int) -> ClassPool:
            return read_characters(found, image_size, self.release)

        # all the characters, of all splits: one cache serves every split and rotation
        size = f"{self.image_size}px"
        everything = load_or_build(cache_dir, f"omniglot-{size}-{digest_of(made_by)}", lambda: decoded(self.image_size))
        classes = self._classes(split, everything.names)
        chosen = everything.select(classes)
        if split != "train" or not self.redrawn:
            return chosen
        made_by += (REDRAWING, np.__version__, self.split, self.redrawn)
        return load_or_build(
            cache_dir,
            f"omniglot-redrawn-{size}-{digest_of(made_by)}",
            lambda: with_redrawn(chosen, decoded(SIDE).select(classes), self.redrawn),
        )

    def _classes(self, split: Split, names: Sequence[str]) -> NDArray[np.int64]:
        if self.split == "random":
            return random_split(names, self.release.random_sizes)[split]
        return official_split(names, self.release)[split]


def random_split(names: Sequence[str], sizes: tuple[int, int, int]) -> dict[Split, NDArray[np.int64]]:
    """Numbers of the characters of each split, ascending.

    The characters are ordered by the SHA-256 of ``"metasgd/omniglot/1:" + name`` (UTF-8), name being
    ``"Alphabet/characterNN"``. The first of them are train, the next val, the last test. So the split depends
    on the names alone: not on files, platform or any library's random numbers.
    """
    order = sorted(range(len(names)), key=lambda c: hashlib.sha256(f"{SPLIT_SALT}:{names[c]}".encode()).digest())
    ends = np.cumsum(sizes)[:-1]
    parts = np.split(np.array(order, dtype=np.int64), ends)
    return {split: np.sort(part) for split, part in zip(SPLITS, parts, strict=True)}


def official_split(names: Sequence[str], release: Release) -> dict[Split, NDArray[np.int64]]:
    """Numbers of the characters of each split, ascending; no alphabet is in two splits."""
    alphabets = np.array([name.split("/")[0] for name in names])
    test = np.isin(alphabets, list(release.parts[EVALUATION]))
    val = np.isin(alphabets, list(release.val_alphabets))
    return {
        "train": np.flatnonzero(~test & ~val),
        "val": np.flatnonzero(val),
        "test": np.flatnonzero(test),
    }


def _find_parts(root: Path, release: Release) -> dict[str, Path]:
    found = {part: find_part(root, part) for part in release.parts}
    missing = " and ".join(part for part, path in found.items() if path is None)
    if missing:
        raise UserError(
            f"root is {root}: Omniglot's {missing} cannot be found there. Put {BACKGROUND}.zip and"
            f" {EVALUATION}.zip of the official release (github.com/brendenlake/omniglot, folder python)"
            " there, or set download to true to fetch them; or use configs/glyphs.yaml,"
            " which needs no files"
        )
    return {part: path for part, path in found.items() if path is not None}


def _download(root: Path, part: str) -> None:
    """Fetch the archive of ``part`` into torchvision's folder; it is there only when it is complete."""
    from torchvision.datasets import Omniglot as TorchvisionOmniglot  # slow to import, and rarely needed

    folder = root / TORCHVISION_FOLDER
    try:
        with staging_folder(root, part) as staging:
            TorchvisionOmniglot(str(staging), background=part == BACKGROUND, download=True)
            folder.mkdir(exist_ok=True)
            (staging / TORCHVISION_FOLDER / f"{part}.zip").replace(folder / f"{part}.zip")
    except (OSError, RuntimeError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise UserError(
            f"download is true, but {part}.zip could not be fetched from"
            f" {TorchvisionOmniglot.download_url_prefix} into {folder} ({error}). Check the network and that"
            f" {folder} can be written, put the .zip file there yourself, or use configs/glyphs.yaml, which"
            " needs no files"
        ) from error


@contextmanager
def _root_named(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"root is {root}: cannot be read ({error}). Allow reading it") from error
