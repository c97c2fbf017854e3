import math

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, tasks_of
from support.every_engine import validate_exact

from metasgd.episode import Episode
from metasgd.errors import UserError
from metasgd.meta.meta_gradient import inner_loop_of, meta_gradient
from metasgd.meta.model import MetaModel
from metasgd.nn.networks import MLP, Conv4
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.base import key_of
from metasgd.rules.gradient_descent import Scalar
from metasgd.rules.meta_curvature import MetaCurvature


def by_equation(rule):
    """``step`` of ``by_hand.unrolled``: one large matrix, ``M_out ⊗ M_in ⊗ M_kernel``, on the gradient as a vector."""
    phi = dict(rule.named_parameters())

    def curvature(n, g):
        inputs = g.shape[1] if g.ndim > 1 else 1
        sizes = (g.shape[0], inputs, math.prod(g.shape[2:]))
        whole = torch.ones(1, 1, dtype=g.dtype)
        for mode, size in zip(("output", "input", "kernel"), sizes, strict=True):
            matrix = phi.get(f"{mode}.{key_of(n)}", torch.eye(size, dtype=g.dtype))
            whole = torch.kron(whole, matrix.diag() if matrix.ndim == 1 else matrix)
        return whole

    def step(s, p, g, loss, m):
        curved = {n: (curvature(n, g[n]) @ g[n].flatten()).reshape(g[n].shape) for n in p}
        return {n: p[n] - phi["eta." + key_of(n)] * curved[n] for n in p}, m

    return step


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("inner_steps", [2, 3])
@pytest.mark.parametrize("learn_rates", [True, False])
def test_every_engine_as_the_equation_unrolled_by_hand(learn_rates, inner_steps, first_order):
    rule = MetaCurvature(0.05, learn_rates)
    config = config_of(MLP(1, [6], 1), rule, inner_steps, loss=F.mse_loss)
    phi = validate_exact(config, curves_of(3, 5, 6), inner_steps, by_equation(rule), first_order)
    assert all(g.abs().max() > 0 for g in phi.values())
    assert any(name.startswith("eta.") for name in phi) is learn_rates


@pytest.mark.parametrize("head", ["linear", "class_agnostic"])
def test_conv4_as_unrolled_by_hand(head):
    rule = MetaCurvature(0.1)
    config = config_of(Conv4(n_way=3, head=head, width=4, image_size=12), rule, 2)
    assert {p.shape[0] for n, p in rule.kernel.items()} == {9}
    validate_exact(config, tasks_of(2, 3, 1, 2, (1, 12, 12)), 2, by_equation(rule))


@pytest.mark.parametrize(
    ("settings", "matrices"),
    [
        ({"vectors": "elementwise"}, {"output": {1, 2}, "input": {2}, "kernel": {2}}),
        ({"vectors": "elementwise", "modes": ["output"]}, {"output": {1, 2}, "input": set(), "kernel": set()}),
        ({"modes": ["kernel"]}, {"output": set(), "input": set(), "kernel": {2}}),
    ],
    ids=lambda given: "-".join(f"{k}={v}" for k, v in given.items() if k in ("modes", "vectors")) or "matrices",
)
def test_simpler_curvatures_as_unrolled_by_hand(settings, matrices):
    rule = MetaCurvature(0.1, **settings)
    config = config_of(Conv4(n_way=3, head="linear", width=4, image_size=12), rule, 2)
    found = {mode: {m.ndim for m in getattr(rule, mode).values()} for mode in matrices}
    assert found == matrices
    phi = validate_exact(config, tasks_of(2, 3, 1, 2, (1, 12, 12)), 2, by_equation(rule))
    assert all(g.abs().max() > 0 for g in phi.values())


def test_unknown_modes_are_refused():
    with pytest.raises(UserError, match=r"modes has depth: any of output, input, kernel are allowed"):
        MetaCurvature(modes=["depth"])
    with pytest.raises(UserError, match="modes is empty"):
        MetaCurvature(modes=[])
    with pytest.raises(UserError, match="vectors is none: matrix and elementwise are allowed"):
        MetaCurvature(vectors="none")


def test_it_starts_as_one_rate():
    tasks, found = tasks_of(2, 3, 1, 2, (1, 12, 12)), []
    for rule in (MetaCurvature(0.3), Scalar(0.3)):
        torch.manual_seed(1)
        model = MetaModel(Conv4(width=4, image_size=12).double(), rule, inner_steps=3)
        found.append(meta_gradient(model.config, model.config.theta, tasks, 3))
    torch.testing.assert_close(found[0].outputs, found[1].outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0].theta, found[1].theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head", ["class_agnostic", "prototype"])
def test_one_rule_serves_any_number_of_ways_in_any_order(head):
    rule = MetaCurvature(0.2)
    network = Conv4(n_way=3, head=head, width=4, image_size=12)
    adapted = frozenset(n for n, _ in network.named_parameters() if not n.startswith("head.log_"))
    config = config_of(network, rule, 2, adapted=adapted)
    assert "head/weight" not in rule.output
    assert "head/weight" in rule.input
    for n_way in (3, 5):
        task = tasks_of(1, n_way, 2, 2, (1, 12, 12))
        order = torch.arange(n_way).flip(0)
        relabelled = Episode(*task)._replace(support_y=order[task.support_y], query_y=order[task.query_y])
        loops = [inner_loop_of(config, config.theta, t) for t in (task, relabelled)]
        outputs = [loop.query(loop.adapt(2)[1])[1] for loop in loops]
        torch.testing.assert_close(outputs[0], outputs[1][:, order], rtol=0, atol=1e-9)


def test_a_learned_optimizer_refuses_matrices_of_another_architecture():
    rule = MetaCurvature(0.1)
    rule.bind(dict(MLP(3, [16], 1).named_parameters()), 1)
    with pytest.raises(UserError, match=r"those of body.1.weight have the shape \(16, 3\), the parameter \(17, 3\)"):
        LearnedOptimizer(MLP(3, [17], 1).parameters(), update_rule=rule)


def test_autocast_leaves_the_products_in_full_precision():
    rule = MetaCurvature(0.1)
    network = MLP(3, [8], 2)
    rule.bind(dict(network.named_parameters()), 1)
    params = {n: p.detach() for n, p in network.named_parameters()}
    grads = {n: p.sin() for n, p in params.items()}
    plain, _ = rule(0, params, grads, torch.zeros(()), {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = rule(0, params, grads, torch.zeros(()), {})
    assert largest_difference(found, plain) == 0
