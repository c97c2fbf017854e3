"""How ``adapt`` adapts: by nearest centroids, a linear probe or inner steps, whichever leave-one-out finds best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from metasgd.errors import counted
from metasgd.learner.adapted_learner import as_inputs
from metasgd.learner.linear_probe import EACH_ALONE, FOLDS, by_linear_probe
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.nearest_centroid import by_nearest_centroid, head_alone, with_scale
from metasgd.learner.prediction_sets import LeftOut
from metasgd.meta.ensemble import mean_prediction
from metasgd.nn.networks import prototype_head
from metasgd.reporting.metrics import wilson_interval

CHANCE = 0.1
"""What is right as often by chance, with this probability or more, is no better than chance."""

NO_BETTER = (
    "warning: that is no better than chance: this learner does not tell these classes apart, and its predictions are"
    " not to be used. Give more pictures of each class, or another --ckpt_path or --backbone"
)
CENTROIDS, PROBE = "nearest centroids", "linear probe"
Pictures = NDArray[np.uint8]
Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Candidate:
    """A way to adapt: a learner and its inner steps, and what it predicts of the pictures that can be left out.

    Attributes:
        name: in words.
        learner: the learner.
        inner_steps: its inner steps.
        to_scale: whether its probabilities are made to fit the support pictures; those of meta-training are not.
        left_out: those predictions; None if no class has two pictures.
        features: what the head reads of the support pictures, where it decides alone and that is of each by itself.
    """

    name: str
    learner: MetaLearner
    inner_steps: int
    to_scale: bool
    left_out: LeftOut | None = None
    features: Tensor | None = None

    @property
    def by_head(self) -> bool:
        """Whether a head that is made of features decides alone."""
        return not self.inner_steps and prototype_head(self.learner.model.network) is not None

    @property
    def right(self) -> int:
        return 0 if self.left_out is None else self.left_out.right


@dataclass(frozen=True)
class Choice:
    """How to adapt to the pictures at hand.

    Attributes:
        best: the candidate that predicts the most left-out pictures right; of equals,
            what was meta-trained, then the linear probe, then nearest centroids.
        lines: what is said about it.
        doubtful: whether it is no better than chance.
        left_out: what is predicted of the pictures that can be left out; None if there are none.
    """

    best: Candidate
    lines: Sequence[str]
    doubtful: bool
    left_out: LeftOut | None


def choose(learner: MetaLearner, x: Pictures, y: Labels, inner_steps: int | None, to_scale: bool = False) -> Choice:
    """How to adapt, by how many support pictures each way predicts right from the others (leave-one-out).

    Args:
        learner: as it was meta-trained, or a backbone by nearest centroids.
        x: the support pictures, ``[X, channels, height, width]``.
        y: their classes, ``[X]``.
        inner_steps: the user's; by default the learner's own are compared to nearest centroids, and to a linear probe
            where the network reads each picture alone, so that a fit for each left out costs next to nothing.
        to_scale: make the learner's own probabilities fit the support pictures, as no meta-training did.
    """
    n, n_way = learner.n_left_out(y), len(np.unique(y))
    candidates = _candidates(learner, inner_steps, to_scale)
    if not n:
        alone = "leave-one-out: no class has two pictures, so none can be held against the others"
        return Choice(candidates[0], [alone], False, None)
    inputs = as_inputs(learner.model.network, x)
    features = _features(candidates, inputs)
    if features is not None and inner_steps is None and (probe := by_linear_probe(learner)) is not None:
        name = PROBE if n <= EACH_ALONE else f"{PROBE} in {FOLDS} folds"
        candidates.insert(len(candidates) - 1, Candidate(name, probe, 0, True))  # before nearest centroids
    tried = [_tried(c, inputs, features, y, n) for c in candidates]
    best = max(tried, key=lambda c: c.right)
    lines = [_in_words(best.right, n, n_way)]
    if len(tried) > 1:
        others = ", ".join(f"{c.name} {c.right}" for c in tried if c is not best)
        lines.append(f"{best.name} taken, {best.right} right; {others}")
    doubtful = _is_doubtful(best.right, n, n_way)
    return Choice(best, [*lines, NO_BETTER] if doubtful else lines, doubtful, best.left_out)


def _candidates(learner: MetaLearner, inner_steps: int | None, to_scale: bool) -> list[Candidate]:
    """The learner as it is, and what it is compared to: of those that are equally good the first is taken."""
    steps = learner.model.eval_inner_steps if inner_steps is None else inner_steps
    own = Candidate(counted(steps, "inner step"), learner, steps, to_scale)
    if own.by_head:
        own = replace(own, name=CENTROIDS)
    centroid = None if inner_steps is not None or own.by_head else by_nearest_centroid(learner)
    return [own] if centroid is None else [own, Candidate(CENTROIDS, centroid, 0, True)]


def _features(candidates: Sequence[Candidate], inputs: Tensor) -> Tensor | None:
    """What the heads of candidates without inner steps read, if it is of each picture alone."""
    first = next((c.learner for c in candidates if c.by_head), None)
    return first.features(inputs) if first is not None and first.reads_each_alone(inputs) else None


def together(choices: Sequence[Choice], y: Labels) -> Choice:
    """What is to be said of several learners that predict together, by the mean of their left-out probabilities.

    Args:
        choices: how each adapts.
        y: the classes of the support pictures, ``[X]``.
    """
    left_out = [choice.left_out for choice in choices if choice.left_out is not None]
    if len(left_out) < len(choices):
        return Choice(choices[0].best, [], False, None)
    outputs = mean_prediction([torch.from_numpy(one.outputs) for one in left_out], classes=True)
    found = replace(left_out[0], outputs=outputs.numpy())
    n, n_way = len(found.targets), len(np.unique(y))
    doubtful = _is_doubtful(found.right, n, n_way)
    lines = [f"together, {_in_words(found.right, n, n_way)}"]
    return Choice(choices[0].best, [*lines, NO_BETTER] if doubtful else lines, doubtful, found)


def _in_words(right: int, n: int, n_way: int) -> str:
    low, high = wilson_interval(right, n)
    return (
        f"leave-one-out: {right} of {n} support pictures are predicted right from the others, {right / n:.0%}"
        f" (95 % interval {low:.0%} to {high:.0%}; chance is {1 / n_way:.0%})"
    )


def _is_doubtful(right: int, n: int, n_way: int) -> bool:
    return right < n and _at_least(right, n, 1 / n_way) > CHANCE


def _tried(candidate: Candidate, inputs: Tensor, features: Tensor | None, y: Labels, n: int) -> Candidate:
    """The candidate with what it predicts of the ``n`` pictures that can be left out."""
    targets = torch.from_numpy(np.unique(y, return_inverse=True)[1].astype(np.int64))
    learner = candidate.learner
    if candidate.by_head and features is not None:
        candidate = replace(candidate, features=features)
        learner, inputs = head_alone(learner), features
    if candidate.to_scale:
        with_scale(learner, inputs, targets)
    left_out = learner.left_out(inputs, y, candidate.inner_steps)
    shown = track(left_out, "Leaving one out", n, console=Console(stderr=True), transient=True)
    places, outputs = zip(*shown, strict=True)
    found = LeftOut(np.stack(outputs).astype(np.float64), targets[list(places)].numpy())
    return replace(candidate, left_out=found)


def _at_least(right: int, n: int, chance: float) -> float:
    """The probability to get so many or more of n right by chance."""
    return sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))
