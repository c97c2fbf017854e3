"""Where runs lie: a folder of this machine, or any address that fsspec knows (``s3://bucket/runs``)."""

import errno
import os
import re
import tempfile
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from metasgd.errors import UserError


def place_of(address: str, option: str) -> UPath:
    """The place that an option names.

    Raises:
        UserError: nothing here can reach such an address.
    """
    try:
        place = UPath(address).expanduser()
        _ = place.fs  # which is made when it is first asked for
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{option} is {address}, which cannot be reached from here ({error}). Use a folder, or an address that"
            " fsspec knows, with its package installed (s3fs for s3://, gcsfs for gs://, adlfs for az://)"
        ) from error
    return place


@contextmanager
def errors_of_the_system(place: Path | UPath) -> Iterator[None]:
    """What a remote file system raises, as the ``OSError`` that a folder would raise."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:  # each package behind fsspec has errors of its own, with no type in common
        if isinstance(place, Path):
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def is_lost_place(error: BaseException) -> bool:
    """Whether this error came of fsspec, or of a package behind it, on the way to a file."""
    return any(
        frame.f_globals.get("__name__", "").startswith("fsspec.") for frame, _ in traceback.walk_tb(error.__traceback__)
    )


@contextmanager
def answering(place: Path | UPath, option: str) -> Iterator[None]:
    """Look at a place, and tell of it if it is remote and does not answer.

    Raises:
        UserError: names the address and what came of it.
    """
    try:
        with errors_of_the_system(place):
            yield
    except OSError as error:
        if isinstance(place, Path):
            raise
        raise UserError(
            f"{option} is {place}, which does not answer as it should ({error.strerror or error}). See that the address"
            " is right, that its bucket or server is there and reached from here, and that you may read and write it"
        ) from error


def write_whole(place: Path | UPath, content: bytes) -> None:
    """Write a file such that a reader finds it whole, or the one before it.

    On this machine it is written beside its place and moved there. Object stores show an object once it is
    complete.
    """
    if not isinstance(place, Path):
        with errors_of_the_system(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def remove_abandoned(place: Path | UPath) -> None:
    """Remove what writes of this file left beside it when they were killed; not that of a process still alive here."""
    if not isinstance(place, Path):
        return
    for beside in place.parent.glob(f".{place.name}.*"):
        writer = re.fullmatch(r"\d{1,9}", beside.suffix[1:])
        if writer and not _is_alive(int(writer[0])):
            beside.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def validate_writable(place: Path | UPath, option: str) -> None:
    """Refuse a place in which nothing can be made, before anything is.

    Raises:
        UserError: names the place and the reason.
    """
    if not isinstance(place, Path):
        probe = place / f".metasgd-{uuid.uuid4().hex}"
        with answering(place, option):
            try:
                probe.write_bytes(b"x")
            except FileNotFoundError:
                if not any(folder.exists() for folder in place.parents):
                    raise  # a bucket; one under a misspelt name would be made without a word
                return
            with suppress(OSError):  # who may write need not be allowed to remove
                probe.unlink()
        return
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(
            f"{option} is {place}: nothing can be written in {there} ({error.strerror or error}). Allow writing there,"
            " make room, or choose another folder"
        ) from error
