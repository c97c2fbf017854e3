"""``python -m metasgd compare``: the learned optimizer beside those that everybody knows."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress
from torch import nn
from upath import UPath

from metasgd.cli.config import CONFIG
from metasgd.data.problems import Problem, ShuffledBatches
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.meta.objectives import OBJECTIVES
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.runs.folders import Run, checkpoint_file, runs_of
from metasgd.runs.storage import place_of, write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.supervised.comparison import BASELINES
from metasgd.supervised.comparison import compare as compared
from metasgd.supervised.module import validate_network
from metasgd.supervised.report import Terms, as_json, common_target, figure, table
from metasgd.supervised.run_cache import RunCache
from metasgd.supervised.trainer import Candidate, Schedule, SupervisedTrainer
from metasgd.training.datamodule import default_cache_dir

LEARNED = "learned"
Baseline = Literal["SGD", "Momentum", "Adam", "RMSProp", "AdaGrad", "AdamW"]


def compare(
    problem: Problem,
    network: Callable[[], nn.Module],
    ckpt_path: str,
    further: dict[str, str] = {},  # noqa: B006 - never written to
    baselines: Sequence[Baseline] = ("SGD", "Momentum", "Adam", "RMSProp", "AdaGrad", "AdamW"),
    schedule: Schedule = "constant",
    steps: int = 500,
    batch_size: int = 64,
    eval_every: int = 25,
    seeds: int = 3,
    trials: int = 5,
    most_trials: int = 8,
    target_loss: float | None = None,
    seed: int = 0,
    root: str = "data",
    cache_dir: str | None = None,
    save_dir: str = "runs",
    name: str = "compare",
    device: str = "cpu",
) -> None:
    """Train the same network on the same data by the learned optimizer and by others, each tuned, and compare.

    A comparison that was stopped is taken up by the same command: what had been trained is in its run's folder.

    Args:
        problem: what to train on: many classes of a source of images at once, or a curve.
        network: any module whose forward takes a batch.
        ckpt_path: the checkpoint that fit wrote, whose update rule is the learned optimizer.
        further: more learned optimizers, by the name to print: their checkpoints.
        baselines: which optimizers to compare it with.
        schedule: of the baselines' learning rates: ``constant``, or ``cosine``, to zero over the steps. The learned
            optimizer makes its own.
        steps: steps of each training.
        batch_size: examples in a batch.
        eval_every: steps between two judgements on validation.
        seeds: trainings of each optimizer that count, each with initial weights and batches of its own.
        trials: learning rates tried for each baseline, a factor of √10 apart.
        most_trials: learning rates tried at most, where the best lies at the edge.
        target_loss: the validation loss to count the steps to; by default the lowest that all reach.
        seed: the first seed; the search has one of its own.
        root: the folder with the data set's files.
        cache_dir: the folder for decoded images.
        save_dir: the folder of all runs.
        name: of the run.
        device: where to train.
    """
    raise_problems(
        too_small(
            "",
            ("steps", steps, 1),
            ("eval_every", eval_every, 1),
            ("seeds", seeds, 1),
            ("trials", trials, 1),
            ("seed", seed, 0),
        )
    )
    if trials % 2 == 0 or most_trials < trials:
        raise UserError(
            f"trials is {trials} and most_trials {most_trials}: an odd number, and at least as many, are needed"
        )
    learned = {LEARNED: ckpt_path, **further}
    taken = [label for label in further if label in (LEARNED, *BASELINES)]
    if taken:
        raise UserError(
            f"further has a learned optimizer of the name {taken[0]}, which another row of the table has: give it"
            " another name"
        )
    files = {
        label: checkpoint_file(path, "--ckpt_path" if label == LEARNED else f"--further {label}")
        for label, path in learned.items()
    }
    where = device_of(device)
    examples = problem.examples(Path(root).expanduser(), Path(cache_dir or default_cache_dir()).expanduser())
    ShuffledBatches(len(examples["train"]), batch_size, steps, seed)  # refuses what cannot be
    built = network()
    validate_network(built, problem, examples["train"])
    for checkpoint in files.values():
        LearnedOptimizer(built.named_parameters(), checkpoint=checkpoint, total_steps=steps)
    contenders = [
        Candidate(label, partial(_learned, checkpoint, steps), start=1.0, tuned=False)
        for label, checkpoint in files.items()
    ]
    contenders += [Candidate(label, *BASELINES[label], schedule=schedule) for label in baselines]
    bench = SupervisedTrainer(network, examples, OBJECTIVES[problem.loss], steps, batch_size, eval_every, where)
    place = place_of(save_dir, "--save_dir")
    kept = _kept(place, name, files, bench)

    console = Console(width=max(120, Console().width))
    if kept.traces:
        console.print(f"goes on with {kept.folder}: {_trainings(len(kept.traces))} done", soft_wrap=True, markup=False)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("Comparing", total=sum(seeds + (trials if c.tuned else 3) for c in contenders))

        def done(said: str) -> None:
            progress.update(task, advance=1, description=said)

        search_seed = seed + seeds
        rows = compared(
            kept, bench.better, contenders, range(seed, seed + seeds), search_seed, trials, most_trials, done
        )
    terms = Terms(
        metric=bench.objective.metric,
        higher_is_better=bench.objective.higher_is_better,
        steps=steps,
        seeds=seeds,
        trials=trials,
        most_trials=most_trials,
        target_loss=common_target(rows) if target_loss is None else target_loss,
    )
    title = f"{name}: learning rates {schedule}"
    console.print(table(rows, terms, title))
    with (kept.folder / "comparison.png").open("wb") as file:
        figure(rows, terms, title).savefig(file, format="png", dpi=120)
    found = as_json(rows, terms) | {"schedule": schedule, "checkpoints": learned}
    write_whole(kept.folder / "results.json", as_bytes(found))
    kept.forget()
    console.print(f"written to {kept.folder}", soft_wrap=True, markup=False)


def device_of(name: str) -> torch.device:
    """The device of that name.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise UserError(
            f"--device is {name}, on which nothing can be computed here ({str(error).splitlines()[0]}): give cpu, or"
            " the name of a device that this machine has, as cuda or cuda:1"
        ) from error
    return device


def _trainings(n: int) -> str:
    return "1 training is" if n == 1 else f"{n} trainings are"


def _kept(place: UPath, name: str, checkpoints: dict[str, UPath], bench: SupervisedTrainer) -> RunCache:
    """The newest run of that name, if it is to be gone on with; otherwise a new one."""
    config = CONFIG.get()
    sums = {label: hashlib.sha256(file.read_bytes()).hexdigest() for label, file in checkpoints.items()}
    terms = {"config": config, "checkpoints": sums}
    runs = runs_of(place, name)
    if runs and config is not None:  # called from Python, nothing says what a run was made by
        kept = RunCache(runs[0].folder, terms, bench.train)
        if kept.take_up():
            return kept
    kept = RunCache(Run(place, name, runs[0].version + 1 if runs else 0).folder, terms, bench.train)
    if config is not None:
        write_whole(kept.folder / "config.yaml", config.encode())
    kept.write()
    return kept


def _learned(checkpoint: UPath, steps: int, params: object, lr: float) -> LearnedOptimizer:
    return LearnedOptimizer(params, checkpoint=checkpoint, lr=lr, total_steps=steps)  # type: ignore[arg-type]
