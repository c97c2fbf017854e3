"""The command line, run in the process of the test: to import Lightning anew takes longer than most commands."""

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO
from unittest import mock

from lightning.pytorch.utilities import rank_zero_only

from metasgd.cli.main import main


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@contextlib.contextmanager
def logged_to(stream: TextIO) -> Iterator[None]:
    """What Lightning logs goes there, and not to the standard error that there was when it was imported."""
    handlers = [
        handler
        for name in ("lightning", "lightning.pytorch", "lightning.fabric")
        for handler in logging.getLogger(name).handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    before = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.setStream(stream)
    try:
        yield
    finally:
        for handler, own in zip(handlers, before, strict=True):
            handler.setStream(own)


def run(*arguments: str, cwd: Path) -> Done:
    """``python -m metasgd ARGUMENTS`` in a folder, as a new process would have run it; a warning is an error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        logged_to(err),
        mock.patch.object(sys, "argv", ["metasgd", *arguments]),
        mock.patch.dict(os.environ, COLUMNS="200"),  # and what Lightning puts there is gone afterwards
        mock.patch.object(rank_zero_only, "rank", 0),
    ):
        try:
            code: object = main()
        except SystemExit as leaving:
            code = leaving.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


def succeeded(*arguments: str, cwd: Path) -> Done:
    """The same for a command that must end well."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done
