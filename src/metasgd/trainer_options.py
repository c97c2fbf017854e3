"""The Trainer's options: how they stand where nobody sets them, and what they cannot be."""

from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

from metasgd.errors import refuse

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


def refuse_trainer_options(config: dict[str, Any]) -> None:
    """Refuse what the Trainer would take, but meta-training cannot.

    Raises:
        UserError: with all of them.
    """
    problems = []
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
    refuse(problems)
