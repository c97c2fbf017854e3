"""Decoded images cached on disk: built once, checked at every load, never half-written."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from metasgd.data.cache_checks import (
    FORMAT,
    check_classes,
    damage_named,
    load_classes,
    opened,
    sha256,
    sha256_of_json,
    sync_folder,
)
from metasgd.data.class_pool import ClassPool
from metasgd.errors import UserError

IMAGES, CLASSES = "images.npy", "classes.json"
ABANDONED_AFTER = 24 * 3600
"""Seconds; no build takes nearly as long. Asked only where a file system has no locks."""


def default_cache_dir() -> str:
    """``$XDG_CACHE_HOME/metasgd``, by default ``~/.cache/metasgd``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return f"{base}/metasgd"


@dataclass(frozen=True)
class PoolStream:
    """A pool whose images come one after the other, so that they need never be in memory together.

    Attributes:
        images: each uint8 ``[channels, height, width]``, class by class.
        image_shape: ``(channels, height, width)``.
        counts: int64 ``[C]``, how many images each class has.
        names: as a pool's.
        groups: as a pool's.
    """

    images: Iterator[NDArray[np.uint8]]
    image_shape: tuple[int, int, int]
    counts: NDArray[np.int64]
    names: tuple[str, ...]
    groups: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.counts) - self.counts


Build = Callable[[], ClassPool | PoolStream]


def digest_of(made_by: object) -> str:
    """16 digits that change with what something is made by, which its ``repr`` says in full."""
    return hashlib.sha256(repr(made_by).encode()).hexdigest()[:16]


def load_or_build(cache_dir: Path, key: str, build: Build) -> ClassPool:
    """The pool cached as the folder ``cache_dir/key``; made by ``build`` and cached there if there is none.

    The images come back as a read-only memory map, whether they were there or have just been built.
    Several processes may build one key at once: each has its own folder until it is complete, and the first
    one to finish stays.

    Args:
        cache_dir: made if absent; only read from if the key is there.
        key: a file name that says what is inside, with a hash of everything that determines it.
        build: makes the pool, in memory or as a stream; its errors pass through.

    Raises:
        UserError: the cached files are damaged, or ``cache_dir`` cannot be read or written.
        ValueError: ``key`` is not a plain file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", key):
        raise ValueError(f"{key!r} is not a plain file name")
    folder = cache_dir / key
    with _cache_dir_named(cache_dir):
        is_cached = folder.exists()
    if not is_cached:
        _build(folder, build)
    return _load(folder)


@contextmanager
def staging_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in ``parent`` to complete something in before it is renamed into place.

    It is removed at the end, with what is left in it. A writer that was killed leaves its folder, which the next one
    removes: each holds a lock on its own, and the lock ends with its process.

    Raises:
        OSError: ``parent`` cannot be made or written.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob(f".{name}.*.partial"):
        _remove_if_abandoned(left)
    while True:
        folder = parent / f".{name}.{uuid.uuid4().hex}.partial"
        folder.mkdir()
        with opened(folder) as handle:
            with suppress(OSError):  # of a network file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not folder.exists():
                continue  # another writer found it before it was locked
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def _remove_if_abandoned(folder: Path) -> None:
    """Remove a staging folder whose lock is free; where there are no locks, one that is too old to be in use."""
    with suppress(FileNotFoundError, PermissionError), opened(folder) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            if time.time() - folder.stat().st_mtime < ABANDONED_AFTER:
                return
        shutil.rmtree(folder, ignore_errors=True)


def _build(folder: Path, build: Build) -> None:
    with ExitStack() as stack:
        # before the build, so that a folder that cannot be written is reported at once
        with _cache_dir_named(folder.parent):
            staging = stack.enter_context(staging_folder(folder.parent, folder.name))
        pool = build()
        with _cache_dir_named(folder.parent):
            _write(staging, pool)
            _publish(staging, folder)


def _write(folder: Path, pool: ClassPool | PoolStream) -> None:
    with (folder / IMAGES).open("wb") as file:
        if isinstance(pool, ClassPool):
            shape = pool.images.shape
            np.save(file, pool.images, allow_pickle=False)
        else:
            shape = (int(pool.counts.sum()), *pool.image_shape)
            _write_stream(file, pool.images, shape)
        file.flush()
        os.fsync(file.fileno())
    classes: dict[str, Any] = {
        "format": FORMAT,
        "images_sha256": sha256(folder / IMAGES),
        "images_shape": list(shape),
        "starts": pool.starts.tolist(),
        "counts": pool.counts.tolist(),
        "groups": pool.groups.tolist(),
        "names": list(pool.names),
    }
    classes["sha256"] = sha256_of_json(classes)
    with (folder / CLASSES).open("wb") as file:
        file.write(json.dumps(classes).encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _write_stream(file: BinaryIO, images: Iterator[NDArray[np.uint8]], shape: tuple[int, ...]) -> None:
    """What ``np.save`` would write of all of them.

    Not through a memory map: a disk that is full would end the process by SIGBUS.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    written = 0
    for image in images:
        if image.dtype != np.uint8 or image.shape != shape[1:]:
            raise ValueError(f"an image is {image.dtype} {image.shape}, not uint8 {shape[1:]}")
        file.write(np.ascontiguousarray(image).data)
        written += 1
    if written != shape[0]:
        raise ValueError(f"{written} images came, {shape[0]} were announced")


def _publish(staging: Path, folder: Path) -> None:
    try:
        staging.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return  # another process has built the same thing meanwhile: its copy stays
    sync_folder(folder.parent)


def _load(folder: Path) -> ClassPool:
    classes = load_classes(folder / CLASSES)
    with damage_named(folder / IMAGES):
        if sha256(folder / IMAGES) != classes["images_sha256"]:
            raise ValueError("its checksum is wrong")
        images = np.load(folder / IMAGES, mmap_mode="r", allow_pickle=False)
        if images.dtype != np.uint8 or list(images.shape) != classes["images_shape"]:
            raise ValueError(f"it holds {images.dtype} {images.shape}")
    starts, counts, groups = (np.array(classes[k], dtype=np.int64) for k in ("starts", "counts", "groups"))
    with damage_named(folder / CLASSES):
        check_classes(images, starts, counts, groups, classes["names"])
    return ClassPool(images, starts, counts, tuple(classes["names"]), groups)


@contextmanager
def _cache_dir_named(cache_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cache_dir is {cache_dir}: it cannot be used ({error.strerror or error}). Make room there"
            " and allow writing, or choose another folder as cache_dir"
        ) from error
