"""What contenders reach on all workloads together. Shape letters: W workloads, S seeds, E evaluations, R resamples.

Both ratios are to the tuned AdamW, and above 1 where a contender is better than that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasgd.supervised.comparison import Row

Array = NDArray[np.float64]
RESAMPLES = 2000
INTERVAL = (2.5, 97.5)
"""Percentiles of the resamples."""


@dataclass(frozen=True)
class Outcome:
    """One contender on one workload.

    Attributes:
        steps: at which it was evaluated, ``[E]``, from 0.
        val_loss: ``[S, E]``; infinite from where a training diverged on.
        test_loss: ``[S]``; infinite where it diverged.
        test_metric: ``[S]``.
        diverged: trainings.
    """

    steps: Array
    val_loss: Array
    test_loss: Array
    test_metric: Array
    diverged: int


@dataclass(frozen=True)
class Score:
    """One contender on all workloads; an interval is of 95 % of the resamples.

    Attributes:
        loss_ratio: interquartile mean of the test loss of tuned AdamW divided by its own.
        loss_interval: of that.
        speed_up: interquartile mean of the steps that tuned AdamW takes to its last validation loss divided by its own.
        speed_interval: of that.
        worst_ratio: the least ratio of losses of any workload.
        worst_on: which one.
        mean_rank: by test loss, 1 is best.
        diverged: trainings.
        trainings: of all.
    """

    loss_ratio: float
    loss_interval: tuple[float, float]
    speed_up: float
    speed_interval: tuple[float, float]
    worst_ratio: float
    worst_on: str
    mean_rank: float
    diverged: int
    trainings: int


def outcome_of(row: Row, steps: Sequence[int]) -> Outcome:
    """A row of a comparison in arrays.

    Args:
        row: of one workload.
        steps: at which a training that does not diverge is evaluated.
    """
    curves = np.full((len(row.traces), len(steps)), np.inf)
    for curve, trace in zip(curves, row.traces, strict=True):
        known = len(trace.val_loss) - trace.diverged
        curve[:known] = trace.val_loss[:known]
    losses = np.array([np.inf if trace.diverged else trace.test_loss for trace in row.traces])
    return Outcome(
        np.array(steps, dtype=np.float64),
        np.where(np.isnan(curves), np.inf, curves),
        np.where(np.isnan(losses), np.inf, losses),
        np.array([trace.test_metric for trace in row.traces]),
        sum(trace.diverged for trace in row.traces),
    )


def interquartile_mean(values: Array) -> Array:
    """The mean without the lowest and the highest quarter of the values, along the last axis.

    >>> float(interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 100.0])))
    2.0
    """
    cut = values.shape[-1] // 4
    middle: Array = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
    mean: Array = middle.mean(axis=-1)
    return mean


def loss_ratio(reference: Array, own: Array) -> Array:
    """The reference's mean loss divided by a contender's: 0 where one of its trainings diverged, 1 where both did.

    Args:
        reference: final losses ``[…, S]``.
        own: likewise.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: Array = np.divide(reference.mean(axis=-1), own.mean(axis=-1))
    return np.where(np.isnan(ratio), 1.0, ratio)


def speed_up(steps: Array, reference: Array, own: Array) -> Array:
    """Steps of the reference until its mean curve is at its last value, divided by those of a contender until there.

    Args:
        steps: ``[E]``, from 0.
        reference: validation losses ``[…, S, E]``.
        own: likewise.

    Returns:
        The ratio; 0 where the contender's mean curve is never there.
    """
    mean_reference, mean_own = reference.mean(axis=-2)[..., 1:], own.mean(axis=-2)[..., 1:]
    target = mean_reference[..., -1:]
    first = steps[1:][(mean_reference <= target).argmax(axis=-1)]
    there = mean_own <= target
    ratio: Array = np.where(there.any(axis=-1), first / steps[1:][there.argmax(axis=-1)], 0.0)
    return ratio


