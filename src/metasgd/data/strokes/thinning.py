"""A drawing as a pen would write it: the middle line of every stroke."""

import numpy as np
from numpy.typing import NDArray

Ink = NDArray[np.bool_]
CLOCKWISE = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
"""The eight neighbours of a pixel, (down, across), from the north on."""


def middle_lines(ink: Ink) -> Ink:
    """Thin every stroke to a line one pixel wide that is connected as the stroke was (Zhang and Suen 1984).

    Args:
        ink: ``[height, width]``.
    """
    line = np.pad(ink, 1)
    while True:
        before = line.sum()
        for first in (True, False):
            line[1:-1, 1:-1] &= ~_removable(line, first)
        if line.sum() == before:
            return line[1:-1, 1:-1]


def _removable(line: Ink, first: bool) -> Ink:
    """Pixels on the rim of a stroke whose removal breaks nothing; from the south-east in the first half-step."""
    height, width = line.shape
    around = [line[1 + y : height - 1 + y, 1 + x : width - 1 + x] for y, x in CLOCKWISE]
    n, e, s, w = around[::2]
    n_ink = np.sum(around, axis=0, dtype=np.uint8)
    n_starts = np.sum([~a & b for a, b in zip(around, [*around[1:], n], strict=True)], axis=0, dtype=np.uint8)
    rim = ~(n & e & s) & ~(e & s & w) if first else ~(n & e & w) & ~(n & s & w)
    removable: Ink = (n_ink >= 2) & (n_ink <= 6) & (n_starts == 1) & rim
    return removable
