"""Tasks that no learner survives, to see what becomes of those who meet them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metasgd.data.rng import Split
from metasgd.data.sinusoid import Sinusoid
from metasgd.data.source import Sampler
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode


class Poisoned(Sinusoid):
    """Curves; those of some training tasks have values that are not finite, or too large to be squared.

    Args:
        tasks: their numbers.
        where: the field of the episode with the bad values.
        value: the bad value.
    """

    def __init__(self, tasks: list[int], where: str = "query_y", value: float = float("nan")) -> None:
        self.tasks, self.where, self.value = tasks, where, value

    def sampler(self, split: Split, root: Path, cache_dir: Path, seed: int, shape: TaskShape) -> Sampler:
        whole: Sampler = super().sampler(split, root, cache_dir, seed, shape)
        return _PoisonedSampler(whole, self) if split == "train" else whole


class _PoisonedSampler:
    def __init__(self, whole: Sampler, source: Poisoned) -> None:
        self.whole, self.source = whole, source

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        episode = self.whole.draw(indices)
        for i, index in enumerate(indices):
            if index in self.source.tasks:
                getattr(episode, self.source.where)[i] = self.source.value
        return episode
