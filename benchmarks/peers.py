"""One outer step of Meta-SGD: metasgd beside learn2learn, higher, TorchOpt and parallel-metalearn.

    python benchmarks/peers.py --out peers.json

Each contender has a process of its own, so that its memory is its own and so is its allocator. They take turns, one
at work at a time, each for one step or a tenth of a second, as the steps of a training follow one another. Before
any timing, all gradients are compared in float64 on two tasks. A ratio is a peer's time by metasgd's in the same
round, by the clock and in CPU time, which a busy machine disturbs less. With ``--same_allocator`` the peers have
metasgd's setting of the C library's allocator. Peak memory is what the steps take above the peak of one tiny task.
With ``--device cuda`` all run on a GPU, where memory is that of tensors.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import CONTENDERS, Candidate, Work, unpacked_learn2learn
from devices import Peak, device_of, finish
from rich.console import Console
from rich.table import Table

from metasgd.meta import engines
from metasgd.runtime.allocator import keep_freed_memory

EXACT = 1e-9
TURN = 0.1
"""Seconds that a turn lasts at least."""
WARM_UPS = 3
"""Of which a recording takes two."""
OURS = "metasgd"


def works() -> dict[str, list[Work]]:
    """By group."""
    conv = {"5w1s": (32, 5, 1), "5w5s": (16, 5, 5), "20w1s": (8, 20, 1)}
    groups = {name: [Work("conv", b, n, k, 15, s) for s in (1, 5)] for name, (b, n, k) in conv.items()}
    groups["mlp"] = [Work("mlp", b, 1, 5, 10, s) for b, s in product((4, 25, 100), (1, 5))]
    return groups


def serve(pipe: Connection, name: str, work: Work, threads: int, same_allocator: bool, device: torch.device) -> None:
    """A contender's process.

    It answers ``check`` with gradients, ``run`` so many steps with a step's seconds by the clock and of CPUs,
    ``memory`` with bytes.
    """
    torch.set_num_threads(threads)
    engines.CPU_THREADS = threads
    if same_allocator:
        keep_freed_memory()

    def gradients() -> list[list[torch.Tensor]]:
        contender = CONTENDERS[name](work, torch.float64, device)
        tasks = work.tasks(2, device, torch.float64)
        for _ in range(3 if device.type == "cuda" else 1):  # the last is a replay, where one records
            contender.zero_grad()
            contender.outer_gradient(tasks)
        return [[g.cpu() for g in part] for part in contender.grads()]

    contender: Candidate | None = None
    tasks = work.tasks(work.n_tasks, device)
    while (message := pipe.recv()) is not None:
        command, steps = message
        if command == "check":
            pipe.send([[g.numpy() for g in part] for part in gradients()])
        elif command == "run":
            if contender is None:
                contender = CONTENDERS[name](work, torch.float32, device)
                contender.outer_gradient(replace(work, n_query=1).tasks(1, device))  # so that libraries are loaded
                finish(device)
                peak = Peak(device)
            start = time.perf_counter(), time.process_time()
            for _ in range(steps):
                contender.zero_grad()
                contender.outer_gradient(tasks)
            finish(device)
            pipe.send(((time.perf_counter() - start[0]) / steps, (time.process_time() - start[1]) / steps))
        elif command == "memory":
            pipe.send(peak.bytes())


def ask(pipe: Connection, command: str, steps: int = 1) -> Any:
    pipe.send((command, steps))
    return pipe.recv()


def with_processes(
    names: list[str], work: Work, options: argparse.Namespace, do: Callable[[dict[str, Connection]], Any]
) -> Any:
    """Call ``do`` with a pipe to a fresh process of each contender."""
    context = get_context("spawn")
    threads = 1 if work.network == "mlp" else options.threads  # too small for two, for everyone
    pipes, processes = {}, []
    for name in names:
        here, there = context.Pipe()
        arguments = (there, name, work, threads, options.same_allocator, options.device)
        process = context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        there.close()
        pipes[name], processes = here, [*processes, process]
    try:
        return do(pipes)
    finally:
        for pipe in pipes.values():
            pipe.send(None)
        for process in processes:
            process.join()


def differences(pipes: dict[str, Connection]) -> dict[str, float]:
    """The largest difference of each peer's gradient from ours, after the outer gradient of two tasks."""
    found = {name: ask(pipe, "check") for name, pipe in pipes.items()}
    largest = {}
    for name, parts in found.items():
        if name == OURS:
            continue
        largest[name] = 0.0
        for ours, theirs in zip(found[OURS], parts, strict=True):
            if theirs:  # α's gradient, where the peer learns α
                assert [g.shape for g in ours] == [g.shape for g in theirs], name
                off = [float(abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]
                largest[name] = float(np.max([largest[name], *off]))  # NaN where there is one
    return largest


def measured(work: Work, names: list[str], options: argparse.Namespace) -> dict[str, Any]:
    off = with_processes(names, work, options, differences)
    apart = {name: value for name, value in off.items() if not value < EXACT}
    if apart and len(apart) == len(off):
        raise SystemExit(f"{work.name}: the gradients differ by {apart}, {EXACT:g} is allowed; nothing was timed")
    for name, value in apart.items():
        print(f"{work.name}: {name} is left out: its gradient differs by {value:g} in float64, the others' do not")
    names = [name for name in names if name not in apart]

    def in_turns(pipes: dict[str, Connection]) -> tuple[dict[str, list[tuple[float, float]]], dict[str, int]]:
        warm = {name: min(ask(pipe, "run")[0] for _ in range(WARM_UPS)) for name, pipe in pipes.items()}
        steps = {name: math.ceil(TURN / seconds) for name, seconds in warm.items()}
        rounds = max(5, min(200, int(options.seconds / sum(steps[name] * warm[name] for name in pipes))))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
        for _ in range(rounds):
            for name, pipe in pipes.items():
                times[name].append(ask(pipe, "run", steps[name]))
        return times, {name: ask(pipe, "memory") for name, pipe in pipes.items()}

    times, memory = with_processes(names, work, options, in_turns)
    result: dict[str, Any] = {"work": asdict(work), "name": work.name, "differences": off, "contenders": {}}
    for name in names:
        ratios = sorted(t / own for (t, _), (own, _) in zip(times[name], times[OURS], strict=True))
        of_cpus = [t / own for (_, t), (_, own) in zip(times[name], times[OURS], strict=True)]
        median = statistics.median(t for t, _ in times[name])
        result["contenders"][name] = {
            "seconds": median,
            "fastest_seconds": min(times[name])[0],
            "cpu_seconds": statistics.median(t for _, t in times[name]),
            "tasks_per_second": work.n_tasks / median,
            "peak_bytes": memory[name],
            "ratio": statistics.median(ratios),
            "cpu_ratio": statistics.median(of_cpus),
            "ratio_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
            "rounds": len(ratios),
        }
    return result


def table(results: list[dict[str, Any]], names: list[str]) -> Table:
    of = "One outer step: milliseconds (peak MiB); below, the ratio to metasgd by the clock (quartiles), in CPU time"
    shown = Table(title=of)
    shown.add_column("work")
    for name in names:
        shown.add_column(name, justify="right")
    for result in results:
        cells = []
        for name in names:
            c = result["contenders"].get(name)
            if c is None:
                cells.append("another gradient")
                continue
            low, high = c["ratio_quartiles"]
            cells.append(
                f"{c['seconds'] * 1e3:.1f} ({c['peak_bytes'] / 2**20:.0f})"
                + ("" if name == OURS else f"\n{c['ratio']:.2f}× ({low:.2f}–{high:.2f}), {c['cpu_ratio']:.2f}×")
            )
        shown.add_row(result["name"], *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", nargs="+", choices=works(), default=list(works()), help="groups of works")
    parser.add_argument("--inner_steps", nargs="+", type=int, choices=(1, 5), default=[1, 5])
    parser.add_argument("--n_tasks", nargs="+", type=int, help="only works of so many tasks to an outer step")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads, for the convolutional works")
    parser.add_argument("--device", type=device_of, default="cpu", help="cpu, or a CUDA device")
    parser.add_argument("--seconds", type=float, default=20, help="to spend on each work's rounds, about")
    parser.add_argument("--same_allocator", action="store_true", help="give the peers our allocator's setting too")
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    options = parser.parse_args()
    names = [OURS, *(name for name in options.contenders if name != OURS)]
    if "learn2learn" in names:
        unpacked_learn2learn()
    results = []
    for group in options.works:
        for work in works()[group]:
            if work.inner_steps not in options.inner_steps or work.n_tasks not in (options.n_tasks or [work.n_tasks]):
                continue
            results.append(measured(work, names, options))
            Console().print(table(results[-1:], names))
    Console().print(table(results, names))
    machine = {"torch": torch.__version__, "cpus": os.cpu_count(), "machine": platform.platform()}
    settings = {
        "device": str(options.device),
        "threads": options.threads,
        "same_allocator": options.same_allocator,
        **machine,
    }
    options.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
