"""The random numbers of a task: a function of (seed, split, index) and of nothing else."""

from typing import Literal

import numpy as np

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Use = Literal["examples", "augmentation", "view"]
USES: tuple[Use, ...] = ("examples", "augmentation", "view")


def task_stream(seed: int, split: Split, index: int, use: Use = "examples", view: int = 0) -> np.random.Generator:
    """The generator of one task, for one use, and for each view of it if there are several.

    Philox is counter-based: (seed, split) is its key and the task's number the high half of its counter, so
    any task's stream starts at once, without drawing those before it, and no two overlap.
    """
    # given as 64-bit words, since Philox seeds itself through a slow hash when given anything else
    key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)
    counter = np.array([0, view, index, USES.index(use)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=key))
