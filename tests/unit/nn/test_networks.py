import re

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, conv4
from torch import nn

from metasgd.errors import UserError
from metasgd.nn.adapting import adapted_names
from metasgd.nn.networks import (
    MLP,
    BatchNorm2d,
    ClassAgnosticHead,
    Conv4,
    class_agnostic_names,
    statistics_from_first,
    uses_batch_statistics,
)
from metasgd.rules.gradient_descent import PerParameter


@pytest.mark.parametrize("width", [4, [2, 3, 4, 5]])
@pytest.mark.parametrize(
    ("size", "downsample", "stride"), [(28, "stride", 2), (28, "pool", 1), (84, "pool", 1), (13, "stride", 2)]
)
def test_conv4_as_written_out(size, downsample, stride, width):
    network = Conv4(n_way=5, head="linear", in_channels=3, width=width, image_size=size, downsample=downsample)
    config_of(network, PerParameter(), 1)  # away from special points, float64
    x = torch.randn(6, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(network(x), conv4(dict(network.named_parameters()), x, stride))


@pytest.mark.parametrize(("downsample", "stride"), [("stride", 2), ("pool", 1)])
def test_normalised_features_lose_their_last_relu_and_their_length(downsample, stride):
    torch.manual_seed(0)
    n = 6
    network = Conv4(n_way=n, head="linear", width=5, image_size=20, downsample=downsample, features="normalised")
    config_of(network, PerParameter(), 1)  # away from special points, float64
    with torch.no_grad():
        network.body[3][1].bias.sub_(1)  # the largest of several values is below zero as well
    p, x = dict(network.named_parameters()), torch.randn(7, 1, 20, 20, dtype=torch.float64)
    y = x
    for i in range(4):
        y = F.conv2d(y, p[f"body.{i}.0.weight"], p[f"body.{i}.0.bias"], stride=stride, padding=1)
        y = F.batch_norm(y, None, None, p[f"body.{i}.1.weight"], p[f"body.{i}.1.bias"], training=True)
        y = y.relu() if i < 3 else y
        y = F.max_pool2d(y, 2) if downsample == "pool" else y
    y = y.flatten(1)
    y = y * (y.shape[1] / (y.square().sum(1, keepdim=True) + 1e-5 * y.shape[1])).sqrt()
    assert (y < 0).any()
    torch.testing.assert_close(network(x), y @ p["head.weight"].T + p["head.bias"])
    other = Conv4(n_way=n, head="linear", width=5, image_size=20, downsample=downsample)
    assert [(k, v.shape) for k, v in other.state_dict().items()] == [(k, v.shape) for k, v in p.items()]


def test_with_normalised_features_the_first_step_tells_classes_by_the_cosine():
    torch.manual_seed(0)
    network = Conv4(width=4, features="normalised")
    config_of(network, PerParameter(), 1)
    with torch.no_grad():
        for p in network.head.parameters():
            p.zero_()
    support, queries = torch.randn(2, 3, 1, 28, 28, dtype=torch.float64)
    head = torch.zeros(3, network.head.weight.shape[1], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(network.body(support) @ head.T, torch.arange(3)), head)
    step = network.body(queries) @ -gradient.T
    cosine = F.cosine_similarity(network.body(queries)[:, None], network.body(support)[None], dim=-1)
    expected = cosine - cosine.mean(1, keepdim=True)
    torch.testing.assert_close(step / step.norm(), expected / expected.norm(), atol=1e-5, rtol=0)


def test_conv4_has_the_parameters_that_its_layers_should_have():
    convolutions, norms, head = (9 * 1 + 1 + 3 * (9 * 64 + 1)) * 64, 4 * 2 * 64, (64 * 2 * 2 + 1) * 5
    assert sum(p.numel() for p in Conv4(n_way=5, head="linear").parameters()) == convolutions + norms + head


def test_each_convolution_may_have_a_width_of_its_own():
    network = Conv4(n_way=5, head="linear", width=[2, 3, 4, 5])
    assert [block[0].weight.shape[:2] for block in network.body[:4]] == [(2, 1), (3, 2), (4, 3), (5, 4)]
    assert network.head.weight.shape == (5, 5 * 2 * 2)


@pytest.mark.parametrize("width", [0, [8, 8, 8], [8, 8, 8, 0]])
def test_widths_that_are_no_numbers_for_four_convolutions_are_refused(width):
    with pytest.raises(UserError, match=re.escape(f"width is {width}: use a number, or four, each at least 1")):
        Conv4(width=width)


def test_batchnorm_as_torchs_own():
    x = torch.randn(5, 3, 4, 4)
    ours, theirs = BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)
    torch.testing.assert_close(ours(x), theirs(x))


def test_statistics_of_the_first_examples_do_not_see_the_others():
    norm, x = BatchNorm2d(3), torch.randn(5, 3, 4, 4)
    with statistics_from_first(norm, 2):
        torch.testing.assert_close(norm(x)[:2], BatchNorm2d(3)(x[:2]))
        changed = torch.cat([x[:2], 7 * x[2:]])
        torch.testing.assert_close(norm(changed)[:2], norm(x)[:2])
    assert norm.first is None


def test_foreign_batchnorm_cannot_be_inductive():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with (
        pytest.raises(UserError, match=r"transductive is false, but 1 \(BatchNorm2d\)"),
        statistics_from_first(network, 2),
    ):
        pass
    assert uses_batch_statistics(network)
    assert not uses_batch_statistics(MLP())


def test_class_agnostic_head_has_one_row_for_any_number_of_classes():
    network = Conv4(width=2)
    assert class_agnostic_names(network) == {"head.weight", "head.bias"}
    assert network.head.weight.shape[0] == 1
    assert class_agnostic_names(ClassAgnosticHead(3)) == {"weight", "bias"}
    assert class_agnostic_names(MLP()) == frozenset()


@pytest.mark.parametrize(
    ("adapts", "expected"),
    [
        ("all", {"body.1.weight", "body.1.bias", "head.weight", "head.bias"}),
        ("head", {"head.weight", "head.bias"}),
        ("body", {"body.1.weight", "body.1.bias"}),
        ("*.bias", {"body.1.bias", "head.bias"}),
        (["head.weight", "body.*"], {"head.weight", "body.1.weight", "body.1.bias"}),
    ],
)
def test_what_adapts(adapts, expected):
    assert adapted_names(MLP(1, [4], 1), adapts) == expected


def test_a_pattern_that_fits_nothing_is_refused():
    with pytest.raises(UserError, match=r"adapts has 'heads', which fits no parameter of MLP.*head.weight"):
        adapted_names(MLP(1, [4], 1), "heads")
    with pytest.raises(UserError, match="'head', which fits no parameter of Linear"):
        adapted_names(nn.Linear(1, 1), "head")
