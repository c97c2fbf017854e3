"""Replicas that a learned optimizer trains in two processes stay the same, and read the mean of their losses."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from metasgd import LearnedOptimizer
from metasgd.rules import OptimizerNetwork, ScaledOptimizerNetwork

STEPS = 12
RULES = {
    "plain": lambda: OptimizerNetwork(0.05, 0.5),
    "scaled": lambda: ScaledOptimizerNetwork(0.05, 0.5, inputs=["relative_loss", "relative_trend"]),
}


def answering(rule):
    """The rule with weights by which its answer depends on the loss."""
    rule.bind({"w": torch.zeros(1, dtype=torch.float64)}, STEPS)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in rule.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return rule


def made(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    optimizer = LearnedOptimizer(network.named_parameters(), update_rule=answering(RULES[name]()), total_steps=STEPS)
    x = torch.randn(2, STEPS, 8, 4, dtype=torch.float64)
    return network, optimizer, x, x.sum(dim=-1, keepdim=True)


def replica(rank, port, name, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    network, optimizer, x, y = made(name)
    parallel = nn.parallel.DistributedDataParallel(network)
    for s in range(STEPS):
        optimizer.zero_grad()
        loss = (parallel(x[rank, s]) - y[rank, s]).square().mean()
        loss.backward()
        if s == 5:  # on one process alone, and yet no process steps
            network[0].weight.grad[0, 0] = torch.nan if rank else 0.0
        optimizer.step(loss)
    torch.save((list(network.parameters()), optimizer.n_steps, optimizer.skipped_steps), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", RULES)
def test_two_processes_step_as_one_on_both_batches(name, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(replica, args=(port, name, str(tmp_path)), nprocs=2)
    (ours, *counts), (others, *other_counts) = (torch.load(tmp_path / f"{r}.pt", weights_only=False) for r in (0, 1))
    assert counts == other_counts == [STEPS - 1, 1]
    assert all(torch.equal(p, q) for p, q in zip(ours, others, strict=True))
    network, optimizer, x, y = made(name)
    for s in range(STEPS):
        optimizer.zero_grad()
        loss = (network(x[:, s]) - y[:, s]).square().mean()
        loss.backward()
        if s == 5:
            network[0].weight.grad[0, 0] = torch.nan
        optimizer.step(loss)
    for p, q in zip(ours, network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
