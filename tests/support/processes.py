"""Other processes, forked from that of the test, which takes no time."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from metasgd.runs.folders import Run
from metasgd.runs.lock import locked


def exit_code(work: Callable[[], object]) -> int:
    """How a process ended that did this: minus the number of the signal, where one killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_itself(*_: object) -> NoReturn:
    """Ends the process of this call, as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("still alive")


def silent(said: str) -> None:
    """For what has nothing to say."""
    raise AssertionError(said)


@contextmanager
def holder_of(run: Run, fork_worker: bool = False) -> Iterator[int]:
    """The id of a process that holds the lock of the run; killed in the end."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(run, silent):
            worker = os.fork() if fork_worker else 0
            if worker != 0 or not fork_worker:
                os.write(writes, f"{worker}\n".encode())
            while True:
                signal.pause()
    worker = int(os.read(reads, 100))
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if worker:
            # the worker of a killed process lives on for a while, and has no part in the lock
            with locked(run, silent):
                os.kill(worker, signal.SIGKILL)
        os.close(reads)
        os.close(writes)
