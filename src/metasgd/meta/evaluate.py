"""Adapting to tasks, and evaluating the adapted networks. Pure functions: they change neither network nor rule."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import inner_loop_of
from metasgd.meta.objectives import Objective
from metasgd.rules.base import Params


@dataclass(frozen=True)
class Evaluation:
    """How some tasks went: no gradient, no outer graph.

    Attributes:
        support_losses: ``[b, S]``, before each inner step.
        query_losses: ``[b, J]``, after each of the J evaluated numbers of steps.
        outputs: ``[b, J, X, …]``, the network's outputs on the query set after each of them.
        chosen: ``[b, S, …]``, the learning rates and momenta, if the rule chose them as it went.
    """

    support_losses: Tensor
    query_losses: Tensor
    outputs: Tensor
    chosen: dict[str, Tensor]

    def measured(self, objective: Objective, tasks: Episode) -> Tensor:
        """The metric after each evaluated number of steps, ``[b, J]``."""
        by_step = zip(self.outputs.unbind(dim=1), self.query_losses.unbind(dim=1), strict=True)
        return torch.stack([objective.measure(outputs, tasks.query_y, losses) for outputs, losses in by_step], dim=1)


def evaluate(
    config: InnerLoopConfig, theta: Params, tasks: Episode, inner_steps: int, after: Sequence[int]
) -> Evaluation:
    """Adapt, and evaluate on the query set after each number of inner steps in ``after`` (0 … S)."""
    stack = inner_loop_of(config, theta, tasks)
    steps, final, chosen = stack.adapt(inner_steps)
    params = [*(step.params for step in steps), final]
    evaluated = [stack.query(stack.for_query(params[s])) for s in after]
    axis, b = len(stack.lead), tasks.n_tasks
    none_taken = evaluated[0][0].new_empty(b, 0)
    support_losses = torch.stack([step.loss for step in steps], dim=-1) if steps else none_taken
    outputs = torch.stack([outputs for _, outputs in evaluated], dim=axis)
    return Evaluation(
        support_losses=support_losses.reshape(b, inner_steps),
        query_losses=torch.stack([losses for losses, _ in evaluated], dim=-1).reshape(b, len(after)),
        outputs=outputs if stack.lead else outputs[None],
        chosen={c: x if stack.lead else x[None] for c, x in chosen.items()},
    )


def merge_evaluations(parts: Iterable[Evaluation]) -> Evaluation:
    """The evaluation of all the parts' tasks, in the order given."""
    every = tuple(parts)
    return Evaluation(
        support_losses=torch.cat([p.support_losses for p in every]),
        query_losses=torch.cat([p.query_losses for p in every]),
        outputs=torch.cat([p.outputs for p in every]),
        chosen={c: torch.cat([p.chosen[c] for p in every]) for c in every[0].chosen},
    )
