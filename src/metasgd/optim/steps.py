"""The step of each kind of rule, in place, over the tensors of a group at a time.

An update is what ``lr · η m`` takes from a tensor. Its norm is cut to ``max_update · max(‖θ‖, c √n)``, c the scale that
its weights start with and n their number, so that no step can change a tensor by more than a share of it. Decoupled
weight decay, as AdamW has it: ``θ ← θ − lr · η λ θ`` beside the update, with the rate η of that tensor.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metasgd.errors import UserError
from metasgd.optim.gradients import Entry, norms_of, stacked
from metasgd.optim.in_place import step_in_place, with_momentum
from metasgd.optim.tensor_list import RowsOfTensors
from metasgd.rules.base import M, State, UpdateRule
from metasgd.rules.scaled_network import DECAY, RELATIVE_SMALLEST, scale_of

BUFFER = "momentum_buffer"
"""The key of a parameter's momentum in ``state``, as ``torch.optim.SGD`` has it."""
NORM = "momentum_norm"
"""The key of an upper bound of its norm."""
V = "square_average"
"""The key of a parameter's mean square gradient."""
Figures = Mapping[str, Tensor] | Mapping[str, float]


def step_by_figures(
    entries: list[Entry],
    norms: list[float],
    rates: Figures,
    momenta: Figures | None,
    decay_rates: Figures | None = None,
) -> None:
    """``m ← μ m + g,  θ ← θ − lr · η (m + λ θ)`` with the rule's η and μ, over the entries of one group.

    Args:
        entries: of one group.
        norms: of their gradients.
        rates: η by name; of a tensor's shape or a figure for the whole of it.
        momenta: μ by name; none for a rule without momentum.
        decay_rates: the rates of the weight decay where they are others than η.
    """
    group = entries[0].group
    lr, own = float(group["lr"]), group["momentum"]
    etas = [rates[e.name] for e in entries]
    mus: list[Tensor | float] | None = [momenta[e.name] for e in entries] if momenta is not None else None
    if own is not None:
        mus = [float(own)] * len(entries)
    decays = etas if decay_rates is None else [decay_rates[e.name] for e in entries]
    decay(entries, decays, lr * float(group["weight_decay"]))
    if math.isfinite(group["max_update"]):
        if any(isinstance(eta, Tensor) and eta.ndim for eta in etas):
            _step_of_shaped_rates(entries, etas, mus, lr)
            return
        if _step_within_limit(entries, norms, etas, mus, lr):
            return
    elif mus is not None:
        for e in entries:
            e.state.pop(NORM, None)  # it is not followed
    thetas, grads = [e.theta for e in entries], [e.grad for e in entries]
    step_in_place(thetas, grads, None if mus is None else [e.buffer(BUFFER) for e in entries], etas, mus, lr)


def _step_within_limit(
    entries: list[Entry],
    norms: list[float],
    etas: Sequence[Tensor | float],
    mus: list[Tensor | float] | None,
    lr: float,
) -> bool:
    """Make the step if an update may be too large; whether it was made.

    The norm of m is at most ``μ ‖m‖ + ‖g‖``: where that is within the limit, nothing has to be measured.
    """
    limits = [e.group["max_update"] * floor_of(e) for e in entries]
    bounds = list(norms)
    if mus is not None:
        bounds = [
            float(mu) * (e.state[NORM] if NORM in e.state else norms_of([e.buffer(BUFFER)])[0]) + norm
            for e, mu, norm in zip(entries, mus, norms, strict=True)
        ]
        for e, bound in zip(entries, bounds, strict=True):
            e.state[NORM] = bound
    sizes = [lr * abs(float(eta)) for eta in etas]
    if all(size * bound <= limit for size, bound, limit in zip(sizes, bounds, limits, strict=True)):
        return False
    moves = _moves(entries, None if mus is None else [float(mu) for mu in mus])
    lengths, of_theta = norms_of(moves), norms_of([e.theta for e in entries])
    for i, e in enumerate(entries):
        limit = max(limits[i], e.group["max_update"] * of_theta[i])
        factor = min(1.0, limit / (sizes[i] * lengths[i])) if sizes[i] * lengths[i] > 0 else 1.0
        if mus is not None:  # what was cut is gone: one large gradient is not walked after for many steps
            if factor < 1:
                moves[i].mul_(factor)
            e.state[NORM] = factor * lengths[i]
            factor = 1.0
        e.theta.add_(moves[i], alpha=-lr * float(etas[i]) * factor)
    return True


def _step_of_shaped_rates(
    entries: list[Entry], etas: Sequence[Tensor | float], mus: list[Tensor | float] | None, lr: float
) -> None:
    updates = [lr * eta * move for eta, move in zip(etas, _moves(entries, mus), strict=True)]
    torch._foreach_mul_(updates, limit_factors(entries, updates))
    torch._foreach_sub_([e.theta for e in entries], updates)


