"""A mean over tasks and how sure of it one may be."""

import torch
from torch import Tensor
from torchmetrics import Metric

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


class TaskMean(Metric):
    """The mean of J figures over tasks, and the half-width of each one's 95 % confidence interval.

    The interval is the normal one for the mean of independent tasks, ``1.96 · s / √n``, over the tasks of
    all processes. Sums are kept in float64, so that their order does not show.
    """

    full_state_update = False
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, n_figures: int = 1) -> None:
        super().__init__()
        for name in ("total", "squares"):
            self.add_state(name, torch.zeros(n_figures, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """``values``: ``[B, J]``, a row of figures per task."""
        values = values.double()
        self.total += values.sum(dim=0)
        self.squares += values.square().sum(dim=0)
        self.count += len(values)

    def compute(self) -> tuple[Tensor, Tensor]:
        """``(mean, half-width)``, each ``[J]``; the half-width of a single task's mean is not a number."""
        mean = self.total / self.count
        variance = (self.squares - self.count * mean.square()).clamp_min(0) / (self.count - 1)
        return mean, Z95 * (variance / self.count).sqrt()
