"""Whether an engine can run a network, found by running it on one small meta-batch."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.errors import UserError, first_line
from metasgd.meta.engines import Engine, Loop
from metasgd.meta.graph import Graph
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, merge_gradients, meta_gradient
from metasgd.meta.second_order import validate_second_order
from metasgd.nn.behaviour import nudged

Result = TypeVar("Result")

CLOSE = 0.05
"""Two meta-gradients are the same if they differ by less than this share: float32 and kinks make some percent."""


def able_engine(
    engine: Engine, config: InnerLoopConfig, tasks: Episode, first_order: bool
) -> tuple[Engine, str | None]:
    """``engine``, or ``Loop`` and the reason, in a line, where the engine cannot run the network or runs it wrongly.

    Of a recorded engine, the one that is recorded.

    Args:
        engine: as chosen.
        config: what adapts.
        tasks: a meta-batch, of which the first task is used.
        first_order: whether the meta-gradient is to be without the Hessian term.

    Raises:
        UserError: no engine can.
    """
    if isinstance(engine, Graph):
        able, reason = able_engine(engine.engine, config, tasks, first_order)
        return (engine if able is engine.engine else engine.over(able)), reason
    tried = tasks.tasks(0, 1) if isinstance(engine, Loop) else pair_of(tasks)
    theta = nudged(config.network)

    def gradient_by(engine: Engine, of: InnerLoopConfig) -> MetaGradient:
        def on(one: InnerLoopConfig, some: Episode) -> MetaGradient:
            return meta_gradient(one, theta, some, 1, first_order)

        return engine.run(on, merge_gradients, of, tried, 1)

    expected = validate_differentiable(lambda: gradient_by(Loop(), config), config, first_order)
    if not first_order:
        validate_second_order(config, tasks)
    if isinstance(engine, Loop):
        return engine, None
    # any error: the very same is done by the loop, which has just shown that the network itself has none
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "There is a performance drop")  # vmap in name alone
            found = gradient_by(engine, replace(config))
    except Exception as error:
        why = first_line(error).partition(". ")[0]
    else:
        if _is_close(found, expected):
            return engine, None
        why = "it gives another gradient than one task after the other"
    name, kind = type(engine).__name__.lower(), type(config.network).__name__
    return Loop(), f"engine: loop in place of {name}, which cannot run {kind} ({why})"


def validate_differentiable(attempt: Callable[[], Result], config: InnerLoopConfig, first_order: bool) -> Result:
    """What ``attempt`` returns.

    Raises:
        UserError: torch has no derivative for what the network does, or the network fails with weights of a task's own.
    """
    try:
        return attempt()
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        said = first_line(error)
        kind = type(config.network).__name__
        twice = "is not implemented" in said or "twice" in said
        if twice and not first_order:
            raise UserError(
                f"{kind} has an operation without a second derivative, which the exact meta-gradient needs ({said})."
                " Write that operation out in others, or set first_order to true"
            ) from error
        raise UserError(
            f"{kind} cannot be adapted to a task: {said}. Its forward must be differentiable in its parameters"
        ) from error


def pair_of(tasks: Episode) -> Episode:
    """Two tasks: the first of ``tasks``, and the same with its examples in the other order."""
    first = tasks.tasks(0, 1)
    reversed_order = first._replace(
        support_x=first.support_x.flip(1),
        support_y=first.support_y.flip(1),
        query_x=first.query_x.flip(1),
        query_y=first.query_y.flip(1),
    )
    return Episode(*(torch.cat(pair) for pair in zip(first, reversed_order, strict=True)))


def _is_close(found: MetaGradient, expected: MetaGradient) -> bool:
    """Where the expected gradient is not finite, nothing can be said."""
    ours, theirs = _flat(found), _flat(expected)
    if not theirs.isfinite().all():
        return True
    return bool((ours - theirs).norm() <= CLOSE * theirs.norm())


def _flat(gradient: MetaGradient) -> Tensor:
    parts = [*gradient.theta.values(), *gradient.phi.values(), gradient.query_losses]
    return torch.cat([part.detach().double().flatten() for part in parts])
