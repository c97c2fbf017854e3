"""How much better an action went than expected, with a baseline that is linear in features (Duan et al. 2016)."""

import torch
from torch import Tensor

from metasgd.rl.rollout import Trajectories

RIDGE = 1e-5
CLIP = 10.0
"""Observations count up to this in the baseline."""


def returns_to_go(rewards: Tensor, discount: float) -> Tensor:
    """``G_t = Σ_{t' ≥ t} γ^{t' − t} r_{t'}`` of rewards ``[…, H]``."""
    horizon = torch.arange(rewards.shape[-1], device=rewards.device)
    apart = horizon[:, None] - horizon  # t' − t
    weights = torch.where(apart >= 0, torch.tensor(discount, dtype=rewards.dtype) ** apart.clamp_min(0), 0.0)
    return rewards @ weights.to(rewards)


def linear_baseline(made: Trajectories, returns: Tensor) -> Tensor:
    """The returns to go as ridge regression on features has them: the observation, its square, t, t², t³ and 1.

    It is fitted to each task's own trajectories.

    Args:
        made: K trajectories of each task.
        returns: ``[*lead, K, H]``.
    """
    o = made.observations.double().clamp(-CLIP, CLIP)
    t = torch.arange(o.shape[-2], device=o.device, dtype=o.dtype).expand(o.shape[:-1])[..., None] / 100
    features = torch.cat([o, o.square(), t, t**2, t**3, torch.ones_like(t)], dim=-1)
    rows = (features * made.alive[..., None]).flatten(-3, -2)
    gram = rows.mT @ rows + RIDGE * torch.eye(rows.shape[-1], dtype=rows.dtype, device=rows.device)
    wanted = (rows.mT @ (returns * made.alive).double().flatten(-2)[..., None])[..., None, :, :]
    weights: Tensor = torch.linalg.solve_ex(gram[..., None, :, :], wanted).result
    found: Tensor = features @ weights
    return found.squeeze(-1).to(returns)


def advantages(made: Trajectories, discount: float, baseline: bool, standardise: bool) -> Tensor:
    """``A_t = G_t − b(o_t, t)``, ``[*lead, K, H]``, 0 after the end of an episode.

    Args:
        made: K trajectories of each task.
        discount: γ.
        baseline: subtract ``linear_baseline``; without it b is 0.
        standardise: to mean 0 and standard deviation 1 over the steps of a task, divided by their number in a
            trajectory: sums over the steps of an episode become means over steps, as the code of MAML has them.
    """
    returns = returns_to_go(made.rewards, discount)
    found = returns - linear_baseline(made, returns) if baseline else returns
    found = torch.where(made.alive, found, 0.0)
    if not standardise:
        return found
    n = made.alive.sum(dim=(-2, -1), keepdim=True)
    found = torch.where(made.alive, found - found.sum(dim=(-2, -1), keepdim=True) / n, 0.0)
    std = (found.square().sum(dim=(-2, -1), keepdim=True) / n).sqrt()
    return found / (std + 1e-8) * (made.alive.shape[-2] / n)
