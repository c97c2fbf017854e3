"""The same network, data and seeds under several optimizers, each baseline with its learning rate tuned."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metasgd.data.problems import Examples, ShuffledBatches
from metasgd.data.stream import Split
from metasgd.objectives import Objective
from metasgd.optimizer import LearnedOptimizer
from metasgd.ordinary.module import as_inputs, measures

Schedule = Literal["constant", "cosine"]
Named = Iterable[tuple[str, nn.Parameter]]
Knob = TypeVar("Knob", int, float)
SPACING = math.sqrt(10)
"""Between neighbouring learning rates of the search."""
EVAL_BATCH = 500


@dataclass(frozen=True)
class Contender:
    """An optimizer with one knob.

    Attributes:
        name: as printed.
        make: the optimizer of named parameters, at a setting of the knob.
        start: the setting that the search starts around; a learned optimizer's is 1 and not searched.
        tuned: whether the knob is tuned.
        schedule: ``cosine`` lets the learning rate fall to zero over the steps.
    """

    name: str
    make: Callable[[Named, float], Optimizer]
    start: float
    tuned: bool = True
    schedule: Schedule = "constant"


BASELINES: dict[str, tuple[Callable[[Named, float], Optimizer], float]] = {
    "SGD": (lambda params, lr: torch.optim.SGD(params, lr=lr), 0.1),
    "Momentum": (lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9), 0.03),
    "Adam": (lambda params, lr: torch.optim.Adam(params, lr=lr), 0.003),
    "RMSProp": (lambda params, lr: torch.optim.RMSprop(params, lr=lr), 0.003),
    "AdaGrad": (lambda params, lr: torch.optim.Adagrad(params, lr=lr), 0.03),
    "AdamW": (lambda params, lr: torch.optim.AdamW(params, lr=lr), 0.003),
}
"""With torch's defaults but for the learning rate (and 0.9 for Momentum), and where its search starts."""


@dataclass
class Trace:
    """One training.

    Attributes:
        steps: after which it was judged, from 0.
        seconds: of training until then, judging left out.
        train_loss: mean over the batches since the judgement before; not a number at step 0.
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
class Bench:
    """Everything about a training but the optimizer and the seed.

    Attributes:
        network: makes a network with fresh weights.
        examples: of each split.
        objective: what the training minimises, and the metric.
        steps: of each training.
        batch_size: examples in a batch.
        eval_every: steps between two judgements.
        device: where it runs.
    """

    network: Callable[[], nn.Module]
    examples: Mapping[Split, Examples]
    objective: Objective
    steps: int
    batch_size: int
    eval_every: int
    device: torch.device

    def train(self, contender: Contender, knob: float, seed: int) -> Trace:
        """Train from the weights and on the batches of ``seed``."""
        torch.manual_seed(seed)
        network = self.network().to(self.device)
        optimizer = contender.make(network.named_parameters(), knob)
        scheduler = (
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            if contender.schedule == "cosine"
            else None
        )
        dtype = next(network.parameters()).dtype
        train = self.examples["train"]
        trace, since, seconds = Trace(), list[Tensor](), 0.0
        self._judge(network, trace, 0, seconds, since)
        start = time.perf_counter()
        for s, rows in enumerate(ShuffledBatches(len(train), self.batch_size, self.steps, seed), start=1):
            x, y = (t.to(self.device) for t in train.__getitems__(rows))
            optimizer.zero_grad()
            loss = self.objective.loss(network(as_inputs(x, dtype)), y)
            loss.backward()  # type: ignore[no-untyped-call]
            if isinstance(optimizer, LearnedOptimizer):
                optimizer.step(loss=loss)
            else:
                optimizer.step()
            if scheduler is not None:
                scheduler.step()
            since.append(loss.detach())
            if s % self.eval_every == 0 or s == self.steps:
                mean = torch.stack(since).mean()  # waits for the device
                seconds += time.perf_counter() - start
                trace.diverged = not mean.isfinite()
                self._judge(network, trace, s, seconds, since)
                since.clear()
                if trace.diverged:
                    break
                start = time.perf_counter()
        trace.test_metric = self._measured(network, "test")[1]
        return trace

    def _judge(self, network: nn.Module, trace: Trace, step: int, seconds: float, since: list[Tensor]) -> None:
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


@dataclass
class Row:
    """What became of one contender.

    Attributes:
        name: as printed.
        knob: the learning rate found, or 1, the learned optimizer's own.
        tuned: whether it was searched.
        trials: the metric on validation at the end, by setting of the knob, with the search's seed.
        traces: the trainings at ``knob``, one per seed.
    """

    name: str
    knob: float
    tuned: bool
    trials: dict[float, float]
    traces: list[Trace]


def compare(
    bench: Bench,
    contenders: Sequence[Contender],
    seeds: Sequence[int],
    search_seed: int,
    trials: int,
    most_trials: int,
    done: Callable[[str], None],
) -> list[Row]:
    """Tune each contender's knob on validation with one seed, then train with every other seed.

    The search tries ``trials`` settings, a factor of √10 apart around the contender's start, and goes on beyond the
    edge as long as the best lies there, up to ``most_trials`` in all. What is not tuned is tried as well at three
    settings, to tell how much it depends on its knob, and then trained at its own.

    Args:
        bench: what to train.
        contenders: by what.
        seeds: of the trainings that count.
        search_seed: of the search's trainings; none of ``seeds``.
        trials: settings tried at first; an odd number.
        most_trials: settings tried at most.
        done: told of every training that ended.
    """
    rows = []
    for contender in contenders:
        found = _search(bench, contender, search_seed, trials, most_trials, done)
        knob = _best(bench, found) if contender.tuned else contender.start
        traces = []
        for seed in seeds:
            traces.append(bench.train(contender, knob, seed))
            done(f"{contender.name}, learning rate {knob:g}, seed {seed}")
        rows.append(Row(contender.name, knob, contender.tuned, found, traces))
    return rows


def _search(
    bench: Bench, contender: Contender, seed: int, trials: int, most_trials: int, done: Callable[[str], None]
) -> dict[float, float]:
    found: dict[int, float] = {}  # by the power of √10

    def try_at(power: int) -> None:
        knob = contender.start * SPACING**power
        trace = bench.train(contender, knob, seed)
        found[power] = math.nan if trace.diverged else trace.val_metric[-1]
        done(f"{contender.name}, trying learning rate {knob:g}")

    half = trials // 2 if contender.tuned else 1
    for power in range(-half, half + 1):
        try_at(power)
    while contender.tuned and len(found) < most_trials:
        best = _best(bench, found)
        if best not in (min(found), max(found)):
            break
        try_at(best - 1 if best == min(found) else best + 1)
    return {contender.start * SPACING**power: found[power] for power in sorted(found)}


def _best(bench: Bench, found: Mapping[Knob, float]) -> Knob:
    best, *others = sorted(found)
    for knob in others:
        if bench.better(found[knob], found[best]):
            best = knob
    return best
