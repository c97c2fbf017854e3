"""``m ← μ m + g,  θ ← θ − lr · η m`` in place, over many tensors at a time."""

import sys

import torch
from torch import Tensor
from torch.optim.sgd import sgd

Figures = list[Tensor | float]
"""One for each tensor: a number, or a tensor of no dimension or of its shape."""


def step_in_place(
    params: list[Tensor],
    grads: list[Tensor],
    buffers: list[Tensor] | None,
    rates: Figures,
    momenta: Figures | None,
    lr: float,
) -> None:
    """Move every θ, and its momentum if there is one.

    Args:
        params: θ.
        grads: g.
        buffers: m; none for a step without momentum, where m is g.
        rates: η; where the rate of all is one and the same object, a single pass over the memory serves.
        momenta: μ, likewise.
        lr: a factor on all the rates.
    """
    if _all_one(rates) and (momenta is None or _all_one(momenta)):
        channels_last = [p.ndim == 4 and not p.is_contiguous() for p in params]
        params, grads = _viewed(params, channels_last), _viewed(grads, channels_last)
        buffers = None if buffers is None else _viewed(buffers, channels_last)
        sgd(
            params,
            grads,
            [None] * len(params) if buffers is None else [*buffers],
            fused=_can_be_fused(params, grads, params if buffers is None else buffers),
            foreach=False,
            lr=lr * float(rates[0]),
            # at a momentum of exactly 0 it would leave the buffers as they were
            momentum=0.0 if momenta is None else max(float(momenta[0]), sys.float_info.min),
            weight_decay=0.0,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        return
    moves = with_momentum(grads, buffers, momenta)
    if all(_is_one(rate) for rate in rates):
        for p, move, rate in zip(params, moves, rates, strict=True):
            p.add_(move, alpha=-lr * float(rate))
    else:
        torch._foreach_addcmul_(params, moves, rates, value=-lr)  # type: ignore[arg-type] # numbers are each one


def with_momentum(grads: list[Tensor], buffers: list[Tensor] | None, momenta: Figures | float | None) -> list[Tensor]:
    """``m ← μ m + g`` in place, and m; g where there is no momentum."""
    if buffers is None:
        return grads
    torch._foreach_mul_(buffers, momenta)  # type: ignore[arg-type] # either is taken
    torch._foreach_add_(buffers, grads)
    return buffers


def _viewed(tensors: list[Tensor], channels_last: list[bool]) -> list[Tensor]:
    """Those that lie with their channels last, as views that name them last."""
    return [t.permute(0, 2, 3, 1) if last else t for t, last in zip(tensors, channels_last, strict=True)]


def _can_be_fused(*lists: list[Tensor]) -> bool:
    """Whether torch's fused step is right for them: it takes the elements in the order in which they lie in memory."""
    return all(
        first.is_floating_point()
        and (first.is_cpu or first.is_cuda)
        and all(t.is_contiguous() for t in (first, *others))
        for first, *others in zip(*lists, strict=True)
    )


def _is_one(figure: Tensor | float) -> bool:
    """Whether it is one figure, for the whole of a tensor."""
    return not isinstance(figure, Tensor) or figure.ndim == 0


def _all_one(figures: Figures) -> bool:
    """Whether all are one and the same figure."""
    first = figures[0]
    return _is_one(first) and all(figure is first for figure in figures)
