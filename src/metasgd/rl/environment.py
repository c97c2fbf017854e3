"""What an environment is: many episodes of many tasks at once, each a function of its task, its seed and its actions.

Shape letters of this package: K trajectories of a task, H steps at most in each (the horizon), O values observed,
A values of an action; ``lead`` is ``[]`` for one task and ``[b]`` for several.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

State = Any
"""Where episodes stand: an environment's own business."""


class Environment(ABC):
    """A family of tasks with observations and actions of numbers.

    An action of a policy runs from -1 to 1, which are ``low`` and ``high`` here; what is beyond is cut off.

    Attributes:
        observations: O.
        actions: A.
        horizon: H, after which every episode ends.
        low: the least of each value of an action, ``[A]``.
        high: the greatest of each.
    """

    observations: int
    actions: int
    horizon: int
    low: Tensor
    high: Tensor

    @abstractmethod
    def start(self, task: Tensor, seed: Tensor) -> tuple[State, Tensor]:
        """Begin K episodes of each task.

        Args:
            task: ``[*lead]`` int64, the numbers that the tasks are drawn by, from 0 to below 2^62.
            seed: ``[*lead, K]`` int64, those that chance in an episode is drawn by.

        Returns:
            The state, and the first observations ``[*lead, K, O]``.
        """

    @abstractmethod
    def step(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        """Take one action in every episode; what comes out of an episode that has ended counts for nothing.

        Args:
            state: of all episodes.
            action: ``[*lead, K, A]``, within ``low`` and ``high``.

        Returns:
            The next state, the observations ``[*lead, K, O]``, the rewards ``[*lead, K]``, and whether the episodes
            have ended ``[*lead, K]``.
        """


def random_numbers(seeds: Tensor, *shape: int, normal: bool = False) -> Tensor:
    """Numbers by the stream of each seed, the same on every device: ``[*seeds, *shape]``, float32.

    Args:
        seeds: int64, from 0.
        shape: of the numbers of each seed.
        normal: standard normal, and not uniform from 0 to 1.
    """
    generator = torch.Generator()
    drawn = torch.empty(seeds.numel(), *shape)
    for own, seed in zip(drawn, seeds.flatten().tolist(), strict=True):
        generator.manual_seed(seed)
        own.normal_(generator=generator) if normal else own.uniform_(generator=generator)
    return drawn.reshape(*seeds.shape, *shape).to(seeds.device)
