"""``python -m metasgd`` as a process of its own, at no cost: it is forked from a server that has imported all of it."""

import multiprocessing
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from support.figures import render_nothing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["metasgd.cli.main"])


class Program:
    """A command line that runs beside the test, with a process, an environment and signals of its own.

    Args:
        arguments: of ``python -m metasgd``; strings.
        cwd: where it runs.
        environment: its variables; those of the test by default.
        leads_group: whether it leads a process group of its own.
        begin: called in the process before the command; of a module that can be imported, as is ``program``.
        program: called instead of the command; returns the exit code.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        leads_group: bool = False,
        begin: Callable[[], None] | None = None,
        program: Callable[[], int] | None = None,
    ) -> None:
        self.log = Path(cwd) / f"stderr.{time.monotonic_ns()}"
        self.log.touch()
        variables = dict(os.environ if environment is None else environment)
        started = (list(arguments), Path(cwd), variables, self.log, leads_group, begin, program)
        self.process = CONTEXT.Process(target=_run, args=started)
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def poll(self) -> int | None:
        """The exit code, minus the signal that killed it; None as long as it runs."""
        return self.process.exitcode

    def wait(self, timeout: float = 300) -> int:
        """The exit code at its end, which must come."""
        self.process.join(timeout)
        code = self.poll()
        assert code is not None, f"still at work after {timeout} s: {self.said()}"
        return code

    def said(self) -> str:
        """What it has written to its standard error."""
        return self.log.read_text()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, if it has not ended."""
        if self.poll() is None:
            self.send_signal(signal.SIGKILL)
        self.wait()


def _run(
    arguments: list[str],
    cwd: Path,
    environment: dict[str, str],
    log: Path,
    leads_group: bool,
    begin: Callable[[], None] | None,
    program: Callable[[], int] | None,
) -> None:
    render_nothing()
    multiprocessing.set_start_method(None, force=True)  # its own processes start as everybody's do
    if leads_group:
        os.setsid()
    for number, place in ((0, os.devnull), (1, os.devnull), (2, str(log))):
        opened = os.open(place, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["metasgd", *arguments]
    if begin is not None:
        begin()
    code: object = 0
    try:
        if program is None:
            runpy.run_module("metasgd", run_name="__main__", alter_sys=True)
        else:
            code = program()
    except SystemExit as leaving:
        code = leaving.code
    # not within the frames of what has ended, whose loaders would still hold workers: multiprocessing waits for them
    sys.exit(code)  # type: ignore[arg-type]
