"""Closed-form derivatives of the usual layers: what autograd would find, without its graph.

A layer maps x to y with parameters p. Beside its forward pass it knows two linear maps and their change:

    backward           dy ↦ (dx, dp),        the gradient
    tangent            (ṗ, ẋ) ↦ ẏ,           how y changes along a direction ṗ of the parameters
    tangent_backward   (ẏ's gradient …),     how dx and dp change along that direction

Gradients differentiated along a direction ω of the parameters are the Hessian-vector product H ω (Pearlmutter
1994, "Fast exact multiplication by the Hessian"). Everything here is plain arithmetic on tensors: no autograd, and
nothing shared between threads but torch's precision of products on CUDA. No layer writes into a tensor that it was
given or has returned, so that layers may save what they like of both, and follow one another in any order.

Where b tasks are stacked, vectors are ``[b, X, features]`` and images ``[b, X, channels, height, width]``; weights
are ``[b, …]``, or without ``b`` where the tasks share them. Of one task nothing has a ``b``. X examples, M values per
channel. ``None`` stands for a tangent of zero.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metasgd.meta.closed_form.products import add_product, affine, product
from metasgd.rules.base import Params

Saved = tuple[Any, ...]
Found = tuple[Tensor | None, Params]
aten = torch.ops.aten


@dataclass(frozen=True)
class Layer(ABC):
    """One layer, by the names of its parameters."""

    weight: str = ""
    bias: str = ""

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.weight, self.bias} - {""})

    @property
    def stacked(self) -> "Layer":
        """The layer of several tasks at once."""
        return self

    @abstractmethod
    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        """y, and what the derivatives need of this pass."""

    @abstractmethod
    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        """Gradients: dx (None unless needed), and dp by name."""

    @abstractmethod
    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        """ẏ, and what ``tangent_backward`` needs of this pass."""

    @abstractmethod
    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        """The tangents of dx (None unless needed) and of dp."""


@dataclass(frozen=True)
class Linear(Layer):
    """``y = x Wᵀ + b``, x ``[…, X, in]``."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        return affine(x, p[self.weight], p.get(self.bias)), (x,)

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        found = {self.weight: product(dy.mT, saved[0])}
        if self.bias:
            found[self.bias] = dy.sum(dim=-2)
        return (product(dy, p[self.weight]) if needs_dx else None), found

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        y_dot = None if x_dot is None else product(x_dot, p[self.weight].mT)
        if self.weight in dot:
            moved = affine(saved[0], dot[self.weight], dot.get(self.bias))
            y_dot = moved if y_dot is None else y_dot.add_(moved)
        elif self.bias in dot:
            y_dot = dot[self.bias].unsqueeze(-2) + (torch.zeros_like(saved[0][..., :1]) if y_dot is None else y_dot)
        return y_dot, () if x_dot is None else (x_dot,)

    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        dx_dot, found = self.backward(p, saved, dy_dot, needs_dx)
        if dot_saved:
            add_product(found[self.weight], dy.mT, dot_saved[0])
        if dx_dot is not None and self.weight in dot:
            add_product(dx_dot, dy, dot[self.weight])
        return dx_dot, found


class Fixed(Layer):
    """A layer without parameters that is linear near x: its tangent is its own map, and backward its transpose."""

    @abstractmethod
    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor: ...

    @abstractmethod
    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor: ...

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        return self._vjp(saved, dy), {}

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        return (None if x_dot is None else self._jvp(saved, x_dot)), ()

    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        return self._vjp(saved, dy_dot), {}


class ReLU(Fixed):
    """``y = max(x, 0)``."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        y = x.relu()
        return y, (y,)

    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor:
        return self._vjp(saved, x_dot)

    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor:
        dx: Tensor = aten.threshold_backward(dy, saved[0], 0)
        return dx


@dataclass(frozen=True)
class MaxPool2d(Fixed):
    """The largest value of each window; images ``[(b,) X, channels, height, width]``."""

    size: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    @property
    def _options(self) -> tuple[Any, ...]:
        return self.size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        found = aten.max_pool2d_with_indices(x.flatten(0, -4), *self._options)
        y, where = (t.view(*x.shape[:-3], *t.shape[1:]) for t in found)
        return y, (x, where)

    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor:
        where = saved[1]
        return x_dot.flatten(-2).gather(-1, where.flatten(-2)).view(where.shape)

    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor:
        x, where = saved
        dy, flat, where = (t.flatten(0, -4) for t in (dy, x, where))
        dx: Tensor = aten.max_pool2d_with_indices_backward(dy, flat, *self._options, where)
        return dx.view(x.shape)


@dataclass(frozen=True)
class Flatten(Fixed):
    """Images ``[(b,) X, channels, height, width]`` to vectors ``[(b,) X, features]``."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        return self._jvp((), x), (x,)

    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor:
        return x_dot.flatten(-3)

    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor:
        return dy.reshape(saved[0].shape)
