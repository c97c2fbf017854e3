"""One supervised training, by any optimizer with one learning rate, evaluated as it goes."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metasgd.data.problems import Examples, ShuffledBatches
from metasgd.data.rng import Split
from metasgd.meta.objectives import Objective
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.optim.loss import LossNotFiniteError
from metasgd.supervised.module import as_inputs, measures

Schedule = Literal["constant", "cosine"]
Named = Iterable[tuple[str, nn.Parameter]]
EVAL_BATCH = 500


@dataclass(frozen=True)
class Candidate:
    """An optimizer with one learning rate.

    Attributes:
        name: as printed.
        make: the optimizer of named parameters, at a learning rate.
        start: the learning rate that the search starts around; a learned optimizer's is 1 and not searched.
        tuned: whether its learning rate is tuned.
        schedule: ``cosine`` lets the learning rate fall to zero over the steps.
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
        diverged: the loss became infinite or not a number, and the training ended there.
    """

    steps: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    val_metric: list[float] = field(default_factory=list)
    test_metric: float = math.nan
    diverged: bool = False


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
        torch.manual_seed(seed)
        network = self.network().to(self.device)
        optimizer = candidate.make(network.named_parameters(), lr)
        scheduler = (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            if candidate.schedule == "cosine"
            else None
        )
        dtype = next(network.parameters()).dtype
        train = self.examples["train"]
        trace, since, seconds = Trace(), list[Tensor](), 0.0
        self._evaluate(network, trace, 0, seconds, since)
        start = time.perf_counter()
        for s, rows in enumerate(ShuffledBatches(len(train), self.batch_size, self.steps, seed), start=1):
            x, y = (t.to(self.device) for t in train.__getitems__(rows))
            optimizer.zero_grad()
            loss = self.objective.loss(network(as_inputs(x, dtype)), y)
            loss.backward()  # type: ignore[no-untyped-call]
            try:
                if isinstance(optimizer, LearnedOptimizer):
                    optimizer.step(loss=loss)
                else:
                    optimizer.step()
            except LossNotFiniteError:
                trace.diverged = True
            if scheduler is not None:
                scheduler.step()
            since.append(loss.detach())
            if s % self.eval_every == 0 or s == self.steps or trace.diverged:
                mean = torch.stack(since).mean()  # waits for the device
                seconds += time.perf_counter() - start
                trace.diverged = not mean.isfinite()
                self._evaluate(network, trace, s, seconds, since)
                since.clear()
                if trace.diverged:
                    break
                start = time.perf_counter()
        trace.test_metric = self._measured(network, "test")[1]
        return trace

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
            found = measures(self.objective, network(as_inputs(x, dtype)), y)
            total += len(y) * found.double().cpu()
        network.train()
        loss, metric = (total / len(examples)).tolist()
        return loss, metric

    def better(self, a: float, b: float) -> bool:
        """Whether metric a is better than b; one that is no number is never better."""
        if math.isnan(a) or math.isnan(b):
            return math.isnan(b) and not math.isnan(a)
        return a > b if self.objective.higher_is_better else a < b
