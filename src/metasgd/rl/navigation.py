"""2-D navigation: move to a goal that only the reward tells (Finn et al. 2017, section 5.3; Li et al. 2017, 4.3)."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from metasgd.errors import raise_problems, too_small
from metasgd.rl.environment import Environment, random_numbers

SIDE = 0.5
"""Half of the unit square's side, whose centre is the origin."""
SPEED = 0.1
NEAR = 0.01
"""An episode ends where the agent is closer to its goal than this."""


class Places(NamedTuple):
    """The agents' positions ``[*lead, K, 2]`` and the goals ``[*lead, 1, 2]``."""

    position: Tensor
    goal: Tensor


class Navigation(Environment):
    """An agent on a plane observes its position p and chooses its velocity; its goal g differs from task to task.

    ``p_{t+1} = p_t + v_t`` with each value of ``v_t`` in [-0.1, 0.1], reward ``−|p_{t+1} − g|²``, g uniform in the unit
    square [-0.5, 0.5]². An episode ends within 0.01 of the goal, at the latest after ``horizon`` steps.

    Args:
        start: where the agent starts: at the ``origin``, or at a place ``drawn`` from the unit square for each task.
        reward: minus the ``squared_distance`` to the goal, as in Meta-SGD's paper, or minus the ``distance``, as in the
            code of MAML.
        horizon: steps of an episode, at most.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> places, observed = Navigation().start(torch.tensor([7, 8]), torch.arange(6).reshape(2, 3))
        >>> observed.shape, places.goal.shape  # 3 episodes of 2 tasks
        (torch.Size([2, 3, 2]), torch.Size([2, 1, 2]))

    References:
        Li, Zhou, Chen, Li 2017: Meta-SGD, section 4.3, https://arxiv.org/abs/1707.09835;
        Finn, Abbeel, Levine 2017: MAML, section 5.3, https://arxiv.org/abs/1703.03400
    """

    observations = 2
    actions = 2
    low = torch.full((2,), -SPEED)
    high = torch.full((2,), SPEED)

    def __init__(
        self,
        start: Literal["origin", "drawn"] = "origin",
        reward: Literal["squared_distance", "distance"] = "squared_distance",
        horizon: int = 100,
    ) -> None:
        raise_problems(too_small(("horizon", horizon, 1)))
        self.starts, self.reward, self.horizon = start, reward, horizon

    def start(self, task: Tensor, seed: Tensor) -> tuple[Places, Tensor]:
        drawn = SIDE * (2 * random_numbers(task, 2, 2) - 1)
        goal, place = drawn.unsqueeze(-3).unbind(dim=-2)
        place = place if self.starts == "drawn" else torch.zeros_like(place)
        position = place.expand(*seed.shape, 2)
        return Places(position, goal), position

    def step(self, state: Places, action: Tensor) -> tuple[Places, Tensor, Tensor, Tensor]:
        position = state.position + action
        squared = (position - state.goal).square().sum(dim=-1)
        distance = squared.sqrt()
        reward = -squared if self.reward == "squared_distance" else -distance
        return Places(position, state.goal), position, reward, distance < NEAR
