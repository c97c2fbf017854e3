"""Antithetic persistent evolution strategies: gradients of long inner runs out of losses alone.

Beside exact gradients of short segments (``truncated_unroll``), which do not see what a step does to later segments.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metasgd.construction import Configurable
from metasgd.episode import Episode
from metasgd.errors import UserError, raise_problems
from metasgd.meta.engine_check import pair_of
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, last_alone
from metasgd.meta.paired_runs import Pair, PairedRuns, new_pair
from metasgd.meta.truncated_unroll import TruncatedUnroll
from metasgd.rules.base import CHOSEN, Params

SEED = 0x504553
"""Keeps the perturbations apart from other uses of a task's number."""


class PersistentEvolution(Configurable):
    """The estimator ``pes``, for ``MetaModel``'s ``segments`` above 1.

    Each run is made twice, by ``φ + ε_k`` and by ``φ − ε_k`` in its segment k, with ``ε_k ~ N(0, σ² I)`` new in every
    segment and ξ the sum of those so far. Of the losses ``L±`` at a segment's end

    ``∇ ≈ ξ (L⁺ − L⁻) / (2 σ²)``

    is an unbiased estimate of the gradient of the sum of all segments' losses, smoothed by the perturbations: also of
    what a step does to losses many segments later. Nothing is differentiated in φ, so that no graph is held.

    Args:
        perturbation: σ, above 0.

    Raises:
        UserError: an argument is out of its range.

    Example:
        >>> from metasgd.meta.model import MetaModel
        >>> from metasgd.nn import MLP
        >>> from metasgd.rules import ScheduledAdam
        >>> estimator = PersistentEvolution(perturbation=0.01)
        >>> model = MetaModel(MLP(1, [8], 1), ScheduledAdam(), 10, segments=20, loss="mse", estimator=estimator)
        >>> x, classes, index = torch.rand(4, 5, 1), torch.zeros(4, 1, dtype=torch.int64), torch.arange(4)
        >>> gradient = model.meta_gradient(Episode(x, x.sin(), x, x.sin(), classes, index))
        >>> gradient.phi["exponent"].shape
        torch.Size([5])

    References:
        Vicol, Metz, Sohl-Dickstein 2021: Unbiased Gradient Estimation in Unrolled Computation Graphs with Persistent
        Evolution Strategies, https://arxiv.org/abs/2112.13835
    """

    name = "pes"

    def __init__(self, perturbation: float = 0.01) -> None:
        if not 0 < perturbation < float("inf"):
            raise_problems([f"perturbation is {perturbation}: a finite number above 0 is needed"])
        self.perturbation = perturbation


class EvolvedUnroll(TruncatedUnroll):
    """Pairs of runs under way, one for each place in the meta-batch.

    Args:
        minibatch_shots: as ``TruncatedUnroll`` has it.
        settings: of the estimator.
    """

    def __init__(self, minibatch_shots: int, settings: PersistentEvolution) -> None:
        super().__init__(minibatch_shots)
        self.settings = settings
        self.pairs: list[Pair] = []

    def meta_gradient(
        self,
        config: InnerLoopConfig,
        tasks: Episode,
        inner_steps: int,
        first_order: bool,  # noqa: ARG002 - nothing is differentiated twice
        query_weights: Sequence[float] | None = None,
    ) -> MetaGradient:
        """Continue every pair by ``inner_steps``; the estimate for φ, summed over the tasks."""
        phi = {n: p.detach() for n, p in config.rule.named_parameters() if p.requires_grad}
        indices = tasks.task_index.tolist()
        current = [pair.task_index for pair in self.pairs] + [None] * (len(indices) - len(self.pairs))
        pairs = [
            self.pairs[place] if index == current[place] else new_pair(config, tasks.n_way, index)
            for place, index in enumerate(indices)
        ]
        sd = self.settings.perturbation
        drawn = [perturbation(phi, sd, pair.task_index, pair.step) for pair in pairs]
        summed = [{n: pair.accumulated[n].to(e[n]) + e[n] for n in e} for pair, e in zip(pairs, drawn, strict=True)]
        perturbed = {n: torch.stack([p + s * e[n] for e in drawn for s in (1, -1)]) for n, p in phi.items()}
        runs = PairedRuns(config, tasks, self.minibatch_shots, pairs, perturbed, self.stacked)
        losses, chosen = [], []
        total = torch.zeros(2 * len(pairs), device=tasks.support_x.device)
        for weight in last_alone(inner_steps) if query_weights is None else query_weights:
            losses.append(runs.step())
            chosen.append({c: runs.state[c] for c in CHOSEN if c in runs.state})
            if weight:
                query_losses, outputs = runs.query()
                total = total + weight * query_losses
        plus, minus = total[::2], total[1::2]
        # a pair that diverged makes a gradient that is not finite, which no outer step follows, and starts again
        finite = (plus.isfinite() & minus.isfinite()).tolist()
        parts = [
            {n: xi * (difference / (2 * sd**2)) for n, xi in of_pair.items()}
            for of_pair, difference in zip(summed, plus - minus, strict=True)
        ]
        self.pairs = [
            pair if ok else new_pair(config, tasks.n_way, pair.task_index)
            for pair, ok in zip(runs.pairs(pairs, summed), finite, strict=True)
        ]
        return MetaGradient(
            theta={n: torch.zeros_like(p) for n, p in config.network.named_parameters()},
            phi={n: sum((part[n] for part in parts), torch.zeros_like(p)) for n, p in phi.items()},
            support_losses=_means(torch.stack(losses, dim=1)),
            query_losses=_means(query_losses),
            outputs=outputs[::2],
            chosen={c: _means(torch.stack([now[c] for now in chosen], dim=1)) for c in chosen[0]},
        )

    def adjust(self, config: InnerLoopConfig, tasks: Episode, first_order: bool) -> str | None:  # noqa: ARG002
        two = pair_of(tasks)
        pairs = [new_pair(config, two.n_way, index) for index in two.task_index.tolist()]
        phi = {n: torch.stack([p.detach()] * 2 * len(pairs)) for n, p in config.rule.named_parameters()}
        PairedRuns(config, two, self.minibatch_shots, pairs, phi, stacked=False).step()
        # any error: the same has just been done without a stack
        try:
            PairedRuns(config, two, self.minibatch_shots, pairs, phi, stacked=True).step()
        except Exception as error:
            self.stacked = False
            said = str(error).strip().partition("\n")[0].partition(". ")[0]
            return f"long inner runs one after the other, as {type(config.network).__name__} cannot be stacked ({said})"
        return None

    def state_dict(self) -> list[dict[str, Any]]:
        return [vars(pair) for pair in self.pairs]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        if any("accumulated" not in pair for pair in state):
            raise UserError(
                "the checkpoint's runs were not made by the estimator pes: start a new run from its weights, or use the"
                " estimator unrolled as it did"
            )
        self.pairs = [Pair(**pair) for pair in state]


def perturbation(phi: Params, sd: float, task_index: int, step: int) -> Params:
    """ε of a pair's segment that begins at a step: a function of the task's number and of the step."""
    generator = torch.Generator().manual_seed(SEED + (task_index << 24) + step)
    return {n: sd * torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for n, p in phi.items()}


def _means(of_runs: Tensor) -> Tensor:
    """Of each pair's two runs."""
    return (of_runs[::2] + of_runs[1::2]) / 2
