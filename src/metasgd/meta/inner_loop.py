"""The inner loop over b stacked tasks, apart from how derivatives are found.

One task, S inner steps, network f, loss L, update rule u with parameters φ:

    θ_0 = θ,  m_0 = 0
    g_s = ∇ L(f(θ_s; support)) + λ (θ_s − θ_0)
    (θ_{s+1}, m_{s+1}) = u_φ(θ_s, g_s, L_s, m_s)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from metasgd.episode import Episode, Experience, as_given
from metasgd.meta.closed_form.from_module import from_module
from metasgd.meta.closed_form.network import FeedForward
from metasgd.nn.calling import Slots, slots_of
from metasgd.nn.heads import PrototypeHead
from metasgd.nn.networks import class_agnostic_names, prototype_head
from metasgd.rules.base import CHOSEN, Params, State, UpdateRule

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
        proximal: λ, how strongly every inner step is drawn towards θ_0.
        closed_form: use closed-form derivatives where the network and the loss have them; else autograd.
        experience: what an inner step learns from, given the task and the network as it is at that step.
        query_loss: of the query set, where that is not L.
        unlearned: names of the parameters that no outer step moves, so that no outer gradient in them is asked for.
    """

    network: nn.Module
    rule: UpdateRule
    loss: Loss
    adapted: frozenset[str]
    transductive: bool = True
    proximal: float = 0.0
    closed_form: bool = True
    experience: Experience = as_given
    query_loss: Loss | None = None
    unlearned: frozenset[str] = frozenset()

    @property
    def feed_forward(self) -> FeedForward | None:
        """The network by its layers, as it is now, if their derivatives are known in closed form and may be used."""
        return from_module(self.network, self.loss) if self.closed_form and self.experience is as_given else None

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
        """Names of the parameters that neither adapt nor learn: unlearned ones, or with ``requires_grad`` false."""
        still = {n for n, p in self.theta.items() if not p.requires_grad} | self.unlearned
        return frozenset(still - self.adapted)

    @cached_property
    def agnostic(self) -> frozenset[str]:
        """Names of the parameters whose single row a task expands to its N ways."""
        return class_agnostic_names(self.network)

    @cached_property
    def prototypes(self) -> tuple[str, PrototypeHead] | None:
        """The name and the module of the head whose rows start from the support set, if the network has one."""
        return prototype_head(self.network)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Names of that head's rows: its weight and its bias."""
        return () if self.prototypes is None else tuple(f"{self.prototypes[0]}.{part}" for part in ("weight", "bias"))


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

    def adapting(self, names: frozenset[str]) -> "InnerStep":
        """The step as a rule sees it that serves these names only."""
        if names >= self.params.keys():
            return self
        params, grads = ({n: t for n, t in part.items() if n in names} for part in (self.params, self.grads))
        return replace(self, params=params, grads=grads)


