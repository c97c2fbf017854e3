"""Supplies a supervised problem's batches to the Trainer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from torch.utils.data.sampler import BatchSampler

from metasgd.data.cache import default_cache_dir
from metasgd.data.problems import Batch, Examples, Problem, ShuffledBatches
from metasgd.data.rng import Split
from metasgd.errors import UserError, arguments_of, at_argument
from metasgd.runtime.process import allow_workers
from metasgd.training.loader import ResumingLoader

EVAL_BATCH = 500


@dataclass(frozen=True)
class DataFiles:
    """Where a data set lies.

    Args:
        root: the folder with the data set's files.
        cache_dir: the folder for decoded images; by default the user's cache folder.
    """

    root: str = "data"
    cache_dir: str | None = None

    def examples(self, problem: Problem) -> dict[Split, Examples]:
        """The problem's examples, read from there.

        Raises:
            UserError: the data is absent, damaged or too little.
        """
        cache_dir = Path(self.cache_dir or default_cache_dir())
        own = arguments_of(type(problem))
        with at_argument("--problem", own), at_argument("--data", arguments_of(DataFiles)):
            return problem.examples(Path(self.root).expanduser(), cache_dir.expanduser())


@dataclass(frozen=True)
class LoadedData(DataFiles):
    """Where a data set lies, and how it is loaded.

    Args:
        root: the folder with the data set's files.
        cache_dir: the folder for decoded images; by default the user's cache folder.
        num_workers: processes that fetch batches ahead; 0 fetches in the main process.
    """

    num_workers: int = 0


class SupervisedData(LightningDataModule):
    """The batch of step t is a function of (seed, t): a run that resumes takes the next one.

    Args:
        problem: what to train on.
        data: where its files lie, and how they are loaded.
        batch_size: X.
        seed: of the batches' order.
    """

    def __init__(self, problem: Problem, data: LoadedData, batch_size: int, seed: int) -> None:
        super().__init__()
        self.problem, self.data = problem, data
        self.batch_size, self.seed = batch_size, seed
        self.examples: dict[Split, Examples] = {}

    def setup(self, stage: str) -> None:
        if not self.examples:
            allow_workers(self.data.num_workers)
            self.examples = self.data.examples(self.problem)
            self._batches(n_steps=0, first=0)  # refuses what cannot be

    def state_dict(self) -> dict[str, Any]:
        return {"examples": {split: examples.digest for split, examples in self.examples.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other examples than the run began with.

        Raises:
            UserError: names the splits that differ.
        """
        now, saved = self.state_dict()["examples"], state_dict.get("examples")
        if not isinstance(saved, dict) or not now:
            return
        differing = [split for split in now if saved.get(split) != now[split]]
        if differing:
            raise UserError(
                f"the run was trained on other examples than there are now: those of {', '.join(differing)} differ. Put"
                " the data back as it was, or start a new run"
            )

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined] # typed as its base
        batches = self._batches(self.trainer.max_steps, first=done)
        return ResumingLoader(
            self.examples["train"], batch_sampler=batches, collate_fn=_as_is, num_workers=self.data.num_workers
        )

    def _batches(self, n_steps: int, first: int) -> ShuffledBatches:
        return ShuffledBatches(len(self.examples["train"]), self.batch_size, n_steps, self.seed, first)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._in_order("test")

    def _in_order(self, split: Split) -> DataLoader[Batch]:
        examples = self.examples[split]
        batches: Sampler[list[int]] = BatchSampler(SequentialSampler(examples), EVAL_BATCH, drop_last=False)
        return DataLoader(examples, batch_sampler=batches, collate_fn=_as_is)


def _as_is(batch: Any) -> Any:
    """The examples come as a whole batch."""
    return batch
