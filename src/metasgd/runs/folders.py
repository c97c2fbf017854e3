"""A run's folder, ``runs/NAME/version_K``, and finding the checkpoints in it."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.checkpoint_file import read_checkpoint
from metasgd.runs.shipped import checkpoint_named
from metasgd.runs.storage import answering, is_saved, place_of

KEYWORDS = ("last", "best")
RESUME = "resume"
"""The keyword of a job that starts its run, or resumes it when it is started again."""
_VERSION = re.compile(r"version_(\d+)")


@dataclass(frozen=True)
class Run:
    """One run under ``save_dir/name``."""

    save_dir: UPath
    name: str
    version: int

    @property
    def folder(self) -> UPath:
        return self.save_dir / self.name / f"version_{self.version}"

    def checkpoint(self, keyword: str) -> UPath:
        return self.folder / "checkpoints" / f"{keyword}.ckpt"


@dataclass(frozen=True)
class Start:
    """What a command starts from.

    Attributes:
        run: the run that it resumes or evaluates; None: a new one, or no run's.
        checkpoint: None: weights as they were initialised.
        content: of the checkpoint.
    """

    run: Run | None
    checkpoint: UPath | None
    content: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def outer_step(self) -> int:
        """Of the checkpoint."""
        return int(self.content.get("global_step", 0))

    def __str__(self) -> str:
        if self.checkpoint is None:
            return "no checkpoint"
        of = f"{self.run.folder.name}/" if self.run else ""
        return f"{of}{self.checkpoint.name} of outer step {self.outer_step}"


def find_start(
    ckpt_path: str | None,
    save_dir: UPath,
    name: str,
    version: int | str | None,
    fit: bool,
    own: Callable[[Run], None] | None = None,
) -> Start:
    """Find the checkpoint and the run that ``--ckpt_path`` and the logger's options mean; change nothing.

    Args:
        ckpt_path: a path or a keyword.
        save_dir: the folder of all runs.
        name: of the run.
        version: of the run, if one is named.
        fit: whether it is to be trained.
        own: called with the run that is to be trained, before its checkpoint is read.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or the run named is another's.
    """
    if version is not None and not (isinstance(version, int) and version >= 0):
        raise UserError(
            f"trainer.logger.init_args.version is {version}: a whole number from 0 is needed, K of the run's folder"
            f" {save_dir / name}/version_K"
        )
    with answering(save_dir, "trainer.logger.init_args.save_dir"):
        path = None if ckpt_path is None else resolve_checkpoint(ckpt_path, save_dir, name, version)
    run = None if path is None else run_of(path)
    if version is not None:
        named = Run(save_dir, name, version)
        if fit and ckpt_path != RESUME and (run is None or run.folder != named.folder.resolve()):
            validate_version(named)
        run = named
    if fit and run is not None and run.folder.is_dir():
        if own is not None:
            own(run)
        if ckpt_path == RESUME:  # its first checkpoint may be there by now
            path = resolve_checkpoint(RESUME, save_dir, name, run.version)
    return Start(run, path, {} if path is None else read_checkpoint(path))


def runs_of(save_dir: UPath, name: str) -> list[Run]:
    """All runs of that name, the newest first."""
    folders = (save_dir / name).glob("version_*")
    versions = [int(m[1]) for f in folders if (m := _VERSION.fullmatch(f.name))]
    return [Run(save_dir, name, v) for v in sorted(versions, reverse=True)]


def new_run(save_dir: UPath, name: str) -> Run:
    """The next of that name."""
    runs = runs_of(save_dir, name)
    return Run(save_dir, name, runs[0].version + 1 if runs else 0)


def resolve_checkpoint(ckpt_path: str, save_dir: UPath, name: str, version: int | None = None) -> UPath | None:
    """The file that ``--ckpt_path`` means: a path, or a keyword.

    ``last`` and ``best`` are those of the run ``version``, without one of the newest run that has one.
    ``resume`` is the last of the run ``version``, or nothing if that run is still to start.

    Raises:
        UserError: there is no such file.
    """
    if ckpt_path == RESUME:
        if version is None:
            raise UserError(
                "--ckpt_path is resume, which resumes the run that trainer.logger.init_args.version names, but it"
                " names none. Give each job's run a number of its own (--trainer.logger.init_args.version"
                f" $SLURM_JOB_ID), or use last for the newest run in {save_dir / name}."
            )
        last = Run(save_dir, name, version).checkpoint("last")
        return last if is_saved(last) else None
    if ckpt_path in KEYWORDS:
        if (run := run_with(ckpt_path, save_dir, name, version)) is not None:
            return run.checkpoint(ckpt_path)
        where = f"no run in {save_dir / name}" if version is None else f"the run {Run(save_dir, name, version).folder}"
        has = "has" if version is None else "does not have"
        raise UserError(
            f"--ckpt_path is {ckpt_path}, but {where} {has} checkpoints/{ckpt_path}.ckpt. Leave"
            " --ckpt_path out to start a new run, or give the path of a checkpoint."
        )
    return checkpoint_file(ckpt_path, "--ckpt_path", f", or last or best for the newest run in {save_dir / name}")


def run_with(checkpoint: str, save_dir: UPath, name: str, version: int | None) -> Run | None:
    """The run ``version``, or without one the newest, that has a checkpoint of this name, if there is such a run."""
    runs = runs_of(save_dir, name) if version is None else [Run(save_dir, name, version)]
    return next((run for run in runs if is_saved(run.checkpoint(checkpoint))), None)


def checkpoint_file(given: str, option: str, or_else: str = "") -> UPath:
    """The checkpoint that ``option`` gives, by its path or by the name of one that comes with metasgd.

    Args:
        given: the path, or the name.
        option: what to name in messages.
        or_else: what else may be given.

    Raises:
        UserError: there is no such file.
    """
    path = place_of(checkpoint_named(given, option), option)
    with answering(path, option):
        kind = "a file" if path.is_file() else "a folder" if path.is_dir() else "not there"
    if kind != "a file":
        raise UserError(f"{option} is {given}, which is {kind}. Give the path of a checkpoint file{or_else}.")
    return path


def validate_version(run: Run) -> None:
    """Refuse to start a run in the folder of another.

    Raises:
        UserError: the folder is there.
    """
    if run.folder.exists() or run.folder.is_symlink():
        raise UserError(
            f"trainer.logger.init_args.version is {run.version}, but {run.folder} is there already. Use --ckpt_path"
            " resume to resume that run, or another version for a new one."
        )


def run_of(checkpoint: UPath) -> Run | None:
    """The run that a checkpoint lies in, if it lies in one."""
    folder = checkpoint.resolve().parent
    match = _VERSION.fullmatch(folder.parent.name)
    if folder.name != "checkpoints" or match is None:
        return None
    return Run(folder.parents[2], folder.parents[1].name, int(match[1]))


def saved_step(last: UPath) -> int | None:
    """The outer step that this checkpoint is of; None if there is none."""
    return int(read_checkpoint(last)["global_step"]) if is_saved(last) else None


def validate_shapes(path: Path | UPath, content: dict[str, Any], module: torch.nn.Module) -> None:
    """Refuse a checkpoint whose tensors are not the module's, naming the first that differs.

    Raises:
        UserError: a tensor is missing, unexpected, of another shape, or not of finite numbers.
    """
    own = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    saved = {n: tuple(t.shape) for n, t in content["state_dict"].items()}
    differing = [n for n in (own | saved) if own.get(n) != saved.get(n)]
    if differing:
        n = differing[0]
        raise UserError(
            f"the checkpoint {path} does not fit the model: {n} is {saved.get(n, 'absent')} there and"
            f" {own.get(n, 'absent')} in the configured model ({len(differing)} tensors differ). Use the config.yaml"
            " of the run that wrote it, with the same --model.network, --model.update_rule, --model.inner_steps and"
            " --model.adapts."
        )
    for n, t in module.state_dict().items():
        found: torch.Tensor = content["state_dict"][n]
        if (found.is_floating_point(), found.is_complex()) != (t.is_floating_point(), t.is_complex()):
            raise UserError(f"the checkpoint {path} does not fit the model: {n} is of {found.dtype}, not {t.dtype}")
        if not found.isfinite().all():
            raise UserError(
                f"the checkpoint {path} cannot be used: {n} has values that are not finite. Give one from before it"
                " diverged, such as checkpoints/best.ckpt"
            )
