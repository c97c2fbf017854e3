"""A workload: a network, its data, a loss, and how long it is trained.

Shape letters: X examples, V symbols, T places.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.data.problems import Examples
from metasgd.data.rng import Split
from metasgd.meta.objectives import OBJECTIVES, Objective
from metasgd.supervised.trainer import SupervisedTrainer

EVALUATIONS = 25
"""Evaluations on validation in a training."""


class Data(Protocol):
    """Examples that are a function of a seed, the split and the example's number."""

    @property
    def seed(self) -> int: ...

    def examples(self, cache_dir: Path) -> dict[Split, Examples]:
        """To train on, to choose by, and to evaluate by."""


@dataclass(frozen=True)
class Workload:
    """What an optimizer is tried on.

    Attributes:
        name: as options and tables have it.
        description: one line.
        network: makes a network with fresh weights. Its last layer is called ``head``, tables of symbols and places
            ``embedding``.
        data: to train, to choose by and to evaluate by.
        objective: the loss and the metric.
        steps: of a training.
        batch_size: examples in a batch.
    """

    name: str
    description: str
    network: Callable[[], nn.Module]
    data: Data
    objective: Objective
    steps: int
    batch_size: int

    def trainer(self, examples: Mapping[Split, Examples]) -> SupervisedTrainer:
        """Of this workload, on these examples, evaluated ``EVALUATIONS`` times."""
        every = max(1, self.steps // EVALUATIONS)
        cpu = torch.device("cpu")
        return SupervisedTrainer(self.network, examples, self.objective, self.steps, self.batch_size, every, cpu)


class NextSymbol(Objective):
    """Cross-entropy and accuracy of the symbol at every place: logits ``[X, T, V]``, targets ``[X, T]``."""

    metric = "accuracy"
    higher_is_better = True

    @staticmethod
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def validate_targets(self, targets: Tensor) -> None:
        OBJECTIVES["cross_entropy"].validate_targets(targets)

    def measure(self, outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        return OBJECTIVES["cross_entropy"].measure(outputs.flatten(1, 2), targets.flatten(1), losses)


CLASSES, SQUARES, SYMBOLS = OBJECTIVES["cross_entropy"], OBJECTIVES["mse"], NextSymbol()
"""What the workloads minimise."""
