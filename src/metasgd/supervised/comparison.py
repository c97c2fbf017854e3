"""Several optimizers at the same training, each baseline with its learning rate tuned."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch.optim import Optimizer

from metasgd.supervised.trainer import Candidate, Named, Trace

Setting = TypeVar("Setting", int, float)
Train = Callable[[Candidate, float, int], Trace]
"""Trains by a candidate, at a learning rate, from a seed."""
Better = Callable[[float, float], bool]
SPACING = math.sqrt(10)
"""Between neighbouring learning rates of the search."""

BASELINES: dict[str, tuple[Callable[[Named, float], Optimizer], float]] = {
    "SGD": (lambda params, lr: torch.optim.SGD(params, lr=lr), 0.1),
    "Momentum": (lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9), 0.03),
    "Adam": (lambda params, lr: torch.optim.Adam(params, lr=lr), 0.003),
    "RMSProp": (lambda params, lr: torch.optim.RMSprop(params, lr=lr), 0.003),
    "AdaGrad": (lambda params, lr: torch.optim.Adagrad(params, lr=lr), 0.03),
    "AdamW": (lambda params, lr: torch.optim.AdamW(params, lr=lr), 0.003),
}
"""With torch's defaults but for the learning rate (and 0.9 for Momentum), and where its search starts."""


@dataclass(frozen=True)
class Effort:
    """How often is trained.

    Attributes:
        seeds: of the trainings that count.
        search_seed: of those that a learning rate is tuned by; none of ``seeds``.
        trials: learning rates tried at first, a factor of √10 apart; an odd number.
        most_trials: tried at most, where the best lies at the edge.
    """

    seeds: Sequence[int]
    search_seed: int
    trials: int
    most_trials: int


@dataclass
class Row:
    """What became of one candidate.

    Attributes:
        name: as printed.
        lr: the learning rate found, or 1, the learned optimizer's own.
        tuned: whether it was searched.
        trials: the metric on validation at the end, by learning rate, with the search's seed.
        traces: the trainings at ``lr``, one per seed.
    """

    name: str
    lr: float
    tuned: bool
    trials: dict[float, float]
    traces: list[Trace]


def compare(
    train: Train,
    better: Better,
    candidates: Sequence[Candidate],
    effort: Effort,
    done: Callable[[str], None],
) -> list[Row]:
    """Tune the learning rate of each candidate on validation with one seed, then train with every other seed.

    The search tries some around the candidate's start, and continues beyond the edge as long as the best lies there.
    What is not tuned is tried as well at three learning rates, to see how much it depends on them, and then trained at
    its own.

    Args:
        train: one training.
        better: whether one metric is better than another.
        candidates: what to train by.
        effort: how often.
        done: called after every training that ended.
    """
    rows = []
    for candidate in candidates:
        found = search(train, better, candidate, effort, done)
        lr = best_of(better, found) if candidate.tuned else candidate.start
        traces = []
        for seed in effort.seeds:
            traces.append(train(candidate, lr, seed))
            done(f"{candidate.name}, learning rate {lr:g}, seed {seed}")
        rows.append(Row(candidate.name, lr, candidate.tuned, found, traces))
    return rows


def final_metric(trace: Trace) -> float:
    """By what ``compare`` tunes: the metric on validation at the end."""
    return trace.val_metric[-1]


def search(
    train: Train,
    better: Better,
    candidate: Candidate,
    effort: Effort,
    done: Callable[[str], None],
    figure: Callable[[Trace], float] = final_metric,
) -> dict[float, float]:
    """The figure reached, by the learning rate tried; not a number where the training diverged."""
    found: dict[int, float] = {}  # by the power of √10

    def try_at(power: int) -> None:
        lr = candidate.start * SPACING**power
        trace = train(candidate, lr, effort.search_seed)
        found[power] = math.nan if trace.diverged else figure(trace)
        done(f"{candidate.name}, trying learning rate {lr:g}")

    half = effort.trials // 2 if candidate.tuned else 1
    for power in range(-half, half + 1):
        try_at(power)
    while candidate.tuned and len(found) < effort.most_trials:
        best = best_of(better, found)
        if best not in (min(found), max(found)):
            break
        try_at(best - 1 if best == min(found) else best + 1)
    return {candidate.start * SPACING**power: found[power] for power in sorted(found)}


def best_of(better: Better, found: Mapping[Setting, float]) -> Setting:
    """The setting of the best figure, the lowest of several."""
    best, *others = sorted(found)
    for lr in others:
        if better(found[lr], found[best]):
            best = lr
    return best
