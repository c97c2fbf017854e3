"""Classes of noise: pictures for what does not depend on what they show."""

from pathlib import Path

import numpy as np

from metasgd.data.class_pool import ClassPool
from metasgd.data.images.decoding import PictureForm
from metasgd.data.rng import Split
from metasgd.data.source import ClassSource


class Noise(ClassSource):
    """Square pictures, four of each class, other ones in each split.

    Args:
        channels: of a picture.
        side: its height and width.
        classes: of each split.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        self.channels = channels
        self.side = side
        self.classes = classes

    @property
    def form(self) -> PictureForm:
        return PictureForm(self.channels, self.side, self.side, "pad")

    def prepare(self, root: Path, cache_dir: Path) -> None:
        """Nothing to prepare."""

    def pool(self, split: Split, root: Path, cache_dir: Path) -> ClassPool:
        size = (self.classes, 4, self.channels, self.side, self.side)
        images = np.random.default_rng(len(split)).integers(0, 256, size=size, dtype=np.uint8)
        names = tuple(f"{split}/{c}" for c in range(self.classes))
        return ClassPool.of_equal_counts(images, names, np.zeros(self.classes, dtype=np.int64))
