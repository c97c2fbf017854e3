"""The Trainer's options: how they stand where nobody sets them, and what they cannot be."""

import re
from argparse import SUPPRESS, ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from metasgd.errors import UserError, raise_problems
from metasgd.runtime.launch import launches_by_multiprocessing
from metasgd.training.loggers import as_list
from metasgd.training.trainer_limits import NO_HALF, half_precision, refusal

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 1,  # a run is one pass of max_steps outer steps
    "check_val_every_n_epoch": None,  # so val_check_interval counts outer steps
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "inference_mode": False,  # adapting to a validation task takes gradients
    "use_distributed_sampler": False,  # the data module deals the tasks over processes itself
    "enable_model_summary": False,
}
INSTEAD = {
    "barebones": "it leaves no run behind. Leave it out, or use --trainer.fast_dev_run",
    "overfit_batches": "it ends a run after so many outer steps. Use --trainer.max_steps, with a --data.seed",
    "gradient_clip_val": "outer gradients are clipped by --model.outer.gradient_clip_norm. Use that",
    "gradient_clip_algorithm": "outer gradients are clipped by --model.outer.gradient_clip_norm. Use that",
    "accumulate_grad_batches": "an outer step is one meta-batch. For a larger one raise --data.meta_batch_size",
    "reload_dataloaders_every_n_epochs": "a run is one pass of max_steps outer steps. Leave it out",
    "sync_batchnorm": "a task's normalisation is its own: no other task has a share in it. Leave it out",
    "use_distributed_sampler": "the tasks are dealt over the processes already. Leave it out",
}
"""Options of the Trainer that do something else here, or harm, with what to do instead."""
REFUSED_OPTIONS = (*INSTEAD, "enable_checkpointing", "inference_mode")
"""These are not offered."""
USUAL = {"accumulate_grad_batches": 1}
"""Where an option stands that is not used, if that is neither none nor zero."""
LEAST = {
    "min_steps": 1,
    "min_epochs": 0,
    "check_val_every_n_epoch": 1,
    "num_nodes": 1,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,  # all of them
    "fast_dev_run": 0,
    "limit_train_batches": 0,
    "limit_val_batches": 0,
    "limit_test_batches": 0,
    "limit_predict_batches": 0,
}
"""The least value of options that are numbers."""
LIMITS = {
    "fit": ("limit_train_batches", "no outer step would be taken"),
    "validate": ("limit_val_batches", "nothing would be evaluated"),
    "test": ("limit_test_batches", "nothing would be evaluated"),
    "predict": ("limit_predict_batches", "nothing would be predicted"),
}
"""By command, the option without whose batches it would do nothing, and what that means."""
MACHINE = ("accelerator", "devices", "strategy", "precision")
"""Options for what a machine has."""
OWN_CHECKPOINTS = ("last", "best")
"""Checkpoints of these names are the run's own."""


def leave_out_refused(parser: ArgumentParser, given: Sequence[str]) -> None:
    """Leave the Trainer's options that are refused out of the parser's help, if that is what is asked for."""
    for action in parser._actions if {"-h", "--help"} & {*given} else ():
        if action.dest.removeprefix("trainer.") in REFUSED_OPTIONS:
            action.help = SUPPRESS


def validate_trainer_options(config: dict[str, Any], command: str) -> None:
    """Refuse what the Trainer would take, but meta-training cannot.

    Args:
        config: the Trainer's options.
        command: fit, validate, test or predict.

    Raises:
        UserError: with all of them.
    """
    fit = command == "fit"
    problems = [
        f"trainer.{option} is {config[option]}, but {why}"
        for option, why in INSTEAD.items()
        if config.get(option) not in (None, 0, USUAL.get(option))
    ]
    if config.get("enable_checkpointing") is False and not config.get("fast_dev_run"):
        problems.append("trainer.enable_checkpointing is false, but a run is its checkpoints. Leave it out")
    interval, max_steps, max_epochs = config["val_check_interval"], config["max_steps"], config.get("max_epochs")
    dry = bool(config.get("fast_dev_run"))
    if fit and not dry and not (isinstance(max_steps, int) and max_steps >= 1):
        problems.append(f"trainer.max_steps is {max_steps}: a whole number of outer steps from 1 is needed")
    if fit and max_epochs is not None and (max_epochs == 0 or max_epochs < -1):
        problems.append(f"trainer.max_epochs is {max_epochs}: leave it out, a run is one pass of max_steps outer steps")
    if fit and not (interval is None or (isinstance(interval, int) and interval >= 1) or interval == 1.0):
        problems.append(
            f"trainer.val_check_interval is {interval}: a whole number of outer steps between validations is needed"
        )
    problems += [
        f"trainer.{option} is {value}: at least {least} is needed"
        for option, least in LEAST.items()
        if isinstance(value := config.get(option), int | float) and value < least
    ]
    limit, result = LIMITS[command]
    if config.get(limit) == 0:
        problems.append(f"trainer.{limit} is 0: {result}. Leave it out")
    if config["inference_mode"]:
        problems.append(
            "trainer.inference_mode is true, but adapting to a task needs gradients in evaluation too: use false"
        )
    plugins = as_list(config.get("plugins"))
    half = [name for name in map(half_precision, (config["precision"], *plugins)) if name]
    if half:
        problems.append(f"trainer.precision is {half[0]}, but {NO_HALF}")
    if any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        problems.append(
            "trainer.plugins has a CheckpointIO, but checkpoints are written and read such that there is always a"
            " whole one: leave it out"
        )
    raise_problems([*problems, *_of_callbacks(as_list(config.get("callbacks")))])


