"""Pairs of long inner runs by perturbed rules, and the outer gradient that their losses make.

Beside exact gradients of short segments (``truncated_unroll``), which do not see what a step does to later segments.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.meta.engine_check import pair_of
from metasgd.meta.evaluate import Evaluation, merge_evaluations
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import MetaGradient, last_alone, merge_gradients
from metasgd.meta.paired_runs import Pair, PairedRuns, Variety, new_pair, perturbations, saved
from metasgd.meta.persistent_evolution import PersistentEvolution
from metasgd.meta.truncated_unroll import TruncatedUnroll
from metasgd.nn.several import OneOfSeveral
from metasgd.rules.base import CHOSEN, beside

Found = TypeVar("Found", MetaGradient, Evaluation)


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
        first_order: bool,
        query_weights: Sequence[float] | None = None,
    ) -> MetaGradient:
        """Continue every pair by ``inner_steps``; the estimate for φ, summed over the tasks."""
        indices = tasks.task_index.tolist()
        current = [pair.task_index for pair in self.pairs] + [None] * (len(indices) - len(self.pairs))
        groups = grouped(config, tasks)
        held: dict[int, Pair] = {}
        parts = []
        for of_group, places in groups:
            variety, shots = self.settings.variety, self.minibatch_shots
            new = partial(new_pair, of_group, tasks.n_way, segment=inner_steps, variety=variety, shots=shots)
            pairs = []
            for place in places:
                pair = self.pairs[place] if indices[place] == current[place] else new(indices[place])
                pairs.append(pair if pair.step < pair.total_steps else new(pair.task_index, repeat=pair.repeat + 1))
            part, pairs = self._continued(of_group, _some(tasks, places), pairs, inner_steps, query_weights)
            finite = (part.query_losses.isfinite() & part.support_losses.isfinite().all(dim=1)).tolist()
            # a pair that diverged starts again; where its query loss is no number either, no outer step follows
            held |= {
                place: pair if ok else new(pair.task_index, repeat=pair.repeat)
                for place, pair, ok in zip(places, pairs, finite, strict=True)
            }
            parts.append(part)
        self.pairs = [held[place] for place in range(len(indices))]
        theta = {n: torch.zeros_like(p) for n, p in config.network.named_parameters()}
        return replace(_in_order(merge_gradients(parts), groups), theta=theta)

    def _continued(
        self,
        config: InnerLoopConfig,
        tasks: Episode,
        pairs: list[Pair],
        inner_steps: int,
        query_weights: Sequence[float] | None,
    ) -> tuple[MetaGradient, list[Pair]]:
        """Those of one network: the estimate, and the pairs as they stand."""
        phi = {n: p.detach() for n, p in config.rule.named_parameters() if p.requires_grad}
        sd, single = self.settings.perturbation, self.settings.single
        numbers = [(pair.task_index, pair.repeat, 0 if single else pair.step) for pair in pairs]
        drawn = perturbations(phi, sd, numbers)
        drawn |= {n: torch.zeros_like(drawn[n]) for n in self.settings.fixed if n in drawn}  # or not learned at all
        # of a single ε for the whole run the difference is divided by that one alone
        summed = drawn
        if not single:
            summed = {n: torch.stack([pair.accumulated[n].to(e) for pair in pairs]) + e for n, e in drawn.items()}
        perturbed = {n: torch.stack([phi[n] + e, phi[n] - e], dim=1).flatten(0, 1) for n, e in drawn.items()}
        runs = PairedRuns(config, tasks, self.minibatch_shots, pairs, perturbed, self.stacked)
        losses, chosen = [], []
        total = torch.zeros(2 * len(pairs), device=tasks.support_x.device)
        for weight in last_alone(inner_steps) if query_weights is None else query_weights:
            losses.append(runs.step())
            chosen.append({c: runs.state[c].flatten(1).mean(dim=1) for c in CHOSEN if c in runs.state})
            if weight:
                query_losses, outputs = runs.query()
                total = total + weight * query_losses
        differences = (total[::2] - total[1::2]) / (2 * sd**2)
        if self.settings.last_loss:
            ends = [pair.step + inner_steps >= pair.total_steps for pair in pairs]
            differences = differences * torch.tensor(ends, device=differences.device)
        found = MetaGradient(
            theta={},
            phi={n: (beside(differences, xi) * xi).sum(dim=0) for n, xi in summed.items()},
            support_losses=_means(torch.stack(losses, dim=1)),
            query_losses=_means(query_losses),
            outputs=outputs[::2],
            chosen={c: _means(torch.stack([now[c] for now in chosen], dim=1)) for c in chosen[0]},
        )
        each = {n: xi.unbind() for n, xi in summed.items()}
        return found, runs.pairs(pairs, [{n: xi[b] for n, xi in each.items()} for b in range(len(pairs))])

    def evaluate(self, config: InnerLoopConfig, tasks: Episode, inner_steps: int, after: Sequence[int]) -> Evaluation:
        groups = grouped(config, tasks)
        longest = config.rule.total_steps
        config.rule.total_steps = max(1, inner_steps)  # a whole run, as those of other lengths in training
        try:
            parts = [super(EvolvedUnroll, self).evaluate(c, _some(tasks, p), inner_steps, after) for c, p in groups]
        finally:
            config.rule.total_steps = longest
        # the networks' rates differ in number, and are averaged
        parts = [replace(p, chosen={c: t.flatten(2).mean(dim=2) for c, t in p.chosen.items()}) for p in parts]
        return _in_order(merge_evaluations(parts), groups)

    def adjust(self, config: InnerLoopConfig, tasks: Episode, first_order: bool) -> str | None:
        members = config.network.members if isinstance(config.network, OneOfSeveral) else [config.network]
        for member in members:
            one = of_network(config, member)
            two = pair_of(tasks)
            pairs = [new_pair(one, two.n_way, index, 1, Variety()) for index in two.task_index.tolist()]
            phi = {n: torch.stack([p.detach()] * 2 * len(pairs)) for n, p in config.rule.named_parameters()}
            alone, stack = (
                PairedRuns(one, two, self.minibatch_shots, pairs, phi, stacked) for stacked in (False, True)
            )
            alone.step()
            if unable := self.try_stack(stack.step, member):
                return unable
        return None

    def state_dict(self) -> list[dict[str, Any]]:
        return [saved(pair) for pair in self.pairs]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        if any("accumulated" not in pair for pair in state):
            raise UserError(
                "the checkpoint's runs were not made by the estimator pes: start a new run from its weights, or use the"
                " estimator unrolled as it did"
            )
        self.pairs = [Pair(**pair) for pair in state]


def of_network(config: InnerLoopConfig, network: nn.Module) -> InnerLoopConfig:
    """The same for one network of several.

    Raises:
        UserError: the rule is for one network alone.
    """
    if network is config.network:
        return config
    if config.rule.serves() is not None:
        raise UserError(
            f"the network is one of several, but {type(config.rule).__name__} has rates for the parameters of one: use"
            " a rule for any network, such as ScheduledAdam"
        )
    return replace(config, network=network, adapted=frozenset(n for n, _ in network.named_parameters()))


def grouped(config: InnerLoopConfig, tasks: Episode) -> list[tuple[InnerLoopConfig, list[int]]]:
    """The places of the meta-batch that share a network, with what adapts there."""
    if not isinstance(config.network, OneOfSeveral):
        return [(config, list(range(tasks.n_tasks)))]
    places: dict[nn.Module, list[int]] = {}
    for place, index in enumerate(tasks.task_index.tolist()):
        places.setdefault(config.network.member_of(index), []).append(place)
    return [(of_network(config, member), of) for member, of in places.items()]


def _in_order(found: Found, groups: list[tuple[InnerLoopConfig, list[int]]]) -> Found:
    """What was found of the groups' tasks, one group after the other, in the order of the meta-batch."""
    order = torch.tensor([place for _, places in groups for place in places]).argsort().to(found.outputs.device)
    return replace(
        found,
        support_losses=found.support_losses[order],
        query_losses=found.query_losses[order],
        outputs=found.outputs[order],
        chosen={c: t[order] for c, t in found.chosen.items()},
    )


def _some(tasks: Episode, places: list[int]) -> Episode:
    return Episode(*(field[places] for field in tasks))


def _means(of_runs: Tensor) -> Tensor:
    """Of each pair's two runs."""
    return (of_runs[::2] + of_runs[1::2]) / 2
