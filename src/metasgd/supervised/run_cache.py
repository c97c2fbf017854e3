"""Trainings of a comparison saved on disk: one that was stopped is resumed, and several at once share them."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.folders import Run, runs_of
from metasgd.runs.storage import write_whole
from metasgd.supervised.comparison import Train
from metasgd.supervised.trainer import Candidate, Trace

FILE, LOCK = "trainings.json", ".trainings.lock"
EXAMPLES = "examples"
"""The term that says what is trained on, by a digest of each split."""
log = logging.getLogger("metasgd")


@dataclass
class RunCache:
    """Trains what has not been trained yet, here or by the same command at the same time, and writes it down at once.

    Attributes:
        folder: of the comparison's run.
        terms: what the trainings depend on but for candidate, learning rate and seed.
        train: one training.
        traces: those that are done, by candidate, learning rate and seed.
    """

    folder: UPath
    terms: dict[str, Any]
    train: Train
    traces: dict[tuple[str, float, int], Trace] = field(default_factory=dict)

    def __call__(self, candidate: Candidate, lr: float, seed: int) -> Trace:
        key = candidate.name, lr, seed
        if key not in self.traces:
            self.read()
        if key not in self.traces:
            trace = self.train(candidate, lr, seed)
            with locked(self.folder):
                self.read()  # what another process has trained meanwhile
                self.traces.setdefault(key, trace)
                self.write()
        return self.traces[key]

    def write(self) -> None:
        done = [[*key, asdict(trace)] for key, trace in self.traces.items()]
        write_whole(self.folder / FILE, json.dumps({"terms": self.terms, "done": done}).encode())

    def read(self) -> bool:
        """Add what is saved in the folder; whether there was something, and on the same terms.

        Terms that an older file lacks say nothing.

        Raises:
            UserError: it is damaged.
        """
        file = self.folder / FILE
        try:
            saved = json.loads(file.read_bytes())
            differing = [name for name, value in saved["terms"].items() if value != self.terms.get(name)]
            if differing == [EXAMPLES]:
                log.warning("the examples have changed since %s was begun: its trainings are not used", self.folder)
            if differing:
                return False
            found = {(name, lr, seed): Trace(**trace) for name, lr, seed, trace in saved["done"]}
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}): delete it, and the comparison starts anew") from error
        self.traces = {**found, **self.traces}
        return True

    def forget(self) -> None:
        """The comparison is complete: its results hold what counts."""
        with locked(self.folder):
            (self.folder / FILE).unlink(missing_ok=True)


def cached_in(save_dir: UPath, name: str, terms: dict[str, Any], train: Train) -> RunCache:
    """The unfinished comparison of these terms under ``save_dir/name``, otherwise a new one in a folder of its own.

    Raises:
        UserError: what an unfinished one has saved is damaged.
    """
    with locked(save_dir / name):
        runs = runs_of(save_dir, name)
        for run in runs:
            cache = RunCache(run.folder, terms, train)
            if cache.read():
                return cache
        cache = RunCache(Run(save_dir, name, runs[0].version + 1 if runs else 0).folder, terms, train)
        cache.write()
        return cache


@contextmanager
def locked(folder: Path | UPath) -> Iterator[None]:
    """Alone among processes of this machine, and of others that share the folder; an object store has no locks."""
    if not isinstance(folder, Path):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        yield
