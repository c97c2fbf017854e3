"""Meta-batches of several shapes in turn: 5-way 1-shot, then 20-way 5-shot, and so on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from metasgd.data.plan import Plan, PlanningSampler
from metasgd.data.source import Sampler
from metasgd.episode import Episode


class InTurn:
    """Draws the tasks of meta-batch t by sampler t mod S.

    A task is a function of (seed, split, index) and its shape, and the shape one of (index // B) mod S.

    Args:
        samplers: S of them, each of one shape.
        meta_batch_size: B; the tasks ``t*B … t*B + B-1`` are meta-batch t.
    """

    def __init__(self, samplers: Sequence[Sampler], meta_batch_size: int) -> None:
        self.samplers, self.meta_batch_size = samplers, meta_batch_size

    def draw(self, indices: NDArray[np.int64]) -> Episode:
        """The tasks with these numbers, all of one meta-batch."""
        return self.samplers[self._turn(indices)].draw(indices)

    def _turn(self, indices: NDArray[np.int64]) -> int:
        batches = np.unique(np.asarray(indices) // self.meta_batch_size)
        assert len(batches) == 1, "tasks of several meta-batches have several shapes"
        return int(batches[0]) % len(self.samplers)


class PlannedInTurn(InTurn, PlanningSampler):
    """The same of samplers that draw in two parts, from one pool."""

    samplers: Sequence[PlanningSampler]

    def __init__(self, samplers: Sequence[PlanningSampler], meta_batch_size: int) -> None:
        super().__init__(samplers, meta_batch_size)
        self.pool = samplers[0].pool

    def plan(self, indices: NDArray[np.int64]) -> Plan:
        return self.samplers[self._turn(indices)].plan(indices)


def in_turn(samplers: Sequence[Sampler], meta_batch_size: int) -> Sampler:
    """One sampler of several, which takes them in turn; in two parts where all of them can.

    Args:
        samplers: at least one, of one split and seed.
        meta_batch_size: B, tasks of each meta-batch.

    Example:
        >>> from pathlib import Path
        >>> from metasgd.data import Sinusoid
        >>> from metasgd.data.task_shape import TaskShape
        >>> shapes = [TaskShape(1, k, 15) for k in (5, 10)]
        >>> samplers = [Sinusoid().sampler("train", Path("."), Path("."), 0, shape) for shape in shapes]
        >>> tasks = in_turn(samplers, meta_batch_size=4)
        >>> [tasks.draw(np.arange(4 * t, 4 * t + 4)).support_x.shape[1] for t in range(3)]
        [5, 10, 5]
    """
    if len(samplers) == 1:
        return samplers[0]
    planning = [sampler for sampler in samplers if isinstance(sampler, PlanningSampler)]
    if len(planning) == len(samplers):
        return PlannedInTurn(planning, meta_batch_size)
    return InTurn(samplers, meta_batch_size)
