"""How much memory a stacked task needs, so that a stack can be made to fit."""

import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.meta.autograd import as_supervised
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.nn.calling import call, hooked

MANY = 1_000_000
"""Learned numbers of a rule, from which on their memory is said."""


def large_rule(rule: nn.Module) -> str | None:
    """What a rule takes that learns very many numbers, in a line; None for others."""
    learned = sum(p.numel() for p in rule.parameters())
    if learned < MANY:
        return None
    return (
        f"{type(rule).__name__} learns {learned:,} numbers beside the network's: with their gradients and Adam's"
        f" moments {16 * learned / 2**20:,.0f} MiB. PerBlock learns one for each block"
    )


def bytes_of_a_task(config: InnerLoopConfig, tasks: Episode, inner_steps: int) -> int:
    """What a task adds to a stack's meta-gradient at its peak, at most: an estimate from sizes.

    Every inner step keeps θ, m and g, and its activations with what their derivatives keep; in the reverse pass
    there are λ, ω, the gradients and their sums; the query set's activations and their gradients come on top.

    Args:
        config: what adapts.
        tasks: of the size in question.
        inner_steps: S.
    """
    config, tasks = as_supervised(config, tasks.tasks(0, 1))
    n_support, n_query = tasks.support_x.shape[1], tasks.query_x.shape[1]
    weights = sum(p.numel() for p in config.network.parameters())
    activations = _activations(config.network, tasks.support_x[0], with_windows=config.feed_forward is not None)
    step = 3 * weights + 2 * activations
    last = 2 * activations * max(n_query, n_support) // n_support  # of the query pass, or the Hessian-vector product
    return tasks.query_x.element_size() * (inner_steps * step + 6 * weights + last)


def _activations(network: nn.Module, x: Tensor, with_windows: bool) -> int:
    """The numbers that all the layers put out for these inputs, and the windows that stacked convolutions read."""
    counted = []

    def count(layer: nn.Module, given: object, output: object) -> None:  # noqa: ARG001
        if isinstance(output, Tensor):
            counted.append(output.numel())
        if with_windows and isinstance(output, Tensor) and isinstance(layer, nn.Conv2d):  # a window of each place
            counted.append(output.numel() // layer.out_channels * layer.weight[0].numel())

    hooks = (layer.register_forward_hook(count) for layer in network.modules() if not list(layer.children()))
    # what chance a layer takes here is not missed later
    with hooked(hooks), torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        call(network, {}, x)
    return sum(counted)
