"""Closed-form derivatives against autograd's, float64."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import curves_of, largest_difference, learner_of, tasks_of
from torch import nn

from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.closed_form import stem
from metasgd.meta.closed_form.inner_loop import ClosedFormInnerLoop
from metasgd.meta.evaluate import evaluate, inner_loop_of
from metasgd.meta.meta_gradient import meta_gradient
from metasgd.nn.networks import MLP, BatchNorm2d, ClassAgnosticHead, Conv4
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum
from metasgd.rules.optimizer_network import OptimizerNetwork

EXACT = 1e-10


def agree(learner, tasks, inner_steps=2, **options):
    """Closed forms were used, and give what autograd gives."""
    theta = dict(learner.network.named_parameters())
    general = replace(learner, closed_form=False)
    assert isinstance(inner_loop_of(learner, theta, tasks), ClosedFormInnerLoop)
    assert not isinstance(inner_loop_of(general, theta, tasks), ClosedFormInnerLoop)
    found, expected = (meta_gradient(own, theta, tasks, inner_steps, **options) for own in (learner, general))
    assert largest_difference(found.theta, expected.theta) < EXACT
    assert largest_difference(found.phi, expected.phi) < EXACT
    for field in ("support_losses", "query_losses", "outputs"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), atol=EXACT, rtol=0)
    evaluated, as_expected = (evaluate(own, theta, tasks, inner_steps, [0, inner_steps]) for own in (learner, general))
    torch.testing.assert_close(evaluated.outputs, as_expected.outputs, atol=EXACT, rtol=0)
    torch.testing.assert_close(evaluated.query_losses, as_expected.query_losses, atol=EXACT, rtol=0)


def conv(downsample="stride", head="class_agnostic", width=9, features="rectified"):
    """Of nine filters or more, the first block is taken together with the second convolution (``stem.py``)."""
    return Conv4(n_way=3, head=head, width=width, image_size=16, downsample=downsample, features=features)


IMAGES = tasks_of(1, 3, 2, 3, (1, 16, 16))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("width", [3, 9])
def test_conv4(width, downsample, recompute, first_order):
    learner = learner_of(conv(downsample, width=width), PerParameter(0.1), 2)
    agree(learner, IMAGES, recompute=recompute, first_order=first_order)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("head", ["linear", "class_agnostic"])
def test_conv4_with_normalised_features(head, downsample, inner_steps):
    learner = learner_of(conv(downsample, head, features="normalised"), PerParameter(0.1), inner_steps)
    agree(learner, IMAGES, inner_steps)
    agree(replace(learner, transductive=False), IMAGES, inner_steps)


@pytest.mark.parametrize("adapted", ["2.weight", "4.weight", "6.bias"])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_normalised_features_of_a_dense_network_of_which_a_part_adapts(n_tasks, adapted):
    network = nn.Sequential(
        nn.Flatten(),
        nn.RMSNorm(16, elementwise_affine=False),
        nn.Linear(16, 8),
        nn.RMSNorm(8, eps=0.1, elementwise_affine=False),
        nn.Linear(8, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    for rule in (PerParameter(0.1), OptimizerNetwork(0.05, 0.3)):
        learner = learner_of(network, rule, 2, adapted=frozenset({adapted}))
        agree(learner, tasks_of(n_tasks, 3, 2, 3, (1, 4, 4)))


@pytest.mark.parametrize("adapted", ["head", "body.3", "body.0.1", "body.1.0.bias", "body.1.1.bias", "body.2.1.weight"])
@pytest.mark.parametrize("head", ["linear", "class_agnostic"])
def test_conv4_of_which_a_part_adapts(head, adapted):
    network = conv(head=head)
    names = frozenset(n for n, _ in network.named_parameters() if n.startswith(adapted))
    agree(learner_of(network, PerParameter(0.1), 2, adapted=names), IMAGES)
    # a rule that reads the loss brings in the first derivatives of what does not adapt
    agree(learner_of(conv(head=head), OptimizerNetwork(0.05, 0.3), 2, adapted=names), IMAGES)


@pytest.mark.parametrize("rule", [PerParameter, PerParameterMomentum, OptimizerNetwork])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_a_class_agnostic_head_on_stacked_tasks(n_tasks, inner_steps, rule):
    network = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU())))
    network.append(ClassAgnosticHead(8))
    for again in (False, True):
        learner = learner_of(network, rule(0.05), inner_steps)
        agree(learner, tasks_of(n_tasks, 3, 2, 3, (1, 4, 4)), inner_steps, recompute=again)


def test_a_class_agnostic_head_alone():
    agree(
        learner_of(nn.Sequential(nn.Flatten(), ClassAgnosticHead(16)), PerParameter(0.1), 2),
        tasks_of(3, 3, 2, 3, (1, 4, 4)),
    )


@pytest.mark.parametrize("keep", [False, True])
def test_the_first_step_moves_a_class_agnostic_head_alone(keep):
    learner = learner_of(conv(), PerParameter(0.1), 2)
    theta = dict(learner.network.named_parameters())
    assert theta["head.weight"].abs().min() > 0
    stack = inner_loop_of(learner, theta, IMAGES)
    _, grads, _ = stack.support(stack.start, keep)
    _, by_autograd, _ = AutogradInnerLoop(learner, theta, IMAGES).support(stack.start, keep)
    for name, g in grads.items():
        assert name.startswith("head.") or not g.any()
        torch.testing.assert_close(g, by_autograd[name], atol=1e-15, rtol=1e-12)
    moved, _ = learner.rule(0, stack.start, grads, torch.zeros(()), {})
    _, grads, _ = stack.support(moved, keep)
    assert all(g.any() for name, g in grads.items() if name != "body.0.0.bias")  # which BatchNorm takes away


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("rule", [PerParameter(0.05), PerParameterMomentum(0.05), OptimizerNetwork(0.05, 0.3)])
def test_dense_network_with_any_rule(rule, n_tasks, first_order):
    learner = learner_of(MLP(1, [8, 7], 1), rule, 2, loss=F.mse_loss)
    agree(learner, curves_of(n_tasks, 5, 6), first_order=first_order, query_weights=[0.3, 0.7])


@pytest.mark.parametrize("sizes", [(1, 5, 1), (3, 1, 2), (2, 4, 3)])
@pytest.mark.parametrize("n_tasks", [2, 17])
def test_products_of_few_and_of_many_tasks(n_tasks, sizes):
    n_in, hidden, n_out = sizes
    learner = learner_of(MLP(n_in, [hidden, 6], n_out), PerParameter(0.02), 2, loss=F.mse_loss)
    generator = torch.Generator().manual_seed(5)
    x, y, query_x, query_y = (
        torch.randn(n_tasks, points, width, generator=generator, dtype=torch.float64)
        for points in (5, 6)
        for width in (n_in, n_out)
    )
    agree(learner, curves_of(n_tasks, 5, 6)._replace(support_x=x, support_y=y, query_x=query_x, query_y=query_y))


@pytest.mark.parametrize("adapted", ["head.bias", "body.1.bias", "body.3.weight"])
def test_dense_network_of_which_a_part_adapts(adapted):
    for rule in (PerParameter(0.05), OptimizerNetwork(0.05, 0.3)):
        learner = learner_of(MLP(1, [8, 7], 1), rule, 2, loss=F.mse_loss, adapted=frozenset({adapted}))
        agree(learner, curves_of(3, 5, 6))


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_dense_classifier_of_images(n_tasks):
    agree(learner_of(MLP(16, [8], 3), PerParameter(0.1), 2), tasks_of(n_tasks, 3, 2, 3, (1, 4, 4)))


@pytest.mark.parametrize("downsample", ["stride", "pool"])
def test_a_stem_in_chunks(monkeypatch, downsample):
    monkeypatch.setattr(stem, "CHUNK_BYTES", 2 * 8 * 8 * 9 * 8)
    agree(learner_of(conv(downsample), PerParameter(0.1), 2), IMAGES)


def test_a_stem_of_colour_images_that_ends_in_the_head():
    layers = [nn.Conv2d(3, 13, 2, stride=(2, 1), padding=(1, 0)), BatchNorm2d(13), nn.ReLU(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(13 * 5 * 7, 3))
    learner = learner_of(network, PerParameter(0.1), 2)
    assert len(learner.feed_forward.layers) == 1
    agree(learner, tasks_of(1, 3, 2, 3, (3, 8, 8)))


def test_query_normalised_by_support_statistics():
    agree(learner_of(conv(), PerParameter(0.1), 2, transductive=False), IMAGES)


def test_a_network_of_ones_own_layers():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=2, dilation=2, bias=False),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(3),
        nn.Flatten(),
        nn.Linear(16, 6, bias=False),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    agree(learner_of(network, PerParameter(0.1), 2), IMAGES)


def test_a_network_of_few_modules_that_come_twice():
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    first, second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(first, relu, pool, second, relu, pool, nn.Flatten(), nn.Linear(48, 3))
    learner = learner_of(network, PerParameter(0.1), 2)
    agree(learner, IMAGES)
    evaluated = evaluate(learner, learner.theta, IMAGES, 0, [0])
    torch.testing.assert_close(evaluated.outputs[0, 0], network(IMAGES.query_x[0]), atol=EXACT, rtol=0)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnForward(nn.Sequential):
    def forward(self, x):
        return super().forward(x).square()


def shared_layer():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def tied():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def hooked():
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].register_forward_hook(lambda module, x, y: 2 * y)
    return network


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(Doubling(4, 4)),
        OwnForward(nn.Linear(4, 4)),
        shared_layer(),
        tied(),
        hooked(),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(1, 1, 3)),
        nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(8, 4)),
        nn.Sequential(nn.Conv2d(1, 1, 3, padding="same"), nn.Flatten(), nn.Linear(8, 4)),
        nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(3, stride=1), nn.Flatten(), nn.Linear(8, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 4)),
        nn.Sequential(nn.Conv2d(1, 1, 3), nn.RMSNorm(2, elementwise_affine=False), nn.Flatten(), nn.Linear(4, 4)),
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    ],
)
def test_what_is_not_known_to_the_letter_is_left_to_autograd(network):
    learner = learner_of(network, PerParameter(0.1), 1, loss=F.mse_loss)
    assert learner.feed_forward is None


def test_a_loss_of_ones_own_is_left_to_autograd():
    learner = learner_of(MLP(1, [8], 1), PerParameter(0.1), 1, loss=lambda a, b: (a - b).abs().mean())
    assert learner.feed_forward is None


def test_stacked_convolutions_and_autocast_are_left_to_autograd():
    learner = learner_of(conv(), PerParameter(0.1), 1)
    theta = dict(learner.network.named_parameters())
    assert type(inner_loop_of(learner, theta, tasks_of(2, 3, 2, 3, (1, 16, 16)))) is AutogradInnerLoop
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert type(inner_loop_of(learner, theta, IMAGES)) is AutogradInnerLoop
