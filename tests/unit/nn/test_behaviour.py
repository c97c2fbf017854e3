import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metasgd.errors import UserError
from metasgd.nn.behaviour import validate_no_mixing
from metasgd.nn.networks import MLP, BatchNorm2d, ClassAgnosticHead, Conv4


class By(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f, self.lin, self.after = f, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.after(self.f(self.lin(x)))


def by_batch(x):
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


torch.manual_seed(0)  # of the networks below; of other weights, one in some 400 mixes too weakly to be seen
MIXING = {
    "functional": (By(lambda x: F.batch_norm(x, None, None, training=True)), (4,), r"in By \(the network itself\)"),
    "written out": (nn.Sequential(nn.Linear(4, 4), By(by_batch)), (4,), r"in By \(1\)"),
    "attention over examples": (By(lambda x: F.softmax(x @ x.T, dim=-1) @ x), (4,), "in By"),
    "behind a weight of zero": (nn.Sequential(By(by_batch), ClassAgnosticHead(4)), (4,), "mixes the examples"),
    "instances as channels": (By(lambda x: F.layer_norm(x.T, x.T.shape[-1:]).T), (4,), "mixes the examples"),
}


@pytest.mark.parametrize("by_support", [True, False])
@pytest.mark.parametrize("n_query", [1, 3])
@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_the_queries_is_refused(name, n_query, by_support):
    torch.manual_seed(0)
    network, shape, said = MIXING[name]
    with pytest.raises(UserError, match=f"transductive is false, but .*{said}"):
        validate_no_mixing(network, torch.randn(5, *shape), torch.randn(n_query, *shape), by_support)


APART = {
    "linear": (MLP(4, [4], 3), (4,)),
    "our batch norm": (Conv4(width=3, image_size=8), (1, 8, 8)),
    "group norm": (
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.Flatten()),
        (1, 4, 4),
    ),
    "frozen statistics": (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4).eval()), (4,)),
}


@pytest.mark.parametrize("name", APART)
def test_a_network_that_treats_each_query_alone_is_not(name):
    network, shape = APART[name]
    validate_no_mixing(network, torch.randn(5, *shape), torch.randn(3, *shape), by_support=True)


def test_our_batch_norm_mixes_without_a_support_set():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), BatchNorm2d(2), nn.ReLU(), nn.Flatten())
    with pytest.raises(UserError, match=r"in BatchNorm2d \(1\)"):
        validate_no_mixing(network, torch.randn(5, 1, 4, 4), torch.randn(3, 1, 4, 4), by_support=False)


def test_numbers_of_words_are_not_made_others():
    validate_no_mixing(
        nn.Sequential(nn.Embedding(3, 4), nn.Flatten()), torch.tensor([[0, 1]]), torch.tensor([[2, 2], [0, 1]]), True
    )
