"""Operations of which torch's own derivatives are missing or wrong, by their definition."""

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(Q Kᵀ · scale + mask) V``: ``F.scaled_dot_product_attention``, with all its derivatives.

    Args:
        query: Q, ``[…, L, E]``.
        key: K, ``[…, S, E]``.
        value: V, ``[…, S, E']``.
        attn_mask: ``[…, L, S]``, true for what takes part, or what is added.
        dropout_p: the chance with which a weight is dropped.
        is_causal: position l sees the positions up to l alone.
        scale: by default ``1 / √E``.
        enable_gqa: several heads of Q share one of K and V.
    """
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], dim=-3) for t in (key, value))
    scores = query @ key.mT
    scores = scores / query.shape[-1] ** 0.5 if scale is None else scores * scale
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        weights = scores.softmax(dim=-1)
    else:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -torch.inf) if masked else scores + attn_mask
        blind = scores.isneginf().all(dim=-1, keepdim=True)  # which sees nothing, and gives zero
        weights = scores.masked_fill(blind, 0).softmax(dim=-1).masked_fill(blind, 0)
    return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """``g v / ‖v‖``, the norm over all dimensions but one; -1 for all of them."""
    over = [d for d in range(v.ndim) if d != dim]
    norm: Tensor = torch.linalg.vector_norm(v, dim=over, keepdim=True)
    return g * v / norm


def embedding(
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,  # noqa: ARG001 - a gradient that is sparse has no second derivative
) -> Tensor:
    """``F.embedding``: the rows of a table by their numbers, ``[*indices, E]``; that of padding has no gradient.

    Args:
        indices: whole numbers, of any shape.
        weight: the table, ``[V, E]``.
        padding_idx: the number of the row without a gradient.
        max_norm: that longer rows are cut down to, in the table.
        norm_type: of that norm.
        scale_grad_by_freq: divide a row's gradient by how often it is read.
        sparse: in torch's, whether the gradient is; here it never is.
    """
    rows = F.embedding(indices, weight, None, max_norm, norm_type, scale_grad_by_freq)
    if padding_idx is None:
        return rows
    return torch.where((indices == padding_idx % len(weight)).unsqueeze(-1), rows.detach(), rows)
