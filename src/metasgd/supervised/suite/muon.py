"""Muon as it is meant: for the matrices of hidden layers, beside AdamW for everything else."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class MuonWithAdamW(Optimizer):
    """``torch.optim.Muon`` for matrices but those of embeddings and of the head; AdamW, at the same rate, for the rest.

    Muon's updates are scaled to the size of AdamW's, so that one rate serves both.

    Args:
        named: parameters by name; ``head`` and ``embedding`` in a name say what it belongs to.
        lr: of both.
        weight_decay: of both, decoupled.

    References:
        Jordan 2024: Muon, https://kellerjordan.github.io/posts/muon/; Liu et al. 2025, https://arxiv.org/abs/2502.16982.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> None:
        found = list(named)
        hidden = [p for name, p in found if _is_hidden_matrix(name, p)]
        others = [p for name, p in found if not _is_hidden_matrix(name, p)]
        self.parts: list[Optimizer] = []
        if hidden:
            self.parts.append(
                torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            )
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay))
        super().__init__([p for _, p in found], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # a schedule changes both

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        assert closure is None
        for part in self.parts:
            part.step()


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and not name.startswith(("head", "embedding"))
