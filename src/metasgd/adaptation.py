"""The inner loop and its exact gradient, for one task or for b tasks stacked.

One task, S inner steps, network f, loss L, update rule u with parameters φ:

    θ_0 = θ,  m_0 = 0
    g_s = ∇ L(f(θ_s; support))
    (θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)
    outer loss = Σ_s w_s L(f(θ_s; query)),  by default w_S = 1 and no other

The gradient of the outer loss is not taken through a graph of the whole inner loop. It runs backwards over
the steps, carrying λ = d outer / d θ_{s+1} and ν = d outer / d m_{s+1}, and needs of the forward pass only
θ_s, m_s, g_s and L_s:

    (λ', ω, ℓ, ν', dφ) = (λ, ν) · ∂u/∂(θ_s, g_s, L_s, m_s, φ)
    λ ← λ' + ω · ∂²L_s/∂θ² + ℓ g_s + w_s ∇ L(f(θ_s; query)),    ν ← ν'

so memory does not grow with a graph per inner step. First order leaves out ``ω · ∂²L_s/∂θ²`` and nothing
else. Pure functions: they read a network and a rule, and change neither.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metasgd.episode import Episode
from metasgd.errors import refuse
from metasgd.networks import class_agnostic_names, statistics_from_first
from metasgd.update_rules import Params, State, UpdateRule

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs ``[X, …]`` and targets ``[X, …]`` of one task to its mean loss, a scalar."""


@dataclass(frozen=True)
class Learner:
    """What adapts, and how: everything about a task's adaptation that is not the task.

    Attributes:
        network: f. It is called with other weights than its own, so two threads must not share it.
        rule: u, bound to the names in ``adapted``. Its parameters are φ.
        loss: L.
        adapted: the names of the parameters that adapt; the others stay at θ in every inner step.
        transductive: whether BatchNorm normalises the query set by the query set's own statistics, as
            published, or by those of the support set, so that no query example sees another.
    """

    network: nn.Module
    rule: UpdateRule
    loss: Loss
    adapted: frozenset[str]
    transductive: bool = True


@dataclass(frozen=True)
class MetaGradient:
    """The outer loss of some tasks and its gradient, summed over these tasks.

    Attributes:
        theta: d Σ outer / dθ by name, of θ's shapes.
        phi: d Σ outer / dφ by name, of φ's shapes.
        support_losses: ``[b, S]``, before each inner step.
        query_losses: ``[b]``, after the last.
        outputs: ``[b, X, …]``, the adapted networks' outputs on the query sets.
    """

    theta: Params
    phi: Params
    support_losses: Tensor
    query_losses: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class InnerStep:
    """What the reverse pass needs of one inner step: ``θ_s, m_s, L_s``, and ``g_s`` unless it is recomputed.

    ``params`` are leaves. With exact gradients and no recomputation, ``grads`` and ``loss`` carry the graph
    that led from ``params`` to them.
    """

    params: Params
    state: State
    loss: Tensor
    grads: Params | None


