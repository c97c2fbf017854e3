"""Classes rotated by multiples of 90°, each task's anew."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.class_pool import ROTATIONS, ClassPool
from metasgd.data.plan import Plan, PlanningSampler
from metasgd.data.rng import Split, task_stream
from metasgd.episode import Episode


class Rotated:
    """Draws a sampler's tasks and rotates each of their classes by 0°, 90°, 180° or 270°, support and query alike.

    Args:
        sampler: draws the tasks; their pictures are square.
        split: enters the random numbers.
        seed: with the split and a task's number, determines them.
    """

    def __init__(self, sampler: PlanningSampler, split: Split, seed: int) -> None:
        self.sampler, self.split, self.seed = sampler, split, seed

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        """The tasks with these numbers."""
        tasks = self.sampler.draw(indices)
        rotations = self._rotations(indices, tasks.n_way)
        return tasks._replace(support_x=rotated(tasks.support_x, rotations), query_x=rotated(tasks.query_x, rotations))

    @property
    def images_of(self) -> ClassPool:
        return self.sampler.images_of

    def plan(self, indices: NDArray[np.int64]) -> Plan:
        """The tasks with these numbers, before their pictures are looked up."""
        plan = self.sampler.plan(indices)
        return plan._replace(rotations=torch.from_numpy(self._rotations(indices, plan.classes.shape[1])))

    def _rotations(self, indices: NDArray[np.int64], n_way: int) -> NDArray[np.int64]:
        streams = (task_stream(self.seed, self.split, int(index), use="augmentation") for index in indices)
        return np.stack([stream.integers(ROTATIONS, size=n_way) for stream in streams])


def rotated(pictures: Tensor, rotations: NDArray[np.int64]) -> Tensor:
    """``[B, N*K, channels, side, side]``, ordered by class, each class rotated by its own ``rotations`` ``[B, N]``."""
    by_class = pictures.reshape(*rotations.shape, -1, *pictures.shape[2:]).clone()
    for quarter in range(1, ROTATIONS):
        those = torch.from_numpy(rotations == quarter)
        by_class[those] = torch.rot90(by_class[those], quarter, dims=(-2, -1))
    return by_class.reshape(pictures.shape)
