"""The Trainer's options: how they stand where nobody sets them, and what they cannot be."""

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from metasgd.errors import raise_problems

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 1,  # a run is one pass of max_steps outer steps
    "check_val_every_n_epoch": None,  # so val_check_interval counts outer steps
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "inference_mode": False,  # adapting to a validation task takes gradients
    "use_distributed_sampler": False,  # the data module deals the tasks over processes itself
    "enable_model_summary": False,
}
HALF = ("16", "16-mixed", "16-true")
INSTEAD = {
    "fast_dev_run": "it leaves no run behind. For a short one use --trainer.max_steps 5 --trainer.val_check_interval 5",
    "barebones": "it leaves no run behind. Leave it out",
    "overfit_batches": "it ends a run after so many outer steps. Use --trainer.max_steps, with a --data.seed",
    "gradient_clip_val": "outer gradients are clipped by --model.outer.gradient_clip_norm. Use that",
    "accumulate_grad_batches": "an outer step is one meta-batch. For a larger one raise --data.meta_batch_size",
    "reload_dataloaders_every_n_epochs": "a run is one pass of max_steps outer steps. Leave it out",
}
"""Options of the Trainer that do something else here, or harm, with what to do instead."""
USUAL = {"accumulate_grad_batches": 1}
"""Where an option stands that is not used, if that is neither none nor zero."""


def validate_trainer_options(config: dict[str, Any], fit: bool) -> None:
    """Refuse what the Trainer would take, but meta-training cannot.

    Args:
        config: the Trainer's options.
        fit: whether it is to train.

    Raises:
        UserError: with all of them.
    """
    problems = [
        f"trainer.{option} is {config[option]}, but {why}"
        for option, why in INSTEAD.items()
        if config.get(option) not in (None, 0, USUAL.get(option))
    ]
    if config.get("enable_checkpointing") is False:
        problems.append("trainer.enable_checkpointing is false, but a run is its checkpoints. Leave it out")
    interval, max_steps = config["val_check_interval"], config["max_steps"]
    if fit and not (isinstance(max_steps, int) and max_steps >= 1):
        problems.append(f"trainer.max_steps is {max_steps}: a whole number of outer steps from 1 is needed")
    if fit and not (interval is None or (isinstance(interval, int) and interval >= 1) or interval == 1.0):
        problems.append(
            f"trainer.val_check_interval is {interval}: a whole number of outer steps between validations is needed"
        )
    if not isinstance(config["logger"], TensorBoardLogger):
        problems.append(
            "trainer.logger must be a TensorBoardLogger, whose folder is the run's folder; only its save_dir,"
            " name and version are yours to choose"
        )
    if config["inference_mode"]:
        problems.append(
            "trainer.inference_mode is true, but adapting to a task needs gradients in evaluation too: use false"
        )
    if str(config["precision"]) in HALF:
        problems.append(
            f"trainer.precision is {config['precision']}, but float16 holds no number between 0 and 6e-8, and the"
            " scaler that keeps gradients above that knows of the outer loss alone: inner gradients and their"
            " derivatives would be lost unnoticed. Use bf16-mixed, which has the range of float32, or 32-true"
        )
    raise_problems(problems)
