"""The learned optimizer on a CUDA device: the steps of the CPU, what it resumes, and lower precision."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.rules.scheduled_muon import ScheduledMuon

STEPS = 12
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
RULES = {
    "network": lambda: OptimizerNetwork(0.05, 0.9),
    "scaled": lambda: ScaledOptimizerNetwork(inputs=["loss", "trend", "progress"]),
    "adam": ScheduledAdam,
    "muon": ScheduledMuon,
}


class Reader(nn.Module):
    """Kernels, a normalisation, an embedding, attention and a head: a tensor of each kind."""

    def __init__(self):
        super().__init__()
        # a bias before the normalisation would have gradients of rounding alone, which Adam makes large
        self.kernel, self.norm = nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.embedding = nn.Embedding(6, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x, symbols):
        seen = self.norm(self.kernel(x)).relu().flatten(2).mT
        return self.head(self.attention(torch.cat([seen, self.embedding(symbols)], dim=1)).mean(dim=1))


def trained(rule, device, dtype=torch.float64, resume_on=None, layout=torch.contiguous_format):
    """The weights after some steps, on the CPU; with ``resume_on``, the later half of them on another device."""
    torch.manual_seed(0)
    network = Reader().to(dtype=dtype, memory_format=layout)
    x = torch.randn(STEPS, 16, 1, 9, 9, dtype=torch.float64).to(dtype)
    symbols, y = torch.randint(6, (STEPS, 16, 3)), torch.arange(16) % 5

    def optimizer_of(network):
        torch.manual_seed(1)  # of the rule's own weights
        return LearnedOptimizer(network.named_parameters(), update_rule=RULES[rule](), total_steps=STEPS)

    network.to(device)
    optimizer = optimizer_of(network)
    for step in range(STEPS):
        if step == STEPS // 2 and resume_on is not None:
            state, device = optimizer.state_dict(), resume_on
            network.to(device)
            optimizer = optimizer_of(network)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x[step].to(device), symbols[step].to(device)), y.to(device))
        loss.backward()
        optimizer.step(loss)
    return {n: t.cpu() for n, t in network.state_dict().items()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rule", RULES)
def test_steps_are_those_of_the_cpu(rule, layout):
    expected = trained(rule, "cpu")
    torch.testing.assert_close(trained(rule, "cuda", layout=layout), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("first", "then"), [("cpu", "cuda"), ("cuda", "cpu")])
@pytest.mark.parametrize("rule", RULES)
def test_a_run_resumes_on_another_device(rule, first, then):
    expected = trained(rule, "cpu")
    torch.testing.assert_close(trained(rule, first, resume_on=then), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_single_precision_is_near_double(rule, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    expected = trained(rule, "cpu")
    for name, found in trained(rule, "cuda", torch.float32).items():
        off = (found.double() - expected[name].double()).norm()
        assert off <= 1e-3 * expected[name].double().norm() + 1e-5, name


def test_a_scaler_leaves_its_steps_out_and_trains():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3)).cuda()
    optimizer = LearnedOptimizer(network.parameters(), update_rule=ScheduledMuon(), total_steps=60)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**24)  # whose first gradients overflow
    x = torch.randn(64, 4, device="cuda")
    y = x[:, :3].argmax(dim=1)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16):
            loss = F.cross_entropy(network(x), y)
        scaler.scale(loss * 256).backward()
        scaler.step(optimizer, loss=loss)
        scaler.update()
        losses.append(loss.item())
    assert optimizer.n_steps < 60  # some were left out
    assert losses[-1] < 0.5 * losses[0]
