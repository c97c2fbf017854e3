"""Pairs of long inner runs by perturbed rules, side by side. Shape letters: B pairs of runs, P = 2B runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, vmap

from metasgd.episode import Episode
from metasgd.meta.autograd import leaves, zeros_where_unused
from metasgd.meta.inner_loop import InnerLoopConfig, Loss
from metasgd.meta.random_start import new_run
from metasgd.meta.truncated_unroll import minibatches
from metasgd.nn.calling import call
from metasgd.rules.base import CHOSEN, Params, State, beside

SEED = 0x504553
"""Keeps the perturbations, and what differs between runs, apart from other uses of a task's number."""


@dataclass
class Pair:
    """Where two antithetic runs of a task stand.

    Attributes:
        task_index: of their task.
        step: the inner steps taken.
        params: the weights of both, ``[2, …]``.
        state: the memory of both, ``[2, …]``.
        accumulated: ξ, by the names of φ.
        total_steps: of the whole run.
        repeat: how many runs of the task ended before.
        scales: by which each weight is multiplied before the network has it, ``[2]`` of each tensor.
        halvings: of the examples in an inner step, how often their number is halved.
    """

    task_index: int
    step: int
    params: Params
    state: State
    accumulated: Params
    total_steps: int
    repeat: int
    scales: Params
    halvings: int = 0


@dataclass(frozen=True)
class Variety:
    """What differs from run to run.

    Attributes:
        shortest: inner steps of the shortest runs; lengths are log-uniform up to the longest, which None takes for all.
        reparameterise: standard deviation of the logarithm of what each tensor is multiplied by (Celo).
        smallest_minibatch: shots of the smallest minibatches; None for all alike.
    """

    shortest: int | None = None
    reparameterise: float = 0.0
    smallest_minibatch: int | None = None

    def halvings(self, shots: int) -> int:
        """The most that minibatches of so many shots are halved."""
        most = 0
        while self.smallest_minibatch is not None and shots % 2 == 0 and shots // 2 >= self.smallest_minibatch:
            shots, most = shots // 2, most + 1
        return most


