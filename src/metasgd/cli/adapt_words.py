"""What ``adapt`` says of the pictures that it was given, and of what was learned from them."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from metasgd.cli.adapt_choice import Labels, Pictures
from metasgd.cli.adapt_output import Doubt, Predictions
from metasgd.data.images.decoding import PictureForm
from metasgd.data.images.files import ClassFiles
from metasgd.errors import counted
from metasgd.learner.adapted_learner import AdaptedLearner
from metasgd.learner.meta_learner import MetaLearner
from metasgd.meta.reached import rates_reached
from metasgd.reporting.rates import moved_share, rates_table, unmoved_in_words


def show_rates(
    show: Console, learner: MetaLearner, adapted: AdaptedLearner, x: Pictures, y: Labels, inner_steps: int
) -> None:
    """Print the rates that the inner steps used, and which of the learned ones are as they started."""
    if adapted.rates_:
        order = [name for name, _ in learner.model.network.named_parameters()]
        show.print(rates_table(adapted.rates_, order), soft_wrap=False)
    rule = learner.model.update_rule
    if rates := rule.learned_rates():
        moved = {n: float(moved_share(rate.detach(), rule.init)) for n, rate in rates.items()}
        if unmoved := unmoved_in_words(moved, rates_reached(learner.reached(x, y, inner_steps))):
            show.print(unmoved)


def support_in_words(classes: Sequence[ClassFiles], form: PictureForm) -> str:
    """How many pictures of how many classes there are, and what they are converted to."""
    shots = sorted({len(c.files) for c in classes})
    each = f"{shots[0]}" if len(shots) == 1 else f"{shots[0]} to {shots[-1]}"
    kind = "grey" if form.channels == 1 else "colour"
    total = sum(len(c.files) for c in classes)
    return f"support: {total} pictures of {len(classes)} classes, {each} of each, as {kind} {form.width}×{form.height}"


def loss_in_words(adapted: AdaptedLearner) -> str:
    """The loss on the support set, and how the inner steps changed it."""
    losses = adapted.support_losses_
    steps = len(losses) - 1
    if not steps:
        return f"loss on the support set: {losses[0]:.4f}"
    worse = losses[-1] >= losses[0]
    return (
        f"loss on the support set: {losses[0]:.4f} before, {losses[-1]:z.4f} after {counted(steps, 'inner step')}"
        f"{'; adapting did not lower it, so the rates do not suit these pictures' if worse else ''}"
    )


def views_in_words(n_views: int) -> str:
    """What the predictions are the mean of; what is said above of losses and leave-one-out is of the first view."""
    return (
        f"predictions: mean of {n_views} views, the support pictures as they are and {n_views - 1} times distorted;"
        " what is said above is of the pictures as they are"
    )


def doubt_in_words(doubt: Doubt, found: Predictions, n: int) -> Iterator[str]:
    """What the sets and the unknown came to, of ``n`` pictures."""
    left_out = 0 if doubt.left_out is None else len(doubt.left_out.targets)
    if doubt.coverage is not None:
        yield (
            f"sets: {found.mean_set:.2f} classes each on average, which hold the true one of {doubt.coverage:.0%} of"
            f" pictures like the {left_out} left out"
        )
    if doubt.unknown is not None:
        yield (
            f"unknown: {found.n_unknown} of {n} pictures, which are less like any class than all but"
            f" {doubt.unknown:.0%} of the {left_out} left out"
        )
