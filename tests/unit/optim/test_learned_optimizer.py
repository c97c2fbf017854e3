import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from support.runs import assert_same
from torch.utils.data import DataLoader, TensorDataset

from metasgd.errors import UserError
from metasgd.nn.networks import MLP, Conv4
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.adaptive_rates import InnerAdaGrad, InnerAdam, InnerRMSProp
from metasgd.rules.alfa import ALFA
from metasgd.rules.base import UpdateRule
from metasgd.rules.gradient_descent import Fixed, PerLayerPerStep, PerParameter, PerParameterMomentum, Scalar
from metasgd.rules.meta_curvature import MetaCurvature
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork

EXACT = 1e-12


def regression(dtype=torch.float64):
    torch.manual_seed(0)
    network = MLP(3, [16], 1).to(dtype)
    x = torch.randn(50, 3, dtype=dtype)
    return network, x, x.square().sum(dim=1, keepdim=True)


def train(network, optimizer, x, y, steps, first=0, scheduler=None):
    for s in range(first, first + steps):
        batch = torch.arange(s * 10, s * 10 + 10) % len(x)
        optimizer.zero_grad()
        loss = F.mse_loss(network(x[batch]), y[batch])
        loss.backward()
        optimizer.step(loss=loss) if isinstance(optimizer, LearnedOptimizer) else optimizer.step()
        if scheduler is not None:
            scheduler.step()


def difference(a, b):
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


def lively(rule, network, steps=1):
    """The rule bound to the network, with weights that make it answer differently at every step."""
    rule.bind(dict(network.named_parameters()), steps)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
    return rule


CONSTANT = {
    "optimizer network": (lambda: OptimizerNetwork(0.003, 0.9), 0.003, 0.9),
    "per layer": (lambda: OptimizerNetwork(0.003, 0.9, per_layer=True), 0.003, 0.9),
    "momentum": (lambda: PerParameterMomentum(0.003, momentum=0.9), 0.003, 0.9),
    "meta-sgd": (lambda: PerParameter(0.003), 0.003, 0.0),
    "per step": (lambda: PerLayerPerStep(0.003), 0.003, 0.0),
    "fixed": (lambda: Fixed(0.003, momentum=0.9), 0.003, 0.9),
}


@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_rule_is_sgd_with_momentum(name, scheduled):
    make, lr, momentum = CONSTANT[name]
    ours, x, y = regression()
    theirs = copy.deepcopy(ours)
    optimizers = [
        LearnedOptimizer(ours.parameters(), update_rule=make(), max_update=math.inf),
        torch.optim.SGD(theirs.parameters(), lr=lr, momentum=momentum),
    ]
    for network, optimizer in zip((ours, theirs), optimizers, strict=True):
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40) if scheduled else None
        train(network, optimizer, x, y, 40, scheduler=scheduler)
    assert difference(ours, theirs) < EXACT
    assert difference(ours, regression()[0]) > 0.01


RULES = {
    "optimizer network": lambda: OptimizerNetwork(0.003, 0.9, inputs=["loss", "step", "gradient_norm"]),
    "trend and progress": lambda: OptimizerNetwork(0.003, 0.9, inputs=["loss", "trend", "progress"]),
    "per layer": lambda: OptimizerNetwork(0.003, 0.9, per_layer=True),
    "scaled": lambda: ScaledOptimizerNetwork(0.003, 0.9, inputs=["loss", "trend"], schedule="none", scale_free=False),
    "scale-free": lambda: ScaledOptimizerNetwork(
        0.003,
        0.9,
        inputs=["loss", "gradient_norm", "relative_loss", "relative_trend"],
        schedule="trapezoid",
        scale_free=True,
    ),
    "scheduled": lambda: OptimizerNetwork(0.003, 0.9, inputs=["loss", "relative_trend"], schedule="trapezoid"),
    "meta-sgd": lambda: PerParameter(0.003),
    "momentum": lambda: PerParameterMomentum(0.003),
    "per step": lambda: PerLayerPerStep(0.003),
    "scalar": lambda: Scalar(0.003, momentum=0.5),
    "curvature": lambda: MetaCurvature(0.003),
    "curvature as published": lambda: MetaCurvature(0.003, vectors="elementwise"),
    "alfa": lambda: ALFA(0.003),
    "adam": lambda: InnerAdam(0.003),
    "rmsprop": lambda: InnerRMSProp(0.003),
    "adagrad": lambda: InnerAdaGrad(0.003),
}


