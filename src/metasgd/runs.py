"""A run's folder, ``runs/NAME/version_K``, and finding the checkpoints in it."""

import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from metasgd.errors import UserError

KEYWORDS = ("last", "best")
CONFIG_KEY = "metasgd_config"
"""A checkpoint holds the run's config.yaml under this key."""
_VERSION = re.compile(r"version_(\d+)")


@dataclass(frozen=True)
class Run:
    """One run under ``save_dir/name``."""

    save_dir: Path
    name: str
    version: int

    @property
    def folder(self) -> Path:
        return self.save_dir / self.name / f"version_{self.version}"

    def checkpoint(self, keyword: str) -> Path:
        return self.folder / "checkpoints" / f"{keyword}.ckpt"


def runs_of(save_dir: Path, name: str) -> list[Run]:
    """All runs of that name, the newest first."""
    folders = (save_dir / name).glob("version_*")
    versions = [int(m[1]) for f in folders if (m := _VERSION.fullmatch(f.name))]
    return [Run(save_dir, name, v) for v in sorted(versions, reverse=True)]


def resolve_checkpoint(ckpt_path: str, save_dir: Path, name: str) -> Path:
    """The file that ``--ckpt_path`` means: a path, or ``last`` or ``best`` of the newest run that has one.

    Raises:
        UserError: there is no such file.
    """
    if ckpt_path in KEYWORDS:
        for run in runs_of(save_dir, name):
            if run.checkpoint(ckpt_path).is_file():
                return run.checkpoint(ckpt_path)
        raise UserError(
            f"--ckpt_path is {ckpt_path}, but no run in {save_dir / name} has checkpoints/{ckpt_path}.ckpt. Leave"
            " --ckpt_path out to start a new run, or give the path of a checkpoint."
        )
    path = Path(ckpt_path).expanduser()
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not there"
        raise UserError(
            f"--ckpt_path is {ckpt_path}, which is {kind}. Give the path of a checkpoint file, or last or best for"
            f" the newest run in {save_dir / name}."
        )
    return path


def run_of(checkpoint: Path) -> Run | None:
    """The run that a checkpoint lies in, if it lies in one."""
    folder = checkpoint.resolve().parent
    match = _VERSION.fullmatch(folder.parent.name)
    if folder.name != "checkpoints" or match is None:
        return None
    return Run(folder.parents[2], folder.parents[1].name, int(match[1]))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content, of plain types and tensors only: no code in it is run.

    Raises:
        UserError: the file is not a complete checkpoint of this program.
    """
    try:
        with warnings.catch_warnings(action="error"):  # torch warns of formats that it does not write itself
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        UserWarning,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"the checkpoint {path} cannot be read: it is damaged, incomplete or no checkpoint ({reason[:120]})."
            " Give another, such as checkpoints/best.ckpt or last.ckpt of the same run."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path} is not a checkpoint of metasgd: it has no state_dict. Give one that fit wrote.")
    return content


def refuse_misfit(path: Path, content: dict[str, Any], module: torch.nn.Module) -> None:
    """Refuse a checkpoint whose tensors are not the module's, naming the first that differs.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    own = {n: tuple(t.shape) for n, t in module.state_dict().items()}
    saved = {n: tuple(t.shape) for n, t in content["state_dict"].items()}
    differing = [n for n in (own | saved) if own.get(n) != saved.get(n)]
    if differing:
        n = differing[0]
        raise UserError(
            f"the checkpoint {path} does not fit the model: {n} is {saved.get(n, 'absent')} there and"
            f" {own.get(n, 'absent')} in the configured model ({len(differing)} tensors differ). Use the config.yaml"
            " of the run that wrote it, with the same --model.network, --model.update_rule and --data.n_way."
        )
