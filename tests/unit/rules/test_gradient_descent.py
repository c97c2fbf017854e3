import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, tasks_of, unrolled

from metasgd.meta.meta_gradient import inner_loop_of, meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.base import key_of
from metasgd.rules.gradient_descent import Fixed, PerBlock, PerLayerPerStep, PerParameter, PerParameterMomentum, Scalar

EXACT = 1e-9


def by_equation(rule):
    """``step`` of ``by_hand.unrolled``: the rule's own equation, with m by plain name."""
    phi = dict(rule.named_parameters())

    def zero(p):
        return {n: torch.zeros_like(t) for n, t in p.items()}

    def per_parameter_momentum(s, p, g, loss, m):
        m = {n: 1 / (1 + torch.exp(-phi["rho." + key_of(n)])) * (m or zero(p))[n] + g[n] for n in p}
        return {n: p[n] - phi["alpha." + key_of(n)] * m[n] for n in p}, m

    def per_layer_per_step(s, p, g, loss, m):
        return {n: p[n] - phi["eta." + key_of(n)][s] * g[n] for n in p}, m

    def per_block(s, p, g, loss, m):
        return {n: p[n] - phi["eta." + key_of(n.rpartition(".")[0])] * g[n] for n in p}, m

    def scalar(s, p, g, loss, m):
        m = {n: rule.momentum * (m or zero(p))[n] + g[n] for n in p}
        return {n: p[n] - phi["eta"] * m[n] for n in p}, m

    return {
        PerParameterMomentum: per_parameter_momentum,
        PerLayerPerStep: per_layer_per_step,
        PerBlock: per_block,
        Scalar: scalar,
        Fixed: scalar,
    }[type(rule)]


RULES = {
    "momentum": lambda: PerParameterMomentum(0.05, momentum=0.4),
    "per_layer_per_step": lambda: PerLayerPerStep(0.05),
    "per_block": lambda: PerBlock(0.05),
    "scalar": lambda: Scalar(0.05, momentum=0.9),
    "fixed": lambda: Fixed(0.05, momentum=0.9),
}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("name", RULES)
def test_rule_as_its_equation_unrolled_by_hand(name, n_tasks, first_order, recompute):
    rule = RULES[name]()
    config = config_of(MLP(1, [8], 1), rule, 4, loss=F.mse_loss)
    tasks = curves_of(n_tasks, 5, 6)
    loss, theta, phi = unrolled(config, tasks, 4, by_equation(rule), first_order)
    theta_now = dict(config.network.named_parameters())
    ours = meta_gradient(config, theta_now, tasks, 4, first_order, recompute)
    closely = {"atol": EXACT, "rtol": EXACT}  # with momentum, losses grow large
    torch.testing.assert_close(ours.query_losses.sum(), loss, **closely)
    torch.testing.assert_close(ours.theta, theta, **closely)
    if name == "fixed":
        assert ours.phi == {}
    else:
        torch.testing.assert_close(ours.phi, phi, **closely)
        assert all(g.abs().max() > 0 for g in ours.phi.values())


@pytest.mark.parametrize("name", ["momentum", "per_layer_per_step"])
def test_rule_on_conv4_as_unrolled_by_hand(name):
    rule = RULES[name]()
    config = config_of(Conv4(width=3, image_size=12), rule, 2)
    tasks = tasks_of(2, 3, 1, 2, (1, 12, 12))
    _, theta, phi = unrolled(config, tasks, 2, by_equation(rule))
    ours = meta_gradient(config, dict(config.network.named_parameters()), tasks, 2)
    assert largest_difference(ours.theta, theta) < EXACT
    assert largest_difference(ours.phi, phi) < EXACT


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rule_class", [Fixed, Scalar])
def test_trajectory_of_torch_sgd(rule_class, momentum):
    config = config_of(MLP(1, [8], 1), rule_class(0.03, momentum=momentum), 6, loss=F.mse_loss)
    with torch.no_grad():
        config.rule.eta.fill_(0.03)
    task = curves_of(1, 5, 6)
    start = dict(config.network.named_parameters())
    steps, final, _ = inner_loop_of(config, start, task).adapt(6)
    optimizer = torch.optim.SGD(config.network.parameters(), lr=config.rule.eta.item(), momentum=momentum)
    for expected in [*[step.params for step in steps[1:]], final]:
        optimizer.zero_grad()
        F.mse_loss(config.network(task.support_x[0]), task.support_y[0]).backward()
        optimizer.step()
        assert largest_difference(dict(config.network.named_parameters()), expected) < 1e-12


def test_steps_beyond_training_use_the_last_rate():
    rule = PerLayerPerStep(0.1)
    rule.bind({"w": torch.zeros(())}, 2)
    with torch.no_grad():
        rule.eta["w"].copy_(torch.tensor([1.0, 2.0]))
    moves = [
        -rule(s, {"w": torch.zeros(())}, {"w": torch.ones(())}, torch.zeros(()), {})[0]["w"].item() for s in range(4)
    ]
    assert moves == [1, 2, 2, 2]


def test_bounds_hold_the_rates_and_are_off_by_default():
    free, held = PerParameter(0.1), PerParameter(0.1, bounds=(0.0, 0.2))
    for rule in (free, held):
        rule.bind({"a.b": torch.zeros(3)}, 1)
        with torch.no_grad():
            rule.alpha["a/b"].copy_(torch.tensor([-1.0, 0.1, 1.0]))
        rule.project()
    assert free.learned_rates()["a.b"].tolist() == pytest.approx([-1, 0.1, 1])
    assert held.learned_rates()["a.b"].tolist() == pytest.approx([0, 0.1, 0.2])


def test_start_drawn_from_a_range_is_one_number_from_the_seed():
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        rule = PerParameter((0.005, 0.1))
        rule.bind({"a": torch.zeros(2), "b": torch.zeros(3)}, 1)
        drawn.append(torch.cat([alpha.flatten() for alpha in rule.parameters()]))
    assert drawn[0].unique().numel() == 1
    assert 0.005 <= drawn[0][0] <= 0.1
    assert drawn[0].equal(drawn[1])
