"""Outer gradients by other means than going back through the inner steps, against dense algebra in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Trainer
from support.by_hand import config_of, tasks_of, unrolled
from torch import nn
from torch.func import functional_call, vmap

from metasgd.data.sinusoid import Sinusoid
from metasgd.errors import UserError
from metasgd.meta.engines import Vmap
from metasgd.meta.estimators import Estimator, conjugate_gradient
from metasgd.meta.meta_gradient import merge_gradients, meta_gradient
from metasgd.nn import MLP, PrototypeHead
from metasgd.rules import Fixed, PerParameter
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

TASKS = tasks_of(2, n_way=3, k_shot=2, n_query=2, shape=(4,))
PULL = 2.0
CLOSE = {"rtol": 1e-9, "atol": 1e-11}


def smooth(head: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), head)


def config(head=None, **options):
    return config_of(smooth(head or nn.Linear(5, 3)), Fixed(0.4), 1, proximal=PULL, **options)


def by(estimator, config, inner_steps, tasks=TASKS, solver_steps=60):
    return Estimator(estimator, solver_steps).gradient(config, config.theta, tasks, inner_steps)


@pytest.mark.parametrize("closed_form", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_proximal_term_is_differentiated(closed_form, first_order):
    one = config_of(MLP(4, [6], 3), PerParameter(0.3), 3, proximal=PULL, closed_form=closed_form)

    def step(s, theta, g, loss, m):
        alpha = dict(one.rule.named_parameters())
        return {n: p - alpha[f"alpha.{n.replace('.', '/')}"] * g[n] for n, p in theta.items()}, m

    _, theta, phi = unrolled(one, TASKS, 3, step, first_order)
    found = meta_gradient(one, one.theta, TASKS, 3, first_order)
    for expected, got in ((theta, found.theta), (phi, found.phi)):
        for n, g in expected.items():
            torch.testing.assert_close(got[n], g, **CLOSE)


def descended(one, b, steps):
    """θ_S of a task by gradient descent, written apart; what does not adapt stays."""
    theta, rate = {n: p.detach().clone() for n, p in one.theta.items()}, float(one.rule.eta)
    for _ in range(steps):
        leaves = {n: p.clone().requires_grad_() for n, p in theta.items()}
        loss = F.cross_entropy(functional_call(one.network, leaves, TASKS.support_x[b]), TASKS.support_y[b])
        for n, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            if n in one.adapted:
                theta[n] = theta[n] - rate * (g + PULL * (theta[n] - one.theta[n].detach()))
    return theta


@pytest.mark.parametrize("adapted", [None, {"0.weight", "2.bias"}])
def test_the_implicit_gradient_is_that_of_a_dense_solve(adapted):
    one = config(**({"adapted": adapted} if adapted else {}))
    names, shapes = list(one.theta), [p.shape for p in one.theta.values()]
    moves = torch.cat([torch.full(p.shape, n in one.adapted).flatten() for n, p in one.theta.items()])
    expected = torch.zeros(len(moves), dtype=torch.float64)
    for b in range(2):

        def loss_at(flat, x, y):
            parts = flat.split([s.numel() for s in shapes])
            weights = {n: t.reshape(s) for n, t, s in zip(names, parts, shapes, strict=True)}
            return F.cross_entropy(functional_call(one.network, weights, x), y)

        solution = torch.cat([p.flatten() for p in descended(one, b, 4).values()]).requires_grad_()
        x, y, qx, qy = (field[b] for field in TASKS[:4])
        hessian = torch.autograd.functional.hessian(lambda flat: loss_at(flat, x, y), solution)  # noqa: B023
        v = torch.autograd.grad(loss_at(solution, qx, qy), solution)[0]
        system = torch.eye(int(moves.sum()), dtype=torch.float64) + hessian[moves][:, moves] / PULL
        solved = torch.linalg.solve(system, v[moves])
        expected[moves] += solved
        expected[~moves] += v[~moves] - hessian[~moves][:, moves] @ solved / PULL
    found = torch.cat([g.flatten() for g in by("implicit", one, 4).theta.values()])
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    ("head", "options"),
    [
        (nn.Linear(5, 3), {}),
        (nn.Linear(5, 3), {"adapted": {"2.weight"}}),
        (PrototypeHead(5), {"adapted": {"0.weight", "0.bias", "2.weight", "2.bias"}}),
    ],
    ids=["linear", "the head alone", "prototypes"],
)
def test_at_the_solution_the_implicit_gradient_is_the_unrolled_one(head, options):
    one = config(head, **options)
    exact = meta_gradient(one, one.theta, TASKS, 70)
    found = by("implicit", one, 70)
    assert any(g.abs().max() > 1e-3 for g in exact.theta.values())
    for n, g in exact.theta.items():
        torch.testing.assert_close(found.theta[n], g, **CLOSE)
    torch.testing.assert_close(found.query_losses, exact.query_losses, **CLOSE)
    torch.testing.assert_close(found.support_losses, exact.support_losses, **CLOSE)


def test_closed_forms_and_stacks_give_the_same():
    one = config_of(MLP(4, [6], 3), PerParameter(0.3), 2, proximal=PULL)
    expected = by("implicit", replace(one, closed_form=False), 2)
    stacked = Vmap().run(lambda own, some: by("implicit", own, 2, some), merge_gradients, one, TASKS, 2)
    alone = merge_gradients(by("implicit", one, 2, TASKS.tasks(b, b + 1)) for b in range(2))
    for found in (by("implicit", one, 2), stacked, alone):
        for n, g in expected.theta.items():
            torch.testing.assert_close(found.theta[n], g, **CLOSE)
        assert all((g == 0).all() for g in found.phi.values())  # the solution does not depend on how it was come to


def test_reptile_moves_towards_where_the_inner_steps_end():
    one = config()
    ends = [descended(one, b, 3) for b in range(2)]
    for n, g in by("reptile", one, 3).theta.items():
        torch.testing.assert_close(g, sum(one.theta[n].detach() - end[n] for end in ends), **CLOSE)


def test_conjugate_gradient_solves_systems_side_by_side():
    torch.manual_seed(1)
    roots = torch.randn(3, 6, 6, dtype=torch.float64)
    systems = torch.eye(6, dtype=torch.float64) + roots @ roots.mT
    b = {"one": torch.randn(3, 4, dtype=torch.float64), "other": torch.randn(3, 2, 1, dtype=torch.float64)}
    b["one"][2], b["other"][2] = 0, 0  # solved before it begins

    def flat(x):
        return torch.cat([x["one"], x["other"].flatten(1)], dim=1)

    def times(x):
        product = vmap(torch.mv)(systems, flat(x))
        return {"one": product[:, :4], "other": product[:, 4:, None]}

    found = flat(conjugate_gradient(times, b, 9, 1))
    torch.testing.assert_close(found, torch.linalg.solve(systems, flat(b)), **CLOSE)


def test_an_outer_step_of_reptile_at_rate_one_goes_to_the_mean_of_the_ends():
    torch.manual_seed(0)
    outer = OuterProblem(lambda p: torch.optim.SGD(p, lr=1.0))
    module = MetaSGDModule(MLP(1, [8], 1), Fixed(0.05), 3, loss="mse", estimator="reptile", outer=outer)
    data = EpisodicDataModule(Sinusoid(), n_way=1, k_shot=5, n_query=5, meta_batch_size=3)
    data.setup("fit")
    tasks = data.samplers["train"].draw(np.arange(3))
    before = {n: p.detach().clone() for n, p in module.network.named_parameters()}
    ends = []
    for x, y in zip(tasks.support_x, tasks.support_y, strict=True):
        network = MLP(1, [8], 1)
        network.load_state_dict(before)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(network(x), y).backward()
            optimizer.step()
        ends.append(dict(network.named_parameters()))
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(max_steps=1, accelerator="cpu", limit_val_batches=0, use_distributed_sampler=False, **off).fit(module, data)
    for n, p in module.network.named_parameters():
        torch.testing.assert_close(p, sum(end[n] for end in ends) / 3, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"estimator": "implicit"}, "model.estimator is implicit, but proximal is 0"),
        ({"estimator": "reptile", "first_order": True}, "model.first_order is true, but estimator reptile goes back"),
        ({"estimator": "implicit", "proximal": 1.0, "solver_steps": 0}, "model.solver_steps is 0: at least 1"),
        ({"proximal": -1.0}, "model.proximal is -1.0: at least 0 is needed"),
        (
            {"proximal": 1.0, "segments": 2, "outer": OuterProblem(freeze_network=True)},
            "model.segments is 2: it takes estimator unrolled or pes, and proximal 0 alone",
        ),
        ({"estimator": "reptile", "outer": OuterProblem(multi_step_until=5)}, "model.estimator is reptile, which does"),
    ],
)
def test_settings_that_mean_nothing_together(options, said):
    with pytest.raises(UserError) as raised:
        MetaSGDModule(MLP(1, [8], 1), PerParameter(0.1), loss="mse", **options)
    assert str(raised.value).startswith(said)
