"""The inner loop over b stacked tasks, apart from how derivatives are found.

One task, S inner steps, network f, loss L, update rule u with parameters φ:

    θ_0 = θ,  m_0 = 0
    g_s = ∇ L(f(θ_s; support))
    (θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.meta.closed_form.from_module import read
from metasgd.meta.closed_form.network import FeedForward
from metasgd.nn.calling import Slots, slots_of
from metasgd.nn.networks import class_agnostic_names
from metasgd.rules.gradient_descent import CHOSEN, Params, State, UpdateRule

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs ``[X, …]`` and targets ``[X, …]`` of one task to its mean loss, a scalar."""


@dataclass(frozen=True)
class InnerLoopConfig:
    """What adapts, and how: everything about a task's adaptation that is not the task.

    Attributes:
        network: f. It is called with other weights than its own, so two threads must not share it.
        rule: u, bound to the names in ``adapted``. Its parameters are φ.
        loss: L.
        adapted: the names of the parameters that adapt; the others stay at θ in every inner step.
        transductive: whether BatchNorm normalises the query set by the query set's own statistics, as
            published, or by those of the support set, so that no query example sees another.
        closed_form: use closed-form derivatives where the network and the loss have them; else autograd.
    """

    network: nn.Module
    rule: UpdateRule
    loss: Loss
    adapted: frozenset[str]
    transductive: bool = True
    closed_form: bool = True

    @cached_property
    def feed_forward(self) -> FeedForward | None:
        """The network by its layers, if their derivatives are known in closed form and may be used."""
        return read(self.network, self.loss) if self.closed_form else None

    @cached_property
    def theta(self) -> Params:
        """The network's parameters by name: they stay the same ones, and to look for them takes a while."""
        return dict(self.network.named_parameters())

    @cached_property
    def phi(self) -> Params:
        """The rule's parameters by name."""
        return dict(self.rule.named_parameters())

    @cached_property
    def slots(self) -> Slots:
        """Where the network holds each of its parameters."""
        return slots_of(self.network)

    @cached_property
    def frozen(self) -> frozenset[str]:
        """Names of the parameters that neither adapt nor have a gradient: those with ``requires_grad`` false."""
        return frozenset(n for n, p in self.theta.items() if not p.requires_grad and n not in self.adapted)

    @cached_property
    def agnostic(self) -> frozenset[str]:
        """Names of the parameters whose single row a task expands to its N ways."""
        return class_agnostic_names(self.network)


Tape = Any
"""What a stack remembers of a support pass, to differentiate ``g_s`` and ``L_s``: its own business."""


@dataclass(frozen=True)
class InnerStep:
    """One inner step before the rule has stepped: ``θ_s, m_s, L_s, g_s``, and a tape to differentiate the last two."""

    params: Params
    state: State
    loss: Tensor
    grads: Params
    tape: Tape | None


class InnerLoop(ABC):
    """b tasks side by side, each with weights of its own.

    Weights and losses have the leading shape ``lead``: ``[]`` for one task, ``[b]`` for several. Tensors
    that go in and out carry no graph.

    Attributes:
        start: ``θ_0`` of what adapts, ``[*lead, …]``.
        shared: θ of what does not adapt, of θ's own shapes.
    """

    def __init__(self, learner: InnerLoopConfig, theta: Params, tasks: Episode) -> None:
        self.learner = learner
        self.lead = () if tasks.n_tasks == 1 else (tasks.n_tasks,)
        support_x, support_y, query_x, query_y = (f if self.lead else f[0] for f in tasks[:4])
        self.support_set = support_x, support_y
        self.query_set = query_x, query_y
        self.start: Params = {}
        self.shared: Params = {}
        for name, p in theta.items():
            if name in learner.adapted:
                rows = (tasks.n_way, *p.shape[1:]) if name in learner.agnostic else p.shape
                self.start[name] = p.detach().expand(*self.lead, *rows)
            else:
                self.shared[name] = p.detach()
        self.shared_rows = {n: tasks.n_way for n in self.shared if n in learner.agnostic}

    def weights(self, params: Params, shared: Params) -> Params:
        """All the network's weights: those that adapt, and the others expanded to a task's ways."""
        rows = self.shared_rows
        return {**params, **{n: p.expand(rows[n], *p.shape[1:]) if n in rows else p for n, p in shared.items()}}

    @abstractmethod
    def support(self, params: Params, keep: bool) -> tuple[Tensor, Params, Tape | None]:
        """``L_s`` of shape ``lead``, ``g_s``, and a tape to differentiate them if ``keep``.

        Raises:
            UserError: a parameter that should adapt does not influence the loss.
        """

    @abstractmethod
    def vjp(self, params: Params, tape: Tape | None, omega: Params, ell: Tensor | None) -> Params:
        """``ω · ∂g_s + ℓ · ∂L_s``, in ``params`` and in the shared weights, where it is not zero.

        Args:
            params: ``θ_s``.
            tape: of the support pass at ``θ_s``; if None, that pass is made again.
            omega: ω, of ``g_s``'s shapes; missing where zero.
            ell: ℓ, of shape ``lead``, or None.
        """

    @abstractmethod
    def query(self, params: Params) -> tuple[Tensor, Tensor]:
        """``L(f(θ; query))``, of shape ``lead``, and the outputs ``[*lead, X, …]``."""

    @abstractmethod
    def query_and_grads(self, params: Params) -> tuple[Tensor, Tensor, Params]:
        """The same, and the gradient of the losses in ``params`` and in the shared weights."""

    def step(self, params: Params, state: State, keep: bool) -> InnerStep:
        """The support pass at ``θ_s`` and ``m_s``, with its tape if ``keep``."""
        loss, grads, tape = self.support(params, keep)
        return InnerStep(params, state, loss, grads, tape)

    def adapt(self, inner_steps: int) -> tuple[list[InnerStep], Params, dict[str, Tensor]]:
        """Take S inner steps; return them, ``θ_S``, and what the rule chose, ``[*lead, S, …]``."""
        rule = self.learner.rule
        params, state = self.start, rule.init_state(self.start)
        steps = []
        with torch.no_grad():
            for s in range(inner_steps):
                steps.append(self.step(params, state, keep=False))
                params, state = rule(s, params, steps[-1].grads, steps[-1].loss, state)
        states = [*(step.state for step in steps[1:]), state]
        chosen = {c: torch.stack([m[c] for m in states], dim=len(self.lead)) for c in CHOSEN if c in state}
        return steps, params, chosen
