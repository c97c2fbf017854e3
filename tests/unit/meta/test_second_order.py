"""The check of second derivatives by difference quotients; what it refuses is in test_any_network.py, too."""

import pytest
import torch
import torch.nn.functional as F
from support.by_hand import config_of, curves_of
from torch import nn

from metasgd.errors import UserError
from metasgd.meta import second_order
from metasgd.meta.second_order import validate_second_order
from metasgd.rules.gradient_descent import PerParameter


class NearAnEdge(nn.Module):
    """A line and a little of a ReLU that switches so far from the weight, wherever that is first."""

    def __init__(self, distance):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))
        self.distance, self.edge = distance, None

    def forward(self, x):
        if self.edge is None:
            self.edge = self.weight.detach() + self.distance
        return x * self.weight + 1e-5 * F.relu(self.weight - self.edge)


@pytest.mark.parametrize("distance", [1e-9, -1e-9, 1.0])
def test_a_switch_within_a_step_is_no_wrong_derivative(distance, monkeypatch):
    tasks = curves_of(1, 4, 5)
    validate_second_order(config_of(NearAnEdge(distance), PerParameter(0.05), 1, loss=F.mse_loss), tasks)
    monkeypatch.setattr(second_order, "STEPS", (1e-8,))
    config = config_of(NearAnEdge(distance), PerParameter(0.05), 1, loss=F.mse_loss)
    if abs(distance) < 1e-8:  # which one step of that length would have taken it for
        with pytest.raises(UserError, match="whose second derivative"):
            validate_second_order(config, tasks)
    else:
        validate_second_order(config, tasks)