def _moves(entries: list[Entry], mus: list[Tensor | float] | None) -> list[Tensor]:
    buffers = None if mus is None else [e.buffer(BUFFER) for e in entries]
    return with_momentum([e.grad for e in entries], buffers, mus)


def step_scale_free(
    entries: list[Entry],
    tensors: RowsOfTensors,
    gradient_square: float,
    rates: Mapping[str, float],
    momenta: Mapping[str, float],
) -> None:
    """The step of a scale-free ``ScaledOptimizerNetwork``, as its equation has it, over entries of one group.

    Args:
        entries: of one group, type and device.
        tensors: of these.
        gradient_square: G².
        rates: η by name.
        momenta: μ by name.
    """
    group = entries[0].group
    lr, own = float(group["lr"]), group["momentum"]
    thetas, grads = [e.theta for e in entries], [e.grad for e in entries]
    m, v = [e.buffer(BUFFER) for e in entries], [e.buffer(V) for e in entries]
    scaled = [rates[e.name] * c for e, c in zip(entries, tensors.scales, strict=True)]
    decay(entries, scaled, lr * float(group["weight_decay"]))
    tensors.take_in(grads, 1 - DECAY)
    torch._foreach_mul_(v, tensors.keep)
    torch._foreach_addcmul_(v, grads, grads, value=1 - DECAY)  # where a row has no gradient this adds nothing
    with_momentum(grads, m, float(own) if own is not None else [momenta[e.name] for e in entries])

    # as long as there has been no gradient m and v are 0, of which the root's inverse must be a number
    smallest = max(RELATIVE_SMALLEST**2 * gradient_square, torch.finfo(thetas[0].dtype).tiny)
    updates = list(torch._foreach_addcdiv([thetas[0].new_tensor(smallest)] * len(v), v, tensors.seen))
    torch._foreach_rsqrt_(updates)
    torch._foreach_mul_(updates, m)
    etas = [lr * rate for rate in scaled]
    if math.isfinite(group["max_update"]):
        limited, _ = tensors.limited(etas, updates, thetas, group["max_update"])
        torch._foreach_addcmul_(thetas, updates, limited, value=-1)
    else:
        torch._foreach_mul_(updates, etas)
        torch._foreach_sub_(thetas, updates)


def step_whole(rule: UpdateRule, step: int, entries: list[Entry], loss: Tensor, memory: State) -> State:
    """The step of a rule with a ``forward`` of its own, which may be anything; its memory afterwards."""
    for e in entries:
        if e.group["momentum"] is not None or e.group["weight_decay"]:
            raise UserError(
                f"{type(rule).__name__} has a step of its own: momentum and weight_decay cannot be set for it; leave"
                " momentum at None and weight_decay at 0"
            )
    params, grads = {e.name: e.theta.detach() for e in entries}, {e.name: e.grad for e in entries}
    state = rule.init_state({e.name: e.theta for e in entries if BUFFER not in e.state})
    state |= memory | {M + e.name: e.state[BUFFER] for e in entries if BUFFER in e.state}
    moved, state = rule(step, params, grads, loss, state)
    for e in entries:
        lr, to = float(e.group["lr"]), moved[e.name]
        if math.isfinite(e.group["max_update"]):
            update = e.theta - to
            to = e.theta - update * limit_factors([e], [lr * update])[0]
        e.theta.lerp_(to, lr) if lr != 1 else e.theta.copy_(to)
        if M + e.name in state:
            e.state[BUFFER] = state[M + e.name]
    return {k: t for k, t in state.items() if not k.startswith(M)}


def decay(entries: list[Entry], etas: Sequence[Tensor | float], factor: float) -> None:
    """``θ ← θ − factor · |η| θ``."""
    if not factor:
        return
    thetas, factors = [], []
    for e, eta in zip(entries, etas, strict=True):
        if isinstance(eta, Tensor) and eta.ndim:
            e.theta.addcmul_(e.theta, eta.abs().to(e.theta.dtype), value=-factor)
        else:
            thetas.append(e.theta)
            factors.append(1 - factor * abs(float(eta)))
    if thetas:
        torch._foreach_mul_(thetas, factors)


def floor_of(e: Entry) -> float:
    """``c √n``: the norm that a tensor's weights start with, in size."""
    return scale_of(e.shape) * math.sqrt(e.theta.numel())


def limit_factors(entries: list[Entry], updates: list[Tensor]) -> Any:
    """What each update is to be multiplied by to be within its limit; stays on the device."""
    lengths, of_theta = stacked(torch._foreach_norm(updates)), stacked(torch._foreach_norm([e.theta for e in entries]))
    floors = lengths.new_tensor([floor_of(e) for e in entries])
    most = lengths.new_tensor([e.group["max_update"] for e in entries])
    factors = (most * torch.maximum(of_theta, floors) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_max(1)
    return [f.to(u.device, u.real.dtype) for f, u in zip(factors.unbind(), updates, strict=True)]
