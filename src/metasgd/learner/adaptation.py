"""One adaptation of a meta-model to one task. Shape letters: X examples, N classes, D features."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metasgd.episode import Episode
from metasgd.learner.adapted_learner import AdaptedLearner, float_dtype
from metasgd.learner.predictor import Labels
from metasgd.meta.inner_loop import InnerLoop, InnerStep, Loss
from metasgd.meta.meta_gradient import inner_loop_of
from metasgd.meta.model import MetaModel
from metasgd.nn.calling import logits_of
from metasgd.nn.export import freeze_statistics
from metasgd.rules.base import Params, UpdateRule


def adapted(model: MetaModel, task: Episode, classes: Labels | None, inner_steps: int) -> AdaptedLearner:
    """What a model makes of the support set of one task.

    Args:
        model: a network and its update rule, which stay as they are.
        task: one, inputs as the network takes them.
        classes: the N classes; None in regression.
        inner_steps: S.
    """
    stack = _stack_of(model, task)
    taken, final, _ = stack.adapt(inner_steps)
    loss_after, _, _ = stack.support(final, keep=False)
    losses = [*(float(step.loss) for step in taken), float(loss_after)]
    return _learned(model, task, classes, _weights(stack, final), losses, _rates(model.update_rule, taken))


def outputs_of(model: MetaModel, task: Episode, inner_steps: int, x: Tensor) -> Tensor:
    """The outputs for x, ``[X, N]``, after an adaptation of which nothing else is wanted; arguments as for it."""
    stack = _stack_of(model, task)
    _, final, _ = stack.adapt(inner_steps)
    network = freeze_statistics(model.network, _weights(stack, final), task.support_x[0], task.n_way)
    with torch.no_grad():
        return logits_of(network(x), network)


@torch.no_grad()
def adapted_head(model: MetaModel, task: Episode, classes: Labels | None, features: Tensor) -> AdaptedLearner:
    """The same without an inner step, of a network with a prototype head.

    Args:
        model: as for ``adapted``.
        task: as for ``adapted``; its support inputs are not run.
        classes: the N classes.
        features: what the head reads of the support set, ``[X, D]``.
    """
    assert model.config.prototypes is not None
    stack = _stack_of(model, task)
    rows = stack.rows_of(model.config.prototypes[1].log_scale, features)
    loss = stack.config.loss(F.linear(features, *rows.values()), task.support_y[0])
    return _learned(model, task, classes, stack.theta | stack.for_query(rows), [float(loss)], [])


def _stack_of(model: MetaModel, task: Episode) -> InnerLoop:
    theta = {n: p.detach() for n, p in model.eval().network.named_parameters()}
    config = model.config
    if config.loss is F.cross_entropy:  # a loss of one's own stays what it was meta-trained with
        config = replace(config, loss=_balanced_loss(task.support_y[0], float_dtype(model.network)))
    return inner_loop_of(config, theta, task)


def _weights(stack: InnerLoop, final: Params) -> Params:
    return stack.weights(stack.for_query(final), stack.shared)


def _learned(
    model: MetaModel, task: Episode, classes: Labels | None, params: Params, losses: list[float], rates: list[Params]
) -> AdaptedLearner:
    inputs = task.support_x[0]
    return AdaptedLearner(
        network=freeze_statistics(model.network, params, inputs, task.n_way),
        classes_=classes,
        n_features_in_=inputs[0].numel(),
        support_losses_=np.array(losses),
        rates_=rates,
        input_shape=tuple(inputs.shape[1:]),
        input_dtype=inputs.dtype,
        _model=model,
        _params=params,
    )


def _balanced_loss(targets: Tensor, dtype: torch.dtype) -> Loss:
    """Cross entropy in which each class weighs the same, as it does in the tasks of meta-training.

    Where all have as many examples it is the plain mean. Otherwise the plain mean would draw everything towards
    the larger classes: one step from equal rows gives a class-agnostic head's rows lengths in proportion.
    """
    counts = targets.bincount()
    if (counts == counts[0]).all():
        return F.cross_entropy
    return partial(F.cross_entropy, weight=1 / counts.to(dtype))


def _rates(rule: UpdateRule, taken: list[InnerStep]) -> list[Params]:
    if type(rule).forward is not UpdateRule.forward:
        return []
    rates = []
    with torch.no_grad():
        for s, step in enumerate(taken):
            assert step.grads is not None
            rates.append(rule.coefficients(s, step.grads, step.loss, step.state).rates)
    return rates
