"""What ``adapt`` adapts: a checkpoint's learner, or a backbone's; by its own steps, or by nearest centroids."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from metasgd.data.images.decoding import PictureForm
from metasgd.data.images.polarity import Ink
from metasgd.errors import UserError, raise_problems
from metasgd.learner.adapted_learner import as_inputs
from metasgd.learner.load import load, load_source
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.nearest_centroid import by_nearest_centroid, pretrained, with_scale
from metasgd.learner.prediction_sets import LeftOut
from metasgd.meta.ensemble import mean_prediction
from metasgd.reporting.metrics import wilson_interval
from metasgd.runs.several import split_names
from metasgd.runs.shipped import checkpoint_named

CHANCE = 0.1
"""What is right as often by chance, with this probability or more, is no better than chance."""

NO_BETTER = (
    "warning: that is no better than chance: this learner does not tell these classes apart, and its predictions are"
    " not to be used. Give more pictures of each class, or another --ckpt_path or --backbone"
)
Pictures = NDArray[np.uint8]
Labels = NDArray[np.str_]


@dataclass(frozen=True)
class Given:
    """Learners of the same pictures, whose predictions are averaged; usually one.

    Attributes:
        learners: as they were meta-trained, or a backbone by nearest centroids.
        form: of the pictures that they take.
        ink: for those that were trained on drawings.
        files: that each was read from, or the backbone's name.
    """

    learners: Sequence[MetaLearner]
    form: PictureForm
    ink: Ink | None
    files: Sequence[str]


@dataclass(frozen=True)
class Candidate:
    """A way to adapt: a learner and its inner steps, and what it predicts of the pictures that can be left out.

    Attributes:
        learner: the learner.
        inner_steps: its inner steps.
        left_out: those predictions; None if no class has two pictures.
    """

    learner: MetaLearner
    inner_steps: int
    left_out: LeftOut | None = None

    @property
    def right(self) -> int:
        return 0 if self.left_out is None else self.left_out.right

    @property
    def in_words(self) -> str:
        return f"{self.inner_steps} inner step{'s' * (self.inner_steps != 1)}" if self.inner_steps else "no inner step"


@dataclass(frozen=True)
class Choice:
    """How to adapt to the pictures at hand.

    Attributes:
        best: the candidate that predicts the most left-out pictures right; of equals, the one meta-trained.
        lines: what is said about it.
        doubtful: whether it is no better than chance.
        left_out: what is predicted of the pictures that can be left out; None if there are none.
    """

    best: Candidate
    lines: Sequence[str]
    doubtful: bool
    left_out: LeftOut | None


def given_learner(
    ckpt_path: str | None, backbone: str | None, weights: str | None, inner_steps: int | None, trust: bool
) -> Given:
    """The learner that the options of ``adapt`` ask for.

    Raises:
        UserError: they ask for none, or for two; or it cannot be had, or was not trained to tell pictures apart.
    """
    problems = []
    if (ckpt_path is None) == (backbone is None):
        both = "are both given" if ckpt_path else "are both missing"
        problems.append(
            f"--ckpt_path and --backbone {both}: give a checkpoint that fit wrote, such as omniglot for drawings, or a"
            " pretrained network, such as resnet18 for photographs"
        )
    if weights is not None and backbone is None:
        problems.append(f"--weights is {weights}, but there is no --backbone: name the network that they are of")
    if backbone is not None and inner_steps:
        problems.append(
            f"--inner_steps is {inner_steps}, but a backbone has no learned rates to step by: leave it out, or"
            " meta-train it (metasgd fit with --model.network Backbone)"
        )
    raise_problems(problems)
    if backbone is not None:
        learner = _pretrained(backbone, weights)
        channels, height, width = tuple(getattr(learner.model.network, "image_shape", ()))
        return Given([learner], PictureForm(channels, height, width), None, [weights or backbone])
    assert ckpt_path is not None
    return _together([_saved(name, trust) for name in split_names(ckpt_path)], ckpt_path)


def _saved(name: str, trust: bool) -> Given:
    path = checkpoint_named(name, "--ckpt_path")
    learner = load(path, trust)
    source = load_source(learner.config, learner.trusted)
    if source is None or learner.model.objective.metric != "accuracy":
        raise UserError(
            f"--ckpt_path is {name}, which was not trained to tell pictures apart. Give one that was, or use"
            " metasgd.load(path).adapt(x, y) in Python"
        )
    return Given([learner], source.form, source.ink, [path])


def _together(found: Sequence[Given], ckpt_path: str) -> Given:
    """All the learners as one, if they take the same pictures."""
    first = found[0]
    sizes = {
        given.files[0]: f"{g.width}×{g.height} in {g.channels} channel{'s' * (g.channels != 1)}"
        for given in found
        for g in [given.form]
    }
    if len(set(sizes.values())) > 1:
        raise UserError(
            f"--ckpt_path is {ckpt_path}, of which"
            f" {', '.join(f'{file} takes pictures of {size}' for file, size in sizes.items())}: give"
            " checkpoints that take the same"
        )
    inks = {given.ink for given in found}
    if len(inks) > 1:
        named = ", ".join(f"{given.files[0]} on {given.ink or 'no'} ink" for given in found)
        raise UserError(f"--ckpt_path is {ckpt_path}, trained on different ink ({named}): give those of one")
    return Given([g.learners[0] for g in found], first.form, first.ink, [g.files[0] for g in found])


def _pretrained(backbone: str, weights: str | None) -> MetaLearner:
    try:
        return pretrained(backbone, weights or "DEFAULT")
    except UserError as error:
        options = ("model is ", "--backbone is "), ("weights is ", "--weights is ")
        problems = error.problems
        for argument, option in options:
            problems = tuple(option + p.removeprefix(argument) if p.startswith(argument) else p for p in problems)
        raise UserError(*problems) from error


def choose(learner: MetaLearner, x: Pictures, y: Labels, inner_steps: int | None) -> Choice:
    """How to adapt, by how many support pictures each way predicts right from the others (leave-one-out).

    Args:
        learner: as it was meta-trained.
        x: the support pictures, ``[X, channels, height, width]``.
        y: their classes, ``[X]``.
        inner_steps: the user's; by default the learner's own are compared to nearest centroids.
    """
    steps = learner.model.eval_inner_steps if inner_steps is None else inner_steps
    candidates = [Candidate(learner, steps)]
    n, n_way = learner.n_left_out(y), len(np.unique(y))
    if not n:
        alone = "leave-one-out: no class has two pictures, so none can be held against the others"
        return Choice(candidates[0], [alone], False, None)
    centroid = by_nearest_centroid(learner) if inner_steps is None and steps else None
    if centroid is not None:
        candidates.append(Candidate(scaled(centroid, x, y), 0))
    counted = [_counted(c, x, y, n) for c in candidates]
    best = max(counted, key=lambda c: c.right)
    lines = [_in_words(best.right, n, n_way)]
    if len(counted) > 1:
        rest = next(c for c in counted if c is not best)
        lines.append(f"{best.in_words} taken: {rest.in_words} would get {rest.right} right")
    doubtful = _is_doubtful(best.right, n, n_way)
    return Choice(best, [*lines, NO_BETTER] if doubtful else lines, doubtful, best.left_out)


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


def scaled(learner: MetaLearner, x: Pictures, y: Labels) -> MetaLearner:
    """A learner by nearest centroids, whose probabilities are made to fit the support pictures."""
    targets = torch.from_numpy(np.unique(y, return_inverse=True)[1].astype(np.int64))
    return with_scale(learner, as_inputs(learner.model.network, x), targets)


def _counted(candidate: Candidate, x: Pictures, y: Labels, n: int) -> Candidate:
    """The candidate with what it predicts of the ``n`` pictures that can be left out."""
    left_out = candidate.learner.left_out(x, y, candidate.inner_steps)
    shown = track(left_out, "Leaving one out", n, console=Console(stderr=True), transient=True)
    places, outputs = zip(*shown, strict=True)
    targets = np.unique(y, return_inverse=True)[1][list(places)]
    return replace(candidate, left_out=LeftOut(np.stack(outputs).astype(np.float64), targets.astype(np.int64)))


def _at_least(right: int, n: int, chance: float) -> float:
    """The probability to get so many or more of n right by chance."""
    return sum(comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(right, n + 1))
