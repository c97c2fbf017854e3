"""Closed-form derivatives of the usual layers: what autograd would find, without its graph.

A layer maps x to y with parameters p. Beside its forward pass it knows two linear maps and their change:

    backward           dy ↦ (dx, dp),        the gradient
    tangent            (ṗ, ẋ) ↦ ẏ,           how y changes along a direction ṗ of the parameters
    tangent_backward   (ẏ's gradient …),     how dx and dp change along that direction

Gradients differentiated along a direction ω of the parameters are the Hessian-vector product H ω (Pearlmutter
1994, "Fast exact multiplication by the Hessian"). Everything here is plain arithmetic on tensors: no autograd,
nothing shared between threads. No layer writes into a tensor that it was given or has returned, so that layers may
save what they like of both, and follow one another in any order.

Where b tasks are stacked, vectors are ``[b, X, features]`` and images ``[X, b, channels, height, width]``: as the
groups of a convolution lie, and as examples of one network as well. Weights are ``[b, …]``, or without ``b`` where the
tasks share them. Of one task nothing has a ``b``. X examples, M values per channel. ``None`` stands for a tangent of
zero.
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
EXAMPLES_AND_PLACES = (0, -2, -1)
"""The dimensions of images that are not channels, of one task or several."""


@dataclass(frozen=True)
class Layer(ABC):
    """One layer, by the names of its parameters."""

    weight: str = ""
    bias: str = ""

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.weight, self.bias} - {""})

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


@dataclass(frozen=True)
class Conv2d(Layer):
    """A convolution of one group, zero-padded; x ``[X, (b,) channels, height, width]``."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    bias_cancels: bool = False
    """Whether the next layer subtracts the mean, and with it the bias: its gradient is zero, which sums would only
    come near, by several times the rounding of all the others."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        return self._map(x, p[self.weight], p.get(self.bias)), (x,)

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        weight = p[self.weight]
        if saved[0].ndim == 4:
            dx, dw, _ = self._vjp(dy, saved[0], weight, needs_dx, True)
        else:
            dw = self._of_weight(dy, saved[0], weight)
            dx = self._of_input(dy, saved[0], weight) if needs_dx else None
        return dx, {self.weight: dw, **self._of_bias(p, dy)}

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        weight_dot = dot.get(self.weight)
        y_dot = None
        if x_dot is not None and weight_dot is not None:  # both terms in one convolution
            inputs, weights = torch.cat([x_dot, saved[0]], dim=-3), torch.cat([p[self.weight], weight_dot], dim=-3)
            y_dot = self._map(inputs, weights, dot.get(self.bias))
        elif weight_dot is not None:
            y_dot = self._map(saved[0], weight_dot, dot.get(self.bias))
        elif x_dot is not None:
            y_dot = self._map(x_dot, p[self.weight], dot.get(self.bias))
        elif self.bias in dot:
            y_dot = self._map(saved[0], torch.zeros_like(p[self.weight]), dot[self.bias])
        return y_dot, () if x_dot is None else (x_dot,)

    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        x, weight = saved[0], p[self.weight]
        found = self._of_bias(p, dy_dot)
        # the two terms of each in one convolution: of the weight over examples, of the input over channels
        both_dy, both_x = (torch.cat([dy_dot, dy]), torch.cat([x, dot_saved[0]])) if dot_saved else (dy_dot, x)
        found[self.weight] = self._of_weight(both_dy, both_x, weight)
        if not needs_dx:
            return None, found
        if self.weight in dot:
            dy_dot, weight = torch.cat([dy_dot, dy], dim=-3), torch.cat([weight, dot[self.weight]], dim=-4)
        return self._of_input(dy_dot, x, weight), found

    def _of_bias(self, p: Params, dy: Tensor) -> Params:
        if not self.bias:
            return {}
        return {self.bias: torch.zeros_like(p[self.bias]) if self.bias_cancels else dy.sum(dim=EXAMPLES_AND_PLACES)}

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.ndim == 4:
            return torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)
        at, kernels, groups = _as_groups(weight)
        y = torch.conv2d(x.flatten(at, at + 1), kernels, None, self.stride, self.padding, self.dilation, groups)
        y = y.unflatten(at, x.shape[:2] if at == 0 else (groups, -1))
        return y if bias is None or self.bias_cancels else y + bias[..., None, None]

    def _of_weight(self, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient in the weight, of each task's own where they have one, though it be the same for all."""
        if x.ndim == 4:
            return self._vjp(dy, x, weight, False, True)[1]
        at, kernels, groups = (0, weight, 1) if weight.ndim == 4 else (1, weight.flatten(0, 1), len(weight))
        found = self._vjp(dy.flatten(at, at + 1), x.flatten(at, at + 1), kernels, False, True, groups)[1]
        return found.view(weight.shape)

    def _of_input(self, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        if x.ndim == 4:
            return self._vjp(dy, x, weight, True, False)[0]
        at, kernels, groups = _as_groups(weight)
        found = self._vjp(dy.flatten(at, at + 1), x.flatten(at, at + 1), kernels, True, False, groups)[0]
        return found.unflatten(at, x.shape[at : at + 2])

    def _vjp(
        self, dy: Tensor, x: Tensor, weight: Tensor, of_input: bool, of_weight: bool, groups: int = 1
    ) -> tuple[Tensor, Tensor, Tensor]:  # None where not needed
        sizes, needs = (self.stride, self.padding, self.dilation), [of_input, of_weight, False]
        found: tuple[Tensor, Tensor, Tensor] = aten.convolution_backward(
            dy, x, weight, [dy.shape[1]], *sizes, False, [0, 0], groups, needs
        )
        return found


def _as_groups(weight: Tensor) -> tuple[int, Tensor, int]:
    """By which dimension of images two are to be one, the kernels for a convolution of these, and its groups.

    Kernels that are the same for all tasks, as at θ_0, need no groups: the tasks are examples then.
    """
    if weight.ndim == 4:
        return 0, weight, 1
    return (0, weight[0], 1) if weight.stride(0) == 0 else (1, weight.flatten(0, 1), len(weight))


class Fixed(Layer):
    """A layer without parameters that is linear near x: its tangent is its own map, and backward its transpose."""

    @abstractmethod
    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor: ...

    @abstractmethod
    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor: ...

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:  # noqa: ARG002
        return self._vjp(saved, dy), {}

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:  # noqa: ARG002
        return (None if x_dot is None else self._jvp(saved, x_dot)), ()

    def tangent_backward(
        self,
        p: Params,  # noqa: ARG002
        dot: Params,  # noqa: ARG002
        saved: Saved,
        dot_saved: Saved,  # noqa: ARG002
        dy: Tensor,  # noqa: ARG002
        dy_dot: Tensor,
        needs_dx: bool,  # noqa: ARG002
    ) -> Found:
        return self._vjp(saved, dy_dot), {}


class ReLU(Fixed):
    """``y = max(x, 0)``."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:  # noqa: ARG002
        y = x.relu()
        return y, (y,)

    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor:
        return self._vjp(saved, x_dot)

    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor:
        dx: Tensor = aten.threshold_backward(dy, saved[0], 0)
        return dx


@dataclass(frozen=True)
class MaxPool2d(Fixed):
    """The largest value of each window; images ``[X, (b,) channels, height, width]``."""

    size: tuple[int, int] = (2, 2)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    ceil_mode: bool = False

    @property
    def _options(self) -> tuple[Any, ...]:
        return self.size, self.stride, self.padding, self.dilation, self.ceil_mode

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:  # noqa: ARG002
        y, where = aten.max_pool2d_with_indices(x.flatten(0, -4), *self._options)
        return y.unflatten(0, x.shape[:-3]), (x, where)

    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor:
        where = saved[1]
        y_dot = x_dot.flatten(0, -4).flatten(2).gather(2, where.flatten(2)).view(where.shape)
        return y_dot.unflatten(0, x_dot.shape[:-3])

    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor:
        x, where = saved
        dx: Tensor = aten.max_pool2d_with_indices_backward(
            dy.flatten(0, -4), x.flatten(0, -4), *self._options, where
        )
        return dx.unflatten(0, x.shape[:-3])


@dataclass(frozen=True)
class Flatten(Fixed):
    """Images ``[X, (b,) channels, height, width]`` to vectors ``[(b,) X, features]``."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:  # noqa: ARG002
        return self._jvp((), x), (x,)

    def _jvp(self, saved: Saved, x_dot: Tensor) -> Tensor:  # noqa: ARG002
        return x_dot.flatten(-3).movedim(-2, 0)

    def _vjp(self, saved: Saved, dy: Tensor) -> Tensor:
        return dy.movedim(0, -2).reshape(saved[0].shape)
