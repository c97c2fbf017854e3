import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, unrolled
from support.scheduled import (
    STEPS,
    by_equation,
    by_singular_values,
    every_kind,
    learned,
    trained,
    trained_by_the_rule,
)
from torch import nn

from metasgd.errors import UserError
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import MLP
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.orthogonal import LARGEST_SIDE, orthogonalised
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.rules.scheduled_muon import SIZE, STRETCH, ScheduledMuon, steps_orthogonally

KINDS_OF_MLP = {
    "body.1.weight": ("matrix", 1),
    "body.1.bias": ("vector", 1),
    "body.3.weight": ("matrix", 5),
    "body.3.bias": ("vector", 1),
    "head.weight": ("head", 4),
    "head.bias": ("vector", 1),
}


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (3, 2, 6)])
def test_an_orthogonal_direction_is_the_polynomial_of_its_singular_values(shape):
    m = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalised(m)
    for one, expected in zip(found.reshape(-1, *shape[-2:]), m.reshape(-1, *shape[-2:]), strict=True):
        torch.testing.assert_close(one, by_singular_values(expected), rtol=1e-9, atol=1e-9)
    assert torch.autograd.gradcheck(orthogonalised, m.requires_grad_())
    singular = torch.linalg.svdvals(found) / math.sqrt(max(shape[-2:]))
    assert singular.max() < 1.25


def test_nothing_has_no_direction_and_a_finite_derivative():
    m = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    found = orthogonalised(m)
    found.sum().backward()
    assert torch.equal(found, torch.zeros_like(found))
    assert torch.equal(m.grad, torch.zeros_like(found))


@pytest.mark.parametrize(("n_tasks", "grown"), [(1, 1.0), (3, 1.0), (3, 6.0)])
def test_as_its_equation_unrolled_by_hand(n_tasks, grown):
    network = MLP(1, [5, 4], 1)
    network.head.weight.data.mul_(grown)
    config = config_of(network, ScheduledMuon(0.05, 0.8, 0.5, hidden=5), STEPS, loss=F.mse_loss)
    config.rule.load_state_dict(learned(network, ScheduledMuon(0.05, 0.8, 0.5, hidden=5)).state_dict())
    assert {n for n, p in network.named_parameters() if steps_orthogonally(config.rule.tensors.of(n), p.shape)} == {
        "body.3.weight"
    }
    tasks = curves_of(n_tasks, 5, 6)
    loss, theta, phi = unrolled(config, tasks, 4, by_equation(config.rule, STEPS, KINDS_OF_MLP, ("body.3.weight",)))
    ours = meta_gradient(config, dict(config.network.named_parameters()), tasks, 4)
    torch.testing.assert_close(ours.query_losses.sum(), loss, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ours.theta, theta, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(ours.phi, phi, rtol=1e-7, atol=1e-9)
    unread = {"log_stretch"}  # nothing here is followed by a normalisation
    assert all((g.abs().max() > 0) == (n not in unread) for n, g in ours.phi.items())


@pytest.mark.parametrize("grown", [1.0, 6.0])
def test_the_optimizer_steps_as_the_rule_of_the_inner_loop(grown):
    network, other = every_kind(), every_kind()
    for one in (network, other):
        one.head.weight.data.mul_(grown)
    rule = learned(network, ScheduledMuon(hidden=5))
    assert [n for n, p in network.named_parameters() if steps_orthogonally(rule.tensors.of(n), p.shape)] == [
        "kernel.weight",
        "matrix.weight",
    ]
    options = {"update_rule": rule, "max_update": math.inf, "total_steps": STEPS}
    trained(network, LearnedOptimizer(network.named_parameters(), **options))
    expected = trained_by_the_rule(other, rule)
    for n, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), expected[n], rtol=0, atol=1e-9)


def test_what_the_optimizer_has_chosen_stands_in_the_order_of_the_parameters():
    network = every_kind()
    rule = learned(network, ScheduledMuon(hidden=5))
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule, total_steps=STEPS)
    params = {n: p.detach().clone() for n, p in network.named_parameters()}
    trained(network, optimizer, steps=1)
    grads = {n: p.grad for n, p in network.named_parameters()}
    _, expected = rule(0, params, grads, torch.tensor(1.0, dtype=torch.float64), rule.init_state(params))
    assert len(set(optimizer.chosen["learning_rate"])) == len(params)
    for name in ("learning_rate", "momentum"):
        assert optimizer.chosen[name] == pytest.approx(expected[name].tolist(), rel=1e-6)


