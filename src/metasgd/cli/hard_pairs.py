"""The classes of a run that are most often taken for each other."""

from collections import Counter
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metasgd.data.class_pool import ClassPool
from metasgd.episode import Episode
from metasgd.reporting.metrics import wilson_interval
from metasgd.reporting.page import HardPair

MOST_PAIRS, PICTURES = 8, 4


def hardest_pairs(pool: ClassPool, tasks: list[Episode], predicted: list[Tensor]) -> list[HardPair]:
    """The pairs of classes most often taken for each other where both were in a task.

    They are ordered by the lower end of the share's 95 % interval, so that much evidence outweighs little.

    Args:
        pool: the classes' names and pictures.
        tasks: meta-batches.
        predicted: of each, the class position predicted for every query, ``[B, X]``.
    """
    asked, wrong = Counter[tuple[int, int]](), Counter[tuple[int, int]]()
    for batch, answers in zip(tasks, predicted, strict=True):
        for classes, truth, answer in zip(batch.classes, batch.query_y, answers, strict=True):
            n = len(classes)
            confused = torch.zeros(n, n, dtype=torch.int64)
            confused.index_put_((truth, answer), torch.ones_like(truth), accumulate=True)
            queries = truth.bincount(minlength=n)
            for a, b in combinations(range(n), 2):
                first, second = sorted((int(classes[a]), int(classes[b])))
                asked[first, second] += int(queries[a] + queries[b])
                wrong[first, second] += int(confused[a, b] + confused[b, a])
    ranked = sorted((p for p in asked if wrong[p]), key=lambda p: -wilson_interval(wrong[p], asked[p])[0])
    return [
        HardPair(
            names=(pool.names[a], pool.names[b]),
            pictures=(_pictures(pool, a), _pictures(pool, b)),
            wrong=wrong[a, b],
            asked=asked[a, b],
        )
        for a, b in ranked[:MOST_PAIRS]
    ]


def _pictures(pool: ClassPool, c: int) -> list[NDArray[np.uint8]]:
    return list(pool.take(pool.starts[c] + np.arange(min(PICTURES, int(pool.counts[c])))))
