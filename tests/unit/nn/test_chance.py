import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import DropBlock2d, FrozenBatchNorm2d, StochasticDepth

from metasgd.errors import UserError
from metasgd.nn.behaviour import undisturbed
from metasgd.nn.calling import call
from metasgd.nn.chance import changing_modules, without_chance
from metasgd.nn.networks import MLP, BatchNorm2d, ClassAgnosticHead


class By(nn.Module):
    """A network of one function of (module, x)."""

    def __init__(self, f):
        super().__init__()
        self.f, self.lin = f, nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.made, self.of_python = torch.Generator().manual_seed(0), random.Random(0)
        self.of_numpy = np.random.default_rng(0)

    def forward(self, x):
        return self.f(self, self.lin(x))


def stored_mean(self, x):
    self.mean.lerp_(x.detach().mean(0), 0.1)
    return x


def once(self, x):
    if not self.mean.any():
        self.mean.add_(x.detach().mean(0))
    return x - self.mean


def rarely(x, drawn):
    return 2 * x if drawn < 1e-9 else x


def hidden(self, x):
    last = getattr(self, "last", 0)
    self.last = x.detach().mean()
    return x + last


def clamped(self, x):
    with torch.no_grad():
        self.lin.weight.clamp_(-0.01, 0.01)
    return x


class Encoder(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, p, batch_first=True), 2)

    def forward(self, x):
        return self.layers(x[:, None])[:, 0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(1, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.rnn(x[..., None])[0][:, -1]


def images(*layers):
    return nn.Sequential(nn.Unflatten(1, (1, 2, 2)), *layers, nn.Flatten())


def measured(norm):
    norm.running_mean.fill_(0.3)
    return norm


SILENT = {
    "dropout": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3)), {"1"}),
    "rare": (nn.Sequential(nn.Linear(4, 4), nn.Dropout(1e-7)), {"1"}),
    "of no effect at these weights": (
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), ClassAgnosticHead(4)),
        {"1"},
    ),
    "functional": (By(lambda self, x: F.dropout(x, 0.5, self.training)), {""}),
    "rrelu": (nn.Sequential(nn.Linear(4, 4), nn.RReLU()), {"1"}),
    "dropblock": (images(DropBlock2d(0.3, 1)), {"1"}),
    "depth": (nn.Sequential(nn.Linear(4, 4), StochasticDepth(0.1, "batch")), {"1"}),
    "python": (By(lambda self, x: x * (random.random() if self.training else 0.5)), {""}),
    "numpy": (By(lambda self, x: x * (float(np.random.rand()) if self.training else 0.5)), {""}),  # noqa: NPY002
    "attention": (
        Encoder(0.1),
        {f"layers.layers.{i}.{m}" for i in (0, 1) for m in ("self_attn", "dropout", "dropout1", "dropout2")},
    ),
    "recurrence": (Recurrent(), {"rnn"}),
    "none": (MLP(4, [4], 4), set()),
    "p is 0": (Encoder(0.0), set()),
    "batch statistics": (images(BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False)), set()),
    "frozen statistics": (images(FrozenBatchNorm2d(1)), set()),
    "running statistics": (images(measured(nn.BatchNorm2d(1)), nn.Dropout(0.5)), {"1", "2"}),
    "spectral norm": (
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))),
        {"0.parametrizations.weight.0"},
    ),
    "a table made at the first call": (By(lambda self, x: (setattr(self, "table", torch.ones(4)), x)[1]), set()),
}


@pytest.mark.parametrize("name", SILENT)
def test_chance_that_evaluation_switches_off_is_found_and_switched_off(name):
    network, expected = SILENT[name]
    x = torch.randn(5, 4)
    with undisturbed(network, x.device):
        found = changing_modules(network, x)
    assert set(found.names) == expected
    assert not set(found.random) & set(found.keeping)
    assert all(m.training for m in network.modules())
    with without_chance(network, found.names):
        first, second = (call(network, {}, x) for _ in range(2))
        assert torch.equal(first, second)
        assert {n for n, m in network.named_modules() if not m.training} == expected
    assert all(m.training for m in network.modules())


REFUSED = {
    "always": (By(lambda self, x: F.dropout(x, 0.5)), r"to chance .* in training: By \(the network itself\) draw"),
    "in evaluation": (By(lambda self, x: x if self.training else F.dropout(x, 0.5)), "in evaluation: By"),
    "noise": (
        nn.Sequential(By(lambda self, x: x + torch.randn(4)), By(lambda self, x: x + torch.randn(4))),
        r"By \(0, 1\) draw",
    ),
    "a pool": (images(nn.Upsample(4), nn.FractionalMaxPool2d(2, output_size=2)), r"FractionalMaxPool2d \(2\) draw"),
    "its own numbers": (
        By(lambda self, x: x + torch.randn(4, generator=self.made)),
        r"By \(the network itself\) draw",
    ),
    "rare, of its own torch": (By(lambda self, x: rarely(x, torch.rand((), generator=self.made))), "draw random"),
    "rare, of its own python": (By(lambda self, x: rarely(x, self.of_python.random())), "draw random"),
    "rare, of its own numpy": (By(lambda self, x: rarely(x, self.of_numpy.random())), "draw random"),
    "of the last batch": (By(hidden), "two passes over the same batch differ"),
    "running statistics": (
        nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(5))),
        r"running statistics that no batch has entered.*: BatchNorm1d \(0, 1, 2 and 2 more\)\. Load",
    ),
    "a mean": (By(stored_mean), r"buffers .*By \(the network itself\)"),
    "the first batch": (By(once), r"buffers .*By \(the network itself\)"),
    "weights": (By(clamped), r"buffers or parameters .*Linear \(lin\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_chance_and_state_that_stay_are_refused_in_one_message(name):
    network, said = REFUSED[name]
    x = torch.randn(5, 4)
    before = {n: b.clone() for n, b in network.named_buffers()}
    with undisturbed(network, x.device), pytest.raises(UserError, match=said) as it:
        changing_modules(network, x)
    assert len(it.value.problems) == 1
    assert all(torch.equal(b, before[n]) for n, b in network.named_buffers())


def test_trying_out_takes_no_random_number():
    network = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3))
    x = torch.randn(5, 4)

    def drawn(between):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        between()
        return torch.rand(1).item(), random.random(), np.random.rand()  # noqa: NPY002

    def try_out():
        with undisturbed(network, x.device):
            changing_modules(network, x)

    assert drawn(try_out) == drawn(lambda: None)
