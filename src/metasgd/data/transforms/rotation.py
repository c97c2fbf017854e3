"""Classes rotated by multiples of 90°, each task's anew."""

import numpy as np
import torch
from numpy.typing import NDArray

from metasgd.data.class_pool import ROTATIONS
from metasgd.data.plan import Plan, PlanningSampler
from metasgd.data.rng import Split, task_stream


class Rotated(PlanningSampler):
    """Draws a sampler's tasks and rotates each of their classes by 0°, 90°, 180° or 270°, support and query alike.

    Args:
        sampler: draws the tasks; their pictures are square.
        split: enters the random numbers.
        seed: with the split and a task's number, determines them.
    """

    def __init__(self, sampler: PlanningSampler, split: Split, seed: int) -> None:
        self.sampler, self.split, self.seed = sampler, split, seed
        self.pool = sampler.pool

    def plan(self, indices: NDArray[np.int64]) -> Plan:
        plan = self.sampler.plan(indices)
        n_way = plan.classes.shape[1]
        streams = (task_stream(self.seed, self.split, int(index), use="augmentation") for index in indices)
        rotations = np.stack([stream.integers(ROTATIONS, size=n_way) for stream in streams])
        return plan._replace(rotations=torch.from_numpy(rotations))
