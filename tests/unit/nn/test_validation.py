import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.nn.networks import MLP, Conv4
from metasgd.nn.validation import validate_initialised, validate_tasks, validate_ways


def test_layers_without_shapes_are_refused_together():
    network = nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.LazyBatchNorm1d(), nn.Linear(3, 2))
    with pytest.raises(UserError, match=r"layers without shapes: 0 \(LazyLinear\), 2 \(LazyBatchNorm1d\)\. ") as it:
        validate_initialised(network)
    assert len(it.value.problems) == 1
    network(torch.randn(4, 5))
    validate_initialised(network)


def classes(n):
    return torch.arange(n) % 5


@pytest.mark.parametrize(
    ("network", "shape", "targets", "n_way", "said"),
    [
        (Conv4(width=2, image_size=28), (1, 40, 40), classes(5), 5, r"built for images of shape \(1, 28, 28\)"),
        (Conv4(width=2, image_size=32), (1, 28, 28), classes(5), 5, r"of shape \(1, 32, 32\), but .* \(1, 28, 28\)"),
        (Conv4(width=2, in_channels=3), (1, 28, 28), classes(5), 5, r"built for images of shape \(3, 28, 28\)"),
        (MLP(2, [4], 5), (3,), classes(5), 5, "does not take the tasks' inputs of shape"),
        (Conv4(n_way=5, head="linear", width=2), (1, 28, 28), classes(5), 20, "but n_way is 20"),
        (MLP(1, [4], 1), (1,), classes(5), 5, "but n_way is 5"),
        (MLP(1, [4], 1), (), torch.randn(5, 1), 1, r"does not take the tasks' inputs of shape \(\)"),
        (MLP(1, [4], 1), (1,), torch.randn(5, 2), 1, r"of shape \(1,\) .* the targets have the shape \(2,\)"),
        (MLP(1, [4], 1), (1,), torch.randn(5), 1, r"of shape \(1,\) .* the targets have the shape \(\)"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(network, shape, targets, n_way, said):
    with pytest.raises(UserError, match=said):
        validate_tasks(network, torch.randn(5, *shape), targets, n_way)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def test_outputs_that_are_no_tensor_are_refused():
    with pytest.raises(UserError, match="Pair returns a tuple, where one tensor of outputs is needed"):
        validate_tasks(Pair(1, 5), torch.randn(5, 1), classes(5), 5)


def test_tasks_that_fit_are_not():
    validate_tasks(Conv4(width=2), torch.randn(20, 1, 28, 28), classes(20), 20)
    validate_tasks(MLP(1, [4], 3), torch.randn(5, 1), torch.randn(5, 3), 1)


@pytest.mark.parametrize("head", ["prototype", "class_agnostic", "linear"])
def test_ways_in_turn_need_a_head_for_any_number_of_them(head):
    network = Conv4(head=head)
    validate_ways(network, [5, 5])
    if head == "linear":
        with pytest.raises(UserError, match="5, 20 ways, but Conv4 has outputs for one number of classes"):
            validate_ways(network, [20, 5])
    else:
        validate_ways(network, [20, 5])
