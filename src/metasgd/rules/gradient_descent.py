"""Gradient descent with learned rates: Meta-SGD and its relatives, each a few lines that read like its equation."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from metasgd.errors import raise_problems
from metasgd.rules.base import (
    Coefficients,
    Cotangents,
    Params,
    State,
    Steps,
    UpdateRule,
    beside,
    key_of,
    name_of,
    no_momentum,
)
from metasgd.rules.blocks import block_of
from metasgd.rules.initial_values import Bounds, Start, checked_bounds, draw, logit, outside
from metasgd.rules.learned_rates import LearnedRates, of_each


class PerParameter(UpdateRule):
    """Meta-SGD: a rate for every parameter, of free sign (Li et al. 2017, eq. 1).

    ``θ_{s+1} = θ_s − α ⊙ g_s``

    Args:
        init: where every α starts: a number, or ``[low, high]`` from which one number is drawn for all.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.

    Example:
        >>> rule = PerParameter(0.5)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=3)
        >>> theta, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([2.0, -1.0])}
        >>> stepped, _ = rule(0, theta, grads, torch.zeros(()), {})
        >>> stepped["w"].tolist()
        [-1.0, 0.5]

    References:
        Li, Zhou, Chen and Li, Meta-SGD, 2017 (arXiv 1707.09835).
    """

    reads_loss = False

    def __init__(self, init: Start = 0.1, bounds: Bounds = None) -> None:
        super().__init__()
        self.init: Start = init
        self.bounds = checked_bounds(bounds, init)
        self.alpha = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        start = draw(self.init)
        self.alpha = nn.ParameterDict({key_of(n): torch.full_like(p, start) for n, p in params.items()})

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        return Coefficients(rates={n: self.alpha[key_of(n)] for n in grads})

    def vjp(
        self, step: int, params: Params, grads: Params, loss: Tensor, state: State, lam: Params, nu: State
    ) -> Cotangents:
        """``λ' = λ, ω = −α* ⊙ λ, dα = −g* ⊙ λ``, as autograd would find it, at a fraction of the time."""
        if type(self) is not PerParameter:  # what inherits from this one steps in another way
            return super().vjp(step, params, grads, loss, state, lam, nu)
        alpha = {n: self.alpha[key_of(n)] for n in grads}
        of_alpha = {n: -(grads[n].conj() * lam[n]).sum_to_size(a.shape) for n, a in alpha.items() if a.requires_grad}
        return Cotangents(
            params=lam,
            grads={n: -a.detach().conj() * lam[n] for n, a in alpha.items()},
            loss=None,
            state={},
            phi={f"alpha.{key_of(n)}": t for n, t in of_alpha.items()},
        )

    def serves(self) -> Mapping[str, torch.Size | None] | None:
        return {n: self.alpha[key_of(n)].shape for n in self.names}

    def learned_rates(self) -> dict[str, nn.Parameter]:
        return {name_of(k): alpha for k, alpha in self.alpha.items()}


class PerParameterMomentum(PerParameter):
    """Meta-SGD with a learned momentum coefficient for every tensor.

    ``m_{s+1} = σ(ρ) m_s + g_s,  θ_{s+1} = θ_s − α ⊙ m_{s+1}``

    Args:
        init: where every α starts: a number, or ``[low, high]`` from which one number is drawn for all.
        momentum: where every coefficient σ(ρ) starts, above 0 and below 1.
        bounds: ``[low, high]`` that the rates α are clipped to; none by default.

    Example:
        >>> rule = PerParameterMomentum(0.5, momentum=0.5)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=3)
        >>> theta, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([2.0, -1.0])}
        >>> _, m = rule(0, theta, grads, torch.zeros(()), rule.init_state(theta))
        >>> stepped, _ = rule(1, theta, grads, torch.zeros(()), m)
        >>> stepped["w"].tolist()  # −α (σ(ρ) g + g)
        [-1.5, 0.75]
    """

    def __init__(self, init: Start = 0.1, momentum: float = 0.5, bounds: Bounds = None) -> None:
        super().__init__(init, bounds)
        raise_problems(outside("momentum", momentum, 0, 1))
        self.momentum = momentum
        self.rho = nn.ParameterDict()

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        self.rho = of_each(params, logit(self.momentum))

    def init_state(self, params: Params) -> State:
        return no_momentum(params)

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        return Coefficients(
            rates={n: self.alpha[key_of(n)] for n in grads},
            momenta={n: self.rho[key_of(n)].sigmoid() for n in grads},
        )


