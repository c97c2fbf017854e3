"""A rehearsal of the outer optimizer and its schedule on copies, before a run has a folder.

Optimizers and schedules of any package are taken, so what they can do is found out, not looked up by name: that they
step by one dense gradient, that a checkpoint can hold their state, and that they resume from it to the same bits.
"""

import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from metasgd.errors import UserError, first_line
from metasgd.meta.objectives import Objective
from metasgd.training.outer import OuterProblem

STEPS = 2
"""Before the checkpoint, and again after it."""
FAILURES = (TypeError, ValueError, RuntimeError, AssertionError, AttributeError, LookupError, ArithmeticError)
"""What an optimizer or a schedule of any package may answer to a step that it cannot take."""


def rehearse(outer: OuterProblem, optimizer: Optimizer, max_steps: int) -> None:
    """Step, save, load and step again, on copies; in a line, say what a checkpoint would lose.

    Args:
        outer: makes the optimizers and schedules.
        optimizer: the one to be rehearsed, which has no schedule yet. It is left as it is.
        max_steps: outer steps of the run.

    Raises:
        UserError: the optimizer or the schedule cannot be stepped or saved.
    """
    with torch.random.fork_rng(devices=[]):
        first, second = (_Rehearsal(outer, optimizer, max_steps) for _ in range(2))
        first.step(0)
        saved = first.through_a_checkpoint()
        second.load(saved, first.parameters)
        state = torch.get_rng_state()
        first.step(STEPS)
        torch.set_rng_state(state)
        second.step(STEPS)
    same = (torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))
    if not all(same):
        rank_zero_info(
            f"the state_dict of {type(first.optimizer).__name__} and its schedule is not all of their state: a resumed"
            " run will not end with the same bits"
        )


class _Rehearsal:
    def __init__(self, outer: OuterProblem, like: Optimizer, max_steps: int) -> None:
        groups = [{**group, "params": [_copy(p) for p in group["params"]]} for group in like.param_groups]
        self.optimizer = outer.optimizer(groups)
        self.scheduler = outer.make_scheduler(self.optimizer, max_steps)
        self.name = type(self.optimizer).__name__
        self.parameters: list[Tensor] = [p for group in self.optimizer.param_groups for p in group["params"]]
        validate_length(self.scheduler, max_steps)
        for turn in training_modes(self.optimizer)[:1]:
            turn()

    def step(self, begin: int) -> None:
        for t in range(begin, begin + STEPS):
            for i, p in enumerate(self.parameters):
                p.grad = torch.full_like(p, 1e-3 * (1 + i + t))
            try:
                self.optimizer.step()
            except FAILURES as error:
                raise UserError(
                    f"optimizer is {self.name}, which cannot take an outer step ({first_line(error)}): there is one"
                    " dense gradient for a step, and the loss is not evaluated again. Use one that steps by that, as"
                    " torch.optim.Adam"
                ) from error
            if isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step(1.0)
            elif self.scheduler is not None:
                step_schedule(self.scheduler)

    def through_a_checkpoint(self) -> dict[str, Any]:
        """The state, written and read as a checkpoint is."""
        state = {"optimizer": self.optimizer.state_dict()}
        state |= {"scheduler": self.scheduler.state_dict()} if self.scheduler else {}
        content = io.BytesIO()
        try:
            torch.save(state, content)
            content.seek(0)
            saved: dict[str, Any] = torch.load(content, weights_only=True)
        except (pickle.PickleError, *FAILURES) as error:
            raise UserError(
                f"a checkpoint cannot hold the state of the optimizer {self.name} and its schedule"
                f" {type(self.scheduler).__name__} ({first_line(error)}): it takes numbers, text, tensors, and lists"
                " and dictionaries of these. Use others"
            ) from error
        return saved

    def load(self, saved: dict[str, Any], parameters: list[Tensor]) -> None:
        with torch.no_grad():
            for own, given in zip(self.parameters, parameters, strict=True):
                own.copy_(given)
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])


def _copy(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone())


def validate_length(scheduler: LRScheduler | None, max_steps: int) -> None:
    """Refuse a schedule that ends before the run does, as OneCycleLR may.

    Raises:
        UserError: with both numbers.
    """
    for one in () if scheduler is None else _all_of(scheduler):
        total: int | None = getattr(one, "total_steps", None)
        if total is not None and total < max_steps:
            raise UserError(
                f"scheduler is {type(one).__name__} of {total} steps, but the run takes {max_steps}, which is"
                " max_steps: give it as many"
            )


def monitored_by(scheduler: ReduceLROnPlateau, objective: Objective) -> str:
    """What is logged in validations that this schedule waits for: torch's own waits for ``val/loss``.

    Raises:
        UserError: no validation logs it, or it is to become greater where less is better.
    """
    metric = f"val/{objective.metric}"
    better = {"val/loss": "min", metric: "max" if objective.higher_is_better else "min"}
    monitor: str = getattr(scheduler, "monitor", "val/loss" if scheduler.mode == "min" else metric)
    if better.get(monitor) != scheduler.mode:
        raise UserError(
            f"scheduler is {type(scheduler).__name__} with monitor {monitor} and mode {scheduler.mode}: use one of"
            f" {', '.join(f'{name} with {mode}' for name, mode in better.items())}"
            " (lightning.pytorch.cli.ReduceLROnPlateau has the option monitor)"
        )
    return monitor


def step_schedule(scheduler: LRScheduler) -> None:
    """Move a schedule on by one outer step.

    Raises:
        UserError: it cannot continue.
    """
    try:
        scheduler.step()
    except FAILURES as error:
        raise UserError(
            f"scheduler is {type(scheduler).__name__}, which cannot continue after {scheduler.last_epoch} outer steps"
            f" ({first_line(error)}). Use another, or other settings of it"
        ) from error


def training_modes(optimizer: Optimizer) -> list[Any]:
    """``[train, eval]`` of an optimizer that trains other weights than it evaluates (schedule-free); else nothing."""
    modes = [getattr(optimizer, name, None) for name in ("train", "eval")]
    return modes if all(callable(mode) for mode in modes) else []


def _all_of(scheduler: LRScheduler) -> Iterator[LRScheduler]:
    """A schedule, or those that a ChainedScheduler steps together."""
    parts = getattr(scheduler, "_schedulers", None)
    if parts is None:
        yield scheduler
    elif not hasattr(scheduler, "_milestones"):  # each of SequentialLR's has a part of the run only
        for part in parts:
            yield from _all_of(part)
