"""Middle lines as a graph: strokes between the places where lines end or meet."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metasgd.data.strokes.thinning import CLOCKWISE, Ink

NEXT = (*CLOCKWISE[::2], *CLOCKWISE[1::2])
"""The eight neighbours of a pixel, those with a common side first."""
Pixel = tuple[int, int]
Pixels = list[Pixel]


@dataclass(frozen=True)
class Stroke:
    """A line of a drawing from one end or crossing to the next.

    Attributes:
        points: ``[P, 2]``, (down, across) in pixels, the first and the last at its two nodes. One point is a dot.
        nodes: the numbers of the first and the last point's node; the same where a line closes.
    """

    points: NDArray[np.float64]
    nodes: tuple[int, int]


def strokes_of(line: Ink) -> list[Stroke]:
    """Lines one pixel wide, ``[height, width]``, as strokes; those that meet have a node in common.

    Nodes are where a line ends, and where lines meet: one for all the pixels of a crossing. A closed line that has
    neither has a node at its first pixel.
    """
    pixels = {(int(y), int(x)) for y, x in np.argwhere(line)}
    for pixel in sorted(pixels):
        if _is_corner(pixel, pixels):
            pixels.remove(pixel)
    around = {p: [q for y, x in NEXT if (q := (p[0] + y, p[1] + x)) in pixels] for p in pixels}
    ends = {p for p in pixels if len(around[p]) != 2}
    places: list[Pixels] = []
    node_of: dict[Pixel, int] = {}
    for group in _connected(ends, around):
        node_of |= dict.fromkeys(group, len(places))
        places.append(group)
    paths: list[tuple[Pixels, tuple[int, int]]] = []
    for group in _connected(pixels - ends, around):
        path = _walk(group, around, node_of)
        first = _node_beside(path[0], around, node_of, None)
        last = _node_beside(path[-1], around, node_of, first if len(path) < 3 else None)
        if first is None:
            first = len(places)
            places.append([path[0]])
            last = first if last is None else last
        if last is None:
            last = len(places)
            places.append([path[-1]])
        paths.append((path, (first, last)))
    joined = {n for _, nodes in paths for n in nodes}
    paths += [([], (n, n)) for n in range(len(places)) if n not in joined]
    middles = [np.mean(group, axis=0) for group in places]
    return [
        Stroke(np.array([middles[a], *path, *([middles[b]] if path else [])], dtype=np.float64), (a, b))
        for path, (a, b) in paths
    ]


def _is_corner(pixel: Pixel, pixels: set[Pixel]) -> bool:
    """Whether a pixel has neighbours that are connected without it: the inside of a step (Hilditch 1969)."""
    y, x = pixel
    ring = [(y + v, x + u) in pixels for v, u in CLOCKWISE] * 2
    return sum(ring[:8]) > 1 and sum(not ring[k] and (ring[k + 1] or ring[k + 2]) for k in (0, 2, 4, 6)) < 2


def _connected(pixels: set[Pixel], around: Mapping[Pixel, Pixels]) -> list[Pixels]:
    """The connected parts of these pixels, in the order of their first ones."""
    left, parts = set(pixels), []
    for pixel in sorted(pixels):
        if pixel not in left:
            continue
        left.remove(pixel)
        part = [pixel]
        for p in part:  # which grows
            new = [q for q in around[p] if q in left]
            left.difference_update(new)
            part += new
        parts.append(part)
    return parts


def _walk(group: Pixels, around: Mapping[Pixel, Pixels], node_of: Mapping[Pixel, int]) -> Pixels:
    """The pixels of a line one after the other, from a node on if there is one."""
    left = set(group)
    start = next((p for p in sorted(group) if any(q in node_of for q in around[p])), min(group))
    path: Pixels = []
    step: Pixel | None = start
    while step is not None:
        left.remove(step)
        path.append(step)
        step = next((q for q in around[step] if q in left), None)
    return path


def _node_beside(
    pixel: Pixel, around: Mapping[Pixel, Pixels], node_of: Mapping[Pixel, int], other: int | None
) -> int | None:
    """A node that touches a pixel, another than ``other`` where there are two."""
    found = [node_of[q] for q in around[pixel] if q in node_of]
    return next((n for n in found if n != other), found[0] if found else None)
