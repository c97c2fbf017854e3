"""How an outer step's time and memory grow with each of its sizes, with threads and with processes.

    python benchmarks/scaling.py --out scaling.json

Every point is measured in fresh processes; memory is the peak above what the process had before its first step,
the sum over processes. Several processes share the tasks and add up their gradients through gloo, as DDP does.
With ``--device cuda`` this process steps on a GPU, where memory is that of tensors.
"""

import argparse
import json
import os
import socket
import statistics
import time
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from contenders import Ours, Work
from devices import Peak, device_of, finish
from rich.console import Console
from rich.table import Table

from metasgd.meta import engines

WARM_UPS = {"cpu": 2, "cuda": 4}
"""Steps before those that are timed; on a GPU a recording takes three."""
BASE = Work("conv", n_tasks=8, n_way=5, k_shot=1, n_query=15, inner_steps=1)


@dataclass(frozen=True)
class Point:
    """One measurement: a work, and what it runs on."""

    varied: str
    work: Work
    threads: int
    processes: int = 1


def points(threads: int, device: torch.device) -> list[Point]:
    grid: dict[str, list[Any]] = {
        "inner_steps": [1, 5, 20, 100],
        "n_tasks": [4, 8, 32] if device.type == "cpu" else [8, 32, 128, 512, 2048],
        "n_way": [5, 10, 20],
        "k_shot": [1, 5],
        "width": [32, 64, 128],
    }
    found = [Point(n, replace(BASE, **{n: value}), threads) for n, values in grid.items() for value in values]
    if device.type == "cpu":
        found += [Point("threads", BASE, t) for t in sorted({1, threads})]
        found += [Point("processes", BASE, 1, n) for n in sorted({1, threads})]
    mlp = Work("mlp", 25, 1, 5, 10, 1)
    return found + [Point("MLP n_tasks", replace(mlp, n_tasks=b), 1) for b in (4, 25, 100, 400)]


def cost(point: Point, device: torch.device, seconds: float, rank: int = 0) -> tuple[float, int]:
    """Seconds of a step in this process, and the bytes of its peak."""
    share = point.work.n_tasks // point.processes
    tasks = point.work.tasks(point.work.n_tasks, device).tasks(rank * share, (rank + 1) * share)
    peak = Peak(device)
    ours = Ours(point.work, torch.float32, device)

    def step() -> float:
        start = time.perf_counter()
        ours.zero_grad()
        ours.outer_gradient(tasks)
        if point.processes > 1:
            flat = torch.cat([g.flatten() for part in ours.grads() for g in part])
            dist.all_reduce(flat)
        finish(device)
        return time.perf_counter() - start

    for _ in range(WARM_UPS[device.type]):
        once = torch.tensor(step())
    if point.processes > 1:
        dist.all_reduce(once, dist.ReduceOp.MAX)
    times = [step() for _ in range(max(3, min(100, int(seconds / float(once)))))]
    return statistics.median(times), peak.bytes()


def serve(pipe: Connection, point: Point, device: torch.device, rank: int, port: int, seconds: float) -> None:
    torch.set_num_threads(point.threads)
    engines.CPU_THREADS = point.threads
    if point.processes > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=point.processes)
    pipe.send(cost(point, device, seconds, rank))
    if point.processes > 1:
        dist.destroy_process_group()


def measured(point: Point, device: torch.device, seconds: float) -> tuple[float, int]:
    """Seconds of the slowest process, bytes of all."""
    if device.type == "cuda":  # where a process of its own would take longer to begin
        return cost(point, device, seconds)
    context = get_context("spawn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes, processes = [], []
    for rank in range(point.processes):
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(there, point, device, rank, port, seconds), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    times, peaks = zip(*(pipe.recv() for pipe in pipes), strict=True)
    for process in processes:
        process.join()
    return max(times), sum(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--varied", nargs="+", help="only these sizes")
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu, or a CUDA device")
    parser.add_argument("--seconds", type=float, default=5, help="to spend on each point, about")
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    options = parser.parse_args()
    shown = Table(title="metasgd, one outer step")
    for column in ("varied", "work", "threads × processes", "ms", "tasks/s", "peak MiB"):
        shown.add_column(column, justify="left" if column in ("varied", "work") else "right")
    results = []
    for point in points(options.threads, options.device):
        if options.varied and point.varied not in options.varied:
            continue
        seconds, peak = measured(point, options.device, options.seconds)
        work = point.work
        results.append(
            {
                "varied": point.varied,
                "work": vars(work) | {"name": work.name},
                "threads": point.threads,
                "processes": point.processes,
                "seconds": seconds,
                "tasks_per_second": work.n_tasks / seconds,
                "peak_bytes": peak,
            }
        )
        on = f"{point.threads} × {point.processes}"
        figures = (f"{seconds * 1e3:.1f}", f"{work.n_tasks / seconds:.0f}", f"{peak / 2**20:.0f}")
        shown.add_row(point.varied, work.name, on, *figures)
        options.out.write_text(
            json.dumps({"device": str(options.device), "torch": torch.__version__, "results": results}, indent=1) + "\n"
        )
    Console().print(shown)


if __name__ == "__main__":
    main()