def ranks(losses: Sequence[float]) -> list[float]:
    """From 1 for the lowest; equal ones share the mean of their ranks.

    >>> ranks([0.3, 0.1, 0.3])
    [2.5, 1.0, 2.5]
    """
    return [sum(a < b for a in losses) + (sum(a == b for a in losses) + 1) / 2 for b in losses]


def scores(outcomes: Mapping[str, Mapping[str, Outcome]], reference: str) -> dict[str, Score]:
    """By contender, in the order of their mean rank.

    An interval resamples the workloads, and the seeds of each.

    Args:
        outcomes: by workload and contender.
        reference: the contender that the others are measured by.
    """
    names = list(next(iter(outcomes.values())))
    by_rank = {
        workload: dict(zip(names, ranks([float(own[n].test_loss.mean()) for n in names]), strict=True))
        for workload, own in outcomes.items()
    }
    found = {}
    for name in names:
        pairs = [(own[reference], own[name]) for own in outcomes.values()]
        ratios, speeds = (interquartile_mean(values) for values in _resampled(pairs))
        exact = np.array([loss_ratio(a.test_loss, b.test_loss) for a, b in pairs])
        worst = int(exact.argmin())
        found[name] = Score(
            loss_ratio=float(interquartile_mean(exact)),
            loss_interval=_interval(ratios),
            speed_up=float(interquartile_mean(np.array([speed_up(a.steps, a.val_loss, b.val_loss) for a, b in pairs]))),
            speed_interval=_interval(speeds),
            worst_ratio=float(exact[worst]),
            worst_on=list(outcomes)[worst],
            mean_rank=float(np.mean([by_rank[workload][name] for workload in outcomes])),
            diverged=sum(b.diverged for _, b in pairs),
            trainings=sum(len(b.test_loss) for _, b in pairs),
        )
    return dict(sorted(found.items(), key=lambda item: item[1].mean_rank))


def _resampled(pairs: Sequence[tuple[Outcome, Outcome]]) -> tuple[Array, Array]:
    """Ratios of losses and of steps ``[R, W]``, workloads drawn with replacement, and seeds of each likewise."""
    stream = np.random.default_rng(0)
    ratios, speeds = np.empty((RESAMPLES, len(pairs))), np.empty((RESAMPLES, len(pairs)))
    for w, (a, b) in enumerate(pairs):
        seeds = stream.integers(len(a.test_loss), size=(RESAMPLES, len(a.test_loss)))
        ratios[:, w] = loss_ratio(a.test_loss[seeds], b.test_loss[seeds])
        speeds[:, w] = speed_up(a.steps, a.val_loss[seeds], b.val_loss[seeds])
    drawn = stream.integers(len(pairs), size=ratios.shape)
    return np.take_along_axis(ratios, drawn, axis=1), np.take_along_axis(speeds, drawn, axis=1)


def _interval(values: Array) -> tuple[float, float]:
    low, high = np.percentile(values, INTERVAL)
    return float(low), float(high)


def as_figures(outcome: Outcome, reference: Outcome) -> dict[str, Any]:
    """One contender's figures on one workload, those over seeds as mean and standard deviation."""
    several = len(outcome.test_loss) > 1 and not outcome.diverged
    return {
        "test_loss": float(outcome.test_loss.mean()),
        "test_loss_sd": float(outcome.test_loss.std(ddof=1)) if several else float("nan"),
        "test_metric": float(outcome.test_metric.mean()),
        "test_metric_sd": float(outcome.test_metric.std(ddof=1)) if several else float("nan"),
        "val_loss": float(outcome.val_loss[:, -1].mean()),
        "loss_ratio": float(loss_ratio(reference.test_loss, outcome.test_loss)),
        "speed_up": float(speed_up(outcome.steps, reference.val_loss, outcome.val_loss)),
        "diverged": outcome.diverged,
    }
