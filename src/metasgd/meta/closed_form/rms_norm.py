"""Root mean square normalisation in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.meta.closed_form.layers import Found, Layer, Saved
from metasgd.rules.base import Params


@dataclass(frozen=True)
class RMSNorm(Layer):
    """``y = r x`` with ``r = (mean(x²) + eps)^(−1/2)``, each example by its own; x ``[…, X, features]``.

    dy/dx is the symmetric map ``J v = r (v − y mean(y v))``, which the gradient and the tangent share.
    """

    eps: float | None = None
    """None for the least that x's type can add to 1, as in torch."""

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        r = (_mean(x, x) + eps).rsqrt_()
        y = r * x
        return y, (y, r)

    def _j(self, saved: Saved, v: Tensor) -> tuple[Tensor, Tensor]:
        """``J v`` and ``mean(y v)``."""
        y, r = saved
        m = _mean(y, v)
        return r * torch.addcmul(v, y, m, value=-1), m

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        return (self._j(saved, dy)[0] if needs_dx else None), {}

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        if x_dot is None:
            return None, ()
        y_dot, m = self._j(saved, x_dot)
        return y_dot, (y_dot, m)

    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        if not needs_dx:
            return None, {}
        dx_dot, _ = self._j(saved, dy_dot)
        if dot_saved:
            (y, r), (y_dot, m) = saved, dot_saved
            # d/dω (J dy) = J ẏ − r m J dy − r (ẏ mean(y dy) + y mean(ẏ dy)), since ṙ = −r² m
            dx, along = self._j(saved, dy)
            dx_dot = dx_dot - r * (m * dx + along * y_dot + _mean(y_dot, dy) * y)
        return dx_dot, {}


def _mean(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).mean(dim=-1, keepdim=True)
