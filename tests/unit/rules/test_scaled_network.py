import math

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, unrolled

from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import MLP
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.scaled_network import ScaledOptimizerNetwork, scale_of


def by_equation(rule):
    """The rule's equation for one task, with the MLP written out."""
    w1, b1, w2, b2 = rule.mlp.parameters()

    def step(s, p, g, loss, state):
        m, v = state or ({n: torch.zeros_like(t) for n, t in p.items()} for _ in range(2))
        out = w2 @ torch.tanh(w1 @ ((loss.log10() + 1) / 3)[None] + b1) + b2
        eta, mu = rule.learning_rate * torch.exp(out[0]), 1 / (1 + (1 - 0.3) / 0.3 * torch.exp(-out[1]))
        m = {n: mu * m[n] + g[n] for n in p}
        v = {n: 0.99 * v[n] + 0.01 * g[n] ** 2 for n in p}
        root = {n: (v[n] / (1 - 0.99 ** (s + 1)) + 1e-12) ** 0.5 for n in p}
        c = {n: 0.1 if t.ndim == 1 else 1 / math.sqrt(t[0].numel()) for n, t in p.items()}
        return {n: p[n] - eta * c[n] * m[n] / root[n] for n in p}, (m, v)

    return step


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_as_its_equation_unrolled_by_hand(n_tasks, recompute):
    config = config_of(MLP(1, [8], 1), ScaledOptimizerNetwork(0.01, 0.3, hidden=[6]), 4, loss=F.mse_loss)
    tasks = curves_of(n_tasks, 5, 6)
    loss, theta, phi = unrolled(config, tasks, 4, by_equation(config.rule))
    ours = meta_gradient(config, dict(config.network.named_parameters()), tasks, 4, recompute=recompute)
    torch.testing.assert_close(ours.query_losses.sum(), loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.theta, theta, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.phi, phi, rtol=1e-7, atol=1e-9)
    assert all(g.abs().max() > 0 for g in ours.phi.values())


def test_tasks_at_different_steps_of_their_runs_are_stepped_each_by_its_own():
    config = config_of(MLP(1, [8], 1), ScaledOptimizerNetwork(0.01, 0.3), 9, loss=F.mse_loss)
    rule, generator = config.rule, torch.Generator().manual_seed(0)

    def some(*shape):
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    params, grads = ({n: some(2, *p.shape) for n, p in config.network.named_parameters()} for _ in range(2))
    state = {k: some(2, *t.shape) for k, t in rule.init_state(dict(config.network.named_parameters())).items()}
    losses = some(2)
    moved, left = rule(torch.tensor([1, 8]), params, grads, losses, state)
    for b, step in enumerate((1, 8)):
        alone = rule(
            step,
            *({n: t[b] for n, t in part.items()} for part in (params, grads)),
            losses[b],
            {k: t[b] for k, t in state.items()},
        )
        for ours, theirs in zip((moved, left), alone, strict=True):
            for n, t in theirs.items():
                torch.testing.assert_close(ours[n][b], t)


@pytest.mark.parametrize("scale_free", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_a_constant_answer_is_adamw(monkeypatch, scale_free, weight_decay):
    """But for where Adam takes the start at zero out of the momentum, and counts a gradient by 1 - β₁.

    A layer of 100 inputs has one scale for its weights and its bias.
    """
    monkeypatch.setattr("metasgd.rules.scaled_network.SMALLEST", 0.0)
    monkeypatch.setattr("metasgd.optim.steps.RELATIVE_SMALLEST", 0.0)
    torch.manual_seed(0)
    ours = torch.nn.Linear(100, 3).double()
    theirs = torch.nn.Linear(100, 3).double()
    theirs.load_state_dict(ours.state_dict())
    x, y = torch.randn(500, 100).double(), torch.randn(500, 3).double()
    rule = ScaledOptimizerNetwork(0.02, 0.9, scale_free=scale_free)
    learned = LearnedOptimizer(ours.parameters(), update_rule=rule, weight_decay=weight_decay, schedule="none")
    adam = torch.optim.AdamW(theirs.parameters(), betas=(0.9, 0.99), eps=0)
    for s in range(30):
        lr = 0.002 * (1 - 0.9 ** (s + 1)) / (1 - 0.9)
        adam.param_groups[0] |= {"lr": lr, "weight_decay": weight_decay * 0.002 / lr}
        for network, optimizer in ((ours, learned), (theirs, adam)):
            optimizer.zero_grad()
            loss = F.mse_loss(network(x), y)
            loss.backward()
            optimizer.step(lambda loss=loss: loss)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-10)


def test_without_a_gradient_nothing_moves_and_derivatives_are_finite():
    config = config_of(MLP(1, [8], 1), ScaledOptimizerNetwork(0.01, 0.3), 3, loss=F.mse_loss)
    params = {n: p.detach() for n, p in config.network.named_parameters()}
    grads = {n: torch.zeros_like(p, requires_grad=True) for n, p in params.items()}
    moved, _ = config.rule(0, params, grads, torch.tensor(1.0).double(), config.rule.init_state(params))
    assert all(torch.equal(moved[n], p) for n, p in params.items())
    sum(p.sum() for p in moved.values()).backward()
    assert all(g.grad.isfinite().all() for g in grads.values())


def test_a_step_is_relative_to_what_a_layer_starts_with():
    assert scale_of(torch.Size([8, 400])) == pytest.approx(0.05)
    assert scale_of(torch.Size([64, 16, 3, 3])) == pytest.approx(1 / 12)
    assert scale_of(torch.Size([64])) == 0.1


def test_a_parameter_without_a_gradient_for_once_keeps_what_is_known_of_its_size():
    network = torch.nn.Linear(4, 2)
    rule = ScaledOptimizerNetwork(0.01, 0.5, scale_free=False)
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule)
    network(torch.ones(3, 4)).square().sum().backward()
    optimizer.step(loss=1.0)
    known = optimizer.memory["v.bias"].clone()
    network.bias.grad = None
    optimizer.step(loss=1.0)
    assert torch.equal(optimizer.memory["v.bias"], known)
    assert known.abs().max() > 0
