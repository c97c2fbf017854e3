"""DoG with the average of its weights, which its authors evaluate."""

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

GAMMA = 8.0
"""Of the average, as the package has it: the larger, the less old weights count."""


class AveragedDoG(Optimizer):
    """``dog.DoG`` with its package's polynomial average ``x̄_t = x̄_{t−1} + (1 + γ)/(t + γ) (x_t − x̄_{t−1})``.

    ``eval()`` gives the parameters the average, ``train()`` the weights that are trained.

    Args:
        named: parameters by name.
        lr: c, 1 as its authors have it.

    References:
        Ivgi, Hinder, Carmon 2023: DoG is SGD's best friend, https://arxiv.org/abs/2302.12022
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float) -> None:
        params = [p for _, p in named]
        super().__init__(params, {"lr": lr})
        self.of_package = import_module("dog").DoG(params, lr=lr)
        self.n_steps = 0
        self._trained: list[Tensor] = []

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step, and the average with it."""
        assert closure is None
        self.of_package.step()
        self.n_steps += 1
        [group] = self.of_package.param_groups
        for p, start in zip(group["params"], group["init_buffer"], strict=True):
            state = self.state[p]
            if not state:
                state |= {"start": start, "average": torch.zeros_like(p)}  # the package holds the start elsewhere
            state["average"].lerp_(p, (1 + GAMMA) / (self.n_steps + GAMMA))

    @torch.no_grad()
    def eval(self) -> None:
        """Give the parameters the average of their weights."""
        if not self._trained:
            self._trained = [p.detach().clone() for p in self.state]
            for p, state in self.state.items():
                p.copy_(state["average"])

    @torch.no_grad()
    def train(self) -> None:
        """Give them back the weights that are trained."""
        if self._trained:
            for p, trained in zip(self.state, self._trained, strict=True):
                p.copy_(trained)
            self._trained = []