@pytest.mark.parametrize("name", RULES)
def test_steps_as_the_rule_itself_does(name):
    network, x, y = regression()
    rule = lively(RULES[name](), network, steps=6)
    params = {n: p.detach().clone() for n, p in network.named_parameters()}
    state = rule.init_state(params)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule, total_steps=6, max_update=math.inf)
    for s in range(6):
        optimizer.zero_grad()
        loss = F.mse_loss(network(x), y)
        loss.backward()
        grads = {n: p.grad.clone() for n, p in network.named_parameters()}
        with torch.no_grad():
            params, state = rule(s, params, grads, loss.detach(), state)
        optimizer.step(loss=loss)
        for n, p in network.named_parameters():
            torch.testing.assert_close(p, params[n], rtol=0, atol=1e-9)  # rates of one are float32


class Sign(UpdateRule):
    """A rule with a step of its own: by the sign of the momentum."""

    reads_loss = False

    def init_state(self, params):
        return {"m." + n: torch.zeros_like(p) for n, p in params.items()}

    def forward(self, step, params, grads, loss, state):
        m = {n: 0.5 * state["m." + n] + grads[n] for n in params}
        moved = {n: p - 0.01 * m[n].sign() for n, p in params.items()}
        return moved, {**{"m." + n: v for n, v in m.items()}, "seen": torch.tensor(step)}


@pytest.mark.parametrize("name", [*RULES, "own step"])
def test_saved_and_loaded_continues_to_the_same_bits(name, tmp_path):
    def fresh():
        network, x, y = regression(torch.float32)
        rule = Sign() if name == "own step" else lively(RULES[name](), network, steps=30)
        optimizer = LearnedOptimizer(network.named_parameters(), update_rule=rule, lr=0.9, total_steps=30)
        return network, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5), x, y

    straight, optimizer, scheduler, x, y = fresh()
    train(straight, optimizer, x, y, 20, scheduler=scheduler)

    network, optimizer, scheduler, x, y = fresh()
    train(network, optimizer, x, y, 9, scheduler=scheduler)
    saved = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    torch.save(saved, tmp_path / "x.pt")
    network, optimizer, scheduler, x, y = fresh()
    with torch.no_grad():
        for p in optimizer.rule.parameters():
            p.mul_(2)  # the state dict holds the rule
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    train(network, optimizer, x, y, 11, first=9, scheduler=scheduler)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), straight.parameters(), strict=True))


def test_a_closure_serves_as_well_as_a_loss():
    ours, x, y = regression()
    theirs = copy.deepcopy(ours)
    rule = lively(OptimizerNetwork(0.003, 0.9), ours)
    by_loss, by_closure = (LearnedOptimizer(n.parameters(), update_rule=rule) for n in (ours, theirs))
    for _ in range(5):
        by_loss.zero_grad()
        loss = F.mse_loss(ours(x), y)
        loss.backward()
        assert by_loss.step(loss=loss) is loss

        def closure():
            by_closure.zero_grad()
            loss = F.mse_loss(theirs(x), y)
            loss.backward()
            return loss

        torch.testing.assert_close(by_closure.step(closure), loss)
    assert difference(ours, theirs) == 0


def test_groups_have_factors_of_their_own():
    network, x, y = regression()
    start = copy.deepcopy(network)
    groups = [{"params": network.body.parameters(), "lr": 0.0}, {"params": network.head.parameters()}]
    train(network, LearnedOptimizer(groups, update_rule=OptimizerNetwork(0.01, 0.5)), x, y, 3)
    assert difference(network.body, start.body) == 0
    assert difference(network.head, start.head) > 0
    optimizer = LearnedOptimizer(network.head.parameters(), update_rule=OptimizerNetwork(0.01, 0.5))
    optimizer.add_param_group({"params": list(network.body.parameters()), "lr": 0.5})
    train(network, optimizer, x, y, 1)
    assert difference(network.body, start.body) > 0


