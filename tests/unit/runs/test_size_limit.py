import pytest
import torch
from torch import nn

from metasgd.errors import UserError
from metasgd.nn import MLP, Conv4
from metasgd.rules import OptimizerNetwork, PerLayerPerStep, PerParameter, Scalar
from metasgd.runs.size_limit import LEAST, SLACK, SizeLimit

NETWORKS = [
    lambda: Conv4(),
    lambda: Conv4(width=64, n_way=20),
    lambda: MLP(in_features=1, hidden=[40, 40], out_features=1),
    lambda: nn.TransformerEncoderLayer(64, 4),
    lambda: nn.LSTM(256, 512, 2),
    lambda: nn.Sequential(nn.Linear(3000, 3000), nn.BatchNorm1d(3000), nn.Dropout(0.5)),
    lambda: nn.init.orthogonal_(torch.empty(500, 500)),
]


@pytest.mark.parametrize("make", NETWORKS)
def test_what_has_such_weights_is_built_to_the_same_bits(make):
    torch.manual_seed(3)
    own = make()
    weights = own.state_dict() if isinstance(own, nn.Module) else {"x": own}
    torch.manual_seed(3)
    with SizeLimit(weights):
        again = make()
    again = again.state_dict() if isinstance(again, nn.Module) else {"x": again}
    assert all(torch.equal(t, again[n]) for n, t in weights.items())


@pytest.mark.parametrize("rule", [PerParameter, PerLayerPerStep, Scalar, OptimizerNetwork])
def test_rules_are_bound_under_it(rule):
    network = MLP(in_features=1, hidden=[4], out_features=1)
    with SizeLimit(network.state_dict()):
        rule().bind(dict(network.named_parameters()), 5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**9, 40),
        lambda: nn.Linear(10**15, 10**15),
        lambda: MLP(in_features=1, hidden=[10**9], out_features=1),
        lambda: Conv4(width=10**6),
        lambda: torch.arange(10**12),
        lambda: torch.linspace(0, 1, 10**12),
        lambda: torch.eye(10**7),
        lambda: torch.zeros(()).new_full((10**12,), 3.0),
        lambda: torch.zeros(1).repeat(10**12),
        lambda: [torch.zeros(LEAST // 10) for _ in range(10**9)],
        lambda: PerLayerPerStep().bind({"a": torch.zeros(2)}, 10**11),
    ],
)
def test_what_the_weights_give_no_reason_for_is_refused_before_it_takes_memory(make):
    with (
        pytest.raises(UserError, match="the weights that the checkpoint holds are 9"),
        SizeLimit({"a": torch.zeros(9)}),
    ):
        make()


def test_the_limit_is_a_multiple_of_the_weights():
    with SizeLimit({"a": torch.zeros(10)}):
        torch.zeros(LEAST)
    with pytest.raises(UserError), SizeLimit({"a": torch.zeros(10)}):
        torch.zeros(LEAST + 1)
    n = LEAST // 4
    with SizeLimit({"a": torch.zeros(n)}):
        torch.zeros(SLACK * n)
