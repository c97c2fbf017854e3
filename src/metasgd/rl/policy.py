"""Policies: networks from observations to a distribution of actions."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from metasgd.errors import UserError

LEAST_STD = 1e-6
"""Below, a standard deviation is cut off: a log-probability would grow without bound."""


class GaussianPolicy(nn.Module):
    """Independent normal actions around the output of fully connected layers: ``a ~ N(μ_θ(o), diag(σ²))``.

    Observations ``[…, O]`` to ``[…, 2A]``: A means, then as many logarithms of standard deviations, which are
    parameters of their own, the same for every observation.

    Args:
        observations: O.
        hidden: width of each hidden layer, with ReLU after it.
        actions: A.
        init_std: σ of every action at the start; actions run from -1 to 1.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> GaussianPolicy(observations=3, hidden=[8], actions=2)(torch.zeros(5, 3)).shape
        torch.Size([5, 4])

    References:
        Finn, Abbeel, Levine 2017: MAML, appendix A.2, https://arxiv.org/abs/1703.03400
    """

    def __init__(
        self, observations: int = 2, hidden: Sequence[int] = (100, 100), actions: int = 2, init_std: float = 1.0
    ) -> None:
        super().__init__()
        sizes = [observations, *hidden, actions]
        if min(sizes) < 1 or not LEAST_STD < init_std < math.inf:
            raise UserError(
                f"hidden is {list(hidden)}, observations {observations}, actions {actions} and init_std {init_std}:"
                " each must be at least 1, and init_std a number above 0"
            )
        *inner, last = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.body = nn.Sequential(*(layer for linear in inner for layer in (linear, nn.ReLU())))
        self.head = last
        self.log_std = nn.Parameter(torch.full((actions,), math.log(init_std)))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.head(self.body(x))
        return torch.cat([mean, self.log_std.clamp_min(math.log(LEAST_STD)).expand_as(mean)], dim=-1)


def log_probability(outputs: Tensor, action: Tensor) -> Tensor:
    """``log N(a; μ, σ²)`` of actions ``[…, A]`` under a policy's outputs ``[…, 2A]``, summed over A: ``[…]``."""
    mean, log_std = outputs.chunk(2, dim=-1)
    z = (action - mean) * (-log_std).exp()
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def sample(outputs: Tensor, noise: Tensor) -> Tensor:
    """The actions ``μ + σ ε`` for standard normal ε, ``[…, A]``."""
    mean, log_std = outputs.chunk(2, dim=-1)
    return mean + log_std.exp() * noise
