import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, OneCycleLR, StepLR

from metasgd.errors import UserError
from metasgd.runs.checkpoint_schema import MADE_BY_KEY
from metasgd.training.resuming import made_by, validate_resumable, with_fixed_layout


def adam(cls=torch.optim.Adam, **settings):
    return cls([{"params": [nn.Parameter(torch.zeros(2))]}, {"params": [nn.Parameter(torch.zeros(2))]}], **settings)


def checkpoint(optimizer, scheduler=None, began=None):
    return {
        "pytorch-lightning_version": "2",
        "loops": {},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()] if scheduler else [],
        MADE_BY_KEY: began or made_by(optimizer, scheduler),
    }


def falling(optimizer):
    return LambdaLR(optimizer, lambda t: 0.5**t)


def test_the_same_optimizer_resumes_whatever_its_schedule_has_made_of_its_rate():
    optimizer = adam(lr=0.1)
    schedule = falling(optimizer)
    optimizer.step()
    schedule.step()
    content = checkpoint(optimizer, schedule)
    assert content["optimizer_states"][0]["param_groups"][0]["lr"] == 0.05
    own = adam(lr=0.1)
    validate_resumable(Path("x.ckpt"), content, own, falling(own))


@pytest.mark.parametrize(
    ("cls", "settings", "schedule", "said"),
    [
        (torch.optim.NAdam, {}, falling, "its optimizer is Adam, the configured one NAdam"),
        (torch.optim.Adam, {}, None, "its schedule is LambdaLR, the configured one none"),
        (torch.optim.Adam, {}, lambda o: StepLR(o, 3), "its schedule is LambdaLR, the configured one StepLR"),
        (torch.optim.SGD, {}, None, "its optimizer is Adam, the configured one SGD; its schedule is LambdaLR"),
        (torch.optim.Adam, {"lr": 0.2}, falling, "its optimizer has lr 0.1, the configured one 0.2"),
        (torch.optim.Adam, {"betas": (0.0, 0.9)}, falling, "has betas .0.9, 0.999., the configured one .0.0, 0.9."),
    ],
)
def test_what_would_resume_as_something_else_is_refused(cls, settings, schedule, said):
    saved = adam(lr=0.1)
    content = checkpoint(saved, falling(saved))
    own = adam(cls, **({"lr": 0.1} | settings))
    with pytest.raises(UserError, match=f"x.ckpt cannot be trained on as configured: .*{said}"):
        validate_resumable(Path("x.ckpt"), content, own, schedule(own) if schedule else None)


class Counting(torch.optim.SGD):
    """Of another package, where settings may be state."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["momentum"] += 1


def test_an_optimizer_may_count_in_its_settings():
    optimizer = adam(Counting)
    began = made_by(optimizer, None)
    optimizer.step()
    content = checkpoint(optimizer, began=began)
    validate_resumable(Path("x.ckpt"), content, adam(Counting))
    with pytest.raises(UserError, match="its optimizer has momentum 0, the configured one 0.5"):
        validate_resumable(Path("x.ckpt"), content, adam(Counting, momentum=0.5))


def test_what_a_checkpoint_began_with_is_not_known_of_early_ones():
    optimizer = adam(Counting)
    optimizer.step()
    names = {"optimizer": "Counting", "schedule": "none"}
    validate_resumable(Path("x.ckpt"), checkpoint(optimizer, began=names), adam(Counting))


@pytest.mark.parametrize(
    "schedule", [lambda o: OneCycleLR(o, 0.01, total_steps=9), lambda o: CyclicLR(o, 0.001, 0.01, step_size_up=2)]
)
def test_a_schedule_may_move_the_momentum_too(schedule):
    optimizer = adam()
    scheduler = schedule(optimizer)
    began = made_by(optimizer, scheduler)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["betas"] != adam().param_groups[0]["betas"]
    content = checkpoint(optimizer, scheduler, began)
    own = adam()
    validate_resumable(Path("x.ckpt"), content, own, schedule(own))
    other = adam(weight_decay=0.5)
    with pytest.raises(UserError, match="its optimizer has weight_decay 0, the configured one 0.5"):
        validate_resumable(Path("x.ckpt"), content, other, schedule(other))


def test_weights_alone_can_be_evaluated_but_not_trained_on():
    content = {"state_dict": {}, "pytorch-lightning_version": "2"}
    validate_resumable(Path("x.ckpt"), content, None)
    with pytest.raises(UserError, match="holds weights, but not loops, callbacks, optimizer_states, lr_schedulers"):
        validate_resumable(Path("x.ckpt"), content, adam())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("later", [torch.contiguous_format, torch.channels_last])
def test_moments_saved_in_another_layout_resume_as_they_were(later, fused):
    """Conv4's weights were in channels_last once; a fused step goes by the order in memory."""

    def training(layout):
        p = nn.Parameter(torch.linspace(-1, 1, 72).reshape(4, 2, 3, 3).to(memory_format=layout))
        return p, with_fixed_layout(torch.optim.Adam([p], lr=0.1, fused=fused))

    earlier = torch.channels_last if later is torch.contiguous_format else torch.contiguous_format
    first, optimizer = training(earlier)
    first.grad = torch.ones_like(first) * torch.arange(72).reshape(4, 2, 3, 3)
    optimizer.step()
    second, resumed = training(later)
    second.data.copy_(first.data)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert {t.stride() for t in resumed.state[second].values() if t.ndim} == {second.stride()}
    gradient = torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    for p, own in ((first, optimizer), (second, resumed)):
        p.grad = torch.empty_like(p).copy_(gradient)
        own.step()
    torch.testing.assert_close(second, first, rtol=1e-6, atol=1e-7)
