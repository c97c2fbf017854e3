"""Adam, RMSProp and AdaGrad as inner steps: rates divided by the size of the gradients so far, all of it learned.

The small number stands inside the square root, ``√(v + ε²)``: at a gradient of zero, where ``√v`` has no derivative,
the step then has all of them. ε is what counts as no gradient: below it a step is ``η g / ε``, no longer ``± η``, and
its derivative in g, by which the Hessian is multiplied, is ``η / ε`` at most.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.base import Coefficients, Params, State, Steps, beside, key_of, no_momentum
from metasgd.rules.initial_values import Bounds, Start, logit, outside
from metasgd.rules.learned_rates import LearnedRates, of_each

V = "v."
"""A state's key for the mean, or the sum, of the square gradients of the parameter NAME is ``v.NAME``."""
LEAST_EPS = 1e-15
"""Its square is a number in float32."""


class _OverRoot(LearnedRates):
    """Base: rates η divided by the root of v, which the state holds."""

    fixed = ("eps",)

    def __init__(self, init: Start, eps: float, bounds: Bounds) -> None:
        super().__init__(init, bounds)
        raise_problems(outside("eps", eps, LEAST_EPS, math.inf))
        self.eps = eps

    def init_state(self, params: Params) -> State:
        return {V + n: torch.zeros_like(p) for n, p in params.items()}

    def rates(self, v: Params) -> Params:
        """``η / √(v + ε²)`` of every parameter."""
        return {n: self.eta[key_of(n)] * (t + self.eps**2).rsqrt() for n, t in v.items()}


class InnerAdaGrad(_OverRoot):
    """AdaGrad, with a learned rate for every tensor.

    ``v_{s+1} = v_s + g_s²,  θ_{s+1} = θ_s − η g_s / √(v_{s+1} + ε²)``

    Args:
        init: where every η starts: a number, or ``[low, high]`` from which one number is drawn for all.
        eps: ε, what counts as no gradient.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.

    Example:
        >>> rule = InnerAdaGrad(0.5)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=2)
        >>> theta, state = {"w": torch.zeros(2)}, rule.init_state({"w": torch.zeros(2)})
        >>> for s in range(2):
        ...     theta, state = rule(s, theta, {"w": torch.tensor([3.0, 0.0])}, torch.zeros(()), state)
        >>> [round(x, 3) for x in theta["w"].tolist()]  # −0.5 (1 + 1/√2), and what has no gradient stays
        [-0.854, 0.0]

    References:
        Duchi, Hazan, Singer, JMLR 2011.
    """

    def __init__(self, init: Start = 0.01, eps: float = 1e-4, bounds: Bounds = None) -> None:
        super().__init__(init, eps, bounds)

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        v = {n: state.get(V + n, 0.0) + g.square() for n, g in grads.items()}
        return Coefficients(self.rates(v), memory=_with_means(state, v))


class InnerRMSProp(_OverRoot):
    """RMSProp, with a learned rate and a learned decay for every tensor.

    ``v_{s+1} = σ(ρ) v_s + (1 − σ(ρ)) g_s²,  θ_{s+1} = θ_s − η g_s / √(v_{s+1} + ε²)``

    Args:
        init: where every η starts: a number, or ``[low, high]`` from which one number is drawn for all.
        decay: where every σ(ρ) starts, above 0 and below 1.
        eps: ε, what counts as no gradient.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.

    Example:
        >>> rule = InnerRMSProp(0.1, decay=0.75)
        >>> rule.bind({"w": torch.zeros(1)}, inner_steps=1)
        >>> theta, state = {"w": torch.zeros(1)}, rule.init_state({"w": torch.zeros(1)})
        >>> theta, state = rule(0, theta, {"w": torch.tensor([4.0])}, torch.zeros(()), state)
        >>> round(theta["w"].item(), 3), round(state["v.w"].item(), 3)  # −0.1 · 4 / √(0.25 · 16)
        (-0.2, 4.0)

    References:
        Tieleman and Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012.
    """

    def __init__(self, init: Start = 0.01, decay: float = 0.9, eps: float = 1e-4, bounds: Bounds = None) -> None:
        super().__init__(init, eps, bounds)
        raise_problems(outside("decay", decay, 0, 1))
        self.decay = decay
        self.rho = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.rho = of_each(params, logit(self.decay))

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        v = _mean_squares(self.rho, grads, state)
        return Coefficients(self.rates(v), memory=_with_means(state, v))


