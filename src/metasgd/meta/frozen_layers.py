"""Layers that neither adapt nor learn: a task's examples pass them once, and not at every inner step."""

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def passed(prefix: Prefix | None, tasks: Episode) -> Iterator[Episode]:
    """The tasks as the network takes them within: what ``prefix`` makes of their examples, or these themselves.

    A task's examples pass it by themselves, so that the bits do not depend on how tasks are distributed.
    """
    if prefix is None:
        yield tasks
        return
    size = tasks.query_x[0, :1].numel() or tasks.support_x[0, :1].numel()
    at_once = max(1, AT_ONCE // (size * tasks.query_x.element_size()))
    found = []
    for support_x, query_x in zip(tasks.support_x, tasks.query_x, strict=True):
        found.append(prefix.features(torch.cat([support_x, query_x]), at_once))
    support_x, query_x = torch.stack(found).tensor_split([tasks.support_x.shape[1]], dim=1)
    with prefix.passed_over():
        yield tasks._replace(support_x=support_x, query_x=query_x)
