import pytest
import torch
from support.by_hand import config_of, largest_difference, tasks_of

from metasgd.meta import full_unroll as inner_runs
from metasgd.meta.full_unroll import FullUnroll
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import Conv4
from metasgd.rules.gradient_descent import PerParameter


@pytest.fixture
def config():
    return config_of(Conv4(width=3, image_size=12), PerParameter(0.1), 2)


@pytest.mark.parametrize("engine", ["loop", "threads", "vmap"])
def test_weights_of_the_multi_step_loss_reach_every_engine(config, engine):
    tasks, weights = tasks_of(3, 3, 1, 2, (1, 12, 12)), [0.4, 0.6]
    runs = FullUnroll(config.network, engine, recompute="auto")
    assert runs.setup(config.network, torch.device("cpu"), 1) == f"engine: {engine}, as engine asks"
    found = runs.meta_gradient(config, tasks, 2, False, weights)
    theta = dict(config.network.named_parameters())
    each = [
        weight * meta_gradient(config, theta, tasks, steps).theta["head.weight"]
        for steps, weight in enumerate(weights, start=1)
    ]
    torch.testing.assert_close(found.theta["head.weight"], sum(each), rtol=0, atol=1e-10)


def test_each_outer_step_starts_from_theta(config):
    tasks, runs = tasks_of(3, 3, 1, 2, (1, 12, 12)), FullUnroll(config.network, "loop", recompute=False)
    first, again = (runs.meta_gradient(config, tasks, 2, False) for _ in range(2))
    assert largest_difference(first.theta, again.theta) == 0
    assert runs.state_dict() == []


@pytest.mark.parametrize(("shots", "queries", "recomputes"), [(1, 3, False), (3, 2, True)])
def test_steps_are_run_again_where_they_hold_more_than_the_query_set(config, monkeypatch, shots, queries, recomputes):
    seen = []
    monkeypatch.setattr(inner_runs, "meta_gradient", lambda *args: (seen.append(args[5]), meta_gradient(*args))[1])
    tasks = tasks_of(1, 3, shots, queries, (1, 12, 12))
    FullUnroll(config.network, "loop", recompute="auto").meta_gradient(config, tasks, 2, False)
    assert seen == [recomputes]
