"""The exact meta-gradient, at a memory that does not grow with a graph per inner step.

    outer loss = Σ_s w_s L(f(θ_s; query)),  by default w_S = 1 and no other

Its gradient is not taken through a graph of the whole inner loop. It runs backwards over the steps, carrying
λ = d outer / d θ_{s+1} and ν = d outer / d m_{s+1}, and needs of the forward pass only θ_s, m_s, g_s and L_s:

    (λ', ω, ℓ, ν', dφ) = (λ, ν) · ∂u/∂(θ_s, g_s, L_s, m_s, φ)
    λ ← λ' + ω · ∂²L_s/∂θ² + ℓ g_s + w_s ∇ L(f(θ_s; query)),    ν ← ν'

First order leaves out ``ω · ∂²L_s/∂θ²`` and nothing else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.checkpointing import Backwards
from metasgd.meta.closed_form.inner_loop import ClosedFormInnerLoop
from metasgd.meta.inner_loop import InnerLoop, InnerLoopConfig, InnerStep
from metasgd.rules.base import Params, State


@dataclass(frozen=True)
class MetaGradient:
    """The outer loss of some tasks and its gradient, summed over these tasks.

    Attributes:
        theta: d Σ outer / dθ by name, of θ's shapes.
        phi: d Σ outer / dφ by name, of φ's shapes.
        support_losses: ``[b, S]``, before each inner step.
        query_losses: ``[b]``, after the last.
        outputs: ``[b, X, …]``, the adapted networks' outputs on the query sets.
        chosen: ``[b, S, …]``, the learning rates and momenta, if the rule chose them as it went.
    """

    theta: Params
    phi: Params
    support_losses: Tensor
    query_losses: Tensor
    outputs: Tensor
    chosen: dict[str, Tensor]


def inner_loop_of(config: InnerLoopConfig, theta: Params, tasks: Episode) -> InnerLoop:
    """``tasks`` side by side, their derivatives in closed form where that is known, and by autograd elsewhere.

    Args:
        config: what adapts.
        theta: θ, by name; these values are used, not those in ``config.network``.
        tasks: b tasks.
    """
    network = config.feed_forward
    if (
        network is None
        or not network.fits(theta, tasks)
        or torch.is_autocast_enabled(tasks.support_x.device.type)  # which casts what autograd sees
    ):
        return AutogradInnerLoop(config, theta, tasks)
    return ClosedFormInnerLoop(config, network.stacked if tasks.n_tasks > 1 else network, theta, tasks)


class _Reverse:
    """The reverse pass over one stack's inner steps: λ and ν, and what has been gathered so far."""

    def __init__(self, stack: InnerLoop, first_order: bool) -> None:
        self.stack = stack
        self.first_order = first_order
        self.rule = stack.config.rule
        self.phi: Params = {}
        self.shared: Params = {}
        self.lam: Params = {}
        self.nu: State = {}
        self.centre: Params = {}

    def _add(self, found: Params) -> None:
        """Add to λ, and to the gradients of what does not adapt."""
        for name, g in found.items():
            _add_to(self.lam if name in self.stack.start else self.shared, name, g)

    def query(self, params: Params, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        """Add ``weight · ∇ L(f(θ; query))``; return the losses and the outputs."""
        losses, outputs, grads = self.stack.query_and_grads(self.stack.for_query(params))
        grads = self.stack.for_query_vjp(params, grads)
        alone = not isinstance(weight, Tensor) and weight == 1
        self._add(grads if alone else {n: weight * g for n, g in grads.items()})
        return losses, outputs

    def step(self, s: int, step: InnerStep) -> None:
        """Go back over inner step s."""
        seen = step.adapting(self.stack.config.adapted)
        # what no query loss has reached yet has a derivative of zero
        lam = {n: self.lam[n] if n in self.lam else torch.zeros_like(p) for n, p in seen.params.items()}
        cotangents = self.rule.vjp(s, seen.params, seen.grads, step.loss, step.state, lam, self.nu)
        self.lam, self.nu = (cotangents.params if seen is step else {**self.lam, **cotangents.params}), cotangents.state
        for name, g in cotangents.phi.items():
            _add_to(self.phi, name, g)
        omega = {} if self.first_order else cotangents.grads
        pull = self.stack.config.proximal
        if omega and pull:  # g_s = ∇L + λ (θ_s − θ_0)
            for n, w in omega.items():
                self.lam[n] = self.lam[n] + pull * w
                _add_to(self.centre, n, -pull * w)
        if omega or cotangents.loss is not None:
            self._add(self.stack.vjp(step.params, step.tape, omega, cotangents.loss, s))

    def start(self) -> None:
        """Go back through the start of a prototype head's rows."""
        self._add(self.centre)
        if self.stack.config.prototypes is not None:
            self._add(self.stack.prototype_rows_vjp(self.lam))


def last_alone(inner_steps: int) -> list[float]:
    """``w_1 … w_S`` by which the query loss after the last inner step is the outer loss."""
    return [0.0] * (inner_steps - 1) + [1.0]


def meta_gradient(
    config: InnerLoopConfig,
    theta: Params,
    tasks: Episode,
    inner_steps: int,
    first_order: bool = False,
    recompute: bool = False,
    query_weights: Sequence[float | Tensor] | None = None,
) -> MetaGradient:
    """The outer loss of ``tasks`` and its gradient in θ and φ, by the recursion at the head of this file.

    Args:
        config: what adapts.
        theta: θ, by name; these values are used, not those in ``config.network``.
        tasks: b tasks; more than one are stacked.
        inner_steps: S; 0 leaves the tasks where they start.
        first_order: leave out the Hessian term.
        recompute: run inner steps again in the reverse pass instead of keeping them: memory that does not
            grow with S, for a few more support passes per step (see ``checkpointing.py``).
        query_weights: ``w_1 … w_S`` of the multi-step loss (MAML++); by default only the last counts. Those that are
            tensors are not looked at, and count.
    """
    if query_weights is not None and len(query_weights) != inner_steps:
        raise UserError(f"query_weights has {len(query_weights)} numbers: one for each of {inner_steps} inner steps")
    weights: Sequence[float | Tensor] = last_alone(inner_steps) if query_weights is None else query_weights
    stack = inner_loop_of(config, theta, tasks)
    reverse = _Reverse(stack, first_order)
    if not inner_steps:
        query_losses, outputs = reverse.query(stack.start, 1)
    backwards = Backwards(stack, inner_steps, taped=not first_order, again=recompute)
    for s, step in backwards:
        if s == inner_steps - 1:
            query_losses, outputs = reverse.query(backwards.final, weights[-1])
        reverse.step(s, step)
        if s and (isinstance(weights[s - 1], Tensor) or weights[s - 1]):
            reverse.query(step.params, weights[s - 1])
        del step  # before the next one is made
    reverse.start()
    found = reverse.lam | reverse.shared
    return collected(stack, tasks, found, reverse.phi, backwards.losses, query_losses, outputs, backwards.chosen)


def collected(
    stack: InnerLoop,
    tasks: Episode,
    theta: Params,
    phi: Params,
    losses: Sequence[Tensor],
    query_losses: Tensor,
    outputs: Tensor,
    chosen: dict[str, Tensor],
) -> MetaGradient:
    """The meta-gradient out of what was found for a stack of tasks; what was not found is zero."""
    config = stack.config
    support_losses = torch.stack(list(losses), dim=-1) if losses else query_losses.new_empty(tasks.n_tasks, 0)
    gathered = {n: g for n, g in theta.items() if n not in config.frozen}
    learned = {n: p for n, p in config.phi.items() if p.requires_grad}
    b = tasks.n_tasks
    return MetaGradient(
        theta={
            n: gathered[n].sum_to_size(p.shape) if n in gathered else torch.zeros_like(p)
            for n, p in stack.config.theta.items()
        },
        phi={n: phi[n] if n in phi else torch.zeros_like(p) for n, p in learned.items()},
        support_losses=support_losses.reshape(b, len(losses)),
        query_losses=query_losses.reshape(b),
        outputs=outputs if stack.lead else outputs[None],
        chosen={c: x if stack.lead else x[None] for c, x in chosen.items()},
    )


def merge_gradients(parts: Iterable[MetaGradient]) -> MetaGradient:
    """The meta-gradient of all the parts' tasks, summed in the order given, each as it comes."""
    theta: Params = {}
    phi: Params = {}
    rest = []
    for part in parts:
        for total, more in ((theta, part.theta), (phi, part.phi)):
            for name, g in more.items():
                _add_to(total, name, g)
        rest.append((part.support_losses, part.query_losses, part.outputs, part.chosen))
    support_losses, query_losses, outputs, chosen = zip(*rest, strict=True)
    return MetaGradient(
        theta=theta,
        phi=phi,
        support_losses=torch.cat(support_losses),
        query_losses=torch.cat(query_losses),
        outputs=torch.cat(outputs),
        chosen={c: torch.cat([one[c] for one in chosen]) for c in chosen[0]},
    )


def _add_to(total: Params, name: str, g: Tensor) -> None:
    total[name] = total[name] + g if name in total else g
