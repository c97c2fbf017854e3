"""What a network does that its layers' names do not tell, found by running it on a small batch.

It is run at weights a little off its own, so that no branch is closed by a weight of zero.
"""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from metasgd.errors import UserError, some_of
from metasgd.nn.calling import call, hooked
from metasgd.nn.networks import statistics_from_first

Params = dict[str, Tensor]

NUDGE_SEED = 0x4E55
ALIKE = 1e-3
"""Two results are the same if they differ by less than this share of the largest."""


@contextmanager
def undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Within, the network may be run at will: its buffers, its mode and all random numbers are as before afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one, which networks use
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)  # noqa: NPY002
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                buffer.copy_(value)
                module._buffers[name] = buffer


@torch.no_grad()
def validate_no_mixing(network: nn.Module, support_x: Tensor, query_x: Tensor, by_support: bool) -> None:
    """Refuse a network in which a query's output depends on the other queries.

    Args:
        network: f.
        support_x: a task's support inputs, ``[X, …]``.
        query_x: its query inputs.
        by_support: batches are normalised by the support set's statistics, where the layers can do that.

    Raises:
        UserError: names the modules in which it happens.
    """
    params = nudged(network)
    others = query_x[1:] if len(query_x) > 1 else support_x[:1]
    changed = 1 - 3 * others if others.is_floating_point() else query_x[:1].expand_as(others)
    at = len(support_x) if by_support else 0
    outputs, seen = [], []
    for rest in (others, changed):
        with _watched(network, at) as passed:
            if by_support:
                with statistics_from_first(network, at):
                    outputs.append(call(network, params, torch.cat([support_x, query_x[:1], rest]))[at])
            else:
                outputs.append(call(network, params, torch.cat([query_x[:1], rest]))[0])
        seen.append(passed)
    if alike(*outputs):
        return
    first, second = seen
    mixing = [
        n for n in first if n in second and alike(first[n][0], second[n][0]) and not alike(first[n][1], second[n][1])
    ]
    where = f" in {listed(network, mixing[:1])}" if mixing else ""
    raise UserError(
        f"transductive is false, but {type(network).__name__} mixes the examples of a batch{where}: the output of a"
        " query changes with the other queries. Use metasgd.nn.BatchNorm2d or a normalisation within each example"
        " (LayerNorm, GroupNorm), or set transductive to true"
    )


def nudged(network: nn.Module) -> Params:
    """The network's parameters by name, each moved a little at random, the same way every time."""
    generator = torch.Generator().manual_seed(NUDGE_SEED)
    found = {}
    for name, p in network.named_parameters():
        moved = p.detach().clone()
        if moved.is_floating_point() and moved.numel():
            noise = torch.randn(p.shape, generator=generator).to(moved)
            moved += 0.1 * (moved.abs().mean() + 0.1) * noise
        found[name] = moved
    return found


def alike(a: Tensor, b: Tensor) -> bool:
    """Whether two results are the same up to the rounding of their dtype."""
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    scale = torch.cat([a.flatten(), b.flatten()]).nan_to_num(0, 0, 0).abs().max() if a.numel() else 0
    return torch.allclose(a, b, rtol=0, atol=float(ALIKE * scale), equal_nan=True)


def listed(network: nn.Module, names: Iterable[str]) -> str:
    """Modules by their kind: ``Dropout (drop, layers.0.drop and 4 more), LSTM (rnn)``."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(type(network.get_submodule(name)).__name__, []).append(name or "the network itself")
    return ", ".join(f"{kind} ({some_of(own, 3)})" for kind, own in kinds.items())


@contextmanager
def _watched(network: nn.Module, at: int) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What each module was given and made of the example number ``at``, by name, the inner modules first."""
    passed: dict[str, tuple[Tensor, Tensor]] = {}

    def look(name: str, x: object, y: object) -> None:
        if isinstance(x, Tensor) and isinstance(y, Tensor) and min(x.ndim, y.ndim) and min(len(x), len(y)) > at:
            passed.setdefault(name, (x[at].clone(), y[at].clone()))

    hooks = (
        module.register_forward_hook(lambda _, given, y, name=name: look(name, given[0] if given else None, y))
        for name, module in network.named_modules()
    )
    with hooked(hooks):
        yield passed
