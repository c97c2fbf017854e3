"""``python -m metasgd train``: an ordinary network, by a learned optimizer or a given one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from lightning import Trainer, seed_everything
from lightning.fabric.utilities.seed import max_seed_value
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from torch import nn
from torch.optim import LBFGS, Optimizer
from upath import UPath

from metasgd.cli.config import CONFIG
from metasgd.data.problems import Problem
from metasgd.errors import UserError, raise_problems, too_small
from metasgd.optim.learned_optimizer import LearnedOptimizer
from metasgd.runs.folders import Start, checkpoint_file, read_checkpoint, run_of, runs_of, validate_shapes
from metasgd.runs.storage import place_of, write_whole
from metasgd.runs.strict_json import as_bytes
from metasgd.supervised.datamodule import SupervisedData
from metasgd.supervised.module import MakeOptimizer, SupervisedModule, validate_network
from metasgd.supervised.same_run import validate_same_run
from metasgd.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from metasgd.training.callbacks.progress import ProgressBar
from metasgd.training.checkpoint_io import WholeCheckpointIO
from metasgd.training.datamodule import default_cache_dir
from metasgd.training.resuming import validate_resumable


def train(
    problem: Problem,
    network: Callable[[], nn.Module],
    optimizer: Literal["learned"] | OptimizerCallable = "learned",
    ckpt_path: str | None = None,
    lr: float = 1.0,
    steps: int = 1000,
    batch_size: int = 64,
    val_every: int = 100,
    seed: int = 0,
    root: str = "data",
    cache_dir: str | None = None,
    num_workers: int = 0,
    save_dir: str = "runs",
    name: str = "train",
    resume: str | None = None,
    accelerator: str = "auto",
    progress: bool = True,
) -> None:
    """Train an ordinary network on an ordinary problem, by a learned optimizer or a given one.

    Args:
        problem: what to train on: many classes of a source of images at once, or a curve.
        network: any module whose forward takes a batch.
        optimizer: ``learned``, or one of torch.optim.
        ckpt_path: the checkpoint that fit wrote, whose update rule is the learned optimizer.
        lr: factor on the learned optimizer's own rates.
        steps: steps of the training.
        batch_size: examples in a batch.
        val_every: steps between two validations.
        seed: of the initial weights and of the batches.
        root: the folder with the data set's files.
        cache_dir: the folder for decoded images.
        num_workers: processes that fetch batches ahead; 0 fetches in the main process.
        save_dir: the folder of all runs.
        name: of the run.
        resume: ``last`` (of the newest run of that name), or a checkpoint of this command: go on from there.
        accelerator: cpu, gpu or what else Lightning knows.
        progress: show a progress bar.
    """
    problems = too_small("", ("steps", steps, 1), ("val_every", val_every, 1))
    if not 0 <= seed <= max_seed_value:
        problems.append(f"seed is {seed}: a whole number from 0 to {max_seed_value} is needed")
    raise_problems(problems)
    seed_everything(seed, verbose=False)
    data = SupervisedData(
        problem,
        Path(root).expanduser(),
        Path(cache_dir or default_cache_dir()).expanduser(),
        batch_size,
        seed,
        num_workers,
    )
    data.setup("fit")
    built = network()
    validate_network(built, problem, data.examples["train"])
    module = SupervisedModule(built, problem.loss, chosen_optimizer(optimizer, ckpt_path, lr, steps))
    made = made_by(module)  # refuses what does not fit before a run has a folder
    start = find_resumed(resume, place_of(save_dir, "--save_dir"), name)
    if start.checkpoint is not None and start.outer_step >= steps:
        raise UserError(
            f"steps is {steps}, but {start.checkpoint} has done {start.outer_step}: give more, or leave --resume out"
        )
    config = CONFIG.get()
    if start.run is not None and config is not None and resume is not None:
        validate_same_run(start.run.folder / "config.yaml", config, resume)
    if start.checkpoint is not None:
        validate_shapes(start.checkpoint, start.content, module)
        validate_resumable(start.checkpoint, start.content, made, options="--optimizer, --ckpt_path and --lr")
        if isinstance(made, LearnedOptimizer) and not made.is_of_rule(start.content["optimizer_states"][0]):
            raise UserError(
                f"--resume is {resume}, but {start.checkpoint} was trained by another update rule than that of"
                f" --ckpt_path {ckpt_path}. Give the checkpoint that it began with, or leave --resume out"
            )
    logger = TensorBoardLogger(
        save_dir=str(start.run.save_dir) if start.run else save_dir,
        name=start.run.name if start.run else name,
        version=start.run.version if start.run else None,
        default_hp_metric=False,
        purge_step=start.outer_step if start.run else None,
    )
    callbacks: list[Callback] = [
        BestCheckpoint(module.objective.metric, module.objective.higher_is_better),
        LastCheckpoint(every_n_steps=val_every),
        *([ProgressBar("Training")] if progress else []),
    ]
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=1,  # a run is one pass of the steps
        max_steps=steps,
        val_check_interval=min(val_every, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_progress_bar=progress,
        logger=logger,
        callbacks=callbacks,
        plugins=[WholeCheckpointIO()],
    )
    folder = place_of(trainer.log_dir or save_dir, "--save_dir")
    if config is not None:
        write_whole(folder / "config.yaml", config.encode())
    trainer.fit(module, datamodule=data, ckpt_path=str(start.checkpoint) if start.checkpoint else None)
    found = trainer.test(module, datamodule=data, verbose=False)[0]
    results = {**found, "steps": steps, "optimizer": described(made, ckpt_path, lr)}
    write_whole(folder / "results.json", as_bytes(results))
    metric = module.objective.metric
    Console().print(
        f"after {steps} steps: test/{metric} {found[f'test/{metric}']:.4f}, test/loss {found['test/loss']:.4f}"
    )
    Console().print(f"written to {folder}", soft_wrap=True, markup=False)


def find_resumed(resume: str | None, save_dir: UPath, name: str) -> Start:
    """What to go on from.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    if resume is None:
        return Start(None, None)
    saved = [path for run in runs_of(save_dir, name) if (path := run.checkpoint("last")).is_file()]
    path = saved[0] if resume == "last" and saved else place_of(resume, "--resume")
    if not path.is_file():
        raise UserError(
            f"--resume is {resume}, which is not there: give a checkpoint of this command, or last for the newest run"
            f" in {save_dir / name}, which has {len(saved)}"
        )
    return Start(run_of(path), path, read_checkpoint(path))


