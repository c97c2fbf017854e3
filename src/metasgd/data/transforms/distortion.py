"""Drawings distorted at random as another hand might have made them, whole tasks at once."""

import numpy as np
from numpy.typing import NDArray

from metasgd.data.plan import Plan, PlanningSampler, bits_of
from metasgd.data.rng import Split, task_stream

MOST_DISTORTION = 3.0
MOST_THICKNESS = 1.0


class Distorted(PlanningSampler):
    """Draws a sampler's tasks and gives each of their drawings an affine distortion of its own.

    At strength 1, a drawing is rotated by up to 0.2 rad (11°), stretched or shrunk in width and in height by up to
    13 %, slanted by up to 0.15, and moved by up to 6 % of its size, each uniformly at random; at other strengths,
    by as many times that. Pixels are interpolated bicubically, and black beyond the rim. Strokes are then thickened by
    an amount of the drawing's own, uniform from −t/2, which is thinner, to t.

    Args:
        sampler: draws the tasks; their pictures are uint8, ink on 0.
        strength: from 0 to 3.
        split: enters the random numbers.
        seed: with the split and a task's number, determines them.
        thickness: t, from 0 to 1; see ``thickened``.
    """

    def __init__(
        self, sampler: PlanningSampler, strength: float, split: Split, seed: int, thickness: float = 0.0
    ) -> None:
        self.sampler, self.strength, self.split, self.seed = sampler, strength, split, seed
        self.thickness, self.pool = thickness, sampler.pool

    def plan(self, indices: NDArray[np.int64]) -> Plan:
        plan = self.sampler.plan(indices)
        n = plan.rows.shape[1:].numel()
        streams = [task_stream(self.seed, self.split, int(index), use="augmentation") for index in indices]
        maps = [random_maps(stream, n, self.strength) for stream in streams]
        amounts = [stream.uniform(-self.thickness / 2, self.thickness, size=n) for stream in streams]
        return plan._replace(maps=bits_of(maps), thickness=bits_of(amounts) if self.thickness else None)


def random_maps(stream: np.random.Generator, n: int, strength: float) -> NDArray[np.float64]:
    """Affine maps from a distorted drawing's coordinates to the original's, ``[n, 2, 3]``; -1 and 1 are its rims."""
    angle, log_width, log_height, slant, across, down = (
        stream.uniform(-most * strength, most * strength, size=n) for most in (0.2, 0.12, 0.12, 0.15, 0.12, 0.12)
    )
    sin, cos = np.sin(angle), np.cos(angle)
    width, height = np.exp(log_width), np.exp(log_height)
    rows = [[cos * width, cos * slant - sin * height, across], [sin * width, sin * slant + cos * height, down]]
    return np.array(rows).transpose(2, 0, 1)
