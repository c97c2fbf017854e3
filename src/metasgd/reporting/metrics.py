"""Figures of tasks, their mean, and how sure of it one may be."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Z95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


class Summary(NamedTuple):
    """J figures over n tasks.

    Attributes:
        mean: ``[J]``.
        ci95: ``[J]``, half-widths of the 95 % confidence intervals of the means, the normal ones for
            independent tasks, ``1.96 · s / √n``.
        by_task: ``[n, J]``, in the order of the tasks' numbers.
    """

    mean: Tensor
    ci95: Tensor
    by_task: Tensor


class TaskMetrics(Metric):
    """J figures of every task, over all processes.

    They are summed in float64 and in the order of the tasks' numbers: the same however the tasks were dealt.
    """

    full_state_update = False
    indices: list[Tensor]
    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("indices", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, indices: Tensor, values: Tensor) -> None:
        """``indices``: ``[B]``, the tasks' numbers; ``values``: ``[B, J]``, a row of figures per task."""
        self.indices.append(indices)
        self.values.append(values.double())

    def compute(self) -> Summary:
        by_task = dim_zero_cat(self.values)[dim_zero_cat(self.indices).argsort()]
        return Summary(*mean_and_ci95(by_task), by_task)


def mean_and_ci95(by_task: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over tasks ``[n, …]``, and the half-width of its 95 % interval as of ``Summary``."""
    deviation, mean = torch.std_mean(by_task, dim=0)
    return mean, Z95 * deviation / len(by_task) ** 0.5


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, of which ``right`` out of ``n`` were seen (Wilson 1927)."""
    share, weight = right / n, Z95**2 / n
    middle = (share + weight / 2) / (1 + weight)
    half = (share * (1 - share) * weight + weight**2 / 4) ** 0.5 / (1 + weight)
    return middle - half, middle + half
