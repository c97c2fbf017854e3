import math

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import curves_of, mlp
from torch import nn

from metasgd.errors import UserError
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.random_start import new_run, validate_initialisable
from metasgd.meta.truncated_unroll import TruncatedUnroll, minibatches
from metasgd.nn.networks import MLP, BatchNorm2d, ClassAgnosticHead, Conv4
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.training.datamodule import OuterSteps
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

EXACT = 1e-10
TOTAL = 12


def config_of(inputs=("loss", "trend", "progress")):
    torch.manual_seed(0)
    network = MLP(1, [8], 1).double()
    rule = OptimizerNetwork(0.05, 0.6, hidden=[6], inputs=inputs)
    rule.bind(dict(network.named_parameters()), TOTAL)
    rule.double()
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return InnerLoopConfig(network, rule, F.mse_loss, frozenset(n for n, _ in network.named_parameters()))


def by_hand(rule, p, m, average, x, y, qx, qy, first, steps):
    """One run's segment on single-point minibatches, the optimizer network's equation written out."""
    w1, b1, w2, b2 = rule.mlp.parameters()
    for s in range(first, first + steps):
        loss = F.mse_loss(mlp(p, x[s % len(x)][None]), y[s % len(x)][None])
        g = torch.autograd.grad(loss, list(p.values()), create_graph=True)
        log = loss.log10()
        trend = log - average / (1 - 0.9**s) if s else torch.zeros((), dtype=torch.float64)
        read = torch.stack([(log + 1) / 3, trend, torch.tensor(s / TOTAL, dtype=torch.float64)])
        out = w2 @ torch.tanh(w1 @ read + b1) + b2
        eta, mu = 0.05 * out[0].exp(), torch.sigmoid(math.log(0.6 / 0.4) + out[1])
        m = {n: mu * m[n] + gn for n, gn in zip(p, g, strict=True)}
        p = {n: p[n] - eta * m[n] for n in p}
        average = 0.9 * average + 0.1 * log
    return F.mse_loss(mlp(p, qx), qy), p, m, average


def test_segments_as_unrolled_by_hand_each_from_where_the_last_one_ended():
    config, tasks = config_of(), curves_of(3, 4, 6)
    runs = TruncatedUnroll(minibatch_shots=1)
    phi = list(config.rule.parameters())
    stands = None
    for segment in range(3):
        found = runs.meta_gradient(config, tasks, 4, first_order=False)
        if stands is None:
            stands = [
                (start, {n: torch.zeros_like(t) for n, t in start.items()}, torch.zeros((), dtype=torch.float64))
                for start in random_starts(config, tasks)
            ]
        losses = []
        for b, (p, m, average) in enumerate(stands):
            p = {n: t.detach().requires_grad_() for n, t in p.items()}
            x, y, qx, qy = (field[b] for field in tasks[:4])
            loss, p, m, average = by_hand(
                config.rule, p, {n: t.detach() for n, t in m.items()}, average.detach(), x, y, qx, qy, 4 * segment, 4
            )
            stands[b] = p, m, average
            losses.append(loss)
        torch.testing.assert_close(found.query_losses, torch.stack(losses).detach(), rtol=0, atol=EXACT)
        grads = torch.autograd.grad(sum(losses), phi)
        for ours, theirs in zip(found.phi.values(), grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=EXACT)
        assert all(g.abs().max() > 0 for g in found.phi.values())


def test_the_multi_step_loss_counts_the_query_after_each_inner_step():
    config, tasks = config_of(), curves_of(2, 4, 6)
    weights = [0.2, 0.0, 0.8]
    found = TruncatedUnroll(minibatch_shots=1).meta_gradient(config, tasks, 3, False, weights)
    losses = []
    for b, start in enumerate(random_starts(config, tasks)):
        x, y, qx, qy = (field[b] for field in tasks[:4])
        for steps, weight in enumerate(weights, start=1):
            p = {n: t.requires_grad_() for n, t in start.items()}
            m, average = {n: torch.zeros_like(t) for n, t in p.items()}, torch.zeros((), dtype=torch.float64)
            losses.append(weight * by_hand(config.rule, p, m, average, x, y, qx, qy, 0, steps)[0])
    grads = torch.autograd.grad(sum(losses), list(config.rule.parameters()))
    for ours, theirs in zip(found.phi.values(), grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=EXACT)


def random_starts(config, tasks):
    """The weights that runs of these tasks start from, as a run of no step would leave them."""
    evaluated = TruncatedUnroll(1).evaluate(config, tasks, 0, [0])
    starts = [new_run(config, tasks.n_way, i).params for i in tasks.task_index.tolist()]
    for b, start in enumerate(starts):
        torch.testing.assert_close(evaluated.outputs[b, 0], mlp(start, tasks.query_x[b]))
    return starts


def test_runs_start_from_weights_of_their_own_each_time_the_same():
    config, tasks = config_of(), curves_of(3, 4, 6)
    first, again = random_starts(config, tasks), random_starts(config, tasks)
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in a)
    assert not torch.equal(first[0]["head.weight"], first[1]["head.weight"])


class Attentive(nn.Module):
    """Attention over three numbers, a shift of its own, and a normalisation with a class-agnostic head."""

    def __init__(self, draws_shift):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.shift = nn.Parameter(torch.empty(4))
        self.norm = BatchNorm2d(4)
        self.head = ClassAgnosticHead(4)
        if draws_shift:
            self.reset_parameters = self.draw_shift
        self.draw_shift()

    def draw_shift(self):
        nn.init.normal_(self.shift)


