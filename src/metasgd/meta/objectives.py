"""What a task is evaluated by: its loss, and the metric that people read."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from metasgd.errors import UserError
from metasgd.meta.closed_form.losses import IGNORED
from metasgd.meta.inner_loop import Loss

LossName = Literal["cross_entropy", "mse"]


@dataclass(frozen=True)
class Objective:
    """A loss, and the metric logged beside it.

    Attributes:
        loss: one task's mean loss.
        metric: the metric's name, as logged.
        higher_is_better: which way the metric improves.
    """

    loss: Loss
    metric: str
    higher_is_better: bool

    def validate_targets(self, targets: Tensor) -> None:
        """Refuse targets that the loss is not for: class numbers are whole, the targets of a regression are not.

        Raises:
            UserError: names the loss that is for them.
        """
        if targets.is_floating_point() == (self.metric == "accuracy"):
            given = "numbers to come close to" if targets.is_floating_point() else "class numbers"
            own, other = ("cross_entropy", "mse") if self.metric == "accuracy" else ("mse", "cross_entropy")
            raise UserError(f"loss is {own}, but the tasks' targets are {given}. Set loss to {other}")

    def measure(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The metric of each task: outputs ``[B, X, …]`` and targets ``[B, X, …]`` to ``[B]``."""
        if self.metric == "accuracy":
            counts = (targets != IGNORED).sum(dim=-1)  # an example that is left out of the loss is left out here
            return (outputs.argmax(dim=-1) == targets).sum(dim=-1) / counts
        return (outputs - targets).square().flatten(1).mean(dim=-1)


OBJECTIVES: dict[LossName, Objective] = {
    "cross_entropy": Objective(F.cross_entropy, metric="accuracy", higher_is_better=True),
    "mse": Objective(F.mse_loss, metric="mse", higher_is_better=False),
}
