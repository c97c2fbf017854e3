"""Tensors of one type on one device that step together, with what stays the same from step to step."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from metasgd.optim.gradients import Entry
from metasgd.rules.scaled_network import scale_of

W = "square_average_seen"
"""The key of how much of a parameter's mean square gradient each of its rows has seen."""


Kind = TypeVar("Kind", bound="TensorList")


class TensorList:
    """The tensors of some entries.

    Attributes:
        scales: c of each.
        floors: ``c √n`` of each, ``[tensors]``: the norm that its weights start with, in size.

    Args:
        entries: of one type and device.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        thetas = [e.theta for e in entries]
        self.shapes = [e.shape for e in entries]
        self.scales = [scale_of(shape) for shape in self.shapes]
        wide = torch.float32 if thetas[0].device.type == "mps" else torch.float64
        sizes = [c * math.sqrt(t.numel()) for c, t in zip(self.scales, thetas, strict=True)]
        self.floors = torch.tensor(sizes, dtype=wide, device=thetas[0].device)

    def is_of(self, entries: Sequence[Entry]) -> bool:
        """Whether it was made of such."""
        return self.shapes == [e.shape for e in entries]

    def limited(
        self, rates: Sequence[float], updates: Sequence[Tensor], thetas: Sequence[Tensor], limit: float
    ) -> tuple[list[Tensor], Tensor]:
        """Each rate as far as rate times update is within the limit, numbers that stay on the device.

        Args:
            rates: of each tensor.
            updates: that they multiply.
            thetas: that these are for.
            limit: of an update's norm, as a share of its tensor's, or of ``floors`` where that is larger.

        Returns:
            The rates, and the norms of what they make of the updates.
        """
        lengths = torch.stack(_norms(updates)).to(self.floors)
        factors = lengths.new_tensor(rates)
        moved, largest = factors.abs() * lengths, limit * self.floors
        # on a CPU to look costs nothing, and a norm of every tensor is saved
        within = math.isinf(limit) or (lengths.device.type == "cpu" and bool((moved <= largest).all()))
        if not within:
            largest = torch.maximum(largest, limit * torch.stack(_norms(thetas)).to(lengths))
            share = (largest / moved.clamp_min(torch.finfo(moved.dtype).tiny)).clamp_max(1)
            factors, moved = factors * share, moved * share
        return list(factors.to(updates[0].dtype).unbind()), moved


class RowsOfTensors(TensorList):
    """The tensors of some entries, whose rows lie in one stretch of memory, and are one operation.

    Attributes:
        keep: of each row, what its mean keeps in this step; beside each tensor, to be broadcast.
        seen: of each row, how much its mean has seen, likewise.

    Args:
        entries: of one type and device; their states come to hold views of one tensor.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__(entries)
        thetas = [e.theta for e in entries]
        # matrices first: the gradients of vectors and numbers, a row each, are then copied in one operation
        self._order = sorted(range(len(thetas)), key=lambda i: thetas[i].ndim <= 1)
        self._n_matrices = sum(t.ndim > 1 for t in thetas)
        self._counts = [thetas[i].shape[0] if thetas[i].ndim else 1 for i in self._order]
        rows_of = [e.buffer(W, rows=True).reshape(-1) for e in entries]
        self._flat = torch.cat([rows_of[i] for i in self._order])
        self._held = self._split(self._flat, [t.shape[:1] for t in thetas])
        for e, rows in zip(entries, self._held, strict=True):
            e.state[W] = rows
        self._sizes, self._keep, self._seen = (torch.empty_like(self._flat) for _ in range(3))
        self._of_matrices = torch.split(self._sizes, self._counts)[: self._n_matrices]
        self._of_vectors = self._sizes[sum(self._counts[: self._n_matrices]) :]
        broad = [t.shape[:1] + (1,) * (t.ndim - 1) for t in thetas]
        self.keep, self.seen = self._split(self._keep, broad), self._split(self._seen, broad)

    def _split(self, flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        parts = dict(zip(self._order, torch.split(flat, self._counts), strict=True))
        return [parts[i].view(shape) for i, shape in enumerate(shapes)]

    def is_of(self, entries: Sequence[Entry]) -> bool:
        """Whether it was made of these, and their states hold the same tensors still."""
        held = self._held
        return len(held) == len(entries) and all(e.state.get(W) is rows for e, rows in zip(entries, held, strict=True))

    def take_in(self, grads: Sequence[Tensor], share: float) -> None:
        """``w ← w + share (1 − w)`` for each row with a gradient that is not zero; ``keep`` and ``seen`` follow."""
        ordered = [grads[i] for i in self._order]
        matrices, vectors = ordered[: self._n_matrices], ordered[self._n_matrices :]
        for g, size in zip(matrices, self._of_matrices, strict=True):
            if g.numel():
                torch.sum(g.abs(), dim=tuple(range(1, g.ndim)), out=size)
            else:
                size.zero_()
        if vectors:
            torch.cat([g if g.ndim else g.reshape(1) for g in vectors], out=self._of_vectors)
        shares = (self._sizes != 0).to(self._flat.dtype).mul_(share)
        torch.neg(shares, out=self._keep).add_(1.0)
        self._flat.mul_(self._keep).add_(shares)
        torch.clamp_min(self._flat, share, out=self._seen)


def tensor_lists(
    entries: Sequence[Entry], made: dict[Any, TensorList], group: Any, kind: type[Kind]
) -> list[tuple[list[Entry], Kind]]:
    """The entries of a group by type and device, each with its list: that of the step before where it still fits.

    Args:
        entries: of one group.
        made: the lists of the step before, which is brought up to date.
        group: what names it.
        kind: of the lists.
    """
    parts: dict[Any, list[Entry]] = {}
    for e in entries:
        parts.setdefault((group, kind, e.theta.dtype, e.theta.device), []).append(e)
    found = []
    for key, part in parts.items():
        tensors = made.get(key)
        if not isinstance(tensors, kind) or not tensors.is_of(part):
            made[key] = tensors = kind(part)
        found.append((part, tensors))
    return found


def _norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    return list(torch._foreach_norm(list(tensors)))
