"""Bytes in a file: all of an addition or nothing, the first of two, and one message where it cannot be used."""

import sqlite3
from collections.abc import Iterator

import pytest

from metasgd.data.feature_store import FeatureStore
from metasgd.errors import UserError


class Interrupted(dict):
    """Values of which the third does not come."""

    def items(self) -> Iterator[tuple[bytes, bytes]]:  # type: ignore[override]
        yield b"a", b"1"
        yield b"b", b"2"
        raise KeyboardInterrupt


def test_an_addition_is_there_whole_or_not_at_all(tmp_path):
    store = FeatureStore(tmp_path / "made" / "features.sqlite")
    with pytest.raises(KeyboardInterrupt):
        store.add(Interrupted())
    assert store.find([b"a", b"b"]) == {}
    many = {str(n).encode(): bytes(1000) + str(n).encode() for n in range(1200)}
    store.add(many)
    assert FeatureStore(store.path).find(list(many)) == many


def test_of_two_writers_the_first_stays_and_a_reader_sees_nothing_half_written(tmp_path):
    store = FeatureStore(tmp_path / "features.sqlite")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("INSERT INTO features VALUES (?, ?)", (b"a", b"theirs"))
    assert store.find([b"a"]) == {}
    other.execute("COMMIT")
    other.close()
    store.add({b"a": b"ours", b"b": b"ours"})
    assert store.find([b"a", b"b"]) == {b"a": b"theirs", b"b": b"ours"}


def test_a_damaged_file_and_a_place_that_is_none(tmp_path):
    (tmp_path / "features.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"features.sqlite: this file of the cache is damaged .* Delete it"):
        FeatureStore(tmp_path / "features.sqlite")
    with pytest.raises(UserError, match=r"cache_dir is .*: it cannot be used"):
        FeatureStore(tmp_path / "features.sqlite" / "below" / "x.sqlite")
