import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import curves_of
from torch import nn

from metasgd.errors import UserError
from metasgd.meta.evolved_unroll import EvolvedUnroll
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.meta.model import MetaModel
from metasgd.meta.paired_runs import Variety, new_pair, perturbations
from metasgd.meta.persistent_evolution import PersistentEvolution
from metasgd.meta.random_start import new_run
from metasgd.meta.truncated_unroll import TruncatedUnroll, minibatches
from metasgd.nn.networks import MLP
from metasgd.rules.base import UpdateRule
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.runs.checkpoint_schema import RUNS_KEY, SCHEMA
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

SEGMENTS, STEPS = 3, 2


class Line(nn.Module):
    """``w x``, and its weights always start from the same place."""

    def __init__(self, start):
        super().__init__()
        self.start = start
        self.weight = nn.Parameter(torch.full((1, 1), start, dtype=torch.float64))

    def reset_parameters(self):
        nn.init.constant_(self.weight, self.start)

    def forward(self, x):
        return x @ self.weight


class Shift(UpdateRule):
    """``θ − 0.01 g − φ``: the loss after any number of steps is a quadratic of φ, whose gradient smoothing leaves."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.full((1, 1), by, dtype=torch.float64))

    def forward(self, step, params, grads, loss, state):
        return {n: p - 0.01 * grads[n] - self.by for n, p in params.items()}, {}


def line(start, by):
    network, rule = Line(start), Shift(by)
    rule.bind(dict(network.named_parameters()), SEGMENTS * STEPS)
    return InnerLoopConfig(network, rule, F.mse_loss, frozenset({"weight"}))


def curves(n_tasks, first=0):
    return curves_of(n_tasks, 5, 6)._replace(task_index=torch.arange(first, first + n_tasks))


def exact(config, tasks, last_loss=False):
    """The gradient of the sum of all segments' losses, or of the last, through one graph of plain functions."""
    by = config.rule.by.detach().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for x, y, qx, qy in zip(*tasks[:4], strict=True):
        w = torch.full((1, 1), config.network.start, dtype=torch.float64)
        for s in range(SEGMENTS * STEPS):
            one_x, one_y = x[s % len(x)][None], y[s % len(x)][None]
            w = w - 0.01 * (2 * one_x.T @ (one_x @ w - one_y)) - by
            if s + 1 == SEGMENTS * STEPS or ((s + 1) % STEPS == 0 and not last_loss):
                total = total + (qx @ w - qy).square().mean()
    return torch.autograd.grad(total, by)[0].item()


def estimates_of(config, one, estimator, n=60):
    """Of ten batches of pairs, the mean over a batch of the sum over the segments of a run."""
    batches = []
    for batch in range(10):
        many = type(one)(*(field.expand(n, *field.shape[1:]) for field in one[:5]), torch.arange(n) + n * batch)
        unroll = EvolvedUnroll(1, estimator)
        sums = [unroll.meta_gradient(config, many, STEPS, first_order=False).phi["by"].item() for _ in range(SEGMENTS)]
        batches.append(sum(sums) / n)
    return torch.tensor(batches)


@pytest.mark.parametrize("last_loss", [False, True])
@pytest.mark.parametrize("single", [False, True])
def test_its_mean_is_the_gradient_through_all_segments_and_not_that_of_short_ones(single, last_loss):
    config, one = line(0.7, 0.05), curves(1)
    means = estimates_of(config, one, PersistentEvolution(0.1, single=single, last_loss=last_loss))
    error = means.std().item() / math.sqrt(len(means))
    assert abs(means.mean().item() - exact(config, one, last_loss)) < 4 * error
    assert abs(exact(config, one) - exact(config, one, last_loss=True)) > 4 * error
    short = TruncatedUnroll(1)
    truncated = sum(short.meta_gradient(config, one, STEPS, False).phi["by"].item() for _ in range(SEGMENTS))
    assert abs(means.mean().item() - truncated) > 4 * error


def test_what_is_fixed_has_no_gradient_and_no_part_in_the_others():
    config, tasks = adam(), curves(2)
    held = [n for n, _ in config.rule.named_parameters() if n.startswith("of_")]
    found = EvolvedUnroll(1, PersistentEvolution(0.03, fixed=held)).meta_gradient(config, tasks, STEPS, False).phi
    assert {n for n, g in found.items() if g.abs().max() > 0} == found.keys() - set(held)
    for n, p in config.rule.named_parameters():
        p.requires_grad_(n not in held)
    for fixed in ((), held):  # what is not learned at all may be named
        alone = EvolvedUnroll(1, PersistentEvolution(0.03, fixed=fixed)).meta_gradient(config, tasks, STEPS, False).phi
        assert alone.keys() == found.keys() - set(held)


def test_a_name_that_the_rule_does_not_have_cannot_be_fixed():
    with pytest.raises(UserError, match="fixed names 'of_none', but ScheduledAdam has exponent"):
        MetaModel(
            MLP(1, [8], 1), ScheduledAdam(), 2, segments=2, loss="mse", estimator=PersistentEvolution(fixed=["of_none"])
        )


