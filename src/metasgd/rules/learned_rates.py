"""Learned rates by name, which every rule that has them steps by in its own way."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasgd.rules.base import UpdateRule, key_of, name_of
from metasgd.rules.initial_values import Bounds, Start, checked_bounds, draw


class LearnedRates(UpdateRule):
    """Base of rules with learned rates η: one for every tensor of θ, where ``make_rates`` makes no others.

    Args:
        init: where every η starts: a number, or ``[low, high]`` from which one number is drawn for all.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.
    """

    reads_loss = False

    def __init__(self, init: Start = 0.1, bounds: Bounds = None) -> None:
        super().__init__()
        self.init: Start = init
        self.bounds = checked_bounds(bounds, init)
        self.eta = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.eta = self.make_rates(params, draw(self.init), inner_steps)

    def make_rates(self, params: Mapping[str, Tensor], start: float, inner_steps: int) -> nn.ParameterDict:
        """η, all from the same start."""
        return of_each(params, start)

    def serves(self) -> Mapping[str, torch.Size | None] | None:
        return dict.fromkeys(self.names)

    def learned_rates(self) -> dict[str, nn.Parameter]:
        return {name_of(k): eta for k, eta in self.eta.items()}


def of_each(params: Mapping[str, Tensor], start: float) -> nn.ParameterDict:
    """A number for every tensor, all from the same start."""
    return nn.ParameterDict({key_of(n): p.new_tensor(start) for n, p in params.items()})