class TaskStack:
    """b tasks side by side, each with weights of its own: one task runs plainly, several under ``vmap``.

    Weights and losses have the leading shape ``lead``: ``[]`` for one task, ``[b]`` for several.
    """

    def __init__(self, learner: Learner, theta: Params, tasks: Episode) -> None:
        self.learner = learner
        self.lead = () if tasks.n_tasks == 1 else (tasks.n_tasks,)
        support_x, support_y, query_x, query_y = (f if self.lead else f[0] for f in tasks[:4])
        self.support = support_x, support_y
        self.query = query_x, query_y
        agnostic = class_agnostic_names(learner.network)
        self.start: Params = {}
        self.shared: Params = {}
        for name, p in theta.items():
            leaf = p.detach().requires_grad_()
            rows = (tasks.n_way, *p.shape[1:]) if name in agnostic else p.shape
            if name in learner.adapted:
                self.start[name] = leaf.detach().expand(*self.lead, *rows)
            else:
                self.shared[name] = leaf
        self.shared_rows = {n: tasks.n_way for n in self.shared if n in agnostic}

    def _outputs(self, params: Params, x: Tensor) -> Tensor:
        shared = {
            n: p.expand(self.shared_rows[n], *p.shape[1:]) if n in self.shared_rows else p
            for n, p in self.shared.items()
        }

        def call(params: Params, x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.learner.network, {**shared, **params}, (x,))
            return outputs

        return vmap(call, randomness="different")(params, x) if self.lead else call(params, x)

    def _losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        loss = self.learner.loss
        return vmap(loss)(outputs, y) if self.lead else loss(outputs, y)

    def support_loss(self, params: Params) -> Tensor:
        """``L(f(θ; support))``, of shape ``lead``."""
        x, y = self.support
        return self._losses(self._outputs(params, x), y)

    def query_loss(self, params: Params) -> tuple[Tensor, Tensor]:
        """``L(f(θ; query))``, of shape ``lead``, and the outputs ``[*lead, X, …]``."""
        x, y = self.query
        if self.learner.transductive:
            outputs = self._outputs(params, x)
        else:
            axis = len(self.lead)
            seen = self.support[0].shape[axis]
            with statistics_from_first(self.learner.network, seen):
                both = self._outputs(params, torch.cat([self.support[0], x], dim=axis))
            outputs = both.narrow(axis, seen, x.shape[axis])
        return self._losses(outputs, y), outputs

    def loss_and_grads(self, params: Params, create_graph: bool) -> tuple[Tensor, Params]:
        """``L_s`` and ``g_s`` at the leaves ``params``.

        Raises:
            UserError: a parameter that should adapt does not influence the loss.
        """
        with torch.enable_grad():
            loss = self.support_loss(params)
            grads = torch.autograd.grad(loss.sum(), list(params.values()), create_graph=create_graph, allow_unused=True)
        return (loss if create_graph else loss.detach()), _all_used(params, grads)

    def adapt(self, inner_steps: int, graph: bool = False, recompute: bool = False) -> tuple[list[InnerStep], Params]:
        """Take the inner steps; return them, and ``θ_S`` as leaves.

        Args:
            inner_steps: S.
            graph: keep in each step the graph from ``θ_s`` to ``g_s`` and ``L_s``.
            recompute: keep neither that graph nor ``g_s``.
        """
        rule = self.learner.rule
        params, state = _leaves(self.start), rule.init_state(self.start)
        steps = []
        for s in range(inner_steps):
            loss, grads = self.loss_and_grads(params, create_graph=graph and not recompute)
            steps.append(InnerStep(params, state, loss, None if recompute else grads))
            with torch.no_grad():
                params, state = rule(s, params, grads, loss, state)
            params = _leaves(params)
        return steps, params


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
        theta, g, m = _leaves(step.params), _leaves(grads), _leaves(step.state)
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
    steps, final = stack.adapt(inner_steps, graph=not first_order, recompute=recompute)
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
    )


@dataclass(frozen=True)
class Judgement:
    """How some tasks went: no gradient, no outer graph.

    Attributes:
        support_losses: ``[b, S]``, before each inner step.
        query_losses: ``[b, J]``, after each of the J judged numbers of steps.
        outputs: ``[b, J, X, …]``, the network's outputs on the query set after each of them.
    """

    support_losses: Tensor
    query_losses: Tensor
    outputs: Tensor


def judge(learner: Learner, theta: Params, tasks: Episode, inner_steps: int, after: Sequence[int]) -> Judgement:
    """Adapt, and judge on the query set after each number of inner steps in ``after`` (0 … S)."""
    stack = TaskStack(learner, theta, tasks)
    steps, final = stack.adapt(inner_steps)
    params = [*(step.params for step in steps), final]
    with torch.no_grad():
        judged = [stack.query_loss(params[s]) for s in after]
    axis, b = len(stack.lead), tasks.n_tasks
    support_losses = torch.stack([step.loss for step in steps], dim=-1) if steps else torch.empty(b, 0)
    outputs = torch.stack([outputs for _, outputs in judged], dim=axis)
    return Judgement(
        support_losses=support_losses.reshape(b, inner_steps),
        query_losses=torch.stack([losses for losses, _ in judged], dim=-1).reshape(b, len(after)),
        outputs=outputs if stack.lead else outputs[None],
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
    )


def merge_judgements(parts: Iterable[Judgement]) -> Judgement:
    """The judgement of all the parts' tasks, in the order given."""
    every = tuple(parts)
    return Judgement(
        support_losses=torch.cat([p.support_losses for p in every]),
        query_losses=torch.cat([p.query_losses for p in every]),
        outputs=torch.cat([p.outputs for p in every]),
    )


def _leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().requires_grad_() for n, t in tensors.items()}


def _or_zero(g: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if g is None else g


def _all_used(params: Params, grads: Sequence[Tensor | None]) -> Params:
    used = {n: g for n, g in zip(params, grads, strict=True) if g is not None}
    refuse(
        [
            f"model.network: the parameter {name} gets no gradient: the loss does not depend on it. Remove it"
            " from the network, or leave it out of what adapts."
            for name in params
            if name not in used
        ]
    )
    return used
