"""Meta-training the update rule on long inner runs, a segment of each at an outer step.

A run trains random weights on one task as a supervised loop would, on minibatches. It lasts many outer steps:
each backpropagates through its own S inner steps only, from the weights and the memory that the one before left
(truncated backpropagation through time), and its loss is that on the task's query set at the end of the segment:

    (θ, m) of the last segment, detached
    g_s = ∇ L(f(θ_s; minibatch s)),  (θ_{s+1}, m_{s+1}) = u_φ(s, θ_s, g_s, L_s, m_s)   for S steps
    φ moves against ∇_φ L(f(θ_S; query)), exact within the segment

So the rule meets weights at every stage of a training: random, partly trained and nearly converged.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from metasgd.episode import Episode
from metasgd.errors import UserError, first_line
from metasgd.meta.autograd import leaves, zeros_where_unused
from metasgd.meta.engine_check import pair_of, validate_differentiable
from metasgd.meta.evaluate import Evaluation
from metasgd.meta.full_unroll import Unroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, last_alone
from metasgd.meta.random_start import Run, new_run
from metasgd.meta.second_order import validate_second_order
from metasgd.nn.calling import call, contiguous
from metasgd.rules.base import CHOSEN, Params


class TruncatedUnroll(Unroll):
    """The runs under way, one for each place in the meta-batch, stacked under ``vmap``.

    A place whose task is not that of the outer step before starts a new run.

    Args:
        minibatch_shots: examples of each class in a minibatch. The support set is walked in order, again and
            again; of several classes, every time in other combinations.
    """

    def __init__(self, minibatch_shots: int) -> None:
        self.minibatch_shots = minibatch_shots
        self.runs: list[Run] = []
        self.stacked = True

    def setup(self, network: nn.Module, device: torch.device, world_size: int) -> str:
        if world_size > 1:
            raise UserError(
                f"there are {world_size} processes, but long inner runs (segments above 1) need a single one: set"
                " devices to 1"
            )
        return f"long inner runs, {'stacked' if self.stacked else 'one after the other'} on {device.type}"

    def meta_gradient(
        self,
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        first_order: bool,
        query_weights: Sequence[float] | None = None,
    ) -> MetaGradient:
        """Continue every run by ``inner_steps``; the gradient in φ, θ's being zero."""
        weights = last_alone(inner_steps) if query_weights is None else query_weights
        indices = tasks.task_index.tolist()
        current = [run.task_index for run in self.runs] + [None] * (len(indices) - len(self.runs))
        runs = [
            self.runs[place] if index == current[place] else new_run(config, tasks.n_way, index)
            for place, index in enumerate(indices)
        ]
        stack = _Stack(config, tasks, self.minibatch_shots, runs, self.stacked)
        phi = {n: p for n, p in config.rule.named_parameters() if p.requires_grad}
        losses, chosen, outer_losses = [], [], []
        with torch.enable_grad():
            for weight in weights:
                losses.append(stack.step(create_graph=not first_order).detach())
                chosen.append({c: stack.state[c].detach() for c in CHOSEN if c in stack.state})
                if weight:
                    query_losses, outputs = stack.query()
                    outer_losses.append(weight * query_losses.sum())
            found = torch.autograd.grad(torch.stack(outer_losses).sum(), list(phi.values()), allow_unused=True)
        # a run that diverged makes a gradient that is not finite, which no outer step follows, and starts again
        self.runs = [
            run if ok else new_run(config, tasks.n_way, run.task_index)
            for run, ok in zip(stack.runs(), query_losses.isfinite().tolist(), strict=True)
        ]
        return MetaGradient(
            theta={n: torch.zeros_like(p) for n, p in config.network.named_parameters()},
            phi=zeros_where_unused(phi, found),
            support_losses=torch.stack(losses, dim=1),
            query_losses=query_losses.detach(),
            outputs=outputs.detach(),
            chosen={c: torch.stack([now[c] for now in chosen], dim=1) for c in chosen[0]},
        )

    def evaluate(self, config: InnerLoopConfig, tasks: Episode, inner_steps: int, after: Sequence[int]) -> Evaluation:
        runs = [new_run(config, tasks.n_way, index) for index in tasks.task_index.tolist()]
        stack = _Stack(config, tasks, self.minibatch_shots, runs, self.stacked)
        losses, evaluated, chosen = [], [], []
        for s in range(inner_steps + 1):
            if s in after:
                with torch.no_grad():
                    evaluated.append(stack.query())
            if s < inner_steps:
                losses.append(stack.step(create_graph=False, differentiable=False))
                chosen.append({c: stack.state[c] for c in CHOSEN if c in stack.state})
        return Evaluation(
            support_losses=torch.stack(losses, dim=1) if losses else torch.empty(tasks.n_tasks, 0),
            query_losses=torch.stack([loss for loss, _ in evaluated], dim=1),
            outputs=torch.stack([outputs for _, outputs in evaluated], dim=1),
            chosen={c: torch.stack([now[c] for now in chosen], dim=1) for c in (chosen[0] if chosen else ())},
        )

    def validate_tasks(self, tasks: Episode) -> None:
        k_shot = tasks.support_x.shape[1] // tasks.n_way
        if self.minibatch_shots > k_shot:
            raise UserError(
                f"minibatch_shots is {self.minibatch_shots}, but k_shot is {k_shot}: at most as many are possible"
            )

    def adjust(self, config: InnerLoopConfig, tasks: Episode, first_order: bool) -> str | None:
        two = pair_of(tasks)
        runs = [new_run(config, two.n_way, index) for index in two.task_index.tolist()]

        def attempt(stacked: bool) -> None:
            stack = _Stack(config, two, self.minibatch_shots, runs, stacked)
            losses = stack.step(create_graph=not first_order)
            outputs = stack.query()[1]
            if not first_order:
                torch.autograd.grad(losses.sum() + outputs.sum(), list(stack.start.values()), allow_unused=True)

        validate_differentiable(lambda: attempt(False), config, first_order)
        if not first_order:
            validate_second_order(config, tasks)
        return self.try_stack(lambda: attempt(True), config.network)

    def try_stack(self, attempt: Callable[[], object], network: nn.Module) -> str | None:
        """Make the runs one after the other if an attempt with a stack fails; then a line that says so.

        Args:
            attempt: what has just been done without a stack, with one.
            network: whose runs they are.
        """
        try:  # any error: without a stack there was none
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "There is a performance drop")
                attempt()
        except Exception as error:
            self.stacked = False
            said = first_line(error).partition(". ")[0]
            return f"long inner runs one after the other, as {type(network).__name__} cannot be stacked ({said})"
        return None

    def state_dict(self) -> list[dict[str, Any]]:
        return [vars(run) for run in self.runs]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        if any("accumulated" in run for run in state):
            raise UserError(
                "the checkpoint's runs were made by the estimator pes: start a new run from its weights, or use the"
                " estimator pes as it did"
            )
        self.runs = [Run(**run) for run in state]