def test_minibatches_of_several_sizes_are_walked_in_order_and_repeated_to_one_size():
    sizes = torch.tensor([4, 2, 1])
    for step in range(5):
        rows = minibatches(torch.full((3,), step), 1, 8, 4, sizes).tolist()
        for size, found in zip(sizes.tolist(), rows, strict=True):
            assert found == [(step * size + i) % 8 for i in range(size)] * (4 // size)
    seen = {new_pair(adam(), 1, task, 2, Variety(smallest_minibatch=3), shots=12).halvings for task in range(30)}
    assert seen == {0, 1, 2}
    assert {new_pair(adam(), 1, task, 2, Variety(), shots=12).halvings for task in range(30)} == {0}


def test_a_run_of_halved_minibatches_is_one_of_half_the_shots():
    config, tasks = adam(), curves(40)
    halved = EvolvedUnroll(4, PersistentEvolution(0.03, smallest_minibatch=2))
    found = halved.meta_gradient(config, tasks, STEPS, first_order=False)
    alone = EvolvedUnroll(2, PersistentEvolution(0.03)).meta_gradient(config, tasks, STEPS, first_order=False)
    two = torch.tensor([pair.halvings == 1 for pair in halved.pairs])
    assert 5 < two.sum() < 35
    torch.testing.assert_close(found.query_losses[two], alone.query_losses[two])
    assert not torch.isclose(found.query_losses[~two], alone.query_losses[~two]).any()


def test_of_an_even_function_the_two_runs_cancel():
    config, tasks = line(0.0, 0.0), curves(4)
    even = tasks._replace(support_y=torch.zeros_like(tasks.support_y), query_y=torch.zeros_like(tasks.query_y))
    unroll = EvolvedUnroll(1, PersistentEvolution(0.1))
    for _ in range(SEGMENTS):
        gradient = unroll.meta_gradient(config, even, STEPS, first_order=False)
        assert gradient.query_losses.min() > 0
        assert gradient.phi["by"].item() == 0


def adam():
    torch.manual_seed(0)
    network = MLP(1, [8], 1).double()
    rule = ScheduledAdam(0.05, hidden=4)
    rule.bind(dict(network.named_parameters()), SEGMENTS * STEPS)
    with torch.no_grad():
        for p in rule.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return InnerLoopConfig(network, rule, F.mse_loss, frozenset(n for n, _ in network.named_parameters()))


def by_hand(config, tasks):
    """The estimate of each segment: every run alone, by a rule with its own weights, step by step."""
    phi = {n: p.detach() for n, p in config.rule.named_parameters()}
    estimates = [{n: torch.zeros_like(p) for n, p in phi.items()} for _ in range(SEGMENTS)]
    for b, index in enumerate(tasks.task_index.tolist()):
        x, y, qx, qy = (field[b] for field in tasks[:4])
        drawn = [perturbations(phi, 0.03, [(index, 0, STEPS * k)]) for k in range(SEGMENTS)]
        losses = {}
        for sign in (1, -1):
            p = {n: t[0] for n, t in new_pair(config, 1, index, STEPS, Variety()).params.items()}
            state = config.rule.init_state(p)
            for s in range(SEGMENTS * STEPS):
                moved = {n: t + sign * drawn[s // STEPS][n][0] for n, t in phi.items()}
                p = {n: t.detach().requires_grad_() for n, t in p.items()}
                loss = F.mse_loss(
                    torch.func.functional_call(config.network, p, (x[s % len(x)][None],)), y[s % len(x)][None]
                )
                grads = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
                with torch.no_grad():
                    arguments = (s, p, grads, loss.detach(), state)
                    p, state = torch.func.functional_call(config.rule, moved, arguments)
                if (s + 1) % STEPS == 0:
                    losses[sign, s // STEPS] = F.mse_loss(
                        torch.func.functional_call(config.network, p, (qx,)), qy
                    ).detach()
        for k in range(SEGMENTS):
            for n, total in estimates[k].items():
                xi = sum(e[n][0] for e in drawn[: k + 1])
                total += xi * (losses[1, k] - losses[-1, k]) / (2 * 0.03**2)
    return estimates


@pytest.mark.parametrize("stacked", [True, False])
def test_as_runs_made_by_hand_one_by_one(stacked):
    config, tasks = adam(), curves(3)
    unroll = EvolvedUnroll(1, PersistentEvolution(0.03))
    unroll.stacked = stacked
    for expected in by_hand(config, tasks):
        found = unroll.meta_gradient(config, tasks, STEPS, first_order=False)
        torch.testing.assert_close(found.phi, expected, rtol=1e-8, atol=1e-9)
        assert all(g.abs().max() > 0 for g in found.phi.values())


def test_resumed_to_the_bit():
    config, tasks = adam(), curves(2)
    first = EvolvedUnroll(1, PersistentEvolution())
    first.meta_gradient(config, tasks, STEPS, first_order=False)
    second = EvolvedUnroll(1, PersistentEvolution())
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        ours, theirs = (u.meta_gradient(config, tasks, STEPS, first_order=False) for u in (first, second))
        assert all(torch.equal(g, theirs.phi[n]) for n, g in ours.phi.items())


def test_what_is_saved_is_what_a_checkpoint_may_hold():
    config, tasks = adam(), curves(2)
    fits, _ = SCHEMA[RUNS_KEY]
    for unroll in (EvolvedUnroll(1, PersistentEvolution()), TruncatedUnroll(1)):
        unroll.meta_gradient(config, tasks, STEPS, first_order=False)
        assert fits(unroll.state_dict())
        assert not fits([run | {"other": 1} for run in unroll.state_dict()])
    pairs = EvolvedUnroll(1, PersistentEvolution())
    pairs.meta_gradient(config, tasks, STEPS, first_order=False)
    earlier = [{n: t for n, t in pair.items() if n != "halvings"} for pair in pairs.state_dict()]
    assert fits(earlier)
    resumed = EvolvedUnroll(1, PersistentEvolution())
    resumed.load_state_dict(earlier)
    assert [pair.halvings for pair in resumed.pairs] == [0, 0]


def test_a_new_task_starts_new_runs():
    config = adam()
    unroll, fresh = (EvolvedUnroll(1, PersistentEvolution()) for _ in range(2))
    unroll.meta_gradient(config, curves(2), STEPS, first_order=False)
    second = curves(2)._replace(task_index=torch.tensor([0, 7]))
    found = unroll.meta_gradient(config, second, STEPS, first_order=False)
    assert [pair.step for pair in unroll.pairs] == [2 * STEPS, STEPS]
    alone = fresh.meta_gradient(config, second.tasks(1, 2), STEPS, first_order=False)
    torch.testing.assert_close(found.query_losses[1:], alone.query_losses)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "pes"}, "segments is 1"),
        ({"estimator": "pes", "segments": 2, "first_order": True}, "estimator pes goes back"),
        ({"estimator": "pes", "segments": 2, "proximal": 1.0}, "unrolled or pes, and proximal 0"),
    ],
)
def test_settings_that_mean_nothing_together_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        MetaModel(MLP(1, [8], 1), ScheduledAdam(), 2, loss="mse", **options)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_perturbation_out_of_its_range_is_refused(value):
    with pytest.raises(UserError, match="perturbation is"):
        PersistentEvolution(value)


