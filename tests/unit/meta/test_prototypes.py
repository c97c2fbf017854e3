"""Heads that start from prototypes, against everything written out in one graph of plain functions."""

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import largest_difference, tasks_of
from torch import nn

from metasgd.errors import UserError
from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.closed_form.inner_loop import ClosedFormInnerLoop
from metasgd.meta.evaluate import evaluate
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.meta_gradient import inner_loop_of, meta_gradient
from metasgd.nn.adapting import adapted_names
from metasgd.nn.heads import PrototypeHead
from metasgd.nn.networks import Conv4
from metasgd.rules.base import key_of
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum
from metasgd.rules.optimizer_network import OptimizerNetwork


def dense(one_length=False) -> nn.Module:
    body = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh() if one_length else nn.ReLU(), nn.Linear(5, 4))
    return nn.Sequential(*body, *([nn.RMSNorm(4, eps=1e-5, elementwise_affine=False)] if one_length else []))


class Dense(nn.Module):
    """Not a sequence to the eye of the closed forms where ``wrapped``."""

    def __init__(self, one_length: bool) -> None:
        super().__init__()
        self.body = dense(one_length)
        self.head = PrototypeHead(4, one_length)

    def forward(self, x):
        return self.head(self.body(x))


NETWORKS = {
    "conv": lambda: Conv4(head="prototype", width=3, image_size=8),
    "conv of one length": lambda: Conv4(head="prototype", width=3, image_size=8, features="normalised"),
    "conv of one length, with a bias": lambda: Conv4(
        head="prototype", width=3, image_size=8, features="normalised", prototype_bias=True
    ),
    "dense": lambda: Dense(one_length=False),
    "dense of one length": lambda: Dense(one_length=True),
    "dense, in sequence": lambda: nn.Sequential(dense(), PrototypeHead(4)),
}


def config_of(name: str, rule, adapts="all", **options) -> InnerLoopConfig:
    torch.manual_seed(1)
    network = NETWORKS[name]().double()
    adapted = adapted_names(network, adapts)
    rule.bind({n: p for n, p in network.named_parameters() if n in adapted}, 3)
    rule.double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for n, p in (*network.named_parameters(), *rule.named_parameters()):
            p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
            if n.endswith("log_scale"):
                p.fill_(-0.7)
    return InnerLoopConfig(network, rule, F.cross_entropy, adapted, **options)


def tasks_for(name: str):
    return tasks_of(2, 3, 2, 2, (1, 8, 8) if name.startswith("conv") else (6,))


def unrolled(config: InnerLoopConfig, tasks, inner_steps: int, step, first_order=False, weights=None):
    """The outer loss summed over tasks, and its gradient, through one graph; rows by their equation."""
    theta, phi = dict(config.network.named_parameters()), dict(config.rule.named_parameters())
    prefix = next(n for n, m in config.network.named_modules() if isinstance(m, PrototypeHead))
    head = config.network.get_submodule(prefix)
    weights = weights or [0.0] * (inner_steps - 1) + [1.0]
    total = torch.zeros((), dtype=torch.float64)
    call = torch.func.functional_call

    for b in range(tasks.n_tasks):
        x, y, qx, qy = (field[b] for field in tasks[:4])
        read = []
        hook = head.register_forward_pre_hook(lambda _, inputs, into=read: into.append(inputs[0]))
        call(config.network, theta, (x,))
        hook.remove()
        s, t = theta[f"{prefix}.log_scale"].exp(), theta[f"{prefix}.log_temperature"].exp()
        means = [read[0][y == c].mean(dim=0) for c in range(tasks.n_way)]
        rows = torch.stack([s * mean for mean in means])
        bias = torch.stack([0 * s if head.one_length else -s / 2 * (mean * mean).sum() for mean in means])
        # copies: the inner gradient is the one with the rows held, in which they do not depend on the layers below
        p = {**{n: one.clone() for n, one in theta.items()}, f"{prefix}.weight": rows, f"{prefix}.bias": bias}

        def query_loss(p, x=x, qx=qx, qy=qy, t=t):
            if config.transductive:
                outputs = call(config.network, p, (qx,))
            else:
                together = torch.cat([x, qx])
                for m in config.network.modules():
                    if hasattr(m, "first"):
                        m.first = len(x)
                outputs = call(config.network, p, (together,))[len(x) :]
                for m in config.network.modules():
                    if hasattr(m, "first"):
                        m.first = None
            return config.loss(t * outputs, qy)

        m = {}
        for i in range(inner_steps):
            loss = config.loss(call(config.network, p, (x,)), y)
            names = sorted(config.adapted)
            g = torch.autograd.grad(loss, [p[n] for n in names], create_graph=True)
            grads = {n: one.detach() if first_order else one for n, one in zip(names, g, strict=True)}
            moved, m = step(i, {n: p[n] for n in names}, grads, loss, m)
            p = {**p, **moved}
            if weights[i]:
                total = total + weights[i] * query_loss(p)
        if not inner_steps:
            total = total + query_loss(p)
    rows_of_head = {f"{prefix}.weight", f"{prefix}.bias"}
    inputs = {**{n: p for n, p in theta.items() if n not in rows_of_head}, **{f"phi.{n}": p for n, p in phi.items()}}
    found = dict(zip(inputs, torch.autograd.grad(total, list(inputs.values()), allow_unused=True), strict=True))
    return total.detach(), {n: torch.zeros_like(inputs[n]) if g is None else g for n, g in found.items()}


