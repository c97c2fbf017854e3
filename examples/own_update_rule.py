"""An update rule of your own: the sign of the gradient, with a learned step size for each tensor.

    θ_{s+1} = θ_s − exp(ρ_tensor) tanh(k g_s)

``python -m metasgd fit --config configs/sinusoid.yaml --model.update_rule examples.own_update_rule.SmoothSign``
meta-trains it, run from the folder above this one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasgd.rules import UpdateRule


class SmoothSign(UpdateRule):
    """Steps by a smooth sign of the gradient, so that second derivatives exist.

    Args:
        init: where every step size starts.
        steepness: k.
    """

    reads_loss = False
    fixed = ("steepness",)

    def __init__(self, init: float = 0.01, steepness: float = 100.0) -> None:
        super().__init__()
        self.init, self.steepness = init, steepness
        self.rho = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.rho = nn.ParameterDict({n.replace(".", "/"): torch.tensor(self.init).log() for n in params})

    def forward(self, step, params, grads, loss, state):
        """``(θ_{s+1}, m_{s+1})``; there is no momentum."""
        size = {n: self.rho[n.replace(".", "/")].exp() for n in params}
        return {n: p - size[n] * torch.tanh(self.steepness * grads[n]) for n, p in params.items()}, {}
