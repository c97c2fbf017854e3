"""One of two processes that train replicas of a network."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metasgd import LearnedOptimizer
from metasgd.rules import OptimizerNetwork, ScaledOptimizerNetwork, UpdateRule

STEPS = 12
RULES: dict[str, Callable[[], UpdateRule]] = {
    "plain": lambda: OptimizerNetwork(0.05, 0.5),
    "scaled": lambda: ScaledOptimizerNetwork(0.05, 0.5, inputs=["relative_loss", "relative_trend"]),
}


def answering(rule: UpdateRule) -> UpdateRule:
    """The rule with weights by which its answer depends on the loss."""
    rule.bind({"w": torch.zeros(1, dtype=torch.float64)}, STEPS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in rule.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return rule


def made(name: str) -> tuple[nn.Sequential, LearnedOptimizer, Tensor, Tensor]:
    """The network, its optimizer, and a batch of inputs and targets for each of two processes and each step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=answering(RULES[name]()), total_steps=STEPS)
    x = torch.randn(2, STEPS, 8, 4, dtype=torch.float64)
    return network, optimizer, x, x.sum(dim=-1, keepdim=True)


def train(rank: int, port: int, name: str, folder: str) -> int:
    """Train one replica of two and save what it came to; the exit code."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, optimizer, x, y = made(name)
    parallel = nn.parallel.DistributedDataParallel(network)
    for s in range(STEPS):
        optimizer.zero_grad()
        loss = (parallel(x[rank, s]) - y[rank, s]).square().mean()
        loss.backward()
        if s == 5:  # on one process alone, and yet no process steps
            gradient = next(network.parameters()).grad
            assert gradient is not None
            gradient[0, 0] = torch.nan if rank else 0.0
        optimizer.step(loss)
    torch.save((list(network.parameters()), optimizer.n_steps, optimizer.skipped_steps), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    return 0
