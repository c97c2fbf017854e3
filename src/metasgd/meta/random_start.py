"""Where a long inner run starts: random weights, drawn by the network's own modules."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from metasgd.errors import UserError, raise_problems
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.nn.calling import network_copy
from metasgd.nn.heads import ClassAgnosticHead
from metasgd.nn.networks import BatchNorm2d, class_agnostic_names, uses_batch_statistics
from metasgd.rules.base import Params, State

RUN_SEED = 0x52554E
"""Keeps the random weights of runs apart from other uses of a task's number."""


@dataclass
class Run:
    """Where a run stands: its task, the inner steps taken, and the weights and memory they led to."""

    task_index: int
    step: int
    params: Params
    state: State


def new_run(config: InnerLoopConfig, n_way: int, task_index: int) -> Run:
    """A run from random weights, which are a function of the task's number and the network's own initialisation."""
    network = network_copy(config.network, share=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RUN_SEED + task_index)
        initialise_again(network)
    agnostic = class_agnostic_names(network)
    params = {
        n: p.detach().expand(n_way, *p.shape[1:]) if n in agnostic else p.detach()
        for n, p in network.named_parameters()
        if n in config.adapted
    }
    return Run(task_index, 0, params, config.rule.init_state(params))


def validate_initialisable(network: nn.Module) -> None:
    """Refuse a network that cannot start from other random weights.

    Raises:
        UserError: as ``initialise_again``.
    """
    with torch.random.fork_rng(devices=[]):
        initialise_again(network_copy(network, share=False))


@torch.no_grad()
def initialise_again(network: nn.Module) -> None:
    """Draw all the weights anew, each by its module's own ``reset_parameters``; but not those that are frozen.

    Raises:
        UserError: a module has a parameter that nothing draws.
    """
    frozen = [(p, p.clone()) for p in network.parameters() if not p.requires_grad]
    for p in network.parameters():
        p.fill_(math.nan)  # by which what nothing has drawn is known
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    for module in reversed(list(network.modules())):  # the outer ones have the last word, as when they are built
        if callable(reset := getattr(module, "_reset_parameters", None)):  # torch's attention and Transformer
            reset()
        elif isinstance(module, ClassAgnosticHead):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for p, value in frozen:
        p.copy_(value)
    raise_problems(
        [
            f"segments is above 1, for which every run starts from random weights, but the network draws no"
            f" {p} of {name or 'the network'} ({type(module).__name__}) anew: give that module a method"
            " reset_parameters, which draws all its parameters"
            for name, module in network.named_modules()
            for p, value in module.named_parameters(recurse=False)
            if value.isnan().any()
        ]
    )


def validate_long_runs(network: nn.Module, segments: int, adapts: str | list[str], transductive: bool) -> None:
    """Raise a ``UserError`` for a network or settings that inner runs of several segments cannot be made with."""
    if adapts != "all":
        raise UserError(
            f"segments is {segments}, but adapts is {adapts}: long runs train all of a network from random weights."
            " Set adapts to all"
        )
    if not transductive and uses_batch_statistics(network):
        raise UserError(
            f"segments is {segments} and transductive is false, but in long runs BatchNorm normalises the query set by"
            " its own statistics. Set transductive to true"
        )
    validate_initialisable(network)
