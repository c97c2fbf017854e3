"""A result, which is a dataclass of tensors and dictionaries of tensors, as one tensor for each dtype, and back."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor


def parts(result: Any) -> dict[str, list[Tensor]]:
    """The tensors of a dataclass of tensors and dictionaries of tensors, by its fields."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {name: list(v.values()) if isinstance(v, dict) else [v] for name, v in values.items()}


def _dtypes(result: Any) -> list[torch.dtype]:
    return list(dict.fromkeys(t.dtype for part in parts(result).values() for t in part))


def packed(result: Any) -> list[Tensor]:
    """All the tensors in one for each dtype, which is fewer to copy."""
    every = [t.detach() for part in parts(result).values() for t in part]
    return [torch.cat([t.reshape(-1) for t in every if t.dtype == dtype]) for dtype in _dtypes(result)]


def unpacked(flat: Sequence[Tensor], like: Any) -> Any:
    """The result whose tensors are in ``flat``, of the shapes of another."""
    every = [t for part in parts(like).values() for t in part]
    pieces = {
        dtype: iter(torch.split(one, [t.numel() for t in every if t.dtype == dtype]))
        for dtype, one in zip(_dtypes(like), flat, strict=True)
    }

    def next_like(t: Tensor) -> Tensor:
        piece: Tensor = next(pieces[t.dtype])
        return piece.view(t.shape)

    return _with_each(like, next_like)


def outline(result: Any) -> Any:
    """The shapes and types of a result, without its values."""
    return _with_each(result, lambda t: torch.empty(t.shape, dtype=t.dtype, device="meta"))


def _with_each(result: Any, change: Callable[[Tensor], Tensor]) -> Any:
    def changed(value: Any) -> Any:
        return {n: change(t) for n, t in value.items()} if isinstance(value, dict) else change(value)

    return replace(result, **{field.name: changed(getattr(result, field.name)) for field in fields(result)})
