"""State dicts of optimizers whose parameters come in another order, or are others."""

import copy

import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scheduled_muon import ScheduledMuon


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def optimizer_of(net, backwards=False, rule=ScheduledMuon):
    named = [*net.named_parameters()][:: -1 if backwards else 1]
    return LearnedOptimizer(named, update_rule=rule(), total_steps=20)


def step(net, optimizer):
    optimizer.zero_grad()
    loss = net(torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(5, 6)).square().mean()
    loss.backward()
    optimizer.step(loss)


def by_name(optimizer, saved):
    """What a hook of torch's kind makes of a state dict whose parameters came in another order."""
    [theirs] = saved["param_groups"]
    [own] = optimizer.param_groups
    numbers = dict(zip(theirs["param_names"], theirs["params"], strict=True))
    state = {place: saved["state"][numbers[name]] for place, name in enumerate(own["param_names"])}
    group = {**theirs, "params": list(range(len(state))), "param_names": own["param_names"]}
    return {**saved, "state": state, "param_groups": [group]}


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("rule", [ScheduledMuon, OptimizerNetwork])
def test_named_parameters_in_another_order_resume_to_the_same_bits(rule, hooked):
    net = network()
    optimizer = optimizer_of(net, rule=rule)
    for _ in range(3):
        step(net, optimizer)
    other = copy.deepcopy(net)
    again = optimizer_of(other, backwards=True, rule=rule)
    if hooked:
        again.register_load_state_dict_pre_hook(by_name)
    again.load_state_dict(optimizer.state_dict())
    for name, p in other.named_parameters():
        assert torch.equal(
            again.state[p]["momentum_buffer"], optimizer.state[net.get_parameter(name)]["momentum_buffer"]
        )
    for _ in range(3):
        step(net, optimizer)
        step(other, again)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_other_parameters_are_refused_and_nothing_is_changed():
    net = network()
    optimizer = optimizer_of(net)
    step(net, optimizer)
    other = network()
    numbered = LearnedOptimizer([*other.parameters()][::-1], update_rule=ScheduledMuon(), total_steps=20)
    with pytest.raises(
        UserError, match=r"momentum of number 0 has the shape \(16, 6\), the parameter \(3,\). Give them in"
    ):
        numbered.load_state_dict(optimizer.state_dict())
    assert numbered.n_steps == 0
    assert not numbered.state


def test_a_group_that_does_not_fit_is_not_added():
    net, other = nn.Linear(3, 3), nn.Linear(3, 3)
    rule = PerParameter()
    rule.bind(dict(net.named_parameters()), 5)
    optimizer = LearnedOptimizer(net.named_parameters(), update_rule=rule)
    with pytest.raises(UserError, match="the parameter x.weight of shape"):
        optimizer.add_param_group({"params": [("x.weight", other.weight)]})
    net(torch.ones(1, 3)).sum().backward()
    before = net.bias.detach().clone()
    optimizer.step()
    assert not torch.equal(net.bias, before)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": None}, "lr is None: a finite factor"),
        ({"lr": "a"}, "lr is a: a finite factor"),
        ({"weight_decay": None}, "weight_decay is None"),
        ({"max_update": "a"}, "max_update is a: a number above 0"),
    ],
)
def test_settings_that_are_no_numbers_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        LearnedOptimizer(network().parameters(), update_rule=OptimizerNetwork(), **settings)


@pytest.mark.parametrize("loss", ["a", [1.0], torch.ones(1).numpy()])
def test_a_loss_that_is_no_number_is_refused(loss):
    net = network()
    optimizer = optimizer_of(net)
    net(torch.ones(1, 6, dtype=torch.float64)).sum().backward()
    with pytest.raises(UserError, match="takes one number"):
        optimizer.step(loss=loss)
    assert optimizer.n_steps == 0


@pytest.mark.parametrize("rule", [ScheduledMuon, OptimizerNetwork, PerParameter])
def test_complex_parameters_resume(rule):
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))
    optimizer, again = (LearnedOptimizer([("w", p)], update_rule=rule(), total_steps=5) for _ in range(2))
    loss = p.abs().square().mean()
    loss.backward()
    optimizer.step(loss)
    again.load_state_dict(optimizer.state_dict())
    assert again.n_steps == 1


@pytest.mark.parametrize("rule", [ScheduledMuon, OptimizerNetwork])
def test_layers_that_have_no_shape_yet_are_stepped_once_they_have(rule):
    torch.manual_seed(0)
    net = nn.LazyLinear(2)
    optimizer = LearnedOptimizer(net.named_parameters(), update_rule=rule(), total_steps=5)
    loss = net(torch.rand(3, 4)).square().mean()
    before = net.weight.detach().clone()
    loss.backward()
    optimizer.step(loss)
    assert not torch.equal(net.weight, before)