def test_a_parameter_without_gradient_stays():
    network, x, y = regression()
    start = copy.deepcopy(network)
    network.head.requires_grad_(False)
    for rule in (PerParameterMomentum(0.01), OptimizerNetwork(0.01, 0.5, per_layer=True)):
        train(network, LearnedOptimizer(network.parameters(), update_rule=rule), x, y, 2)
    assert difference(network.head, start.head) == 0
    assert difference(network.body, start.body) > 0


def test_per_layer_answers_keep_to_their_tensors_when_some_have_no_gradient():
    network, x, y = regression()
    rule = lively(OptimizerNetwork(0.01, 0.5, per_layer=True), network)
    whole, part = copy.deepcopy(network), copy.deepcopy(network)
    next(part.body.parameters()).requires_grad_(False)
    for net in (whole, part):
        train(net, LearnedOptimizer(net.parameters(), update_rule=rule), x, y, 1)
    torch.testing.assert_close(whole.head.weight, part.head.weight, rtol=0, atol=0)


@pytest.mark.parametrize("rule", [OptimizerNetwork(), Fixed(0.1, momentum=0.9)], ids=["network", "fixed"])
def test_takes_no_more_memory_for_a_step_than_sgd(rule):
    def allocated(make):
        network = Conv4()
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer = make(network.parameters())
        step = (lambda: optimizer.step(loss=1.0)) if isinstance(optimizer, LearnedOptimizer) else optimizer.step
        step()  # which makes the momentum
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            step()
        return sum(max(event.self_cpu_memory_usage, 0) for event in seen.events())

    ours = allocated(lambda params: LearnedOptimizer(params, update_rule=rule))
    theirs = allocated(lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9))
    assert ours < theirs + 4096  # the optimizer network's own activations; the network's weights take 450,000


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (MLP(3, [17], 1), r"those of body.1.weight have the shape \(16, 3\), the parameter \(17, 3\)"),
        (MLP(3, [16, 16], 1), r"the parameter 4 of shape \(1, 16\) has none"),
        (MLP(3, [], 1), "body.1.weight have the shape"),
    ],
)
def test_rates_of_another_architecture_are_refused_by_the_first_tensor(network, said):
    rule = lively(PerParameter(0.1), MLP(3, [16], 1))
    with pytest.raises(UserError, match=said):
        LearnedOptimizer(network.parameters(), update_rule=rule)


def test_named_parameters_are_matched_by_name():
    learned_on = MLP(3, [16], 1)
    rule = lively(PerLayerPerStep(0.1), learned_on)
    LearnedOptimizer(learned_on.head.named_parameters(prefix="head"), update_rule=rule)
    with pytest.raises(UserError, match=r"the parameter weight of shape \(1, 16\) has none"):
        LearnedOptimizer(learned_on.head.named_parameters(), update_rule=rule)
    with pytest.raises(UserError, match="head.bias is not among the parameters"):
        LearnedOptimizer(list(learned_on.parameters())[:-1], update_rule=rule)


def test_the_rates_of_a_class_agnostic_row_serve_all_classes():
    few_shot, supervised = Conv4(head="class_agnostic", width=4), Conv4(n_way=7, head="linear", width=4)
    rule = lively(PerParameterMomentum(0.1), few_shot)
    optimizer = LearnedOptimizer(supervised.parameters(), update_rule=rule)
    before = supervised.head.weight.detach().clone()
    supervised(torch.rand(7, 1, 28, 28)).square().sum().backward()
    optimizer.step()
    moved = before - rule.alpha["head/weight"] * supervised.head.weight.grad
    torch.testing.assert_close(supervised.head.weight, moved)


