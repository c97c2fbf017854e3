"""Where runs lie: a folder of this machine, or any address that fsspec knows (``s3://bucket/runs``)."""

import errno
import os
import re
import stat
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from upath import UPath

from metasgd.errors import UserError, first_line

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def place_of(address: str, option: str) -> UPath:
    """The place that an option names; ``~`` and the environment's variables, as ``$SCRATCH``, are filled in.

    Raises:
        UserError: nothing here can reach such an address, or it has a variable that is not set.
    """
    filled_in = expanded(address, option)
    try:
        place = UPath(filled_in).expanduser()
        _ = place.fs  # which is made when it is first asked for
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{option} is {address}, which cannot be reached from here ({error}). Use a folder, or an address that"
            " fsspec knows, with its package installed (s3fs for s3://, gcsfs for gs://, adlfs for az://)"
        ) from error
    return place


def expanded(text: str, option: str) -> str:
    """The text with the environment's variables filled in, as the logger does with the folder that it is given.

    Raises:
        UserError: a variable is not set; a folder of the name of the variable would be made.
    """
    filled_in = os.path.expandvars(text)
    unset = _VARIABLE.search(filled_in)
    if unset and not os.path.lexists(filled_in):
        raise UserError(
            f"{option} is {text}, but the environment has no variable {unset[1] or unset[2]}. Set it, or give the"
            " folder itself"
        )
    return filled_in


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
        raise OSError(errno.EIO, f"{type(error).__name__}: {first_line(error)}") from error


def is_lost_place(error: BaseException) -> bool:
    """Whether this error came of fsspec, or of a package behind it, on the way to a file."""
    return any(
        frame.f_globals.get("__name__", "").startswith("fsspec.") for frame, _ in traceback.walk_tb(error.__traceback__)
    )


@contextmanager
def answering(place: Path | UPath, option: str) -> Iterator[None]:
    """Look at a place, and tell of it if it is remote and does not answer, or may not be looked at.

    Raises:
        UserError: names the address and what came of it.
    """
    try:
        with errors_of_the_system(place):
            yield
    except OSError as error:
        if isinstance(place, Path):
            raise UserError(
                f"{option} is {place}, which cannot be looked at ({error.strerror or error}). Allow reading it, and the"
                " folders on the way to it"
            ) from error
        raise UserError(
            f"{option} is {place}, which does not answer as it should ({error.strerror or error}). See that the address"
            " is right, that its bucket or server is there and reached from here, and that you may read and write it"
        ) from error


def write_whole(place: Path | UPath, content: bytes) -> None:
    """Write a file such that a reader finds it whole, or the one before it.

    On this machine it is written beside its place and moved there; what writes that were killed left beside it is
    removed first. Object stores show an object once it is complete.
    """
    if not isinstance(place, Path):
        with errors_of_the_system(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(place)
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _remove_abandoned(place: Path) -> None:
    """Remove what writes of this file left beside it when they were killed; not that of a process still alive here."""
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


def is_saved(file: Path | UPath) -> bool:
    """Whether this file is there; one that should be there, and cannot be read, is not taken for absent.

    Raises:
        UserError: the file, or a folder on the way to it, is a link to nothing, cannot be read, or is something else.
    """
    if not isinstance(file, Path):
        with answering(file, "the run's folder"):
            return bool(file.is_file())
    for part in (*reversed(file.absolute().parents), file):
        try:
            found = part.lstat()
            found = part.stat()
        except FileNotFoundError:
            if not part.is_symlink():
                return False
            reason = f"{part} is a link to {os.readlink(part)}, which is not there: mount what holds it"
        except OSError as error:
            reason = f"{part}: {error.strerror or error}"
        else:
            if part != file or (stat.S_ISREG(found.st_mode) and os.access(file, os.R_OK)):
                continue
            reason = "you may not read it" if stat.S_ISREG(found.st_mode) else "it is no file"
        raise UserError(
            f"{file} cannot be read ({reason}). Make it readable, so that its run is resumed and not begun again; for"
            " a new run, move it away"
        )
    return True


def validate_writable(place: UPath, option: str) -> None:
    """Refuse a remote place in which nothing can be made, before anything is.

    Raises:
        UserError: names the place and the reason.
    """
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
