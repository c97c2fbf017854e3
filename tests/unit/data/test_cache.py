import errno
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from metasgd.data import cache
from metasgd.data.cache import default_cache_dir, load_or_build, staging_folder
from metasgd.data.class_pool import ClassPool
from metasgd.errors import UserError


def small_pool(value: int = 0) -> ClassPool:
    images = (np.arange(3 * 2 * 16, dtype=np.uint8) + value).reshape(3, 2, 1, 4, 4)
    return ClassPool.of_equal_counts(images, ("a/1", "a/2", "ß/1"), np.array([0, 0, 1]))


def must_not_build() -> ClassPool:
    raise AssertionError("built although the key is cached")


def assert_same(a: ClassPool, b: ClassPool) -> None:
    for field in ("images", "starts", "counts", "groups"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert a.names == b.names


def test_a_pool_is_built_once_and_comes_back_the_same(tmp_path: Path) -> None:
    first = load_or_build(tmp_path / "new" / "folder", "key-1", small_pool)
    second = load_or_build(tmp_path / "new" / "folder", "key-1", must_not_build)
    assert_same(first, small_pool())
    assert_same(second, small_pool())
    assert os.listdir(tmp_path / "new" / "folder") == ["key-1"]


def test_keys_do_not_mix(tmp_path: Path) -> None:
    load_or_build(tmp_path, "one", small_pool)
    assert_same(load_or_build(tmp_path, "two", lambda: small_pool(7)), small_pool(7))
    assert_same(load_or_build(tmp_path, "one", must_not_build), small_pool())


@pytest.mark.parametrize("run", [1, 2])
def test_images_cannot_be_written_to(tmp_path: Path, run: int) -> None:
    pool = [load_or_build(tmp_path, "key", small_pool) for _ in range(run)][-1]
    with pytest.raises(ValueError, match="read-only"):
        pool.images[0] = 1


@pytest.mark.parametrize("key", ["", "a/b", "..", ".hidden", "a b", "a\n"])
def test_a_key_is_a_plain_file_name(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="not a plain file name"):
        load_or_build(tmp_path, key, small_pool)


def damage_flip_pixel(folder: Path) -> None:
    data = bytearray((folder / "images.npy").read_bytes())
    data[-5] ^= 1
    (folder / "images.npy").write_bytes(data)


def damage_cut_images(folder: Path) -> None:
    os.truncate(folder / "images.npy", 100)


def damage_empty_images(folder: Path) -> None:
    os.truncate(folder / "images.npy", 0)


def damage_other_shape(folder: Path) -> None:
    images = np.load(folder / "images.npy")
    np.save(folder / "images.npy", images.reshape(3, 2, 4, 4))


def damage_lose_images(folder: Path) -> None:
    (folder / "images.npy").unlink()


def damage_lose_classes(folder: Path) -> None:
    (folder / "classes.json").unlink()


def damage_cut_classes(folder: Path) -> None:
    os.truncate(folder / "classes.json", 30)


def damage_not_an_object(folder: Path) -> None:
    (folder / "classes.json").write_text("[]")


def damage_not_utf8(folder: Path) -> None:
    (folder / "classes.json").write_bytes(b"\xff\xfe")


def damage_change_counts(folder: Path) -> None:
    text = (folder / "classes.json").read_text()
    (folder / "classes.json").write_text(text.replace('"counts": [2, 2, 2]', '"counts": [2, 1, 2]'))


def damage_other_format(folder: Path) -> None:
    classes = json.loads((folder / "classes.json").read_text())
    (folder / "classes.json").write_text(json.dumps({**classes, "format": 99}))


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (damage_flip_pixel, "images.npy"),
        (damage_cut_images, "images.npy"),
        (damage_empty_images, "images.npy"),
        (damage_other_shape, "images.npy"),
        (damage_lose_images, "images.npy"),
        (damage_lose_classes, "classes.json"),
        (damage_cut_classes, "classes.json"),
        (damage_not_an_object, "classes.json"),
        (damage_not_utf8, "classes.json"),
        (damage_change_counts, "classes.json"),
        (damage_other_format, "classes.json"),
    ],
)
def test_damage_is_named_and_not_built_over(tmp_path: Path, damage, file: str) -> None:
    load_or_build(tmp_path, "key", small_pool)
    damage(tmp_path / "key")
    with pytest.raises(UserError) as caught:
        load_or_build(tmp_path, "key", must_not_build)
    assert str(tmp_path / "key" / file) in str(caught.value)
    assert f"Delete the folder {tmp_path / 'key'}" in str(caught.value)


def inconsistent_pools() -> list[ClassPool]:
    good = small_pool()
    return [
        ClassPool(good.images, good.starts, good.counts + 1, good.names, good.groups),
        ClassPool(good.images, good.starts - 1, good.counts, good.names, good.groups),
        ClassPool(good.images, good.starts, good.counts, good.names[:2], good.groups),
        ClassPool(good.images[:, 0], good.starts, good.counts, good.names, good.groups),
        ClassPool(good.images.astype(np.float32), good.starts, good.counts, good.names, good.groups),
    ]


@pytest.mark.parametrize("i", range(5))
def test_shapes_that_do_not_fit_are_not_used(tmp_path: Path, i: int) -> None:
    with pytest.raises(UserError, match="damaged"):
        load_or_build(tmp_path, "key", lambda: inconsistent_pools()[i])


