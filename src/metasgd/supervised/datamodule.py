"""Supplies an ordinary problem's batches to the Trainer."""

from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from torch.utils.data.sampler import BatchSampler

from metasgd.data.problems import Batch, Examples, Problem, ShuffledBatches
from metasgd.data.rng import Split
from metasgd.training.datamodule import ResumingLoader

EVAL_BATCH = 500


class SupervisedData(LightningDataModule):
    """The batch of step t is a function of (seed, t): a run that resumes goes on with the next one.

    Args:
        problem: what to train on.
        root: the folder with the data set's files.
        cache_dir: the folder for decoded images.
        batch_size: X.
        seed: of the batches' order.
        num_workers: processes that fetch batches ahead.
    """

    def __init__(
        self, problem: Problem, root: Path, cache_dir: Path, batch_size: int, seed: int, num_workers: int = 0
    ) -> None:
        super().__init__()
        self.problem, self.root, self.cache_dir = problem, root, cache_dir
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.examples: dict[Split, Examples] = {}

    def setup(self, stage: str) -> None:  # noqa: ARG002
        if not self.examples:
            self.examples = self.problem.examples(self.root, self.cache_dir)
            self._batches(n_steps=0, first=0)  # refuses what cannot be

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.processed  # type: ignore[attr-defined] # typed as its base
        batches = self._batches(self.trainer.max_steps, first=done)
        return ResumingLoader(
            self.examples["train"], batch_sampler=batches, collate_fn=_as_is, num_workers=self.num_workers
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
