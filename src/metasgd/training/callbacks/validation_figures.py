"""What is drawn after validations."""

from abc import abstractmethod
from typing import ClassVar

from lightning import LightningModule, Trainer
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from metasgd.episode import Episode
from metasgd.training.callbacks.of_trainer import data_of
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.loggers import takes_figures
from metasgd.training.module import MetaSGDModule


class ValidationFigures(Callback):
    """Draws after each validation, in the first process, where a logger takes figures.

    Attributes:
        commands: after whose validations.
    """

    commands: ClassVar[tuple[str, ...]] = ("fit", "validate")

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MetaSGDModule)
        if trainer.state.fn in self.commands and not trainer.sanity_checking and takes_figures(trainer):
            self.draw(trainer, pl_module, data_of(trainer))

    @abstractmethod
    def draw(self, trainer: Trainer, module: MetaSGDModule, data: EpisodicDataModule) -> None:
        """Draw and log."""


def as_in_a_step(trainer: Trainer, tasks: Episode) -> Episode:
    """Tasks in the precision and on the device in which the Trainer's steps take them."""
    there: Episode = move_data_to_device(trainer.precision_plugin.convert_input(tasks), trainer.strategy.root_device)
    return there
