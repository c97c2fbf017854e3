"""The step of ``ScheduledAdam`` and of ``ScheduledMuon`` in place, over the tensors of a group; by their equations."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasgd.optim.gradients import Entry, products_of, stacked
from metasgd.optim.in_place import with_momentum
from metasgd.optim.orthogonal_steps import orthogonal_directions
from metasgd.optim.steps import BUFFER, V, decay
from metasgd.optim.tensor_list import RowsOfTensors, TensorList, W, tensor_lists
from metasgd.rules.scaled_network import RELATIVE_SMALLEST
from metasgd.rules.scheduled_answers import Array, Memory, ScheduledAnswers, Statistics, joined
from metasgd.rules.scheduled_muon import SIZE, ScheduledMuon
from metasgd.rules.tensor_statistics import FORGETTING

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
    rule, kinds = answers.rule, answers.rule.kinds({e.name: e.shape for entries in groups for e in entries})
    parts: list[tuple[list[Entry], TensorList]] = []
    for i, entries in enumerate(groups):
        some = [e for e in entries if e.theta.numel()]  # a mean of nothing is none
        orthogonal = {e.name for e in some if not rule.squares_entries(kinds.of(e.name), e.shape)}
        parts += tensor_lists([e for e in some if e.name not in orthogonal], lists, i, RowsOfTensors)
        parts += tensor_lists([e for e in some if e.name in orthogonal], lists, i, TensorList)
    if not parts:
        return memory
    averages = [_square_averages(*part) for part in parts]
    read = [
        _statistics(entries, v, [lengths[id(e)] for e in entries], answers)
        for (entries, _), v in zip(parts, averages, strict=True)
    ]
    of = joined(read)
    shapes = {e.name: e.shape for entries, _ in parts for e in entries}
    answer = answers(step, shapes, loss, memory, of)
    rates, momenta = (answer.rates * answer.scale).tolist(), answer.momenta.tolist()
    smallest = np.where(of.average > 0, RELATIVE_SMALLEST**2 * of.average, 1.0).tolist()
    first = 0
    for (entries, tensors), roots in zip(parts, averages, strict=True):
        of_part = slice(first, first := first + len(entries))
        if roots is not None:
            # where there has been no gradient the mean and m are 0
            torch._foreach_add_(roots, smallest[of_part])
            torch._foreach_rsqrt_(roots)
        if answer.decay is not None:
            decay(entries, answer.decay[of_part].tolist(), float(entries[0].group["lr"]))
        _step(entries, tensors, rates[of_part], momenta[of_part], roots)
    place = {n: i for i, n in enumerate(shapes)}
    order = [place[e.name] for entries in groups for e in entries if e.name in place]
    chosen = {"learning_rate": answer.rates[order].tolist(), "momentum": answer.momenta[order].tolist()}
    return {**answer.history, **chosen}


def _square_averages(entries: list[Entry], tensors: TensorList) -> list[Tensor] | None:
    """v̂ of each tensor, with this step's gradient in v; None where v is of all entries, and a number."""
    if not isinstance(tensors, RowsOfTensors):
        return None
    grads, v = [e.grad for e in entries], [e.buffer(V) for e in entries]
    tensors.take_in(grads, FORGETTING)
    torch._foreach_mul_(v, tensors.keep)
    torch._foreach_addcmul_(v, grads, grads, value=FORGETTING)  # where a row has no gradient this adds nothing
    return list(torch._foreach_div(v, tensors.seen))


def _statistics(
    entries: list[Entry], averages: list[Tensor] | None, norms: list[float], answers: ScheduledAnswers
) -> Statistics:
    """What is read of each tensor; all that is on the device in one piece.

    Args:
        entries: of one group, type and device.
        averages: v̂ of each, or None.
        norms: of the gradients.
        answers: which may read nothing of m.
    """
    thetas, grads, m = [e.theta for e in entries], [e.grad for e in entries], [e.buffer(BUFFER) for e in entries]
    figures = [*torch._foreach_norm(thetas)]
    if answers.reads_tensors:
        figures += [*torch._foreach_norm(m), *products_of(grads, m)]
    if averages is not None:
        figures += [t.sum() for t in averages]
    muon = isinstance(answers.rule, ScheduledMuon)
    if muon:
        figures += products_of(thetas, grads)
    rows = iter(stacked(figures).cpu().numpy().reshape(-1, len(entries)))
    sizes = np.array([t.numel() for t in thetas], dtype=float)
    weights, gradient = np.square(next(rows)) / sizes, np.square(norms) / sizes
    momentum, product = np.zeros_like(sizes), np.zeros_like(sizes)
    if answers.reads_tensors:
        momentum, product = np.square(next(rows)) / sizes, next(rows) / sizes
    return Statistics(
        weights=weights,
        gradient=gradient,
        momentum=momentum,
        product=product,
        average=_averages_of_all(entries, gradient.tolist()) if averages is None else next(rows) / sizes,
        seen=np.array([e.state.get(SEEN, 0.0) for e in entries]),
        update=np.array([e.state.get(UPDATE, 0.0) for e in entries]),
        alignment=_alignments(entries, weights, gradient, next(rows) / sizes, sizes) if muon else None,
    )


def _averages_of_all(entries: list[Entry], squares: list[float]) -> Array:
    """v̂ of all entries of each tensor, a number, with this step's gradient in v."""
    found = []
    for e, square in zip(entries, squares, strict=True):
        share = FORGETTING if square > 0 else 0.0
        v, w = (e.state.get(key, 0.0) for key in (V, W))
        if isinstance(v, Tensor):  # of a version that had it of each entry
            v, w = float(v.mean()), float(w.mean())
        e.state[V], e.state[W] = v + share * (square - v), w + share * (1 - w)
        found.append(e.state[V] / max(e.state[W], FORGETTING))
    return np.array(found)


def _alignments(entries: list[Entry], weights: Array, gradient: Array, products: Array, sizes: Array) -> Array:
    """How far each θ and its gradients point the same way, averaged over the steps, which the state holds."""
    norms = np.sqrt(weights * gradient)
    now = np.divide(np.abs(products) * np.sqrt(sizes), norms, out=np.ones_like(norms), where=norms > 0)
    seen = np.array([e.state.get(SEEN, 0.0) for e in entries])
    before = np.array([e.state.get(ALIGNMENT, 0.0) for e in entries])
    found = before + np.where(gradient > 0, (now - before) / (seen + 1), 0.0)
    for e, value in zip(entries, found.tolist(), strict=True):
        e.state[ALIGNMENT] = value
    return found


def _step(
    entries: list[Entry],
    tensors: TensorList,
    rates: list[float],
    momenta: list[float],
    roots: list[Tensor] | None,
) -> None:
    """``m ← μ m + g,  θ ← θ − lr · η c u`` within the limit, with decoupled weight decay.

    Args:
        entries: of one group, type and device.
        tensors: of these.
        rates: η c.
        momenta: μ.
        roots: ``1/√(v̂ + ε²)``, by which m̂ is multiplied, and which are overwritten; None for orthogonal directions.
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
    if roots is None:
        updates, etas = orthogonal_directions(m), [lr * rate * SIZE for rate in rates]
    else:
        torch._foreach_mul_(roots, m)
        updates, etas = roots, [lr * rate / e.state[SEEN] for rate, e in zip(rates, entries, strict=True)]
    limited, moved = tensors.limited(etas, updates, thetas, group["max_update"])
    torch._foreach_addcmul_(thetas, updates, limited, value=-1)
    for e, length in zip(entries, moved.tolist(), strict=True):
        e.state[UPDATE] = length**2 / e.theta.numel()
