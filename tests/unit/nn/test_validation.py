import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.nn.networks import MLP, Conv4
from metasgd.nn.validation import validate_tasks, validate_trainable


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), r"1 \(BatchNorm2d\) keeps running statistics"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), r"1 \(Dropout\) drops values by chance"),
        (nn.TransformerEncoderLayer(4, 1, 4), r"dropout1 \(Dropout\) drops values by chance"),
        (nn.AlphaDropout(), r"the network \(AlphaDropout\) drops values by chance"),
    ],
)
def test_what_depends_on_other_tasks_or_on_chance_is_refused_by_name(network, said):
    with pytest.raises(UserError, match=said):
        validate_trainable(network)


@pytest.mark.parametrize("network", [Conv4(width=2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0))])
def test_what_does_not_is_not(network):
    validate_trainable(network)


def classes(n):
    return torch.arange(n) % 5


@pytest.mark.parametrize(
    ("network", "shape", "targets", "n_way", "said"),
    [
        (Conv4(width=2, image_size=28), (1, 40, 40), classes(5), 5, r"is built for images of shape \(1, 28, 28\)"),
        (Conv4(width=2, image_size=32), (1, 28, 28), classes(5), 5, r"of shape \(1, 32, 32\), but .* \(1, 28, 28\)"),
        (Conv4(width=2, in_channels=3), (1, 28, 28), classes(5), 5, r"is built for images of shape \(3, 28, 28\)"),
        (MLP(2, [4], 5), (3,), classes(5), 5, "does not take the tasks' inputs of shape"),
        (Conv4(n_way=5, head="linear", width=2), (1, 28, 28), classes(5), 20, "but data.n_way is 20"),
        (MLP(1, [4], 1), (1,), classes(5), 5, "but data.n_way is 5"),
        (MLP(1, [4], 1), (), torch.randn(5, 1), 1, r"does not take the tasks' inputs of shape \(\)"),
        (MLP(1, [4], 1), (1,), torch.randn(5, 2), 1, r"of shape \(1,\) .* the targets have the shape \(2,\)"),
        (MLP(1, [4], 1), (1,), torch.randn(5), 1, r"of shape \(1,\) .* the targets have the shape \(\)"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(network, shape, targets, n_way, said):
    with pytest.raises(UserError, match=said):
        validate_tasks(network, torch.randn(5, *shape), targets, n_way)


def test_tasks_that_fit_are_not():
    validate_tasks(Conv4(width=2), torch.randn(20, 1, 28, 28), classes(20), 20)
    validate_tasks(MLP(1, [4], 3), torch.randn(5, 1), torch.randn(5, 3), 1)
