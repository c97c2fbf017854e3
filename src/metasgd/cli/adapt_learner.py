"""What ``adapt`` adapts: a checkpoint's learner, or a backbone's."""

from collections.abc import Sequence
from dataclasses import dataclass

from metasgd.data.images.decoding import PictureForm
from metasgd.data.images.polarity import Ink
from metasgd.errors import UserError, counted, raise_problems
from metasgd.learner.load import load, load_source
from metasgd.learner.meta_learner import MetaLearner
from metasgd.learner.nearest_centroid import pretrained
from metasgd.runs.several import split_names
from metasgd.runs.shipped import checkpoint_named


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
        given.files[0]: f"{g.width}×{g.height} in {counted(g.channels, 'channel')}"
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
