"""Meta-batches in two parts: which pictures and what is done to them, drawn on the CPU; and the pictures themselves.

The first is a few numbers for each picture. The second is the same work for all of them, and can be done on the device
that trains, where no picture need be sent to. Shape letters: M images, X = K + Q examples of a class.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.class_pool import ROTATIONS, ClassPool
from metasgd.data.rng import Split
from metasgd.data.transforms.affine import distorted, thickened
from metasgd.episode import Episode


class Plan(NamedTuple):
    """A meta-batch of B tasks of pictures, before these are looked up.

    Attributes:
        split: which split the pictures are of.
        k_shot: K, the first so many of a class's examples.
        rows: ``[B, N, X]`` int64, the rows of the pool's images.
        classes: ``[B, N]`` int64.
        task_index: ``[B]`` int64.
        rotations: ``[B, N]`` int64, how many times each class is rotated by 90°, if at all.
        maps: ``[B, N*X, 2, 3]``, an affine map of each picture, those of the support set first, if there are any: the
            bits of float64 as int64, which no change of precision touches.
        thickness: ``[B, N*X]``, by how much the strokes of each are thickened, if at all; bits as those of ``maps``.
        pictures: ``[B, N, X, channels, height, width]`` uint8, where they were looked up before.
    """

    split: Split
    k_shot: int
    rows: Tensor
    classes: Tensor
    task_index: Tensor
    rotations: Tensor | None = None
    maps: Tensor | None = None
    thickness: Tensor | None = None
    pictures: Tensor | None = None

    @property
    def n_tasks(self) -> int:
        return self.task_index.shape[0]


class PlanningSampler(ABC):
    """A sampler whose tasks are drawn in two parts.

    Attributes:
        pool: whose rows the plans name.
    """

    pool: ClassPool

    @abstractmethod
    def plan(self, indices: NDArray[np.int64]) -> Plan:
        """The tasks with these numbers, before their pictures are looked up."""

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        """The tasks with these numbers; images uint8 ``[B, N*(K or Q), channels, height, width]``."""
        return tasks_of(with_pictures(self.plan(indices), self.pool), None)


def with_pictures(plan: Plan, pool: ClassPool) -> Plan:
    """The plan with its pictures looked up, for a device that cannot hold them all."""
    return plan._replace(pictures=torch.from_numpy(pool.take(plan.rows.numpy())))


def tasks_of(plan: Plan, images: Tensor | None) -> Episode:
    """The tasks of a plan, made where it lies; distorted pictures are the same up to rounding there.

    Args:
        plan: on any device.
        images: ``[M, channels, height, width]`` uint8, the pool's, on the same; needed where the plan has no pictures.
    """
    taken = plan.pictures
    if taken is None:
        assert images is not None
        taken = images[plan.rows]
    if plan.rotations is not None:
        taken = _rotated(taken, plan.rotations)
    k = plan.k_shot
    support_x, query_x = taken[:, :, :k].flatten(1, 2), taken[:, :, k:].flatten(1, 2)
    if plan.maps is not None:
        moved = distorted(
            torch.cat([support_x, query_x], dim=1).flatten(0, 1), plan.maps.view(torch.float64).flatten(0, 1)
        )
        if plan.thickness is not None:
            moved = thickened(moved, plan.thickness.view(torch.float64).flatten())
        moved = moved.reshape(plan.n_tasks, -1, *taken.shape[3:])
        support_x, query_x = moved[:, : support_x.shape[1]], moved[:, support_x.shape[1] :]
    ways = torch.arange(plan.classes.shape[1], device=plan.rows.device)[:, None]

    def labels(of_each: int) -> Tensor:
        return ways.expand(plan.n_tasks, -1, of_each).contiguous().flatten(1)

    n_query = taken.shape[2] - k
    return Episode(support_x, labels(k), query_x, labels(n_query), plan.classes, plan.task_index)


def bits_of(numbers: Sequence[NDArray[np.float64]]) -> Tensor:
    """The maps or thicknesses of some tasks, as a plan has them."""
    return torch.from_numpy(np.stack(numbers)).view(torch.int64)


def _rotated(pictures: Tensor, rotations: Tensor) -> Tensor:
    """``[B, N, X, channels, side, side]``, each class rotated ``rotations`` times; the host need not know them."""
    found = pictures
    for quarter in range(1, ROTATIONS):
        those = (rotations == quarter)[:, :, None, None, None, None]
        found = torch.where(those, torch.rot90(pictures, quarter, dims=(-2, -1)), found)
    return found
