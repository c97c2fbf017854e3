"""What a network begins with, up to its second layer with weights, in chunks of examples that fit a core's cache.

The first layers have the largest activations by far. None of them is kept: they are made again from the input's
columns (see ``standardised.py``), a chunk at a time, which costs less than to fetch them from memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from metasgd.meta.closed_form.layers import Conv2d, Fixed, Found, Kept, Layer, Linear
from metasgd.meta.closed_form.standardised import Fold, Standardised
from metasgd.rules.gradient_descent import Params

CHUNK_BYTES = 2**20
"""Of a chunk's largest activation, at most: no more than a core's own cache."""


@dataclass(frozen=True)
class OfColumns(Layer):
    """``y = W' c + β``, c ``[X, k, height, width]`` channels last, the network's input."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Kept]:
        return self._map(x, p[self.weight], p[self.bias]), (x,)

    def backward(self, p: Params, kept: Kept, dy: Tensor, needs_dx: bool) -> Found:  # noqa: ARG002
        dy = _by_place(dy)
        # not dyᵀ c, which takes several times as long
        return None, {self.weight: (_by_place(kept[0]).mT @ dy).mT, self.bias: dy.sum(dim=0)}

    def tangent(self, p: Params, dot: Params, kept: Kept, x_dot: Tensor | None) -> tuple[Tensor | None, Kept]:  # noqa: ARG002
        if not self.names & dot.keys():
            return None, ()
        moved = (dot[n] if n in dot else torch.zeros_like(p[n]) for n in (self.weight, self.bias))
        return self._map(kept[0], *moved), ()

    def tangent_backward(
        self,
        p: Params,
        dot: Params,  # noqa: ARG002
        kept: Kept,
        dot_kept: Kept,  # noqa: ARG002
        dy: Tensor,  # noqa: ARG002
        dy_dot: Tensor,
        needs_dx: bool,
    ) -> Found:
        return self.backward(p, kept, dy_dot, needs_dx)

    @staticmethod
    def _map(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = torch.addmm(bias, _by_place(x), weight.mT)
        return y.view(len(x), *x.shape[2:], len(weight)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Stem(Layer):
    """The first convolution, its BatchNorm, layers without parameters, and the next map, named here, as one layer.

    Attributes:
        first: the convolution and its BatchNorm; their input, columns, needs no gradient.
        channels: what the convolution gives.
        between: so that none needs the gradient in its output once more.
        last: of it nothing is kept but its input.
    """

    first: Standardised = field(kw_only=True)
    channels: int = field(kw_only=True)
    between: tuple[Fixed, ...] = field(kw_only=True)
    last: Conv2d | Linear = field(kw_only=True)

    @cached_property
    def names(self) -> frozenset[str]:
        return self.first.names | self.last.names

    @cached_property
    def of_columns(self) -> OfColumns:
        return OfColumns(self.first.weight, self.first.beta)

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Kept]:
        fold = Fold(self.first, p, _by_place(x))
        p, parts = fold.weights, []
        for (part,) in self._chunks(x):
            made = self._inner(p, part)
            parts.append(self.last.forward(p, made[0])[0])
        # what a single chunk holds is little, and to make it again takes a share of a small set's time
        return _together(parts), (x, fold, made if len(parts) == 1 else None)

    def backward(self, p: Params, kept: Kept, dy: Tensor, needs_dx: bool) -> Found:  # noqa: ARG002
        x, fold, made = kept
        p = fold.weights
        total: Params = {}
        for part, dy_part in self._chunks(x, dy):
            inner, all_kept = made or self._inner(p, part)
            inner_dy, found = self.last.backward(p, (inner,), dy_part, True)
            _add(total, found | self._inner_backward(p, all_kept, inner_dy))
        return None, fold.backward(total)

    def tangent(self, p: Params, dot: Params, kept: Kept, x_dot: Tensor | None) -> tuple[Tensor | None, Kept]:  # noqa: ARG002
        x, fold, made = kept
        if not self.names & dot.keys():
            return None, ()
        p, dot = fold.weights, fold.tangent(dot)
        parts = []
        for (part,) in self._chunks(x):
            inner, all_kept = made or self._inner(p, part)
            y_dot, _ = self.last.tangent(p, dot, (inner,), self._inner_tangent(p, dot, all_kept))
            parts.append(torch.zeros_like(self.last.forward(p, inner)[0]) if y_dot is None else y_dot)
        return _together(parts), (dot,)

    def tangent_backward(
        self,
        p: Params,
        dot: Params,
        kept: Kept,
        dot_kept: Kept,
        dy: Tensor,
        dy_dot: Tensor,
        needs_dx: bool,  # noqa: ARG002
    ) -> Found:
        x, fold, made = kept
        p, direction = fold.weights, dot_kept[0] if dot_kept else dot
        total: Params = {}
        for part, dy_part, dy_dot_part in self._chunks(x, dy, dy_dot):
            inner, all_kept = made or self._inner(p, part)
            inner_dot = self._inner_tangent(p, direction, all_kept)
            last_kept = () if inner_dot is None else (inner_dot,)
            inner_dy_dot, found = self.last.tangent_backward(
                p, direction, (inner,), last_kept, dy_part, dy_dot_part, True
            )
            _add(total, found | self._inner_backward(p, all_kept, inner_dy_dot))
        return None, fold.tangent_backward(dot, total)

    def _chunks(self, x: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The examples of all these, so many at a time, in shares as even as may be."""
        largest = x[0, 0].numel() * self.channels * x.element_size()
        n = -(-len(x) * largest // CHUNK_BYTES)
        if n == 1:
            return iter([(x, *others)])
        return zip(*(t.tensor_split(n) for t in (x, *others)), strict=True)

    def _inner(self, p: Params, x: Tensor) -> tuple[Tensor, list[Kept]]:
        """What the last layer is given, and what the others keep."""
        all_kept = []
        for layer in (self.of_columns, *self.between):
            x, kept = layer.forward(p, x)
            all_kept.append(kept)
        return x, all_kept

    def _inner_tangent(self, p: Params, dot: Params, all_kept: list[Kept]) -> Tensor | None:
        x_dot: Tensor | None = None
        for layer, kept in zip((self.of_columns, *self.between), all_kept, strict=True):
            x_dot, _ = layer.tangent(p, dot, kept, x_dot)
        return x_dot

    def _inner_backward(self, p: Params, all_kept: list[Kept], dy: Tensor | None) -> Params:
        """The same map takes a gradient back and its tangent: the layers between are linear near where they are."""
        for layer, kept in zip(reversed(self.between), reversed(all_kept[1:]), strict=True):
            assert dy is not None
            dy, _ = layer.backward(p, kept, dy, True)
        assert dy is not None
        return self.of_columns.backward(p, all_kept[0], dy, False)[1]


def _by_place(x: Tensor) -> Tensor:
    """``[X, channels, height, width]`` as ``[X · height · width, channels]``; no copy, if channels come last."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _add(total: Params, found: Params) -> None:
    for name, g in found.items():
        total[name] = total[name].add_(g) if name in total else g