class InnerLoop(ABC):
    """b tasks side by side, each with weights of its own.

    Weights and losses have the leading shape ``lead``: ``[]`` for one task, ``[b]`` for several. Tensors
    that go in and out carry no graph.

    Attributes:
        shared: θ of what does not adapt, of θ's own shapes.
    """

    def __init__(self, config: InnerLoopConfig, theta: Params, tasks: Episode) -> None:
        self.config = config
        self.lead = () if tasks.n_tasks == 1 else (tasks.n_tasks,)
        support_x, support_y, query_x, query_y = ((f if self.lead else f[0]).contiguous() for f in tasks[:4])
        self.support_set = support_x, support_y
        self.query_set = query_x, query_y
        self.n_way = tasks.n_way
        self.theta = {n: p.detach().contiguous() for n, p in theta.items() if n not in config.rows}
        self.shared = {n: p for n, p in self.theta.items() if n not in config.adapted}
        self.shared_rows = {n: tasks.n_way for n in self.shared if n in config.agnostic}

    @cached_property
    def start(self) -> Params:
        """``θ_0`` of what a task has of its own, ``[*lead, …]``: what adapts, and a prototype head's rows."""
        start = {}
        for name, p in self.theta.items():
            if name in self.config.adapted:
                rows = (self.n_way, *p.shape[1:]) if name in self.config.agnostic else p.shape
                start[name] = p.expand((*self.lead, *rows))
        return start if self.config.prototypes is None else {**start, **self.prototype_rows(start)}

    def rows_of(self, log_scale: Tensor, features: Tensor) -> Params:
        """The rows of a prototype head that reads ``features [*lead, X, D]`` of the support set."""
        assert self.config.prototypes is not None
        _, head = self.config.prototypes
        made = partial(head.rows, log_scale, n_way=self.n_way)
        y = self.support_set[1]
        return dict(zip(self.config.rows, (vmap(made)(features, y) if self.lead else made(features, y)), strict=True))

    def for_query(self, params: Params) -> Params:
        """``params`` as the query set sees them: the rows of a prototype head times its temperature."""
        if self.config.prototypes is None:
            return params
        t = self.shared[f"{self.config.prototypes[0]}.log_temperature"].exp()
        return {**params, **{n: t * params[n] for n in self.config.rows}}

    def for_query_vjp(self, params: Params, grads: Params) -> Params:
        """The gradient in ``params`` and in the temperature, out of that in ``for_query(params)``."""
        if self.config.prototypes is None:
            return grads
        name = f"{self.config.prototypes[0]}.log_temperature"
        t = self.shared[name].exp()
        rows = {n: t * grads[n] for n in self.config.rows if n in grads}
        total = torch.stack([(g * params[n]).sum() for n, g in rows.items()]).sum()
        return {**grads, **rows, name: total}

    def weights(self, params: Params, shared: Params) -> Params:
        """All the network's weights: those that adapt, and the others expanded to a task's ways."""
        rows = self.shared_rows
        return {**params, **{n: p.expand(rows[n], *p.shape[1:]) if n in rows else p for n, p in shared.items()}}

    @abstractmethod
    def prototype_rows(self, start: Params) -> Params:
        """The rows of a prototype head, ``[*lead, N, D]`` and ``[*lead, N]``.

        Args:
            start: ``θ_0`` of what else a task has of its own.
        """

    @abstractmethod
    def prototype_rows_vjp(self, lam: Params) -> Params:
        """``λ · ∂rows``, in θ below the head and in its scale, for λ in the rows at ``θ_0``."""

    @abstractmethod
    def support(self, params: Params, keep: bool, s: int = 0) -> tuple[Tensor, Params, Tape | None]:
        """``L_s`` of shape ``lead``, ``g_s``, and a tape to differentiate them if ``keep``."""

    @abstractmethod
    def vjp(self, params: Params, tape: Tape | None, omega: Params, ell: Tensor | None, s: int = 0) -> Params:
        """``ω · ∂g_s + ℓ · ∂L_s``, in ``params`` and in the shared weights, where it is not zero.

        Args:
            params: ``θ_s``.
            tape: of the support pass at ``θ_s``; if None, that pass is made again.
            omega: ω, of ``g_s``'s shapes; missing where zero.
            ell: ℓ, of shape ``lead``, or None.
            s: the number of the inner step, by which that pass is the same.
        """

    @abstractmethod
    def query(self, params: Params) -> tuple[Tensor, Tensor]:
        """``L(f(θ; query))``, of shape ``lead``, and the outputs ``[*lead, X, …]``."""

    @abstractmethod
    def query_and_grads(self, params: Params) -> tuple[Tensor, Tensor, Params]:
        """The same, and the gradient of the losses in ``params`` and in the shared weights."""

    def step(self, s: int, params: Params, state: State, keep: bool) -> InnerStep:
        """The support pass at ``θ_s`` and ``m_s``, with its tape if ``keep``."""
        loss, grads, tape = self.support(params, keep, s)
        if pull := self.config.proximal:
            grads = {n: g + pull * (params[n] - self.start[n]) for n, g in grads.items()}
        return InnerStep(params, state, loss, grads, tape)

    def first_state(self) -> State:
        """``m_0``."""
        return self.config.rule.init_state({n: p for n, p in self.start.items() if n in self.config.adapted})

    def after(self, s: int, step: InnerStep) -> tuple[Params, State]:
        """``(θ_{s+1}, m_{s+1})``: the rule moves what adapts; what a task has else of its own stays."""
        adapting = step.adapting(self.config.adapted)
        with torch.no_grad():
            moved, state = self.config.rule(s, adapting.params, adapting.grads, step.loss, step.state)
        return (moved if adapting is step else {**step.params, **moved}), state

    def adapt(self, inner_steps: int) -> tuple[list[InnerStep], Params, dict[str, Tensor]]:
        """Take S inner steps; return them, ``θ_S``, and what the rule chose, ``[*lead, S, …]``."""
        params, state = self.start, self.first_state()
        steps = []
        for s in range(inner_steps):
            steps.append(self.step(s, params, state, keep=False))
            params, state = self.after(s, steps[-1])
        states = [*(step.state for step in steps[1:]), state]
        chosen = {c: torch.stack([m[c] for m in states], dim=len(self.lead)) for c in CHOSEN if c in state}
        return steps, params, chosen
