"""Products of small stacked matrices, each in the way that is fastest: ``bmm`` is so for few of the special cases."""

import torch
from torch import Tensor

MANY = 16
"""Stacks of so many repay that more than one way is thought of."""
LONG, PIECE = 2048, 256
"""Sums of so many terms are made in pieces of about so many: on GPUs a product of few rows and columns is one
thread block's work otherwise, and in float32 one long sum is less exact."""


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x Wᵀ + b``, x ``[…, X, in]``."""
    if bias is None:
        return product(x, weight.mT)
    if x.ndim == 3 and weight.ndim == 3:
        if x.shape[-1] == 1:
            return torch.addcmul(bias.unsqueeze(-2), x, weight.mT)
        if len(x) >= MANY and weight.stride(0) == 0 and bias.stride(0) == 0:
            return torch.addmm(bias[0], x.flatten(0, 1), weight[0].mT).view(*x.shape[:2], -1)
        return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT)
    return torch.addmm(bias, x, weight.mT) if x.ndim == 2 else x @ weight.mT + bias.unsqueeze(-2)


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``."""
    if a.ndim != 3 or b.ndim != 3:
        return a @ b
    rows, inner, columns = a.shape[1], a.shape[2], b.shape[2]
    if inner == 1:
        return a * b
    if (pieces := _pieces(inner)) > 1:
        left, right = (t.reshape(len(t) * pieces, inner // pieces, t.shape[2]) for t in (a.mT, b))
        return torch.bmm(left.mT, right).view(len(a), pieces, rows, columns).sum(dim=1)
    if len(a) < MANY:
        return torch.bmm(a, b)
    if rows == 1:
        return (a.mT * b).sum(dim=-2, keepdim=True)
    if columns == 1 and inner < rows:
        return (a * b.mT).sum(dim=-1, keepdim=True)
    if b.stride(0) == 0:  # the same for all tasks, as θ_0 is
        return torch.mm(a.flatten(0, 1), b[0]).view(len(a), rows, columns)
    return torch.bmm(a, b)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a @ b``."""
    if a.ndim == 3 and b.ndim == 3 and min(*a.shape[-2:], b.shape[-1]) > 1 and _pieces(a.shape[-1]) == 1:
        total.baddbmm_(a, b)
    else:
        total.add_(product(a, b))


def _pieces(terms: int) -> int:
    """Into how many equal parts a sum of so many terms is taken apart."""
    if terms < LONG:
        return 1
    return next(n for n in range(terms // PIECE, 0, -1) if terms % n == 0)