def test_what_cannot_be_is_refused():
    network, x, y = regression()
    rule = OptimizerNetwork()
    for options, said in (
        ({}, "needs a checkpoint or an update_rule"),
        ({"checkpoint": "x", "update_rule": rule}, "not both"),
        ({"update_rule": rule, "lr": -1.0}, "lr is -1.0"),
        ({"update_rule": rule, "total_steps": 0}, "total_steps is 0"),
        ({"checkpoint": "none.ckpt"}, "none.ckpt"),
    ):
        with pytest.raises(UserError, match=said):
            LearnedOptimizer(network.parameters(), **options)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule)
    F.mse_loss(network(x), y).backward()
    with pytest.raises(UserError, match="reads the loss: call step"):
        optimizer.step()
    with pytest.raises(UserError, match="holds no update rule"):
        optimizer.load_state_dict(torch.optim.SGD(network.parameters(), lr=0.1).state_dict())
    wider = LearnedOptimizer(network.parameters(), update_rule=OptimizerNetwork(hidden=[8]))
    with pytest.raises(UserError, match=r"mlp.0.weight is torch.Size\(\[8, 1\]\) there"):
        optimizer.load_state_dict(wider.state_dict())


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (OptimizerNetwork(0.02, 0.5), "its learning_rate is 0.02 there and 0.01 here"),
        (OptimizerNetwork(0.01, 0.6), "its momentum is 0.6 there and 0.5 here"),
        (OptimizerNetwork(0.01, 0.5, inputs=["step"]), r"its inputs is \['step'\] there and \['loss'\] here"),
        (ScaledOptimizerNetwork(0.01, 0.5), "its class is ScaledOptimizerNetwork there and OptimizerNetwork here"),
    ],
)
def test_a_state_of_a_rule_with_other_options_is_refused_by_name(other, said):
    network, *_ = regression()
    optimizer = LearnedOptimizer(network.parameters(), update_rule=OptimizerNetwork(0.01, 0.5))
    saved = LearnedOptimizer(network.parameters(), update_rule=other).state_dict()
    with pytest.raises(UserError, match=said):
        optimizer.load_state_dict(saved)
    assert not optimizer.is_of_rule(saved)


def test_the_rule_of_a_state_is_known_by_its_options_and_its_weights():
    network, x, y = regression()
    rule = lively(OptimizerNetwork(0.01, 0.5), network)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule)
    train(network, optimizer, x, y, 3)
    saved = optimizer.state_dict()
    assert optimizer.is_of_rule(saved)
    moved = copy.deepcopy(rule)
    with torch.no_grad():
        next(moved.parameters()).add_(1e-6)
    assert not LearnedOptimizer(network.parameters(), update_rule=moved).is_of_rule(saved)

    del saved["rule"]["identity"]  # as before it was saved
    again = LearnedOptimizer(network.parameters(), update_rule=moved)
    again.load_state_dict(saved)
    assert again.n_steps == 3
    assert again.is_of_rule(saved)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("rule", [OptimizerNetwork(0.01, 0.5), ScaledOptimizerNetwork(0.01, 0.5)])
def test_a_loss_that_is_not_finite_changes_nothing(rule, bad):
    network, x, y = regression()
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule)
    train(network, optimizer, x, y, 2)
    before, state = copy.deepcopy(network), copy.deepcopy(optimizer.state_dict())
    for loss in (bad, torch.tensor(bad)):
        with pytest.raises(UserError, match=f"loss is {bad}, .* has changed nothing"):
            optimizer.step(loss=loss)
    assert difference(network, before) == 0
    assert_same(optimizer.state_dict(), state)


def test_a_loss_of_many_numbers_is_refused():
    network, x, y = regression()
    for rule in (OptimizerNetwork(), PerParameter()):
        optimizer = LearnedOptimizer(network.parameters(), update_rule=rule)
        losses = F.mse_loss(network(x), y, reduction="none")
        with pytest.raises(UserError, match=r"tensor of shape \(50, 1\), but step\(loss=loss\) takes one number"):
            optimizer.step(loss=losses)


def test_a_rule_that_reads_no_loss_steps_without_one_or_with_any():
    network, x, y = regression()
    other = copy.deepcopy(network)
    for net, loss in ((network, None), (other, torch.tensor(math.nan))):
        F.mse_loss(net(x), y).backward()
        LearnedOptimizer(net.parameters(), update_rule=PerParameter(0.01)).step(loss=loss)
    assert difference(network, other) == 0
    assert difference(network, regression()[0]) > 0


