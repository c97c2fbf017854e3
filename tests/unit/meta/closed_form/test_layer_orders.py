"""Networks of random layers in random orders: the meta-gradient against one graph of everything, float64."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, tasks_of
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization

from metasgd.meta.closed_form.inner_loop import ClosedFormInnerLoop
from metasgd.meta.meta_gradient import inner_loop_of, meta_gradient
from metasgd.nn.networks import BatchNorm2d, ClassAgnosticHead
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum
from metasgd.rules.optimizer_network import OptimizerNetwork

EXACT = 1e-9
DEFAULT, ALL = 50, 600
WAYS = 3


def of_images(draw, channels):
    """A layer of images that has a closed form."""
    bias = draw.random() < 0.5
    return draw.choice(
        [
            lambda: nn.Conv2d(
                channels,
                draw.randint(1, 5),
                (draw.randint(1, 3), draw.randint(1, 3)),
                stride=(draw.randint(1, 2), draw.randint(1, 2)),
                padding=draw.randint(0, 1),
                dilation=draw.randint(1, 2),
                bias=bias,
            ),
            lambda: BatchNorm2d(channels, eps=draw.choice([1e-5, 0.1])),
            lambda: nn.BatchNorm2d(channels, track_running_stats=False),
            lambda: nn.ReLU(),
            lambda: nn.MaxPool2d(
                draw.choice([2, (2, 1), 3]), stride=draw.choice([None, 1, 2]), ceil_mode=draw.random() < 0.5
            ),
            lambda: nn.MaxPool2d(2, 1, padding=1, dilation=draw.randint(1, 2)),
        ]
    )()


def of_vectors(draw, features):
    """A layer of vectors that has a closed form."""
    return draw.choice(
        [
            lambda: nn.Linear(features, draw.randint(1, 7), bias=draw.random() < 0.5),
            lambda: nn.RMSNorm(features, eps=draw.choice([0.1, 1e-2]), elementwise_affine=False),
            lambda: nn.ReLU(),
        ]
    )()


def other(draw, channels, images):
    """A layer that has none."""
    choices = [
        lambda: nn.LeakyReLU(0.2),
        lambda: draw.choice([nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU, nn.Mish, nn.Identity])(),
        lambda: nn.Dropout(0.0),
    ]
    of_either = [
        lambda: nn.AvgPool2d(2, 1, padding=1, count_include_pad=draw.random() < 0.5),
        lambda: nn.Conv2d(channels, 2 * channels, 2, groups=channels),
        lambda: nn.Conv2d(channels, 2, 3, padding=1, padding_mode=draw.choice(["circular", "replicate"])),
        lambda: nn.Conv2d(channels, 2, 3, padding="same"),
        lambda: nn.BatchNorm2d(channels, affine=False, track_running_stats=False),
        lambda: nn.GroupNorm(1, channels),
    ]
    of_others = [
        lambda: nn.LayerNorm(channels),
        lambda: nn.RMSNorm(channels, eps=0.1),
        lambda: register_parametrization(nn.Linear(channels, 4), "weight", nn.Softplus()),
    ]
    return draw.choice(choices + (of_either if images else of_others))()


def network_of(draw, x):
    """Of layers drawn one after the other, each as the output of those before it asks."""
    strange = draw.random() < 0.25
    layers = [nn.Conv2d(x.shape[1], 3, draw.randint(1, 3), padding=1)] if x.ndim == 4 else [nn.Flatten()]
    images = x.ndim == 4
    for _ in range(draw.randint(1, 8)):
        given = nn.Sequential(*layers).double()(x.clone())
        if images and (min(given.shape[2:]) < 5 or draw.random() < 0.1):
            layers.append(nn.Flatten())
            images = False
        elif strange and draw.random() < 0.4:
            layers.append(other(draw, given.shape[1], images))
        else:
            layers.append((of_images if images else of_vectors)(draw, given.shape[1]))
    layers += [nn.Flatten()] * images
    features = nn.Sequential(*layers).double()(x.clone()).shape[1]
    for before, layer in pairwise(layers):  # after others, torch itself could not go back
        if isinstance(layer, nn.ReLU | nn.LeakyReLU) and isinstance(before, nn.Conv2d | nn.Linear | BatchNorm2d):
            layer.inplace = draw.random() < 0.5
    layers.append(ClassAgnosticHead(features) if draw.random() < 0.3 else nn.Linear(features, WAYS))
    split = draw.randint(0, len(layers) - 1)
    return nn.Sequential(nn.Sequential(*layers[:split]), *layers[split:]) if split else nn.Sequential(*layers)


def unrolled(config, tasks, inner_steps, first_order):
    """The gradient of the outer loss in θ and φ, through one graph of everything."""
    theta, phi = dict(config.network.named_parameters()), dict(config.rule.named_parameters())
    total = 0
    for x, y, query_x, query_y in zip(*tasks[:4], strict=True):
        p = {n: t.expand(tasks.n_way, *t.shape[1:]) if n in config.agnostic else t for n, t in theta.items()}
        moving = {n: p[n] for n in config.theta if n in config.adapted}
        state = config.rule.init_state(moving)
        for s in range(inner_steps):
            loss = config.loss(functional_call(config.network, p | moving, (x.clone(),)), y)
            g = torch.autograd.grad(loss, list(moving.values()), create_graph=True)
            g = [t.detach() for t in g] if first_order else g
            moving, state = config.rule(s, moving, dict(zip(moving, g, strict=True)), loss, state)
        total = total + config.loss(functional_call(config.network, p | moving, (query_x.clone(),)), query_y)
    inputs = [*theta.values(), *phi.values()]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(inputs, found, strict=True)]
    return torch.cat([g.flatten() for g in filled])


def drawn(seed):
    """A config, its tasks, and the options of its meta-gradient."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    images = draw.random() < 0.6
    shape = (draw.randint(1, 2), draw.randint(6, 11), draw.randint(6, 11)) if images else (draw.randint(1, 6),)
    tasks = tasks_of(1 + seed % 3 if images else draw.choice([1, 2, 17]), WAYS, 2, 3, shape)
    network = network_of(draw, tasks.support_x[0])
    names = [n for n, _ in network.named_parameters()]
    adapted = names if draw.random() < 0.6 else draw.sample(names, draw.randint(1, len(names)))
    loss = F.cross_entropy
    if draw.random() < 0.3 and not isinstance(network[-1], ClassAgnosticHead):
        loss = F.mse_loss
        one_hot = {f: F.one_hot(getattr(tasks, f)).double() for f in ("support_y", "query_y")}
        tasks = tasks._replace(**one_hot)
    rule = draw.choice([PerParameter(0.1), PerParameterMomentum(0.1), OptimizerNetwork(0.05, 0.3)])
    steps = draw.randint(1, 3)
    config = config_of(network, rule, steps, adapted=frozenset(adapted), loss=loss)
    return config, tasks, steps, {"first_order": draw.random() < 0.2, "recompute": draw.random() < 0.5}


