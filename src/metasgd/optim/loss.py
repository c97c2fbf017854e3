"""The loss of a training step as an update rule reads it: one finite number."""

import math
from typing import SupportsFloat

from torch import Tensor

from metasgd.errors import UserError
from metasgd.rules.base import UpdateRule


class LossNotFiniteError(UserError):
    """The training has diverged; the step that met it changed nothing."""


def told(rule: UpdateRule, loss: Tensor | float | None) -> float:
    """What the rule reads of the loss; NaN if it reads none, without waiting for the loss's device.

    Raises:
        UserError: it is not one number, or the rule reads it and it is absent or not finite.
    """
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise UserError(
            f"loss is a tensor of shape {tuple(loss.shape)}, but step(loss=loss) takes one number: give its mean"
        )
    if not rule.reads_loss:
        return math.nan
    if loss is None:
        raise UserError(
            f"{type(rule).__name__} reads the loss: call step(loss=loss), step(loss), or step(closure) with a closure"
            " that returns it"
        )
    if not isinstance(loss, SupportsFloat) or (getattr(loss, "ndim", None) and not isinstance(loss, Tensor)):
        raise UserError(f"loss is a {type(loss).__name__}, but step(loss=loss) takes one number: give its mean")
    number = float(loss.detach() if isinstance(loss, Tensor) else loss)
    if not math.isfinite(number):
        raise LossNotFiniteError(
            f"loss is {number}, but {type(rule).__name__} reads it, and a finite one is needed: the training has"
            " diverged, and this step has changed nothing. Lower the factor lr on its rates, or see to the batch"
        )
    return number
