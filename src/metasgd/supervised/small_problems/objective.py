"""The loss of problems of several kinds, and their held-out loss relative to that of the best constant answer.

Targets ``[X, 1 + 16]``: the first is the number n of outputs that count, negative for a regression; then come one-hot
classes or the numbers to come close to. The first output has no part in the loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from metasgd.errors import UserError
from metasgd.meta.objectives import Objective

OUTPUTS = 16
ANSWERS = 1 + OUTPUTS
SMALLEST, LARGEST = 0.01, 10.0
"""What is added to a relative loss before its logarithm is taken, and what it is at most."""


def mixed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, or mean squared error where the targets say so; both mean over the examples."""
    n, y, outputs = targets[:, 0], targets[:, 1:], outputs[:, 1:]
    used = torch.arange(OUTPUTS, device=y.device) < n.abs().unsqueeze(-1)
    log_p = F.log_softmax(outputs.masked_fill(~used, -1e4), dim=-1)
    cross_entropy = -(y * log_p.masked_fill(~used, 0.0)).sum(dim=-1)
    squares = ((outputs - y).masked_fill(~used, 0.0).square()).sum(dim=-1) / n.abs()
    return torch.where(n > 0, cross_entropy, squares).mean()


def constant_loss(targets: Tensor) -> Tensor:
    """The loss of the best constant answer: the entropy of the classes, or the variance of the numbers."""
    n, y = targets[:, 0], targets[:, 1:]
    mean = y.mean(dim=0)
    variance = (y - mean).square().sum(dim=-1) / n.abs()
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum().expand_as(variance)
    return torch.where(n > 0, entropy, variance).mean()


def relative_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """``log(0.01 + L / L_constant)``, of a share that counts as 10 where it is larger or no number.

    Its differences, of which evolution strategies live, are those of the logarithm of the loss relative to any other
    optimizer's on the same problem.
    """
    share = mixed_loss(outputs, targets) / constant_loss(targets).clamp_min(1e-12)
    return (SMALLEST + torch.nan_to_num(share, nan=LARGEST, posinf=LARGEST).clamp_max(LARGEST)).log()


class RelativeLoss(Objective):
    """Inner steps take the loss of the problem's kind, outer steps the logarithm of the relative held-out loss.

    Example:
        >>> y = torch.zeros(4, 17)
        >>> y[:, 0], y[:, 1] = -1, torch.tensor([48.0, 52.0, 48.0, 52.0])  # one number to come close to
        >>> mixed_loss(torch.zeros(4, 17), y), relative_loss(torch.full((4, 17), 50.0), y)
        (tensor(2504.), tensor(0.0100))
    """

    metric = "relative_loss"
    higher_is_better = False
    loss = staticmethod(mixed_loss)
    query_loss = staticmethod(relative_loss)

    def validate_targets(self, targets: Tensor) -> None:
        if targets.shape[-1] != ANSWERS:
            raise UserError(
                f"loss is RelativeLoss, but the targets have the shape {tuple(targets.shape)}: use the source"
                " metasgd.supervised.small_problems.SmallProblems, or another loss"
            )

    def measure(self, outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        return torch.stack([relative_loss(o, t) for o, t in zip(outputs, targets, strict=True)])