class Normalised(nn.Module):
    """Two layers alike, of which one is followed by a normalisation that makes its length count for nothing."""

    def __init__(self):
        super().__init__()
        self.normalised, self.plain = nn.Linear(6, 5, bias=False), nn.Linear(6, 5, bias=False)
        self.head = nn.Linear(10, 1)

    def forward(self, x):
        first = self.normalised(x)
        first = first / first.square().mean(dim=1, keepdim=True).sqrt()
        return self.head(torch.cat([first.tanh(), self.plain(x).tanh()], dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_tensor_whose_length_counts_for_nothing_takes_longer_steps(dtype):
    torch.manual_seed(0)
    network = Normalised().to(dtype)
    rule = ScheduledMuon(0.01, weight_decay=0.0)
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule, total_steps=20)
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(1), dtype=dtype)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    loss = (network(x) - x[:, :1]).square().mean()
    loss.backward()
    optimizer.step(loss)
    for name, k in (("normalised.weight", STRETCH), ("plain.weight", 1)):
        theta = network.get_parameter(name)
        expected = k * 0.01 * 6**-0.5 * SIZE * by_singular_values(theta.grad)
        torch.testing.assert_close(before[name] - theta.detach(), expected, rtol=1e-3, atol=1e-6)
    assert optimizer.state[network.normalised.weight]["alignment"] < 1e-4
    assert optimizer.state[network.plain.weight]["alignment"] > 0.03


def test_weights_of_zero_are_not_taken_for_normalised_ones():
    theta = nn.Parameter(torch.zeros(4, 6))
    rule = ScheduledMuon(0.01, weight_decay=0.0)
    optimizer = LearnedOptimizer([("w", theta)], update_rule=rule, total_steps=20, max_update=math.inf)
    theta.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    optimizer.step(1.0)
    expected = 0.01 * 6**-0.5 * SIZE * by_singular_values(theta.grad)
    torch.testing.assert_close(theta.detach(), -expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_of_zero_leaves_the_alignment_as_it_was():
    network = nn.Linear(4, 3, bias=False)
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=ScheduledMuon(), total_steps=20)
    found = []
    for gradient in (1.0, 0.0, 0.0):
        network.weight.grad = torch.full_like(network.weight, gradient)
        optimizer.step(1.0)
        found.append(optimizer.state[network.weight]["alignment"])
    assert found[0] > 0
    assert found == [found[0]] * 3


@pytest.mark.parametrize(("steps", "share"), [(20, 1), (500, 1), (2000, 0.5), (50_000, 0.05**0.5)])
def test_longer_runs_have_lower_rates(steps, share):
    theta = nn.Parameter(torch.zeros(3))
    optimizer = LearnedOptimizer([("w", theta)], update_rule=ScheduledMuon(), total_steps=steps)
    theta.grad = torch.ones(3)
    optimizer.step(1.0)
    rule = ScheduledMuon()
    params = {"w": torch.zeros(3)}
    rule.bind(params, steps)
    with torch.no_grad():
        expected, _ = rule(0, params, {"w": torch.ones(3)}, torch.tensor(1.0), rule.init_state(params))
    warm_up = 1 / max(1, 0.05 * steps)
    torch.testing.assert_close(expected["w"], torch.full((3,), -0.13 * 0.1 * share * warm_up), rtol=1e-5, atol=0)
    torch.testing.assert_close(theta.detach(), expected["w"], rtol=1e-5, atol=0)


def test_weights_decay_by_the_rate_whatever_their_inputs():
    decayed = []
    for decay in (0.0, 0.5):
        torch.manual_seed(0)
        network = nn.Linear(100, 3)
        rule = ScheduledMuon(0.01, weight_decay=decay)
        optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule, total_steps=20)
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step(1.0)
        decayed.append([p.detach() for p in network.parameters()])
    torch.manual_seed(0)
    for share, without, with_decay, p in zip((1, 0.3), *decayed, nn.Linear(100, 3).parameters(), strict=True):
        torch.testing.assert_close(without - with_decay, share * 0.5 * 0.01 * p.detach(), rtol=1e-3, atol=1e-7)


def test_a_head_finds_the_mean_of_targets_however_large_and_is_not_decayed_there():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    y = 5 * x[:, :1].sin() - 2000
    losses = {}
    for name in ("head", "last"):
        torch.manual_seed(0)
        network = nn.Sequential(OrderedDict(body=nn.Linear(4, 8), act=nn.Tanh(), **{name: nn.Linear(8, 1)}))
        optimizer = LearnedOptimizer(network.named_parameters(), update_rule=ScheduledMuon(), total_steps=300)
        for _ in range(300):
            optimizer.zero_grad()
            loss = F.mse_loss(network(x), y)
            loss.backward()
            optimizer.step(loss)
        losses[name] = loss.item()
        assert (network[2].bias.item() < -1900) == (name == "head")
    assert losses["head"] < 1 < 100 < losses["last"]  # a name that no head has: the steps of any other layer


