"""The examples say what the package does: the same gradients, and they run."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import curves_of, largest_difference, unrolled
from support.runs import ROOT

from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import MLP
from metasgd.rules.base import key_of
from metasgd.rules.gradient_descent import PerParameter


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def config_with(rule) -> InnerLoopConfig:
    torch.manual_seed(2)
    network = MLP(1, (5,), 1).double()
    rule.bind(dict(network.named_parameters()), 2)
    rule.double()
    return InnerLoopConfig(network, rule, F.mse_loss, frozenset(dict(network.named_parameters())))


def test_the_loop_from_scratch_has_the_gradient_of_the_package():
    scratch, tasks = example("meta_sgd_from_scratch"), curves_of(3, 5, 10)
    config = config_with(PerParameter(0.05))
    theta = dict(config.network.named_parameters())
    alpha = {n: config.rule.alpha[key_of(n)] for n in theta}
    losses = [
        scratch.query_loss(
            config.network, theta, alpha, (tasks.support_x[b], tasks.support_y[b]), (tasks.query_x[b], tasks.query_y[b])
        )
        for b in range(3)
    ]
    grads = torch.autograd.grad(torch.stack(losses).sum(), [*theta.values(), *alpha.values()])
    own = meta_gradient(config, theta, tasks, inner_steps=1)
    found = dict(zip([*theta, *(f"alpha.{key_of(n)}" for n in alpha)], grads, strict=True))
    assert largest_difference(found, own.theta | own.phi) < 1e-12


def test_the_loop_from_scratch_learns():
    scratch = example("meta_sgd_from_scratch")
    assert scratch.main(outer_steps=60) < scratch.main(outer_steps=0)


def test_a_learned_optimizer_in_a_plain_loop_learns():
    first, last = example("learned_optimizer").main(steps=60)
    assert last < first / 10


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_a_rule_of_ones_own_has_exact_gradients(inner_steps):
    config, tasks = config_with(example("own_update_rule").SmoothSign()), curves_of(3, 5, 10)

    def step(s, p, g, loss, m):
        rho = config.rule.rho
        moved = {n: p[n] - rho[n.replace(".", "/")].exp() * torch.tanh(100 * g[n]) for n in p}
        return moved, m

    loss, theta, phi = unrolled(config, tasks, inner_steps, step)
    own = meta_gradient(config, dict(config.network.named_parameters()), tasks, inner_steps)
    assert abs(loss - own.query_losses.sum()) < 1e-12
    assert largest_difference(theta | phi, own.theta | own.phi) < 1e-9


def test_a_search_with_optuna_finds_a_checkpoint(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    search = example("optuna_search")
    monkeypatch.setattr(search, "STEPS", 2)
    assert (tmp_path / search.main(trials=1).best_trial.user_attrs["checkpoint"]).is_file()
