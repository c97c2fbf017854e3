"""Classes turned by quarter turns, each task's anew."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.class_pool import QUARTER_TURNS, ClassPool
from metasgd.data.plan import Plan, PlanningSampler
from metasgd.data.rng import Split, task_stream
from metasgd.episode import Episode


class Rotated:
    """Draws a sampler's tasks and turns each of their classes by 0°, 90°, 180° or 270°, support and query alike.

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
        turns = self._turns(indices, tasks.n_way)
        return tasks._replace(support_x=turned(tasks.support_x, turns), query_x=turned(tasks.query_x, turns))

    @property
    def images_of(self) -> ClassPool:
        return self.sampler.images_of

    def plan(self, indices: NDArray[np.int64]) -> Plan:
        """The tasks with these numbers, before their pictures are looked up."""
        plan = self.sampler.plan(indices)
        return plan._replace(turns=torch.from_numpy(self._turns(indices, plan.classes.shape[1])))

    def _turns(self, indices: NDArray[np.int64], n_way: int) -> NDArray[np.int64]:
        streams = (task_stream(self.seed, self.split, int(index), use="augmentation") for index in indices)
        return np.stack([stream.integers(QUARTER_TURNS, size=n_way) for stream in streams])


def turned(pictures: Tensor, turns: NDArray[np.int64]) -> Tensor:
    """``[B, N*K, channels, side, side]``, ordered by class, each class by its own number of ``turns`` ``[B, N]``."""
    by_class = pictures.reshape(*turns.shape, -1, *pictures.shape[2:]).clone()
    for quarter in range(1, QUARTER_TURNS):
        those = torch.from_numpy(turns == quarter)
        by_class[those] = torch.rot90(by_class[those], quarter, dims=(-2, -1))
    return by_class.reshape(pictures.shape)