class _Stack:
    """Runs side by side: weights ``[B, …]``, memory ``[B, …]`` and the steps taken ``[B]``."""

    def __init__(
        self, config: InnerLoopConfig, tasks: Episode, minibatch_shots: int, runs: Sequence[Run], stacked: bool
    ) -> None:
        self.stacked = stacked
        self.config, self.tasks, self.minibatch_shots = config, tasks, minibatch_shots
        device = tasks.support_x.device
        self.steps = torch.tensor([run.step for run in runs], device=device)
        self.params = leaves({n: torch.stack([run.params[n] for run in runs]).to(device) for n in runs[0].params})
        self.start = self.params
        self.state = {n: torch.stack([run.state[n] for run in runs]).to(device) for n in runs[0].state}

    def step(self, create_graph: bool, differentiable: bool = True) -> Tensor:
        """One inner step of every run; the losses before it, ``[B]``.

        Args:
            create_graph: differentiate in the gradients too.
            differentiable: hold the graph of the step.
        """
        with torch.enable_grad():
            x, y = self.tasks.support_x, self.tasks.support_y
            n_way = self.tasks.n_way
            rows = minibatches(self.steps, n_way, x.shape[1] // n_way, self.minibatch_shots)
            place = torch.arange(len(x), device=x.device)[:, None]
            self.params = self.params if differentiable else leaves(self.params)
            losses, _ = self._losses(x[place, rows], y[place, rows], self.config.loss)
            grads = torch.autograd.grad(
                losses.sum(),
                list(self.params.values()),
                create_graph=create_graph,
                retain_graph=differentiable,
                allow_unused=True,
            )
            named = zeros_where_unused(self.params, grads)
        with torch.set_grad_enabled(differentiable):
            if not differentiable:
                losses, named = losses.detach(), {n: g.contiguous() for n, g in named.items()}
            self.params, self.state = self.config.rule(self.steps, self.params, named, losses, self.state)
        self.steps = self.steps + 1
        return losses

    def query(self) -> tuple[Tensor, Tensor]:
        """Losses ``[B]`` and outputs ``[B, X, …]`` on the query sets."""
        config = self.config
        return self._losses(self.tasks.query_x, self.tasks.query_y, config.query_loss or config.loss)

    def _losses(self, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        def of_one(params: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            outputs = call(self.config.network, params, x, self.config.slots)
            return loss(outputs, y), outputs

        if self.stacked:
            params = {n: contiguous(p, True) for n, p in self.params.items()}
            losses: tuple[Tensor, Tensor] = vmap(of_one)(params, x, y)
            return losses
        each = [of_one({n: contiguous(p[b], False) for n, p in self.params.items()}, x[b], y[b]) for b in range(len(x))]
        return torch.stack([loss for loss, _ in each]), torch.stack([outputs for _, outputs in each])

    def runs(self) -> list[Run]:
        """The runs as they stand, without the graph."""
        memory = {n: t.detach() for n, t in self.state.items() if n not in CHOSEN}
        return [
            Run(index, step, {n: p.detach()[b] for n, p in self.params.items()}, {n: t[b] for n, t in memory.items()})
            for b, (index, step) in enumerate(zip(self.tasks.task_index.tolist(), self.steps.tolist(), strict=True))
        ]


def minibatches(steps: Tensor, n_way: int, k_shot: int, shots: int, sizes: Tensor | None = None) -> Tensor:
    """The rows of the support set that each run sees at its step, ``[B, N*shots]`` for ``steps [B]``.

    Every shot of a class comes once in an epoch; from epoch to epoch the classes are shifted against one another.
    Of the shots of a class so many differ as ``sizes [B]`` has it, a divisor of ``shots``; all by default.
    """
    way = torch.arange(n_way, device=steps.device)[:, None]
    size = (torch.full_like(steps, shots) if sizes is None else sizes)[:, None, None]
    at = steps[:, None, None] * size + torch.arange(shots, device=steps.device) % size
    return (way * k_shot + (at + way * (at // k_shot)) % k_shot).flatten(1)