def _of_callbacks(callbacks: Sequence[Callback]) -> Iterator[str]:
    for callback in callbacks:
        name = type(callback).__name__
        if why := refusal(callback):
            yield f"trainer.callbacks has {name}, but {why}"
        if isinstance(callback, ModelCheckpoint):
            if callback.save_last:
                yield f"trainer.callbacks has {name} with save_last, but the run has its last.ckpt. Leave that out"
            if callback.filename in OWN_CHECKPOINTS:
                yield (
                    f"trainer.callbacks has {name} with filename {callback.filename}, but the run has a"
                    f" {callback.filename}.ckpt of its own. Use another name"
                )


def validate_monitors(callbacks: Sequence[Callback], logged: Sequence[str]) -> None:
    """Refuse callbacks that wait for what is never logged; where a class of the user's may log it, let them.

    Args:
        callbacks: all that a run has.
        logged: the names that the program logs.

    Raises:
        UserError: with the names that there are.
    """
    if any(not type(callback).__module__.startswith(("lightning.", "metasgd.")) for callback in callbacks):
        return
    unknown = {
        type(callback).__name__: monitor
        for callback in callbacks
        if isinstance(monitor := getattr(callback, "monitor", None), str) and monitor not in logged
    }
    raise_problems(
        [
            f"trainer.callbacks has {name} with monitor {monitor}, which is not logged:"
            f" use {' or '.join(get_close_matches(monitor, logged, n=2, cutoff=0.6) or logged)}"
            for name, monitor in unknown.items()
        ]
    )


@contextmanager
def explaining_trainer(config: dict[str, Any]) -> Iterator[None]:
    """What the Trainer answers to options that it cannot take, in one message.

    Raises:
        UserError: with the options that most often are the reason.
    """
    try:
        yield
    except UserError:
        raise
    except (MisconfigurationException, ModuleNotFoundError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the Trainer cannot be made: {reason}{_reason_given(reason, config)}") from error


def _reason_given(reason: str, config: dict[str, Any]) -> str:
    """The options that a reason is about, with what to do about those for a machine; empty where it names none."""
    if re.search("accelerator|device|strateg|precision|gpu|cuda|tpu|mps|requirement", reason, re.IGNORECASE):
        chosen = ", ".join(f"trainer.{option} is {config[option]}" for option in MACHINE)
        return f" ({chosen}). Choose what this machine has, as --trainer.accelerator cpu --trainer.devices 1"
    texts = {name: value for name, value in config.items() if isinstance(value, str)}
    quoted = [f"trainer.{name} is {value}" for name, value in texts.items() if repr(value) in reason]
    return f" ({', '.join(quoted)})" if quoted else ""


def validate_strategy(trainer: Trainer, chosen: Any) -> None:
    """Refuse strategies that split the weights, or whose processes leave no run behind.

    Args:
        trainer: as it was made.
        chosen: the option of that name.

    Raises:
        UserError: with what to use.
    """
    strategy = trainer.strategy
    whole = isinstance(strategy, SingleDeviceStrategy | DDPStrategy)
    if whole and not launches_by_multiprocessing(strategy):
        return
    why = (
        "starts its processes in a way that leaves neither signals nor the end of a run to them"
        if whole
        else "does not hold all the weights in each process, which adapting to a task needs"
    )
    raise UserError(f"trainer.strategy is {chosen}, which {why}. Use ddp, or auto")
