"""A run's folder belongs to one process: its number is claimed by making the folder, its lock ends with the process."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.folders import RESUME, Run, Start, new_run
from metasgd.runs.storage import errors_of_the_system

FILE = ".lock"
HELD = (errno.EAGAIN, errno.EACCES)
"""What the system answers where another process has the lock; EACCES on some."""
UNLOCKED = "{} lies where files cannot be locked: see to it that no other job trains this run"


def open_run(start: Start, run: Run, trains: bool, say: Callable[[str], None], held: ExitStack) -> Run:
    """The run with its folder, which is made if it is new; a new run gets the next number that is free.

    Args:
        start: where the command starts from; the lock of a run that is there is held already, where it is trained.
        run: of ``start``, or the new run as it would be called.
        trains: whether the command trains it.
        say: what to say it with, if there are no locks where the folder lies.
        held: holds the lock. At its end a folder in which nothing was written is removed.

    Raises:
        UserError: the folder cannot be made, or another process has just started that run.
    """
    if start.run is None:
        run = claim(run.save_dir, run.name)
    elif run.folder.is_dir():
        return run
    else:
        try:
            make_folder(run)
        except FileExistsError as error:
            raise UserError(
                f"the run {run.folder} has just been started by another process. Start this one again with --ckpt_path"
                f" {RESUME}, once that has ended"
            ) from error
    if trains:
        held.enter_context(locked(run, say))
    held.callback(_remove_if_empty, run.folder)
    return run


def _remove_if_empty(folder: Path | UPath) -> None:
    """Remove a run's folder in which there is nothing but its lock."""
    if isinstance(folder, Path) and folder.is_dir() and {path.name for path in folder.iterdir()} <= {FILE}:
        with suppress(OSError):
            (folder / FILE).unlink(missing_ok=True)
            folder.rmdir()


def claim(save_dir: UPath, name: str) -> Run:
    """Make the folder of a new run, under the first number after all that are taken.

    Two that start in one moment get two numbers; not on remote storage, where a folder is no more than a name.

    Raises:
        UserError: the folder cannot be made.
    """
    while True:
        run = new_run(save_dir, name)
        try:
            make_folder(run)
        except FileExistsError:
            continue
        return run


def make_folder(run: Run) -> None:
    """Make the folder of a run.

    Raises:
        FileExistsError: it is there already.
        UserError: it cannot be made.
    """
    try:
        with errors_of_the_system(run.folder):
            run.folder.mkdir(parents=True)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(str(run.folder)):
            raise
        raise UserError(
            f"the run's folder {run.folder} cannot be made ({error.strerror or error}). Choose a save_dir in which you"
            " may write"
        ) from error


@contextmanager
def locked(run: Run, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the run's lock, from now until the block or the process ends.

    Args:
        run: whose folder is there.
        say: what to say it with, if there are no locks where the folder lies.

    Raises:
        UserError: another process holds it, or nothing can be written in the folder.
    """
    folder: Path | UPath = run.folder
    if not isinstance(folder, Path):
        say(UNLOCKED.format(folder))
        yield
        return
    file = folder / FILE
    handle = _open_locked(file, say)
    try:
        yield
    finally:
        if _is_of(handle, file):
            with suppress(OSError):
                file.unlink()  # before the lock is free: nothing of it is left in the run
        os.close(handle)


def _open_locked(file: Path, say: Callable[[str], None]) -> int:
    while True:
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(
                f"the run's folder {file.parent} cannot be written ({error.strerror or error}). Allow writing there; or"
                " give --init_from instead, to start a run of your own from the weights of a checkpoint"
            ) from error
        try:
            _lock(handle, file.parent, say)
        except BaseException:
            os.close(handle)
            raise
        if _is_of(handle, file):
            return handle
        os.close(handle)  # of a file that its holder has removed just before


def _is_of(handle: int, file: Path) -> bool:
    """Whether this is the file that stands there now."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(handle), file.stat())
    return False


def _lock(handle: int, folder: Path, say: Callable[[str], None]) -> None:
    try:
        # not by flock, whose lock a worker of a killed process would hold on to: forks do not inherit this one
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in HELD:
            say(UNLOCKED.format(folder))
            return
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
        raise UserError(
            f"the run {folder} is being trained at this moment, by {holder}. Wait until that ends, or start a run of"
            f" your own: without --ckpt_path, or by --ckpt_path {RESUME} with another version"
        ) from error
    os.truncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
