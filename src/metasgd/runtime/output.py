"""What a command prints: losing it, to a full disk or a terminal without Greek letters, costs nothing that is saved."""

import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO


class Printed:
    r"""A stream that drops what it cannot write, and remembers why.

    Args:
        stream: characters that its encoding lacks are written as escapes, ``\xb1``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None
        reconfigure = getattr(stream, "reconfigure", None)
        try:
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        except OSError as error:  # of what was to be written before
            self._drop(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._drop(error)
        return len(text)

    def flush(self) -> None:
        if self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._drop(error)

    def _drop(self, error: OSError) -> None:
        self.lost = error
        with suppress(OSError):  # a stream without a file of the system
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # Python tries to write the rest when it ends
            os.close(nowhere)


def losing_output_alone(command: Callable[..., int]) -> Callable[..., int]:
    """Have a command line carry on when what it prints cannot be written, and say so at its end with exit code 2.

    A reader that does not want the rest, as ``head``, is no error.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> int:
        before = sys.stdout, sys.stderr
        out, err = (None if stream is None else Printed(stream) for stream in before)
        sys.stdout, sys.stderr = out, err
        try:
            code = command(*args, **options)
        finally:
            for stream in (out, err):
                if stream is not None:
                    stream.flush()
            sys.stdout, sys.stderr = before
        if code == 0 and out is not None and out.lost is not None and not isinstance(out.lost, BrokenPipeError):
            code = 2
            if err is not None:
                err.write(
                    f"error: not all that this command prints could be written ({out.lost.strerror}). What it saves is"
                    " complete. Make room where its output goes\n"
                )
                err.flush()
        return code

    return run