@pytest.mark.parametrize(("size", "longer"), [(0.0, 1.0), (0.5, 1.0), (0.7, 1.8), (1.75, 6.0)])
def test_steps_of_a_head_grow_with_it(size, longer):
    moved = {}
    for name in ("head.weight", "body.weight"):
        theta = nn.Parameter(torch.full((3, 16), size))
        rule = ScheduledMuon(weight_decay=0.0)
        rule.log_scale.data.zero_()  # c is 1/√16
        optimizer = LearnedOptimizer([(name, theta)], update_rule=rule, total_steps=100, max_update=math.inf)
        theta.grad = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).sign()
        optimizer.step(1.0)
        moved[name] = (theta.detach() - size).abs()
    usual = 0.13 / 5 / 4  # in the first of five steps up
    torch.testing.assert_close(moved["head.weight"], torch.full((3, 16), longer * usual))
    assert moved["body.weight"].max() < 3 * usual


def test_v_is_one_number_where_steps_are_orthogonal_and_of_an_earlier_version_its_mean():
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(6, 9))
    optimizer = LearnedOptimizer([("w", weights)], update_rule=ScheduledMuon(), total_steps=8)
    gradients = [torch.randn(6, 9) for _ in range(3)]
    for g in gradients:
        weights.grad = g
        optimizer.step(1.0)
    state = optimizer.state[weights]
    shares = [0.01 * 0.99**age for age in (2, 1, 0)]
    expected = sum(share * g.square().mean().item() for share, g in zip(shares, gradients, strict=True))
    assert state["square_average"] == pytest.approx(expected, rel=1e-6)
    assert state["square_average_seen"] == pytest.approx(sum(shares))
    assert [n for n, t in state.items() if isinstance(t, torch.Tensor)] == ["momentum_buffer"]

    v, w = state["square_average"], state["square_average_seen"]
    earlier = optimizer.state_dict()
    earlier["state"][0] |= {"square_average": torch.full((6, 9), v), "square_average_seen": torch.full((6,), w)}
    resumed = LearnedOptimizer([("w", nn.Parameter(weights.clone()))], update_rule=ScheduledMuon(), total_steps=8)
    resumed.load_state_dict(earlier)
    [theta] = resumed.param_groups[0]["params"]
    theta.grad = weights.grad
    for one in (optimizer, resumed):
        one.step(1.0)
    torch.testing.assert_close(theta, weights, rtol=1e-6, atol=1e-7)
    assert resumed.state[theta]["square_average"] == pytest.approx(state["square_average"], rel=1e-6)


def test_too_large_matrices_embeddings_and_heads_step_as_those_of_scheduled_adam():
    shapes = {
        "body.weight": (LARGEST_SIDE + 1, LARGEST_SIDE + 2),
        "embedding.weight": (5, 4),
        "head.weight": (5, 4),
        "bias": (7,),
    }
    moved = []
    adam, muon = ScheduledAdam(0.02, 0.87), ScheduledMuon(0.02, weight_decay=0.0)
    muon.log_scale.data.copy_(adam.log_scale)
    for rule in (adam, muon):
        generator = torch.Generator().manual_seed(0)
        thetas = {n: nn.Parameter(0.3 * torch.randn(shape, generator=generator)) for n, shape in shapes.items()}
        optimizer = LearnedOptimizer(thetas.items(), update_rule=rule, total_steps=10)
        for _ in range(3):
            for p in thetas.values():
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step(1.0)
        moved.append([p.detach() for p in thetas.values()])
    assert all(torch.equal(p, q) for p, q in zip(*moved, strict=True))


