"""Closed-form derivatives against autograd's, float64."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of, largest_difference, moved, tasks_of
from torch import nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves

from metasgd.meta.autograd import AutogradInnerLoop
from metasgd.meta.closed_form.from_module import from_module
from metasgd.meta.closed_form.inner_loop import ClosedFormInnerLoop
from metasgd.meta.evaluate import evaluate
from metasgd.meta.meta_gradient import inner_loop_of, meta_gradient
from metasgd.nn.networks import MLP, BatchNorm2d, ClassAgnosticHead, Conv4
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum
from metasgd.rules.optimizer_network import OptimizerNetwork

EXACT = 1e-10


def agree(config, tasks, inner_steps=2, **options):
    """Closed forms were used, and give what autograd gives."""
    theta = dict(config.network.named_parameters())
    general = replace(config, closed_form=False)
    assert isinstance(inner_loop_of(config, theta, tasks), ClosedFormInnerLoop)
    assert not isinstance(inner_loop_of(general, theta, tasks), ClosedFormInnerLoop)
    found, expected = (meta_gradient(own, theta, tasks, inner_steps, **options) for own in (config, general))
    assert largest_difference(found.theta, expected.theta) < EXACT
    assert largest_difference(found.phi, expected.phi) < EXACT
    for field in ("support_losses", "query_losses", "outputs"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), atol=EXACT, rtol=0)
    evaluated, as_expected = (evaluate(own, theta, tasks, inner_steps, [0, inner_steps]) for own in (config, general))
    torch.testing.assert_close(evaluated.outputs, as_expected.outputs, atol=EXACT, rtol=0)
    torch.testing.assert_close(evaluated.query_losses, as_expected.query_losses, atol=EXACT, rtol=0)


def conv(downsample="stride", head="class_agnostic", width=9, features="rectified"):
    return Conv4(n_way=3, head=head, width=width, image_size=16, downsample=downsample, features=features)


IMAGES = tasks_of(1, 3, 2, 3, (1, 16, 16))
STACK = tasks_of(3, 3, 2, 3, (1, 16, 16))


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("width", [3, 9])
def test_conv4(width, downsample, recompute, first_order):
    config = config_of(conv(downsample, width=width), PerParameter(0.1), 2)
    for tasks in (IMAGES, STACK):
        agree(config, tasks, recompute=recompute, first_order=first_order)


@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("downsample", ["stride", "pool"])
@pytest.mark.parametrize("head", ["linear", "class_agnostic"])
def test_conv4_with_normalised_features(head, downsample, inner_steps):
    config = config_of(conv(downsample, head, features="normalised"), PerParameter(0.1), inner_steps)
    for tasks in (IMAGES, STACK):
        agree(config, tasks, inner_steps)
        agree(replace(config, transductive=False), tasks, inner_steps)


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
        config = config_of(network, rule, 2, adapted=frozenset({adapted}))
        agree(config, tasks_of(n_tasks, 3, 2, 3, (1, 4, 4)))


@pytest.mark.parametrize("adapted", ["head", "body.3", "body.0.1", "body.1.0.bias", "body.1.1.bias", "body.2.1.weight"])
@pytest.mark.parametrize("head", ["linear", "class_agnostic"])
def test_conv4_of_which_a_part_adapts(head, adapted):
    network = conv(head=head)
    names = frozenset(n for n, _ in network.named_parameters() if n.startswith(adapted))
    # a rule that reads the loss brings in the first derivatives of what does not adapt
    by_loss = config_of(conv(head=head), OptimizerNetwork(0.05, 0.3), 2, adapted=names)
    for tasks in (IMAGES, STACK):
        agree(config_of(network, PerParameter(0.1), 2, adapted=names), tasks)
        agree(by_loss, tasks)


@pytest.mark.parametrize("rule", [PerParameter, PerParameterMomentum, OptimizerNetwork])
@pytest.mark.parametrize("inner_steps", [1, 3])
@pytest.mark.parametrize("n_tasks", [1, 3])
def test_a_class_agnostic_head_on_stacked_tasks(n_tasks, inner_steps, rule):
    network = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU())))
    network.append(ClassAgnosticHead(8))
    for again in (False, True):
        config = config_of(network, rule(0.05), inner_steps)
        agree(config, tasks_of(n_tasks, 3, 2, 3, (1, 4, 4)), inner_steps, recompute=again)


def test_a_class_agnostic_head_alone():
    agree(
        config_of(nn.Sequential(nn.Flatten(), ClassAgnosticHead(16)), PerParameter(0.1), 2),
        tasks_of(3, 3, 2, 3, (1, 4, 4)),
    )


@pytest.mark.parametrize("keep", [False, True])
def test_the_first_step_moves_a_class_agnostic_head_alone(keep):
    config = config_of(conv(), PerParameter(0.1), 2)
    theta = dict(config.network.named_parameters())
    assert theta["head.weight"].abs().min() > 0
    stack = inner_loop_of(config, theta, IMAGES)
    _, grads, _ = stack.support(stack.start, keep)
    _, by_autograd, _ = AutogradInnerLoop(config, theta, IMAGES).support(stack.start, keep)
    for name, g in grads.items():
        assert name.startswith("head.") or not g.any()
        torch.testing.assert_close(g, by_autograd[name], atol=1e-15, rtol=1e-12)
    moved, _ = config.rule(0, stack.start, grads, torch.zeros(()), {})
    _, grads, _ = stack.support(moved, keep)
    cancelled = {f"body.{i}.0.bias" for i in range(4)}  # which BatchNorm takes away
    assert {name for name, g in grads.items() if not g.any()} == cancelled


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("n_tasks", [1, 3])
@pytest.mark.parametrize("rule", [PerParameter(0.05), PerParameterMomentum(0.05), OptimizerNetwork(0.05, 0.3)])
def test_dense_network_with_any_rule(rule, n_tasks, first_order):
    config = config_of(MLP(1, [8, 7], 1), rule, 2, loss=F.mse_loss)
    agree(config, curves_of(n_tasks, 5, 6), first_order=first_order, query_weights=[0.3, 0.7])


@pytest.mark.parametrize("sizes", [(1, 5, 1), (3, 1, 2), (2, 4, 3)])
@pytest.mark.parametrize("n_tasks", [2, 17])
def test_products_of_few_and_of_many_tasks(n_tasks, sizes):
    n_in, hidden, n_out = sizes
    config = config_of(MLP(n_in, [hidden, 6], n_out), PerParameter(0.02), 2, loss=F.mse_loss)
    generator = torch.Generator().manual_seed(5)
    x, y, query_x, query_y = (
        torch.randn(n_tasks, points, width, generator=generator, dtype=torch.float64)
        for points in (5, 6)
        for width in (n_in, n_out)
    )
    agree(config, curves_of(n_tasks, 5, 6)._replace(support_x=x, support_y=y, query_x=query_x, query_y=query_y))


@pytest.mark.parametrize("adapted", ["head.bias", "body.1.bias", "body.3.weight"])
def test_dense_network_of_which_a_part_adapts(adapted):
    for rule in (PerParameter(0.05), OptimizerNetwork(0.05, 0.3)):
        config = config_of(MLP(1, [8, 7], 1), rule, 2, loss=F.mse_loss, adapted=frozenset({adapted}))
        agree(config, curves_of(3, 5, 6))


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_dense_classifier_of_images(n_tasks):
    agree(config_of(MLP(16, [8], 3), PerParameter(0.1), 2), tasks_of(n_tasks, 3, 2, 3, (1, 4, 4)))


def test_query_normalised_by_support_statistics():
    agree(config_of(conv(), PerParameter(0.1), 2, transductive=False), IMAGES)


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
    agree(config_of(network, PerParameter(0.1), 2), IMAGES)


def test_a_network_of_few_modules_that_come_twice():
    relu, pool = nn.ReLU(), nn.MaxPool2d(2)
    first, second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
    network = nn.Sequential(first, relu, pool, second, relu, pool, nn.Flatten(), nn.Linear(48, 3))
    config = config_of(network, PerParameter(0.1), 2)
    agree(config, IMAGES)
    evaluated = evaluate(config, config.theta, IMAGES, 0, [0])
    torch.testing.assert_close(evaluated.outputs[0, 0], network(IMAGES.query_x[0]), atol=EXACT, rtol=0)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class OwnForward(nn.Sequential):
    def forward(self, x):
        return super().forward(x).square()


class Backwards(nn.Sequential):
    def __iter__(self):
        return reversed(list(self._modules.values()))


class Weight(nn.Parameter):
    """A parameter with arithmetic of its own."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        return 2 * found if func is F.linear else found


