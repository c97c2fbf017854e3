"""Where tasks come from: what every data source offers the EpisodicDataModule."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

from metasgd.data.class_pool import ClassPool

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ClassSource(ABC):
    """A source of classes with images, split so that no class is in two splits.

    Constructors take options only and touch no file: a configuration can be checked without the data.
    """

    @abstractmethod
    def prepare(self, root: Path, cache_dir: Path) -> None:
        """Make the data ready for ``pool``: download, check, decode, cache. Runs once per machine.

        Raises:
            UserError: the data is absent or damaged; the message says what to do.
        """

    @abstractmethod
    def pool(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        """The classes of ``split``, after ``prepare``. The same options give the same bits."""