@pytest.mark.parametrize(("unit", "zero"), [(1e-6, 0.0), (1e6, 0.0), (1.0, 100.0), (-1.0, 0.0)])
def test_no_unit_and_no_zero_of_the_loss_changes_a_step(unit, zero):
    losses = []
    for scale, shift in ((1.0, 0.0), (unit, zero)):
        network = every_kind()
        rule = learned(network, ScheduledMuon(hidden=5))
        optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule, total_steps=STEPS)
        losses.append(trained(network, optimizer, unit=scale, zero=shift))
    expected = torch.tensor(losses)
    if unit < 0:  # another problem: the check can fail
        assert (expected[0] - expected[1]).abs().max() > 1e-3
    else:
        torch.testing.assert_close(expected[1], expected[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", [ScheduledAdam, ScheduledMuon])
def test_autocast_takes_no_digits_from_a_step(rule):
    params = {"w": torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), "b": torch.ones(6)}
    grads = {n: p.sin() for n, p in params.items()}
    made = learned(nn.ParameterDict(params), rule(hidden=5))
    moved = []
    for enabled in (False, True):
        theta = {n: nn.Parameter(p.clone()) for n, p in params.items()}
        optimizer = LearnedOptimizer(theta.items(), update_rule=made, total_steps=STEPS, max_update=math.inf)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            by_rule, _ = made(0, params, grads, torch.tensor(2.0), made.init_state(params))
            for n, p in theta.items():
                p.grad = grads[n]
            optimizer.step(2.0)
        moved.append([*by_rule.values(), *theta.values()])
    assert all(torch.equal(p, q) for p, q in zip(*moved, strict=True))


def test_channels_last_kernels_step_as_others():
    moved = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        kernel = nn.Conv2d(4, 6, 3).to(memory_format=memory_format)
        optimizer = LearnedOptimizer(kernel.named_parameters(), update_rule=ScheduledMuon(), total_steps=8)
        x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        for _ in range(3):
            optimizer.zero_grad()
            loss = kernel(x).square().mean()
            loss.backward()
            optimizer.step(loss)
        moved.append(kernel.weight.detach().contiguous())
    torch.testing.assert_close(*moved, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"learning_rate": 0.0}, {"momentum": 1.0}, {"weight_decay": -0.1}, {"hidden": 0}])
def test_options_out_of_their_range_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        ScheduledMuon(**options)


def batches(steps, generator):
    centres = torch.randn(10, 32, generator=generator)
    for _ in range(steps):
        y = torch.randint(0, 10, (64,), generator=generator)
        yield centres[y] + 2 * torch.randn(64, 32, generator=generator), y


def test_hidden_layers_within_a_classifier_are_stepped_as_anywhere():
    ends = {}
    for name in ("body", "classifier"):
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
        network = nn.ModuleDict({name: layers})
        optimizer = LearnedOptimizer(network.named_parameters(), update_rule=ScheduledMuon(), total_steps=200)
        for x, y in batches(200, torch.Generator().manual_seed(0)):
            optimizer.zero_grad()
            loss = F.cross_entropy(layers(x), y)
            loss.backward()
            optimizer.step(loss)
        ends[name] = loss.item(), layers[0].bias.abs().max().item(), layers[1].bias.abs().max().item()
    for ours, expected in zip(ends["classifier"], ends["body"], strict=True):
        assert ours < 2 * expected  # a bias before a normalisation grew to 1e9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bias_of_a_head_that_the_loss_does_not_see_does_not_grow(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(OrderedDict(fc=nn.Linear(8, 8, dtype=dtype)))
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=ScheduledMuon(), total_steps=300)
    for _ in range(300):
        z = network(torch.randn(32, 8, dtype=dtype))
        z = z - z.mean(dim=0)
        optimizer.zero_grad()
        loss = (z.T @ z / 32 - torch.eye(8, dtype=dtype)).square().mean()
        loss.backward()
        optimizer.step(loss)
    assert network.fc.bias.abs().max() < 1


def test_what_has_no_gradient_does_not_decay():
    torch.manual_seed(0)
    network = nn.ModuleDict({"used": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=ScheduledMuon(), total_steps=9)
    for _ in range(9):
        optimizer.zero_grad()
        loss = (network.used(torch.ones(1, 3)) + 0 * network.unused(torch.ones(1, 3))).square().sum()
        loss.backward()
        optimizer.step(loss)
    for name, p in network.named_parameters():
        assert torch.equal(p, before[name]) == name.startswith("unused")


def test_an_empty_tensor_says_nothing_of_the_others():
    torch.manual_seed(0)
    ends = []
    for sizes in ({"head.weight": (3, 4), "head.bias": (3,)}, {"head.weight": (3, 4), "head.bias": (3,), "none": (0,)}):
        params = {n: torch.ones(size) for n, size in sizes.items()}
        rule = ScheduledMuon()
        rule.bind(params, 10)
        state = rule.init_state(params)
        with torch.no_grad():
            stepped, _ = rule(3, params, {n: torch.ones_like(p) for n, p in params.items()}, torch.tensor(1.0), state)
        ends.append(stepped["head.bias"])
    torch.testing.assert_close(*ends)
