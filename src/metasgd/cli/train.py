"""``train``: one network on one data set, by a learned optimizer or a given one."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from metasgd.cli.made_optimizer import described, made_by
from metasgd.cli.seeds import unfit_seed
from metasgd.data.problems import Problem
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.reporting.text import printable
from metasgd.runs.checkpoint_schema import CONFIG_KEY
from metasgd.runs.folders import Run, Start, checkpoint_file, find_start, new_run, validate_shapes
from metasgd.runs.lock import locked, open_run
from metasgd.runs.outputs import validate_folder
from metasgd.runs.storage import place_of, write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.runtime.launch import be_first
from metasgd.supervised.datamodule import LoadedData, SupervisedData
from metasgd.supervised.module import MakeOptimizer, SupervisedModule, validate_network
from metasgd.supervised.same_run import validate_same_run
from metasgd.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from metasgd.training.callbacks.progress import ProgressBar
from metasgd.training.checkpoint_io import WholeCheckpointIO
from metasgd.training.resuming import validate_resumable
from metasgd.training.run_logger import RunLogger
from metasgd.training.saved_states import validate_progress


@dataclass(frozen=True)
class Train:
    """Train a network on a supervised problem, by a learned optimizer or a given one.

    Args:
        problem: what to train on: many classes of a source of images at once, or a curve.
        network: makes a network with fresh weights.
        config: all the options as YAML, which ``--config`` takes again.
        optimizer: ``learned``, or one of torch.optim.
        optimizer_ckpt: the checkpoint that fit wrote, whose update rule is the learned optimizer.
        lr: factor on the learned optimizer's own rates.
        steps: steps of the training.
        batch_size: examples in a batch.
        val_every: steps between two validations.
        ckpt_path: a checkpoint of this command to resume from: ``last`` or ``best`` of the newest run of that name, or
            a file; ``resume`` resumes the run that ``version`` names, or starts it.
        seed_everything: of the initial weights and of the batches.
        data: where the data set lies, and how it is loaded.
        save_dir: the folder of all runs.
        name: of the run.
        version: K of the run's folder, NAME/version_K; by default the next.
        accelerator: cpu, gpu or what else Lightning knows.
        progress: show a progress bar.
        trust_checkpoint: import any class that the checkpoint names, which runs code: only where you trust its maker.
            Without it, those of metasgd, torch, torchvision, lightning and timm are allowed.
    """

    problem: Problem
    network: Callable[[], nn.Module]
    config: str
    optimizer: Literal["learned"] | OptimizerCallable = "learned"
    optimizer_ckpt: str | None = None
    lr: float = 1.0
    steps: int = 1000
    batch_size: int = 64
    val_every: int = 100
    ckpt_path: str | None = None
    seed_everything: int = 0
    data: LoadedData = LoadedData()  # noqa: RUF009 - frozen
    save_dir: str = "runs"
    name: str = "train"
    version: int | None = None
    accelerator: str = "auto"
    progress: bool = True
    trust_checkpoint: bool = False

    def run(self) -> None:
        """Train, test, and write what was found.

        Raises:
            UserError: an option, the data, the network or a checkpoint cannot be used; before a run has a folder.
        """
        problems = too_small(("steps", self.steps, 1), ("val_every", self.val_every, 1))
        raise_problems([*problems, *unfit_seed(self.seed_everything)])
        with ExitStack() as held:  # the run's lock
            self._run(held)

    def _run(self, held: ExitStack) -> None:
        start, optimizer_ckpt = self._start(held)
        make_optimizer = self._make_optimizer(optimizer_ckpt)
        seed_everything(self.seed_everything, verbose=False)
        data = SupervisedData(self.problem, self.data, self.batch_size, self.seed_everything)
        data.setup("fit")
        network = self.network()
        validate_network(network, self.problem, data.examples["train"])
        module = SupervisedModule(network, self.problem.loss, make_optimizer)
        optimizer = made_by(module)  # refuses what does not fit before a run has a folder
        self._validate_other_start(start, module, optimizer, optimizer_ckpt)
        be_first()
        new = start.run or new_run(place_of(self.save_dir, "--save_dir"), self.name)
        validate_folder(new.folder / "checkpoints", "--save_dir and --name")
        run = open_run(start, new, True, rank_zero_info, held)
        trainer = self._trainer(start, run, module)
        if start.checkpoint is not None:
            validate_progress(start.checkpoint, start.content, trainer)
        folder = run.folder
        write_whole(folder / "config.yaml", self.config.encode())
        trainer.fit(module, datamodule=data, ckpt_path=str(start.checkpoint) if start.checkpoint else None)
        found = trainer.test(module, datamodule=data, verbose=False)[0]
        in_words = described(optimizer, optimizer_ckpt, self.lr)
        write_whole(folder / "results.json", as_bytes({**found, "steps": self.steps, "optimizer": in_words}))
        metric = module.objective.metric
        Console().print(
            f"after {self.steps} steps: test/{metric} {found[f'test/{metric}']:.4f}, test/loss {found['test/loss']:.4f}"
        )
        print(printable(f"written to {folder}"))

    def _start(self, held: ExitStack) -> tuple[Start, str | None]:
        """What to resume from, and the checkpoint of the learned optimizer.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or not one of this command.
        """
        save_dir = place_of(self.save_dir, "--save_dir")

        start = find_start(self.ckpt_path, save_dir, self.name, self.version, fit=True)
        if CONFIG_KEY not in start.content:
            if start.run is not None and start.run.folder.is_dir():
                held.enter_context(locked(start.run, rank_zero_info))
                start = find_start(self.ckpt_path, save_dir, self.name, self.version, fit=True)  # as it is now
            return start, self.optimizer_ckpt
        if self.optimizer != "learned" or self.optimizer_ckpt is not None:
            raise UserError(
                f"--ckpt_path is {self.ckpt_path}, which fit wrote, but train resumes from a checkpoint that train"
                " wrote. Leave it out for a new run; for the update rule of a checkpoint give --optimizer learned"
                " --optimizer_ckpt"
            )
        rank_zero_info(f"--ckpt_path is {self.ckpt_path}, which fit wrote: it is taken as --optimizer_ckpt")
        return find_start(None, save_dir, self.name, self.version, fit=True), str(start.checkpoint)

    def _make_optimizer(self, optimizer_ckpt: str | None) -> MakeOptimizer:
        """What makes the optimizer of named parameters.

        Raises:
            UserError: a learned one without a checkpoint, or a given one with one.
        """
        if self.optimizer != "learned":
            if optimizer_ckpt is not None or self.lr != 1:
                raise UserError(
                    "--optimizer_ckpt and --lr are the learned optimizer's: use --optimizer learned, or set the given"
                    " optimizer's own --optimizer.init_args.lr"
                )
            return self.optimizer
        if optimizer_ckpt is None:
            raise UserError(
                "--optimizer is learned, but no --optimizer_ckpt says which: give a checkpoint that fit wrote, as with"
                " configs/optimizer_network_long.yaml"
            )
        checkpoint = checkpoint_file(optimizer_ckpt, "--optimizer_ckpt")
        trust = self.trust_checkpoint
        return partial(LearnedOptimizer, checkpoint=str(checkpoint), lr=self.lr, total_steps=self.steps, trust=trust)

    def _validate_other_start(
        self, start: Start, module: SupervisedModule, optimizer: Optimizer, optimizer_ckpt: str | None
    ) -> None:
        """Refuse to resume what was begun otherwise.

        Raises:
            UserError: names what differs.
        """
        path, content = start.checkpoint, start.content
        if path is None:
            return
        if start.outer_step > self.steps:  # one that took as many may have been killed before its test
            raise UserError(
                f"--steps is {self.steps}, but {path} has done {start.outer_step}: give more, or leave --ckpt_path out"
            )
        if start.run is not None:
            validate_same_run(start.run.folder / "config.yaml", self.config, str(self.ckpt_path))
        validate_shapes(path, content, module)
        validate_resumable(path, content, optimizer, options="--optimizer, --optimizer_ckpt and --lr")
        if isinstance(optimizer, LearnedOptimizer) and not optimizer.is_of_rule(content["optimizer_states"][0]):
            raise UserError(
                f"--ckpt_path is {self.ckpt_path}, but {path} was trained by another update rule than that of"
                f" --optimizer_ckpt {optimizer_ckpt}. Give the checkpoint that it began with, or leave --ckpt_path out"
            )

    def _trainer(self, start: Start, run: Run, module: SupervisedModule) -> Trainer:
        callbacks: list[Callback] = [
            BestCheckpoint(module.objective.metric, module.objective.higher_is_better),
            LastCheckpoint(every_n_steps=self.val_every),
            *([ProgressBar("Training")] if self.progress else []),
        ]
        return Trainer(
            accelerator=self.accelerator,
            devices=1,
            max_epochs=1,  # a run is one pass of the steps
            max_steps=self.steps,
            val_check_interval=min(self.val_every, self.steps),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            enable_model_summary=False,
            enable_progress_bar=self.progress,
            logger=RunLogger(
                str(run.save_dir),
                name=run.name,
                version=run.version,
                default_hp_metric=False,
                purge_step=start.outer_step if start.run else None,
            ),
            callbacks=callbacks,
            plugins=[WholeCheckpointIO()],
        )
