"""Meta-batches from any outer step on, so that a resumed run draws the tasks it would have drawn."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch.utils.data
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from metasgd.data.packed_plan import PackedPlan
from metasgd.data.plan import Plan
from metasgd.episode import Episode
from metasgd.runtime.signals import SIGNALS, obey_parent_alone

Item = TypeVar("Item")


class OuterSteps(Sequence[Sequence[int]]):
    """The task numbers of every outer step: step t has the tasks ``t*B … t*B + B-1``, rank r its share of them.

    With ``steps_per_task`` R above 1, the task in a place of the meta-batch stays for R outer steps, and the places
    change theirs in turn.
    """

    def __init__(self, n_steps: int, meta_batch_size: int, rank: int, world_size: int, steps_per_task: int = 1) -> None:
        self.n_steps, self.meta_batch_size, self.steps_per_task = n_steps, meta_batch_size, steps_per_task
        share = meta_batch_size // world_size
        self.own = range(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, t: int) -> Sequence[int]:  # type: ignore[override] # steps are never sliced
        r, b = self.steps_per_task, self.meta_batch_size
        return [(t + place * r // b) // r * b + place for place in self.own]


class MetaBatches(Dataset[Episode | PackedPlan]):
    """Item i is the tasks of block i; plans are packed for their way.

    Args:
        draw: the tasks with some numbers, or what is to be made of them elsewhere.
        blocks: the numbers.
    """

    def __init__(self, draw: Callable[[NDArray[np.int64]], Episode | Plan], blocks: Sequence[Sequence[int]]) -> None:
        self.draw = draw
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, i: int) -> Episode | PackedPlan:
        drawn = self.draw(np.asarray(self.blocks[i], dtype=np.int64))
        return PackedPlan.of(drawn) if isinstance(drawn, Plan) else drawn


class FromStep(torch.utils.data.DistributedSampler[int]):
    """``first … n-1``. Its length is n: Lightning counts the batches before ``first`` as fetched already.

    The blocks are of this process alone: a Trainer that would deal them over processes once more leaves it be.
    """

    def __init__(self, first: int, n: int) -> None:
        self.first, self.n = first, n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.n))

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Nothing: the order is always the same."""


class ResumingLoader(DataLoader[Item]):
    """Says to Lightning that it resumes in mid-epoch; where is in the Trainer's own progress.

    Its workers live on when the run is asked to stop; they end when it does.
    """

    def __iter__(self) -> Any:
        self.worker_init_fn = obey_parent_alone
        with SIGNALS.withheld_from_workers():
            return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore: see ``EpisodicDataModule.train_dataloader``."""