def new_pair(
    config: InnerLoopConfig,
    n_way: int,
    task_index: int,
    segment: int,
    variety: Variety,
    repeat: int = 0,
    shots: int = 1,
) -> Pair:
    """Both from the same random weights, by ``new_run``, and nothing accumulated.

    Args:
        config: with the rule, whose ``total_steps`` are those of the longest run.
        n_way: N.
        task_index: of the task.
        segment: inner steps of a segment, of which a run's length is a multiple.
        variety: what differs from run to run.
        repeat: runs of the task before.
        shots: of the largest minibatch.
    """
    number = int(np.random.SeedSequence([SEED, task_index, repeat]).generate_state(1)[0])
    run = new_run(config, n_way, number)
    generator = torch.Generator().manual_seed(number)
    longest = config.rule.total_steps // segment
    shortest = longest if variety.shortest is None else max(1, min(longest, variety.shortest // segment))
    share = torch.rand((), generator=generator).item()
    total = segment * round(math.exp(math.log(shortest) + share * math.log(longest / shortest)))
    params, state = ({n: torch.stack([t, t]) for n, t in part.items()} for part in (run.params, run.state))
    scales = {}
    for n, p in params.items():
        scales[n] = (variety.reparameterise * torch.randn((), generator=generator)).exp().to(p).expand(2).clone()
        params[n] = p / beside(scales[n], p)
    zeros = {n: torch.zeros_like(p) for n, p in config.rule.named_parameters() if p.requires_grad}
    halvings = int(torch.randint(1 + variety.halvings(shots), (), generator=generator))
    return Pair(task_index, 0, params, state, zeros, total, repeat, scales, halvings)


def perturbations(phi: Params, sd: float, numbers: Sequence[tuple[int, int, int]]) -> Params:
    """ε of each pair's segment that begins at a step, ``[B, …]``.

    Args:
        phi: φ.
        sd: σ.
        numbers: of each pair its task, how many runs of it ended before, and the step, of which its ε are a function.
    """
    # not torch's generator, which reads 32 bits of a seed
    sizes = [p.numel() for p in phi.values()]
    drawn = [np.random.default_rng([SEED, *of_pair]).standard_normal(sum(sizes)) for of_pair in numbers]
    parts = torch.split(sd * torch.from_numpy(np.stack(drawn)), sizes, dim=1)
    return {n: part.reshape(-1, *p.shape).to(p) for (n, p), part in zip(phi.items(), parts, strict=True)}


def saved(pair: Pair) -> dict[str, Any]:
    """What a checkpoint has of a pair, without the others that lie in the same memory."""
    parts = vars(pair)
    return {k: {n: t.clone() for n, t in v.items()} if isinstance(v, dict) else v for k, v in parts.items()}


class PairedRuns:
    """P runs side by side, each with weights ``[P, …]``, memory ``[P, …]`` and φ ``[P, …]`` of its own."""

    def __init__(
        self,
        config: InnerLoopConfig,
        tasks: Episode,
        minibatch_shots: int,
        pairs: Sequence[Pair],
        phi: Params,
        stacked: bool,
    ) -> None:
        self.config, self.phi, self.minibatch_shots = config, phi, minibatch_shots
        self.of_each: Callable[..., Any] = vmap if stacked else _one_after_the_other
        device = tasks.support_x.device
        self.tasks = Episode(*(field.repeat_interleave(2, dim=0) for field in tasks))
        self.steps = torch.tensor([pair.step for pair in pairs], device=device).repeat_interleave(2)
        self.params = {n: torch.cat([pair.params[n] for pair in pairs]).to(device) for n in pairs[0].params}
        self.state = {n: torch.cat([pair.state[n] for pair in pairs]).to(device) for n in pairs[0].state}
        self.scales = {n: torch.cat([pair.scales[n] for pair in pairs]).to(device) for n in pairs[0].scales}
        sizes = [minibatch_shots >> pair.halvings for pair in pairs]
        self.sizes = torch.tensor(sizes, device=device).repeat_interleave(2)
        self.total_steps = torch.tensor([pair.total_steps for pair in pairs], device=device).repeat_interleave(2)

    def step(self) -> Tensor:
        """One inner step of every run; the losses before it, ``[P]``."""
        config, (x, y) = self.config, self.tasks[:2]
        n_way = self.tasks.n_way
        rows = minibatches(self.steps, n_way, x.shape[1] // n_way, self.minibatch_shots, self.sizes)
        place = torch.arange(len(x), device=x.device)[:, None]
        with torch.enable_grad():
            params = leaves(self.params)
            losses, _ = self._losses(params, x[place, rows], y[place, rows], config.loss)
            # no run knows of another: of the sum of all losses each has its own gradient
            found = torch.autograd.grad(losses.sum(), list(params.values()), allow_unused=True)
        with torch.no_grad():
            grads = {n: g.contiguous() for n, g in zeros_where_unused(self.params, found).items()}
            self._move(grads, losses.detach())
        self.steps = self.steps + 1
        return losses.detach()

    def _move(self, grads: Params, losses: Tensor) -> None:
        rule = self.config.rule
        longest = rule.total_steps

        def one(
            phi: Params, params: Params, grads: Params, state: State, step: Tensor, loss: Tensor, total: Tensor
        ) -> tuple[Params, State]:
            rule.total_steps = total  # type: ignore[assignment] # of this run
            moved: tuple[Params, State] = functional_call(rule, phi, (step, params, grads, loss, state))
            return moved

        of_all = one if vars(type(rule)).get("takes_stacks") else self.of_each(one)
        state = {n: t for n, t in self.state.items() if n not in CHOSEN}
        try:
            moved = of_all(self.phi, self.params, grads, state, self.steps, losses, self.total_steps)
        finally:
            rule.total_steps = longest
        self.params, self.state = moved

    def query(self) -> tuple[Tensor, Tensor]:
        """Losses ``[P]`` and outputs ``[P, X, …]`` on the query sets."""
        with torch.no_grad():
            loss = self.config.query_loss or self.config.loss
            return self._losses(self.params, self.tasks.query_x, self.tasks.query_y, loss)

    def _losses(self, params: Params, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        config = self.config

        def one(params: Params, scales: Params, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            weights = {n: scales[n] * p for n, p in params.items()}
            outputs = call(config.network, weights, x, config.slots)
            return loss(outputs, y), outputs

        found: tuple[Tensor, Tensor] = self.of_each(one)(params, self.scales, x, y)
        return found

    def pairs(self, before: Sequence[Pair], accumulated: Sequence[Params]) -> list[Pair]:
        """The pairs as they stand."""
        of_pairs = [
            {n: t.reshape(-1, 2, *t.shape[1:]).unbind() for n, t in part.items() if n not in CHOSEN}
            for part in (self.params, self.state)
        ]
        steps = self.steps[::2].tolist()
        return [
            replace(
                pair,
                step=steps[b],
                params={n: parts[b] for n, parts in of_pairs[0].items()},
                state={n: parts[b] for n, parts in of_pairs[1].items()},
                accumulated=xi,
            )
            for b, (pair, xi) in enumerate(zip(before, accumulated, strict=True))
        ]


def _one_after_the_other(of_one: Callable[..., Any]) -> Callable[..., Any]:
    """As ``vmap`` maps, by a loop."""

    def mapped(*stacks: Any) -> Any:
        def part(stack: Any, b: int) -> Any:
            return {n: t[b] for n, t in stack.items()} if isinstance(stack, dict) else stack[b]

        each = [of_one(*(part(stack, b) for stack in stacks)) for b in range(len(stacks[-1]))]
        return tuple(
            {n: torch.stack([found[n] for found in some]) for n in some[0]}
            if isinstance(some[0], dict)
            else torch.stack(some)
            for some in zip(*each, strict=True)
        )

    return mapped
