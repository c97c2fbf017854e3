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

from metasgd.adaptation import InnerStep, Learner, TaskStack, leaves
from metasgd.episode import Episode
from metasgd.update_rules import Params, State


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


class _Reverse:
    """The reverse pass over one stack's inner steps: λ and ν, and what has been gathered so far."""

    def __init__(self, stack: TaskStack, first_order: bool) -> None:
        self.stack = stack
        self.first_order = first_order
        self.rule = stack.learner.rule
        self.phi = {n: p for n, p in self.rule.named_parameters() if p.requires_grad}
        self.phi_grads = {n: torch.zeros_like(p) for n, p in self.phi.items()}
        self.shared_grads = {n: torch.zeros_like(p) for n, p in stack.shared.items()}
        self.lam = {n: torch.zeros_like(p) for n, p in stack.start.items()}
        self.nu: State = {}

    def _pull(self, outputs: list[tuple[Tensor, Tensor]], params: Params) -> None:
        """Add ``cotangent · ∂output/∂(θ_s, shared θ)`` of each pair to λ and to the shared gradients."""
        outputs = [(out, cotangent) for out, cotangent in outputs if out.requires_grad]
        if not outputs:
            return
        inputs = [*params.values(), *self.stack.shared.values()]
        outs, cotangents = zip(*outputs, strict=True)
        pulled = torch.autograd.grad(outs, inputs, cotangents, allow_unused=True)
        for name, g in zip([*params, *self.stack.shared], pulled, strict=True):
            if g is not None:
                into = self.lam if name in params else self.shared_grads
                into[name] = into[name] + g

    def query(self, params: Params, weight: float) -> tuple[Tensor, Tensor]:
        """Add ``weight · ∇ L(f(θ; query))``; return the losses and the outputs, detached."""
        with torch.enable_grad():
            losses, outputs = self.stack.query_loss(params)
        self._pull([(losses, torch.full_like(losses, weight))], params)
        return losses.detach(), outputs.detach()

    def step(self, s: int, step: InnerStep) -> None:
        """Go back over inner step s."""
        loss, grads = step.loss, step.grads
        if grads is None:
            loss, grads = self.stack.loss_and_grads(step.params, create_graph=not self.first_order)
        theta, g, m = leaves(step.params), leaves(grads), leaves(step.state)
        loss_leaf = loss.detach().requires_grad_()
        with torch.enable_grad():
            new_theta, new_m = self.rule(s, theta, g, loss_leaf, m)
        outputs = [(new_theta[n], self.lam[n]) for n in new_theta]
        outputs += [(new_m[n], self.nu[n]) for n in self.nu]
        outs, cotangents = zip(*outputs, strict=True)
        inputs = [*theta.values(), *g.values(), *m.values(), loss_leaf, *self.phi.values()]
        pulled = iter(torch.autograd.grad(outs, inputs, cotangents, allow_unused=True))
        self.lam = {n: _or_zero(next(pulled), p) for n, p in theta.items()}
        omega = {n: next(pulled) for n in g}
        self.nu = {n: _or_zero(next(pulled), p) for n, p in m.items()}
        ell = next(pulled)
        for n, p in self.phi.items():
            self.phi_grads[n] = self.phi_grads[n] + _or_zero(next(pulled), p)

        back: list[tuple[Tensor, Tensor]] = []
        if not self.first_order:
            back += [(grads[n], w) for n, w in omega.items() if w is not None]
        if ell is not None:
            if self.first_order:  # the graph of L_s was not kept; rules that look at the loss are few
                with torch.enable_grad():
                    loss = self.stack.support_loss(step.params)
            back.append((loss, ell))
        self._pull(back, step.params)


def meta_gradient(
    learner: Learner,
    theta: Params,
    tasks: Episode,
    inner_steps: int,
    first_order: bool = False,
    recompute: bool = False,
    query_weights: Sequence[float] | None = None,
) -> MetaGradient:
    """The outer loss of ``tasks`` and its gradient in θ and φ, by the recursion at the head of this file.

    Args:
        learner: what adapts.
        theta: θ, by name; these values are used, not those in ``learner.network``.
        tasks: b tasks; more than one are stacked.
        inner_steps: S, at least 1.
        first_order: leave out the Hessian term.
        recompute: run each inner step again in the reverse pass instead of keeping its graph: memory that
            does not grow with S by more than ``θ_s`` and ``m_s``, for one more support pass per step.
        query_weights: ``w_1 … w_S`` of the multi-step loss (MAML++); by default only the last counts.
    """
    weights = [0.0] * (inner_steps - 1) + [1.0] if query_weights is None else list(query_weights)
    stack = TaskStack(learner, theta, tasks)
    steps, final, chosen = stack.adapt(inner_steps, graph=not first_order, recompute=recompute)
    reverse = _Reverse(stack, first_order)
    query_losses, outputs = reverse.query(final, weights[-1])
    support_losses = torch.stack([step.loss.detach() for step in steps], dim=-1)
    for s in reversed(range(inner_steps)):
        step = steps.pop()
        reverse.step(s, step)
        if s and weights[s - 1]:
            reverse.query(step.params, weights[s - 1])
    gathered = reverse.lam | reverse.shared_grads
    b = tasks.n_tasks
    return MetaGradient(
        theta={n: gathered[n].sum_to_size(p.shape) for n, p in theta.items()},
        phi=reverse.phi_grads,
        support_losses=support_losses.reshape(b, inner_steps),
        query_losses=query_losses.reshape(b),
        outputs=outputs if stack.lead else outputs[None],
        chosen={c: x if stack.lead else x[None] for c, x in chosen.items()},
    )


def merge_gradients(parts: Iterable[MetaGradient]) -> MetaGradient:
    """The meta-gradient of all the parts' tasks, summed in the order given."""
    first, *others = parts
    theta, phi = dict(first.theta), dict(first.phi)
    for part in others:
        for total, more in ((theta, part.theta), (phi, part.phi)):
            for name, g in more.items():
                total[name] = total[name] + g
    every = (first, *others)
    return MetaGradient(
        theta=theta,
        phi=phi,
        support_losses=torch.cat([p.support_losses for p in every]),
        query_losses=torch.cat([p.query_losses for p in every]),
        outputs=torch.cat([p.outputs for p in every]),
        chosen={c: torch.cat([p.chosen[c] for p in every]) for c in first.chosen},
    )


def _or_zero(g: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if g is None else g
