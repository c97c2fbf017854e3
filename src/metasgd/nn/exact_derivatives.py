"""Operations of which torch's own derivatives are missing or wrong, by their definition."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class _SharedSetting:
    """A setting of the whole process, made by the first thread that needs it and taken back by the last.

    Both in one context of context variables: the token by which torch 2.15's ``sdpa_kernel`` resets its variable is
    valid only in the context that set it.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._context = contextvars.Context()
        self._lock = threading.Lock()
        self._users = 0
        self._made = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._context.run(self._made.enter_context, self._make())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._context.run(self._made.close)


class _ByDefinition(TorchFunctionMode):
    """In this thread, some operations by their definition, where torch's own functions are called.

    Of attention torch's fused kernels have no second derivative, and of weight normalisation a wrong one. Under
    ``vmap`` the row of padding of an embedding has a gradient.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention and not args[0].is_nested:
            return attention(*args, **(kwargs or {}))
        if func is torch._weight_norm:
            return weight_norm(*args, **(kwargs or {}))
        if func is F.embedding:
            return embedding(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


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


@contextmanager
def _plain_attention() -> Iterator[None]:
    """In all threads, attention of torch's own layers.

    The fused kernels have no second derivative, and in evaluation mode the fast path has none at all.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_PLAIN_ATTENTION = _SharedSetting(_plain_attention)
_WITHOUT_CUDNN = _SharedSetting(lambda: torch.backends.cudnn.flags(enabled=False))


@contextmanager
def exact_derivatives(network: nn.Module) -> Iterator[None]:
    """Within, what ``network`` computes has first and second derivatives: attention, and recurrence on a GPU."""
    with ExitStack() as settings:
        settings.enter_context(_PLAIN_ATTENTION())
        settings.enter_context(_ByDefinition())
        if any(isinstance(module, nn.RNNBase) for module in network.modules()):
            settings.enter_context(_WITHOUT_CUDNN())  # its recurrent layers have no second derivative
        yield
