"""What every update rule is: a pure function of (step, θ, g, L, m) with parameters φ of its own.

Every rule serves one task (``loss`` of shape ``[]``) and B tasks at once (``loss`` of shape ``[B]``, every
θ, g and m with a leading B) by the same code: what a rule learns broadcasts from the right.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metasgd.construction import Configurable
from metasgd.rules.initial_values import Bounds

Params = dict[str, Tensor]
State = dict[str, Tensor]
Steps = int | Tensor
"""The number of an inner step: of all tasks, or of each, ``[B]``."""

M = "m."
"""A state's key for the momentum of the parameter NAME is ``m.NAME``."""
CHOSEN = ("learning_rate", "momentum")
"""A rule that chooses these as it goes leaves them in the state it returns, for whoever wants to look."""


class Coefficients(NamedTuple):
    """What one step is made with: ``m_{s+1} = μ m_s + g_s,  θ_{s+1} = θ_s − η m_{s+1}``.

    Attributes:
        rates: η of each parameter, by name; of its shape, or a figure for the whole of it.
        momenta: μ of each parameter; none for a rule without momentum, where ``m_{s+1} = g_s``.
        memory: what else the rule keeps in its state.
    """

    rates: Params
    momenta: Params | None = None
    memory: State = {}  # noqa: RUF012 - never written to


@dataclass(frozen=True)
class Cotangents:
    """Cotangents of a rule's inputs: ``(λ, ν) · ∂u/∂(θ_s, g_s, L_s, m_s, φ)``.

    Attributes:
        params: of ``θ_s``.
        grads: of ``g_s``, where it is not zero.
        loss: of ``L_s``, or None where the rule does not look at it.
        state: of ``m_s``, where it is not zero.
        phi: of φ, summed over tasks, where it is not zero.
    """

    params: Params
    grads: Params
    loss: Tensor | None
    state: State
    phi: Params


