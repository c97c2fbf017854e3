"""What the host does for an outer step of ``fit`` on a GPU, by part, measured on a CPU where the device has no work.

    OMP_NUM_THREADS=1 python benchmarks/host.py --root data/omniglot --out host.json

The rows have 60-way tasks of distorted drawings, two to an outer step, as in ``gpu.sh --parts fit``, and a network of
as many tensors as its Conv4; but pictures are of one pixel and layers of one unit, and replays of the recorded gradient
do nothing. What is left is the host's: what is drawn, sent, moved and launched, Lightning's loop, callbacks and the
outer optimizer, which runs as it does on a device that works behind the host's back. With loader processes, a thread
of this process receives what they drew, as where memory is pinned; its time counts in ``fit``, theirs does not.
``bare`` is the gradient, its delivery through ``backward`` and the optimizer's step. In turns, in one process;
microseconds are of processor time, those of the parts of the main thread alone, medians over rounds; ratios are
medians over rounds with their range.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.utils.data.dataloader
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from metasgd.cli.main import main as metasgd
from metasgd.meta.capture import CAPTURES, Capture, Function, Recording
from metasgd.meta.engines import attach_gradient
from metasgd.meta.model import MetaModel
from metasgd.training import device_steps, module
from metasgd.training.device_pictures import DevicePictures
from metasgd.training.device_steps import fused
from metasgd.training.loader import ResumingLoader
from metasgd.training.module import MetaSGDModule

WARM_UP = 20
"""Steps that are not counted."""
N_LAYERS = 9
PARTS = ("drawing or receiving", "making tasks", "gradient", "backward", "outer step", "rest of the step", "Lightning")
COLUMNS = (*PARTS, "fit", "bare")
CONFIG = f"""
seed_everything: 0
trainer:
  accelerator: cpu
  logger: {{class_path: lightning.pytorch.loggers.TensorBoardLogger, init_args: {{name: host}}}}
model:
  network:
    class_path: metasgd.nn.MLP
    init_args: {{in_features: 1, hidden: {[1] * (N_LAYERS - 1)}, out_features: 60}}
  update_rule: {{class_path: metasgd.rules.PerParameter, init_args: {{init: 0.1}}}}
  outer:
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.001}}}}
    scheduler: cosine
    gradient_clip_norm: 10
data:
  source: {{class_path: metasgd.data.Omniglot, init_args: {{image_size: 1, distortion: 1}}}}
  n_way: 60
  k_shot: 1
  n_query: 15
  eval_n_query: 5
  meta_batch_size: 2
  val_tasks: 2
  on_device: true
"""


class Free(Capture):
    """Recordings whose replays take no time; their outputs stay those of the recording."""

    def warm_up(self, function: Function) -> list[list[torch.Tensor]]:
        return [function() for _ in range(2)]

    def record(self, function: Function) -> Recording:
        return Recording(lambda: None, function())


class Clock(Callback):
    """Processor time of the counted steps, by part; the last fit's is ``Clock.last``."""

    last: "Clock"

    def __init__(self) -> None:
        Clock.last = self
        self.parts: dict[str, float] = defaultdict(float)
        self.began = self.thread = 0.0
        self.counting = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == WARM_UP:
            self.counting, self.began, self.thread = True, time.process_time(), time.thread_time()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:  # before the validation that follows
            self.counting = False
            self.steps = trainer.max_steps - WARM_UP
            self.all, self.main = time.process_time() - self.began, time.thread_time() - self.thread

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.module, self.data = pl_module, trainer.datamodule  # type: ignore[attr-defined]

    def microseconds(self) -> dict[str, float]:
        inside = sum(self.parts[name] for name in ("gradient", "backward", "outer step"))
        outside = sum(self.parts[name] for name in ("drawing or receiving", "making tasks", "step"))
        found = {**self.parts, "rest of the step": self.parts["step"] - inside, "Lightning": self.main - outside}
        return {name: found[name] / self.steps * 1e6 for name in PARTS} | {"fit": self.all / self.steps * 1e6}


@contextmanager
def timed(owner: Any, method: str, part: str) -> Iterator[None]:
    """Count what a method takes of the main thread as that part."""
    plain = getattr(owner, method)

    def counted(*args: Any, **kwargs: Any) -> Any:
        since = time.thread_time()
        found = plain(*args, **kwargs)
        if Clock.last.counting:
            Clock.last.parts[part] += time.thread_time() - since
        return found

    with mock.patch.object(owner, method, counted):
        yield


