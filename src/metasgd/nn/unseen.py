"""Tensors of NaN that stand for what is not computed, and that say so where anything reads them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad", "is_sparse", "is_quantized")
_SIZES = (Tensor.size, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride, torch.numel)
_KINDS = (Tensor.is_contiguous, Tensor.is_floating_point, Tensor.is_complex, Tensor.element_size, Tensor.get_device)
OF_SHAPES: frozenset[Any] = frozenset(
    (*(getattr(Tensor, name).__get__ for name in _ATTRIBUTES), *_SIZES, *_KINDS, torch.is_floating_point)
)
"""What tells nothing of the numbers."""
_NEW = (Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty, Tensor.new_tensor)
_LIKE = (torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like, torch.rand_like, torch.randn_like)
WITHOUT_NUMBERS: frozenset[Any] = frozenset((*_NEW, *_LIKE, Tensor.__getitem__))
"""What makes a tensor like another, and what picks parts of one, which may be of those that are known."""


class Unseen(Tensor):
    """NaN that may be computed with, as long as the result is NaN as well; nothing may be decided by it.

    A comparison with NaN is false, a cast to whole numbers is anything, and some operations leave NaN out: what came of
    them would look like a result.

    Example:
        >>> unseen = torch.full((2, 3), torch.nan).as_subclass(Unseen)
        >>> (unseen * 2 + 1).shape
        torch.Size([2, 3])
        >>> (unseen > 0).any()
        Traceback (most recent call last):
        RuntimeError: gt reads what is not computed
    """

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _writes_elsewhere(cls, func, args, kwargs or {}):
            raise RuntimeError(f"{_name(func)} writes what is not computed into another tensor")
        found = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call] # torch's
        if func in OF_SHAPES:
            return found
        with torch._C.DisableTorchFunctionSubclass():
            if func in WITHOUT_NUMBERS and isinstance(found, Tensor) and not found.isnan().any():
                return found.as_subclass(Tensor)
            if all(_is_unknown(part) for part in _parts(found)):
                return found
        raise RuntimeError(f"{_name(func)} reads what is not computed")


def unseen(outputs: Any) -> Any:
    """The same, of which every tensor is ``Unseen``."""
    if isinstance(outputs, tuple):
        return tuple(unseen(part) for part in outputs)
    return outputs.as_subclass(Unseen) if isinstance(outputs, Tensor) else outputs


def _name(func: Callable[..., Any]) -> str:
    return getattr(func, "__name__", "an operation")


def _writes_elsewhere(cls: type, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation fills a tensor of another kind, of which nobody would see that it is NaN."""
    name = _name(func)
    in_place = func is Tensor.__setitem__ or (name.endswith("_") and not name.endswith("__"))
    target = kwargs.get("out", args[0] if in_place and args else None)
    return isinstance(target, Tensor) and not isinstance(target, cls)


def _parts(found: Any) -> Iterable[Any]:
    if isinstance(found, tuple | list) and not isinstance(found, torch.Size):
        return [part for inner in found for part in _parts(inner)]
    return [found]


def _is_unknown(part: Any) -> bool:
    if not (isinstance(part, Tensor) and part.is_floating_point()):
        return part is None  # of what an operation does in place, or not at all
    return not part.numel() or bool(part.isnan().any())