def found_by(config: InnerLoopConfig, tasks, inner_steps: int, **options):
    theta = dict(config.network.named_parameters())
    pieces = [tasks] if options.pop("stacked", True) else [tasks.tasks(b, b + 1) for b in range(tasks.n_tasks)]
    parts = [meta_gradient(config, theta, piece, inner_steps, **options) for piece in pieces]
    loss = sum(part.query_losses.sum() for part in parts)
    theta_grads = {n: sum(part.theta[n] for part in parts) for n in theta if n not in config.rows}
    phi_grads = {f"phi.{n}": sum(part.phi[n] for part in parts) for n in parts[0].phi}
    return loss, {**theta_grads, **phi_grads}


def meta_sgd(config):
    return lambda i, p, g, loss, m: ({n: p[n] - config.rule.alpha[key_of(n)] * g[n] for n in p}, {})


WITH_STATISTICS = ("conv", "conv of one length", "conv of one length, with a bias")


@pytest.mark.parametrize(
    ("name", "transductive"), [(n, t) for n in NETWORKS for t in (True, False) if t or n in WITH_STATISTICS]
)
@pytest.mark.parametrize("inner_steps", [0, 1, 3])
@pytest.mark.parametrize("stacked", [True, False])
def test_the_meta_gradient_is_that_of_everything_unrolled(name, inner_steps, stacked, transductive):
    for closed_form in (True, False):
        config = config_of(name, PerParameter(0.1), transductive=transductive, closed_form=closed_form)
        loss, grads = unrolled(config, tasks_for(name), inner_steps, meta_sgd(config))
        own_loss, own = found_by(config, tasks_for(name), inner_steps, stacked=stacked)
        assert abs(loss - own_loss) < 1e-9
        assert largest_difference(grads, own) < 1e-9
        assert grads[next(n for n in grads if n.endswith("log_scale"))].abs() > 1e-6
        assert grads[next(n for n in grads if n.endswith("log_temperature"))].abs() > 1e-6


@pytest.mark.parametrize("name", ["conv", "conv of one length"])
def test_both_ways_of_deriving_are_exercised(name):
    for closed_form, kind in ((True, ClosedFormInnerLoop), (False, AutogradInnerLoop)):
        config = config_of(name, PerParameter(0.3), closed_form=closed_form)
        theta = dict(config.network.named_parameters())
        assert type(inner_loop_of(config, theta, tasks_for(name).tasks(0, 1))) is kind


@pytest.mark.parametrize("adapts", ["head", "body"])
@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("name", ["conv", "dense of one length"])
def test_what_does_not_adapt_stays_and_still_learns(adapts, closed_form, name):
    config = config_of(name, PerParameter(0.3), adapts, closed_form=closed_form)
    loss, grads = unrolled(config, tasks_for(name), 2, meta_sgd(config))
    for recompute in (False, True):
        own_loss, own = found_by(config, tasks_for(name), 2, stacked=False, recompute=recompute)
        assert abs(loss - own_loss) < 1e-9
        assert largest_difference(grads, own) < 1e-9


