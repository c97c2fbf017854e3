"""How long Meta-SGD takes to 95 % and 98 % on Omniglot 5-way 1-shot: metasgd beside learn2learn.

    python benchmarks/time_to_accuracy.py --root data/omniglot --out time_to_accuracy.json

All start from the same weights and rates and meet the same episodes under the same outer optimizer, schedule and
clipping: those of ``configs/omniglot.yaml``. metasgd comes twice: with learn2learn's linear head, and with the
class-agnostic head of its configurations. Each has a process of its own; they take turns, so many outer steps at a
time, and leave off at the highest accuracy asked for. The time counted, by the clock and of CPUs, is that of
gradients and of the outer optimizer. Drawing the episodes and validating, by the same code for all, are not counted.
Validation is on the same tasks every time, and transductive.
"""

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contenders import CONTENDERS, Work, unpacked_learn2learn
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from metasgd.data.cache import default_cache_dir
from metasgd.data.omniglot.source import Omniglot
from metasgd.data.rng import Split
from metasgd.data.source import Sampler
from metasgd.data.task_shape import TaskShape
from metasgd.episode import Episode
from metasgd.meta import engines
from metasgd.meta.engines import Vmap
from metasgd.meta.evaluate import evaluate, merge_evaluations
from metasgd.meta.inner_loop import InnerLoopConfig
from metasgd.rules.gradient_descent import PerParameter

WORK = Work("conv", n_tasks=16, n_way=5, k_shot=1, n_query=5, inner_steps=1, rate=0.1)
OWN_HEAD = "metasgd, its own head"
WORKS = {"metasgd": WORK, OWN_HEAD: replace(WORK, head="class_agnostic"), "learn2learn": WORK}
LEARNING_RATE, CLIP, VAL_QUERIES = 0.002, 10.0, 15


@dataclass
class Course:
    """How a contender has come on so far."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    validated: list[dict[str, float]] = field(default_factory=list)

    def reached(self, accuracy: float) -> dict[str, float] | None:
        """The first validation with at least that accuracy."""
        return next((v for v in self.validated if v["accuracy"] >= accuracy), None)


def sampler(split: Split, n_query: int, root: Path) -> Sampler:
    source, cache_dir = Omniglot(), Path(default_cache_dir()).expanduser()
    source.prepare(root, cache_dir)
    return source.sampler(split, root, cache_dir, 0, TaskShape(WORK.n_way, WORK.k_shot, n_query))


def as_numbers(tasks: Episode) -> Episode:
    return tasks._replace(support_x=tasks.support_x.float() / 255, query_x=tasks.query_x.float() / 255)


def serve(pipe: Connection, name: str, options: argparse.Namespace) -> None:
    """A contender's process: for every number of steps that it gets, it answers with seconds and weights."""
    torch.set_num_threads(options.threads)
    engines.CPU_THREADS = options.threads
    contender = CONTENDERS[name.partition(",")[0]](WORKS[name], torch.float32)
    draws = sampler("train", WORK.n_query, options.root)
    learned = [*contender.parameters(), *contender.rates()]
    optimizer = torch.optim.Adam(learned, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: 0.5 + 0.5 * math.cos(math.pi * t / options.max_steps)
    )
    step = 0
    while steps := pipe.recv():
        wall = cpu = 0.0
        for _ in range(steps):
            tasks = as_numbers(draws.draw(np.arange(step * WORK.n_tasks, (step + 1) * WORK.n_tasks)))
            start = time.perf_counter(), time.process_time()
            contender.zero_grad()
            contender.outer_gradient(tasks)
            torch.nn.utils.clip_grad_norm_(learned, CLIP)
            optimizer.step()
            wall, cpu = wall + time.perf_counter() - start[0], cpu + time.process_time() - start[1]
            schedule.step()
            step += 1
        weights = [[p.detach().numpy() for p in part] for part in (contender.parameters(), contender.rates())]
        pipe.send((wall, cpu, weights))


