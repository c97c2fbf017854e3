"""Layers that neither adapt nor learn: a task's examples pass them once, and not at every inner step."""

from contextlib import AbstractContextManager, nullcontext

import torch

from metasgd.episode import Episode
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.nn.prefix import Prefix

AT_ONCE = 2**24
"""Bytes of examples that pass them together: 27 colour pictures of 224×224."""


def frozen_layers(config: InnerLoopConfig, tasks: Episode) -> Prefix:
    """The layers before all that adapts or learns, where each example passes them by itself.

    Args:
        config: what adapts, and what learns.
        tasks: inputs as the network takes them, of which the first task is used.

    Raises:
        NoPrefixError: there are none.
    """
    live = frozenset(config.theta).difference(config.frozen).union(config.rows, config.agnostic)
    return Prefix(config.network, live, torch.cat([tasks.support_x[0], tasks.query_x[0]]))


def features_of(prefix: Prefix | None, tasks: Episode) -> Episode:
    """The tasks with what ``prefix`` makes of their examples in place of these.

    A task's examples pass it by themselves, so that the bits do not depend on how tasks are distributed.
    """
    if prefix is None:
        return tasks
    one = tasks.support_x[0, 0]
    at_once = max(1, AT_ONCE // (one.numel() * one.element_size()))
    both = torch.cat([tasks.support_x, tasks.query_x], dim=1)
    found = torch.stack([prefix.features(x, at_once) for x in both])
    support_x, query_x = found.tensor_split([tasks.support_x.shape[1]], dim=1)
    return tasks._replace(support_x=support_x, query_x=query_x)


def passed_over(prefix: Prefix | None) -> AbstractContextManager[None]:
    """Within, the network takes what ``prefix`` makes of examples; None changes nothing."""
    return nullcontext() if prefix is None else prefix.passed_over()
