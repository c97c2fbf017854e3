"""Orthogonal directions, all matrices of a shape at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metasgd.optim.gradients import channels_last
from metasgd.rules.base import without_autocast
from metasgd.rules.orthogonal import orthogonalised


def orthogonal_directions(momenta: Sequence[Tensor]) -> list[Tensor]:
    """``√max(r, c) U Vᵀ`` of each m, the first axis against all others, in its shape.

    Args:
        momenta: m, of one type and device.

    Example:
        >>> [direction] = orthogonal_directions([torch.eye(3).reshape(3, 1, 3)])
        >>> direction.shape
        torch.Size([3, 1, 3])
    """
    of_shape: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for i, m in enumerate(momenta):
        matrix = channels_last(m).flatten(1)  # in which order its columns stand counts for nothing
        matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
        of_shape.setdefault(matrix.shape, []).append((i, matrix))
    directions = list(momenta)
    for same in of_shape.values():
        together = torch.stack([matrix for _, matrix in same])
        with without_autocast(together):
            found = orthogonalised(together)
        for (i, _), direction in zip(same, found, strict=True):
            m = momenta[i]
            own = direction if len(m) == len(direction) else direction.mT
            last = channels_last(m)
            directions[i] = own.reshape(last.shape) if last is m else own.reshape(last.shape).movedim(-1, 1)
    return directions
