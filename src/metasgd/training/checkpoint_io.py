"""How checkpoints are written and read: whole or not at all, and without running code in them."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from upath import UPath

from metasgd.errors import UserError
from metasgd.runs.checkpoint_file import read_checkpoint, sealed
from metasgd.runs.checkpoint_schema import FORMAT, FORMAT_KEY
from metasgd.runs.folders import run_of
from metasgd.runs.storage import write_whole
from metasgd.runtime.exit_codes import run_is_gone


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint such that there is always a complete one to resume from.

    Lightning's own writer passes through the system's temporary folder, and a move from there to another
    file system is a copy, which can be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        place = UPath(path)
        run = run_of(place)
        if run is not None:
            folder: Path | UPath = run.folder
            if isinstance(folder, Path) and not folder.is_dir():
                raise UserError(run_is_gone(folder))
        content = io.BytesIO()
        torch.save({**checkpoint, FORMAT_KEY: FORMAT}, content)
        try:
            write_whole(place, sealed(content.getvalue()))
        except OSError as error:
            earlier = f"; the checkpoint written before is still there as {place}" if place.exists() else ""
            raise UserError(
                f"the checkpoint {place} could not be written ({error.strerror or error}){earlier}. Make room or allow"
                " writing there, or choose another trainer.logger.init_args.save_dir, and resume with --ckpt_path"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(UPath(path))
