"""The step of ``ScheduledAdam`` in place, over the tensors of a group at a time; as its equation has it."""

import math
from typing import Any

import torch
from torch import Tensor

from metasgd.optim.gradients import Entry, stacked
from metasgd.optim.steps import BUFFER, V, decay, limit_factors
from metasgd.optim.tensor_list import W
from metasgd.rules.base import State, beside
from metasgd.rules.loss_history import KEYS
from metasgd.rules.scaled_network import RELATIVE_SMALLEST, has_gradient
from metasgd.rules.scheduled_adam import FORGETTING, ScheduledAdam, Statistics

SEEN = "momentum_seen"
"""The key of how much of a parameter's momentum has been seen, a number."""
UPDATE = "update_square"
"""The key of the mean square of its last update, a number."""


def step_scheduled(
    rule: ScheduledAdam, step: int, groups: list[list[Entry]], norms: list[list[float]], loss: Tensor, memory: State
) -> State:
    """Make step s; the rule's memory afterwards.

    Args:
        rule: where the loss is.
        step: s.
        groups: the parameters that have a gradient, group by group.
        norms: of these gradients.
        loss: L_s.
        memory: the history of the losses.
    """
    some = [[i for i, e in enumerate(entries) if e.theta.numel()] for entries in groups]  # a mean of nothing is none
    groups = [[entries[i] for i in held] for entries, held in zip(groups, some, strict=True)]
    norms = [[of_group[i] for i in held] for of_group, held in zip(norms, some, strict=True)]
    every = [e for entries in groups for e in entries]
    if not every:
        return memory
    averages = _square_averages(every)
    sizes = [e.theta.numel() for e in every]
    grads, m = [e.grad for e in every], [e.buffer(BUFFER) for e in every]
    product = [t.sum() for t in torch._foreach_mul(grads, m)]
    lengths = torch._foreach_norm([e.theta for e in every]), torch._foreach_norm(m)
    weights, momentum, inner, mean = (
        [*map(float, stacked(part).tolist())] for part in (*lengths, product, [t.mean() for t in averages])
    )
    gradient = [norm for of_group in norms for norm in of_group]

    def of(figures: list[float]) -> Tensor:
        return torch.tensor(figures, dtype=loss.dtype, device=loss.device)

    statistics = Statistics(
        weights=of([x * x / n for x, n in zip(weights, sizes, strict=True)]),
        gradient=of([x * x / n for x, n in zip(gradient, sizes, strict=True)]),
        momentum=of([x * x / n for x, n in zip(momentum, sizes, strict=True)]),
        product=of([x / n for x, n in zip(inner, sizes, strict=True)]),
        average=of(mean),
        seen=of([e.state.get(SEEN, 0.0) for e in every]),
        update=of([e.state.get(UPDATE, 0.0) for e in every]),
    )
    shapes = {e.name: e.shape for e in every}
    history = {key: memory[key] for key in KEYS}
    answer, left = rule.answer(step, shapes, loss, history, statistics)
    roots = torch._foreach_add(averages, [RELATIVE_SMALLEST**2 * x for x in mean])
    torch._foreach_sqrt_(roots)
    first = 0
    for entries in filter(None, groups):
        of_group = slice(first, first := first + len(entries))
        rates, momenta = (answer.rates * answer.scale)[of_group].tolist(), answer.momenta[of_group].tolist()
        _step(entries, rates, momenta, list(roots[of_group]))
    return left | {"learning_rate": answer.rates, "momentum": answer.momenta}


def _square_averages(entries: list[Entry]) -> list[Tensor]:
    """v̂ of each tensor, with this step's gradient in v."""
    grads = [e.grad for e in entries]
    v, w = [e.buffer(V) for e in entries], [e.buffer(W, rows=True) for e in entries]
    shares: Any = [has_gradient(g) for g in grads]
    torch._foreach_mul_(shares, FORGETTING)
    keep = torch._foreach_neg(shares)
    torch._foreach_add_(keep, 1.0)
    torch._foreach_mul_(v, [beside(k, g) for k, g in zip(keep, grads, strict=True)])
    torch._foreach_addcmul_(v, grads, grads, value=FORGETTING)  # where a row has no gradient this adds nothing
    torch._foreach_mul_(w, keep)
    torch._foreach_add_(w, shares)
    seen = [beside(t.clamp_min(FORGETTING), g) for t, g in zip(w, grads, strict=True)]
    return list(torch._foreach_div(v, seen))


def _step(entries: list[Entry], rates: list[float], momenta: list[float], roots: list[Tensor]) -> None:
    """``m ← μ m + g,  θ ← θ − lr · η c m̂ / root`` within the limit, with decoupled weight decay.

    Args:
        entries: of one group.
        rates: η c.
        momenta: μ.
        roots: ``√(v̂ + ε²)``, which are overwritten.
    """
    group = entries[0].group
    lr, own = float(group["lr"]), group["momentum"]
    if own is not None:
        momenta = [float(own)] * len(entries)
    decay(entries, rates, lr * float(group["weight_decay"]))
    m = [e.buffer(BUFFER) for e in entries]
    torch._foreach_mul_(m, momenta)
    torch._foreach_add_(m, [e.grad for e in entries])
    for e, mu in zip(entries, momenta, strict=True):
        e.state[SEEN] = mu * e.state.get(SEEN, 0.0) + 1
    # where no gradient has ever been, m and the root are 0
    updates = [torch.where(root > 0, t / root, 0.0) for t, root in zip(m, roots, strict=True)]
    torch._foreach_mul_(updates, [lr * rate / e.state[SEEN] for rate, e in zip(rates, entries, strict=True)])
    if math.isfinite(group["max_update"]):
        torch._foreach_mul_(updates, limit_factors(entries, updates))
    torch._foreach_sub_([e.theta for e in entries], updates)
    for e, length in zip(entries, stacked(torch._foreach_norm(updates)).tolist(), strict=True):
        e.state[UPDATE] = length**2 / e.theta.numel()