class PerLayerPerStep(LearnedRates):
    """A rate for every tensor and every inner step (LSLR of MAML++, Antoniou et al. 2019, section 4).

    ``θ_{s+1} = θ_s − η_{tensor, s} g_s``; steps beyond those it was trained with use the last rate.

    Args:
        init: where every rate starts: a number, or ``[low, high]`` from which one number is drawn for all.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.

    Example:
        >>> rule = PerLayerPerStep(0.5)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=3)
        >>> rule.learned_rates()["w"].tolist()
        [0.5, 0.5, 0.5]

    References:
        Antoniou, Edwards and Storkey, How to train your MAML, ICLR 2019 (arXiv 1810.09502).
    """

    def make_rates(self, params: Mapping[str, Tensor], start: float, inner_steps: int) -> nn.ParameterDict:
        return nn.ParameterDict({key_of(n): p.new_full((inner_steps,), start) for n, p in params.items()})

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        return Coefficients(rates={n: beside(at_step(self.eta[key_of(n)], step), g) for n, g in grads.items()})


class PerBlock(LearnedRates):
    """A rate for every block of the network: tens for one of 20 million parameters (see ``metasgd.rules.blocks``).

    ``θ_{s+1} = θ_s − η_{block} g_s``

    Args:
        init: where every rate starts: a number, or ``[low, high]`` from which one number is drawn for all.
        bounds: ``[low, high]`` that the rates are clipped to; none by default.

    Example:
        >>> rule = PerBlock(0.5)
        >>> rule.bind(dict(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).named_parameters()), inner_steps=1)
        >>> {block: rate.item() for block, rate in rule.learned_rates().items()}
        {'0': 0.5, '1': 0.5}
    """

    def make_rates(self, params: Mapping[str, Tensor], start: float, inner_steps: int) -> nn.ParameterDict:
        return nn.ParameterDict({key_of(block_of(n)): p.new_tensor(start) for n, p in params.items()})

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        return Coefficients(rates={n: self.eta[key_of(block_of(n))] for n in grads})


class Scalar(UpdateRule):
    """One learned rate for everything, with a given momentum coefficient.

    ``m_{s+1} = μ m_s + g_s,  θ_{s+1} = θ_s − η m_{s+1}``

    Args:
        init: where η starts: a number, or ``[low, high]`` to draw it from.
        momentum: μ, from 0 to below 1; not learned.
        bounds: ``[low, high]`` that η is clipped to; none by default.

    Example:
        >>> rule = Scalar(0.5)
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=3)
        >>> theta, grads = {"w": torch.zeros(2)}, {"w": torch.tensor([2.0, -1.0])}
        >>> stepped, _ = rule(0, theta, grads, torch.zeros(()), {})
        >>> stepped["w"].tolist()
        [-1.0, 0.5]
    """

    reads_loss = False
    fixed = ("momentum",)

    def __init__(self, init: Start = 0.1, momentum: float = 0.0, bounds: Bounds = None) -> None:
        super().__init__()
        raise_problems(outside("momentum", momentum, 0, 1, low_allowed=True))
        self.bounds, self.momentum = checked_bounds(bounds, init), momentum
        self.init: Start = init
        self.start = draw(init)
        self.eta = nn.Parameter(torch.tensor(self.start))

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        super().bind(params, inner_steps)
        first = next(iter(params.values()))
        self.eta.data = first.new_tensor(self.start, dtype=first.dtype.to_real())

    def init_state(self, params: Params) -> State:
        return no_momentum(params) if self.momentum else {}

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        mu = self.eta.new_tensor(self.momentum) if self.momentum else None
        return Coefficients(dict.fromkeys(grads, self.eta), None if mu is None else dict.fromkeys(grads, mu))

    def learned_rates(self) -> dict[str, nn.Parameter]:
        return {"all parameters": self.eta}


class Fixed(Scalar):
    """Plain gradient descent with a given rate and momentum: nothing is learned but θ (MAML).

    ``m_{s+1} = μ m_s + g_s,  θ_{s+1} = θ_s − η m_{s+1}``

    Args:
        init: η, a number, or ``[low, high]`` to draw it from.
        momentum: μ, from 0 to below 1.

    Example:
        >>> rule = Fixed(0.5)
        >>> rule.learned_rates(), rule.eta.item()
        ({}, 0.5)

    References:
        Finn, Abbeel and Levine, Model-agnostic meta-learning, ICML 2017 (arXiv 1703.03400).
    """

    def __init__(self, init: Start = 0.1, momentum: float = 0.0) -> None:
        super().__init__(init, momentum)
        self.eta.requires_grad_(False)

    def learned_rates(self) -> dict[str, nn.Parameter]:
        return {}


def at_step(each: Tensor, step: Steps) -> Tensor:
    """Of a figure for each step that of step s, or the last; ``[B]`` where each task is at a step of its own."""
    last = len(each) - 1
    return each[min(step, last)] if isinstance(step, int) else each[step.clamp_max(last)]
