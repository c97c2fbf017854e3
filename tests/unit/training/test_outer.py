import math

import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.rules.gradient_descent import Fixed, Scalar
from metasgd.training.outer import OuterProblem


@pytest.fixture
def network():
    return nn.Linear(2, 1)


def test_one_optimizer_with_settings_of_its_own_for_the_rule(network):
    outer = OuterProblem(lambda ps: torch.optim.Adam(ps, lr=1e-2), rule_settings={"lr": 1e-4})
    theta, phi = outer.make_optimizer(network, Scalar()).param_groups
    assert (theta["lr"], phi["lr"]) == (1e-2, 1e-4)
    assert [p.shape for p in theta["params"]] == [(1, 2), (1,)]
    assert len(phi["params"]) == 1


def test_a_misspelt_setting_is_refused(network):
    outer = OuterProblem(rule_settings={"learning_rate": 1e-4})
    with pytest.raises(UserError, match=r"rule_settings has learning_rate, which Adam does not know: use lr, betas"):
        outer.make_optimizer(network, Scalar())


def test_settings_that_exclude_each_other_are_refused(network):
    said = "model.outer.optimizer cannot be made: `fused` and `foreach` cannot be `True` together"
    with pytest.raises(UserError, match=said):
        OuterProblem(lambda ps: torch.optim.Adam(ps, fused=True, foreach=True)).make_optimizer(network, Scalar())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fused": True, "foreach": True}, "cannot be `True` together"),
        ({"lr": -1}, "Invalid learning rate: -1"),
        ({"lr": "fast"}, "not supported between"),
        ({"lr": math.inf}, "lr is not finite"),
        ({"lr": math.nan}, "Invalid learning rate: nan"),
        ({"betas": [0.9, 1.5]}, "Invalid beta parameter"),
        ({"weight_decay": -0.1}, "Invalid weight_decay"),
    ],
)
def test_settings_that_the_optimizer_would_refuse_for_all_are_refused_for_the_rule(network, settings, said):
    with pytest.raises(UserError, match=f"model.outer.rule_settings is .*which Adam does not take .*{said}"):
        OuterProblem(rule_settings=settings).make_optimizer(network, Scalar())


def test_settings_for_the_rule_are_held_to_those_that_it_shares(network):
    outer = OuterProblem(lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), rule_settings={"nesterov": True})
    assert outer.make_optimizer(network, Scalar()).param_groups[1]["nesterov"]


def test_nothing_to_learn_is_refused(network):
    network.requires_grad_(False)
    with pytest.raises(UserError, match="freeze_network is true, .* and Fixed has nothing"):
        OuterProblem(freeze_network=True).make_optimizer(network, Fixed())
    with pytest.raises(UserError, match="alternate is 3, but Fixed has nothing to learn"):
        OuterProblem(alternate=3).make_optimizer(network, Fixed())


def test_cosine_falls_from_one_to_zero_over_the_run(network):
    outer = OuterProblem(lambda ps: torch.optim.SGD(ps, lr=2.0), scheduler="cosine")
    optimizer = outer.make_optimizer(network, Scalar())
    scheduler = outer.make_scheduler(optimizer, max_steps=8)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [1 + math.cos(math.pi * t / 8) for t in range(8)]
    assert rates == pytest.approx([*expected, 0, 0])


def test_any_scheduler_of_torch(network):
    outer = OuterProblem(scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 2))
    assert isinstance(outer.make_scheduler(outer.make_optimizer(network, Scalar()), 8), torch.optim.lr_scheduler.StepLR)
    assert OuterProblem().make_scheduler(OuterProblem().make_optimizer(network, Scalar()), 8) is None


def test_alternation():
    assert [OuterProblem(alternate=2).learns(t) for t in range(5)] == [
        (True, False),
        (True, False),
        (False, True),
        (False, True),
        (True, False),
    ]
    assert OuterProblem().learns(3) == (True, True)


def test_weights_of_the_multi_step_loss_go_from_equal_to_the_last_alone():
    outer = OuterProblem(multi_step_until=100)
    assert outer.query_weights(0, 4) == pytest.approx([0.25] * 4)
    assert outer.query_weights(50, 4) == pytest.approx([0.125, 0.125, 0.125, 0.625])
    assert outer.query_weights(100, 4) == [0, 0, 0, 1]
    assert outer.query_weights(1000, 4) == [0, 0, 0, 1]
    assert OuterProblem().query_weights(0, 4) == [0, 0, 0, 1]


def test_all_unusable_options_are_named_together():
    with pytest.raises(UserError) as raised:
        OuterProblem(alternate=-1, multi_step_until=-1, max_skipped_steps=0, gradient_clip_norm=0.0)
    assert [p.split(" is ")[0] for p in raised.value.problems] == [
        "alternate",
        "multi_step_until",
        "max_skipped_steps",
        "gradient_clip_norm",
    ]
    with pytest.raises(UserError, match="exclude each other"):
        OuterProblem(alternate=1, freeze_network=True)


@pytest.mark.parametrize("norm", [None, 0.5, 50.0])
def test_the_gradient_is_cut_as_torch_cuts_it(norm):
    ours, torchs = ([torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))] for _ in range(2))
    for p, q in zip(ours, torchs, strict=True):
        p.grad = torch.arange(1.0, 1 + p.numel()).view_as(p)
        q.grad = p.grad.clone()
    without = torch.nn.Parameter(torch.zeros(1))  # frozen, or of a turn that is not its own
    found = OuterProblem(gradient_clip_norm=norm).clip([*ours, without])
    assert found == torch.nn.utils.clip_grad_norm_(torchs, norm or float("inf"))
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(ours, torchs, strict=True))
    assert without.grad is None
