"""What the losses of a training say, whatever their unit and their zero: for rules that must not depend on either."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from metasgd.rules.base import State, Steps

FAST, SLOW = 0.9, 0.99
"""How fast the two running means forget."""
KEYS = ("loss_fast", "loss_slow", "loss_lowest", "loss_highest")
"""The state's keys: the two running means, and the least and the largest that the fast one has been."""


class LossHistory(NamedTuple):
    """The running means of the losses up to now, and two numbers that are the same for a L + b, a > 0.

    ``f`` and ``b`` are running means, ``f ← f + w (L − f)`` with ``w = max(1 − δ, 1 / (s + 1))`` and δ of 0.9 and 0.99:
    the plain mean of the first losses, which later forgets. ``lo`` and ``hi`` are the least and the largest ``f``.

    Attributes:
        level: ``(f − lo) / (hi − lo)``: 0 where the loss has never been lower, 1 where never higher.
        trend: ``(f − b) / (hi − lo)`` within -1 … 1: below 0 while the loss falls.
        state: by ``KEYS``, for the next step.
    """

    level: Tensor
    trend: Tensor
    state: State


def empty_history(like: Tensor) -> State:
    """The state before the first loss.

    Args:
        like: of the type, device and shape of the losses to come.
    """
    starts = (0.0, 0.0, torch.inf, -torch.inf)
    return {key: like.new_full(like.shape, value) for key, value in zip(KEYS, starts, strict=True)}


def read_loss(step: Steps, loss: Tensor, state: State) -> LossHistory:
    """Take in the loss of step s, ``[]`` or ``[B]``; both numbers are 0 until two losses differ."""
    share = 1 / (torch.as_tensor(step, dtype=loss.dtype, device=loss.device) + 1)
    f, b = (
        torch.lerp(state[key], loss, share.clamp_min(1 - by).expand_as(loss))
        for key, by in zip(KEYS[:2], (FAST, SLOW), strict=True)
    )
    lowest, highest = torch.minimum(state["loss_lowest"], f), torch.maximum(state["loss_highest"], f)
    spread = highest - lowest
    by = torch.where(spread > 0, spread, 1.0)  # where it is 0, so is what is divided
    level = torch.where(spread > 0, (f - lowest) / by, 0.0)
    trend = torch.where(spread > 0, ((f - b) / by).clamp(-1, 1), 0.0)
    return LossHistory(level, trend, dict(zip(KEYS, (f, b, lowest, highest), strict=True)))


def read_number(step: int, loss: float, state: Mapping[str, float]) -> tuple[float, float, dict[str, float]]:
    """``read_loss`` of one training in plain numbers: the level, the trend, and the state for the next step."""
    f, b = (
        state[key] + max(1 - by, 1 / (step + 1)) * (loss - state[key])
        for key, by in zip(KEYS[:2], (FAST, SLOW), strict=True)
    )
    lowest, highest = min(state["loss_lowest"], f), max(state["loss_highest"], f)
    left = dict(zip(KEYS, (f, b, lowest, highest), strict=True))
    if highest <= lowest:
        return 0.0, 0.0, left
    spread = highest - lowest
    return (f - lowest) / spread, max(-1.0, min(1.0, (f - b) / spread)), left
