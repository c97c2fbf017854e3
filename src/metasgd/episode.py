"""What a learner is given: tasks, in meta-batches.

Shape letters, the same in every file: B tasks, N ways, K shots, Q query examples per class.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def from_pixels(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Images as a network takes them: those that are uint8 become numbers from 0 to 1, all else stays as it is."""
    return x.to(dtype) / 255 if x.dtype == torch.uint8 else x


class Episode(NamedTuple):
    """A meta-batch of B tasks.

    Examples are ordered by class, then by example: row ``n * K + k`` of a support set is shot ``k`` of way
    ``n``. A regression task has one way, whose K shots are its points.

    Attributes:
        support_x: ``[B, N*K, …]``, the examples to adapt on; images are uint8 until they reach the device.
        support_y: ``[B, N*K]`` int64 class positions in 0…N-1, or ``[B, K, outputs]`` regression targets.
        query_x: ``[B, N*Q, …]``, the examples to evaluate the adapted network on.
        query_y: ``[B, N*Q]`` or ``[B, Q, outputs]``.
        classes: ``[B, N]`` int64, which class of its pool each way is (0 for a regression task).
        task_index: ``[B]`` int64, the task's number: with seed and split it determines everything above.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    classes: Tensor
    task_index: Tensor

    @property
    def n_tasks(self) -> int:
        return self.task_index.shape[0]

    @property
    def n_way(self) -> int:
        return self.classes.shape[1]

    def tasks(self, start: int, stop: int) -> "Episode":
        """The tasks ``start … stop-1`` of this meta-batch."""
        return Episode(*(field[start:stop] for field in self))


Batch = tuple[Tensor, Tensor]
"""Inputs ``[*lead, X, …]`` and targets ``[*lead, X, …]``."""
Outputs = Callable[[Tensor], Tensor]
"""``x ↦ f(θ_s; x)``, each task's own weights on its own inputs ``[*lead, X, …]``; without a graph."""
Experience = Callable[[Batch, int, Outputs], Batch]
"""What inner step s learns from: the task's own batch, s and ``f(θ_s; ·)`` to the examples that the loss is taken on.

It is a function of these three and of nothing else, so that a step that is taken again is the same step; and the
examples are constants to every derivative: what they owe to θ, the loss has to account for. The query set's are made in
the same way, always with s = 0: every number of steps is evaluated by the same random numbers.
"""


def as_given(batch: Batch, step: int, outputs: Outputs) -> Batch:  # noqa: ARG001 - they have no say
    """The examples that came with the task, at every step: all of supervised learning."""
    return batch
