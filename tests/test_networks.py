import pytest
import torch
from by_hand import conv4, learner_of
from torch import nn

from metasgd.errors import UserError
from metasgd.networks import (
    MLP,
    BatchNorm2d,
    ClassAgnosticHead,
    Conv4,
    adapted_names,
    class_agnostic_names,
    statistics_from_first,
    uses_batch_statistics,
)
from metasgd.update_rules import PerParameter


@pytest.mark.parametrize(
    ("size", "downsample", "stride"), [(28, "stride", 2), (28, "pool", 1), (84, "pool", 1), (13, "stride", 2)]
)
def test_conv4_as_written_out(size, downsample, stride):
    network = Conv4(n_way=5, head="linear", in_channels=3, width=4, image_size=size, downsample=downsample)
    learner_of(network, PerParameter(), 1)  # away from special points, float64
    x = torch.randn(6, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(network(x), conv4(dict(network.named_parameters()), x, stride))


def test_conv4_has_the_parameters_that_its_layers_should_have():
    convolutions, norms, head = (9 * 1 + 1 + 3 * (9 * 64 + 1)) * 64, 4 * 2 * 64, (64 * 2 * 2 + 1) * 5
    assert sum(p.numel() for p in Conv4(n_way=5, head="linear").parameters()) == convolutions + norms + head


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
        pytest.raises(UserError, match=r"model.transductive is false, but 1 is a BatchNorm2d"),
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
    with pytest.raises(UserError, match=r"model.adapts has 'heads', which fits no parameter of MLP.*head.weight"):
        adapted_names(MLP(1, [4], 1), "heads")
    with pytest.raises(UserError, match="'head', which fits no parameter of Linear"):
        adapted_names(nn.Linear(1, 1), "head")
