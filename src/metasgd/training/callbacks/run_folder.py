"""Writing in a run's folder."""

from collections.abc import Iterator
from contextlib import contextmanager

from metasgd.errors import UserError


@contextmanager
def written_in(folder: str | None) -> Iterator[None]:
    """Name the run's folder where something cannot be written to it."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"trainer.logger.init_args.save_dir: the run's folder {folder} cannot be written"
            f" ({error.strerror or error}). Allow writing there, make room, or choose another folder"
        ) from error
