"""Orthogonal directions in place of others, all matrices of a shape at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metasgd.optim.gradients import Entry
from metasgd.rules.base import without_autocast
from metasgd.rules.orthogonal import orthogonalised
from metasgd.rules.scheduled_muon import SIZE, steps_orthogonally


def orthogonalise(
    entries: Sequence[Entry], momenta: Sequence[Tensor], counts: Sequence[float], updates: Sequence[Tensor]
) -> None:
    """Overwrite the updates of layers' matrices and kernels by ``0.28 √max(r, c) U Vᵀ`` of m, times the count.

    Args:
        entries: of one type and device.
        momenta: m.
        counts: of how many gradients each m is the sum.
        updates: to be overwritten.
    """
    of_shape: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for i, (e, m) in enumerate(zip(entries, momenta, strict=True)):
        if steps_orthogonally(e.name, e.shape):
            matrix = m.reshape(len(m), -1)
            matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
            of_shape.setdefault(matrix.shape, []).append((i, matrix))
    for same in of_shape.values():
        together = torch.stack([matrix for _, matrix in same])
        with without_autocast(together):
            found = orthogonalised(together)
        for (i, _), direction in zip(same, found, strict=True):
            m = momenta[i]
            own = direction if len(m) == len(direction) else direction.mT
            torch.mul(own.reshape(m.shape), SIZE * counts[i], out=updates[i])
