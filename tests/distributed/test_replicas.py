"""Replicas that a learned optimizer trains in two processes stay the same, and read the mean of their losses."""

from functools import partial

import pytest
import torch
from support.agents import free_port
from support.programs import Program
from support.replicas import RULES, STEPS, made, train


@pytest.mark.parametrize("name", RULES)
def test_two_processes_step_as_one_on_both_batches(name, tmp_path):
    port = free_port()
    replicas = [Program(cwd=tmp_path, program=partial(train, rank, port, name, str(tmp_path))) for rank in (0, 1)]
    for replica in replicas:
        assert replica.wait() == 0, replica.said()
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
