"""Tasks of reinforcement learning: nothing but the numbers that chance is drawn by."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from metasgd.data.rng import Split, task_stream
from metasgd.data.source import Sampler, Source
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode

LARGEST = 2**62
"""Seeds are below, so that the number of an inner step can be added."""


class Trials(Source):
    """A number for each task and for each of its trajectories; what they mean, the environment says.

    ``k_shot`` is the number of trajectories of an inner step, ``n_query`` of those that the adapted policy is evaluated
    by. Support and query inputs are the trajectories' numbers, ``[B, K]`` int64, their targets the task's, repeated.
    Nothing is read from ``root``.
    """

    def prepare(self, root: Path, cache_dir: Path) -> None:
        """Nothing to do."""

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        shape.validate_without_classes("a task of reinforcement learning", "environments")
        return TrialSampler(split, seed, shape)

    @staticmethod
    def draw(seed: int, split: Split, indices: Sequence[int], trajectories: int) -> Episode:
        """The tasks with these numbers, as a loop of one's own needs them."""
        shape = TaskShape(1, trajectories, trajectories)
        return TrialSampler(split, seed, shape).draw(np.asarray(indices, dtype=np.int64))


class TrialSampler:
    """Draws the numbers of a task: a function of (seed, split, index)."""

    def __init__(self, split: Split, seed: int, shape: TaskShape) -> None:
        self.split, self.seed, self.shape = split, seed, shape

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        k, q = self.shape.k_shot, self.shape.n_query
        streams = (task_stream(self.seed, self.split, int(i)) for i in indices)
        drawn = torch.from_numpy(np.stack([stream.integers(LARGEST, size=1 + k + q) for stream in streams]))
        task, support, query = drawn[:, :1], drawn[:, 1 : 1 + k], drawn[:, 1 + k :]
        return Episode(
            support_x=support,
            support_y=task.expand(-1, k),
            query_x=query,
            query_y=task.expand(-1, q),
            classes=torch.zeros(len(indices), 1, dtype=torch.int64),
            task_index=torch.from_numpy(np.asarray(indices, dtype=np.int64)),
        )
