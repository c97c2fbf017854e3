"""The step of ``ScheduledAdam`` in place, over the tensors of a group at a time; as its equation has it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasgd.optim.gradients import Entry
from metasgd.optim.in_place import with_momentum
from metasgd.optim.steps import BUFFER, V, decay
from metasgd.optim.tensor_list import TensorList, tensor_lists
from metasgd.rules.scaled_network import RELATIVE_SMALLEST
from metasgd.rules.scheduled_adam import FORGETTING
from metasgd.rules.scheduled_answers import Memory, ScheduledAnswers, Statistics

SEEN = "momentum_seen"
"""The key of how much of a parameter's momentum has been seen, a number."""
UPDATE = "update_square"
"""The key of the mean square of its last update, a number."""


def step_scheduled(
    answers: ScheduledAnswers,
    step: int,
    groups: list[list[Entry]],
    norms: list[list[float]],
    loss: float,
    memory: Memory,
    lists: dict[Any, TensorList],
) -> Memory:
    """Make step s; the rule's memory afterwards.

    Args:
        answers: of the rule.
        step: s.
        groups: the parameters that have a gradient, group by group.
        norms: of these gradients.
        loss: L_s.
        memory: the history of the losses.
        lists: what the tensors that step together have in common; it is brought up to date.
    """
    lengths = {id(e): norm for part in zip(groups, norms, strict=True) for e, norm in zip(*part, strict=True)}
    parts: list[tuple[list[Entry], TensorList]] = []
    for i, entries in enumerate(groups):
        some = [e for e in entries if e.theta.numel()]  # a mean of nothing is none
        parts += tensor_lists(some, lists, i)
    if not parts:
        return memory
    every = [e for entries, _ in parts for e in entries]
    sizes = np.array([e.theta.numel() for e in every], dtype=float)
    averages = [_square_averages(entries, tensors) for entries, tensors in parts]
    read = [_figures(*part, of_part) for part, of_part in zip(parts, averages, strict=True)]
    weights, momentum, inner, square = ([x for of_part in read for x in of_part[i]] for i in range(4))

    seen, updated = ([e.state.get(key, 0.0) for e in every] for key in (SEEN, UPDATE))
    of = Statistics(
        weights=np.square(weights) / sizes,
        gradient=np.square([lengths[id(e)] for e in every]) / sizes,
        momentum=np.square(momentum) / sizes,
        product=np.array(inner) / sizes,
        average=np.array(square) / sizes,
        seen=np.array(seen),
        update=np.array(updated),
    )
    answer = answers(step, {e.name: e.shape for e in every}, loss, memory, of)
    rates, momenta = (answer.rates * answer.scale).tolist(), answer.momenta.tolist()
    smallest = np.where(of.average > 0, RELATIVE_SMALLEST**2 * of.average, 1.0).tolist()
    first = 0
    for (entries, tensors), roots in zip(parts, averages, strict=True):
        of_part = slice(first, first := first + len(entries))
        # where there has been no gradient the mean and m are 0
        torch._foreach_add_(roots, smallest[of_part])
        torch._foreach_rsqrt_(roots)
        _step(entries, tensors, rates[of_part], momenta[of_part], roots)
    return {**answer.history, "learning_rate": answer.rates.tolist(), "momentum": momenta}


def _square_averages(entries: list[Entry], tensors: TensorList) -> list[Tensor]:
    """v̂ of each tensor, with this step's gradient in v."""
    grads, v = [e.grad for e in entries], [e.buffer(V) for e in entries]
    tensors.take_in(grads, FORGETTING)
    torch._foreach_mul_(v, tensors.keep)
    torch._foreach_addcmul_(v, grads, grads, value=FORGETTING)  # where a row has no gradient this adds nothing
    return list(torch._foreach_div(v, tensors.seen))


def _figures(entries: list[Entry], tensors: TensorList, averages: list[Tensor]) -> list[list[float]]:
    """Of each tensor the norms of θ and m, the sum of g m and that of v̂, read off the device at once."""
    grads, m = [e.grad for e in entries], [e.buffer(BUFFER) for e in entries]
    figures = [
        *torch._foreach_norm([e.theta for e in entries]),
        *torch._foreach_norm(m),
        *(t.sum() for t in torch._foreach_mul(grads, m)),
        *(t.sum() for t in averages),
    ]
    found: list[list[float]] = torch.stack(figures).to(tensors.floors).reshape(4, -1).tolist()
    return found


def _step(
    entries: list[Entry], tensors: TensorList, rates: list[float], momenta: list[float], roots: list[Tensor]
) -> None:
    """``m ← μ m + g,  θ ← θ − lr · η c m̂ · root`` within the limit, with decoupled weight decay.

    Args:
        entries: of one group, type and device.
        tensors: of these.
        rates: η c.
        momenta: μ.
        roots: ``1/√(v̂ + ε²)``, which are overwritten.
    """
    group = entries[0].group
    lr, own = float(group["lr"]), group["momentum"]
    if own is not None:
        momenta = [float(own)] * len(entries)
    decay(entries, rates, lr * float(group["weight_decay"]))
    thetas, m = [e.theta for e in entries], [e.buffer(BUFFER) for e in entries]
    with_momentum([e.grad for e in entries], m, [*momenta])
    for e, mu in zip(entries, momenta, strict=True):
        e.state[SEEN] = mu * e.state.get(SEEN, 0.0) + 1
    updates = roots
    torch._foreach_mul_(updates, m)
    etas = [lr * rate / e.state[SEEN] for rate, e in zip(rates, entries, strict=True)]
    limited, moved = tensors.limited(etas, updates, thetas, group["max_update"])
    torch._foreach_addcmul_(thetas, updates, limited, value=-1)
    for e, length in zip(entries, moved.tolist(), strict=True):
        e.state[UPDATE] = length**2 / e.theta.numel()
