"""The layout of what reaches a network, whatever the layout of what was given; float64."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, largest_difference, tasks_of
from torch import nn

from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import BatchNorm2d, Conv4
from metasgd.rules.gradient_descent import PerParameterMomentum

EXACT = 1e-10


class Filtered(nn.Module):
    """A fixed filter, a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("filter", torch.linspace(-1, 1, 4 * 4 * 9).reshape(4, 4, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.filter, padding=1)


def own_network():
    """Of one's own layers, as supervised training on a GPU would lay it out."""
    norms = nn.BatchNorm2d(4, track_running_stats=False), BatchNorm2d(4)
    layers = [nn.Conv2d(2, 4, 3), Filtered(), norms[0], nn.ReLU(), nn.Conv2d(4, 4, 2), norms[1]]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(100, 3)).to(memory_format=torch.channels_last)


NETWORKS = {
    "own": own_network,
    "Conv4": lambda: Conv4(3, width=4, in_channels=2, image_size=8).to(memory_format=torch.channels_last),
}


def learner_and_tasks(make, n_tasks):
    torch.manual_seed(0)
    tasks = tasks_of(n_tasks, 3, 2, 2, (2, 8, 8))
    laid = {f: torch.stack([x.to(memory_format=torch.channels_last) for x in getattr(tasks, f)]) for f in INPUTS}
    return config_of(make(), PerParameterMomentum(0.1), 3), tasks, tasks._replace(**laid)


INPUTS = ("support_x", "query_x")


def raising(x, *arguments, **options):
    """Batch normalisation, which under ``vmap`` on CUDA raises on a tensor that ``torch.channels_last`` describes.

    By torch's rule (``is_channels_last_strides_2d``): strides grow from channels to width, height and examples.
    """
    order = [1, 3, 2, 0]
    least = 0
    for d in order:
        if x.stride(d) < least or (d == 0 and least == x.stride(1)):
            return batch_norm(x, *arguments, **options)
        least = x.stride(d) * max(1, x.shape[d])
    raise AssertionError("querying is_contiguous inside of vmap for memory_format other than torch.contiguous_format")


batch_norm = F.batch_norm


def test_the_rule_is_that_of_torch():
    x = torch.randn(2, 3, 4, 5)
    weights = {"running_mean": None, "running_var": None, "training": True}
    raising(x, **weights)
    with pytest.raises(AssertionError, match="querying is_contiguous"):
        raising(x.to(memory_format=torch.channels_last), **weights)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("transductive", [True, False])
def test_a_stack_takes_any_layout(network, transductive, monkeypatch):
    config, tasks, laid = learner_and_tasks(NETWORKS[network], 2)
    plain = replace(config, network=copy.deepcopy(config.network).to(memory_format=torch.contiguous_format))
    if not transductive:
        config, plain = (replace(own, transductive=network != "Conv4") for own in (config, plain))
    expected = meta_gradient(plain, plain.theta, tasks, 3)
    monkeypatch.setattr(F, "batch_norm", raising)
    found = meta_gradient(config, config.theta, laid, 3)
    assert largest_difference(found.theta, expected.theta) < EXACT
    assert largest_difference(found.phi, expected.phi) < EXACT


@pytest.mark.parametrize("n_tasks", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_all_that_reaches_a_network_is_contiguous(network, n_tasks):
    config, _, laid = learner_and_tasks(NETWORKS[network], n_tasks)
    seen = []

    def look(module, given):
        seen.extend([*module.parameters(), *module.buffers(), *given])

    config.network.register_forward_pre_hook(look)
    meta_gradient(config, config.theta, laid, 3, recompute=True)
    assert len(seen) > 10
    assert all(t.is_contiguous() for t in seen)
    assert not all(p.is_contiguous() for p in config.network.parameters())


def test_a_network_may_write_into_its_inputs():
    class Writing(nn.Module):
        def forward(self, x):
            return x.mul_(0.5)

    class Reading(nn.Module):
        def forward(self, x):
            return x * 0.5

    tasks = tasks_of(2, 3, 2, 2, (4,))
    found = []
    for first in (Writing(), Reading()):
        torch.manual_seed(0)
        config = config_of(nn.Sequential(first, nn.Linear(4, 3)), PerParameterMomentum(0.1), 2)
        found.append(meta_gradient(config, config.theta, tasks, 2).theta)
    assert largest_difference(*found) < EXACT
