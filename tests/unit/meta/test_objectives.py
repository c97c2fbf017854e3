import pytest
import torch

from metasgd.errors import UserError
from metasgd.meta.objectives import OBJECTIVES


def test_accuracy_of_each_task():
    outputs = torch.tensor([[[2.0, 1, 0], [0, 3, 1]], [[0, 1, 0], [0, 0, 1]]])
    targets = torch.tensor([[0, 2], [1, 2]])
    assert OBJECTIVES["cross_entropy"].measure(outputs, targets, losses=torch.zeros(2)).tolist() == [0.5, 1.0]


def test_error_of_each_task():
    outputs, targets = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]]]), torch.tensor([[[1.0], [4.0]], [[3.0], [1.0]]])
    assert OBJECTIVES["mse"].measure(outputs, targets, losses=torch.zeros(2)).tolist() == pytest.approx([2.0, 5.0])


def test_which_way_is_better():
    assert OBJECTIVES["cross_entropy"].higher_is_better
    assert not OBJECTIVES["mse"].higher_is_better


def test_targets_of_the_other_kind_are_refused():
    classes, numbers = torch.arange(3)[None], torch.rand(1, 3, 1)
    with pytest.raises(UserError, match="loss is cross_entropy, .* numbers to come close to. Set loss to mse"):
        OBJECTIVES["cross_entropy"].validate_targets(numbers)
    with pytest.raises(UserError, match="loss is mse, .* are class numbers. Set loss to cross_entropy"):
        OBJECTIVES["mse"].validate_targets(classes)
    OBJECTIVES["cross_entropy"].validate_targets(classes)
    OBJECTIVES["mse"].validate_targets(numbers)
