"""TensorBoard's files of a run that was resumed: each sorts after those before it, whatever the clock says."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.summary.writer import event_file_writer
from torch.utils.tensorboard import SummaryWriter
from upath import UPath

PREFIX = "events.out.tfevents."


class RunLogger(TensorBoardLogger):
    """Lightning's, which names a file by the time of its making; TensorBoard reads a run's files in their names' order.

    A resumed run says in its file from which step on what was logged before counts no more. Where its clock is behind
    that of its first life, or both fall into one second, TensorBoard would read this first, and then all of the rest:
    so each file is named after those that are there.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> SummaryWriter:
        if self._experiment is None:
            with _named_after(UPath(self.log_dir)):
                self._experiment = super().experiment
        return self._experiment


@contextmanager
def _named_after(folder: UPath) -> Iterator[None]:
    """Files of events that are made meanwhile sort after those that are in the folder."""
    stamps = [int(stamp) for file in folder.glob(f"{PREFIX}*") if (stamp := file.name[len(PREFIX) :][:10]).isdigit()]
    latest, clock = max(stamps, default=0), event_file_writer.time
    event_file_writer.time = SimpleNamespace(time=lambda: max(time.time(), latest + 1))
    try:
        yield
    finally:
        event_file_writer.time = clock
