"""Where the examples of an inner step come from: given with the task, or made by the network as it is at that step."""

from collections.abc import Callable

from torch import Tensor

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
