"""Drawings drawn again as the same pen might have drawn them another time."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from metasgd.data.strokes.thinning import Ink, middle_lines
from metasgd.data.strokes.tracing import Stroke, strokes_of

NODES = 0.02
"""Standard deviation of a node's displacement, of the drawing's height."""
BENDS = 0.05
"""Standard deviation of a stroke's slowest bend, of the stroke's length."""
WAVES = 3
"""Bends of a stroke: half waves along it, each as large as the first one divided by its number."""
SMOOTHING = 5
"""Points of a stroke that are averaged: pixels are steps, and a hand makes none."""
FINER = 2
"""Pixels of the canvas to one of the drawing, along each side."""


@dataclass(frozen=True)
class PenDrawing:
    """A drawing as what a pen did.

    Attributes:
        strokes: of the middle lines.
        width: w of a round pen, in pixels: that whose lines of length L and D dots have this ink, ``L w + D π w² / 4``.
        shape: (height, width) in pixels.
    """

    strokes: list[Stroke]
    width: float
    shape: tuple[int, int]

    @classmethod
    def of(cls, ink: Ink) -> "PenDrawing":
        """What drew this ink, ``[height, width]``."""
        strokes = [Stroke(_smooth(stroke.points), stroke.nodes) for stroke in strokes_of(middle_lines(ink))]
        height, width = ink.shape
        length = sum(float(_along(stroke)[-1]) for stroke in strokes)
        dots = math.pi / 4 * sum(len(stroke.points) == 1 for stroke in strokes)
        area = float(ink.sum())
        # the positive root, in the form that has no difference of like numbers and needs no case without dots
        pen = 2 * area / max(length + math.sqrt(length**2 + 4 * dots * area), 1)
        return cls(strokes, pen, (height, width))

    def again(self, stream: np.random.Generator) -> "PenDrawing":
        """The same drawing another time: its nodes are moved, and the strokes between them bent.

        A point at share t of a stroke between nodes a and b moves by

        ``(1 − t) d_a + t d_b + Σ_k sin(π k t) e_k``

        with ``d ~ N(0, (0.02 height)²)`` of each node and ``e_k ~ N(0, (0.05 length / k)²)`` of each stroke. So what
        meets still does, and a closed line stays closed.
        """
        n_nodes = 1 + max((n for stroke in self.strokes for n in stroke.nodes), default=-1)
        moved = stream.normal(scale=NODES * self.shape[0], size=(n_nodes, 2))
        return PenDrawing([_moved(stroke, moved, stream) for stroke in self.strokes], self.width, self.shape)

    def picture(self) -> Image.Image:
        """The drawing, ink 255 on 0, ``FINER`` times as large."""
        height, width = self.shape
        canvas = Image.new("L", (FINER * width, FINER * height))
        pen, thick = ImageDraw.Draw(canvas), max(1, round(FINER * self.width))
        for stroke in self.strokes:
            points = [(FINER * (x + 0.5), FINER * (y + 0.5)) for y, x in stroke.points.tolist()]
            if len(points) > 1:
                pen.line(points, fill=255, width=thick, joint="curve")
            for x, y in (points[0], points[-1]):  # a pen is round
                pen.ellipse([x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2], fill=255)
        return canvas


def redrawn(
    drawing: NDArray[np.uint8], n: int, stream: np.random.Generator, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A drawing, ``[height, width]`` with ink 255 on 0, drawn again n times: ``[n, *size]``, ink 255 on 0."""
    pen = PenDrawing.of(drawing > 127)
    height, width = size
    pictures = [pen.again(stream).picture().resize((width, height), Image.Resampling.LANCZOS) for _ in range(n)]
    return np.stack([np.asarray(picture) for picture in pictures])


def _moved(stroke: Stroke, moved: NDArray[np.float64], stream: np.random.Generator) -> Stroke:
    along = _along(stroke)
    t = along / max(along[-1], 1e-9)
    k = np.arange(1, WAVES + 1)
    bends = stream.normal(size=(WAVES, 2)) * (BENDS * along[-1] / k)[:, None]
    a, b = stroke.nodes
    change = np.outer(1 - t, moved[a]) + np.outer(t, moved[b]) + np.sin(np.pi * np.outer(t, k)) @ bends
    return Stroke(stroke.points + change, stroke.nodes)


def _along(stroke: Stroke) -> NDArray[np.float64]:
    """The length of the stroke up to each of its points."""
    steps = np.linalg.norm(np.diff(stroke.points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A moving average, of fewer points towards the two ends, which stay."""
    reach = np.minimum(np.arange(len(points)), np.arange(len(points))[::-1]).clip(max=SMOOTHING // 2)
    sums = np.concatenate([np.zeros((1, 2)), np.cumsum(points, axis=0)])
    at = np.arange(len(points))
    mean: NDArray[np.float64] = (sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)[:, None]
    return mean
