"""Muon as it is meant: for the matrices of hidden layers, beside AdamW for everything else."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

A, B, C = 3.4445, -4.7750, 2.0315
"""Of the polynomial that is iterated, as Jordan has it."""
ITERATIONS = 5
MOMENTUM = 0.95


class MuonWithAdamW(Optimizer):
    """Muon for matrices but those of embeddings and of the head; AdamW, at the same rate, for the rest.

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
            self.parts.append(Muon(hidden, lr, weight_decay))
        if others:
            self.parts.append(torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay))
        super().__init__([p for _, p in found], {"lr": lr})
        self.param_groups = [group for part in self.parts for group in part.param_groups]  # a schedule changes both

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        assert closure is None
        for part in self.parts:
            part.step()


class Muon(Optimizer):
    """``torch.optim.Muon`` with ``match_rms_adamw`` in the parameters' own precision.

    torch's own computes in bfloat16, which takes twenty times as long as float32 on a CPU without instructions for it.

    Args:
        params: matrices.
        lr: of an update whose elements are of AdamW's size.
        weight_decay: decoupled.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """``b ← μ b + (1 − μ) g,  θ ← (1 − lr λ) θ − 0.2 √(larger side) lr · orthogonalised(μ b + (1 − μ) g)``."""
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"]
                buffer.lerp_(p.grad, 1 - MOMENTUM)
                update = orthogonalised(p.grad.lerp(buffer, MOMENTUM))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-0.2 * math.sqrt(max(p.shape)) * group["lr"])


def orthogonalised(matrix: Tensor) -> Tensor:
    """``U S' Vᵀ`` of ``U S Vᵀ`` with all of S' near 1, by Newton and Schulz."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def _is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and not name.startswith(("head", "embedding"))
