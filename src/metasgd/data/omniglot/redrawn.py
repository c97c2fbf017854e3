"""More drawings of each character: its own ones, drawn again by the pen."""

import hashlib

import numpy as np
from rich.console import Console
from rich.progress import Progress

from metasgd.data.class_pool import ClassPool
from metasgd.data.strokes.redrawing import redrawn

REDRAWING = 1
"""A number to raise when such drawings change, so that caches of the old ones are left aside."""


def with_redrawn(characters: ClassPool, in_full: ClassPool, n: int) -> ClassPool:
    """Each character with its own drawings, and then each of these drawn again n times.

    What is drawn is a function of (the character's name, the drawing's number, n).

    Args:
        characters: as they are to be shown, with as many drawings in each.
        in_full: the same drawings of the same characters, in full size.
        n: at least 1.
    """
    drawings, (_, height, width) = int(characters.counts[0]), characters.image_shape
    own = np.arange(drawings)
    images = np.empty((len(characters), (1 + n) * drawings, 1, height, width), dtype=np.uint8)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for c in progress.track(range(len(characters)), description="Drawing Omniglot again"):
            images[c, :drawings] = characters.images[characters.starts[c] + own]
            key = np.frombuffer(hashlib.sha256(characters.names[c].encode()).digest()[:16], dtype=np.uint64)
            for d, drawing in enumerate(in_full.images[in_full.starts[c] + own]):
                stream = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, d, 0]))
                again = redrawn(drawing[0], n, stream, (height, width))
                images[c, drawings + d :: drawings, 0] = again
    return ClassPool.of_equal_counts(images, characters.names, characters.groups)
