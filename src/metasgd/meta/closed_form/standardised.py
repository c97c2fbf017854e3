"""A convolution of known inputs and the BatchNorm after it, as one linear map with other weights.

A convolution is a product with columns c, the patches of its input. How W c is spread over a batch follows from how
c is:

    γ x̂ + β = γ r W (c − c̄) + β  with  r = (diag(W C Wᵀ) + ε)^(−1/2),  C the covariance of c

So the two layers are the linear map ``W' (c − c̄) + β`` with ``W' = γ r W``, a function of a few weights, and none
of the passes over a large batch of activations is left that BatchNorm consists of. The convolution's bias cancels.

Shapes: k = channels · kernel height · kernel width numbers in a column; ``[out, k]`` weights.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from metasgd.rules.gradient_descent import Params


@dataclass(frozen=True)
class Standardised:
    """A convolution followed by a BatchNorm: by the names of W, of the convolution's bias if it has one, of γ and β."""

    weight: str
    bias: str
    gamma: str
    beta: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    eps: float

    @property
    def names(self) -> frozenset[str]:
        return frozenset({self.weight, self.bias, self.gamma, self.beta} - {""})

    def columns(self, images: Tensor) -> Tensor:
        """``c − c̄`` of ``[X, channels, height, width]``, by place in the output: ``[X, k, height, width]``, k last."""
        found = F.unfold(images, self.kernel, self.dilation, self.padding, self.stride)
        found = (found - found.mean(dim=(0, 2), keepdim=True)).mT.contiguous()
        sizes = zip(images.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        height, width = ((size + 2 * pad - dil * (k - 1) - 1) // step + 1 for size, k, step, pad, dil in sizes)
        return found.view(len(images), height, width, found.shape[-1]).permute(0, 3, 1, 2)


class Fold:
    """W' as a function of (W, γ): its gradient, and how both change along a direction ω of (W, γ).

    Args:
        names: of the parameters.
        p: all the network's parameters.
        columns: ``[places, k]``, centred.
    """

    def __init__(self, names: Standardised, p: Params, columns: Tensor) -> None:
        self.names, self.p = names, p
        self.covariance = columns.mT @ columns / len(columns)
        self.w = p[names.weight].flatten(1)
        self.cw = self.w @ self.covariance
        self.r = ((self.cw * self.w).sum(dim=1, keepdim=True) + names.eps).rsqrt()
        self.gamma = p[names.gamma].unsqueeze(1)
        self.weights = {**p, names.weight: self.gamma * self.r * self.w}
        self.taken_back: Tensor | None = None  # the last gradient in W', for ``tangent_backward``

    def backward(self, found: Params) -> Params:
        """A gradient in W' and β to that in W, the convolution's bias, γ and β; others stay as they are."""
        d = self.taken_back = found[self.names.weight]
        u = (d * self.w).sum(dim=1, keepdim=True)
        dw = (self.gamma * self.r) * d - (self.gamma * self.r**3 * u) * self.cw
        return self._in_place_of(found, dw, self.r * u)

    def tangent(self, dot: Params) -> Params:
        """How the weights change along ω."""
        if not self._moves(dot):
            return dot
        _, w_dot, _, s_dot = self._moved(dot)
        return {**dot, self.names.weight: s_dot * self.w + (self.gamma * self.r) * w_dot}

    def tangent_backward(self, dot: Params, found_dot: Params) -> Params:
        """How what ``backward`` gave changes along ω, when what it was given changes by ``found_dot``."""
        if not self._moves(dot):
            return self.backward(found_dot)
        assert self.taken_back is not None
        d, d_dot = self.taken_back, found_dot[self.names.weight]
        w, r, gamma = self.w, self.r, self.gamma
        gamma_dot, w_dot, r_dot, s_dot = self._moved(dot)
        u = (d * w).sum(dim=1, keepdim=True)
        u_dot = (d_dot * w + d * w_dot).sum(dim=1, keepdim=True)
        t = gamma * r**3
        t_dot = gamma_dot * r**3 + 3 * gamma * r**2 * r_dot
        dw_dot = (
            s_dot * d + (gamma * r) * d_dot - (t_dot * u + t * u_dot) * self.cw - (t * u) * (w_dot @ self.covariance)
        )
        return self._in_place_of(found_dot, dw_dot, r_dot * u + r * u_dot)

    def _moves(self, dot: Params) -> bool:
        return self.names.weight in dot or self.names.gamma in dot

    def _moved(self, dot: Params) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """γ̇, Ẇ, ṙ and the change of γ r."""
        w_dot = dot[self.names.weight].flatten(1) if self.names.weight in dot else torch.zeros_like(self.w)
        gamma_dot = dot[self.names.gamma].unsqueeze(1) if self.names.gamma in dot else torch.zeros_like(self.gamma)
        r_dot = -(self.r**3) * (w_dot * self.cw).sum(dim=1, keepdim=True)
        return gamma_dot, w_dot, r_dot, gamma_dot * self.r + self.gamma * r_dot

    def _in_place_of(self, found: Params, of_w: Tensor, of_gamma: Tensor) -> Params:
        names = self.names
        own = {names.weight: of_w.reshape(self.p[names.weight].shape), names.gamma: of_gamma.squeeze(1)}
        if names.bias:
            own[names.bias] = torch.zeros_like(self.p[names.bias])
        return {**found, **own}
