"""Files that a command will write, checked before its work, so that nothing is done for what cannot be written."""

import errno
import os
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.storage import validate_writable, write_whole

WRITTEN = {"test": ("results.json", "tasks.csv"), "predict": ("predictions.csv",)}
"""Files in a run's folder, by the stage that writes them."""


def validate_output(place: Path | UPath, option: str, read: Sequence[Path] = ()) -> None:
    """Refuse a file that cannot be written, or must not be. Nothing is left behind, and no folder made.

    Args:
        place: of the file.
        option: that names it, with its dashes.
        read: files that the command reads, none of which it may overwrite.

    Raises:
        UserError: names the option, the place and the reason.
    """
    if not isinstance(place, Path):
        validate_writable(place.parent, option)
        return
    try:
        kind = _kind_of(place)
        if kind is not None:
            raise UserError(f"{option} is {place}, which is {kind}: give the name of a file to write")
        if place.exists() and any(path.exists() and place.samefile(path) for path in read):
            raise UserError(
                f"{option} is {place}, which is read here and would be overwritten. Choose another name for it"
            )
        _try(place.absolute().parent, f".{place.name}.{os.getpid()}")  # as write_whole calls it on its way
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: of a name with a null byte
        raise UserError(_unwritable(option, place, error)) from error


def validate_folder(place: Path | UPath, option: str) -> None:
    """Refuse a run's folder that cannot be made, or in which nothing can be written.

    Raises:
        UserError: names the option, the place and the reason.
    """
    if not isinstance(place, Path):
        validate_writable(place, option)
        return
    try:
        _try(place.absolute(), "")
    except (OSError, ValueError) as error:
        raise UserError(_unwritable(option, place, error)) from error


def validate_run_folder(folder: Path | UPath, stage: str, option: str) -> None:
    """Refuse a run's folder in which a stage of the Trainer cannot write what it will.

    Args:
        folder: the run's.
        stage: ``fit``, ``test`` or ``predict``.
        option: that chooses where runs lie.

    Raises:
        UserError: names the place and the reason.
    """
    if isinstance(folder, Path):
        validate_folder(folder / "checkpoints" if stage == "fit" else folder, option)
    else:
        validate_writable(folder.parents[1], option)  # the address as the user gave it
    for name in WRITTEN.get(stage, ()):
        validate_output(folder / name, f"the file of {stage}")


def _try(folder: Path, name: str) -> None:
    """Whether a file of this name could be made in the folder, and the folder itself, if it is not there yet.

    Raises:
        OSError: it could not.
        ValueError: no file can have such a name.
    """
    if "\0" in f"{folder}{name}":
        raise ValueError("it has a null byte")
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    with tempfile.TemporaryFile(dir=there) as file:
        file.write(b"x")
    longest = os.pathconf(there, "PC_NAME_MAX")
    if any(len(os.fsencode(part)) > longest for part in (*folder.relative_to(there).parts, name)):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def write_output(place: Path, content: bytes, option: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_whole(place, content)
    except OSError as error:
        raise UserError(_unwritable(option, place, error)) from error


def _unwritable(option: str, place: Path | UPath, error: Exception) -> str:
    """The message for a file that cannot be written."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (
        f"{option} is {place}: it cannot be written ({reason}). Choose another place or a shorter name, or make room"
        " and allow writing there"
    )


def _kind_of(place: Path) -> str | None:
    """What stands there, if it is not a file that may be replaced."""
    if not place.name:
        return "a folder"
    if not place.exists():
        return None
    mode = place.stat().st_mode
    if stat.S_ISDIR(mode):
        return "a folder"
    if not stat.S_ISREG(mode):
        return "no regular file"
    return None if os.access(place, os.W_OK) else "a file that may not be changed"
