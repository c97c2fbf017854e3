"""The learned optimizers: pure functions of (step, θ, g, L, m) with parameters φ of their own.

Every rule serves one task (``loss`` of shape ``[]``) and B tasks at once (``loss`` of shape ``[B]``, every
θ, g and m with a leading B) by the same code: what a rule learns broadcasts from the right.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasgd.errors import UserError

Params = dict[str, Tensor]
State = dict[str, Tensor]


class UpdateRule(nn.Module):
    """Base of all rules. A rule is bound once to the names and shapes of what it updates."""

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        """Create the parameters φ for these θ. Called once, before the outer optimizer is made."""

    def init_state(self, params: Params) -> State:  # noqa: ARG002 - rules without memory need no θ
        """``m_0`` for the given θ: nothing, for a rule without momentum."""
        return {}

    def forward(self, step: int, params: Params, grads: Params, loss: Tensor, state: State) -> tuple[Params, State]:
        """``(θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)``, differentiable in all of them and in φ."""
        raise NotImplementedError

    def rates(self) -> dict[str, Tensor]:
        """The learning rates that do not depend on the loss, by parameter name; for logging."""
        return {}


class PerParameter(UpdateRule):
    """Meta-SGD: a rate for every parameter, of free sign (Li et al. 2017, eq. 1).

    ``θ_{s+1} = θ_s − α ⊙ g_s``

    Args:
        init: where every α starts: a number, or ``[low, high]`` from which one number is drawn for all.
    """

    def __init__(self, init: float | tuple[float, float] = 0.1) -> None:
        super().__init__()
        self.init = init
        self.alpha = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:  # noqa: ARG002
        start = draw_init("init", self.init)
        for name, p in params.items():
            self.alpha[key_of(name)] = nn.Parameter(torch.full_like(p, start))

    def forward(
        self,
        step: int,  # noqa: ARG002
        params: Params,
        grads: Params,
        loss: Tensor,  # noqa: ARG002
        state: State,
    ) -> tuple[Params, State]:
        return {n: p - self.alpha[key_of(n)] * grads[n] for n, p in params.items()}, state

    def rates(self) -> dict[str, Tensor]:
        return {name_of(k): a.detach() for k, a in self.alpha.items()}


def key_of(name: str) -> str:
    """A parameter's name as ``nn.ParameterDict`` takes it: dots would name a submodule."""
    return name.replace(".", "/")


def name_of(key: str) -> str:
    return key.replace("/", ".")


def draw_init(option: str, init: float | tuple[float, float]) -> float:
    """A start value: the number itself, or one drawn uniformly from ``(low, high)``."""
    low, high = init if isinstance(init, tuple | list) else (init, init)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UserError(
            f"model.update_rule.init_args.{option} is {init}: a finite number, or [low, high] with low <="
            " high, is needed"
        )
    return low if low == high else float(torch.empty(()).uniform_(low, high))