class Validation:
    """The accuracy of weights and rates on the validation tasks, whoever learned them."""

    def __init__(self, work: Work, tasks: Episode) -> None:
        self.tasks = tasks
        self.network, self.rule = work.own_network(), PerParameter()
        names = dict(self.network.named_parameters())
        self.rule.bind(names, WORK.inner_steps)
        self.config = InnerLoopConfig(self.network, self.rule, torch.nn.functional.cross_entropy, frozenset(names))

    @torch.no_grad()
    def accuracy(self, weights: list[list[NDArray[np.float32]]]) -> float:
        """Of θ and α, each in the network's order."""
        rates = self.rule.learned_rates()
        own = list(self.network.parameters()), [rates[n] for n, _ in self.network.named_parameters()]
        for mine, theirs in zip(own, weights, strict=True):
            for parameter, value in zip(mine, theirs, strict=True):
                parameter.copy_(torch.from_numpy(value))
        theta = dict(self.network.named_parameters())
        found = Vmap(1).run(
            lambda config, some: evaluate(config, theta, some, WORK.inner_steps, [WORK.inner_steps]),
            merge_evaluations,
            self.config,
            self.tasks,
            WORK.inner_steps,
        )
        return float((found.outputs[:, 0].argmax(dim=-1) == self.tasks.query_y).double().mean())


def raced(options: argparse.Namespace) -> dict[str, Course]:
    context = get_context("spawn")
    tasks = as_numbers(sampler("val", VAL_QUERIES, options.root).draw(np.arange(options.val_tasks)))
    courses = {name: Course() for name in options.contenders}
    pipes, processes = {}, []
    for name in courses:
        pipes[name], there = context.Pipe()
        process = context.Process(target=serve, args=(there, name, options), daemon=True)
        process.start()
        there.close()
        processes.append(process)
    for step in range(0, options.max_steps, options.every):
        steps = min(options.every, options.max_steps - step)
        for name, course in courses.items():
            if course.reached(max(options.targets)):
                continue
            pipes[name].send(steps)
            wall, cpu, weights = pipes[name].recv()
            course.seconds += wall
            course.cpu_seconds += cpu
            accuracy = Validation(WORKS[name], tasks).accuracy(weights)
            at = {"outer_steps": step + steps, "seconds": course.seconds, "cpu_seconds": course.cpu_seconds}
            course.validated.append({**at, "accuracy": accuracy})
            print(f"{name}: {step + steps} steps, {cpu / steps * 1e3:.0f} ms of CPU a step, {accuracy:.2%}", flush=True)
        options.out.write_text(json.dumps(record(courses, options), indent=1) + "\n")
    for pipe in pipes.values():
        pipe.send(0)
    for process in processes:
        process.join()
    return courses


def record(courses: dict[str, Course], options: argparse.Namespace) -> dict[str, Any]:
    reached = {n: {f"{t:.0%}": c.reached(t) for t in options.targets} for n, c in courses.items()}
    settings = {k: v for k, v in vars(options).items() if not isinstance(v, Path)}  # another's paths mean nothing
    return {
        "settings": {**settings, "torch": torch.__version__, "cpus": os.cpu_count()},
        "works": {name: vars(WORKS[name]) for name in courses},
        "reached": reached,
        "validated": {name: course.validated for name, course in courses.items()},
    }


def table(courses: dict[str, Course], options: argparse.Namespace) -> Table:
    shown = Table(title=f"Omniglot 5-way 1-shot, {options.threads} threads: minutes of CPU (by the clock; outer steps)")
    shown.add_column("validation accuracy")
    for name in courses:
        shown.add_column(name, justify="right")
    for target in options.targets:
        found = {name: course.reached(target) for name, course in courses.items()}
        base = found.get("metasgd")
        cells = []
        for v in found.values():
            cell = "not reached"
            if v is not None:
                cell = f"{v['cpu_seconds'] / 60:.1f} ({v['seconds'] / 60:.1f}; {v['outer_steps']:.0f})"
                cell += f"\n{v['cpu_seconds'] / base['cpu_seconds']:.2f}×" if base is not None else ""
            cells.append(cell)
        shown.add_row(f"{target:.0%}", *cells)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/omniglot"), help="the folder of Omniglot's archives")
    parser.add_argument("--contenders", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--targets", nargs="+", type=float, default=[0.95, 0.98], help="validation accuracies")
    parser.add_argument("--max_steps", type=int, default=4000, help="of each contender, and of the schedule")
    parser.add_argument("--every", type=int, default=50, help="outer steps between two validations")
    parser.add_argument("--val_tasks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of each contender")
    parser.add_argument("--out", type=Path, default=Path("time_to_accuracy.json"))
    options = parser.parse_args()
    if "learn2learn" in options.contenders:
        unpacked_learn2learn()
    courses = raced(options)
    Console().print(table(courses, options))


if __name__ == "__main__":
    main()
