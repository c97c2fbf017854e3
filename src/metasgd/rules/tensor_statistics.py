"""What rules read of each tensor, over all its entries.

Shape letters: T tensors; lead is ``[]`` for one task and ``[B]`` for several.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from metasgd.rules.base import Params, beside
from metasgd.rules.scaled_network import has_gradient

FORGETTING = 0.01
"""1 − β₂."""


class Statistics(NamedTuple):
    """Of each tensor, mean squares and a mean product over its entries, all ``[*lead, T]``."""

    weights: Tensor
    gradient: Tensor
    momentum: Tensor
    product: Tensor
    average: Tensor
    seen: Tensor
    update: Tensor
    alignment: Tensor | None = None  # of a rule that measures it


def square_averages(v: Params, w: Params, grads: Params, gradient: Tensor, lead: int) -> tuple[Params, Params, Params]:
    """``v ← v + share (g² − v)``, the share of a row in w, and ``v̂ = v / w``, all by name.

    Args:
        v: of a tensor's shape, or one number for each task: of the mean over all entries.
        w: for each row of v.
        grads: g.
        gradient: the means of g² over all entries, ``[*lead, T]``.
        lead: the axes of the tasks.
    """
    squares, signs = {}, {}
    for i, (n, g) in enumerate(grads.items()):
        squares[n], signs[n] = (g * g, g) if v[n].ndim == g.ndim else (gradient[..., i],) * 2
    seen = seen_rows(w, signs, lead)
    moved = {n: torch.lerp(v[n], square, beside(seen[n][0], square)) for n, square in squares.items()}
    after = {n: new for n, (_, new) in seen.items()}
    return moved, after, {n: t / beside(after[n].clamp_min(FORGETTING), t) for n, t in moved.items()}


def seen_rows(before: Params, grads: Params, lead: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each row, its share of a step in v, and w afterwards; all rows are one operation."""
    found = torch.cat([has_gradient(g, lead).reshape(*g.shape[:lead], -1) for g in grads.values()], dim=-1)
    share = FORGETTING * found
    w = torch.cat([t.reshape(*t.shape[:lead], -1) for t in before.values()], dim=-1)
    w = torch.lerp(w, torch.ones_like(w), share)
    sizes = [t.shape[lead:].numel() for t in before.values()]
    parts = zip(before.items(), torch.split(share, sizes, dim=-1), torch.split(w, sizes, dim=-1), strict=True)
    return {n: (of_step.reshape(t.shape).to(t), w.reshape(t.shape).to(t)) for (n, t), of_step, w in parts}


def means(tensors: Iterable[Tensor], lead: int) -> Tensor:
    """Of each tensor, over all but the tasks: ``[*lead, T]``."""
    sums, sizes = [], []
    for t in tensors:
        sums.append(t.flatten(lead).sum(dim=-1) if t.ndim > lead else t)
        sizes.append(t.shape[lead:].numel())
    found = torch.stack(sums, dim=-1)
    return found / found.new_tensor(sizes)


def inverse_root(t: Tensor) -> Tensor:
    """``1 / √t``, and 0 with a derivative of 0 where t is 0."""
    return torch.where(t > 0, torch.where(t > 0, t, 1.0).rsqrt(), 0.0)
