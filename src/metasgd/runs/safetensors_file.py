"""A checkpoint's weights and configuration as a file of safetensors, which holds no code and which other tools read."""

import hashlib
import json
from importlib.util import find_spec
from typing import Any

from metasgd.errors import UserError

SUFFIX = ".safetensors"
WRITTEN = ("global_step", "epoch", "pytorch-lightning_version", "metasgd_config", "metasgd_format")
"""What there is of a checkpoint beside its weights: what a training needs to resume is not."""
_OURS, _DIGEST = "metasgd", "metasgd_sha256"
"""Keys of the metadata: the rest of the checkpoint as JSON, and the SHA-256 of that and of the tensors' bytes."""


def safetensors_of(content: dict[str, Any]) -> bytes:
    """The file of a checkpoint: its state_dict as tensors, its configuration as metadata.

    Args:
        content: of a checkpoint.

    Raises:
        UserError: safetensors is not installed, or has no form for one of the tensors.
    """
    _validate_installed()
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in content["state_dict"].items()}
    rest = json.dumps({key: content[key] for key in WRITTEN if key in content})
    try:
        digest = _digest(rest, save(tensors))
        return save(tensors, metadata={"format": "pt", _OURS: rest, _DIGEST: digest})
    except (KeyError, ValueError) as error:
        raise UserError(f"safetensors has no form for these weights ({error}): keep them as a .ckpt file") from error


def checkpoint_in(data: bytes) -> dict[str, Any]:
    """The checkpoint in a file of safetensors.

    Raises:
        ValueError: it is damaged, or no checkpoint of this program.
        UserError: safetensors is not installed.
    """
    _validate_installed()
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    metadata = json.loads(data[8 : _header_end(data)]).get("__metadata__", {})
    if _OURS not in metadata:
        raise ValueError("it has weights alone, without the configuration that metasgd.save writes beside them")
    if _digest(metadata[_OURS], data) != metadata.get(_DIGEST):
        raise ValueError("its bytes are not those that were written: the SHA-256 differs")
    return {**json.loads(metadata[_OURS]), "state_dict": tensors}


def _header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def _digest(rest: str, data: bytes) -> str:
    """Of the metadata and of the tensors' bytes, which come after the header."""
    return hashlib.sha256(rest.encode() + data[_header_end(data) :]).hexdigest()


def _validate_installed() -> None:
    if not find_spec("safetensors"):
        raise UserError(f"{SUFFIX} files need the package safetensors, not installed here: pip install safetensors")
