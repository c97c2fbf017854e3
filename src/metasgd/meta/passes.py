"""Several outer updates on the same examples, where the network itself made these: trajectories of a policy.

The examples are made once, by θ and φ as they are at first. Each pass takes the meta-gradient on them at θ and φ as
they are by then: the losses account for how far a network has come from the one that made its examples.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from metasgd.episode import Batch, Episode, Experience, Outputs
from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient
from metasgd.meta.model import MetaModel
from metasgd.nn.chance import without_chance
from metasgd.rules.base import Params


def meta_gradients(
    model: MetaModel,
    tasks: Episode,
    first_order: bool | None = None,
    query_weights: Sequence[float] | None = None,
    inner_steps: int | None = None,
) -> Iterator[MetaGradient]:
    """The meta-gradient of each pass over the same examples, as many as the objective asks for.

    The caller updates θ and φ between two of them. With one pass it is ``model.meta_gradient``.

    Args:
        model: what adapts, and its objective.
        tasks: a meta-batch of B tasks.
        first_order: leave out the Hessian term; by default as given to the model.
        query_weights: ``w_1 … w_S`` of the multi-step loss; with several passes the last alone counts.
        inner_steps: S; by default as given to the model.

    Example:
        >>> from metasgd.rl import GaussianPolicy, Navigation, PolicyGradient, Trials
        >>> from metasgd.rules import PerParameter
        >>> model = MetaModel(GaussianPolicy(), PerParameter(0.1), loss=PolicyGradient(Navigation(horizon=5), passes=3))
        >>> optimizer = torch.optim.SGD(model.network.parameters(), lr=0.1)
        >>> tasks = Trials.draw(seed=0, split="train", indices=[0, 1], trajectories=4)
        >>> for gradient in meta_gradients(model, tasks):
        ...     for name, p in model.network.named_parameters():
        ...         p.grad = gradient.theta[name] / 2
        ...     optimizer.step()
    """
    if model.objective.passes == 1:
        yield model.meta_gradient(tasks, first_order, query_weights, inner_steps)
        return
    steps = model.inner_steps if inner_steps is None else inner_steps
    inputs = model.as_inputs(tasks)
    unroll, config = model.unroll, model.config
    assert isinstance(unroll, FullUnroll)  # the only one for networks that make their own examples
    first_order = model.first_order if first_order is None else first_order

    def on(one: InnerLoopConfig, some: Episode) -> Episode:
        return recorded(one, config.theta, some, steps)

    with without_chance(model.network, model.held.names):
        made = unroll.engine.run(on, _merge, config, inputs, steps)
    again = replace(config, experience=replay(made))
    for _ in range(model.objective.passes):
        with without_chance(model.network, model.held.names):
            gradient = unroll.meta_gradient(again, made, steps, first_order)
        yield gradient


def recorded(config: InnerLoopConfig, theta: Params, tasks: Episode, inner_steps: int) -> Episode:
    """``tasks`` with the examples that each inner step made, and those of the query set after the last.

    Args:
        config: what adapts.
        theta: θ, by which the examples are made.
        tasks: b tasks.
        inner_steps: S.

    Returns:
        Support inputs and targets ``[b, X, S, …]``, those of the query set ``[b, X, 1, …]``; the same for both where
        there is no inner step.
    """
    seen: list[Batch] = []

    def noting(batch: Batch, step: int, outputs: Outputs) -> Batch:
        seen.append(config.experience(batch, step, outputs))
        return seen[-1]

    loop = AutogradInnerLoop(replace(config, experience=noting), theta, tasks)
    _, final, _ = loop.adapt(inner_steps)
    loop.examples(loop.query_set, final)
    *support, query = seen if inner_steps else seen * 2
    axis = len(loop.lead) + 1

    def together(batches: list[Batch]) -> list[Tensor]:
        parts = [torch.stack(part, dim=axis) for part in zip(*batches, strict=True)]
        return parts if loop.lead else [part[None] for part in parts]

    support_x, support_y = together(support)
    query_x, query_y = together([query])
    return Episode(support_x, support_y, query_x, query_y, tasks.classes, tasks.task_index)


def replay(made: Episode) -> Experience:
    """The examples of ``recorded`` tasks, whatever the network is by now."""
    of_x, of_y = made.query_x.ndim - 2, made.query_y.ndim - 2  # dimensions from that of the steps on

    def chosen(batch: Batch, step: int, outputs: Outputs) -> Batch:  # noqa: ARG001 - it made them before
        x, y = batch
        return x.select(x.ndim - of_x, step), y.select(y.ndim - of_y, step)

    return chosen


def _merge(parts: Iterable[Episode]) -> Episode:
    return Episode(*(torch.cat(field) for field in zip(*parts, strict=True)))