@contextmanager
def as_on_a_device() -> Iterator[None]:
    """What the host does where the device records work, runs behind its back, and takes pinned memory."""
    plain, accelerator = ResumingLoader.__iter__, torch.accelerator

    def pinning(loader: Any) -> Any:
        loader.__dict__["pin_memory"] = True
        with mock.patch.object(accelerator, "is_available", return_value=True):
            return plain(loader)

    with ExitStack() as stack:
        for change in (
            mock.patch.dict(CAPTURES, {"cpu": Free}),
            mock.patch.object(device_steps, "AHEAD", ("cpu",)),
            mock.patch.object(ResumingLoader, "__iter__", pinning),
            mock.patch.object(torch.Tensor, "pin_memory", torch.Tensor.clone),
            mock.patch.multiple(accelerator, current_device_index=lambda: 0, set_device_index=lambda _: None),
            timed(torch.utils.data.dataloader._BaseDataLoaderIter, "__next__", "drawing or receiving"),
            timed(DevicePictures, "made", "making tasks"),
            timed(MetaSGDModule, "training_step", "step"),
            timed(MetaModel, "meta_gradient", "gradient"),
            timed(module, "attach_gradient", "backward"),
            timed(MetaSGDModule, "manual_backward", "backward"),
            timed(MetaSGDModule, "_outer_step", "outer step"),
        ):
            stack.enter_context(change)
        yield


def fitted(config: Path, folder: str, steps: int, more: list[str]) -> Clock:
    options = {
        "trainer.max_steps": WARM_UP + steps,
        "trainer.val_check_interval": WARM_UP + steps,
        "trainer.enable_progress_bar": "false",
        "last_checkpoint.every_n_steps": WARM_UP + steps + 1,
        "trainer.logger.init_args.save_dir": folder,
        "trainer.callbacks+": "__main__.Clock",
    }
    given = [text for option, value in options.items() for text in (f"--{option}", str(value))]
    code = metasgd(["fit", "--config", str(config), *given, *more])
    assert code == 0, code
    return Clock.last


def bare(fit: Clock, steps: int) -> float:
    """Microseconds of the gradient, its delivery and the optimizer's step, of what was fitted."""
    learner: MetaSGDModule = fit.module
    optimizer = fused(learner.outer.make_optimizer(learner.network, learner.update_rule), learner.device)
    theta, phi = dict(learner.network.named_parameters()), dict(learner.update_rule.named_parameters())
    tasks = fit.data.samplers["train"].draw(np.arange(fit.data.meta_batch_size))

    def step() -> None:
        found = learner.meta_gradient(tasks)
        attach_gradient(found.query_losses.mean(), found, theta, phi).backward()
        optimizer.step()
        optimizer.zero_grad()

    return repeated(step, steps)


def repeated(step: Callable[[], None], steps: int) -> float:
    for _ in range(WARM_UP):
        step()
    since = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - since) / steps * 1e6


def measured(config: Path, rounds: int, steps: int, more: list[str]) -> list[dict[str, float]]:
    """Rounds of fit and of the bare step, in turns."""
    found = []
    for _ in range(rounds):
        with TemporaryDirectory() as folder:
            fit = fitted(config, folder, steps, more)
        found.append(fit.microseconds() | {"bare": bare(fit, steps)})
    return found


def cells(rounds: list[dict[str, float]]) -> list[str]:
    """Medians, and the ratio of fit to the bare step with its range."""
    ratios = sorted(one["fit"] / one["bare"] for one in rounds)
    medians = [f"{statistics.median(one[name] for one in rounds):.0f}" for name in COLUMNS]
    return [*medians, f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/omniglot", help="the folder of Omniglot's archives")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 2], help="loader processes, a row for each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="that count, in a round")
    parser.add_argument("--out", type=Path, default=Path("host.json"), help="a record; its rounds stay, for turns")
    options, more = parser.parse_known_args()  # further options go to fit
    torch.set_num_threads(1)
    record = (
        json.loads(options.out.read_text()) if options.out.is_file() else {"torch": torch.__version__, "rounds": {}}
    )
    with TemporaryDirectory() as folder, as_on_a_device():
        config = Path(folder) / "host.yaml"
        config.write_text(CONFIG)
        for workers in options.workers:
            given = ["--data.root", options.root, "--data.num_workers", str(workers), *more]
            found = measured(config, options.rounds, options.steps, given)
            record["rounds"].setdefault(str(workers), []).extend(found)
    shown = Table(title="The host's part of an outer step, microseconds of processor time")
    for column in ("loader processes", *COLUMNS, "fit / bare"):
        shown.add_column(column, justify="right")
    for workers, found in record["rounds"].items():
        shown.add_row(workers, *cells(found))
    Console(width=160).print(shown)
    options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
