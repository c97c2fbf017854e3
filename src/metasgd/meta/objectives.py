"""What a task is evaluated by: its loss, and the metric that people read."""

from abc import ABC, abstractmethod
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from metasgd.episode import Experience, as_given
from metasgd.errors import UserError
from metasgd.meta.closed_form.losses import IGNORED
from metasgd.meta.inner_loop import Loss

LossName = Literal["cross_entropy", "mse"]


class Objective(ABC):
    """A loss, and the metric logged beside it.

    Attributes:
        loss: one task's mean loss.
        metric: the metric's name, as logged.
        higher_is_better: which way the metric improves.
        experience: what the loss is taken on, at each inner step and of the query set.
        passes: outer updates on the same examples, where these are made by the network (see ``metasgd.meta.passes``).
        query_loss: the loss of the query set, where it is another than that of an inner step.
        environment: what makes these examples, if they do not come with the tasks.
    """

    loss: Loss
    metric: str
    higher_is_better: bool
    experience: Experience = staticmethod(as_given)
    passes: int = 1
    query_loss: Loss | None = None
    environment: object = None

    @abstractmethod
    def validate_targets(self, targets: Tensor) -> None:
        """Refuse targets that the loss is not for.

        Raises:
            UserError: names the loss that is for them.
        """

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        """The metric of each task: outputs ``[B, X, …]``, targets ``[B, X, …]`` and losses ``[B]`` to ``[B]``."""


class CrossEntropy(Objective):
    """Of classes: ``−log softmax(outputs)`` of the right one, and the share of examples whose largest output is it."""

    loss = staticmethod(F.cross_entropy)
    metric = "accuracy"
    higher_is_better = True

    def validate_targets(self, targets: Tensor) -> None:
        if targets.is_floating_point():
            raise UserError(_OF_OTHERS.format("cross_entropy", "numbers to come close to", "mse"))

    def measure(self, outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        counts = (targets != IGNORED).sum(dim=-1)  # an example that is left out of the loss is left out here
        return (outputs.argmax(dim=-1) == targets).sum(dim=-1) / counts


class MeanSquaredError(Objective):
    """Of regression: ``(outputs − targets)²``, loss and metric alike."""

    loss = staticmethod(F.mse_loss)
    metric = "mse"
    higher_is_better = False

    def validate_targets(self, targets: Tensor) -> None:
        if not targets.is_floating_point():
            raise UserError(_OF_OTHERS.format("mse", "class numbers", "cross_entropy"))

    def measure(self, outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(dim=-1)


_OF_OTHERS = "loss is {}, but the tasks' targets are {}. Set loss to {}"
OBJECTIVES: dict[LossName, Objective] = {"cross_entropy": CrossEntropy(), "mse": MeanSquaredError()}
