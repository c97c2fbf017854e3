from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, mlp, tasks_of, unrolled
from torch import nn

from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import merge_gradients, meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.base import key_of
from metasgd.rules.gradient_descent import PerParameter

EXACT = 1e-9


def meta_sgd(config):
    alpha = dict(config.rule.named_parameters())

    def step(s, p, g, loss, m):
        return {n: p[n] - alpha["alpha." + key_of(n)] * g[n] for n in p}, m

    return step


def theta_of(config):
    return dict(config.network.named_parameters())


def agree(config, tasks, inner_steps, first_order=False, weights=None, **options):
    loss, theta, phi = unrolled(config, tasks, inner_steps, meta_sgd(config), first_order, weights)
    ours = meta_gradient(config, theta_of(config), tasks, inner_steps, first_order, query_weights=weights, **options)
    assert largest_difference(ours.theta, theta) < EXACT
    assert largest_difference(ours.phi, phi) < EXACT
    if weights is None:
        assert abs(ours.query_losses.sum() - loss) < EXACT
    return ours


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("head", ["linear", "class_agnostic"])
def test_conv4_as_unrolled_by_hand(head, n_tasks, inner_steps, first_order, recompute):
    config = config_of(Conv4(n_way=3, head=head, width=3, image_size=12), PerParameter(0.1), inner_steps)
    agree(config, tasks_of(n_tasks, 3, 2, 3, (1, 12, 12)), inner_steps, first_order, recompute=recompute)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("n_tasks", [1, 4])
def test_mlp_regression_as_unrolled_by_hand(n_tasks, inner_steps, first_order):
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), inner_steps, loss=F.mse_loss)
    agree(config, curves_of(n_tasks, 5, 6), inner_steps, first_order)


@pytest.mark.parametrize("inner_steps", [1, 2])
def test_query_normalised_by_support_statistics_as_by_hand(inner_steps):
    network = Conv4(n_way=3, head="linear", width=3, image_size=12)
    config = config_of(network, PerParameter(0.1), inner_steps, transductive=False)
    agree(config, tasks_of(2, 3, 2, 3, (1, 12, 12)), inner_steps)


@pytest.mark.parametrize("adapted", [("head.weight", "head.bias"), ("body.1.weight", "body.1.bias"), ("body.1.bias",)])
def test_what_does_not_adapt_still_learns(adapted):
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), 2, loss=F.mse_loss, adapted=frozenset(adapted))
    ours = agree(config, curves_of(3, 5, 6), 2)
    assert all(g.abs().max() > 0 for n, g in ours.theta.items() if n.endswith("weight"))


def test_every_inner_steps_query_loss_counts_as_weighted():
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), 3, loss=F.mse_loss)
    agree(config, curves_of(3, 5, 6), 3, weights=[0.2, 0.3, 0.5])


def test_closed_form_of_one_step():
    """dL/dα = −g ⊙ v and dL/dθ = v − H(α ⊙ v), with H formed as a full matrix."""
    config = config_of(MLP(1, [4], 1), PerParameter(0.05), 1, loss=F.mse_loss)
    task = curves_of(1, 5, 6)
    names = list(theta_of(config))
    theta = torch.cat([p.detach().flatten() for p in theta_of(config).values()])
    alpha = torch.cat([config.rule.alpha[key_of(n)].detach().flatten() for n in names])

    def loss(flat, x, y):
        parts = flat.split([p.numel() for p in theta_of(config).values()])
        shaped = [t.reshape(p.shape) for t, p in zip(parts, theta_of(config).values(), strict=True)]
        return F.mse_loss(mlp(dict(zip(names, shaped, strict=True)), x), y)

    def on_support(flat):
        return loss(flat, task.support_x[0], task.support_y[0])

    g = torch.autograd.functional.jacobian(on_support, theta)
    hessian = torch.autograd.functional.hessian(on_support, theta)
    v = torch.autograd.functional.jacobian(lambda flat: loss(flat, task.query_x[0], task.query_y[0]), theta - alpha * g)
    ours = meta_gradient(config, theta_of(config), task, 1)
    d_alpha = torch.cat([ours.phi["alpha." + key_of(n)].flatten() for n in names])
    d_theta = torch.cat([ours.theta[n].flatten() for n in names])
    assert (d_alpha + g * v).abs().max() < EXACT
    assert (d_theta - (v - hessian @ (alpha * v))).abs().max() < EXACT


