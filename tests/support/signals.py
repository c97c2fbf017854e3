"""Signals that a program sends to itself, at moments that nobody else could meet."""

import itertools
import os
import signal
from typing import Any
from unittest import mock

from metasgd.cli import main as command_line
from metasgd.cli.app import MetaSGDCLI


def signal_in_fork(number: int) -> None:
    """SIGINT in the middle of that fork, from 1: Python prints what is raised there, and continues."""
    forks = itertools.count(1)

    def signal_myself() -> None:
        if next(forks) == number:
            os.kill(os.getpid(), signal.SIGINT)

    os.register_at_fork(after_in_parent=signal_myself)


def signal_before_the_run() -> None:
    """SLURM's, before anything of the run is built."""

    class Announced(MetaSGDCLI):
        def __init__(self, *arguments: Any) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            super().__init__(*arguments)

    mock.patch.object(command_line, "MetaSGDCLI", Announced).start()  # until the process ends
