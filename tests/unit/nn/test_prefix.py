"""A network run from where it begins to learn is the same network: values, and gradients of what learns."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from metasgd.episode import Episode
from metasgd.meta.model import MetaModel
from metasgd.nn import Backbone
from metasgd.nn.prefix import NoPrefixError, Prefix
from metasgd.rules import PerBlock


def residual() -> Backbone:
    blocks = [models.resnet.BasicBlock(4, 4) for _ in range(2)]
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), *blocks)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return Backbone(net, image_size=16, batch_norm="frozen", mean=[0.4] * 3, std=[0.2] * 3)


def attention() -> Backbone:
    net = models.VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8, dropout=0.1)
    return Backbone(net, image_size=16)


@pytest.mark.parametrize(
    ("make", "adapts", "ends", "engine"),
    [
        (residual, "head", "norm", "vmap"),
        (residual, "body.2.conv2.*", "body.1", "loop"),  # its block reads what comes before it once more
        (residual, "last:2", "body.1", "threads"),
        (attention, "last:2", "body.encoder.layers.encoder_layer_0", "vmap"),
    ],
)
def test_meta_gradients_from_features_are_those_from_pictures(make, adapts, ends, engine):
    torch.manual_seed(0)
    network = make().double()
    model = MetaModel(network, PerBlock(0.1), inner_steps=2, adapts=adapts, engine=engine).double()
    x = torch.rand(2, 12, 3, 16, 16, dtype=torch.float64)
    y = torch.arange(3).repeat_interleave(2).repeat(2, 1)
    tasks = Episode(x[:, :6], y, x[:, 6:], y, torch.zeros(2, 3, dtype=torch.int64), torch.arange(2))
    expected = model.meta_gradient(tasks)
    live = {*model.config.adapted, *model.config.rows}
    with model.ready(tasks):  # in which dropout is off
        prefix = Prefix(network, live, x[0])
        features = prefix.features(x.flatten(0, 1)).unflatten(0, (2, 12))
    assert prefix.name == ends
    with prefix.passed_over():
        found = model.meta_gradient(tasks._replace(support_x=features[:, :6], query_x=features[:, 6:]))
    torch.testing.assert_close(found.query_losses, expected.query_losses, rtol=1e-10, atol=0)
    for ours, theirs in ((found.phi, expected.phi), (found.theta, expected.theta)):
        for name, g in theirs.items():
            if ours is found.phi or name in live or "scale" in name:
                torch.testing.assert_close(ours[name], g, rtol=1e-9, atol=1e-12)
    first = next(iter(found.theta))
    assert expected.theta[first].any()
    assert not found.theta[first].any()
    torch.testing.assert_close(model.meta_gradient(tasks).query_losses, expected.query_losses, rtol=0, atol=0)


class Odd(nn.Module):
    """Two linear layers and what a network may do around them."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.first, self.act, self.last, self.what = (
            nn.Linear(3 if what == "wide" else 4, 4),
            nn.Tanh(),
            nn.Linear(4, 2),
            what,
        )
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "own parameter":
            x = x + self.shift.detach()
        if self.what == "by batch first":
            x = self.norm(x)
        h = self.act(self.first(x))
        if self.what == "by batch":
            h = self.act(self.norm(h))
        if self.what == "twice":
            h = self.act(self.first(h))
        return self.last(h + x if self.what == "input again" else h)


@pytest.mark.parametrize(
    ("what", "live"),
    [
        ("own parameter", {"shift", "last.weight"}),
        ("input again", {"last.weight"}),
        ("by batch first", {"last.weight"}),
        ("plain", {"first.bias"}),
        ("wide", {"last.weight"}),
    ],
)
def test_there_may_be_none(what, live):
    torch.manual_seed(0)
    network = Odd(what)
    with pytest.raises(
        NoPrefixError, match=r"no layer of Odd before all that learns has an output that depends on one"
    ):
        Prefix(network, live, torch.rand(5, 4)[:, : 3 if what == "wide" else 4])
    assert "forward" not in vars(network)


def test_a_module_called_again_after_the_cut_is_run_there():
    torch.manual_seed(0)
    network, x = Odd("twice"), torch.rand(5, 4)
    prefix = Prefix(network, {"last.weight", "last.bias"}, x)
    expected = network(x)
    h = prefix.features(x)
    torch.testing.assert_close(h, network.act(network.first(network.act(network.first(x)))))
    with prefix.passed_over():
        twin = copy.deepcopy(network)
        torch.testing.assert_close(network(h), expected)
        twin.last.weight.data.zero_()
        assert torch.equal(twin(h), twin.last.bias.expand(5, 2))
    torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


def test_a_model_that_has_found_it_can_be_pickled():
    torch.manual_seed(0)
    x, y = torch.rand(1, 12, 3, 16, 16), torch.arange(3).repeat_interleave(2)[None]
    tasks = Episode(x[:, :6], y, x[:, 6:], y, torch.zeros(1, 3, dtype=torch.int64), torch.arange(1))
    model = MetaModel(attention(), PerBlock(0.1), adapts="last:2", engine="loop")
    model.config = replace(model.config, unlearned=frozenset(model.config.theta))
    expected = model.evaluate(tasks, [1])
    assert model.prefix is not None
    again = pickle.loads(pickle.dumps(model))
    assert again.prefix.network is again.network
    assert torch.equal(again.evaluate(tasks, [1]).outputs, expected.outputs)


def test_it_ends_before_what_mixes_a_batch():
    torch.manual_seed(0)
    network, x = Odd("by batch"), torch.rand(5, 4)
    prefix = Prefix(network, {"last.weight"}, x)
    assert prefix.name == "act"
    with prefix.passed_over():
        torch.testing.assert_close(
            network(network.act(network.first(x))),
            prefix.network.last(network.act(network.norm(network.act(network.first(x))))),
        )


def test_features_of_an_example_have_the_same_bits_in_any_batch():
    torch.manual_seed(0)
    network = residual()
    prefix = Prefix(network, {"head.weight", "head.bias"}, torch.rand(3, 3, 16, 16))
    x = torch.rand(7, 3, 16, 16)
    assert torch.equal(prefix.features(x)[4:], prefix.features(x[4:].flip(0)).flip(0))


class Masked(nn.Module):
    """Leaves out padding, which it sees in its inputs once more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        shown = (x != 0).any(dim=-1, keepdim=True).to(x.dtype)
        return self.last((self.first(x).tanh() * shown).sum(1) / shown.sum(1))


def test_inputs_that_are_compared_later_are_needed_even_where_it_shows_in_no_example():
    torch.manual_seed(0)
    x = 0.1 + torch.rand(5, 3, 4)  # nothing is zero here, but elsewhere
    with pytest.raises(NoPrefixError):
        Prefix(Masked(), {"last.weight", "last.bias"}, x)


def test_a_forward_of_the_networks_own_is_run_and_left_to_it():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    plain = network.forward
    network.forward = own = lambda x: 2 * plain(x.flip(-1))
    x = torch.rand(5, 4)
    expected = network(x)
    prefix = Prefix(network, {"2.weight", "2.bias"}, x)
    h = prefix.features(x)
    with prefix.passed_over():
        torch.testing.assert_close(network(h), expected)
    assert vars(network)["forward"] is own
