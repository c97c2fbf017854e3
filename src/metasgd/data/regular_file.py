"""Reading a file whole, and nothing else: opening a FIFO waits for a writer, and a device has no end."""

import os
import stat
from pathlib import Path

from metasgd.errors import UserError


def read_regular(path: Path, most: int) -> bytes:
    """The content of a regular file, links followed.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        UserError: it is a FIFO, a device or a socket, or larger.
        OSError: it cannot be read.
    """
    about = os.stat(path)
    if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):  # opening a folder says so
        raise UserError(f"{path}: a FIFO, a device or a socket, not a file. Remove it, or put a file in its place")
    size = about.st_size
    if size <= most:
        with open(path, "rb") as file:
            data = file.read(most + 1)
        size = len(data)
    if size > most:
        raise UserError(f"{path}: larger than {most // 2**20} MiB, and no larger one is read. Save a smaller one")
    return data