class InnerAdam(_OverRoot):
    """Adam, with a learned rate and two learned decays for every tensor.

    ``a_{s+1} = β₁ a_s + (1 − β₁) g_s,  v_{s+1} = β₂ v_s + (1 − β₂) g_s²,``
    ``θ_{s+1} = θ_s − η â / √(v̂ + ε²)``

    with ``β = σ(ρ)``, ``â = a_{s+1} / (1 − β₁^{s+1})`` and ``v̂ = v_{s+1} / (1 − β₂^{s+1})``. Its momentum is stored as
    ``m = a / (1 − β₁)``, the sum that all rules with a momentum keep.

    Args:
        init: where every η starts: a number, or ``[low, high]`` from which one number is drawn for all.
        beta1: where every β₁ starts, above 0 and below 1.
        beta2: where every β₂ starts, above 0 and below 1.
        eps: ε, what counts as no gradient.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.

    Example:
        >>> rule = InnerAdam(0.01)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=1)
        >>> theta = {"w": torch.zeros(2)}
        >>> theta, _ = rule(0, theta, {"w": torch.tensor([5.0, -0.3])}, torch.zeros(()), rule.init_state(theta))
        >>> [round(x, 4) for x in theta["w"].tolist()]  # the first step is η against the sign
        [-0.01, 0.01]

    References:
        Kingma and Ba, ICLR 2015 (arXiv 1412.6980).
    """

    def __init__(
        self, init: Start = 0.01, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-4, bounds: Bounds = None
    ) -> None:
        super().__init__(init, eps, bounds)
        raise_problems(outside("beta1", beta1, 0, 1) + outside("beta2", beta2, 0, 1))
        self.beta1, self.beta2 = beta1, beta2
        self.rho1, self.rho2 = nn.ParameterDict(), nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.rho1, self.rho2 = of_each(params, logit(self.beta1)), of_each(params, logit(self.beta2))

    def init_state(self, params: Params) -> State:
        return super().init_state(params) | no_momentum(params)

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        v = _mean_squares(self.rho2, grads, state)
        rates = self.rates({n: t / beside(_seen(self.rho2[key_of(n)], step), t) for n, t in v.items()})
        rho1 = {n: self.rho1[key_of(n)] for n in grads}
        shares = {n: torch.sigmoid(-rho1[n]) / beside(_seen(rho1[n], step), g) for n, g in grads.items()}
        momenta = {n: rho.sigmoid() for n, rho in rho1.items()}
        return Coefficients({n: shares[n] * rates[n] for n in grads}, momenta, _with_means(state, v))


def _mean_squares(rho: nn.ParameterDict, grads: Params, state: State) -> Params:
    """``σ(ρ) v + (1 − σ(ρ)) g²`` of every parameter."""
    rhos = {n: rho[key_of(n)] for n in grads}
    return {n: rhos[n].sigmoid() * state.get(V + n, 0.0) + (-rhos[n]).sigmoid() * g.square() for n, g in grads.items()}


def _seen(rho: Tensor, step: Steps) -> Tensor:
    """``1 − σ(ρ)^{s+1}``, how much of a mean is not its start at zero; to all digits where σ(ρ) is close to 1."""
    return -torch.expm1((step + 1) * F.logsigmoid(rho))


def _with_means(state: State, v: Params) -> State:
    """What has no gradient this time keeps its mean."""
    return {k: t for k, t in state.items() if k.startswith(V)} | {V + n: t for n, t in v.items()}
