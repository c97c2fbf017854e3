"""The learned optimizer where training is not one plain loop over dense float32 gradients."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import metasgd.optim.learned_optimizer as module
from metasgd import LearnedOptimizer
from metasgd.errors import UserError
from metasgd.rules import Fixed, OptimizerNetwork, PerParameter, ScaledOptimizerNetwork

NETWORKS = {"plain": OptimizerNetwork, "scaled": ScaledOptimizerNetwork}


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    return network, x.to(dtype), (x @ torch.randn(4, 1)).to(dtype)


def steps(network, optimizer, x, y, n=10, change=lambda loss: loss):
    for s in range(n):
        rows = torch.arange(s * 8, s * 8 + 8) % len(x)
        optimizer.zero_grad()
        loss = change(F.mse_loss(network(x[rows]), y[rows]))
        loss.backward()
        optimizer.step(loss)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def reading(rule):
    """The rule with weights by which its answer depends on all that it reads."""
    rule.bind({"w": torch.zeros(2, dtype=torch.float64)}, 20)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in rule.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return rule


CHANGES = {f"times {c:g}": (lambda loss, c=c: c * loss) for c in (1e-6, 3.0, 1e6)} | {
    f"plus {b:g}": (lambda loss, b=b: loss + b) for b in (100.0, -100.0)
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "inputs", [("loss", "trend", "progress"), ("gradient_norm", "relative_loss", "relative_trend")]
)
def test_no_unit_and_no_zero_of_the_loss_changes_a_scaled_step(inputs, change):
    found = []
    for how in (lambda loss: loss, CHANGES[change]):
        network, x, y = problem()
        rule = reading(ScaledOptimizerNetwork(0.05, 0.8, inputs=inputs))
        steps(network, LearnedOptimizer(network.parameters(), update_rule=rule, total_steps=20), x, y, 20, how)
        found.append(weights(network))
    torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-9)
    assert (found[0] - weights(problem()[0])).abs().max() > 0.05


@pytest.mark.parametrize("change", CHANGES)
def test_no_unit_of_the_loss_makes_the_plain_network_diverge(change):
    network, x, y = problem(torch.float32)
    steps(
        network,
        LearnedOptimizer(network.parameters(), update_rule=OptimizerNetwork(0.3, 0.9)),
        x,
        y,
        200,
        CHANGES[change],
    )
    assert weights(network).isfinite().all()
    assert weights(network).abs().max() < 1000


@pytest.mark.parametrize("rule", [OptimizerNetwork(50.0, 0.9), ScaledOptimizerNetwork(5.0, 0.9), PerParameter(40.0)])
def test_no_update_is_larger_than_its_share_of_the_tensor(rule):
    network, x, y = problem()
    network[2].bias.data.zero_()  # counts as large as a layer's initial ones: 0.1
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule, max_update=0.2)
    for s in range(6):
        before = copy.deepcopy(network)
        steps(network, optimizer, x, y, 1, lambda loss, s=s: loss * 10**s)
        for p, q in zip(network.parameters(), before.parameters(), strict=True):
            floor = (p.shape[1] ** -0.5 if p.ndim > 1 else 0.1) * math.sqrt(p.numel())
            assert (p - q).norm() <= 0.2 * max(q.norm().item(), floor) * (1 + 1e-9)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=OptimizerNetwork(1e-6, 0.5), max_update=0.2)
    before = copy.deepcopy(network)
    steps(network, optimizer, x, y, 1)
    g = [p.grad for p in network.parameters()]
    for p, q, d in zip(network.parameters(), before.parameters(), g, strict=True):
        torch.testing.assert_close(p, q - 1e-6 * d, rtol=0, atol=1e-15)  # a small one is what it was


def test_a_layer_that_comes_late_starts_as_all_did():
    network, x, y = problem()
    rule = ScaledOptimizerNetwork(0.01, 0.5)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule, max_update=math.inf)
    network[2].requires_grad_(False)
    steps(network, optimizer, x, y, 100)
    network[2].requires_grad_(True)
    before = network[2].weight.detach().clone()
    steps(network, optimizer, x, y, 1)
    step = 0.01 * 8**-0.5  # η c sign(g), as at anyone's first step
    torch.testing.assert_close((network[2].weight - before).abs(), torch.full((1, 8), step).double(), rtol=1e-3, atol=0)
    assert [optimizer.state[p]["step"] for p in network.parameters()] == [101, 101, 1, 1]


def test_where_no_gradient_has_been_a_scaled_step_changes_nothing():
    network, x, y = problem(torch.float32)
    before = weights(network)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=ScaledOptimizerNetwork(0.05, 0.8))
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(1.0)
    assert torch.equal(weights(network), before)
    steps(network, optimizer, x, y, 3)
    assert weights(network).isfinite().all()


def test_tensors_of_any_type_and_shape_step_as_the_rule_has_it_and_so_do_copies():
    stream = torch.Generator().manual_seed(0)
    shapes, types = [(), (3,), (2, 3, 2), (4, 3), (0, 2), (2, 0)], [torch.float64, torch.float32]
    made = [torch.randn(shape, generator=stream, dtype=torch.float64).to(d) for shape in shapes for d in types]
    params = [nn.Parameter(t) for t in made]
    rule = reading(ScaledOptimizerNetwork(0.05, 0.8, inputs=["gradient_norm"], scale_free=True))
    optimizer = LearnedOptimizer(params, update_rule=rule, max_update=math.inf)
    theta = {str(i): t.double().clone() for i, t in enumerate(made)}
    state = rule.init_state(theta)
    for s in range(4):
        grads = {str(i): torch.randn(t.shape, generator=stream).to(t) for i, t in enumerate(made)}
        if s == 1:
            grads["6"][1] = 0  # a row without
        for p, g in zip(params, grads.values(), strict=True):
            p.grad = g
        with torch.no_grad():
            theta, state = rule(s, theta, {n: g.double() for n, g in grads.items()}, torch.tensor(1.0).double(), state)
        optimizer.step(1.0)
        if s == 2:
            copied = copy.deepcopy(optimizer)
    for p, expected in zip(params, theta.values(), strict=True):
        torch.testing.assert_close(p.double(), expected, rtol=1e-5, atol=1e-6)
    of_copy = [p for group in copied.param_groups for p in group["params"]]
    for p, g in zip(of_copy, grads.values(), strict=True):
        p.grad = g
    copied.step(1.0)
    assert all(torch.equal(p, q) for p, q in zip(params, of_copy, strict=True))


@pytest.mark.parametrize("sparse", [False, True])
def test_an_embeddings_row_that_comes_late_or_rarely_steps_as_others_do(sparse):
    table = nn.Embedding(3, 4, sparse=sparse).double()
    optimizer = LearnedOptimizer(
        table.parameters(), update_rule=ScaledOptimizerNetwork(0.01, 0.001), max_update=math.inf
    )
    step = 0.01 * 4**-0.5
    for s in range(200):
        before = table.weight.detach().clone()
        optimizer.zero_grad()
        rows = torch.tensor([0] + [1] * (s % 50 == 49))
        table(rows).sum().backward()
        optimizer.step(1.0)
        if s % 50 == 49:
            torch.testing.assert_close((before - table.weight)[1], torch.full((4,), step).double(), rtol=1e-2, atol=0)
    assert torch.equal(table.weight[2], before[2])


@pytest.mark.parametrize("rule", [*NETWORKS.values(), PerParameter])
def test_a_sparse_gradient_is_as_good_as_a_dense_one(rule):
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(5, 3, sparse=sparse)
        optimizer = LearnedOptimizer(table.parameters(), update_rule=rule(0.1))
        for s in range(6):
            optimizer.zero_grad()
            loss = table(torch.tensor([s % 5, 1, 1])).square().sum()
            loss.backward()
            optimizer.step(loss)
        found.append(table.weight.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rule", NETWORKS)
def test_half_precision_is_computed_in_float32(rule, dtype):
    halves, *_ = problem(torch.float32)
    optimizer = LearnedOptimizer(halves.to(dtype).parameters(), update_rule=NETWORKS[rule](0.02, 0.5))
    wide = copy.deepcopy(halves).float()
    reference = LearnedOptimizer(wide.parameters(), update_rule=NETWORKS[rule](0.02, 0.5))
    for s in range(5):
        for p, q in zip(halves.parameters(), wide.parameters(), strict=True):
            q.data.copy_(p)  # what half precision can hold
            p.grad = torch.full_like(p, 1e-4 * (s + 1))  # its square is nothing in float16
            q.grad = p.grad.float()
        optimizer.step(1.0)
        reference.step(1.0)
    for p, q in zip(halves.parameters(), wide.parameters(), strict=True):
        assert torch.equal(p, q.to(dtype))
        assert torch.equal(optimizer.state[p]["momentum_buffer"], reference.state[q]["momentum_buffer"])
    again = LearnedOptimizer(halves.parameters(), update_rule=NETWORKS[rule](0.02, 0.5))
    again.load_state_dict(optimizer.state_dict())
    for p in halves.parameters():
        assert torch.equal(again.state[p]["momentum_buffer"], optimizer.state[p]["momentum_buffer"])


@pytest.mark.parametrize("rule", [OptimizerNetwork(0.01, 0.9), Fixed(0.01, momentum=0.9)])
def test_complex_parameters_step_as_by_sgd(rule):
    start = torch.randn(3, 2, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    optimizers = (
        LearnedOptimizer([ours], update_rule=rule, max_update=math.inf),
        torch.optim.SGD([theirs], lr=0.01, momentum=0.9),
    )
    for p, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(5):
            optimizer.zero_grad()
            loss = (p - 1j).abs().pow(4).sum()
            loss.backward()
            optimizer.step(loss) if p is ours else optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_complex_parameters_are_scaled_as_adam_scales_them(monkeypatch):
    monkeypatch.setattr("metasgd.optim.steps.RELATIVE_SMALLEST", 0.0)
    start = torch.randn(6, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    learned = LearnedOptimizer([ours], update_rule=ScaledOptimizerNetwork(0.02, 0.9))
    adam = torch.optim.Adam([theirs], betas=(0.9, 0.99), eps=0)
    for s in range(10):
        adam.param_groups[0]["lr"] = 0.002 * (1 - 0.9 ** (s + 1)) / (1 - 0.9)
        for p, optimizer in ((ours, learned), (theirs, adam)):
            optimizer.zero_grad()
            loss = (p - 1j).abs().pow(4).sum()
            loss.backward()
            optimizer.step(lambda loss=loss: loss)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", [*NETWORKS.values(), PerParameter])
def test_a_gradient_that_is_not_finite_leaves_the_step_out_and_is_counted(rule, bad, caplog):
    network, x, y = problem()
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule(0.01))
    steps(network, optimizer, x, y, 3)
    before, state = weights(network), copy.deepcopy(optimizer.state_dict())
    for _ in range(2):
        network[0].weight.grad[0, 0] = bad
        optimizer.step(1.0)
    assert torch.equal(weights(network), before)
    assert (optimizer.n_steps, optimizer.skipped_steps) == (3, 2)
    assert len([r for r in caplog.records if "not finite" in r.message]) == 1
    for p, held in zip(network.parameters(), state["state"].values(), strict=True):
        for key, value in held.items():
            assert torch.equal(torch.as_tensor(optimizer.state[p][key]), torch.as_tensor(value))
    again = LearnedOptimizer(network.parameters(), update_rule=rule(0.01))
    again.load_state_dict(optimizer.state_dict())
    assert again.skipped_steps == 2


@pytest.mark.parametrize("rule", [lambda: OptimizerNetwork(0.01, 0.5), lambda: PerParameter(0.01), lambda: Fixed(0.01)])
@pytest.mark.parametrize("schedule", ["OneCycleLR", "CyclicLR"])
def test_schedules_that_move_the_momentum_step_as_with_sgd(rule, schedule):
    ours, x, y = problem()
    theirs = copy.deepcopy(ours)
    optimizers = (
        LearnedOptimizer(ours.parameters(), update_rule=rule(), max_update=math.inf),
        torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.5),
    )
    for network, optimizer, unit in zip((ours, theirs), optimizers, (1.0, 0.01), strict=True):
        if schedule == "OneCycleLR":
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2 * unit, total_steps=20)
        else:
            scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, base_lr=unit, max_lr=2 * unit, step_size_up=4)
        for s in range(20):
            rows = torch.arange(s * 8, s * 8 + 8) % len(x)
            optimizer.zero_grad()
            loss = F.mse_loss(network(x[rows]), y[rows])
            loss.backward()
            optimizer.step(loss) if network is ours else optimizer.step()
            scheduler.step() if s < 19 else None
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-12)


def test_groups_have_a_weight_decay_of_their_own():
    network, *_ = problem()
    start = copy.deepcopy(network)
    groups = [{"params": network[0].parameters(), "weight_decay": 0.5}, {"params": network[2].parameters()}]
    optimizer = LearnedOptimizer(groups, update_rule=OptimizerNetwork(0.01, 0.5), lr=2.0)
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(1.0)
    torch.testing.assert_close(network[0].weight, start[0].weight * (1 - 2 * 0.01 * 0.5), rtol=0, atol=1e-15)
    assert torch.equal(network[2].weight, start[2].weight)


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            {"weight_decai": 0.1},
            "weight_decai, which is no setting: use some of lr, weight_decay, momentum, max_update",
        ),
        ({"lr": math.nan}, "lr is nan"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"max_update": 0.0}, "max_update is 0.0"),
    ],
)
def test_a_group_with_what_is_no_setting_is_refused(group, said):
    network, *_ = problem()
    with pytest.raises(UserError, match=said):
        LearnedOptimizer([{"params": network.parameters(), **group}], update_rule=OptimizerNetwork())
    optimizer = LearnedOptimizer(network[0].parameters(), update_rule=OptimizerNetwork())
    with pytest.raises(UserError, match=said):
        optimizer.add_param_group({"params": network[2].parameters(), **group})
    assert len(optimizer.param_groups) == 1


def test_names_of_wrapped_networks_find_their_rates():
    network, *_ = problem()
    rule = PerParameter(0.1)
    rule.bind(dict(network.named_parameters()), 1)
    with torch.no_grad():
        rule.alpha["2/bias"].fill_(0.7)
    named = [(f"module._orig_mod.{n}", p) for n, p in network.named_parameters()]
    optimizer = LearnedOptimizer(named[::-1], update_rule=rule)
    before = network[2].bias.detach().clone()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(before - network[2].bias, torch.full((1,), 0.7).double())


def test_the_schedule_rises_and_falls_to_zero_and_says_once_that_it_is_over(caplog):
    p = nn.Parameter(torch.zeros(100, dtype=torch.float64))
    optimizer = LearnedOptimizer([p], update_rule=ScaledOptimizerNetwork(0.1, 1e-9), total_steps=100)
    moved = []
    for _ in range(103):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        optimizer.step(1.0)
        moved.append((before - p)[0].item() / (0.1 * 0.1))
    expected = [min(1, (s + 1) / 5, (100 - s) / 30) for s in range(100)] + [0] * 3
    assert moved == pytest.approx(expected, rel=1e-6)
    assert len([r for r in caplog.records if "total_steps" in r.message]) == 1


def test_a_state_dict_from_before_the_settings_resumes_as_it_was_meant():
    network, x, y = problem()
    old = {"schedule": "none", "scale_free": False, "max_update": math.inf}
    rule = reading(ScaledOptimizerNetwork(0.02, 0.9, inputs=["loss", "progress"]))
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule, total_steps=20, **old)
    steps(network, optimizer, x, y, 5)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        del group["weight_decay"], group["momentum"], group["max_update"]
    for name in ("settings", "skipped_steps"):
        del saved["rule"][name]
    del saved["rule"]["identity"]["schedule"], saved["rule"]["identity"]["scale_free"]
    other = copy.deepcopy(network)
    resumed = LearnedOptimizer(other.parameters(), update_rule=rule, total_steps=20)
    assert resumed.is_of_rule(saved)
    resumed.load_state_dict(saved)
    for net, opt in ((network, optimizer), (other, resumed)):
        steps(net, opt, x, y, 5)
    assert torch.equal(weights(network), weights(other))


def test_a_gradient_scaler_scales_and_skips():
    ours, x, y = problem(torch.float32)
    theirs = copy.deepcopy(ours)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plain, scaled = (LearnedOptimizer(n.parameters(), update_rule=OptimizerNetwork(0.02, 0.5)) for n in (ours, theirs))
    steps(ours, plain, x, y, 3)
    for s in range(3):
        rows = torch.arange(s * 8, s * 8 + 8)
        scaled.zero_grad()
        loss = F.mse_loss(theirs(x[rows]), y[rows])
        scaler.scale(loss).backward()
        scaler.step(scaled, loss=loss)
        scaler.update()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=0, atol=1e-6)
    scaler.scale(F.mse_loss(theirs(x), y)).backward()
    theirs[0].weight.grad.fill_(math.inf)
    scaler.step(scaled, loss=1.0)
    assert scaled.n_steps == 3


class InLightning(LightningModule):
    def __init__(self, network, none_at=()):
        super().__init__()
        self.network, self.none_at, self.losses = network, none_at, []

    def training_step(self, batch, batch_idx):
        loss = F.mse_loss(self.network(batch[0]), batch[1])
        if batch_idx in self.none_at:
            return None
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        self.made = LearnedOptimizer(self.network.named_parameters(), update_rule=OptimizerNetwork(0.02, 0.5))
        return self.made


QUIETLY = {
    "max_epochs": 1,
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def fitted(monkeypatch, none_at=(), **options):
    """The losses of the batches, and those that the rule read."""
    network, x, y = problem(torch.float32)
    read, original = [], module.told
    monkeypatch.setattr(module, "told", lambda rule, loss: read.append(original(rule, loss)) or read[-1])
    trainer = Trainer(**QUIETLY, **options)
    learner = InLightning(network, none_at)
    trainer.fit(learner, DataLoader(TensorDataset(x, y), batch_size=8))
    return learner.losses, read


@pytest.mark.parametrize("n", [1, 3, 4])
def test_lightning_accumulates_and_the_rule_reads_the_mean(monkeypatch, n):
    losses, read = fitted(monkeypatch, accumulate_grad_batches=n)
    assert len(losses) == 8
    means = [sum(part) / len(part) for part in (losses[i : i + n] for i in range(0, 8, n))]
    assert read == pytest.approx(means, rel=1e-6)


def test_lightning_scales_and_the_rule_reads_the_loss(monkeypatch):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    losses, read = fitted(monkeypatch, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], accumulate_grad_batches=2)
    assert read == pytest.approx([(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)], rel=1e-2)


@pytest.mark.filterwarnings("ignore:.*training_step.*returned .None.*")
def test_lightning_leaves_a_batch_out(monkeypatch):
    losses, read = fitted(monkeypatch, none_at=(2, 3))
    assert read == pytest.approx(losses, rel=1e-6)
    assert len(losses) == 6
    losses, read = fitted(monkeypatch, none_at=(1, 2), accumulate_grad_batches=2)
    assert read == pytest.approx([losses[0], losses[1], *((losses[i] + losses[i + 1]) / 2 for i in (2, 4))], rel=1e-6)


def test_the_losses_of_a_training_in_lightning_end_with_it():
    network, x, y = problem(torch.float32)
    learner = InLightning(network)
    Trainer(**QUIETLY).fit(learner, DataLoader(TensorDataset(x, y), batch_size=8))
    network.zero_grad()
    F.mse_loss(network(x), y).backward()
    with pytest.raises(UserError, match="reads the loss"):
        learner.made.step()
    assert learner.made.step(lambda: 7.0) == 7.0
