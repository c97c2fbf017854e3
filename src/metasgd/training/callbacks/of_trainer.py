"""What callbacks ask of a Trainer: its data, and the run's folder to write in."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning import Trainer

from metasgd.errors import UserError
from metasgd.training.datamodule import EpisodicDataModule


def data_of(trainer: Trainer) -> EpisodicDataModule:
    """What supplies a Trainer's tasks."""
    data = trainer.datamodule  # type: ignore[attr-defined] # set by the Trainer's methods
    assert isinstance(data, EpisodicDataModule)
    return data


@contextmanager
def written_in(folder: object) -> Iterator[None]:
    """Name the run's folder where something cannot be written to it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"trainer.logger.init_args.save_dir: the run's folder {folder} cannot be written"
            f" ({error.strerror or error}). Allow writing there, make room, or choose another folder"
        ) from error
