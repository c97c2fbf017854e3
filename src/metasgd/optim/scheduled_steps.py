"""The step of ``ScheduledAdam`` and of ``ScheduledMuon`` in place, over the tensors of a group; by their equations."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasgd.optim.gradients import Entry
from metasgd.optim.in_place import with_momentum
from metasgd.optim.orthogonal_steps import orthogonalise
from metasgd.optim.steps import BUFFER, V, decay
from metasgd.optim.tensor_list import TensorList, tensor_lists
from metasgd.rules.scaled_network import RELATIVE_SMALLEST
from metasgd.rules.scheduled_adam import FORGETTING
from metasgd.rules.scheduled_answers import Array, Memory, ScheduledAnswers, Statistics
from metasgd.rules.scheduled_muon import ScheduledMuon

SEEN = "momentum_seen"
"""The key of how much of a parameter's momentum has been seen, a number."""
UPDATE = "update_square"
"""The key of the mean square of its last update, a number."""
ALIGNMENT = "alignment"
"""The key of a parameter's alignment with its gradients, a number."""


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
    muon = isinstance(answers.rule, ScheduledMuon)
    every = [e for entries, _ in parts for e in entries]
    sizes = np.array([e.theta.numel() for e in every], dtype=float)
    averages = [_square_averages(entries, tensors) for entries, tensors in parts]
    read = [_figures(*part, of_part, muon) for part, of_part in zip(parts, averages, strict=True)]
    weights, momentum, inner, square, *of_theta = (
        [x for of_part in read for x in of_part[i]] for i in range(len(read[0]))
    )

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
    if muon:
        of = of._replace(alignment=_alignments(every, of, np.array(of_theta[0]) / sizes, sizes))
    answer = answers(step, {e.name: e.shape for e in every}, loss, memory, of)
    rates, momenta = (answer.rates * answer.scale).tolist(), answer.momenta.tolist()
    smallest = np.where(of.average > 0, RELATIVE_SMALLEST**2 * of.average, 1.0).tolist()
    first = 0
    for (entries, tensors), roots in zip(parts, averages, strict=True):
        of_part = slice(first, first := first + len(entries))
        # where there has been no gradient the mean and m are 0
        torch._foreach_add_(roots, smallest[of_part])
        torch._foreach_rsqrt_(roots)
        if answer.decay is not None:
            decay(entries, answer.decay[of_part].tolist(), float(entries[0].group["lr"]))
        _step(entries, tensors, rates[of_part], momenta[of_part], roots, muon)
    return {**answer.history, "learning_rate": answer.rates.tolist(), "momentum": momenta}


def _square_averages(entries: list[Entry], tensors: TensorList) -> list[Tensor]:
    """v̂ of each tensor, with this step's gradient in v."""
    grads, v = [e.grad for e in entries], [e.buffer(V) for e in entries]
    tensors.take_in(grads, FORGETTING)
    torch._foreach_mul_(v, tensors.keep)
    torch._foreach_addcmul_(v, grads, grads, value=FORGETTING)  # where a row has no gradient this adds nothing
    return list(torch._foreach_div(v, tensors.seen))


def _figures(entries: list[Entry], tensors: TensorList, averages: list[Tensor], muon: bool) -> list[list[float]]:
    """Of each tensor the norms of θ and m, the sums of g m, v̂ and, if ``muon``, θ g, read off the device at once."""
    thetas, grads, m = [e.theta for e in entries], [e.grad for e in entries], [e.buffer(BUFFER) for e in entries]
    figures = [
        *torch._foreach_norm(thetas),
        *torch._foreach_norm(m),
        *(t.sum() for t in torch._foreach_mul(grads, m)),
        *(t.sum() for t in averages),
    ]
    if muon:
        figures += [t.sum() for t in torch._foreach_mul(thetas, grads)]
    found: list[list[float]] = torch.stack(figures).to(tensors.floors).reshape(-1, len(entries)).tolist()
    return found


def _alignments(entries: list[Entry], of: Statistics, products: Array, sizes: Array) -> Array:
    """How far each θ and its gradients point the same way, averaged over the steps, which the state holds."""
    norms = np.sqrt(of.weights * of.gradient)
    now = np.divide(np.abs(products) * np.sqrt(sizes), norms, out=np.ones_like(norms), where=norms > 0)
    before = np.array([e.state.get(ALIGNMENT, 0.0) for e in entries])
    found = before + np.where(of.gradient > 0, (now - before) / (of.seen + 1), 0.0)
    for e, value in zip(entries, found.tolist(), strict=True):
        e.state[ALIGNMENT] = value
    return found


def _step(
    entries: list[Entry],
    tensors: TensorList,
    rates: list[float],
    momenta: list[float],
    roots: list[Tensor],
    muon: bool,
) -> None:
    """``m ← μ m + g,  θ ← θ − lr · η c m̂ · root`` within the limit, with decoupled weight decay.

    Args:
        entries: of one group, type and device.
        tensors: of these.
        rates: η c.
        momenta: μ.
        roots: ``1/√(v̂ + ε²)``, which are overwritten.
        muon: whether matrices step along orthogonal directions.
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
    if muon:
        orthogonalise(entries, m, [e.state[SEEN] for e in entries], updates)
    etas = [lr * rate / e.state[SEEN] for rate, e in zip(rates, entries, strict=True)]
    limited, moved = tensors.limited(etas, updates, thetas, group["max_update"])
    torch._foreach_addcmul_(thetas, updates, limited, value=-1)
    for e, length in zip(entries, moved.tolist(), strict=True):
        e.state[UPDATE] = length**2 / e.theta.numel()
