"""Where runs lie: a folder of this machine, or any address that fsspec knows (``s3://bucket/runs``)."""

import os
import tempfile
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


def write_whole(place: Path | UPath, content: bytes) -> None:
    """Write a file such that a reader finds it whole, or the one before it.

    On this machine it is written beside its place and moved there. Object stores show an object once it is
    complete.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(place, Path):
        place.write_bytes(content)
        return
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def refuse_unwritable(place: Path | UPath, option: str) -> None:
    """Refuse a folder of this machine in which nothing can be made, before anything is; addresses are left to fsspec.

    Raises:
        UserError: names the folder and the reason.
    """
    if not isinstance(place, Path):
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
