"""Batch normalisation in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.meta.closed_form.layers import Found, Layer, Saved
from metasgd.rules.base import Params

EXAMPLES, PLACES = -4, (-2, -1)
"""The dimensions of images that are not channels."""
MANY_VALUES = 4096
"""Of a channel: so many are summed in two stages on a GPU, which is slow at long sums."""


@dataclass(frozen=True)
class BatchNorm(Layer):
    """``y = γ x̂ + β`` with ``x̂ = r (x − mean)`` by a batch's own statistics; x ``[(b,) X, channels, height, width]``.

    dx̂/dx is the symmetric map ``J v = r (v − mean(v) − x̂ mean(x̂ v))``, which the gradient and the tangent share.

    Torch's own kernels are not used: their sums in float32 are off by up to 2e-4 on a CPU with channels last, and on
    CUDA they would have the tasks among the channels.
    """

    eps: float = 1e-5

    def forward(self, p: Params, x: Tensor) -> tuple[Tensor, Saved]:
        normed, r = self._normalised(x)
        return torch.addcmul(_each(p[self.bias]), normed, _each(p[self.weight])), (normed, r)

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x̂`` and r."""
        if x.is_cuda:  # in the fewest passes over x
            mean, variance = moments(x, at_once=not _has_many(x))
            r = (variance + self.eps).rsqrt_()
            return torch.addcmul(-mean * r, x, r), r
        normed = x - _mean(x)
        r = (_mean(normed.square()) + self.eps).rsqrt_()
        return normed.mul_(r), r

    def backward(self, p: Params, saved: Saved, dy: Tensor, needs_dx: bool) -> Found:
        normed, r = saved
        m, m1, m2 = _values(normed), _mean(dy), _mean(dy * normed)
        dx = _j(dy, m1, m2, normed, r * _each(p[self.weight])) if needs_dx else None
        return dx, {self.weight: _by_channel(m2) * m, self.bias: _by_channel(m1) * m}

    def tangent(self, p: Params, dot: Params, saved: Saved, x_dot: Tensor | None) -> tuple[Tensor | None, Saved]:
        if x_dot is None and not self.names & dot.keys():
            return None, ()
        normed, r = saved
        y_dot = _each(dot[self.bias]) if self.bias in dot else torch.zeros_like(r)
        if self.weight in dot:
            y_dot = torch.addcmul(y_dot, normed, _each(dot[self.weight]))
        if x_dot is None:
            return y_dot.expand_as(normed), ()
        along = _mean(x_dot * normed)
        normed_dot = _j(x_dot, _mean(x_dot), along, normed, r)
        return torch.addcmul(y_dot, normed_dot, _each(p[self.weight])), (normed_dot, along)

    def tangent_backward(
        self, p: Params, dot: Params, saved: Saved, dot_saved: Saved, dy: Tensor, dy_dot: Tensor, needs_dx: bool
    ) -> Found:
        normed, r = saved
        dx_dot, found = self.backward(p, saved, dy_dot, needs_dx)
        gamma_dot = _each(dot[self.weight]) if self.weight in dot else None
        scale = None if gamma_dot is None else gamma_dot * r
        if dot_saved:
            normed_dot, along = dot_saved
            moved, gamma_r = _mean(dy * normed_dot), _each(p[self.weight]) * r
            found[self.weight] = found[self.weight] + _by_channel(moved) * _values(normed)
            scale = -gamma_r * r * along if scale is None else scale - gamma_r * r * along
        if dx_dot is None or scale is None:
            return dx_dot, found
        # d/dω (γ J dy) = γ J ẏ + (γ̇ − γ r mean(x̂ ẋ)) J dy − γ r (mean(x̂ dy) x̂̇ + x̂ mean(x̂̇ dy))
        m2 = _mean(dy * normed)
        dx_dot.addcmul_(dy - _mean(dy), scale)
        if dot_saved:
            dx_dot.addcmul_(normed_dot, -gamma_r * m2)
            return dx_dot.addcmul_(normed, -scale * m2 - gamma_r * moved), found
        return dx_dot.addcmul_(normed, -scale * m2), found


def _each(per_channel: Tensor) -> Tensor:
    """``[(b,) channels]`` as it stands beside images."""
    return per_channel[..., None, :, None, None]


def _by_channel(beside_images: Tensor) -> Tensor:
    """``[(b,) 1, channels, 1, 1]`` to ``[(b,) channels]``."""
    return beside_images[..., 0, :, 0, 0]


def _mean(x: Tensor) -> Tensor:
    """By channel, ``[(b,) 1, channels, 1, 1]``."""
    return mean_of_means(x) if x.is_cuda and _has_many(x) else x.mean(dim=(EXAMPLES, *PLACES), keepdim=True)


def mean_of_means(x: Tensor) -> Tensor:
    """The mean over examples of that over places: on a GPU more sums at a time than there are channels."""
    return x.mean(dim=PLACES, keepdim=True).mean(dim=EXAMPLES, keepdim=True)


def moments(x: Tensor, at_once: bool) -> tuple[Tensor, Tensor]:
    """The mean and the variance by channel.

    Args:
        x: images.
        at_once: of all values; else the variance is the mean of the examples' and that of their means.
    """
    if at_once:
        variance, mean = torch.var_mean(x, dim=(EXAMPLES, *PLACES), correction=0, keepdim=True)
        return mean, variance
    within, means = torch.var_mean(x, dim=PLACES, correction=0, keepdim=True)
    between, mean = torch.var_mean(means, dim=EXAMPLES, correction=0, keepdim=True)
    return mean, within.mean(dim=EXAMPLES, keepdim=True) + between


def _values(x: Tensor) -> int:
    """How many a channel has."""
    return x.shape[EXAMPLES] * x.shape[-2] * x.shape[-1]


def _has_many(x: Tensor) -> bool:
    return _values(x) >= MANY_VALUES


def _j(v: Tensor, mean: Tensor, along: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """``scale (v − mean(v) − x̂ mean(x̂ v))``."""
    return torch.addcmul(-scale * mean, v, scale).addcmul_(normed, scale * along, value=-1)
