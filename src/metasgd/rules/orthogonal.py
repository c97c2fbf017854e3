"""Orthogonal directions of matrices, by Newton–Schulz iterations."""

import math

import torch
from torch import Tensor

from metasgd.rules.tensor_statistics import inverse_root

LARGEST_SIDE = 128
"""The longer of the shorter sides that are worth it: two iterations take ``2 r² c + 5 r³`` multiplications."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of ``a x + b x³ + c x⁵``, which brings small singular values to about 1 in few iterations."""
ITERATIONS = 2
"""A third one costs half as much again, and brought nothing on the workloads that variants are chosen by."""


def is_orthogonalised(shape: torch.Size) -> bool:
    """Whether a tensor, its first axis against all others, is a matrix that is neither a vector nor too large.

    Example:
        >>> [is_orthogonalised(torch.Size(shape)) for shape in ((64, 32, 3, 3), (64,), (1, 9), (512, 784))]
        [True, False, False, False]
    """
    if len(shape) < 2:
        return False
    return 2 <= min(shape[0], shape[1:].numel()) <= LARGEST_SIDE


def orthogonalised(m: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """``√max(r, c) U Vᵀ`` of ``m = U S Vᵀ``, about: its entries have a root mean square of about 1.

    ``x ← a x + b x xᵀ x + c (x xᵀ)² x`` from ``m / ‖m‖`` on. After two iterations singular values above a tenth of
    ``‖m‖`` are between 0.7 and 1.2, lower ones are in proportion; zeros stay zeros.

    Args:
        m: ``[..., r, c]``.
        iterations: how many, at least 1.

    Example:
        >>> found = orthogonalised(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]])) / 3**0.5
        >>> [round(x, 1) for x in found.diagonal().tolist()]
        [1.1, 1.2]

    References:
        Jordan et al. 2024: Muon, https://kellerjordan.github.io/posts/muon
    """
    wide = m.shape[-2] <= m.shape[-1]
    square = m.square().sum(dim=(-2, -1), keepdim=True)
    x = m * inverse_root(square)
    x = x if wide else x.mT
    x = x.reshape(-1, *x.shape[-2:])
    a, b, c = COEFFICIENTS
    # an iteration is x ← (a + q) x; what all of them make of x is (s + p) x, so that few products are as long as x
    gram = x @ x.mT
    q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    s, p = a, q
    for _ in range(iterations - 1):
        gram = torch.baddbmm(gram, q, gram, beta=a)
        gram = torch.baddbmm(gram, gram, q, beta=a)  # (a + q) x xᵀ (a + q)
        q = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        s, p = a * s, torch.baddbmm(a * p + s * q, q, p)
    x = torch.baddbmm(x, p, x, beta=s)
    found = math.sqrt(max(m.shape[-2:])) * (x if wide else x.mT)
    return found.reshape(m.shape)
