"""The numbers that update rules start from, checked."""

import math

import torch

from metasgd.errors import UserError

Start = float | tuple[float, float]
Bounds = tuple[float, float] | None


def draw(start: Start) -> float:
    """A start value: the number itself, or one drawn uniformly from ``(low, high)``."""
    low, high = _interval(start)
    return low if low == high else float(torch.empty(()).uniform_(low, high))


def checked_bounds(bounds: Bounds, start: Start) -> Bounds:
    """``bounds``, if they are an interval that holds every start value.

    Raises:
        UserError: they are not, or ``start`` is neither a finite number nor an interval.
    """
    _interval(start)
    if bounds is None:
        return None
    low, high = bounds
    starts = start if isinstance(start, tuple | list) else (start,)
    if not (low < high and all(low <= s <= high for s in starts)):
        raise UserError(
            f"bounds is {list(bounds)}: [low, high] with low < high and init ({start}) between them is needed"
        )
    return low, high


def _interval(start: Start) -> tuple[float, float]:
    low, high = start if isinstance(start, tuple | list) else (start, start)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UserError(f"init is {start}: a finite number, or [low, high] with low <= high, is needed")
    return low, high


def outside(option: str, value: float, low: float, high: float, low_allowed: bool = False) -> list[str]:
    """The problem with an option that must lie between ``low`` and ``high``, if there is one."""
    if low < value < high or (low_allowed and value == low):
        return []
    least = "at least" if low_allowed else "above"
    return [f"{option} is {value}: a number {least} {low:g} and below {high:g} is needed"]


def logit(p: float) -> float:
    """``σ⁻¹(p)``."""
    return math.log(p / (1 - p))
