"""Whether the second derivatives of a network are right, which torch does not always say where they are not."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.nn.behaviour import nudged
from metasgd.rules.base import Params

STEPS = (1e-8, 1e-9, 1e-10)
"""Of difference quotients in float64: so short that hardly any ReLU switches on the way, of deep networks the last."""
SAME = 1e-3


def validate_second_order(config: InnerLoopConfig, tasks: Episode) -> None:
    """Refuse a network whose Hessian-vector product is not how its gradient changes.

    Both are taken in float64, where that can be had: ``H d`` by autograd, and
    ``(∇L(θ + ε d) − ∇L(θ − ε d)) / 2ε``. Operations that are differentiated once only, or whose second derivative
    torch has wrong, would otherwise give a wrong meta-gradient without a word.

    Args:
        config: what adapts.
        tasks: a meta-batch, of which the first task's support set is used.

    Raises:
        UserError: they differ in two directions, however short the step.
    """
    task = Episode(*(f.double() if f.is_floating_point() else f for f in tasks.tasks(0, 1)))
    theta = {n: p.double() if p.is_floating_point() else p for n, p in nudged(config.network).items()}
    try:
        with _double_buffers(config.network):
            stack = AutogradInnerLoop(config, theta, task)
            wrong = all(_is_wrong(stack, seed) for seed in (1, 2))
    except (RuntimeError, TypeError):
        return  # it cannot be run in float64
    if wrong:
        raise UserError(
            f"{type(config.network).__name__} has an operation whose second derivative, which the exact meta-gradient"
            " needs, is wrong: its gradient changes otherwise than autograd says. It may be a torch.autograd.Function"
            " that is differentiable once only. Write it out in other operations, or set first_order to true"
        )


def _is_wrong(stack: AutogradInnerLoop, seed: int) -> bool:
    """Whether the product with one direction is not how the gradient changes, by quotients of every step."""
    generator = torch.Generator().manual_seed(seed)
    start = stack.start
    way = {n: (p.abs().mean() + 0.1) * torch.randn(p.shape, generator=generator).to(p) for n, p in start.items()}
    _, grads, tape = stack.support(start, keep=True)
    found = stack.vjp(start, tape, way, None)
    expected_slope = float(_flat(grads, start) @ _flat(way, start))
    size = float(_flat(grads, start).norm())
    for step in STEPS:
        (loss_after, after), (loss_before, before) = (
            stack.support({n: p + sign * step * way[n] for n, p in start.items()}, keep=False)[:2] for sign in (1, -1)
        )
        slope = float((loss_after - loss_before) / (2 * step))
        if not abs(slope - expected_slope) <= SAME * (abs(expected_slope) + size):
            return False  # a quotient says nothing: something within is not in float64, or not smooth
        change = (_flat(after, start) - _flat(before, start)) / (2 * step)
        difference = (_flat(found, start) - change).norm()
        if not difference > SAME * change.norm() + 1e-5 * size:
            return False
    return True


def _flat(tensors: Params, like: Params) -> Tensor:
    return torch.cat([tensors[n].flatten() if n in tensors else torch.zeros_like(p).flatten() for n, p in like.items()])


@contextmanager
def _double_buffers(network: nn.Module) -> Iterator[None]:
    own = [
        (module, name, buffer)
        for module in network.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.is_floating_point()
    ]
    for module, name, buffer in own:
        module._buffers[name] = buffer.double()
    try:
        yield
    finally:
        for module, name, buffer in own:
            module._buffers[name] = buffer
