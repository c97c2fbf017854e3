"""Lightning's Trainer for trainings of a few outer steps."""

from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


def plain_trainer(folder: Path, steps: int, **more: Any) -> Trainer:
    """A Trainer of so many outer steps on the CPU, with a validation after every second one, that prints nothing."""
    options: dict[str, Any] = {
        "max_steps": steps,
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": TensorBoardLogger(folder, name="run", version=0),
        "log_every_n_steps": 1,
        "val_check_interval": 2,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "inference_mode": False,
        "use_distributed_sampler": False,
    }
    return Trainer(**options | more)