@pytest.mark.parametrize("name", [*RULES, "own step"])
def test_a_step_without_any_gradient_changes_nothing(name):
    network, x, y = regression()
    rule = Sign() if name == "own step" else lively(RULES[name](), network, steps=6)
    optimizer = LearnedOptimizer(network.parameters(), update_rule=rule, total_steps=6)
    train(network, optimizer, x, y, 2)
    before, state = copy.deepcopy(network), copy.deepcopy(optimizer.state_dict())
    optimizer.zero_grad()
    assert optimizer.step(loss=1.0) == 1.0
    assert difference(network, before) == 0
    assert_same(optimizer.state_dict(), state)


def test_a_bfloat16_network_steps_as_a_float32_one_but_for_rounding():
    network, x, y = regression(torch.bfloat16)
    reference = copy.deepcopy(network).float()
    start = copy.deepcopy(reference)
    train(network, LearnedOptimizer(network.parameters(), update_rule=OptimizerNetwork(0.01, 0.5)), x, y, 1)
    wide = LearnedOptimizer(reference.parameters(), update_rule=OptimizerNetwork(0.01, 0.5))
    train(reference, wide, x.float(), y.float(), 1)
    assert difference(reference, start) > 0.02
    assert difference(network.float(), reference) < 0.01


def test_a_loaded_memory_lies_beside_the_parameters():
    network, x, y = regression(torch.float32)
    rule = ScaledOptimizerNetwork(inputs=["loss", "trend"], scale_free=False)
    trained = LearnedOptimizer(network.parameters(), update_rule=rule)
    train(network, trained, x, y, 2)
    elsewhere = copy.deepcopy(network).to("meta")
    optimizer = LearnedOptimizer(elsewhere.parameters(), update_rule=rule)
    optimizer.load_state_dict(trained.state_dict())
    devices = {name: t.device.type for name, t in optimizer.memory.items()}
    assert {name for name, device in devices.items() if device == "meta"} == {"v.0", "v.1", "v.2", "v.3"}
    assert devices["log_loss_average"] == devices["momentum"] == "cpu"  # with the rule
    assert {optimizer.state[p]["momentum_buffer"].device.type for p in elsewhere.parameters()} == {"meta"}


def test_the_callers_rule_is_left_alone():
    network, x, y = regression()
    rule = OptimizerNetwork()
    train(network, LearnedOptimizer(network.parameters(), update_rule=rule), x, y, 2)
    assert not rule.names
    assert not list(rule.parameters())


def test_copies_and_pickles_are_whole():
    network, x, y = regression()
    optimizer = LearnedOptimizer(network.parameters(), update_rule=OptimizerNetwork(0.01, 0.5))
    train(network, optimizer, x, y, 2)
    copied = pickle.loads(pickle.dumps(optimizer))
    assert copied.n_steps == 2
    assert copied.chosen == optimizer.chosen == {"learning_rate": 0.01, "momentum": 0.5}


class Supervised(LightningModule):
    def __init__(self, network, rule):
        super().__init__()
        self.network, self.rule = network, rule

    def training_step(self, batch):
        x, y = batch
        return F.mse_loss(self.network(x), y)

    def configure_optimizers(self):
        optimizer = LearnedOptimizer(self.network.parameters(), update_rule=self.rule)
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer)]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
def test_in_lightnings_own_loop(tmp_path):
    network, x, y = regression()
    by_hand = copy.deepcopy(network)
    rule = lively(OptimizerNetwork(0.003, 0.9), network)
    loader = DataLoader(TensorDataset(x, y), batch_size=10)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(Supervised(network, rule), loader)
    optimizer = LearnedOptimizer(by_hand.parameters(), update_rule=rule)
    torch.optim.lr_scheduler.LinearLR(optimizer)  # which lowers lr before the first step
    train(by_hand, optimizer, x, y, 5)
    assert trainer.global_step == 5
    assert difference(network, by_hand) < EXACT