def learner_with(network):
    rule = OptimizerNetwork()
    rule.bind(dict(network.named_parameters()), TOTAL)
    return InnerLoopConfig(network, rule, F.cross_entropy, frozenset(n for n, _ in network.named_parameters()))


def test_every_weight_is_drawn_anew_also_of_attention_and_a_modules_own():
    network = Attentive(draws_shift=True)
    constant = {"norm.weight": 1.0, "norm.bias": 0.0, "head.weight": 0.0, "head.bias": 0.0}
    constant |= {"attention.in_proj_bias": 0.0, "attention.out_proj.bias": 0.0}  # as torch builds them
    with torch.no_grad():
        for p in network.parameters():
            p.fill_(7.0)  # which no run may start from
    starts = [new_run(learner_with(network), 3, index).params for index in (0, 1, 0)]
    for n, p in starts[0].items():
        assert torch.equal(p, starts[2][n])
        if n in constant:
            assert (p == constant[n]).all()
        else:
            assert n in ("attention.in_proj_weight", "attention.out_proj.weight", "shift")
            assert not torch.equal(p, starts[1][n])
    assert starts[0]["head.weight"].shape == (3, 4)
    assert all((p == 7).all() for p in network.parameters())


def test_a_weight_that_nothing_draws_is_refused_by_its_module():
    with pytest.raises(UserError, match=r"draws no shift of the network \(Attentive\) anew: give that module"):
        validate_initialisable(Attentive(draws_shift=False))
    own = nn.Sequential(nn.Linear(2, 2), Attentive(draws_shift=False))
    with pytest.raises(UserError, match=r"draws no shift of 1 \(Attentive\) anew"):
        new_run(learner_with(own), 3, 0)
    network, before = Conv4(width=4), torch.get_rng_state()
    validate_initialisable(network)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_place_with_a_new_task_starts_a_new_run():
    config, tasks = config_of(), curves_of(2, 4, 6)
    runs = TruncatedUnroll(1)
    runs.meta_gradient(config, tasks, 4, first_order=False)
    changed = tasks._replace(task_index=torch.tensor([0, 7]))
    runs.meta_gradient(config, changed, 4, first_order=False)
    assert [(run.task_index, run.step) for run in runs.runs] == [(0, 8), (7, 4)]


@pytest.mark.parametrize("first_order", [False, True])
def test_saved_runs_resume_to_the_same_bits(first_order):
    config, tasks = config_of(), curves_of(3, 4, 6)
    straight, stopped, resumed = TruncatedUnroll(1), TruncatedUnroll(1), TruncatedUnroll(1)
    for runs in (straight, stopped):
        runs.meta_gradient(config, tasks, 4, first_order)
    resumed.load_state_dict(stopped.state_dict())
    expected, found = (runs.meta_gradient(config, tasks, 4, first_order) for runs in (straight, resumed))
    assert all(torch.equal(expected.phi[n], found.phi[n]) for n in expected.phi)
    assert torch.equal(expected.query_losses, found.query_losses)


def test_a_run_that_diverged_starts_again():
    config, tasks = config_of(), curves_of(2, 4, 6)
    runs = TruncatedUnroll(1)
    runs.meta_gradient(config, tasks, 4, first_order=False)
    runs.runs[1].params["head.weight"].fill_(math.inf)
    found = runs.meta_gradient(config, tasks, 4, first_order=False)
    assert not found.query_losses[1].isfinite()
    assert [run.step for run in runs.runs] == [8, 0]


def test_an_epoch_has_every_example_once_and_the_next_in_other_combinations():
    n_way, k_shot, shots = 3, 6, 2
    epochs = [
        [
            sorted(minibatches(torch.tensor([step]), n_way, k_shot, shots)[0].tolist())
            for step in range(first, first + 3)
        ]
        for first in (0, 3)
    ]
    for epoch in epochs:
        assert sorted(row for rows in epoch for row in rows) == list(range(n_way * k_shot))
        for rows in epoch:
            assert [row // k_shot for row in rows] == [0, 0, 1, 1, 2, 2]
    assert epochs[0] != epochs[1]


def test_the_places_of_a_meta_batch_change_their_tasks_in_turn():
    steps = OuterSteps(8, 4, 0, 1, steps_per_task=4)
    assert [list(steps[t]) for t in range(6)] == [
        [0, 1, 2, 3],
        [0, 1, 2, 7],
        [0, 1, 6, 7],
        [0, 5, 6, 7],
        [4, 5, 6, 7],
        [4, 5, 6, 11],
    ]
    assert list(OuterSteps(8, 4, 1, 2)[3]) == [14, 15]


def test_long_runs_learn_the_rule_alone():
    with pytest.raises(UserError, match="model.segments is 2: long runs train all of a network"):
        MetaSGDModule(MLP(), OptimizerNetwork(), segments=2)
    with pytest.raises(UserError, match="segments is 0"):
        MetaSGDModule(MLP(), OptimizerNetwork(), segments=0)
    module = MetaSGDModule(
        MLP(),
        OptimizerNetwork(),
        inner_steps=5,
        loss="mse",
        segments=2,
        minibatch_shots=9,
        outer=OuterProblem(freeze_network=True),
    )
    assert module.eval_inner_steps == module.update_rule.total_steps == 10
    with pytest.raises(UserError, match="minibatch_shots is 9, but k_shot is 4"):
        module.as_inputs(curves_of(2, 4, 6)._replace(support_x=torch.zeros(2, 4, 1)))