def test_a_deleted_folder_is_built_again(tmp_path: Path) -> None:
    load_or_build(tmp_path, "key", small_pool)
    damage_flip_pixel(tmp_path / "key")
    for file in (tmp_path / "key").iterdir():
        file.unlink()
    (tmp_path / "key").rmdir()
    assert_same(load_or_build(tmp_path, "key", small_pool), small_pool())


def test_a_full_disk_leaves_nothing_and_names_the_option(tmp_path: Path, monkeypatch) -> None:
    def save_half(file, array, **options):
        file.write(array.tobytes()[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(cache.np, "save", save_half)
        with pytest.raises(UserError, match=r"No space left on device.*another folder as cache_dir") as caught:
            load_or_build(tmp_path, "key", small_pool)
    assert str(tmp_path) in str(caught.value)
    assert os.listdir(tmp_path) == []
    assert_same(load_or_build(tmp_path, "key", small_pool), small_pool())


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_or_build(tmp_path, "key", small_pool)
    assert os.listdir(tmp_path) == []


def test_what_a_writer_at_work_has_is_left_to_it(tmp_path: Path) -> None:
    with staging_folder(tmp_path, "key") as first, staging_folder(tmp_path, "key") as second:
        os.utime(first, (0, 0))
        with staging_folder(tmp_path, "key"):
            assert first.exists()
        assert first != second
    assert os.listdir(tmp_path) == []


def test_without_locks_only_old_folders_are_removed(tmp_path: Path, monkeypatch) -> None:
    def no_locks(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(cache.fcntl, "flock", no_locks)
    recent, old = (tmp_path / f".key.{name}.partial" for name in ("recent", "old"))
    for folder in (recent, old):
        folder.mkdir()
    os.utime(old, (0, 0))
    with staging_folder(tmp_path, "key") as own:
        assert own.exists()
        assert recent.exists()
        assert not old.exists()


def test_a_folder_taken_for_abandoned_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch) -> None:
    taken = []

    def flock(handle, operation):
        if not taken:  # another writer, between mkdir and the lock
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()

    monkeypatch.setattr(cache.fcntl, "flock", flock)
    with staging_folder(tmp_path, "key") as own:
        assert own.exists()
        assert own != taken[0]


def test_of_two_that_build_at_once_the_first_stays(tmp_path: Path) -> None:
    def build_while_another_finishes() -> ClassPool:
        load_or_build(tmp_path, "key", small_pool)
        return small_pool(9)

    assert_same(load_or_build(tmp_path, "key", build_while_another_finishes), small_pool())
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("error", [UserError("data.root is bad"), OSError(errno.EIO, "the data's disk fails")])
def test_an_error_of_the_build_passes_through(tmp_path: Path, error: Exception) -> None:
    def fail() -> ClassPool:
        raise error

    with pytest.raises(type(error)) as caught:
        load_or_build(tmp_path, "key", fail)
    assert caught.value is error
    assert os.listdir(tmp_path) == []


def test_a_cache_dir_that_cannot_be_made_is_named_before_building(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"another folder as cache_dir"):
        load_or_build(tmp_path / "file" / "cache", "key", must_not_build)


def test_a_read_only_cache_dir_serves_what_it_keeps(tmp_path: Path, monkeypatch) -> None:
    load_or_build(tmp_path, "key", small_pool)

    def refuse_mkdir(self, *args, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse_mkdir)
    assert_same(load_or_build(tmp_path, "key", must_not_build), small_pool())
    with pytest.raises(UserError, match=r"Read-only file system.*another folder as cache_dir"):
        load_or_build(tmp_path, "other", must_not_build)


def test_an_unreadable_file_is_not_called_damaged(tmp_path: Path, monkeypatch) -> None:
    load_or_build(tmp_path, "key", small_pool)

    def refuse_load(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(cache.np, "load", refuse_load)
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_or_build(tmp_path, "key", must_not_build)
    assert "Delete" not in str(caught.value)


def as_stream(pool: ClassPool) -> cache.PoolStream:
    return cache.PoolStream(iter(pool.images), pool.image_shape, pool.counts, pool.names, pool.groups)


def test_a_streamed_pool_is_cached_as_the_same_bytes(tmp_path: Path) -> None:
    load_or_build(tmp_path, "whole", small_pool)
    assert_same(load_or_build(tmp_path, "streamed", lambda: as_stream(small_pool())), small_pool())
    for name in ("images.npy", "classes.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "streamed" / name).read_bytes()


def test_a_streamed_pool_is_never_in_memory(tmp_path: Path) -> None:
    """64 MiB of images, made as they are asked for: what Python and numpy hold at a time stays below 4 MiB."""
    images = (np.full((1, 256, 256), i % 251, dtype=np.uint8) for i in range(1024))
    stream = cache.PoolStream(images, (1, 256, 256), np.array([1024]), ("a",), np.array([0]))
    tracemalloc.start()
    pool = load_or_build(tmp_path, "large", lambda: stream)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
    assert pool.images[1000, 0, 0, 0] == 1000 % 251


@pytest.mark.parametrize("announced", [5, 7])
def test_a_stream_that_breaks_its_word_leaves_nothing(tmp_path: Path, announced: int) -> None:
    stream = replace(as_stream(small_pool()), counts=np.array([announced]), names=("a",), groups=np.array([0]))
    with pytest.raises(ValueError, match=f"6 images came, {announced} were announced"):
        load_or_build(tmp_path, "key", lambda: stream)
    assert os.listdir(tmp_path) == []


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == "/somewhere/metasgd"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == "~/.cache/metasgd"
