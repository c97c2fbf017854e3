"""Several predictions of the same queries as one: by other models, or after other views of the support set."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metasgd.episode import Episode, as_given
from metasgd.errors import UserError
from metasgd.meta.evaluate import Evaluation
from metasgd.meta.model import MetaModel
from metasgd.meta.objectives import Objective


def mean_prediction(outputs: Sequence[Tensor], classes: bool) -> Tensor:
    """The mean of what several networks predict, as the outputs of one.

    Of classes the log of the mean probability, ``log 1/M Σ_m softmax(z_m)``, whose softmax is that mean; in regression
    the mean of the outputs.

    Args:
        outputs: ``z_1 … z_M``, each ``[…, N]``; logits of N classes, or outputs of a regression.
        classes: whether they are logits.

    Example:
        >>> sure, unsure = torch.tensor([[0.0, 100.0]]), torch.tensor([[0.0, 0.0]])
        >>> mean_prediction([sure, unsure], classes=True).exp()
        tensor([[0.2500, 0.7500]])
    """
    every = torch.stack(list(outputs))
    every = every.to(torch.promote_types(every.dtype, torch.float32))
    return every.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(every)) if classes else every.mean(dim=0)


def mean_evaluation(found: Sequence[Evaluation], objective: Objective, query_y: Tensor) -> Evaluation:
    """The evaluation of the mean prediction.

    Args:
        found: of the same query sets after the same number J of times; a single one is returned as it is.
        objective: by which the mean prediction is evaluated.
        query_y: ``[B, X, …]``.

    Returns:
        An evaluation whose support losses and choices are those of the first.

    Raises:
        UserError: several were found of tasks whose examples each network makes for itself.
    """
    if len(found) == 1:
        return found[0]
    if objective.experience is not as_given:
        raise UserError(
            "policies act each for itself, so that there is no mean of theirs to evaluate: give one checkpoint"
        )
    outputs = mean_prediction([one.outputs for one in found], classes=objective.metric == "accuracy")
    losses = [
        torch.stack([objective.loss(after, y) for after in task]) for task, y in zip(outputs, query_y, strict=True)
    ]
    return Evaluation(found[0].support_losses, torch.stack(losses), outputs, found[0].chosen)


def evaluate_together(models: Sequence[MetaModel], views: Sequence[Episode], after: Sequence[int]) -> Evaluation:
    """Adapt every model to every view of some tasks, and evaluate the mean of their predictions.

    Args:
        models: M of them, each with its own number of inner steps in evaluation: one that takes fewer than is asked
            for stays where it ended.
        views: V meta-batches of the same tasks, with the same targets.
        after: numbers of inner steps.

    Raises:
        UserError: as ``MetaModel.evaluate``.
    """
    found = [m.evaluate(tasks, [min(s, m.eval_inner_steps) for s in after]) for tasks in views for m in models]
    return mean_evaluation(found, models[0].objective, views[0].query_y)