def changed(network, change):
    change(network)
    return network


def dense():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def convolutional(*between, conv=None, features=16):
    conv = conv or nn.Conv2d(1, 4, 3)
    return nn.Sequential(conv, *between, nn.Flatten(), nn.Linear(features, 4))


def shared_layer():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


def set_forward(module, forward):
    module.forward = forward


def drop(module, name):
    """As one of its own in the place of a parameter."""
    value = getattr(module, name).detach()
    delattr(module, name)
    setattr(module, name, value)


def with_statistics(norm):
    norm.track_running_stats = False
    norm.eval()
    return norm


DENSE = {
    "a subclass": lambda: nn.Sequential(Doubling(4, 4)),
    "a sequence's own forward": lambda: OwnForward(nn.Linear(4, 4)),
    "a sequence's own order": lambda: Backwards(nn.Linear(4, 4), nn.Linear(4, 4)),
    "a layer that comes twice": shared_layer,
    "a block that comes twice": lambda: nn.Sequential(*[nn.Sequential(nn.Linear(4, 4))] * 2),
    "tied weights": lambda: changed(dense(), lambda net: setattr(net[2], "weight", net[0].weight)),
    "a forward of the instance": lambda: changed(dense(), lambda net: set_forward(net[1], torch.tanh)),
    "a forward of the first instance": lambda: changed(dense(), lambda net: set_forward(net[0], torch.sin)),
    "a forward of the whole": lambda: changed(dense(), lambda net: set_forward(net, lambda x: net[0](x).cos())),
    "a call of the instance": lambda: changed(dense(), lambda net: setattr(net[1], "_call_impl", torch.tanh)),
    "a forward hook": lambda: changed(dense(), lambda net: net[0].register_forward_hook(lambda m, x, y: 2 * y)),
    "a forward hook of the whole": lambda: changed(dense(), lambda net: net.register_forward_hook(lambda m, x, y: -y)),
    "a forward pre-hook": lambda: changed(
        dense(), lambda net: net[1].register_forward_pre_hook(lambda m, x: (x[0] - 0.1,))
    ),
    "a backward hook": lambda: changed(
        dense(), lambda net: net[1].register_full_backward_hook(lambda m, dx, dy: (2 * dx[0],))
    ),
    "a backward pre-hook": lambda: changed(
        dense(), lambda net: net[2].register_full_backward_pre_hook(lambda m, dy: (2 * dy[0],))
    ),
    "weight_norm": lambda: changed(dense(), lambda net: nn.utils.parametrizations.weight_norm(net[0])),
    "orthogonal": lambda: changed(dense(), lambda net: nn.utils.parametrizations.orthogonal(net[2])),
    "pruned": lambda: changed(dense(), lambda net: prune.l1_unstructured(net[0], "weight", 5)),
    "a weight that is no parameter": lambda: changed(dense(), lambda net: drop(net[0], "weight")),
    "a bias that is no parameter": lambda: changed(dense(), lambda net: drop(net[2], "bias")),
    "a parameter more": lambda: changed(
        nn.Sequential(nn.Linear(4, 4)), lambda net: net.register_parameter("scale", nn.Parameter(torch.ones(4)))
    ),
    "another layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)),
    "another class of layer": lambda: nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU(0.1), nn.Linear(4, 4)),
    "no head": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
    "a norm with weights": lambda: nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4), nn.Linear(4, 4)),
    "a norm over more": lambda: nn.Sequential(
        nn.Linear(4, 4), nn.Unflatten(1, (2, 2)), nn.RMSNorm((2, 2), None, False), nn.Flatten(), nn.Linear(4, 4)
    ),
}
IMAGED = {
    "groups": lambda: convolutional(nn.Conv2d(4, 4, 1, groups=2)),
    "padding by name": lambda: convolutional(conv=nn.Conv2d(1, 1, 3, padding="same")),
    "padding of another kind": lambda: convolutional(conv=nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")),
    "padding of another kind, set later": lambda: changed(
        convolutional(conv=nn.Conv2d(1, 1, 3, padding=1)), lambda net: setattr(net[0], "padding_mode", "circular")
    ),
    "a norm of images": lambda: convolutional(nn.RMSNorm(2, elementwise_affine=False)),
    "a norm without weights": lambda: convolutional(nn.BatchNorm2d(4, affine=False, track_running_stats=False)),
    "a norm of which the bias is away": lambda: convolutional(
        changed(BatchNorm2d(4), lambda norm: setattr(norm, "bias", None))
    ),
    "a norm by the first two": lambda: convolutional(changed(BatchNorm2d(4), lambda norm: setattr(norm, "first", 2))),
    "a norm that goes by what it saw": lambda: convolutional(with_statistics(nn.BatchNorm2d(4))),
    "a mean": lambda: convolutional(nn.AvgPool2d(2, 1), features=4),
    "no flattening": lambda: convolutional().__class__(nn.Conv2d(1, 4, 3), nn.Linear(2, 4), nn.Flatten()),
}


@pytest.mark.parametrize("kind", [*DENSE, *IMAGED])
def test_what_is_not_known_to_the_letter_is_left_to_autograd(kind):
    torch.manual_seed(0)
    network = (DENSE | IMAGED)[kind]()
    config = config_of(network, PerParameter(0.1), 1, loss=F.mse_loss)
    assert config.feed_forward is None


@pytest.mark.parametrize("patch", ["forward", "__call__"])
@pytest.mark.parametrize("kind", [nn.Linear, nn.ReLU, nn.Sequential, nn.Module])
def test_a_class_that_was_changed_is_left_to_autograd(kind, patch, monkeypatch):
    network = dense()
    assert from_module(network, F.mse_loss) is not None
    if kind is not nn.Module or patch == "__call__":
        monkeypatch.setattr(kind, patch, lambda self, x: x)
        assert from_module(network, F.mse_loss) is None


def test_a_hook_on_all_modules_leaves_all_to_autograd():
    hook = nn.modules.module.register_module_forward_hook(lambda module, x, y: None)
    try:
        assert from_module(dense(), F.mse_loss) is None
    finally:
        hook.remove()
    assert from_module(dense(), F.mse_loss) is not None


def test_a_network_is_read_anew_for_every_use():
    """What it does may change between two outer steps."""
    tasks = tasks_of(2, 4, 2, 3, (4,))
    config = config_of(dense(), PerParameter(0.1), 2)
    agree(config, tasks)
    before = meta_gradient(config, config.theta, tasks, 2)
    config.network[1].forward = torch.tanh
    assert type(inner_loop_of(config, config.theta, tasks)) is AutogradInnerLoop
    found = meta_gradient(config, config.theta, tasks, 2)
    fresh = config_of(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), PerParameter(0.1), 2)
    expected = meta_gradient(replace(config, network=fresh.network), config.theta, tasks, 2)
    assert largest_difference(found.theta, expected.theta) < EXACT
    assert largest_difference(found.theta, before.theta) > 1e-3
    del config.network[1].forward
    agree(config, tasks)


