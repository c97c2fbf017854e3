"""Where tasks come from: what every data source offers the EpisodicDataModule."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from metasgd.construction import Configurable
from metasgd.data.class_pool import ClassPool
from metasgd.data.class_sampler import ClassSampler
from metasgd.data.contents import Contents
from metasgd.data.images.decoding import PictureForm
from metasgd.data.images.polarity import Ink
from metasgd.data.rng import Split
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode


class Sampler(Protocol):
    """Draws tasks. A task is a function of (seed, split, index); a sampler has the first two."""

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        """The tasks with these numbers, as one meta-batch."""
        ...


class Source(Configurable, ABC):
    """Anything that tasks can be drawn from.

    Constructors take options only and touch no file: a configuration can be checked without the data.
    """

    @abstractmethod
    def prepare(self, root: Path, cache_dir: Path) -> None:
        """Make the data ready: download, check, decode, cache. Runs once per machine.

        Raises:
            UserError: the data is absent or damaged; the message says what to do.
        """

    @abstractmethod
    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        """The tasks of ``split``, after ``prepare``.

        Raises:
            UserError: the split cannot fill such tasks; the message lists all the problems.
        """

    def contents(self, root: Path, cache_dir: Path) -> Contents:
        """The classes of each split and their pictures, in brief, after ``prepare``.

        A run is resumed only with the same ones. Empty where the options alone say what the tasks are drawn from.
        """
        return {}


class ClassSource(Source):
    """A source of classes with images, split so that no class is in two splits.

    Attributes:
        ink: for drawings, whether they are ``light`` on dark or ``dark`` on light; None for other pictures.
    """

    ink: Ink | None = None

    @property
    @abstractmethod
    def form(self) -> PictureForm:
        """What its images look like: the form that a picture of one's own must be brought to."""

    @abstractmethod
    def pool(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        """The classes of ``split``, after ``prepare``. The same options give the same bits."""

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        return ClassSampler(self.pool(split, root, cache_dir), split, seed, shape)
