"""What optimizers and schedules of any package must be able to do, found out before a run."""

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau as MonitoringPlateau
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from metasgd.errors import UserError
from metasgd.meta.objectives import OBJECTIVES
from metasgd.training.outer import OuterProblem
from metasgd.training.rehearsal import monitored_by, rehearse, step_schedule


def rehearsed(optimizer=Adam, scheduler=None, max_steps=12):
    outer = OuterProblem(optimizer=optimizer, scheduler=scheduler)
    made = outer.make_optimizer(nn.Linear(3, 2), nn.Linear(1, 1))
    before = [p.detach().clone() for group in made.param_groups for p in group["params"]]
    rehearse(outer, made, max_steps)
    after = [p for group in made.param_groups for p in group["params"]]  # a rehearsal is of copies
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


class HiddenCounter(SGD):
    """Its step depends on what its state_dict does not have."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.count
        super().step(closure)


class OwnSettings(SGD):
    """Counts in its settings, as Prodigy does."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        for group in self.param_groups:
            group.setdefault("k", 0)

    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            group["lr"] = 0.1 / group["k"]
        super().step(closure)


class Unsaveable(SGD):
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["of"] = type(self)
        super().step(closure)


SCHEDULES = {
    "one cycle": lambda o: OneCycleLR(o, max_lr=0.01, total_steps=12),
    "cyclic": lambda o: CyclicLR(o, base_lr=0.001, max_lr=0.01, step_size_up=3),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, T_0=3),
    "sequence": lambda o: SequentialLR(o, [ConstantLR(o), OneCycleLR(o, 0.01, total_steps=10)], milestones=[2]),
    "chain": lambda o: ChainedScheduler([ConstantLR(o), OneCycleLR(o, 0.01, total_steps=12)]),
    "plateau": lambda o: ReduceLROnPlateau(o),
    "none": None,
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_of_torch_are_taken_and_resume_to_the_same_bits(schedule, caplog):
    rehearsed(scheduler=SCHEDULES[schedule])
    assert "will not end with the same bits" not in caplog.text


@pytest.mark.parametrize(
    "name", ["Adam", "AdamW", "NAdam", "RAdam", "Adagrad", "Adamax", "Adadelta", "RMSprop", "Rprop"]
)
def test_optimizers_of_torch_are_taken(name, caplog):
    rehearsed(getattr(torch.optim, name))
    assert "will not end with the same bits" not in caplog.text


def test_settings_that_an_optimizer_moves_itself_are_part_of_its_state(caplog):
    rehearsed(OwnSettings)
    assert "will not end with the same bits" not in caplog.text


def test_state_that_a_checkpoint_would_lose_is_said(caplog):
    with caplog.at_level("INFO"):
        rehearsed(HiddenCounter)
    assert "the state_dict of HiddenCounter and its schedule is not all of their state" in caplog.text


@pytest.mark.parametrize(
    ("optimizer", "schedule", "said"),
    [
        (torch.optim.SparseAdam, None, "optimizer is SparseAdam, which cannot take an outer step .*dense gradients"),
        (Unsaveable, None, "a checkpoint cannot hold the state of the optimizer Unsaveable"),
        (
            torch.optim.Adagrad,
            SCHEDULES["one cycle"],
            "scheduler cannot be made for Adagrad: optimizer must support momentum",
        ),
        (Adam, lambda o: OneCycleLR(o, 0.01, total_steps=11), "OneCycleLR of 11 steps, but the run takes 12"),
        (
            Adam,
            lambda o: ChainedScheduler([ConstantLR(o), OneCycleLR(o, 0.01, total_steps=11)]),
            "OneCycleLR of 11 steps, but the run takes 12",
        ),
    ],
)
def test_what_cannot_make_outer_steps_is_refused(optimizer, schedule, said):
    with pytest.raises(UserError, match=said):
        rehearsed(optimizer, schedule)


def test_an_optimizer_that_evaluates_the_loss_again_is_refused():
    outer = OuterProblem(optimizer=torch.optim.LBFGS, freeze_network=True)
    network = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(UserError, match="optimizer is LBFGS, which cannot take an outer step .*closure"):
        rehearse(outer, outer.make_optimizer(network, nn.Linear(1, 1)), 12)


def test_a_schedule_that_ends_within_a_sequence_says_where():
    optimizer = Adam([nn.Parameter(torch.zeros(1))])
    schedule = SCHEDULES["sequence"](optimizer)
    optimizer.step()
    for _ in range(12):
        step_schedule(schedule)
    with pytest.raises(UserError, match="SequentialLR, which cannot continue after .* outer steps .*Tried to step"):
        step_schedule(schedule)


def test_a_plateau_is_one_of_what_validations_log():
    accuracy, error = OBJECTIVES["cross_entropy"], OBJECTIVES["mse"]
    optimizer = Adam([nn.Parameter(torch.zeros(1))])
    assert monitored_by(ReduceLROnPlateau(optimizer), accuracy) == "val/loss"
    assert monitored_by(ReduceLROnPlateau(optimizer, mode="max"), accuracy) == "val/accuracy"
    assert monitored_by(MonitoringPlateau(optimizer, "val/mse"), error) == "val/mse"
    for made, objective in (
        (MonitoringPlateau(optimizer, "val/accuracy"), accuracy),  # its mode is min
        (MonitoringPlateau(optimizer, "train/loss"), accuracy),
        (ReduceLROnPlateau(optimizer, mode="max"), error),
    ):
        with pytest.raises(UserError, match="with monitor .* and mode"):
            monitored_by(made, objective)
