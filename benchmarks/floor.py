"""The arithmetic of one outer step, the machine's speed at matrix products, and what share of it is reached.

    python benchmarks/floor.py --out floor.json

The arithmetic is that of the convolutions and products alone, in multiply-adds counted as two operations: the
forward pass once, the gradient twice that, the Hessian-vector product twice forward and gradient together.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from contenders import Ours, Work
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from metasgd.meta import engines


def forward_operations(work: Work, examples: int) -> tuple[int, int]:
    """Of a forward pass; and of that share whose input needs no gradient, the first layer."""
    counted: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        weight = module.weight
        assert isinstance(weight, Tensor)
        counted.append(2 * output.numel() * weight[0].numel())

    network = work.exported()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(work.tasks(1).query_x[0][:1].expand(examples, *work.tasks(1).query_x.shape[2:]))
    return sum(counted), counted[0]


def operations(work: Work) -> int:
    """Of one exact outer step."""
    support, first_of_support = forward_operations(work, work.n_way * work.k_shot)
    query, first_of_query = forward_operations(work, work.n_way * work.n_query)
    inner = 3 * support - first_of_support
    return work.n_tasks * (work.inner_steps * (inner + 2 * inner) + 3 * query - first_of_query)


def products_per_second(threads: int, n: int = 1024, seconds: float = 2.0) -> float:
    """Operations per second of float32 matrix products, one stream of them on each thread."""

    def on(_: int) -> float:
        torch.set_num_threads(1)
        a, b = torch.rand(n, n), torch.rand(n, n)
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            torch.mm(a, b)
            done += 1
        return 2 * n**3 * done / (time.perf_counter() - start)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(on, range(threads)))


def timed(call: Callable[[], None], seconds: float) -> list[float]:
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=10, help="to spend on each work, about")
    parser.add_argument("--out", type=Path, default=Path("floor.json"))
    options = parser.parse_args()
    engines.CPU_THREADS = options.threads
    speed = products_per_second(options.threads)
    shown = Table(title=f"Matrix products: {speed / 1e9:.0f} GFLOP/s on {options.threads} threads")
    for column in ("work", "GFLOP", "floor, ms", "reached, ms (median)", "share"):
        shown.add_column(column, justify="left" if column == "work" else "right")
    results = []
    for shape in ((32, 5, 1, 1), (32, 5, 1, 5), (16, 5, 5, 1), (8, 20, 1, 1)):
        n_tasks, n_way, k_shot, inner_steps = shape
        work = Work("conv", n_tasks, n_way, k_shot, 15, inner_steps)
        ours, tasks = Ours(work, torch.float32), work.tasks(n_tasks)
        reached = statistics.median(timed(lambda ours=ours, tasks=tasks: ours.outer_gradient(tasks), options.seconds))
        floor = operations(work) / speed
        results.append({"name": work.name, "operations": operations(work), "floor": floor, "reached": reached})
        shares = (f"{operations(work) / 1e9:.1f}", f"{floor * 1e3:.0f}", f"{reached * 1e3:.0f}")
        shown.add_row(work.name, *shares, f"{floor / reached:.0%}")
    Console().print(shown)
    found = {"operations_per_second": speed, "threads": options.threads, "torch": torch.__version__, "works": results}
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
