"""The engine that records its work: buffers, keys and comparisons, with a stand-in for CUDA graphs; float64."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, tasks_of
from support.recording import StandIn
from torch import nn

from metasgd.errors import UserError
from metasgd.meta import graph
from metasgd.meta.engines import Loop, Vmap
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.graph import Graph
from metasgd.nn.networks import MLP, BatchNorm2d, Conv4
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum
from metasgd.rules.optimizer_network import OptimizerNetwork


def unroll_of(config, engine):
    runs = FullUnroll(config.network, "vmap", "auto")
    runs.engine = engine
    return runs


@pytest.fixture
def recorded():
    """An engine, and the stand-in that it records with."""
    capture = StandIn()
    return Graph(Vmap(4), capture), capture


@pytest.fixture(params=["conv", "dense", "prototypes"])
def work(request):
    """A configuration and twelve of its tasks."""
    if request.param == "dense":
        return config_of(MLP(1, [8], 1), OptimizerNetwork(0.05, 0.3), 2, loss=F.mse_loss), curves_of(12, 4, 6)
    head = {"conv": "class_agnostic", "prototypes": "prototype"}[request.param]
    names = [] if head == "class_agnostic" else ["head.log_scale", "head.log_temperature", "head.weight", "head.bias"]
    network = Conv4(width=2, image_size=6, head=head)
    adapted = {n for n, _ in network.named_parameters()} - set(names)
    return config_of(network, PerParameterMomentum(0.1), 2, adapted=adapted), tasks_of(12, 3, 1, 2, (1, 6, 6))


def assert_same(found, expected):
    """To the bit."""
    for part in ("theta", "phi", "chosen"):
        if hasattr(expected, part):
            assert getattr(found, part).keys() == getattr(expected, part).keys()
            assert all(torch.equal(getattr(found, part)[n], t) for n, t in getattr(expected, part).items())
    for part in ("support_losses", "query_losses", "outputs"):
        assert torch.equal(getattr(found, part), getattr(expected, part))


def test_replays_follow_tasks_weights_and_rates_to_the_bit(work, recorded):
    config, tasks = work
    engine, capture = recorded
    ours, eager = unroll_of(config, engine), unroll_of(config, Vmap(4))
    for start in (0, 6, 0, 3):
        some = tasks.tasks(start, start + 6)  # stacks of 4 and 2
        assert_same(ours.meta_gradient(config, some, 2, False), eager.meta_gradient(config, some, 2, False))
        with torch.no_grad():
            for p in (*config.network.parameters(), *config.rule.parameters()):
                p.mul_(1.1)
    assert (capture.n_recorded, capture.n_replayed) == (1, 3)


def test_an_evaluation_is_recorded_too(work, recorded):
    config, tasks = work
    engine, capture = recorded
    ours, eager = unroll_of(config, engine), unroll_of(config, Vmap(4))
    for start in (0, 3, 6):
        some = tasks.tasks(start, start + 4)
        assert_same(ours.evaluate(config, some, 3, [0, 2, 3]), eager.evaluate(config, some, 3, [0, 2, 3]))
    assert (capture.n_recorded, capture.n_replayed) == (1, 2)


def test_a_result_is_not_written_to_by_the_next_replay(work, recorded):
    config, tasks = work
    ours = unroll_of(config, recorded[0])
    found = [ours.meta_gradient(config, tasks.tasks(b, b + 4), 2, False) for b in (0, 0, 4, 8)]
    saved = copy.deepcopy(found)
    ours.meta_gradient(config, tasks.tasks(2, 6), 2, False)
    for one, was in zip(found, saved, strict=True):
        assert_same(one, was)
    assert not torch.equal(found[2].query_losses, found[3].query_losses)


def small(rule=None, network=None, **options):
    torch.manual_seed(0)
    config = config_of(network or MLP(4, [6], 3), rule or PerParameter(0.1), 2, **options)
    return config, tasks_of(8, 3, 1, 2, (4,))


def test_weights_of_the_multi_step_loss_change_without_a_recording(recorded):
    config, tasks = small()
    engine, capture = recorded
    ours, eager = unroll_of(config, engine), unroll_of(config, Vmap(4))
    for weights in ([0.5, 0.5], [0.4, 0.6], [0.3, 0.7], [0.0, 1.0], [0.0, 1.0], None):
        found = ours.meta_gradient(config, tasks, 2, False, weights)
        assert_same(found, eager.meta_gradient(config, tasks, 2, False, weights))
    assert capture.n_recorded == 2
    assert capture.n_replayed == 4


class Switching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.scale = nn.Linear(4, 3), BatchNorm2d(3), 1.0
        self.register_buffer("shift", torch.ones(3))
        self.last = nn.Sequential(nn.Softplus())

    def forward(self, x):
        y = self.last(self.norm(self.layer(x)[..., None, None]).flatten(1)) + self.shift
        return y * self.scale * (1 if self.training else 2)


def retrain(config, tasks):
    config.network.eval()
    return config, tasks


def rescale(config, tasks):
    config.network.scale = 3.0
    return config, tasks


def use_twice(config, tasks):
    config.network.last.append(config.network.last[0])
    return config, tasks


def hook(config, tasks):
    config.network.layer.register_forward_hook(lambda _, given, y: 2 * y)
    return config, tasks


def move(config, tasks):
    config.network.layer.weight = nn.Parameter(config.network.layer.weight.detach() * 2)
    return replace(config), tasks


def freeze(config, tasks):
    config.network.norm.bias.requires_grad_(False)
    return replace(config, adapted=config.adapted - {"norm.bias"}), tasks


def other_rule(config, tasks):
    return small(PerParameterMomentum(0.2), config.network)[0], tasks


def fewer(config, tasks):
    return config, tasks.tasks(0, 3)


def single(config, tasks):
    network, rule = config.network.float(), config.rule.float()
    return replace(config, network=network, rule=rule), tasks._replace(
        support_x=tasks.support_x.float(), query_x=tasks.query_x.float()
    )


def other_statistics(config, tasks):
    return replace(config, transductive=False), tasks


CHANGES = [retrain, rescale, use_twice, hook, move, freeze, other_rule, fewer, single, other_statistics]


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_recorded_anew(change, recorded):
    config, tasks = small(network=Switching())
    engine, capture = recorded
    for n_recorded in (1, 2):
        ours, eager = unroll_of(config, engine), unroll_of(config, Vmap(4))
        expected = eager.meta_gradient(config, tasks, 2, False)
        for _ in range(3):
            assert_same(ours.meta_gradient(config, tasks, 2, False), expected)
        assert (capture.n_recorded, capture.n_replayed) == (n_recorded, 2 * n_recorded)
        config, tasks = change(config, tasks)


def test_buffers_are_read_where_they_lie(recorded):
    config, tasks = small(network=Switching())
    ours, eager = unroll_of(config, recorded[0]), unroll_of(config, Vmap(4))
    for _ in range(4):
        config.network.shift.mul_(2)
        assert_same(ours.meta_gradient(config, tasks, 2, False), eager.meta_gradient(config, tasks, 2, False))
    assert recorded[1].n_recorded == 1


def test_autocast_is_of_a_recording_of_its_own(recorded):
    config, tasks = single(*small())
    ours, eager = unroll_of(config, recorded[0]), unroll_of(config, Vmap(4))
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            for _ in range(3):
                assert_same(ours.meta_gradient(config, tasks, 2, False), eager.meta_gradient(config, tasks, 2, False))
    assert recorded[1].n_recorded == 2


class ByValue(nn.Linear):
    """Looks at a value of a parameter, of which a recording would keep the branch it took."""

    def forward(self, x):
        return super().forward(x) if float(self.bias.detach().sum()) > 0 else -super().forward(x)


class Counting(nn.Linear):
    """Counts its passes."""

    passes = 0

    def forward(self, x):
        self.passes = self.passes + 1
        return super().forward(x) * self.passes


class Drawing(nn.Linear):
    """Draws random numbers."""

    def forward(self, x):
        return super().forward(x) + torch.randn(3, dtype=x.dtype)


@pytest.mark.parametrize(
    ("network", "engine", "reason"),
    [
        (ByValue(4, 3), Loop(), "operation not permitted when stream is capturing"),
        (Counting(4, 3), Loop(), "Counting or PerParameter changes its own attributes as it runs"),
        (Drawing(4, 3), Loop(), "it draws random numbers"),
    ],
)
def test_what_cannot_be_recorded_runs_eagerly_and_says_why_once(network, engine, reason, caplog):
    config, tasks = small(network=network)
    capture = StandIn()
    ours = unroll_of(config, Graph(engine, capture))
    for _ in range(4):
        config.network.passes = 0
        torch.manual_seed(1)
        expected = unroll_of(config, engine).meta_gradient(config, tasks, 1, True)
        config.network.passes = 0
        torch.manual_seed(1)
        found = ours.meta_gradient(config, tasks, 1, True)
        if reason != "it draws random numbers":  # which draws more before it is refused
            assert_same(found, expected)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"engine: graph runs this step eagerly, which cannot be recorded: {reason}"]
    assert capture.n_replayed == 0


class Frozen(StandIn):
    """Gives what it gave when it recorded, and a little more."""

    def record(self, function):
        made = super().record(function)
        return made._replace(replay=lambda: [flat.mul_(1 + 1e-4) for flat in made.outputs if flat.numel()])


def test_a_replay_that_differs_from_the_engine_is_an_error():
    config, tasks = small()
    ours = unroll_of(config, Graph(Vmap(), Frozen()))
    ours.meta_gradient(config, tasks, 2, False)
    with pytest.raises(UserError, match="another theta for MLP than running it: .* set engine to vmap"):
        ours.meta_gradient(config, tasks, 2, False)


def test_what_is_not_finite_is_compared_another_time(recorded):
    config, tasks = small()
    engine, capture = recorded
    ours = unroll_of(config, engine)
    bad = tasks._replace(support_x=tasks.support_x * torch.nan)
    for _ in range(3):
        assert not ours.meta_gradient(config, bad, 2, False).query_losses.isfinite().any()
    assert capture.n_recorded == 0
    expected = unroll_of(config, Vmap(4)).meta_gradient(config, tasks, 2, False)
    assert_same(ours.meta_gradient(config, tasks, 2, False), expected)
    assert capture.n_recorded == 1


def test_recordings_are_held_and_made_in_a_bounded_number(recorded, monkeypatch, caplog):
    monkeypatch.setattr(graph, "MOST_HELD", 2)
    monkeypatch.setattr(graph, "MOST_MADE", 4)
    config, tasks = small()
    engine, capture = recorded
    ours, eager = unroll_of(config, engine), unroll_of(config, Vmap(4))
    for _ in range(6):
        for n in (2, 3, 4):
            some = tasks.tasks(0, n)
            assert_same(ours.meta_gradient(config, some, 2, False), eager.meta_gradient(config, some, 2, False))
    assert capture.n_recorded == 4
    assert len(caplog.records) == 1


def test_a_shape_that_comes_once_is_not_recorded(recorded):
    config, tasks = small()
    engine, capture = recorded
    for n in range(1, 8):
        unroll_of(config, engine).meta_gradient(config, tasks.tasks(0, n), 2, False)
    assert capture.n_recorded == 0


def test_loops_of_many_steps_are_not_unrolled(caplog, monkeypatch):
    monkeypatch.setattr(graph, "MOST_UNROLLED", 23)
    config, tasks = small()
    engine = Graph(Loop(), StandIn())
    for _ in range(2):
        unroll_of(config, engine).evaluate(config, tasks, 3, [3])
    assert "8 tasks of 3 inner steps are too many" in caplog.text
    assert engine.n_made == 0
