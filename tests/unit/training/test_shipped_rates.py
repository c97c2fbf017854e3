"""The learning rates of the shipped image configurations learn, those of all layers that a gradient reaches."""

import pytest
import torch
import yaml
from support.runs import ROOT

from metasgd import nn as networks
from metasgd import rules
from metasgd.episode import Episode
from metasgd.meta.reached import adapts_in_words, reached
from metasgd.reporting.rates import moved_share
from metasgd.training.module import MetaSGDModule
from metasgd.training.outer import OuterProblem

CONFIGS = [
    path
    for path in sorted((ROOT / "configs").glob("*.yaml"))
    if "PerParameter" in path.read_text() and "Conv4" in path.read_text()
]


def module_of(config):
    """The module of a configuration, with random weights."""
    torch.manual_seed(0)
    model = config["model"]
    network, rule, optimizer = (model[part] for part in ("network", "update_rule", "outer"))
    made = getattr(networks, network["class_path"].rpartition(".")[2])(**network["init_args"])
    alpha = getattr(rules, rule["class_path"].rpartition(".")[2])(**rule["init_args"])
    settings = optimizer["optimizer"]["init_args"]
    outer = OuterProblem(lambda groups: torch.optim.Adam(groups, **settings), rule_settings=optimizer["rule_settings"])
    return MetaSGDModule(made, alpha, inner_steps=model["inner_steps"], outer=outer)


def tasks(shape, n_way, k_shot):
    """A meta-batch of 2 tasks: noise, in each class about a picture of its own."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n_way).repeat(k_shot).expand(2, -1)
    centres = torch.rand(2, n_way, *shape, generator=generator)
    support, query = (
        (centres.repeat(1, k_shot, 1, 1, 1) + 0.3 * torch.rand(2, n_way * k_shot, *shape, generator=generator)) / 1.3
        for _ in range(2)
    )
    return Episode(support, y, query, y, torch.arange(n_way).expand(2, -1), torch.arange(2))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_all_rates_that_a_gradient_reaches_move_in_two_outer_steps(path):
    config = yaml.safe_load(path.read_text())
    module = module_of(config)
    batch = tasks(module.network.image_shape, min(5, config["data"]["n_way"]), config["data"]["k_shot"])
    optimizer = module.outer.make_optimizer(module.network, module.update_rule, module.learned)
    for _ in range(2):
        gradient = module.meta_gradient(batch)
        for found, params in ((gradient.theta, module.config.theta), (gradient.phi, module.config.phi)):
            for name, g in found.items():
                params[name].grad = g
        optimizer.step()
    moved = {
        n: moved_share(rate.detach(), module.update_rule.init) for n, rate in module.update_rule.learned_rates().items()
    }
    seen = reached(module.config, (), batch, module.inner_steps)
    assert adapts_in_words(module.config, seen) == "all"
    assert {n for n, share in moved.items() if share < 0.95} == set(moved) - seen
    assert {n.rpartition(".")[2] for n in set(moved) - seen} <= {"bias"}  # those before BatchNorm
