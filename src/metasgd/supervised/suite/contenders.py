"""The optimizers that are compared: each with one setting for all workloads, but for the two that are tuned on each."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch.optim import Optimizer

from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.supervised.suite.dog import AveragedDoG
from metasgd.supervised.suite.muon import MuonWithAdamW
from metasgd.supervised.trainer import WARM_UP, Candidate, Named, Schedule

Make = Callable[[Named, float, int], Optimizer]
"""The optimizer of named parameters, at a learning rate, for so many steps."""
REFERENCE = "AdamW_tuned"
"""What the others are measured by."""
LEARNED, LOSS_ONLY = "learned", "learned_loss_only"
FIXED_RATE = 1e-3
WEIGHT_DECAY = 0.01
"""AdamW's own default, of all that decay weights by default."""


@dataclass(frozen=True)
class Contender:
    """An optimizer on all workloads.

    Attributes:
        name: as options and tables have it.
        make: the optimizer.
        lr: its learning rate on every workload, or where the search for each one starts.
        schedule: of the learning rate.
        tuned: whether the rate is searched on each workload.
        needs: the package, and what is to be in it.
    """

    name: str
    make: Make
    lr: float
    schedule: Schedule = "constant"
    tuned: bool = False
    needs: tuple[str, str] = ("torch.optim", "AdamW")

    def on(self, workload: str, steps: int) -> Candidate:
        """The candidate on one workload, under a name of its own."""

        def make(named: Named, lr: float) -> Optimizer:
            return self.make(named, lr, steps)

        return Candidate(f"{self.name} on {workload}", make, self.lr, self.tuned, self.schedule)

    def missing(self) -> str | None:
        """Why it cannot be had here, with what to do; None if it can."""
        package, attribute = self.needs
        if find_spec(package) is None:
            return f"{self.name} is left out: it needs the package {package} (pip install 'metasgd[suite]')"
        if not hasattr(import_module(package), attribute):
            version = getattr(import_module(package.partition(".")[0]), "__version__", "this version")
            return f"{self.name} is left out: {package} {version} has no {attribute}"
        return None


def _of(kind: Callable[..., Optimizer], **settings: Any) -> Make:
    """Optimizers of that kind, which need not know how many steps there are."""

    def make(named: Named, lr: float, steps: int) -> Optimizer:  # noqa: ARG001
        return kind(named, lr=lr, **settings)

    return make


def _schedule_free(named: Named, lr: float, steps: int) -> Optimizer:
    return _packaged("schedulefree", "AdamWScheduleFree", named, lr=lr, warmup_steps=math.ceil(WARM_UP * steps))


def _packaged(package: str, name: str, named: Named, **settings: Any) -> Optimizer:
    optimizer: Optimizer = getattr(import_module(package), name)([p for _, p in named], **settings)
    return optimizer


ADAMW = _of(torch.optim.AdamW, weight_decay=WEIGHT_DECAY)
NADAMW = _of(torch.optim.NAdam, weight_decay=WEIGHT_DECAY, decoupled_weight_decay=True)
MOMENTUM = _of(torch.optim.SGD, momentum=0.9)
MUON = _of(MuonWithAdamW, weight_decay=WEIGHT_DECAY)
PRODIGY = _of(partial(_packaged, "prodigyopt", "Prodigy"))
D_ADAPTATION = _of(partial(_packaged, "dadaptation", "DAdaptAdam"), decouple=True)
DOG = _of(AveragedDoG)
OTHERS = (
    Contender(REFERENCE, ADAMW, FIXED_RATE, "warmup_cosine", tuned=True),
    Contender("SGD_tuned", MOMENTUM, 0.03, "warmup_cosine", tuned=True),
    Contender("AdamW", ADAMW, FIXED_RATE, "warmup_cosine"),
    Contender("NAdamW", NADAMW, FIXED_RATE, "warmup_cosine"),
    Contender("ScheduleFree", _schedule_free, 0.0025, needs=("schedulefree", "AdamWScheduleFree")),
    Contender("Prodigy", PRODIGY, 1.0, "cosine", needs=("prodigyopt", "Prodigy")),
    Contender("DAdaptation", D_ADAPTATION, 1.0, "cosine", needs=("dadaptation", "DAdaptAdam")),
    Contender("DoG", DOG, 1.0, needs=("dog", "DoG")),
    Contender("Muon", MUON, FIXED_RATE, "warmup_cosine"),
)
"""At their packages' default rates, and under the schedule that their authors give."""


def learned(name: str, checkpoint: str, trust: bool) -> Contender:
    """A learned optimizer, as it was learned."""

    def make(named: Named, lr: float, steps: int) -> Optimizer:
        return LearnedOptimizer(named, checkpoint=checkpoint, lr=lr, total_steps=steps, trust=trust)

    return Contender(name, make, 1.0)


def all_contenders(checkpoints: Mapping[str, str], trust: bool) -> dict[str, Contender]:
    """By name, the learned ones first.

    Args:
        checkpoints: of the learned optimizers, by name.
        trust: whether classes of any origin are imported for them.
    """
    found: Sequence[Contender] = [*(learned(name, path, trust) for name, path in checkpoints.items()), *OTHERS]
    return {contender.name: contender for contender in found}
