"""The optimizer network with each parameter's rate scaled: by the size of its gradients, and by that of its layer."""

import torch
from torch import Tensor

from metasgd.rules.gradient_descent import Coefficients, Params, State, Steps, beside
from metasgd.rules.optimizer_network import OptimizerNetwork

V = "v."
"""A state's key for the mean square gradient of the parameter NAME is ``v.NAME``."""
DECAY = 0.99
SMALLEST = 1e-6
"""What counts as no gradient: below it a parameter's rate grows no more."""
OF_A_VECTOR = 0.1
"""The scale of biases and of a normalisation's weights, which have no inputs to count: as of a layer of 100."""


class ScaledOptimizerNetwork(OptimizerNetwork):
    """The optimizer network's (η, μ), with η shared out to the parameters by their gradients and their layers.

    ``v_{s+1} = δ v_s + (1 − δ) g_s²,  m_{s+1} = μ_s m_s + g_s,  θ_{s+1} = θ_s − η_s c m_{s+1} / √(v̂ + ε²)``

    with δ = 0.99, ε = 1e-6 and ``v̂ = v_{s+1} / (1 − δ^{s+1})``, which takes its start at zero out of the mean
    (Adam, Kingma and Ba 2015). c is 1/√(inputs of a unit), by which layers are initialised, and 0.1 for vectors.
    So η is the size of a step relative to that of the weights, and what was learned on one architecture means the
    same on another. Its arguments are the optimizer network's.
    """

    def init_state(self, params: Params) -> State:
        return super().init_state(params) | {V + n: torch.zeros_like(p) for n, p in params.items()}

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        eta, mu, memory = super().coefficients(step, grads, loss, state)
        before = {k: t for k, t in state.items() if k.startswith(V)}
        v = {}
        for n, g in grads.items():
            new = (1 - DECAY) * g.square()
            v[n] = torch.add(new, before[V + n], alpha=DECAY) if V + n in before else new
        seen = 1 - DECAY ** (torch.as_tensor(step, dtype=loss.dtype, device=loss.device) + 1)
        rates = {
            n: eta[n] * scale_of(t.shape[loss.ndim :]) * (t / beside(seen, t) + SMALLEST**2).rsqrt()
            for n, t in v.items()
        }
        # what has no gradient this time keeps its mean
        return Coefficients(rates, mu, memory | before | {V + n: t for n, t in v.items()})


def scale_of(shape: torch.Size) -> float:
    """c, of a parameter ``[units, inputs of a unit …]`` or of a vector."""
    return shape[1:].numel() ** -0.5 if len(shape) > 1 else OF_A_VECTOR
