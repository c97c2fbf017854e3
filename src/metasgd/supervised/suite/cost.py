"""What a step costs: seconds, with all contenders in turn, and the memory that the optimizer holds."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

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
        seconds_per_step: of a whole training step, the median over the rounds.
        bytes_per_parameter: of the optimizer's tensors, beside weights and gradients.
    """

    seconds_per_step: float
    bytes_per_parameter: float


def costs(
    trainer: SupervisedTrainer, candidates: Mapping[str, tuple[Candidate, float]], rounds: int
) -> dict[str, Cost]:
    """Trains all contenders a few steps each in turn, beginning with another one in every round.

    What else the machine does meanwhile slows all of them alike.

    Args:
        trainer: of the workload.
        candidates: with their learning rates, by name.
        rounds: that are timed, after one that is not; at least 1.
    """
    begun = {name: trainer.begin(candidate, lr, seed=0) for name, (candidate, lr) in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in begun}
    names = list(begun)
    for turn in range(rounds + 1):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            start = time.perf_counter()
            for rows in islice(trainer.batches(seed=turn), STEPS):
                take_step(begun[name][1], trainer.loss_and_gradients(*begun[name], rows))
            seconds[name].append((time.perf_counter() - start) / min(STEPS, trainer.steps))
    return {
        name: Cost(statistics.median(seconds[name][1:]), bytes_of(optimizer) / sum(p.numel() for p in net.parameters()))
        for name, (net, optimizer) in begun.items()
    }


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
