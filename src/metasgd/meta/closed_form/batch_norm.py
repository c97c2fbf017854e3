"""Batch normalisation in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.meta.closed_form.layers import Found, Kept, Layer, aten
from metasgd.rules.gradient_descent import Params


@dataclass(frozen=True)
class BatchNorm(Layer):
    """``y = γ x̂ + β`` with ``x̂ = r (x − mean)`` by the batch's own statistics; x ``[X, channels, height, width]``.

    dx̂/dx is the symmetric map ``J v = r (v − mean(v) − x̂ mean(x̂ v))``, which the gradient and the tangent share.
    """

    eps: float = 1e-5

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Kept]:
        y, mean, r = aten.native_batch_norm(x, p[self.weight], p[self.bias], None, None, True, 0.0, self.eps)
        return y, (x, mean, r)

    def _j(self, kept: Kept, v: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``γ J v``, ``Σ x̂ v``, ``Σ v``."""
        x, mean, r = kept
        found: tuple[Tensor, Tensor, Tensor] = aten.native_batch_norm_backward(
            v, x, gamma, None, None, mean, r, True, self.eps, [True, True, True]
        )
        return found

    def backward(self, p: Params, kept: Kept, dy: Tensor, needs_dx: bool) -> Found:
        dx, d_gamma, d_beta = self._j(kept, dy, p[self.weight])
        return (dx if needs_dx else None), {self.weight: d_gamma, self.bias: d_beta}

    def tangent(self, p: Params, dot: Params, kept: Kept, x_dot: Tensor | None) -> tuple[Tensor | None, Kept]:
        if x_dot is None and not self.names & dot.keys():
            return None, ()
        x, mean, r = kept
        gamma, zero = p[self.weight], torch.zeros_like(mean)
        x_dot = torch.zeros_like(x) if x_dot is None else x_dot
        normed_dot, s, _ = self._j(kept, x_dot, torch.ones_like(mean))
        scale = dot.get(self.weight, zero) * r
        y_dot = _affine(normed_dot, gamma, dot.get(self.bias, zero) - scale * mean).addcmul_(x, _each(scale))
        return y_dot, (normed_dot, s)

    def tangent_backward(
        self, p: Params, dot: Params, kept: Kept, dot_kept: Kept, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        x, mean, r = kept
        dx_dot, gamma_dot, beta_dot = self._j(kept, dy_dot, p[self.weight])
        if dot_kept:
            normed_dot, s = dot_kept
            gamma, m = p[self.weight], x.numel() / len(mean)
            sums = (0, 2, 3)
            moved = (dy * normed_dot).sum(dim=sums)
            gamma_dot = gamma_dot + moved
            if needs_dx:
                # d/dω (γ J dy) = γ J ẏ + (γ̇ − γ r mean(x̂ ẋ)) J dy − γ r (mean(x̂ dy) x̂̇ + x̂ mean(x̂̇ dy))
                m1 = dy.sum(dim=sums) / m
                m2 = ((dy * x).sum(dim=sums) / m - mean * m1) * r
                gr = gamma * r
                a = dot.get(self.weight, torch.zeros_like(r)) * r - gr * r * s / m
                c = -(a * m2 + gr * moved / m) * r
                dx_dot = dx_dot + _affine(dy, a, -a * m1 - c * mean)
                dx_dot.addcmul_(normed_dot, _each(-gr * m2)).addcmul_(x, _each(c))
        return (dx_dot if needs_dx else None), {self.weight: gamma_dot, self.bias: beta_dot}


def _each(per_channel: Tensor) -> Tensor:
    return per_channel[:, None, None]


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``scale x + shift`` by channel."""
    return torch.addcmul(_each(shift), x, _each(scale))
