"""How a run is asked to stop: signals, noted as they come and obeyed by all processes after the same outer step."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from metasgd.errors import first_line

ONE_MESSAGE = 1.0
"""Seconds; a terminal and a launcher may both pass the same Ctrl-C on."""
AT_ONCE = (signal.SIGTERM, signal.SIGINT)
"""These end the program at once where there is no run to save."""


class StopSignals:
    """SIGTERM, SIGINT and, in a job of SLURM that may be requeued, the signal that announces its end.

    At first SIGTERM and SIGINT end the program at once, with ``128 + signal``. Once a run is about to take steps they
    are noted, for who can save it to ask about; a second SIGINT, by someone who does not want to wait, still leaves.
    SLURM's is noted from the start: it comes well before the job's end, and only a run that saves itself can have the
    job requeued.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._noting = False
        self._process = 0
        self._before: dict[int, signal._HANDLER] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Answer to SIGTERM and SIGINT; give them back in the end."""
        self.received, self._noting, self._process = 0, False, os.getpid()
        self._take(*AT_ONCE)
        announced = SLURMEnvironment().requeue_signal if SLURMEnvironment.detect() else None
        if announced is not None:
            self._take(announced)
        try:
            yield
        finally:
            while self._before:
                signal.signal(*self._before.popitem())

    def note(self, trainer: Trainer) -> None:
        """From here on, only note what comes."""
        if not self._before:
            return  # whoever runs this Trainer sees to signals
        self._noting = True
        # the Trainer's handlers start a broadcast wherever the process happens to be
        trainer._signal_connector = _NoHandlers(trainer)
        number = requeue_signal(trainer)
        if number is not None:
            self._take(number)

    def obey(self) -> None:
        """From here on, leave at once again; now, if a signal to leave has come."""
        self._noting = False
        if self.received in AT_ONCE:
            raise SystemExit(128 + self.received)

    @contextmanager
    def withheld_from_workers(self) -> Iterator[None]:
        """Start processes that none of these signals reaches, and be reached by none oneself meanwhile.

        A terminal, SLURM and systemd send a signal to all the processes of a run, whose workers must live until
        the outer step at work is done. And Python drops what a handler raises in the middle of a fork.
        """
        noting, self._noting = self._noting, True
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            if not noting:
                self.obey()

    def _take(self, *numbers: int) -> None:
        for number in numbers:
            before = signal.signal(number, self._note)
            self._before.setdefault(number, signal.SIG_DFL if before is None else before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that is just being forked
        now = time.monotonic()
        first, repeated = not self.received, self.received and now - self._since > ONE_MESSAGE
        if first:
            self.received, self._since = number, now
        if number in AT_ONCE and (repeated and number == signal.SIGINT if self._noting else first or repeated):
            raise SystemExit(128 + number)

    def agreed(self, trainer: Trainer) -> int:
        """The signal that any of the processes has received, the same answer in all of them; 0 for none."""
        if trainer.world_size == 1:
            return self.received
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(received, torch.distributed.ReduceOp.MAX)
        return int(received)


SIGNALS = StopSignals()
"""This process's: a handler of signals is never anything less than the whole process's."""


class _NoHandlers(_SignalConnector):
    """In the place of the Trainer's own."""

    def register_signal_handlers(self) -> None:
        """None."""


def obey_parent_alone(worker_id: int) -> None:  # noqa: ARG001
    """In a worker that was started with SIGTERM blocked: end by the one that the parent sends when it leaves."""

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


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


def fewest(trainer: Trainer, n: int) -> int:
    """The least n of all processes: so often all of them can be asked whether a signal has come."""
    return int(trainer.strategy.reduce(torch.tensor(n, device=trainer.strategy.root_device), reduce_op="min"))


def requeue_signal(trainer: Trainer) -> int | None:
    """The signal by which SLURM announces a job's end, if the job is to be requeued then."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None


GLOO = ("/gloo/", "Application timeout caused pair closure")
"""What gloo's errors say, which have no type of their own."""


def is_lost_process(error: BaseException) -> bool:
    """Whether this error came of another process of the run that has ended, or answers no more."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in GLOO)
    )


def reason_of_loss(error: RuntimeError) -> str:
    """What that error says, without the place in gloo's sources and its advice."""
    return re.sub(r"^\[\S*/gloo/\S*\] ", "", first_line(error)).split(". ")[0]


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: the job {job} could not be requeued ({error}). Start it again by hand", file=sys.stderr)