def test_gradcheck():
    """Against finite differences of the query loss after two steps, in θ and α."""
    config = config_of(MLP(1, [3], 1), PerParameter(0.05), 2, loss=lambda a, b: (a - b).pow(2).mean())
    config.network.body[2] = nn.Tanh()  # ReLU's kinks are no place for finite differences
    task = curves_of(1, 4, 4)
    theta, phi = theta_of(config), dict(config.rule.named_parameters())
    inputs = [*theta.values(), *phi.values()]

    class Outer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *values):
            with torch.no_grad():
                for p, value in zip(inputs, values, strict=True):
                    p.copy_(value)
            found = meta_gradient(config, theta, task, 2)
            ctx.grads = [*(found.theta[n] for n in theta), *(found.phi[n] for n in phi)]
            return found.query_losses.sum()

        @staticmethod
        def backward(ctx, scale):
            return tuple(scale * g for g in ctx.grads)

    at = tuple(p.detach().clone().requires_grad_() for p in inputs)
    assert torch.autograd.gradcheck(Outer.apply, at, eps=1e-6, atol=1e-7)


def test_first_order_leaves_out_the_hessian_and_alpha_still_learns():
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), 1, loss=F.mse_loss)
    exact, first = (meta_gradient(config, theta_of(config), curves_of(2, 5, 6), 1, fo) for fo in (False, True))
    assert largest_difference(exact.phi, first.phi) < EXACT  # one step: α's gradient has no Hessian in it
    assert largest_difference(exact.theta, first.theta) > 1e-3
    assert all(g.abs().max() > 0 for g in first.phi.values())


def test_parts_merge_to_the_whole_in_the_order_given():
    config = config_of(MLP(1, [8], 1), PerParameter(0.05), 2, loss=F.mse_loss)
    tasks = curves_of(5, 5, 6)
    whole = meta_gradient(config, theta_of(config), tasks, 2)
    pieces = (tasks.tasks(0, 2), tasks.tasks(2, 3), tasks.tasks(3, 5))
    merged = merge_gradients(meta_gradient(config, theta_of(config), piece, 2) for piece in pieces)
    assert largest_difference(whole.theta, merged.theta) < EXACT
    assert largest_difference(whole.phi, merged.phi) < EXACT
    torch.testing.assert_close(whole.query_losses, merged.query_losses)
    torch.testing.assert_close(whole.support_losses, merged.support_losses)
    torch.testing.assert_close(whole.outputs, merged.outputs)


class WithSpare(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.spare = nn.Linear(1, 1), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.body(x)


def at_rate(network):
    rule = PerParameter(0.1)
    rule.bind(dict(network.named_parameters()), 2)
    return InnerLoopConfig(network, rule.double(), F.mse_loss, frozenset(n for n, _ in network.named_parameters()))


def test_a_parameter_without_gradient_stays_where_it_is():
    network, tasks = WithSpare().double(), curves_of(2, 3, 3)
    config, without_spare = at_rate(network), at_rate(nn.Sequential(network.body))
    found = meta_gradient(config, theta_of(config), tasks, 2)
    expected = meta_gradient(without_spare, theta_of(without_spare), tasks, 2)
    assert not found.theta["spare"].any()
    assert not found.phi["alpha.spare"].any()
    torch.testing.assert_close(found.theta["body.weight"], expected.theta["0.weight"], rtol=EXACT, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_memory_saved_between_steps_with_recomputation_is_only_the_weights(recompute):
    """Counts the tensors that autograd saves: with recomputation none outlives its own step."""
    config = config_of(MLP(1, [8], 1), PerParameter(0.01), 8, loss=F.mse_loss)
    config = replace(config, closed_form=False)
    alive, peak = set(), 0

    def pack(t):
        nonlocal peak
        box = Box(t)
        alive.add(id(box))
        peak = max(peak, len(alive))
        return box

    class Box:
        def __init__(self, t):
            self.t = t

        def __del__(self):
            alive.discard(id(self))

    def saved(inner_steps):
        nonlocal peak
        alive.clear()
        peak = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.t):
            meta_gradient(config, theta_of(config), curves_of(1, 5, 6), inner_steps, recompute=recompute)
        return peak

    growth = saved(8) / saved(1)
    assert growth < 1.5 if recompute else growth > 3