class UpdateRule(Configurable, nn.Module):
    """Base of all rules. A rule is bound once to the names and shapes of what it updates.

    A rule says by what coefficients it steps; one that steps in another way overrides ``forward``.

    ``(θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)``; by default ``m_{s+1} = μ m_s + g_s,  θ_{s+1} = θ_s − η m_{s+1}``

    Example:
        >>> class SignDescent(UpdateRule):
        ...     def coefficients(self, step, grads, loss, state):
        ...         return Coefficients({n: 0.5 / g.abs() for n, g in grads.items()})
        >>> rule = SignDescent()
        >>> rule.bind({"w": torch.zeros(2)}, inner_steps=1)
        >>> stepped, _ = rule(0, {"w": torch.zeros(2)}, {"w": torch.tensor([2.0, -1.0])}, torch.zeros(()), {})
        >>> stepped["w"].tolist()
        [-0.5, 0.5]
    """

    bounds: Bounds = None
    names: tuple[str, ...] = ()
    """What it is bound to, in the order of the network."""
    reads_loss = True
    """Whether a step depends on the loss."""

    total_steps = 1
    """The steps of a whole training, for a rule that reads how much of it is done."""
    reads_progress = False
    reads_names = False
    """Whether a parameter's name says how it is stepped."""
    takes_stacks = False
    """Whether its own ``forward`` takes φ that differs from task to task, ``[B, …]``, as θ, g and m do."""

    fixed: tuple[str, ...] = ()
    """Its options, by name, that a step depends on beside φ."""

    def identity(self) -> dict[str, Any]:
        """What must be the same for φ to mean the same: the class and the fixed options, in plain types."""
        options = {name: getattr(self, name) for name in self.fixed}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
        return {**plain, "class": type(self).__name__}

    init: float | tuple[float, float] | None = None
    """Where all learned rates start: a number, or a range that it is drawn from; None for a rule without such."""

    def bind(self, params: Mapping[str, Tensor], inner_steps: int) -> None:
        """Create the parameters φ for these θ. Called once, before the outer optimizer is made."""
        self.names = tuple(params)
        self.total_steps = inner_steps

    def look_at(self, shapes: Mapping[str, torch.Size]) -> None:
        """See all the parameters that it will step, by name: one that reads names tells their kinds by these."""

    def serves(self) -> Mapping[str, torch.Size | None] | None:
        """The parameters that φ is bound to, by name, with the shape of those it has as many rates for.

        None: it fits any parameters.
        """
        return None

    def init_state(self, params: Params) -> State:
        """``m_0`` for the given θ: nothing, for a rule without momentum."""
        return {}

    def coefficients(self, step: Steps, grads: Params, loss: Tensor, state: State) -> Coefficients:
        """The coefficients of step s, differentiable in ``g_s``, ``L_s``, ``m_s`` and φ."""
        raise NotImplementedError

    def forward(self, step: Steps, params: Params, grads: Params, loss: Tensor, state: State) -> tuple[Params, State]:
        """``(θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)``, differentiable in all of them and in φ."""
        eta, mu, memory = self.coefficients(step, grads, loss, state)
        if mu is None:
            return {n: torch.addcmul(p, eta[n], grads[n], value=-1) for n, p in params.items()}, dict(memory)
        m = {n: torch.addcmul(grads[n], mu[n], state[M + n]) for n in params}
        return {n: torch.addcmul(p, eta[n], m[n], value=-1) for n, p in params.items()}, {
            **memory,
            **{M + n: v for n, v in m.items()},
        }

    def vjp(
        self, step: int, params: Params, grads: Params, loss: Tensor, state: State, lam: Params, nu: State
    ) -> Cotangents:
        """Take λ = d outer / d θ_{s+1} and ν = d outer / d m_{s+1} back through inner step s.

        Args:
            step: s.
            params: ``θ_s``.
            grads: ``g_s``.
            loss: ``L_s``.
            state: ``m_s``.
            lam: λ, of θ's shapes.
            nu: ν, where it is not zero.
        """
        theta, g, m = ({n: t.detach().requires_grad_() for n, t in part.items()} for part in (params, grads, state))
        loss_leaf = loss.detach().requires_grad_()
        phi = {n: p for n, p in self.named_parameters() if p.requires_grad}
        with torch.enable_grad():
            new_theta, new_m = self(step, theta, g, loss_leaf, m)
        outputs = [(new_theta[n], lam[n]) for n in new_theta] + [(new_m[n], v) for n, v in nu.items()]
        outs, cotangents = zip(*((out, by) for out, by in outputs if out.requires_grad), strict=True)
        inputs = [*theta.values(), *g.values(), *m.values(), loss_leaf, *phi.values()]
        found = iter(torch.autograd.grad(outs, inputs, cotangents, allow_unused=True))
        of_theta, of_grads, of_state = ({n: next(found) for n in part} for part in (theta, g, m))
        of_loss = next(found)
        return Cotangents(
            params={n: torch.zeros_like(theta[n]) if t is None else t for n, t in of_theta.items()},
            grads=_found(of_grads),
            loss=of_loss,
            state=_found(of_state),
            phi=_found({n: next(found) for n in phi}),
        )

    def learned_rates(self) -> dict[str, nn.Parameter]:
        """The learning rates among φ, by the name of what they serve."""
        return {}

    @torch.no_grad()
    def project(self) -> None:
        """Move the learned rates back into their bounds, if there are any; after every outer step."""
        if self.bounds is not None:
            for rate in self.learned_rates().values():
                rate.clamp_(*self.bounds)


def _found(grads: Mapping[str, Tensor | None]) -> Params:
    return {n: g for n, g in grads.items() if g is not None}


def beside(figure: Tensor, g: Tensor) -> Tensor:
    """A figure per task, shaped to broadcast against that task's gradients; one task's broadcasts by itself."""
    return figure.reshape(figure.shape + (1,) * (g.ndim - figure.ndim)) if figure.ndim else figure


def no_momentum(params: Params) -> State:
    """``m_0 = 0`` for every parameter."""
    return {M + n: torch.zeros_like(p) for n, p in params.items()}


def key_of(name: str) -> str:
    """A parameter's name as ``nn.ParameterDict`` takes it: dots would name a submodule, ``keys`` its own method."""
    key = name.replace("~", "~0").replace("/", "~1").replace(".", "/")
    return f"/{key}" if hasattr(_EMPTY, key) else key


def name_of(key: str) -> str:
    """The parameter's name, of which ``key_of`` made this key."""
    return key.removeprefix("/").replace("/", ".").replace("~1", "/").replace("~0", "~")


_EMPTY = nn.ParameterDict()


def without_autocast(of: Tensor) -> AbstractContextManager[None]:
    """What is computed within is in its tensors' own precision: a rule's few numbers are no place to save digits.

    Args:
        of: a tensor on the device where it is computed.
    """
    device_type = of.device.type
    enabled = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()
