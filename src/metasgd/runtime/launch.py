"""Several processes, on one host or many: what started them, and that they all resume the same run."""

import atexit
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from metasgd.errors import UserError

RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""From the first of these variables that is set Lightning takes the rank of a process."""


@dataclass(frozen=True)
class Launch:
    """The processes that something else than the Trainer has started, this one among them."""

    by: str
    hosts: int
    per_host: int
    processes: int

    @classmethod
    def here(cls) -> "Launch | None":
        """As torchrun or srun left word; None where the Trainer starts its processes itself."""
        if TorchElasticEnvironment.detect():
            _validate_restarts()
            names = ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE")
            return cls("torchrun", *(int(os.environ[name]) for name in names))
        if SLURMEnvironment.detect() and "SLURM_NTASKS_PER_NODE" in os.environ:
            names = ("SLURM_NNODES", "SLURM_NTASKS_PER_NODE", "SLURM_NTASKS")
            return cls("srun", *(int(os.environ[name]) for name in names))
        if SLURMEnvironment.detect() and (tasks := int(os.environ.get("SLURM_NTASKS", 1))) > 1:
            raise UserError(
                f"SLURM gives this job {tasks} tasks, but not how many of them a host has. Use --ntasks-per-node in the"
                " place of --ntasks, and start the program by srun; for a single process, use --ntasks 1"
            )
        _validate_tasks_of_an_interactive_job()
        return None

    def fill_in(self, num_nodes: int, devices: Any) -> dict[str, Any]:
        """The Trainer's options of these names, where they were left at their defaults."""
        return {
            "num_nodes": self.hosts if num_nodes == 1 else num_nodes,
            "devices": self.per_host if devices == "auto" else devices,
        }

    def validate_targets(self, trainer: Trainer) -> None:
        """Refuse a Trainer that counts on other processes than there are; it would wait for them, or work alone.

        Raises:
            UserError: with both numbers.
        """
        counted = trainer.num_nodes * trainer.num_devices
        if counted != self.processes or trainer.world_size != self.processes:
            raise UserError(
                f"{self.by} started {self.processes} processes on {self.hosts} hosts, but trainer.num_nodes is"
                f" {trainer.num_nodes}, trainer.devices {trainer.num_devices} and trainer.strategy"
                f" {type(trainer.strategy).__name__}, which makes {trainer.world_size}. Leave these options out, and"
                " start as many processes on every host"
            )


def launches_by_multiprocessing(strategy: Strategy) -> bool:
    """Whether a Trainer's processes are made by Python's multiprocessing, as ``ddp_spawn`` and ``ddp_fork`` have it."""
    return isinstance(strategy.launcher, _MultiProcessingLauncher)


def _validate_tasks_of_an_interactive_job() -> None:
    """Refuse several tasks of srun where Lightning takes each for a run of its own.

    Raises:
        UserError: with the options that make them one run.
    """
    name, tasks = SLURMEnvironment.job_name(), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if name in ("bash", "interactive") and tasks > 1:
        raise UserError(
            f"srun started {tasks} tasks in a job named {name}, in which each of them would train by itself. Give the"
            " job another name and the number of tasks for each host, as by srun --job-name metasgd --ntasks-per-node"
            f" {tasks}; or start one, by srun -n 1"
        )


def be_first() -> bool:
    """Take this process, the only one of its run, for the first of the run; whether the environment says otherwise.

    Variables that another launcher has left behind would keep it from writing curves and checkpoints.
    """
    if not rank_zero_only.rank:  # type: ignore[attr-defined] # set by Lightning
        return False
    rank_zero_only.rank = 0  # type: ignore[attr-defined] # as above
    given = ", ".join(f"{name} {os.environ[name]}" for name in RANKS if name in os.environ)
    rank_zero_info(
        f"the environment has {given}, but this run has one process, which does all of the work. For several use"
        " torchrun, or --trainer.devices"
    )
    return True


def _validate_restarts() -> None:
    """Refuse ``--max-restarts`` where torchrun gives started-again processes the store of those before them.

    They would read there under which addresses the dead ones could be reached, and wait for them
    (pytorch issue 135712; so still in torch 2.14).

    Raises:
        UserError: with the variable that has torchrun make a new one.
    """
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        raise UserError(
            f"torchrun --max-restarts is {restarts}, but processes that it starts again would wait for the dead ones"
            " for ever. Set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment and use --rdzv-backend c10d"
        )


def end(code: int) -> NoReturn:
    """End this process with that exit code; one of several without taking Python down before.

    gloo's threads may hold a tensor of Python's for a moment longer. To let go of it while Python ends aborts the
    process, whose scheduler would take it for failed (pytorch pull request 179291; so still in torch 2.14).
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # of a pipe that nobody reads any more
                stream.flush()
        os._exit(code)
    sys.exit(code)


class ConsistentCheckpoint(Callback):
    """Holds that all processes start from the same checkpoint: those of a host without the others' folder do not.

    Args:
        found: what this process starts from, in words.
    """

    def __init__(self, found: str) -> None:
        self.found = found

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        first = trainer.strategy.broadcast(self.found)
        if self.found != first:
            raise UserError(
                f"process {trainer.global_rank} on {socket.gethostname()} found {self.found}, process 0 found {first}:"
                " they would not resume the same run. trainer.logger.init_args.save_dir must be one folder that"
                " all hosts share, or an address such as s3://bucket/runs"
            )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Processes that this one has started end with it: they would wait for it, or say that it is lost.

        Not by a signal, after which each of them leaves by itself.
        """
        launcher = trainer.strategy.launcher
        if isinstance(exception, Exception) and isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)