def chosen_optimizer(
    optimizer: Literal["learned"] | OptimizerCallable, ckpt_path: str | None, lr: float, steps: int
) -> MakeOptimizer:
    """What makes the optimizer of named parameters.

    Raises:
        UserError: a learned one without a checkpoint, or a given one with one.
    """
    if optimizer != "learned":
        if ckpt_path is not None or lr != 1:
            raise UserError(
                "--ckpt_path and --lr are the learned optimizer's: use --optimizer learned, or set the given"
                " optimizer's own --optimizer.init_args.lr"
            )
        return optimizer
    if ckpt_path is None:
        raise UserError(
            "--optimizer is learned, but no --ckpt_path says which: give a checkpoint that fit wrote, as with"
            " configs/optimizer_network_long.yaml"
        )
    return partial(LearnedOptimizer, checkpoint=checkpoint_file(ckpt_path, "--ckpt_path"), lr=lr, total_steps=steps)


def made_by(module: SupervisedModule) -> Optimizer:
    """The optimizer of the module's network.

    Raises:
        UserError: it refuses its settings or the network's parameters, or evaluates the loss several times in a step.
    """
    try:
        made = module.configure_optimizers()
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"--optimizer cannot be made as it is set ({str(error).splitlines()[0]}): choose other options of it, as"
            " --optimizer.lr 0.003"
        ) from error
    if isinstance(made, LBFGS):
        raise UserError(
            "--optimizer is LBFGS, which evaluates the loss several times in a step: choose one that steps by a single"
            " gradient, as torch.optim.Adam"
        )
    return made


def described(made: Optimizer, ckpt_path: str | None, lr: float) -> str:
    if isinstance(made, LearnedOptimizer):
        return f"learned, of {ckpt_path}, lr factor {lr:g}"
    rate = f", lr {made.defaults['lr']:g}" if "lr" in made.defaults else ""
    return type(made).__name__ + rate
