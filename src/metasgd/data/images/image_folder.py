"""Pictures of one's own: folders of classes, or the CSV files in which miniImageNet is distributed."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from torch import nn

from metasgd.data.cache import PoolStream, digest_of, load_or_build
from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.contents import Contents
from metasgd.data.images.decoding import DECODING, RESAMPLING, Fit, PictureForm, read_pictures
from metasgd.data.images.files import ClassFiles, raise_some
from metasgd.data.images.layouts import Found, find_classes
from metasgd.data.images.polarity import Ink, other_ink
from metasgd.data.rng import SPLITS, Split
from metasgd.data.source import ClassSource, Sampler
from metasgd.data.task_shape import TaskShape
from metasgd.data.transforms.augmentation import Augmented
from metasgd.errors import UserError, raise_problems

SPLIT_SALT = "metasgd/image_folder/1"
logger = logging.getLogger(__name__)


class ImageFolder(ClassSource):
    """Classes of pictures, in colour or grey, of any size, from ``data.root``.

    It holds one of

    - ``train.csv``, ``val.csv`` and ``test.csv`` of ``filename,label``, and the pictures in ``images/`` (miniImageNet);
    - ``train/``, ``val/`` and ``test/``, each with one folder per class;
    - ``splits/``, itself or a folder in it with ``train.txt``, ``val.txt`` and ``test.txt`` of a class's name in each
      line, and the classes' folders in ``data/``, ``images/`` or beside it (CIFAR-FS);
    - Tiny ImageNet as it is distributed, the classes of its ``train/`` and ``val/`` together, split by ``fractions``;
    - one folder per class, split by ``fractions``.

    Splits may be called as ``metasgd.data.images.split_names.SPELLINGS`` has it, in any case: ``Training``, ``VAL``.

    Folders may be nested: those that hold pictures are the classes, and the folder above is their group (for
    ``data.one_alphabet``). Pictures are decoded once, into a memory map in the cache.

    Args:
        image_size: height and width in pixels.
        channels: 3 for colour, 1 for grey.
        fit: what becomes of pictures that are not square: ``crop`` cuts the longer sides off, ``pad`` adds a
            margin, ``stretch`` distorts.
        fractions: the shares of the classes in train, val and test, where folders or files do not say. Which
            class is where depends on the classes' names alone.
        augmentation: transforms of torchvision.transforms.v2, applied one after the other to each picture of
            the training tasks, support and query alike; what they draw is a function of the task's number.
        ink: of the files, if they are drawings: ``light`` on dark or ``dark`` on light, so that ``adapt`` can bring
            others to it.
        invert: exchange light and dark, as for a learner that was trained on the other ink.

    Attributes:
        ink: of the pictures that tasks have: the files' ink, or with ``invert`` the other.

    Raises:
        UserError: an option is out of range, or ``invert`` is given without ``ink``.

    Example:
        >>> ImageFolder(image_size=28, channels=1).form
        PictureForm(channels=1, height=28, width=28, fit='crop')

    References:
        Ravi and Larochelle, ICLR 2017 (miniImageNet).
    """

    def __init__(
        self,
        image_size: int = 84,
        channels: int = 3,
        fit: Fit = "crop",
        fractions: tuple[float, float, float] = (0.64, 0.16, 0.2),
        augmentation: Sequence[nn.Module] = (),
        ink: Ink | None = None,
        invert: bool = False,
    ) -> None:
        problems = []
        if not 1 <= image_size <= 1024:
            problems.append(f"image_size is {image_size}: use 1 to 1024 pixels")
        if channels not in (1, 3):
            problems.append(f"channels is {channels}: use 3 for colour or 1 for grey")
        if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
            problems.append(f"fractions is {list(fractions)}: three shares that sum to 1 are needed")
        if invert and ink is None:  # adapt would not know what to bring pictures to
            problems.append("invert is true: say with ink whether the files' ink is light or dark")
        raise_problems(problems)
        self._form = PictureForm(channels, image_size, image_size, fit)
        self.fractions = fractions
        self.invert = invert
        self.ink = other_ink(ink) if ink and invert else ink
        self.augmentation = tuple(augmentation)

    @property
    def form(self) -> PictureForm:
        return self._form

    def prepare(self, root: Path, cache_dir: Path) -> None:
        found = find_classes(root)
        if found.left_out:
            logger.warning(found.left_out)
        self._pool(found, cache_dir)

    def pool(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        return self._pool_of(split, find_classes(root), root, cache_dir)

    def _pool_of(self, split: Split, found: Found, root: Path, cache_dir: Path) -> ClassPool:
        own = self._numbers(found, split)
        if not len(own):
            raise UserError(
                f"root is {root}: of its {len(found.classes)} classes none falls to the {split} split. Add"
                f" classes, or raise its share in fractions, which is {list(self.fractions)}"
            )
        return self._pool(found, cache_dir).select(own)

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        found = find_classes(root)
        self._validate_enough(found, split, root, shape)
        sampler = ClassSampler(self._pool_of(split, found, root, cache_dir), split, seed, shape)
        if split != "train" or not self.augmentation:
            return sampler
        return Augmented(sampler, self.augmentation, split, seed)

    def contents(self, root: Path, cache_dir: Path) -> Contents:
        found = find_classes(root)
        return {
            split: {c.name: (len(c.files), _digest(c, root)) for c in (found.classes[n] for n in numbers)}
            for split in SPLITS
            for numbers in (self._numbers(found, split),)
        }

    def _numbers(self, found: Found, split: Split) -> NDArray[np.int64]:
        """The classes of one split, by their numbers among those found."""
        split_of = found.split or split_by_name([c.name for c in found.classes], self.fractions)
        return np.flatnonzero([s == split for s in split_of])

    def _validate_enough(self, found: Found, split: Split, root: Path, shape: TaskShape) -> None:
        """Where fractions decide, say what they leave each split if that is too little for one."""
        sizes = {s: len(self._numbers(found, s)) for s in SPLITS}
        if found.split is None and shape.n_way > sizes[split]:
            raise UserError(
                f"n_way is {shape.n_way}, but of the {len(found.classes)} classes in {root}"
                f" fractions {list(self.fractions)} leave the {split} split {sizes[split]}"
                f" ({', '.join(f'{s} {n}' for s, n in sizes.items())}): add classes, lower n_way, or sort them"
                " into train/, val/ and test/ yourself"
            )

    def _pool(self, found: Found, cache_dir: Path) -> ClassPool:
        """The pictures of all splits: one cache serves them all."""
        made_by = (DECODING, PIL.__version__, RESAMPLING.name, self._form, _fingerprint(found.classes))
        key = f"pictures-{self._form.width}px-{digest_of(made_by)}{'-inverted' * self.invert}"
        return load_or_build(cache_dir, key, lambda: _stream(found.classes, self._form, self.invert))


def split_by_name(names: Sequence[str], fractions: tuple[float, float, float]) -> list[Split]:
    """The split of each class: by the order of the SHA-256 of ``"metasgd/image_folder/1:" + name`` (UTF-8)."""
    order = sorted(range(len(names)), key=lambda c: hashlib.sha256(f"{SPLIT_SALT}:{names[c]}".encode()).digest())
    ends = np.round(np.cumsum(fractions) * len(names))
    split_of: list[Split] = ["train"] * len(names)
    for rank, c in enumerate(order):
        split_of[c] = SPLITS[int(np.searchsorted(ends, rank, side="right"))]
    return split_of


def _fingerprint(classes: Sequence[ClassFiles]) -> str:
    """What makes these files others than those of a cache, without reading them: names, sizes and times of change."""
    digest = hashlib.sha256()
    for c in classes:
        for path, about in zip(c.files, _status(c.files), strict=True):
            digest.update(repr((c.name, str(path), about.st_size, about.st_mtime_ns)).encode())
    return digest.hexdigest()


def _digest(c: ClassFiles, root: Path) -> str:
    """Of the names and sizes of a class's files, wherever the data set lies."""
    about = [
        (os.path.relpath(path, root), status.st_size) for path, status in zip(c.files, _status(c.files), strict=True)
    ]
    return digest_of(about)


def _status(paths: Sequence[Path]) -> list[os.stat_result]:
    found, problems = [], []
    for path in paths:
        try:
            found.append(path.stat())
        except OSError as error:
            problems.append(f"{path} cannot be read ({error.strerror or error}). Restore it")
    raise_some(problems)
    return found


def _stream(classes: Sequence[ClassFiles], form: PictureForm, invert: bool) -> PoolStream:
    groups = sorted({c.group for c in classes})
    pictures = read_pictures([path for c in classes for path in c.files], form)
    return PoolStream(
        images=(255 - picture for picture in pictures) if invert else pictures,
        image_shape=(form.channels, form.height, form.width),
        counts=np.array([len(c.files) for c in classes], dtype=np.int64),
        names=tuple(c.name for c in classes),
        groups=np.array([groups.index(c.group) for c in classes], dtype=np.int64),
    )
