"""One supervised training, by any optimizer with one learning rate, evaluated as it goes."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from metasgd.data.problems import Examples, ShuffledBatches
from metasgd.data.rng import Split
from metasgd.episode import from_pixels
from metasgd.meta.objectives import Objective
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.optim.loss import LossNotFiniteError
from metasgd.supervised.datamodule import EVAL_BATCH
from metasgd.supervised.evaluation_weights import evaluation_weights
from metasgd.supervised.module import measures
from metasgd.training.rehearsal import training_modes

Schedule = Literal["constant", "cosine", "warmup_cosine"]
WARM_UP = 0.05
"""The share of the steps over which ``warmup_cosine`` raises the learning rate."""
Named = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Candidate:
    """An optimizer with one learning rate.

    Attributes:
        name: as printed.
        make: the optimizer of named parameters, at a learning rate.
        start: the learning rate that the search starts around; a learned optimizer's is 1 and not searched.
        tuned: whether its learning rate is tuned.
        schedule: ``cosine`` lets the learning rate fall to zero over the steps; ``warmup_cosine`` raises it linearly
            over the first 5 % before that.
    """

    name: str
    make: Callable[[Named, float], Optimizer]
    start: float
    tuned: bool = True
    schedule: Schedule = "constant"


@dataclass
class Trace:
    """One training.

    Attributes:
        steps: after which it was evaluated, from 0.
        seconds: of training until then, evaluating left out.
        train_loss: mean over the batches since the evaluation before; not a number at step 0.
        val_loss: on the validation examples.
        val_metric: likewise.
        test_metric: at the end.
        test_loss: likewise.
        diverged: the loss became infinite or not a number, and the training ended there.
    """

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_metric: list[float] = field(default_factory=list)
    test_metric: float = math.nan
    diverged: bool = False
    test_loss: float = math.nan


def scheduled(optimizer: Optimizer, schedule: Schedule, steps: int) -> LRScheduler | None:
    """The learning rates of a training of so many steps; None where they stay."""
    if schedule == "constant":
        return None
    if schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    rising = math.ceil(WARM_UP * steps)

    def factor(step: int) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
        return (step + 1) / (rising + 1) if step < rising else falling

    return LambdaLR(optimizer, factor)


def take_step(optimizer: Optimizer, loss: Tensor) -> bool:
    """Step by the gradients of this loss; whether it could be read, where the optimizer reads it."""
    try:
        if isinstance(optimizer, LearnedOptimizer):
            optimizer.step(loss=loss)
        else:
            optimizer.step()
    except LossNotFiniteError:
        return False
    return True


@dataclass(frozen=True)
class SupervisedTrainer:
    """Everything about a training but the optimizer and the seed.

    Attributes:
        network: makes a network with fresh weights.
        examples: of each split.
        objective: what the training minimises, and the metric.
        steps: of each training.
        batch_size: examples in a batch.
        eval_every: steps between two evaluations.
        device: where it runs.
    """

    network: Callable[[], nn.Module]
    examples: Mapping[Split, Examples]
    objective: Objective
    steps: int
    batch_size: int
    eval_every: int
    device: torch.device

    def train(self, candidate: Candidate, lr: float, seed: int) -> Trace:
        """Train from the weights and on the batches of ``seed``."""
        network, optimizer = self.begin(candidate, lr, seed)
        scheduler = scheduled(optimizer, candidate.schedule, self.steps)
        trace, since, seconds = Trace(), list[Tensor](), 0.0
        self._evaluate(network, trace, 0, seconds, since)
        start = time.perf_counter()
        for s, rows in enumerate(self.batches(seed), start=1):
            loss = self.loss_and_gradients(network, optimizer, rows)
            trace.diverged = not take_step(optimizer, loss)
            if scheduler is not None:
                scheduler.step()
            since.append(loss.detach())
            if s % self.eval_every == 0 or s == self.steps or trace.diverged:
                mean = torch.stack(since).mean()  # waits for the device
                seconds += time.perf_counter() - start
                trace.diverged = not mean.isfinite()
                with self._evaluation_weights(network, optimizer, seed):
                    self._evaluate(network, trace, s, seconds, since)
                since.clear()
                if trace.diverged:
                    break
                start = time.perf_counter()
        with self._evaluation_weights(network, optimizer, seed):
            trace.test_loss, trace.test_metric = self._measured(network, "test")
        return trace

    def begin(self, candidate: Candidate, lr: float, seed: int) -> tuple[nn.Module, Optimizer]:
        """The network of ``seed``, and the optimizer of its parameters."""
        torch.manual_seed(seed)
        network = self.network().to(self.device)
        optimizer = candidate.make(network.named_parameters(), lr)
        for to_train in training_modes(optimizer)[:1]:
            to_train()
        return network, optimizer

    def batches(self, seed: int) -> ShuffledBatches:
        """The rows of every step's batch."""
        return ShuffledBatches(len(self.examples["train"]), self.batch_size, self.steps, seed)

    def evaluated_at(self) -> list[int]:
        """After which steps a training that does not diverge is evaluated."""
        regular = range(0, self.steps, self.eval_every)
        return [*regular, self.steps]

    def loss_and_gradients(self, network: nn.Module, optimizer: Optimizer, rows: list[int]) -> Tensor:
        """The loss of a batch, and its gradients where the optimizer finds them."""
        x, y = (t.to(self.device) for t in self.examples["train"].__getitems__(rows))
        optimizer.zero_grad()
        loss: Tensor = self.objective.loss(network(from_pixels(x, next(network.parameters()).dtype)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _evaluation_weights(self, network: nn.Module, optimizer: Optimizer, seed: int) -> AbstractContextManager[None]:
        dtype = next(network.parameters()).dtype
        batches = (self.examples["train"].x[rows] for rows in self.batches(seed))
        return evaluation_weights(network, optimizer, (from_pixels(x.to(self.device), dtype) for x in batches))

    def _evaluate(self, network: nn.Module, trace: Trace, step: int, seconds: float, since: list[Tensor]) -> None:
        val_loss, val_metric = self._measured(network, "val")
        trace.steps.append(step)
        trace.seconds.append(seconds)
        trace.train_loss.append(torch.stack(since).mean().item() if since else math.nan)
        trace.val_loss.append(val_loss)
        trace.val_metric.append(val_metric)

    @torch.no_grad()
    def _measured(self, network: nn.Module, split: Split) -> tuple[float, float]:
        """Loss and metric over all examples of a split."""
        examples = self.examples[split]
        dtype = next(network.parameters()).dtype
        network.eval()
        total = torch.zeros(2, dtype=torch.float64)
        for first in range(0, len(examples), EVAL_BATCH):
            x, y = examples.x[first : first + EVAL_BATCH], examples.y[first : first + EVAL_BATCH]
            x, y = x.to(self.device), y.to(self.device)
            found = measures(self.objective, network(from_pixels(x, dtype)), y)
            total += len(y) * found.double().cpu()
        network.train()
        loss, metric = (total / len(examples)).tolist()
        return loss, metric

    def better(self, a: float, b: float) -> bool:
        """Whether metric a is better than b; one that is no number is never better."""
        if math.isnan(a) or math.isnan(b):
            return math.isnan(b) and not math.isnan(a)
        return a > b if self.objective.higher_is_better else a < b
