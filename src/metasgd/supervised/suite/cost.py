"""What a step costs: processor time, with all contenders in turn, and the memory that the optimizer holds."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from metasgd.supervised.trainer import Candidate, SupervisedTrainer, take_step

STEPS = 4
"""Of a contender in a round."""


@dataclass(frozen=True)
class Cost:
    """Of one contender on one workload.

    Attributes:
        seconds_per_step: of processor time, for a whole training step; the median over the rounds.
        time_ratio: the median over the rounds of its seconds divided by those of the reference in the same round.
        time_quartiles: of that ratio.
        bytes_per_parameter: of the optimizer's tensors, beside weights and gradients.
    """

    seconds_per_step: float
    time_ratio: float
    time_quartiles: tuple[float, float]
    bytes_per_parameter: float


def costs(
    trainer: SupervisedTrainer, candidates: Mapping[str, tuple[Candidate, float]], rounds: int, reference: str
) -> dict[str, Cost]:
    """Trains all contenders a few steps each in turn, beginning with another one in every round.

    What else the machine does meanwhile is not counted, and slows all of them alike.

    Args:
        trainer: of the workload.
        candidates: with their learning rates, by name.
        rounds: that are timed, after one that is not; at least 1.
        reference: whose time the others' are divided by.
    """
    begun = {name: trainer.begin(candidate, lr, seed=0) for name, (candidate, lr) in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in begun}
    names = list(begun)
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.process_time()
            for rows in islice(trainer.batches(seed=turn), STEPS):
                take_step(begun[name][1], trainer.loss_and_gradients(*begun[name], rows))
            seconds[name].append((time.process_time() - start) / min(STEPS, trainer.steps))
    found = {}
    for name, (net, optimizer) in begun.items():
        ratios = np.divide(seconds[name][1:], seconds[reference][1:])
        low, middle, high = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
        size = bytes_of(optimizer) / sum(p.numel() for p in net.parameters())
        found[name] = Cost(statistics.median(seconds[name][1:]), middle, (low, high), size)
    return found


def bytes_of(optimizer: Optimizer) -> int:
    """Of the tensors in an optimizer's state, each storage once."""
    parts: list[Optimizer] = getattr(optimizer, "parts", [optimizer])
    tensors = [
        value
        for part in parts
        for state in part.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors if tensor.numel()}
    return sum(map(torch.UntypedStorage.nbytes, storages.values()))
