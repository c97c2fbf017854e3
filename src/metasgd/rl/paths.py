"""Where agents moved on a plane, to be looked at."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.model import MetaModel
from metasgd.rl.navigation import Navigation
from metasgd.rl.policy_gradient import PolicyGradient


class Paths(NamedTuple):
    """Trajectories on a plane.

    Attributes:
        positions: ``[J, B, K, H, 2]``, after each of J numbers of inner steps; NaN after the end of an episode.
        goals: ``[B, 2]``.
    """

    positions: Tensor
    goals: Tensor


def paths_of(model: MetaModel, tasks: Episode, after: Sequence[int]) -> Paths | None:
    """The evaluated trajectories of each task after each number of inner steps; None if they are not on a plane.

    Args:
        model: whose objective may be that of an environment on a plane.
        tasks: as ``Trials`` draws them, at least 2.
        after: numbers of inner steps.
    """
    objective = model.objective
    if not isinstance(objective, PolicyGradient) or not isinstance(objective.environment, Navigation):
        return None
    loop = AutogradInnerLoop(model.config, model.config.theta, tasks)
    steps, final, _ = loop.adapt(max(after))
    params = [*(step.params for step in steps), final]
    made = [objective.trajectories(loop.query_set, 0, loop.policy(params[s])) for s in after]
    positions = [torch.where(one.alive[..., None], one.observations, torch.nan) for one in made]
    goals = objective.environment.start(tasks.query_y[:, 0], tasks.query_x)[0].goal.squeeze(1)
    return Paths(torch.stack(positions).float().cpu(), goals.float().cpu())
