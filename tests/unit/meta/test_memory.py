from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, tasks_of
from support.live_bytes import LiveBytes
from torch import nn

from metasgd.meta.engines import Vmap
from metasgd.meta.memory import bytes_of_a_task, large_rule
from metasgd.meta.meta_gradient import merge_gradients, meta_gradient
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum


def large_kernels():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 1, 5, padding=2), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).double()


WORKS = {
    "small": lambda: (config_of(MLP(1, [40, 40], 1), PerParameter(0.01), 1, loss=F.mse_loss), curves_of(16, 5, 10)),
    "wide": lambda: (
        config_of(MLP(1, [200, 200], 1), PerParameterMomentum(0.01), 1, loss=F.mse_loss),
        curves_of(16, 5, 10),
    ),
    "many points": lambda: (
        config_of(MLP(1, [40, 40], 1), PerParameter(0.01), 1, loss=F.mse_loss),
        curves_of(16, 50, 100),
    ),
    "more support than query": lambda: (
        config_of(large_kernels(), PerParameter(0.01), 1),
        tasks_of(2, 5, 5, 1, (3, 8, 8)),
    ),
    "large kernels by autograd": lambda: (
        replace(config_of(large_kernels(), PerParameter(0.01), 1), closed_form=False),
        tasks_of(2, 5, 5, 5, (3, 8, 8)),
    ),
    "images": lambda: (
        config_of(Conv4(width=8, image_size=12), PerParameter(0.01), 1),
        tasks_of(4, 5, 1, 5, (1, 12, 12)),
    ),
}


@pytest.mark.parametrize("inner_steps", [1, 3, 10])
@pytest.mark.parametrize("name", WORKS)
def test_the_estimate_is_above_what_a_stacked_task_holds_and_of_its_size(name, inner_steps):
    config, tasks = WORKS[name]()
    theta = dict(config.network.named_parameters())
    with LiveBytes() as seen:
        meta_gradient(config, theta, tasks, inner_steps)
    held = seen.peak / tasks.n_tasks
    assert held < bytes_of_a_task(config, tasks, inner_steps) < 4 * held


@pytest.mark.parametrize(("tasks_in_budget", "sizes"), [(2.5, [2, 2, 1]), (0.1, [1] * 5), (100, [4, 1])])
def test_a_stack_is_made_to_fit(tasks_in_budget, sizes):
    config, tasks = config_of(MLP(1, [8], 1), PerParameter(0.01), 3, loss=F.mse_loss), curves_of(5, 4, 6)
    theta = dict(config.network.named_parameters())
    made = []

    def note(own, some):
        made.append(some.n_tasks)
        return meta_gradient(own, theta, some, 3)

    engine = Vmap(at_most=4, budget=int(tasks_in_budget * bytes_of_a_task(config, tasks, 3)))
    engine.run(note, merge_gradients, config, tasks, 3)
    assert made == sizes


def test_a_rule_of_very_many_numbers_is_said_with_its_memory():
    rule = PerParameter()
    rule.bind({"a": torch.zeros(2**20)}, 1)
    assert large_rule(rule) == (
        "PerParameter learns 1,048,576 numbers beside the network's: with their gradients and Adam's moments 16 MiB."
        " PerBlock learns one for each block"
    )
    assert large_rule(PerParameter()) is None