def test_a_module_names_its_estimator():
    outer = OuterProblem(freeze_network=True, multi_step_until=3)
    with pytest.raises(UserError, match="estimator is pes, which does not go back"):
        MetaSGDModule(MLP(1, [8], 1), ScheduledAdam(), 2, segments=2, outer=outer, estimator=PersistentEvolution())


def test_the_runs_of_another_estimator_are_not_resumed():
    unroll = EvolvedUnroll(1, PersistentEvolution())
    with pytest.raises(UserError, match="not made by the estimator pes"):
        unroll.load_state_dict([vars(new_run(adam(), 1, 0))])


def test_every_task_run_and_segment_has_perturbations_and_a_start_of_its_own():
    phi = {"a": torch.zeros(3)}
    keys = [(0, 0, 0), (256, 0, 0), (0, 1, 0), (0, 16, 0), (0, 0, 2), (1 << 33, 0, 0)]
    drawn = perturbations(phi, 1.0, keys)["a"].tolist()
    assert len({tuple(e) for e in drawn}) == len(keys)
    assert perturbations(phi, 1.0, [(256, 0, 0)])["a"][0].tolist() == drawn[1]
    network, rule = MLP(1, (3,), 1), ScheduledAdam()
    rule.bind(dict(network.named_parameters()), 4)
    config = InnerLoopConfig(network, rule, F.mse_loss, frozenset(n for n, _ in network.named_parameters()))
    starts = [new_pair(config, 1, 0, 2, Variety(), repeat).params for repeat in (0, 1, 16)]
    assert len({tuple(next(iter(start.values())).flatten().tolist()) for start in starts}) == 3


def test_runs_of_perturbed_pairs_are_refused_by_the_exact_estimator():
    with pytest.raises(UserError, match="were made by the estimator pes"):
        TruncatedUnroll(1).load_state_dict([{"accumulated": {}}])


def test_held_out_losses_are_the_outer_loss_and_an_evaluation_is_a_whole_run():
    tasks = curves(2)
    config = replace(adam(), query_loss=lambda outputs, y: F.mse_loss(outputs, y).log())
    found = EvolvedUnroll(1, PersistentEvolution()).evaluate(config, tasks, 2, [0, 2])
    assert config.rule.total_steps == SEGMENTS * STEPS
    expected = torch.stack(
        [(found.outputs[:, i] - tasks.query_y).square().flatten(1).mean(dim=1).log() for i in (0, 1)]
    )
    torch.testing.assert_close(found.query_losses, expected.T)
    config.rule.total_steps = 2
    as_long = TruncatedUnroll(1).evaluate(config, tasks, 2, [0, 2])
    torch.testing.assert_close(found.outputs, as_long.outputs)
    torch.testing.assert_close(as_long.query_losses, expected.T)
