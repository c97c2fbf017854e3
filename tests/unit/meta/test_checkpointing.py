from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, tasks_of
from support.live_bytes import LiveBytes

from metasgd.meta.checkpointing import Backwards
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.meta_gradient import inner_loop_of
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerParameter
from metasgd.rules.optimizer_network import OptimizerNetwork


def curves(inner_steps, n_tasks=2):
    config = config_of(MLP(1, [8], 1), OptimizerNetwork(0.05, 0.3), inner_steps, loss=F.mse_loss)
    return inner_loop_of(config, dict(config.network.named_parameters()), curves_of(n_tasks, 5, 6))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("inner_steps", [1, 2, 5, 6, 23])
def test_the_steps_that_adapting_takes_from_the_last_to_the_first(inner_steps, again):
    stack = curves(inner_steps)
    steps, final, chosen = stack.adapt(inner_steps)
    found = Backwards(stack, inner_steps, taped=True, again=again)
    for expected, (s, step) in zip(reversed(list(enumerate(steps))), found, strict=True):
        assert s == expected[0]
        assert largest_difference(step.params, expected[1].params) == 0
        assert largest_difference(step.grads, expected[1].grads) == 0
        assert largest_difference(step.state, expected[1].state) == 0
        assert torch.equal(step.loss, expected[1].loss)
        assert step.tape is not None
        assert largest_difference(found.final, final) == 0
    assert torch.equal(torch.stack(found.losses), torch.stack([step.loss for step in steps]))
    assert largest_difference(found.chosen, chosen) == 0


@pytest.mark.parametrize(("inner_steps", "times"), [(6, 1), (7, 2), (21, 2), (56, 3), (57, 4), (126, 4)])
def test_no_step_is_taken_more_often_than_said(inner_steps, times, monkeypatch):
    stack = curves(inner_steps, n_tasks=1)
    taken, step = Counter(), stack.step

    def counted(s, params, state, keep):
        taken[float(params["head.bias"])] += 1
        return step(s, params, state, keep)

    monkeypatch.setattr(stack, "step", counted)
    assert len(list(Backwards(stack, inner_steps, taped=True, again=True))) == inner_steps
    assert len(taken) == inner_steps
    assert max(taken.values()) == times + 1  # with what the reverse pass takes


def test_many_steps_hold_little_more_than_one():
    network = Conv4(n_way=5, width=24)
    config = config_of(network, PerParameter(0.01), 40)
    tasks = tasks_of(1, 5, 1, 15, (1, 28, 28))

    def held(inner_steps):
        with LiveBytes() as count:
            FullUnroll(network, "loop", recompute="auto").meta_gradient(config, tasks, inner_steps, first_order=False)
        return count.peak

    one = held(1)
    assert held(40) < 1.5 * one
    assert held(15) > 2 * one  # few steps are saved instead, which is faster; so what is saved is counted