@pytest.mark.parametrize("closed_form", [True, False])
@pytest.mark.parametrize("options", [{"first_order": True}, {"recompute": True}, {"query_weights": [0.2, 0.3, 0.5]}])
def test_of_first_order_recomputed_and_with_losses_on_the_way(closed_form, options):
    config = config_of("conv of one length", PerParameter(0.3), closed_form=closed_form)
    given = {"first_order": options.get("first_order", False), "weights": options.get("query_weights")}
    _, grads = unrolled(config, tasks_for("conv"), 3, meta_sgd(config), **given)
    _, own = found_by(config, tasks_for("conv"), 3, stacked=False, **options)
    assert largest_difference(grads, own) < 1e-9


@pytest.mark.parametrize("rule", [lambda: PerParameterMomentum(0.2), lambda: OptimizerNetwork()])
@pytest.mark.parametrize("closed_form", [True, False])
def test_with_every_kind_of_rule(rule, closed_form):
    config = config_of("conv", rule(), closed_form=closed_form)

    def step(i, p, g, loss, m):
        return config.rule(i, p, g, loss, m or config.rule.init_state(p))

    _, grads = unrolled(config, tasks_for("conv"), 2, step)
    _, own = found_by(config, tasks_for("conv"), 2, stacked=False)
    assert largest_difference(grads, own) < 1e-9


def test_the_first_step_moves_the_layers_below():
    config = config_of("conv", PerParameter(0.1))
    theta = dict(config.network.named_parameters())
    steps, _, _ = inner_loop_of(config, theta, tasks_for("conv").tasks(0, 1)).adapt(1)
    assert all(steps[0].grads[n].abs().max() > 1e-6 for n in config.adapted if n.endswith("weight"))


@pytest.mark.parametrize("name", ["dense", "conv of one length, with a bias"])
def test_without_a_step_it_is_a_prototypical_network(name):
    config = config_of(name, PerParameter(0.1))
    tasks = tasks_for(name)
    outputs = evaluate(config, dict(config.network.named_parameters()), tasks, 0, [0]).outputs[:, 0]
    s, t = config.network.head.log_scale.exp(), config.network.head.log_temperature.exp()
    for b in range(tasks.n_tasks):
        features, queries = config.network.body(tasks.support_x[b]), config.network.body(tasks.query_x[b])
        means = torch.stack([features[tasks.support_y[b] == c].mean(dim=0) for c in range(3)])
        distances = torch.cdist(queries, means).square()
        torch.testing.assert_close(outputs[b].softmax(dim=1), (-s * t / 2 * distances).softmax(dim=1))


@pytest.mark.parametrize("inner_steps", [0, 2])
def test_a_bias_beside_features_of_one_length_counts_from_two_shots_on(inner_steps):
    with_bias, without = (config_of(f"conv of one length{rest}", PerParameter(0.3)) for rest in (", with a bias", ""))
    for k_shot, alike in ((1, True), (3, False)):
        tasks = tasks_of(2, 3, k_shot, 2, (1, 8, 8))
        a, b = (
            evaluate(c, dict(c.network.named_parameters()), tasks, inner_steps, [inner_steps]).outputs.softmax(dim=-1)
            for c in (with_bias, without)
        )
        # features have one length but for the eps of the normalisation
        assert torch.allclose(a, b, rtol=0, atol=1e-4) is alike


def test_a_bias_of_prototypes_needs_a_head_of_prototypes():
    with pytest.raises(UserError, match="prototype_bias is true, but head is linear: use false, or the head prototype"):
        Conv4(head="linear", prototype_bias=True)


def test_classes_in_another_order_give_the_same_with_the_outputs_in_that_order():
    config = config_of("conv", PerParameter(0.3))
    tasks, order = tasks_for("conv"), torch.tensor([2, 0, 1])
    theta = dict(config.network.named_parameters())
    other = tasks._replace(support_y=order[tasks.support_y], query_y=order[tasks.query_y])
    a, b = (evaluate(config, theta, some, 2, [2]).outputs[:, 0] for some in (tasks, other))
    torch.testing.assert_close(a, b[..., order])


def test_unequal_shots_weigh_per_class():
    head = PrototypeHead(2).double()
    features = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    weight, bias = head.rows(torch.zeros((), dtype=torch.float64), features, torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.0], [0.0, 5.0]], dtype=torch.float64))
    torch.testing.assert_close(bias, torch.tensor([-2.0, -12.5], dtype=torch.float64))
