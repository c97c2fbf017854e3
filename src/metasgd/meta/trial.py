"""A network tried on the first task, before a run counts on it."""

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.episode import Episode, as_given
from metasgd.meta.autograd import as_supervised, unused_parameters
from metasgd.meta.frozen_layers import features_of, frozen_layers, passed_over
from metasgd.meta.full_unroll import FullUnroll, Unroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.nn.behaviour import listed, undisturbed, validate_no_mixing
from metasgd.nn.chance import Changing, changing_modules, without_chance
from metasgd.nn.prefix import NoPrefixError, Prefix

MOST = 6
"""Examples of a task that a network is tried on; more where it has more classes."""


@dataclass(frozen=True)
class Trial:
    """What was found.

    Attributes:
        held: the modules that are in evaluation mode while adapting.
        prefix: the layers that neither adapt nor learn.
        lines: what there is to say about it.
    """

    held: Changing
    prefix: Prefix | None
    lines: tuple[str, ...]


def try_on(config: InnerLoopConfig, unroll: Unroll, tasks: Episode, held: Changing, first_order: bool) -> Trial:
    """Run a network on a few examples of the first task. To be called within ``undisturbed``.

    Args:
        config: what adapts.
        unroll: makes the inner runs; in another way after this where the network takes that.
        tasks: a meta-batch, inputs as the network takes them.
        held: what an earlier trial has found, of which nothing is said again.
        first_order: whether the meta-gradient is to be without the Hessian term.

    Raises:
        UserError: the network cannot be meta-trained.
    """
    network, lines = config.network, list[str | None]()
    full, given = isinstance(unroll, FullUnroll), config.experience is as_given
    with undisturbed(network, tasks.support_x.device):
        config, tasks = as_supervised(config, tasks.tasks(0, 1))
    if full and given:
        tasks = few(tasks)
    # a network of known layers has no random ones, and any engine can run it
    known = config.feed_forward is not None
    found = held if known else changing_modules(network, tasks.support_x[0])
    if found.random and found != held:
        lines.append(f"switched off while adapting, being random: {listed(network, found.random)}")
    if found.keeping and found != held:
        lines.append(f"held at their stored statistics while adapting: {listed(network, found.keeping)}")
    prefix = None
    with without_chance(network, found.names):
        if not config.transductive:
            validate_no_mixing(network, tasks.support_x[0], tasks.query_x[0], full)
        if not known:
            if full and given and not config.frozen <= config.agnostic.union(config.rows):
                with suppress(NoPrefixError):
                    prefix = frozen_layers(config, tasks)
            features = features_of(prefix, tasks)
            with passed_over(prefix):
                lines.append(unroll.adjust(config, features, first_order))
                lines.append(unused_parameters(config, features))
    return Trial(found, prefix, tuple(filter(None, lines)))


def few(tasks: Episode) -> Episode:
    """The first task with a few examples of each class."""
    x, y, query_x, query_y = (field[0] for field in tasks[:4])
    shots = max(1, MOST // tasks.n_way)
    support, query = _first_of_each(y, shots), _first_of_each(query_y, shots)
    return tasks.tasks(0, 1)._replace(
        support_x=x[support][None],
        support_y=y[support][None],
        query_x=query_x[query][None],
        query_y=query_y[query][None],
    )


def _first_of_each(y: Tensor, n: int) -> Tensor:
    """Which examples are the first n of their class, ``[X]``; of what are no classes, the first n of all."""
    if y.is_floating_point() or y.ndim > 1:
        return torch.arange(len(y), device=y.device) < n
    return (y[:, None] == y).tril(-1).sum(dim=1) < n
