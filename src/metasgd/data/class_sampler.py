"""N-way K-shot tasks from a pool of classes, whole meta-batches drawn by indexing."""

import numpy as np
import torch
from numpy.typing import NDArray

from metasgd.data.class_pool import ClassPool
from metasgd.data.plan import Plan, PlanningSampler
from metasgd.data.rng import Split, task_stream
from metasgd.data.task_shape import TaskShape
from metasgd.errors import raise_problems


class ClassSampler(PlanningSampler):
    """Draws a task's N classes without replacement, and of each class K + Q images without replacement.

    Args:
        pool: the classes of one split.
        split: which split that is; it enters the random numbers.
        seed: with the split and a task's number, determines the task.
        shape: N, K, Q; with ``one_alphabet``, a task draws an alphabet first, each as likely as it has
            classes, and then its classes from that alphabet alone.

    Raises:
        UserError: the pool has too few classes, or classes with too few images.
    """

    def __init__(self, pool: ClassPool, split: Split, seed: int, shape: TaskShape) -> None:
        self.pool, self.split, self.seed, self.shape = pool, split, seed, shape
        self._members = [np.flatnonzero(pool.groups == group) for group in np.unique(pool.groups)]
        raise_problems(_problems(pool, split, shape, self._members))
        if shape.one_alphabet:
            self._members = [m for m in self._members if len(m) >= shape.n_way]
            sizes = np.array([len(m) for m in self._members])
            self._group_chance = sizes / sizes.sum()

    def plan(self, indices: NDArray[np.int64]) -> Plan:
        classes, rows, numbers = map(torch.from_numpy, (*self._choose(indices), np.asarray(indices, dtype=np.int64)))
        return Plan(self.split, self.shape.k_shot, rows, classes, numbers)

    def _choose(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The classes ``[B, N]`` of tasks, and the rows ``[B, N, K+Q]`` of their images."""
        n, drawn = self.shape.n_way, self.shape.k_shot + self.shape.n_query
        classes = np.empty((len(indices), n), dtype=np.int64)
        rows = np.empty((len(indices), n, drawn), dtype=np.int64)
        for b, index in enumerate(indices):
            stream = task_stream(self.seed, self.split, int(index))
            classes[b] = self._draw_classes(stream)
            for way, count in enumerate(self.pool.counts[classes[b]].tolist()):
                rows[b, way] = stream.choice(count, size=drawn, replace=False)
        rows += self.pool.starts[classes][:, :, None]
        return classes, rows

    def _draw_classes(self, stream: np.random.Generator) -> NDArray[np.int64]:
        if not self.shape.one_alphabet:
            return stream.choice(len(self.pool), size=self.shape.n_way, replace=False)
        members = self._members[stream.choice(len(self._members), p=self._group_chance)]
        return stream.choice(members, size=self.shape.n_way, replace=False)


def _problems(pool: ClassPool, split: Split, shape: TaskShape, members: list[NDArray[np.int64]]) -> list[str]:
    problems = []
    if shape.n_way < 2:
        problems.append(f"n_way is {shape.n_way}: at least 2 classes are needed to tell apart")
    if shape.n_way > len(pool):
        problems.append(
            f"n_way is {shape.n_way}, but the {split} split has {len(pool)} classes: at most"
            f" {len(pool)} ways are possible"
        )
    elif shape.one_alphabet and shape.n_way > max(map(len, members)):
        problems.append(
            f"n_way is {shape.n_way} with one_alphabet, but the largest alphabet of the {split}"
            f" split has {max(map(len, members))} classes: at most that many ways are possible"
        )
    needed = shape.k_shot + shape.n_query
    short = np.flatnonzero(pool.counts < needed)
    if len(short):
        least = short[np.argmin(pool.counts[short])]
        queries = "n_query" if split == "train" else "eval_n_query (by default n_query)"
        problems.append(
            f"k_shot is {shape.k_shot} and {queries} {shape.n_query}, {needed} together, but {len(short)} of"
            f" the {len(pool)} classes of the {split} split have fewer images; the least has"
            f" {pool.counts[least]}, {pool.names[least]}: at most that many are possible"
        )
    return problems
