"""The parameters of a step with their gradients, in the form in which they can be computed with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from metasgd.rules.answers import GradientSize

HALF = (torch.float16, torch.bfloat16)


@dataclass(slots=True)
class Entry:
    """A parameter with its gradient.

    Attributes:
        name: that the rule knows it by.
        parameter: the user's own.
        shape: its own shape, of which a scale is.
        theta: its values to be updated in place: itself, or a float32 copy of a half-precision one.
        grad: of ``theta``'s type and shape.
        state: its own part of the optimizer's state.
        group: the settings of its group.
    """

    name: str
    parameter: Tensor
    shape: torch.Size
    theta: Tensor
    grad: Tensor
    state: dict[str, Any]
    group: dict[str, Any]

    def buffer(self, key: str, rows: bool = False) -> Tensor:
        """A tensor of the state, made of zeros where there is none: of θ's shape, or a number for each of its rows."""
        if key not in self.state:
            like = self.theta
            self.state[key] = like.new_zeros(like.shape[:1]) if rows else torch.zeros_like(like)
        held: Tensor = self.state[key]
        return torch.view_as_real(held) if held.is_complex() and not self.theta.is_complex() else held

    def write_back(self) -> None:
        """Bring the values into a half-precision parameter."""
        if self.parameter.dtype in HALF:
            self.parameter.copy_(self.theta)


def entry_of(name: str, p: Tensor, state: dict[str, Any], group: dict[str, Any], real: bool) -> Entry:
    """The entry of a parameter that has a gradient.

    Half precision is computed in float32, in which squares neither vanish nor overflow. A sparse gradient is made
    dense. A complex parameter is two real ones for a rule with a number for each tensor, as torch's own optimizers
    have it.

    Args:
        name: that the rule knows it by.
        p: the parameter.
        state: its own part of the optimizer's state.
        group: the settings of its group.
        real: take complex numbers as pairs of real ones.
    """
    theta, grad = p, p.grad
    assert grad is not None
    if grad.layout != torch.strided:
        grad = grad.to_dense()
    if p.dtype in HALF:
        theta = theta.float()
    if real and p.is_complex():
        theta, grad = torch.view_as_real(theta), torch.view_as_real(grad.resolve_conj())
    if grad.dtype != theta.dtype:
        grad = grad.to(theta.dtype)
    return Entry(name, p, p.shape, theta, grad, state, group)


def entries_of(
    names: Sequence[str], group: dict[str, Any], states: Mapping[Any, dict[str, Any]], real: bool
) -> list[Entry]:
    """Those of a group's parameters that have a gradient; arguments as for one."""
    of_group = zip(names, group["params"], strict=True)
    return [entry_of(n, p, states[p], group, real) for n, p in of_group if p.grad is not None]


def stand_ins(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a rule is bound to: the parameters, those of half precision in the type that they are computed in.

    One without a shape yet, as of a lazy layer, is nothing.
    """
    found = {n: torch.empty(0, dtype=p.dtype, device=p.device) if is_lazy(p) else p for n, p in params.items()}
    return {n: torch.empty_like(p, dtype=torch.float32) if p.dtype in HALF else p for n, p in found.items()}


def norms_of(tensors: list[Tensor]) -> list[float]:
    """The norm of each tensor, read off the device at once."""
    return stacked(torch._foreach_norm(tensors)).tolist() if tensors else []


def products_of(first: list[Tensor], second: list[Tensor]) -> list[Tensor]:
    """The inner product of each pair, over all entries."""
    found = []
    for a, b in zip(first, second, strict=True):
        if a.ndim > 2 and not (a.is_contiguous() and b.is_contiguous()):
            a, b = a.movedim(1, -1), b.movedim(1, -1)  # as they lie where both have their channels last
        alike = a.is_contiguous() and b.is_contiguous()
        # a dot product makes no tensor of the entries' products
        found.append(torch.dot(a.view(-1), b.view(-1)) if alike else (a * b).sum())
    return found


def channels_last(t: Tensor) -> Tensor:
    """A tensor whose channels lie last in memory, as a view that names them last; any other as it is."""
    return t if t.is_contiguous() or t.ndim < 3 else t.movedim(1, -1)


def stacked(figures: Any) -> Tensor:
    """Figures of tensors that may be of several types and devices, in one tensor of float64 where that is possible."""
    first = figures[0]
    wide = torch.float32 if first.device.type == "mps" else torch.float64
    return torch.stack([figure.to(first.device) for figure in figures] if _differ(figures) else list(figures)).to(wide)


def _differ(figures: Any) -> bool:
    first = figures[0]
    return any(figure.dtype != first.dtype or figure.device != first.device for figure in figures)


def size_of(entries: list[Entry], norms: list[float]) -> GradientSize:
    """Of all the gradients together, from the norm of each."""
    return GradientSize(math.fsum(norm * norm for norm in norms), sum(entry.grad.numel() for entry in entries))
