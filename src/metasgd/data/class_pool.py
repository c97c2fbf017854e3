"""The images of one split, grouped by class. Shape letters: M images, C classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap

import numpy as np
from numpy.typing import NDArray

ROTATIONS = 4
LARGEST_IN_MEMORY = 2**28
"""Bytes of a memory map above which what was read of it does not stay in memory."""


@dataclass(frozen=True)
class ClassPool:
    """Images that stay uint8 in memory (or in a memory map), each class a contiguous run of them.

    Attributes:
        images: uint8 ``[M, channels, height, width]``.
        starts: int64 ``[C]``, where each class's images begin.
        counts: int64 ``[C]``, how many images each class has.
        names: ``C`` names, ``"group/class"``; unique within a pool and over the splits of a source.
        groups: int64 ``[C]``, the alphabet (script, super-category) of each class, numbered from 0.
    """

    images: NDArray[np.uint8]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    names: tuple[str, ...]
    groups: NDArray[np.int64]

    @classmethod
    def of_equal_counts(
        cls, images: NDArray[np.uint8], names: tuple[str, ...], groups: NDArray[np.int64]
    ) -> "ClassPool":
        """A pool from ``[C, drawings, channels, height, width]``: as many images in each class."""
        n_classes, drawings = images.shape[:2]
        return cls(
            images=images.reshape(n_classes * drawings, *images.shape[2:]),
            starts=np.arange(n_classes, dtype=np.int64) * drawings,
            counts=np.full(n_classes, drawings, dtype=np.int64),
            names=names,
            groups=groups,
        )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of the images in these rows, ``[*rows.shape, channels, height, width]``.

        The pages of a memory map that a process has read count as its memory, in time those of the whole map. A large
        map's are let go of here; they stay in the system's cache of the file, so that reading them again is cheap.
        """
        taken = self.images[rows]
        mapped: object = self.images.base
        if isinstance(mapped, mmap) and self.images.nbytes > LARGEST_IN_MEMORY:
            mapped.madvise(MADV_DONTNEED)
        return taken

    def select(self, classes: NDArray[np.int64]) -> "ClassPool":
        """The pool of these classes only, in this order. The images are shared, not copied."""
        return ClassPool(
            images=self.images,
            starts=self.starts[classes],
            counts=self.counts[classes],
            names=tuple(self.names[c] for c in classes),
            groups=self.groups[classes],
        )

    def with_rotations(self) -> "ClassPool":
        """Four classes for each one: rotated by 0°, 90°, 180° and 270° (Santoro et al. 2016).

        Copies the images of the pool's own classes, four times over.

        Raises:
            ValueError: the images are not square.
        """
        if self.images.shape[2] != self.images.shape[3]:
            raise ValueError(f"only square images can be rotated by 90°, not {self.images.shape[2:]}")
        own = self._own_images()
        return self._with_variants({f"@{90 * r}": np.rot90(own, r, axes=(2, 3)) for r in range(ROTATIONS)})

    def with_mirrors(self) -> "ClassPool":
        """Two classes for each one: as it is, and its mirror image, left for right.

        Copies the images of the pool's own classes, twice over.
        """
        own = self._own_images()
        return self._with_variants({"": own, "@mirrored": own[..., ::-1]})

    def with_recomposed(self) -> "ClassPool":
        """Two classes for each one: as it is, and its left half beside the right half of the next of its alphabet.

        Image i is made of the images i of both, in Omniglot by one hand; where the next class has fewer, they are taken
        again from the first on. The last class of an alphabet goes with the first; one that is alone has no partner.
        Copies the images of the pool's own classes, twice over.
        """
        own_number, nexts = np.arange(len(self)), np.empty(len(self), dtype=np.int64)
        for group in np.unique(self.groups):
            members = np.flatnonzero(self.groups == group)
            nexts[members] = np.roll(members, -1)
        own, half = self._own_images(), self.images.shape[3] // 2
        rows = [self.starts[n] + np.arange(c) % self.counts[n] for n, c in zip(nexts, self.counts, strict=True)]
        recomposed = np.concatenate([own[..., :half], self.take(np.concatenate(rows))[..., half:]], axis=3)
        both = self._with_variants({"": own, "@recomposed": recomposed})
        return both.select(np.concatenate([own_number, len(self) + np.flatnonzero(nexts != own_number)]))

    def _own_images(self) -> NDArray[np.uint8]:
        return self.take(np.concatenate([np.arange(s, s + n) for s, n in zip(self.starts, self.counts, strict=True)]))

    def _with_variants(self, variants: Mapping[str, NDArray[np.uint8]]) -> "ClassPool":
        """The classes once in each variant of the pool's own images, its key added to their names."""
        of_each = int(self.counts.sum())
        first = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        return ClassPool(
            images=np.concatenate(list(variants.values())),
            starts=np.concatenate([first + v * of_each for v in range(len(variants))]),
            counts=np.tile(self.counts, len(variants)),
            names=tuple(name + added for added in variants for name in self.names),
            # a rotated or mirrored alphabet is another alphabet: one-alphabet episodes do not mix orientations
            groups=np.concatenate([self.groups + v * (self.groups.max() + 1) for v in range(len(variants))]),
        )
