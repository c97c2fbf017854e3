"""What a step of the learned optimizer costs beside AdamW, on Conv4 with 64 filters and on a small transformer.

    python benchmarks/optimizer_step.py [--network conv4] [--rounds 40] [--threads 1] [--device cpu] [--json out.json]

Times the optimizer's step alone (the fastest of 20 in a round) and a whole training step (a batch of 64, forward and
backward pass included), the contenders in turn in every round, in processor time, so that what else the machine does
counts little; prints each one's median and the median over rounds of its ratio to torch.optim.AdamW(foreach=True) in
the same round, with the ratio's quartiles. Also the bytes that a step allocates, as torch's profiler counts them, and
those that the optimizer holds for each parameter. With ``--device cuda`` a time is by the clock, the mean of steps that
follow one another until the device has done the last, and bytes are of the device.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from devices import Peak, device_of, finish
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from metasgd.nn.networks import Conv4
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.rules.base import UpdateRule
from metasgd.rules.gradient_descent import PerParameter, PerParameterMomentum
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.rules.scheduled_muon import ScheduledMuon
from metasgd.supervised.suite.cost import bytes_of
from metasgd.supervised.suite.workloads import SMALL

STEPS = 20  # of the optimizer alone, in a round
BATCH = 64


def learned(rule: Callable[[], UpdateRule]) -> Callable[[nn.Module], Optimizer]:
    return lambda network: LearnedOptimizer(network.parameters(), update_rule=rule(), lr=1e-3, total_steps=10_000)


CONTENDERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "SGD, momentum, foreach": lambda network: SGD(network.parameters(), lr=1e-4, momentum=0.9, foreach=True),
    "SGD, momentum, fused": lambda network: SGD(network.parameters(), lr=1e-4, momentum=0.9, fused=True),
    "SGD, momentum, torch's default": lambda network: SGD(network.parameters(), lr=1e-4, momentum=0.9),
    "optimizer network: loss": learned(OptimizerNetwork),
    "optimizer network: loss, trend, progress": learned(lambda: OptimizerNetwork(inputs=["loss", "trend", "progress"])),
    "optimizer network: loss, gradient norm": learned(lambda: OptimizerNetwork(inputs=["loss", "gradient_norm"])),
    "optimizer network, per layer": learned(lambda: OptimizerNetwork(per_layer=True)),
    "scaled optimizer network": learned(lambda: ScaledOptimizerNetwork(inputs=["loss", "trend", "progress"])),
    "scheduled Adam": learned(ScheduledAdam),
    "scheduled Muon": learned(ScheduledMuon),
    "AdamW, foreach": lambda network: AdamW(network.parameters(), lr=1e-5, foreach=True),
    "AdamW, fused": lambda network: AdamW(network.parameters(), lr=1e-5, fused=True),
    "Meta-SGD": learned(PerParameter),
    "Meta-SGD with momentum": learned(PerParameterMomentum),
}


REFERENCE = "AdamW, foreach"


def conv4() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    return Conv4(n_way=5, head="linear", width=64), torch.rand(BATCH, 1, 28, 28), torch.arange(BATCH) % 5


def transformer() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    [workload] = [w for w in SMALL if w.name == "sums_transformer"]
    symbols = torch.randint(12, (BATCH, 12))
    return nn.Sequential(workload.network(), nn.Flatten(0, 1)), symbols[:, :-1], symbols[:, 1:].flatten()


NETWORKS = {"conv4": conv4, "transformer": transformer}


class Contestant:
    def __init__(self, make: Callable[[nn.Module], Optimizer], network: str, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device = device
        self.network, self.x, self.y = (each.to(device) for each in NETWORKS[network]())
        self.optimizer = make(self.network)
        self.loss = self.backward()

    def backward(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.network(self.x), self.y)
        loss.backward()
        return loss.detach()

    def step(self) -> None:
        if isinstance(self.optimizer, LearnedOptimizer):
            self.optimizer.step(loss=self.loss)
        else:
            self.optimizer.step()

    def allocated(self) -> int:
        self.step()  # which makes the momentum
        if self.device.type == "cuda":
            peak = Peak(self.device)
            self.step()
            return peak.bytes()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            self.step()
        return sum(max(event.self_cpu_memory_usage, 0) for event in seen.events())

    def held(self) -> float:
        return bytes_of(self.optimizer) / sum(p.numel() for p in self.network.parameters())


def seconds(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Of the fastest of some times; on a GPU the mean."""
    if device.type == "cuda":
        finish(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        finish(device)
        return (time.perf_counter() - start) / times
    ends = [time.process_time()]
    for _ in range(times):
        work()
        ends.append(time.process_time())
    return min(b - a for a, b in itertools.pairwise(ends))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="conv4")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu, or a CUDA device")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    contestants = {name: Contestant(make, arguments.network, device) for name, make in CONTENDERS.items()}
    found: dict[str, dict[str, Any]] = {
        name: {"bytes": c.allocated(), "held": c.held()} for name, c in contestants.items()
    }
    alone: dict[str, list[float]] = {name: [] for name in contestants}
    whole: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, c in contestants.items():
            alone[name].append(seconds(c.step, STEPS, device))
            times = 1 if device.type == "cpu" else STEPS
            whole[name].append(seconds(lambda c=c: (c.backward(), c.step()), times, device))  # type: ignore[misc]
    where = f"{arguments.threads} thread(s)" if device.type == "cpu" else torch.cuda.get_device_name(device)
    table = Table(title=f"One step on {arguments.network}, {where}, {arguments.rounds} rounds")
    for column in (
        "",
        "step, µs",
        "ratio (quartiles)",
        "whole training step, ms",
        "ratio (quartiles)",
        "bytes allocated",
        "held per parameter",
    ):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in found.items():
        cells = []
        for kind, times, scale in (("step", alone, 1e6), ("training_step", whole, 1e3)):
            ratios = np.array(times[name]) / np.array(times[REFERENCE])
            low, ratio, high = (float(q) for q in np.quantile(ratios, (0.25, 0.5, 0.75)))
            row[kind] = {"seconds": float(np.median(times[name])), "ratio": ratio, "quartiles": [low, high]}
            cells += [f"{scale * np.median(times[name]):.1f}", f"{ratio:.2f} ({low:.2f}–{high:.2f})"]
        table.add_row(name, *cells, str(row["bytes"]), f"{row['held']:.2f}")
    Console(width=160).print(table)
    if arguments.json:
        record = {"network": arguments.network, "device": where, "torch": torch.__version__, "rows": found}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