def test_settings_may_change_between_two_uses():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, track_running_stats=False), nn.MaxPool2d(2), nn.Flatten()
    ).append(nn.Linear(256, 3))
    config = config_of(network, PerParameter(0.1), 2)
    agree(config, IMAGES)
    network[0].dilation, network[0].padding = 2, 2
    network[1].eps, network[1].momentum = 0.5, 0.9
    network[2].stride, network[2].padding = None, 1
    network[4].weight.data, network[4].in_features = torch.randn(3, 324, dtype=torch.float64) / 10, 324
    agree(replace(config, rule=config_of(network, PerParameter(0.1), 2).rule), IMAGES)


def test_parameters_with_arithmetic_of_their_own_are_left_to_autograd():
    config = config_of(dense(), PerParameter(0.1), 1)
    config.network[0].weight = Weight(config.network[0].weight.detach())
    tasks = tasks_of(1, 4, 2, 3, (4,))
    assert type(inner_loop_of(config, dict(config.network.named_parameters()), tasks)) is AutogradInnerLoop


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_left_to_autograd(dtype):
    config, tasks = moved(config_of(dense(), PerParameter(0.1), 1), tasks_of(1, 4, 2, 3, (4,)), dtype)
    assert type(inner_loop_of(config, config.theta, tasks)) is AutogradInnerLoop


