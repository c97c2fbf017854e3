"""What frozen layers make of examples, in a file of SQLite: never half-written, open to several processes."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from metasgd.errors import UserError

AT_ONCE = 500
"""Keys in a query; SQLite takes 999."""
WAIT = 600.0
"""Seconds, for another process to end its writing, which takes far less."""
SETTINGS = "PRAGMA page_size = 65536; PRAGMA mmap_size = 2147418112"
"""Values are long; and read through a memory map, as far as the library allows."""


class FeatureStore:
    """A dictionary of bytes in a file. What is there stays as it is: of two processes' values the first one counts.

    What one ``add`` brings is there as a whole or, after a kill, not at all. No file stays open between calls.

    Args:
        path: of the file; made with its folder if absent.

    Raises:
        UserError: it cannot be used, or is no such file.

    Example:
        >>> from tempfile import mkdtemp
        >>> store = FeatureStore(Path(mkdtemp()) / "features.sqlite")
        >>> store.add({b"a": b"12"})
        >>> store.add({b"a": b"other", b"b": b"34"})
        >>> sorted(store.find([b"a", b"b", b"c"]).items())
        [(b'a', b'12'), (b'b', b'34')]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS features (key BLOB PRIMARY KEY, value BLOB NOT NULL)")

    def find(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are there, by their keys."""
        found: dict[bytes, bytes] = {}
        with self._opened() as connection:
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                places = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, value FROM features WHERE key IN ({places})", some))
        return found

    def add(self, values: Mapping[bytes, bytes]) -> None:
        """Add those whose keys are not there."""
        with self._opened() as connection:
            connection.executemany("INSERT OR IGNORE INTO features VALUES (?, ?)", values.items())

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """A transaction, which ends with the block, or leaves nothing behind."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=WAIT)) as connection, connection:
                connection.executescript(SETTINGS)
                yield connection
        except sqlite3.OperationalError as error:  # the disk is full, or the file may not be written
            raise UserError(self._unusable(str(error))) from error
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self.path}: this file of the cache is damaged ({error}). Delete it: it will be made again"
            ) from error
        except OSError as error:
            raise UserError(self._unusable(error.strerror or str(error))) from error

    def _unusable(self, reason: str) -> str:
        return (
            f"cache_dir is {self.path.parent}: it cannot be used ({reason}). Make room there and allow writing, or"
            " choose another folder as cache_dir"
        )
