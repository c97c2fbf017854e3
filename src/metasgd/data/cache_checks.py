"""Whether what lies in the cache is what was written: names, numbers and digests."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasgd.errors import UserError

FORMAT = 1


def load_classes(path: Path) -> dict[str, Any]:
    """The content of ``classes.json``, whose checksum holds."""
    with damage_named(path):
        classes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(classes, dict) or classes.get("format") != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        if classes.pop("sha256", None) != sha256_of_json(classes):
            raise ValueError("its checksum is wrong")
    return classes


def check_classes(
    images: NDArray[np.uint8],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
    groups: NDArray[np.int64],
    names: list[str],
) -> None:
    """Raise a ValueError where these are no pool of classes."""
    if images.ndim != 4 or not len(starts) == len(counts) == len(groups) == len(names) > 0:
        raise ValueError("its shapes do not fit together")
    if starts.min() < 0 or counts.min() < 0 or (starts + counts).max() > len(images):
        raise ValueError("a class lies outside the images")


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(content: dict[str, Any]) -> str:
    """Of what JSON makes of it, in the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    with opened(folder) as handle:
        os.fsync(handle)


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """A handle of the folder itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file of the cache into an error that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): allow reading it, or choose another folder as cache_dir"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"{path}: this file of the cache is damaged ({reason}). Delete the folder {path.parent}:"
            " it will be built again"
        ) from error
