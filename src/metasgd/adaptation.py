"""The inner loop, for one task or for b tasks stacked.

One task, S inner steps, network f, loss L, update rule u with parameters φ:

    θ_0 = θ,  m_0 = 0
    g_s = ∇ L(f(θ_s; support))
    (θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)

Pure functions: they read a network and a rule, and change neither.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metasgd.episode import Episode
from metasgd.errors import refuse
from metasgd.networks import class_agnostic_names, statistics_from_first
from metasgd.update_rules import CHOSEN, Params, State, UpdateRule

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

    def adapt(
        self, inner_steps: int, graph: bool = False, recompute: bool = False
    ) -> tuple[list[InnerStep], Params, dict[str, Tensor]]:
        """Take the inner steps; return them, ``θ_S`` as leaves, and what the rule chose, ``[*lead, S, …]``.

        Args:
            inner_steps: S.
            graph: keep in each step the graph from ``θ_s`` to ``g_s`` and ``L_s``.
            recompute: keep neither that graph nor ``g_s``.
        """
        rule = self.learner.rule
        params, state = leaves(self.start), rule.init_state(self.start)
        steps = []
        for s in range(inner_steps):
            loss, grads = self.loss_and_grads(params, create_graph=graph and not recompute)
            steps.append(InnerStep(params, state, loss, None if recompute else grads))
            with torch.no_grad():
                params, state = rule(s, params, grads, loss, state)
            params = leaves(params)
        states = [*(step.state for step in steps[1:]), state]
        chosen = {c: torch.stack([m[c] for m in states], dim=len(self.lead)) for c in CHOSEN if c in state}
        return steps, params, chosen


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
    steps, final, _ = stack.adapt(inner_steps)
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


def merge_judgements(parts: Iterable[Judgement]) -> Judgement:
    """The judgement of all the parts' tasks, in the order given."""
    every = tuple(parts)
    return Judgement(
        support_losses=torch.cat([p.support_losses for p in every]),
        query_losses=torch.cat([p.query_losses for p in every]),
        outputs=torch.cat([p.outputs for p in every]),
    )


def leaves(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().requires_grad_() for n, t in tensors.items()}


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
