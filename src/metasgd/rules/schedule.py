"""How the rates of a whole training rise and fall: warm-up, and a decay to zero."""

from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

Schedule = Literal["none", "trapezoid"]
S = TypeVar("S", float, Tensor)

WARM_UP = 0.05
"""The share of the steps over which ``trapezoid`` rises."""
DECAY = 0.3
"""The share of the steps over which it falls."""


def schedule_factor(schedule: Schedule | None, step: S, total_steps: S | int) -> S | float:
    """The factor on the rates of step s, counted from 0, of S in all.

    ``trapezoid``: ``min(1, (s + 1) / (0.05 S), (S − s) / (0.3 S))``, which rises linearly from the first step on, stays
    at 1, and falls linearly to the last step's ``1 / (0.3 S)``; from step S on it is 0. ``none`` and None: 1.

    Args:
        schedule: which.
        step: s, one number or one of each task, ``[B]``.
        total_steps: S, likewise.

    Example:
        >>> [round(schedule_factor("trapezoid", s, 20), 2) for s in (0, 1, 13, 14, 15, 17, 19, 20, 21)]
        [1.0, 1.0, 1.0, 1.0, 0.83, 0.5, 0.17, 0.0, 0.0]
    """
    if schedule != "trapezoid":
        return 1.0
    total: Any = total_steps
    rise, fall = (
        span.clamp_min(1) if isinstance(span, Tensor) else max(1.0, span) for span in (WARM_UP * total, DECAY * total)
    )
    if isinstance(step, Tensor):
        return torch.minimum((step + 1) / rise, (total - step) / fall).clamp(0, 1)
    factor: float = max(0.0, min(1.0, (step + 1) / rise, (total - step) / fall))
    return factor
