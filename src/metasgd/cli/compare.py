"""``compare``: the learned optimizer beside those that everybody knows."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from rich.console import Console
from torch import nn
from upath import UPath

from metasgd.cli.comparing import progress_of
from metasgd.cli.seeds import unfit_seed
from metasgd.data.problems import Problem, ShuffledBatches
from metasgd.errors import UserError, first_line, raise_problems, too_small
from metasgd.meta.objectives import OBJECTIVES
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.reporting.figures import file_of
from metasgd.reporting.text import printable
from metasgd.runs.folders import checkpoint_file
from metasgd.runs.outputs import validate_folder
from metasgd.runs.storage import place_of, write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.supervised.comparison import BASELINES, Effort, Row
from metasgd.supervised.comparison import compare as compared
from metasgd.supervised.datamodule import DataFiles
from metasgd.supervised.module import validate_network
from metasgd.supervised.report import Protocol, as_json, common_target, figure, table
from metasgd.supervised.run_cache import EXAMPLES, RunCache, cached_in
from metasgd.supervised.trainer import Candidate, Named, Schedule, SupervisedTrainer

LEARNED = "learned"
Baseline = Literal["SGD", "Momentum", "Adam", "RMSProp", "AdaGrad", "AdamW"]


@dataclass(frozen=True)
class Compare:
    """Train the same network on the same data by the learned optimizer and by others, each tuned, and compare.

    A comparison that was stopped is resumed by the same command: what had been trained is in its run's folder.
    ``compare --suite small`` compares on a fixed set of workloads instead; ``compare --suite small --help`` lists its
    options.

    Args:
        problem: what to train on: many classes of a source of images at once, or a curve.
        network: makes a network with fresh weights.
        optimizer_ckpt: the checkpoint that fit wrote, whose update rule is the learned optimizer.
        config: all the options as YAML, which ``--config`` takes again.
        further: more learned optimizers, by the name to print: their checkpoints.
        baselines: which optimizers to compare it with.
        schedule: of the baselines' learning rates: ``constant``; ``cosine``, to zero over the steps; or
            ``warmup_cosine``, after a linear rise over the first 5 %. The learned optimizer makes its own.
        steps: steps of each training.
        batch_size: examples in a batch.
        eval_every: steps between two evaluations on validation.
        seeds: trainings of each optimizer that count, each with initial weights and batches of its own.
        trials: learning rates tried for each baseline, a factor of √10 apart.
        most_trials: learning rates tried at most, where the best lies at the edge.
        target_loss: the validation loss to count the steps to; by default the lowest that all reach.
        seed_everything: the first seed; the search has one of its own.
        data: where the data set lies.
        save_dir: the folder of all runs.
        name: of the run.
        device: where to train.
        trust_checkpoint: import any class that the checkpoint names, which runs code: only where you trust its maker.
            Without it, those of metasgd, torch, torchvision, lightning and timm are allowed.
    """

    problem: Problem
    network: Callable[[], nn.Module]
    optimizer_ckpt: str
    config: str
    further: dict[str, str] = field(default_factory=dict)
    baselines: Sequence[Baseline] = ("SGD", "Momentum", "Adam", "RMSProp", "AdaGrad", "AdamW")
    schedule: Schedule = "constant"
    steps: int = 500
    batch_size: int = 64
    eval_every: int = 25
    seeds: int = 3
    trials: int = 5
    most_trials: int = 8
    target_loss: float | None = None
    seed_everything: int = 0
    data: DataFiles = DataFiles()  # noqa: RUF009 - frozen
    save_dir: str = "runs"
    name: str = "compare"
    device: str = "cpu"
    trust_checkpoint: bool = False

    def run(self) -> None:
        """Train all, and write the table, the figure and the curves.

        Raises:
            UserError: an option, the data, the network or a checkpoint cannot be used; before anything is trained.
        """
        self._validate_options()
        checkpoints = {
            name: checkpoint_file(path, "--optimizer_ckpt" if name == LEARNED else f"--further {name}")
            for name, path in self._learned().items()
        }
        trainer = self._trainer(device_of(self.device))
        network = self.network()
        validate_network(network, self.problem, trainer.examples["train"])
        learned = [
            Candidate(name, self._maker(checkpoint), start=1.0, tuned=False) for name, checkpoint in checkpoints.items()
        ]
        for candidate in learned:
            candidate.make(network.named_parameters(), 1.0)  # what does not fit is refused before hours of training
        candidates = learned + [Candidate(name, *BASELINES[name], schedule=self.schedule) for name in self.baselines]
        place = place_of(self.save_dir, "--save_dir")
        validate_folder(place / self.name / "version_0", "--save_dir and --name")
        sums = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in checkpoints.items()}
        examples = {split: of_split.digest for split, of_split in trainer.examples.items()}
        terms = {"config": self.config, "checkpoints": sums, EXAMPLES: examples}
        cache = cached_in(place, self.name, terms, trainer.train)
        write_whole(cache.folder / "config.yaml", self.config.encode())
        self._report(self._rows(cache, trainer, candidates), cache, trainer)

    def _validate_options(self) -> None:
        problems = too_small(
            ("steps", self.steps, 1),
            ("eval_every", self.eval_every, 1),
            ("seeds", self.seeds, 1),
            ("trials", self.trials, 1),
        )
        problems += unfit_seed(self.seed_everything, self.seeds)
        if self.trials % 2 == 0 or self.most_trials < self.trials:
            problems.append(
                f"trials is {self.trials} and most_trials {self.most_trials}: an odd number, and at least as many, are"
                " needed"
            )
        problems += [
            f"further has a learned optimizer of the name {name}, which another row of the table has: give it another"
            " name"
            for name in self.further
            if name in (LEARNED, *BASELINES)
        ]
        problems += ["further has a learned optimizer without a name: give it one" for name in self.further if not name]
        twice = {name for name in self.baselines if list(self.baselines).count(name) > 1}
        problems += [f"baselines has {name} several times: give it once" for name in sorted(twice)]
        raise_problems(problems)

    def _learned(self) -> dict[str, str]:
        """The checkpoints of the learned optimizers, by the name to print."""
        return {LEARNED: self.optimizer_ckpt, **self.further}

    def _maker(self, checkpoint: UPath) -> Callable[[Named, float], LearnedOptimizer]:
        trust = self.trust_checkpoint
        return lambda params, lr: LearnedOptimizer(params, str(checkpoint), lr=lr, total_steps=self.steps, trust=trust)

    def _trainer(self, device: torch.device) -> SupervisedTrainer:
        examples = self.data.examples(self.problem)
        ShuffledBatches(len(examples["train"]), self.batch_size, self.steps, self.seed_everything)  # checks them
        objective = OBJECTIVES[self.problem.loss]
        return SupervisedTrainer(
            self.network, examples, objective, self.steps, self.batch_size, self.eval_every, device
        )

    def _rows(self, cache: RunCache, trainer: SupervisedTrainer, candidates: Sequence[Candidate]) -> list[Row]:
        if cache.traces:
            done = len(cache.traces)
            trainings = "1 training is" if done == 1 else f"{done} trainings are"
            print(printable(f"resumes {cache.folder}: {trainings} done"))
        seeds = range(self.seed_everything, self.seed_everything + self.seeds)
        effort = Effort(seeds, seeds.stop, self.trials, self.most_trials)
        with progress_of(sum(self.seeds + (self.trials if c.tuned else 3) for c in candidates)) as done_with:
            return compared(cache, trainer.better, candidates, effort, done_with)

    def _report(self, rows: Sequence[Row], cache: RunCache, trainer: SupervisedTrainer) -> None:
        """Files first: what is printed may be lost, as where the terminal is gone."""
        protocol = Protocol(
            metric=trainer.objective.metric,
            higher_is_better=trainer.objective.higher_is_better,
            steps=self.steps,
            seeds=self.seeds,
            trials=self.trials,
            most_trials=self.most_trials,
            target_loss=common_target(rows) if self.target_loss is None else self.target_loss,
        )
        found = as_json(rows, protocol) | {"schedule": self.schedule, "checkpoints": self._learned()}
        write_whole(cache.folder / "results.json", as_bytes(found))
        title = f"{self.name}: learning rates {self.schedule}"
        write_whole(cache.folder / "comparison.png", file_of(figure(rows, protocol, title), "png", dpi=120))
        cache.forget()
        console = Console(width=max(120, Console().width), emoji=False)
        console.print(table(rows, protocol, title))
        console.print(printable(f"written to {cache.folder}"), soft_wrap=True, markup=False)


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
            f"--device is {name}, on which nothing can be computed here ({first_line(error)}): give cpu, or"
            " the name of a device that this machine has, as cuda or cuda:1"
        ) from error
    return device