@pytest.mark.parametrize(
    "seed", [*range(DEFAULT), *(pytest.param(s, marks=pytest.mark.slow) for s in range(DEFAULT, ALL))]
)
def test_any_order_of_layers(seed):
    config, tasks, steps, options = drawn(seed)
    expected = unrolled(config, tasks, steps, options["first_order"])
    gradient = meta_gradient(config, config.theta, tasks, steps, **options)
    found = torch.cat([g.flatten() for part in (gradient.theta, gradient.phi) for g in part.values()])
    assert found.isfinite().all()
    assert (found - expected).norm() <= EXACT * max(1, expected.norm()), config.network


def test_every_closed_form_is_among_the_orders_drawn_by_default():
    learners = [drawn(seed)[:2] for seed in range(DEFAULT)]
    closed = [
        config for config, tasks in learners if type(inner_loop_of(config, config.theta, tasks)) is ClosedFormInnerLoop
    ]
    kinds = Counter(type(layer).__name__ for config in closed for layer in config.feed_forward.layers)
    assert len(closed) > DEFAULT / 2
    assert set(kinds) == {"Linear", "Conv2d", "BatchNorm", "RMSNorm", "ReLU", "MaxPool2d", "Flatten"}
    assert min(kinds.values()) > 5
    pairs = {
        tuple(type(layer).__name__ for layer in two)
        for config in closed
        for two in pairwise(config.feed_forward.layers)
    }
    assert {("RMSNorm", "ReLU"), ("BatchNorm", "ReLU"), ("ReLU", "RMSNorm"), ("ReLU", "ReLU")} <= pairs
