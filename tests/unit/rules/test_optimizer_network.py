import math

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, unrolled

from metasgd.errors import UserError
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import MLP
from metasgd.rules.optimizer_network import OptimizerNetwork

EXACT = 1e-9


def by_equation(rule):
    """The rule's equation for one task, with the MLP written out."""
    w1, b1, w2, b2 = rule.mlp.parameters()

    def step(s, p, g, loss, m):
        read = [(loss.log10() + 1) / 3]
        if "step" in rule.inputs:
            read.append(torch.tensor(math.log(1 + s), dtype=torch.float64))
        if "gradient_norm" in rule.inputs:
            read.append(torch.cat([t.flatten() for t in g.values()]).norm().log10())
        out = w2 @ torch.tanh(w1 @ torch.stack(read) + b1) + b2
        half = len(out) // 2
        own = {n: i if half > 1 else 0 for i, n in enumerate(rule.names if half > 1 else p)}
        eta = {n: rule.learning_rate * torch.exp(out[own[n]]) for n in p}
        mu = {n: 1 / (1 + (1 - rule.momentum) / rule.momentum * torch.exp(-out[half + own[n]])) for n in p}
        m = {n: mu[n] * (m[n] if m else 0) + g[n] for n in p}
        return {n: p[n] - eta[n] * m[n] for n in p}, m

    return step


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("inputs", [("loss",), ("loss", "step", "gradient_norm")])
@pytest.mark.parametrize("per_layer", [False, True])
def test_as_its_equation_unrolled_by_hand(per_layer, inputs, n_tasks, first_order, recompute):
    rule = OptimizerNetwork(0.05, 0.3, hidden=[6], inputs=inputs, per_layer=per_layer)
    config = config_of(MLP(1, [8], 1), rule, 3, loss=F.mse_loss)
    tasks = curves_of(n_tasks, 5, 6)
    loss, theta, phi = unrolled(config, tasks, 3, by_equation(rule), first_order)
    theta_now = dict(config.network.named_parameters())
    ours = meta_gradient(config, theta_now, tasks, 3, first_order, recompute)
    assert abs(ours.query_losses.sum() - loss) < EXACT
    assert largest_difference(ours.theta, theta) < EXACT
    assert largest_difference(ours.phi, phi) < EXACT
    assert all(g.abs().max() > 0 for g in ours.phi.values())


def test_starts_at_the_chosen_pair_whatever_the_loss():
    rule = OptimizerNetwork(0.03, 0.7)
    rule.bind({"w": torch.zeros(2)}, 1)
    losses = torch.logspace(-4, 2, 7)
    eta, mu = rule.choose(rule.read(0, losses, {}))
    torch.testing.assert_close(eta, torch.full((7, 1), 0.03))
    torch.testing.assert_close(mu, torch.full((7, 1), 0.7))


def test_reads_losses_from_1e_minus_4_to_1e2_as_minus_1_to_1():
    rule = OptimizerNetwork()
    rule.bind({"w": torch.zeros(2)}, 1)
    read = rule.read(0, torch.tensor([1e-4, 1e-1, 1e2]), {})[:, 0]
    torch.testing.assert_close(read, torch.tensor([-1.0, 0.0, 1.0]))


def test_answers_stay_in_range_for_any_weights_and_losses():
    torch.manual_seed(0)
    rule = OptimizerNetwork()
    rule.bind({"w": torch.zeros(2)}, 1)
    with torch.no_grad():
        for p in rule.parameters():
            p.normal_(std=2)
    eta, mu = rule.choose(rule.read(0, torch.tensor([0.0, 1e-30, 1.0, 1e30]), {}))
    assert (eta > 0).all()
    assert eta.isfinite().all()
    assert ((mu >= 0) & (mu <= 1)).all()


def test_a_gradient_of_zero_has_a_finite_derivative():
    rule = OptimizerNetwork(inputs=["loss", "gradient_norm"])
    rule.bind({"w": torch.zeros(2)}, 1)
    g = torch.zeros(2, requires_grad=True)
    rule.read(0, torch.tensor(1.0), {"w": g})[1].backward()
    assert g.grad.isfinite().all()


def test_what_was_chosen_is_reported_for_every_task_and_step():
    config = config_of(MLP(1, [8], 1), OptimizerNetwork(0.05, 0.3), 3, loss=F.mse_loss)
    theta = dict(config.network.named_parameters())
    for n_tasks in (1, 4):
        found = meta_gradient(config, theta, curves_of(n_tasks, 5, 6), 3)
        eta, mu = config.rule.choose(config.rule.read(0, found.support_losses, {}))
        torch.testing.assert_close(found.chosen["learning_rate"], eta)
        torch.testing.assert_close(found.chosen["momentum"], mu)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"hidden": []}, "hidden is"),
        ({"inputs": ["step", "loss"]}, "inputs is"),
    ],
)
def test_unusable_options_are_refused(options, said):
    with pytest.raises(UserError, match=said):
        OptimizerNetwork(**options)
