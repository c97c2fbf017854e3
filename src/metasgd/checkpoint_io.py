"""How checkpoints are written and read: whole or not at all, and without running code in them."""

import io
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from metasgd.errors import UserError
from metasgd.runs import read_checkpoint


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there; there is always a complete one to resume from.

    Lightning's own writer passes through the system's temporary folder, and a move from there to another
    file system is a copy, which can be cut short. Remote paths (``memory://``, ``s3://``) are left to it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(path)
        content = io.BytesIO()
        torch.save(checkpoint, content)
        beside = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                with beside.open("wb") as file:
                    file.write(content.getbuffer())
                    file.flush()
                    os.fsync(file.fileno())
                beside.replace(place)
            finally:
                beside.unlink(missing_ok=True)
        except OSError as error:
            kept = f"; the checkpoint written before is kept as {place}" if place.exists() else ""
            raise UserError(
                f"the checkpoint {place} could not be written ({error.strerror or error}){kept}. Make room or allow"
                " writing there, or choose another trainer.logger.init_args.save_dir, and resume with --ckpt_path"
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:  # noqa: ARG002
        if "://" in str(path):
            return super().load_checkpoint(path, map_location, weights_only=True)
        return read_checkpoint(Path(path))
