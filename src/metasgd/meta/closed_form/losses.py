"""Losses in closed form."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from metasgd.meta.closed_form.layers import Saved

IGNORED = -100
"""The label of an example that counts for nothing, as ``F.cross_entropy`` has it."""


class LossForm(ABC):
    """A mean loss over examples: outputs ``[*lead, X, outputs]``."""

    shift_invariant = False
    """Whether it stays as it is when all outputs of an example grow by the same."""

    @abstractmethod
    def forward(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Saved]:
        """The loss ``[*lead]``, its gradient in the outputs, and what ``tangent`` needs."""

    @abstractmethod
    def tangent(self, saved: Saved, outputs_dot: Tensor) -> Tensor:
        """How that gradient changes along ``outputs_dot``."""

    @abstractmethod
    def fits(self, x: Tensor, y: Tensor, n_outputs: int) -> bool:
        """Whether targets ``[B, X, …]`` beside inputs ``[B, X, …]`` are of the kind that is meant here."""


class CrossEntropy(LossForm):
    """``L = −1/n Σ log softmax(outputs)_y`` over the n examples whose target counts."""

    shift_invariant = True

    def forward(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Saved]:
        log_p, counts = outputs.log_softmax(dim=-1), (y != IGNORED).unsqueeze(-1)
        at, n = torch.where(counts, y.unsqueeze(-1), 0), counts.sum(dim=-2, keepdim=True)
        share = counts / n.to(log_p.dtype)
        loss = -(log_p.gather(-1, at) * share).sum(dim=(-2, -1))
        p = log_p.exp()
        return loss, p.scatter_add(-1, at, p.new_full((), -1.0).expand(at.shape)).mul_(share), (p, share)

    def tangent(self, saved: Saved, outputs_dot: Tensor) -> Tensor:
        p, share = saved
        moved: Tensor = p * outputs_dot
        return moved.addcmul_(p, moved.sum(dim=-1, keepdim=True), value=-1).mul_(share)

    def fits(self, x: Tensor, y: Tensor, n_outputs: int) -> bool:
        return y.shape == x.shape[:2] and y.dtype == torch.int64


class MeanSquaredError(LossForm):
    """The mean of ``(outputs − y)²`` over examples and outputs."""

    def forward(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Saved]:
        error = outputs - y
        return error.square().mean(dim=(-2, -1)), error * (2 / error.shape[-2:].numel()), ()

    def tangent(self, saved: Saved, outputs_dot: Tensor) -> Tensor:
        return outputs_dot * (2 / outputs_dot.shape[-2:].numel())

    def fits(self, x: Tensor, y: Tensor, n_outputs: int) -> bool:
        return y.shape == (*x.shape[:2], n_outputs) and y.dtype == x.dtype
