"""Supervised problems: one data set to learn, with examples held out, in batches from a DataLoader.

Shape letters: M examples, X examples in a batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from metasgd.data.rng import SPLITS, Split, task_stream
from metasgd.data.sinusoid import Sinusoid
from metasgd.data.source import ClassSource
from metasgd.data.task_shape import TaskShape
from metasgd.errors import UserError, raise_problems, too_small

Batch = tuple[Tensor, Tensor]


class Examples(Dataset[Batch]):
    """Inputs ``x [M, …]`` (images uint8) and targets ``y``, ``[M]`` int64 or ``[M, outputs]``."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, row: int) -> Batch:
        return self.x[row], self.y[row]

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of all inputs and targets, which every checkpoint of a run has."""
        found = sha256(self.x.numpy().tobytes())
        found.update(self.y.numpy().tobytes())
        return found.hexdigest()

    def __getitems__(self, rows: Sequence[int]) -> Batch:
        """A whole batch by one indexing."""
        return self.x[list(rows)], self.y[list(rows)]


class Problem(ABC):
    """What a network is trained on. Constructors take options only and touch no file."""

    loss: Literal["cross_entropy", "mse"]

    @abstractmethod
    def examples(self, root: Path, cache_dir: Path) -> dict[Split, Examples]:
        """To train on, to choose by, and to evaluate by.

        Raises:
            UserError: the data is absent, damaged or too little.
        """

    @abstractmethod
    def n_outputs(self, train: Examples) -> int:
        """Values that a network answers for each example."""


class ManyClasses(Problem):
    """The classes of one split of a source, classified all at once; some images of every class are held out.

    Args:
        source: of the images.
        split: whose classes; those of ``test`` were in no meta-training.
        n_classes: the first so many of them; all by default.
        held_out: the shares of each class's images that are held out for validation and for test, its last ones.

    Raises:
        UserError: an option is out of range.

    Example:
        >>> from metasgd.data import Omniglot
        >>> ManyClasses(Omniglot(), n_classes=100).loss  # of 100 characters; its files are read by ``examples``
        'cross_entropy'
    """

    loss = "cross_entropy"

    def __init__(
        self,
        source: ClassSource,
        split: Split = "test",
        n_classes: int | None = None,
        held_out: tuple[float, float] = (0.2, 0.2),
    ) -> None:
        problems = []
        if n_classes is not None and n_classes < 2:
            problems.append(f"n_classes is {n_classes}: at least 2 are needed")
        if min(held_out) <= 0 or sum(held_out) >= 1:
            problems.append(f"held_out is {list(held_out)}: two shares above 0 are needed, of a sum below 1")
        raise_problems(problems)
        self.source, self.split, self.n_classes, self.held_out = source, split, n_classes, held_out

    def examples(self, root: Path, cache_dir: Path) -> dict[Split, Examples]:
        self.source.prepare(root, cache_dir)
        pool = self.source.pool(self.split, root, cache_dir)
        n = len(pool) if self.n_classes is None else self.n_classes
        if n > len(pool):
            raise UserError(
                f"n_classes is {n}, but the {self.split} split has {len(pool)} classes: use at most as many"
            )
        rows: dict[Split, list[NDArray[np.int64]]] = {split: [] for split in SPLITS}
        for c in range(n):
            start, count = pool.starts[c], pool.counts[c]
            n_val, n_test = (max(1, round(share * int(count))) for share in self.held_out)
            if n_val + n_test >= count:
                raise UserError(f"{pool.names[c]} has {count} images: too few to hold some out. Leave the class out")
            ends = np.cumsum([count - n_val - n_test, n_val])
            for split, own in zip(SPLITS, np.split(start + np.arange(count), ends), strict=True):
                rows[split].append(own)
        return {
            split: Examples(
                torch.from_numpy(pool.take(np.concatenate(own))),
                torch.arange(n).repeat_interleave(torch.tensor([len(of_class) for of_class in own])),
            )
            for split, own in rows.items()
        }

    def n_outputs(self, train: Examples) -> int:
        return int(train.y.max()) + 1


class Curve(Problem):
    """One curve of the sinusoid family, from points on it.

    Args:
        index: which curve.
        seed: of the family.
        points: to train on.
        held_out: points for validation, and as many for test.
        noise: standard deviation of what is added to the targets of the training points.

    Raises:
        UserError: an option is out of range.

    Example:
        >>> examples = Curve(points=60, held_out=20).examples(Path(), Path())
        >>> {split: len(of_split) for split, of_split in examples.items()}
        {'train': 60, 'val': 20, 'test': 20}
    """

    loss = "mse"

    def __init__(
        self, index: int = 0, seed: int = 0, points: int = 1000, held_out: int = 500, noise: float = 0.0
    ) -> None:
        raise_problems(
            too_small(
                ("index", index, 0),
                ("seed", seed, 0),
                ("points", points, 1),
                ("held_out", held_out, 1),
                ("noise", noise, 0),
            )
        )
        self.index, self.seed, self.points, self.held_out, self.noise = index, seed, points, held_out, noise

    def examples(self, root: Path, cache_dir: Path) -> dict[Split, Examples]:
        shape = TaskShape(n_way=1, k_shot=self.points, n_query=2 * self.held_out)
        curve = Sinusoid().sampler("test", root, cache_dir, self.seed, shape).draw(np.array([self.index]))
        added = task_stream(self.seed, "val", self.index).normal(scale=self.noise, size=(self.points, 1))
        n = self.held_out
        return {
            "train": Examples(curve.support_x[0], curve.support_y[0] + torch.from_numpy(added.astype(np.float32))),
            "val": Examples(curve.query_x[0, :n], curve.query_y[0, :n]),
            "test": Examples(curve.query_x[0, n:], curve.query_y[0, n:]),
        }

    def n_outputs(self, train: Examples) -> int:
        return train.y.shape[1]


@dataclass(frozen=True)
class ShuffledBatches(Sampler[list[int]]):
    """The rows of the batches of steps ``first … n_steps-1``; every epoch has an order of its own.

    The batch of a step is a function of (seed, step). Rows that do not fill a batch are left out of an epoch.
    Its length is ``n_steps``: Lightning counts the batches before ``first`` as fetched already.
    """

    n_rows: int
    batch_size: int
    n_steps: int
    seed: int
    first: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.n_rows:
            raise UserError(f"batch_size is {self.batch_size}: from 1 to {self.n_rows}, the training examples, can be")

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.n_rows // self.batch_size
        order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        for step in range(self.first, self.n_steps):
            epoch, batch = divmod(step, per_epoch)
            if batch == 0 or not len(order):
                order = task_stream(self.seed, "train", epoch).permutation(self.n_rows)
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()

    def __len__(self) -> int:
        return self.n_steps
