import copy

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, tasks_of
from support.every_engine import validate_exact

from metasgd.errors import UserError
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.alfa import ALFA
from metasgd.rules.base import key_of
from metasgd.rules.gradient_descent import PerLayerPerStep


def by_equation(rule):
    """``step`` of ``by_hand.unrolled``, tensor by tensor."""
    phi = dict(rule.named_parameters())

    def step(s, p, g, loss, m):
        n_tensors = len(p)
        read = torch.stack([t[n].sum() / t[n].numel() for t in (g, p) for n in rule.names])
        inner = (phi["hidden.weight"] @ read + phi["hidden.bias"]).clamp_min(0)
        out = phi["output.weight"] @ inner + phi["output.bias"]
        moved = {}
        for i, n in enumerate(rule.names):
            eta, delta = phi["eta." + key_of(n)], phi["delta." + key_of(n)]
            s = min(s, len(eta) - 1)
            moved[n] = (1 - delta[s] * out[n_tensors + i]) * p[n] - eta[s] * out[i] * g[n]
        return moved, m

    return step


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [2, 3])
def test_every_engine_as_the_equation_unrolled_by_hand(inner_steps, first_order):
    rule = ALFA(0.05, decay=0.1)
    config = config_of(MLP(1, [6], 1), rule, 2, loss=F.mse_loss)  # the third step uses the second's rates
    phi = validate_exact(config, curves_of(3, 5, 6), inner_steps, by_equation(rule), first_order)
    assert all(g.abs().max() > 0 for g in phi.values())


def test_conv4_as_unrolled_by_hand():
    rule = ALFA(0.1)
    config = config_of(Conv4(n_way=3, head="class_agnostic", width=4, image_size=12), rule, 2)
    validate_exact(config, tasks_of(2, 3, 1, 2, (1, 12, 12)), 2, by_equation(rule))


def test_it_starts_as_rates_for_each_tensor_and_step():
    network, tasks, found = MLP(1, [6], 1).double(), curves_of(3, 5, 6), []
    for rule in (ALFA(0.05, decay=0.0), PerLayerPerStep(0.05)):
        config = config_of(network, copy.deepcopy(rule), 3, loss=F.mse_loss)
        rule.bind(config.theta, 3)
        config.rule.load_state_dict(rule.state_dict())  # without the noise that ``config_of`` adds
        theta = {n: torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view_as(p) for n, p in config.theta.items()}
        found.append(meta_gradient(config, theta, tasks, 3))
    assert largest_difference(found[0].theta, found[1].theta) < 1e-12
    for name, g in found[1].phi.items():
        torch.testing.assert_close(found[0].phi[name], g, rtol=0, atol=1e-12)


def test_tasks_at_steps_of_their_own_step_as_each_alone():
    rule = ALFA(0.05, decay=0.2)
    network = MLP(1, [4], 1)
    config_of(network, rule, 3)
    params = {n: torch.stack([p.detach(), 2 * p.detach()]) for n, p in network.named_parameters()}
    grads = {n: p.sin() for n, p in params.items()}
    moved, _ = rule(torch.tensor([0, 4]), params, grads, torch.zeros(2, dtype=torch.float64), {})
    for b, s in enumerate((0, 4)):
        own = ({n: t[b] for n, t in part.items()} for part in (params, grads))
        alone, _ = rule(s, *own, torch.zeros((), dtype=torch.float64), {})
        torch.testing.assert_close({n: t[b] for n, t in moved.items()}, alone, rtol=0, atol=1e-14)


def test_autocast_leaves_the_rates_in_full_precision():
    rule = ALFA(0.1)
    network = MLP(3, [8], 2)
    rule.bind(dict(network.named_parameters()), 1)
    torch.nn.init.normal_(rule.output.weight)
    params = {n: p.detach() for n, p in network.named_parameters()}
    grads = {n: p.sin() for n, p in params.items()}
    plain, _ = rule(0, params, grads, torch.zeros(()), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = rule(0, params, grads, torch.zeros(()), {})
    assert largest_difference(found, plain) == 0


def test_a_tensor_without_gradient_stays_and_counts_as_zero():
    rule = ALFA(0.1)
    network = MLP(3, [8], 2)
    config_of(network, rule, 1)
    params = {n: p.detach().clone() for n, p in network.named_parameters()}
    grads = {n: p.cos() for n, p in params.items() if n.startswith("body")}
    a, d = rule.generate(
        {n: p if n in grads else torch.zeros_like(p) for n, p in params.items()},
        {n: grads.get(n, torch.zeros_like(p)) for n, p in params.items()},
        torch.zeros((), dtype=torch.float64),
    )
    for n, p in network.named_parameters():
        p.grad = grads.get(n)
    LearnedOptimizer(network.named_parameters(), update_rule=rule).step()
    for i, (n, p) in enumerate(network.named_parameters()):
        eta, delta = rule.eta[key_of(n)][0], rule.delta[key_of(n)][0]
        expected = (1 - delta * d[i]) * params[n] - eta * a[i] * grads[n] if n in grads else params[n]
        torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


def test_unusable_options_are_refused():
    with pytest.raises(UserError, match=r"decay is -0.1: a number at least 0 and below 1 is needed"):
        ALFA(decay=-0.1)
