"""Losses whose derivatives at the policy that acted are those of its expected return.

With the ratio ``w_t = π_θ(a_t) / π(a_t)`` to the policy π that acted, at which ``w_t = 1``, and advantages ``A_t``:

    dice:  Σ_t (w_1 … w_t − w_1 … w_{t−1}) A_t
    lvc:   Σ_t (w_t − 1) A_t

Both have the gradient ``Σ_t ∇log π(a_t) A_t``. The second derivatives of ``dice`` are unbiased too, and so are all
higher ones. ``lvc`` leaves out the products of ∇log π of different steps: less variance, no bias where there is one
step, and little where actions are nearly the best (Rothfuss et al. 2019, section 5).

Of an outer loss, which a policy is moved by several times before it acts again:

    ppo:   Σ_t min(w_t A_t, clip(w_t, 1 − ε, 1 + ε) A_t) − A_t

It is ``lvc`` as long as the ratios are within ε of 1, and beyond has no reason to move them further.

References:
    Foerster et al. 2018: DiCE, https://arxiv.org/abs/1802.05098; Farquhar, Whiteson, Foerster 2019: Loaded DiCE, whose
    form with advantages this is, https://arxiv.org/abs/1909.10549; Rothfuss et al. 2019: ProMP,
    https://arxiv.org/abs/1810.06784; Schulman et al. 2017: PPO, https://arxiv.org/abs/1707.06347
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

SurrogateName = Literal["dice", "lvc"]
Surrogate = Callable[[Tensor, Tensor], Tensor]
"""Of ``log w_t`` and ``A_t``, ``[K, H]``, to a scalar."""


def dice(log_ratios: Tensor, advantages: Tensor) -> Tensor:
    """Of ``log w_t`` and ``A_t``, ``[K, H]``: the mean over trajectories, a scalar that is 0 where all w are 1."""
    whole = log_ratios.cumsum(dim=-1)
    return ((whole.exp() - (whole - log_ratios).exp()) * advantages).sum(dim=-1).mean()


def lvc(log_ratios: Tensor, advantages: Tensor) -> Tensor:
    """Of ``log w_t`` and ``A_t``, ``[K, H]``: the mean over trajectories, a scalar that is 0 where all w are 1."""
    return (log_ratios.expm1() * advantages).sum(dim=-1).mean()


def ppo(log_ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Of ``log w_t`` and ``A_t``, ``[K, H]``, and ε: the mean over trajectories, 0 where all w are 1."""
    w = log_ratios.exp()
    bounded = torch.minimum(w * advantages, w.clamp(1 - clip, 1 + clip) * advantages)
    return (bounded - advantages).sum(dim=-1).mean()


SURROGATES: dict[SurrogateName, Surrogate] = {"dice": dice, "lvc": lvc}
