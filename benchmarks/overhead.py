"""What Lightning, the drawing of data and an evaluation take beside the bare outer step.

    python benchmarks/overhead.py --out overhead.json

In one process and in turns: ``python -m metasgd fit`` with all that it does at a step, and the bare step, which is
the engine's meta-gradient, its delivery through ``backward`` and the outer optimizer's own step. The first steps of
each fit are not counted, and no validation or checkpoint falls into the others. Drawing a meta-batch, and adapting
to its tasks and evaluating them as a validation does, are timed in the same rounds. Times are medians over steps, of
CPUs, which a busy machine disturbs less than those by the clock; ratios are medians over rounds. With ``--clock wall``,
which a GPU needs, a time is the mean from the first counted step until the device has done the last.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from metasgd.cli.main import main as metasgd
from metasgd.episode import Episode
from metasgd.meta.engines import attach_gradient
from metasgd.training.datamodule import EpisodicDataModule
from metasgd.training.device_steps import fused
from metasgd.training.module import MetaSGDModule

WARM_UP = 20
"""Steps that are not counted."""


class Times:
    """When each step began, and when the last was done, on a clock."""

    def __init__(self, clock: str) -> None:
        self.clock = clock
        self.noted: list[float] = []

    def note(self) -> None:
        self.noted.append(time.process_time() if self.clock == "cpu" else time.perf_counter())

    def end(self) -> None:
        if self.clock == "wall" and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.note()

    def of_a_step(self) -> float:
        counted = self.noted[WARM_UP:]
        if self.clock == "cpu":
            return statistics.median(np.diff(counted))
        return (counted[-1] - counted[0]) / (len(counted) - 1)


class Clock(Callback):
    """Notes when each outer step of a fit begins; the last fit's is ``Clock.last``."""

    last: "Clock"

    def __init__(self, clock: str) -> None:
        self.times = Times(clock)
        Clock.last = self

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.note()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step >= trainer.max_steps:  # before the validation and the checkpoint that follow
            self.times.end()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.module, self.data, self.device = pl_module, trainer.datamodule, pl_module.device


def fitted(
    config: Path, folder: str, steps: int, clock: str, more: list[str]
) -> tuple[float, MetaSGDModule, EpisodicDataModule]:
    """Seconds of an outer step of ``fit``, and what was fitted on what."""
    options = {
        "trainer.max_steps": steps,
        "trainer.val_check_interval": steps,
        "data.val_tasks": 2,
        "last_checkpoint.every_n_steps": steps + 1,
        "trainer.logger.init_args.save_dir": folder,
        "trainer.callbacks+": "__main__.Clock",
        "trainer.callbacks.clock": clock,
    }
    given = [text for option, value in options.items() for text in (f"--{option}", str(value))]
    code = metasgd(["fit", "--config", str(config), *given, *more])
    assert code == 0, code
    last = Clock.last
    # the Trainer leaves its module on the CPU, whatever trained it
    return last.times.of_a_step(), last.module.to(last.device), last.data


def repeated(steps: int, clock: str, call: Callable[[int], Any]) -> float:
    """Seconds of ``call``, given the number of the step."""
    times = Times(clock)
    for step in range(WARM_UP + steps):
        times.note()
        call(step)
    times.end()
    return times.of_a_step()


def round_of(config: Path, folder: str, steps: int, clock: str, more: list[str]) -> dict[str, float]:
    """Seconds of each kind of work, of one meta-batch."""
    fit, module, data = fitted(config, folder, WARM_UP + steps, clock, more)
    b = data.meta_batch_size

    drawn = data.pictures.draws("train", data.samplers["train"], module.device)  # as fit draws them

    def draw(step: int) -> Any:
        return drawn(np.arange(step * b, (step + 1) * b))

    optimizer = fused(module.outer.make_optimizer(module.network, module.update_rule), module.device)
    theta, phi = dict(module.network.named_parameters()), dict(module.update_rule.named_parameters())
    batch = Episode(*(field.to(module.device) for field in data.samplers["train"].draw(np.arange(b))))

    def bare(step: int) -> None:  # noqa: ARG001
        tasks = module.as_inputs(batch)
        found = module.meta_gradient(tasks)
        attach_gradient(found.query_losses.mean(), found, theta, phi).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {
        "fit": fit,
        "bare": repeated(steps, clock, bare),
        "drawing": repeated(steps, clock, draw),
        "evaluation": repeated(steps, clock, lambda step: module.evaluate(batch, after=[module.inner_steps])),  # noqa: ARG005
    }


def measured(config: Path, options: argparse.Namespace, more: list[str]) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        first = round_of(config, folder, 5, options.clock, more)
        steps = max(10, min(1000, int(options.seconds / options.rounds / sum(first.values()))))
        rounds = [round_of(config, folder, steps, options.clock, more) for _ in range(options.rounds)]
    ratios = {  # in the order of the table's columns
        "Lightning": [(r["fit"] - r["drawing"]) / r["bare"] for r in rounds],
        "fit": [r["fit"] / r["bare"] for r in rounds],
        "drawing": [r["drawing"] / r["bare"] for r in rounds],
        "evaluation": [r["bare"] / r["evaluation"] for r in rounds],
    }
    return {
        "config": config.stem,
        "steps": steps,
        "seconds": {kind: statistics.median(r[kind] for r in rounds) for kind in rounds[0]},
        "ratios": {kind: {"median": statistics.median(r), "all": sorted(r)} for kind, r in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).parents[1] / "configs"
    parser.add_argument("--configs", nargs="+", type=Path, default=[here / "sinusoid.yaml", here / "glyphs.yaml"])
    parser.add_argument("--seconds", type=float, default=60, help="to spend on each configuration, about")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu", help="whose seconds; a GPU needs wall")
    parser.add_argument("--out", type=Path, default=Path("overhead.json"))
    options, more = parser.parse_known_args()  # further options go to fit, as --data.root DIR
    shown = Table(
        title=f"One outer step, milliseconds by the {options.clock} clock; ratios with their range over rounds"
    )
    for column in ("config", "fit", "bare", "drawing", "evaluation"):
        shown.add_column(column, justify="left" if column == "config" else "right")
    for column in (
        "(fit − drawing) / bare",
        "fit / bare",
        "drawing / bare",
        "tasks per second, evaluation to training",
    ):
        shown.add_column(column, justify="right")
    results = []
    for config in options.configs:
        result = measured(config, options, more)
        results.append(result)
        times = (f"{s * 1e3:.2f}" for s in result["seconds"].values())
        ratios = (f"{r['median']:.2f} ({r['all'][0]:.2f}–{r['all'][-1]:.2f})" for r in result["ratios"].values())
        shown.add_row(result["config"], *times, *ratios)
    Console().print(shown)
    settings = {"torch": torch.__version__, "cpus": os.cpu_count(), "rounds": options.rounds, "clock": options.clock}
    options.out.write_text(json.dumps({"settings": settings, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