def test_sizes_that_do_not_fit_are_left_to_autograd_which_says_so():
    """A stack of products would take a single feature for all of them."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 3))
    config = config_of(network, PerParameter(0.1), 1)
    stack = inner_loop_of(config, config.theta, tasks_of(2, 3, 2, 3, (6,)))
    with pytest.raises(RuntimeError, match="size"):
        stack.query(stack.start)
    assert from_module(nn.Sequential(nn.Linear(4, 5), nn.RMSNorm(4, None, False), nn.Linear(5, 3)), F.mse_loss) is None


def test_examples_that_cross_entropy_ignores():
    for tasks in (tasks_of(3, 3, 2, 3, (1, 4, 4)), IMAGES):
        support_y, query_y = tasks.support_y.clone(), tasks.query_y.clone()
        support_y[:, 1], query_y[:, 3:5] = -100, -100
        network = MLP(16, [8], 3) if tasks is not IMAGES else conv()
        agree(config_of(network, PerParameter(0.1), 2), tasks._replace(support_y=support_y, query_y=query_y))


def test_no_layer_writes_into_what_it_was_given():
    """So any layer may save what it was given or returns, whatever comes after it."""
    generator = torch.Generator().manual_seed(0)

    def noise(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    network = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(36, 6), nn.RMSNorm(6, None, False), nn.ReLU(), nn.Linear(6, 3)),
    ).double()
    p = {n: t.detach() for n, t in network.named_parameters()}
    x = noise(torch.empty(5, 2, 7, 7))
    for layer in from_module(network, F.cross_entropy).layers:
        watched = Watched(p)
        dot = watched({n: noise(p[n]) for n in layer.names})
        y, saved = layer.forward(p, watched(x))
        watched((y, saved))
        dy, dy_dot, x_dot = watched((noise(y), noise(y), noise(x)))
        watched(layer.backward(p, saved, dy, True))
        for direction, moves in ((dot, x_dot), ({}, x_dot), (dot, None)):
            _, dot_saved = watched(layer.tangent(p, direction, saved, moves))
            watched(layer.tangent_backward(p, direction, saved, dot_saved, dy, dy_dot, True))
        watched.assert_unchanged()
        x = y


class Watched:
    """Remembers tensors as they were when they were seen first."""

    def __init__(self, seen):
        self.copies = []
        self(seen)

    def __call__(self, seen):
        for t in tree_leaves(seen):
            if isinstance(t, torch.Tensor):
                self.copies.append((t, t.clone()))
        return seen

    def assert_unchanged(self):
        assert len(self.copies) > 3
        assert all(torch.equal(t, copied) for t, copied in self.copies)


def test_a_loss_of_ones_own_is_left_to_autograd():
    config = config_of(MLP(1, [8], 1), PerParameter(0.1), 1, loss=lambda a, b: (a - b).abs().mean())
    assert config.feed_forward is None


def test_autocast_is_left_to_autograd():
    config = config_of(conv(), PerParameter(0.1), 1)
    theta = dict(config.network.named_parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert type(inner_loop_of(config, theta, IMAGES)) is AutogradInnerLoop


@pytest.mark.parametrize("n_tasks", [1, 2])
@pytest.mark.parametrize(
    "layers",
    [
        lambda: (nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(392, 3)),  # images have one channel
        lambda: (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(2, 1, 3), nn.Flatten(), nn.Linear(144, 3)),
        lambda: (nn.Conv2d(1, 4, 3), BatchNorm2d(1), nn.Flatten(), nn.Linear(784, 3)),
        lambda: (nn.Conv2d(1, 2, 17), nn.Flatten(), nn.Linear(2, 3)),  # larger than the images
    ],
)
def test_convolutions_that_do_not_fit_are_errors(layers, n_tasks):
    config = config_of(nn.Sequential(*layers()).double(), PerParameter(0.1), 1)
    with pytest.raises(RuntimeError):
        meta_gradient(config, config.theta, tasks_of(n_tasks, 3, 2, 3, (1, 16, 16)), 1)


def test_an_empty_query_set_has_no_outputs():
    config = config_of(conv(), PerParameter(0.1), 1)
    empty = STACK._replace(query_x=STACK.query_x[:, :0], query_y=STACK.query_y[:, :0])
    assert evaluate(config, config.theta, empty, 1, [1]).outputs.shape[-2:] == (0, 3)
