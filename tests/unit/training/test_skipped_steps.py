"""Outer steps that the host does not wait for, on a CPU that is taken for a device that works behind its back."""

import copy

import pytest
import torch
from lightning import Trainer
from support.poisoned import Poisoned
from support.recording import Operations, StandIn

from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.meta.capture import CAPTURES
from metasgd.nn.networks import MLP
from metasgd.rules.gradient_descent import PerParameter
from metasgd.training import device_steps
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.device_steps import fused, runs_ahead
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem
from metasgd.training.skipped_steps import SkippedSteps

CPU = torch.device("cpu")
OPTIMIZERS = {
    "Adam": lambda ps: torch.optim.Adam(ps, lr=0.1, eps=1e-15),
    "AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.1, weight_decay=0.1, amsgrad=True),
    "SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True),
    "Adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.1),
}


@pytest.fixture
def ahead(monkeypatch):
    """The CPU works behind the host's back, and records."""
    capture = StandIn()
    monkeypatch.setattr(device_steps, "AHEAD", ("cpu",))
    monkeypatch.setitem(CAPTURES, "cpu", lambda: capture)
    return capture


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(n)) for n in (3, 5)]


def tensors_of(optimizer, ps):
    state = copy.deepcopy(optimizer.state_dict()["state"])
    return [p.detach().clone() for p in ps], state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fused_steps_are_those_of_the_class_and_the_skipped_change_nothing(name, ahead):
    """Gradients that are finite at steps 0, 2 and 3; counts and states are those of steps that were taken."""
    plain_ps, fused_ps = parameters(), parameters()
    plain = OPTIMIZERS[name]([{"params": plain_ps[:1]}, {"params": plain_ps[1:], "lr": 0.01}])
    made = fused(OPTIMIZERS[name]([{"params": fused_ps[:1]}, {"params": fused_ps[1:], "lr": 0.01}]), CPU)
    assert type(made) is type(plain)
    assert runs_ahead(made, CPU)
    assert not runs_ahead(plain, CPU)
    skipped = SkippedSteps()
    for finite in (True, False, True, True):
        before = tensors_of(made, fused_ps)
        for own, other in zip(plain_ps, fused_ps, strict=True):
            own.grad = torch.linspace(-1, 1, len(own))
            other.grad = own.grad.clone() if finite else torch.full_like(own, torch.nan)
        norm = torch.nn.utils.get_total_norm([p.grad for p in fused_ps])
        with Operations():  # which refuses to wait
            is_finite = skipped.step(made, norm)
        assert bool(is_finite) is finite
        if finite:
            plain.step()
        else:
            torch.testing.assert_close(tensors_of(made, fused_ps), before, rtol=0, atol=0)
    torch.testing.assert_close(fused_ps, plain_ps)
    torch.testing.assert_close(made.state_dict()["state"], plain.state_dict()["state"])
    assert skipped.state_dict() == {"total": 1, "in_a_row": 0}


def test_what_users_chose_stays_and_what_cannot_be_fused_too(ahead):
    for own in ({"foreach": True}, {"capturable": True}, {"differentiable": True}):
        chosen = torch.optim.Adam(parameters(), **own)
        assert fused(chosen, CPU) is chosen
    for chosen in (torch.optim.RAdam(parameters()), torch.optim.Adam([torch.nn.Parameter(torch.ones(2).cfloat())])):
        assert fused(chosen, CPU) is chosen
    assert not fused(torch.optim.Adam(parameters()), torch.device("meta")).param_groups[0]["fused"]


def test_a_saved_state_is_of_no_device(ahead):
    """An unfused optimizer resumes from a fused one's state, and the other way round."""
    made, ps = fused(torch.optim.Adam(of := parameters()), CPU), of
    plain = torch.optim.Adam(parameters())
    for p in ps:
        p.grad = torch.ones_like(p)
    made.step()
    saved = copy.deepcopy(made.state_dict())
    assert {group["fused"] for group in saved["param_groups"]} == {None}
    plain.load_state_dict(saved)
    assert not plain.param_groups[0]["fused"]
    made.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert made.param_groups[0]["fused"]
    made.step()
    assert float(made.state[ps[0]]["step"]) == 2


def fit(steps=6, poisoned=(), every=0, **outer):
    torch.manual_seed(0)
    problem = OuterProblem(gradient_clip_norm=1.0, **outer)
    module = MetaSGDModule(MLP(1, [8], 1), PerParameter(0.02), loss="mse", inner_steps=2, outer=problem)
    source = Poisoned([2 * step + 1 for step in poisoned]) if poisoned else Sinusoid()
    data = EpisodicDataModule(source, n_way=1, k_shot=5, n_query=10, meta_batch_size=2, val_tasks=8)
    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "inference_mode")
    trainer = Trainer(
        max_steps=steps,
        max_epochs=1,
        accelerator="cpu",
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=steps,
        log_every_n_steps=every,
        use_distributed_sampler=False,
        **dict.fromkeys(off, False),
    )
    take = module.training_step
    n_waited = []

    def watched(batch, batch_idx):
        if batch_idx < 2:  # the network is tried, and recorded
            return take(batch, batch_idx)
        with Operations():
            found = take(batch, batch_idx)
        n_waited.append(batch_idx)
        return found

    if every == 0:
        module.training_step = watched
    trainer.fit(module, data)
    assert every or n_waited == list(range(2, steps))
    return module, trainer


@pytest.mark.parametrize("poisoned", [(), (2, 3)])
def test_a_run_that_waits_for_nothing_is_the_one_that_waits(poisoned, ahead, monkeypatch):
    module, _ = fit(poisoned=poisoned)
    assert ahead.n_recorded == 2  # training and validation
    monkeypatch.setattr(device_steps, "AHEAD", ())
    monkeypatch.delitem(CAPTURES, "cpu")
    other, _ = fit(poisoned=poisoned, every=1)
    torch.testing.assert_close(dict(module.named_parameters()), dict(other.named_parameters()))
    assert module.skipped.state_dict() == other.skipped.state_dict() == {"total": len(poisoned), "in_a_row": 0}
    assert int(module.outer_steps) == int(other.outer_steps) == 6 - len(poisoned)


def test_too_many_in_a_row_are_found_when_the_device_is_asked(ahead):
    with pytest.raises(UserError, match=r"not finite 3 times in a row.*last at outer step 5 on the tasks 10 to 11"):
        fit(8, poisoned=(1, 2, 3), every=6, max_skipped_steps=3)


def test_logged_figures_are_those_of_the_step(ahead):
    _, trainer = fit(poisoned=(1,), every=1)
    assert trainer.logged_metrics["outer/skipped_steps"] == 1
    assert trainer.logged_metrics["outer/gradient_norm"].isfinite()
