"""What rules read of each tensor, over all its entries.

Shape letters: T tensors; lead is ``[]`` for one task and ``[B]`` for several.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from metasgd.rules.base import Params
from metasgd.rules.scaled_network import has_gradient


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


def seen_rows(before: Params, grads: Params, lead: int, forgetting: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each row, its share of a step in v, and w afterwards; all rows are one operation."""
    found = torch.cat([has_gradient(g, lead).reshape(*g.shape[:lead], -1) for g in grads.values()], dim=-1)
    share = forgetting * found
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
