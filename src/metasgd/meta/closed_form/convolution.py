"""Convolutions in closed form: of one task, and of several with weights of their own."""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from metasgd.meta.closed_form.layers import Found, Layer, Linear, Saved, aten
from metasgd.meta.closed_form.precision import of_convolutions
from metasgd.meta.closed_form.windows import Axis, overlaid, windows
from metasgd.rules.base import Params


@dataclass(frozen=True)
class Convolution(Layer):
    """A convolution of one group, zero-padded."""

    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    bias_cancels: bool = False
    """Whether the next layer subtracts the mean, and with it the bias: its gradient is zero, which sums would only
    come near, by several times the rounding of all the others."""


@dataclass(frozen=True)
class Conv2d(Convolution):
    """Of one task; x ``[X, channels, height, width]``."""

    @property
    def stacked(self) -> "StackedConv2d":
        return StackedConv2d(**{own.name: getattr(self, own.name) for own in fields(self)})

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        return self._map(x, p[self.weight], p.get(self.bias)), (x,)

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        dx, dw, _ = self._vjp(dy, saved[0], p[self.weight], needs_dx, True, False)
        return dx, {self.weight: dw, **self._of_bias(p, dy)}

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        weight_dot = dot.get(self.weight)
        y_dot = None
        if x_dot is not None and weight_dot is not None:  # both terms in one convolution
            inputs, weights = torch.cat([x_dot, saved[0]], dim=1), torch.cat([p[self.weight], weight_dot], dim=1)
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
        found[self.weight] = self._vjp(both_dy, both_x, weight, False, True, False)[1]
        if not needs_dx:
            return None, found
        if self.weight in dot:
            dy_dot, weight = torch.cat([dy_dot, dy], dim=1), torch.cat([weight, dot[self.weight]])
        return self._vjp(dy_dot, x, weight, True, False, False)[0], found

    def _of_bias(self, p: Params, dy: Tensor) -> Params:
        if not self.bias:
            return {}
        return {self.bias: torch.zeros_like(p[self.bias]) if self.bias_cancels else dy.sum(dim=(0, 2, 3))}

    def _map(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def _vjp(
        self, dy: Tensor, x: Tensor, weight: Tensor, *needs: bool
    ) -> tuple[Tensor, Tensor, Tensor]:  # None where not needed
        found: tuple[Tensor, Tensor, Tensor] = aten.convolution_backward(
            dy, x, weight, [dy.shape[1]], self.stride, self.padding, self.dilation, False, [0, 0], 1, list(needs)
        )
        return found


@dataclass(frozen=True)
class StackedConv2d(Convolution):
    """Of b tasks, as a linear layer that reads each place's window; x ``[b, X, channels, height, width]``.

    Devices are fast at batched products. The other way are grouped convolutions, which cuDNN takes apart into one
    kernel for each task where they are strided. Images lie in memory as ``[b, X, height, width, channels]``.
    A bias that cancels is left out.
    """

    @cached_property
    def linear(self) -> Linear:
        """Of the windows, in the form of a matrix."""
        return Linear(self.weight, "" if self.bias_cancels else self.bias)

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        axes, matrices = self._axes(p, x.shape), self._matrices(p)
        seen = windows(x.movedim(2, -1), *axes)
        with of_convolutions(x.device.type):
            y, _ = self.linear.forward(matrices, seen)
        return _images(y, axes), (seen, axes, matrices)

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        seen, axes, matrices = saved
        with of_convolutions(dy.device.type):
            found = self.linear.backward(matrices, (seen,), _rows(dy), needs_dx)
        return self._of_images(p, found, dy.shape[1], axes)

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        seen, axes, matrices = saved
        matrices_dot = self._matrices(dot)
        seen_dot = None if x_dot is None else windows(x_dot.movedim(2, -1), *axes)
        with of_convolutions(seen.device.type):
            y_dot, own = self.linear.tangent(matrices, matrices_dot, (seen,), seen_dot)
        if y_dot is None and self.bias in dot:
            y_dot = seen.new_zeros(()).expand(*seen.shape[:2], p[self.bias].shape[-1])
        return None if y_dot is None else _images(y_dot, axes), (own, matrices_dot)

    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        (seen, axes, matrices), (own, matrices_dot) = saved, dot_saved
        with of_convolutions(dy.device.type):
            found = self.linear.tangent_backward(
                matrices, matrices_dot, (seen,), own, _rows(dy), _rows(dy_dot), needs_dx
            )
        return self._of_images(p, found, dy_dot.shape[1], axes)

    def _axes(self, p: Params, shape: torch.Size) -> tuple[Axis, Axis]:
        settings = zip(shape[-2:], p[self.weight].shape[-2:], self.stride, self.padding, self.dilation, strict=True)
        down, across = (Axis(*one) for one in settings)
        return down, across

    def _matrices(self, p: Params) -> Params:
        """Kernels ``[(b,) out, in, height, width]`` as ``[(b,) out, height * width * in]``, the bias as it is."""
        found = {n: p[n] for n in (self.linear.bias,) if n in p}
        if self.weight in p:
            weight = p[self.weight]
            same = weight.ndim == 5 and weight.stride(0) == 0  # as at θ_0, which products know to make use of
            matrix = (weight[0] if same else weight).movedim(-3, -1).flatten(-3)
            found[self.weight] = matrix.expand(len(weight), *matrix.shape) if same else matrix
        return found

    def _of_images(self, p: Params, found: Found, n: int, axes: tuple[Axis, Axis]) -> Found:
        """Gradients in the windows and matrices as those in n images and in kernels."""
        of_windows, of_matrices = found
        matrix, (_, channels, *kernel) = of_matrices[self.weight], p[self.weight].shape[-4:]
        of_kernels = matrix.view(*matrix.shape[:-1], *kernel, channels).movedim(-1, -3).contiguous()
        grads = {**of_matrices, self.weight: of_kernels}
        if self.bias and self.bias_cancels:
            grads[self.bias] = torch.zeros_like(p[self.bias])
        return (None if of_windows is None else overlaid(of_windows, n, *axes).movedim(-1, 2)), grads


def _rows(images: Tensor) -> Tensor:
    """Images ``[b, X, channels, height, width]`` as vectors ``[b, X * places, channels]``."""
    return images.movedim(2, -1).flatten(1, 3)


def _images(rows: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """The reverse."""
    down, across = axes
    n = rows.shape[1] // (down.places * across.places)
    return rows.view(len(rows), n, down.places, across.places, rows.shape[-1]).movedim(-1, 2)
