"""Where the pictures of tasks are looked up and changed: on the CPU, or on the device that trains."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.class_pool import ClassPool
from metasgd.data.plan import Plan, PlanningSampler, tasks_of, with_pictures
from metasgd.data.rng import Split
from metasgd.data.source import Sampler
from metasgd.episode import Episode

SHARE = 0.25
"""Of a device's free memory, what a pool of pictures may take."""


class DevicePictures:
    """The pictures of the splits on a device, where they fit.

    Args:
        wanted: whether tasks are made on the device; ``auto`` does so on CUDA.
    """

    def __init__(self, wanted: bool | Literal["auto"]) -> None:
        self.wanted = wanted
        self._images: dict[Split, Tensor] = {}
        self._of_pool: dict[tuple[int, torch.device], tuple[ClassPool, Tensor]] = {}
        self._said: set[str] = set()

    def draws(
        self, split: Split, sampler: Sampler, device: torch.device
    ) -> Callable[[NDArray[np.int64]], Episode | Plan]:
        """How the tasks of a split are drawn: whole, or as plans of which ``made`` makes tasks.

        Args:
            split: of the tasks.
            sampler: of these tasks.
            device: that trains.
        """
        wanted = device.type == "cuda" if self.wanted == "auto" else self.wanted
        if not wanted:
            return sampler.draw
        if not isinstance(sampler, PlanningSampler):
            self._say(f"on_device: tasks are drawn by {type(sampler).__name__}, which works on the CPU alone")
            return sampler.draw
        pool = sampler.pool
        if not _fits(pool, device):
            self._say(f"on_device: pictures of {pool.images.nbytes / 2**30:.1f} GiB are looked up on the CPU")
            return partial(_looked_up, sampler)
        address = pool.images.__array_interface__["data"][0]  # splits may share their images
        if (address, device) not in self._of_pool:
            self._of_pool[address, device] = pool, torch.from_numpy(np.array(pool.images)).to(device)
        self._images[split] = self._of_pool[address, device][1]
        return sampler.plan

    def made(self, plan: Plan) -> Episode:
        """The tasks of a plan that lies on the device."""
        return tasks_of(plan, self._images.get(plan.split))

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            rank_zero_info(line)


def _looked_up(sampler: PlanningSampler, indices: NDArray[np.int64]) -> Plan:
    """A plan with its pictures, which the loader pins."""
    return with_pictures(sampler.plan(indices), sampler.pool)


def _fits(pool: ClassPool, device: torch.device) -> bool:
    return device.type != "cuda" or pool.images.nbytes <= SHARE * torch.cuda.mem_get_info(device)[0]
