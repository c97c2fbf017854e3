"""How a run is told to stop: signals, noted as they come and obeyed by all processes after the same outer step."""

import os
import re
import signal
import subprocess
import sys
import time
from types import FrameType

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

ONE_MESSAGE = 1.0
"""Seconds; a terminal and a launcher may both pass the same Ctrl-C on."""


class StopSignals:
    """SIGTERM, SIGINT and, in a job of SLURM that may be requeued, the signal that announces its end.

    A second SIGINT, by someone who does not want to wait, leaves at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0

    def listen(self, trainer: Trainer) -> None:
        """Take over from the Trainer's handlers; it restores those from before itself when it ends."""
        for number in (signal.SIGTERM, signal.SIGINT, requeue_signal(trainer)):
            if number is not None:
                signal.signal(number, self._note)
        if trainer.received_sigterm:  # by the Trainer's handler, a moment ago
            self.received = signal.SIGTERM

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self.received and number == signal.SIGINT and now - self._since > ONE_MESSAGE:
            raise SystemExit(128 + number)
        if not self.received:
            self.received, self._since = number, now

    def agreed(self, trainer: Trainer) -> int:
        """The signal that any of the processes has received, the same answer in all of them; 0 for none."""
        if trainer.world_size == 1:
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)


def leave(trainer: Trainer, number: int) -> None:
    """Leave because of that signal, with the exit code that a scheduler expects; requeue the job if it asks for it.

    Raises:
        SystemExit: always.
    """
    if number == requeue_signal(trainer) and trainer.is_global_zero:
        _requeue()
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, LightningEnvironment) and trainer.local_rank > 0:
        # the first process has started this one, and kills all when one fails: only its own code counts
        raise SystemExit(0)
    raise SystemExit(128 + number)


def requeue_signal(trainer: Trainer) -> int | None:
    """The signal by which SLURM announces a job's end, if the job is to be requeued then."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None


def is_lost_process(error: RuntimeError) -> bool:
    """Whether this error came of another process of the run that has ended, or answers no more."""
    # gloo's errors have no type of their own
    return isinstance(error, torch.distributed.DistError) or "/gloo/" in str(error)


def reason_of_loss(error: RuntimeError) -> str:
    """What that error says, without the place in gloo's sources and its advice."""
    return re.sub(r"^\[\S*/gloo/\S*\] ", "", str(error).splitlines()[0]).split(". ")[0]


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: the job {job} could not be requeued ({error}). Start it again by hand", file=sys.stderr)
