"""Trainings of a comparison kept on disk, so that one that was stopped goes on with the next training."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.storage import write_whole
from metasgd.supervised.comparison import Train
from metasgd.supervised.trainer import Candidate, Trace

FILE = "trainings.json"


@dataclass
class RunCache:
    """Trains what has not been trained yet, and writes it down at once.

    Attributes:
        folder: of the comparison's run.
        terms: what the trainings depend on but for contender, knob and seed.
        train: one training.
        traces: those that are done, by contender, knob and seed.
    """

    folder: UPath
    terms: dict[str, Any]
    train: Train
    traces: dict[tuple[str, float, int], Trace] = field(default_factory=dict)

    def __call__(self, contender: Candidate, knob: float, seed: int) -> Trace:
        key = contender.name, knob, seed
        if key not in self.traces:
            self.traces[key] = self.train(contender, knob, seed)
            self.write()
        return self.traces[key]

    def write(self) -> None:
        done = [[*key, asdict(trace)] for key, trace in self.traces.items()]
        write_whole(self.folder / FILE, json.dumps({"terms": self.terms, "done": done}).encode())

    def take_up(self) -> bool:
        """Read what is kept in the folder; whether there was something, and on the same terms.

        Raises:
            UserError: it is damaged.
        """
        file = self.folder / FILE
        if not file.is_file():
            return False
        try:
            kept = json.loads(file.read_bytes())
            if kept["terms"] != self.terms:
                return False
            self.traces = {(name, knob, seed): Trace(**trace) for name, knob, seed, trace in kept["done"]}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged ({error}): delete it, and the comparison begins anew") from error
        return True

    def forget(self) -> None:
        """The comparison is complete: its results hold what counts."""
        (self.folder / FILE).unlink()
