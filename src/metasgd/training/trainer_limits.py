"""What no Trainer can do in meta-training, whether the command line or a script made it."""

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision

from metasgd.errors import raise_problems

HALF = ("16", "16-mixed", "16-true")
NO_HALF = (
    "float16 holds no number between 0 and 6e-8, and the scaler that keeps gradients above that knows of the outer loss"
    " alone: inner gradients and their derivatives would be lost unnoticed. Use bf16-mixed, which has the range of"
    " float32, or 32-true"
)
REFUSED_CALLBACKS: dict[type[Callback], str] = {
    StochasticWeightAveraging: "it averages over epochs, and a run is one. Use EMAWeightAveraging or WeightAveraging",
    GradientAccumulationScheduler: "an outer step is one meta-batch. Raise meta_batch_size of the data",
    LearningRateFinder: "an outer learning rate has no range test here. Compare short runs, of max_steps 500",
    BatchSizeFinder: "the meta-batch is part of the learning problem. Set meta_batch_size of the data",
}
"""Those of a Tuner are among them."""


def refusal(callback: Callback) -> str | None:
    """Why this callback cannot be used, and what can; None if it can."""
    return next((why for kind, why in REFUSED_CALLBACKS.items() if isinstance(callback, kind)), None)


def half_precision(precision: Any) -> str | None:
    """The name of a precision, or of a plugin's, that is float16."""
    own = precision.precision if isinstance(precision, MixedPrecision | HalfPrecision) else precision
    return str(own) if str(own) in HALF else None


def validate_trainer(trainer: Trainer) -> None:
    """Refuse a Trainer that a script made with what the command line refuses by its options.

    Raises:
        UserError: with all of it.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by Trainer.__init__
    problems = [f"the Trainer has {type(c).__name__}, but {why}" for c in callbacks if (why := refusal(c))]
    if half := half_precision(trainer.precision_plugin):
        problems.append(f"the Trainer's precision is {half}, but {NO_HALF}")
    if trainer.state.fn == "fit" and trainer.max_steps < 1:
        problems.append(
            f"the Trainer's max_steps is {trainer.max_steps}: a run is one pass of so many outer steps, which its"
            " schedule reads. Give Trainer(max_steps=10000)"
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined] # as callbacks
        problems.append(
            f"the Trainer's overfit_batches is {trainer.overfit_batches}, but each outer step has tasks of its own."  # type: ignore[attr-defined]
            " Use max_steps, with a seed of the data"
        )
    raise_problems(problems)
