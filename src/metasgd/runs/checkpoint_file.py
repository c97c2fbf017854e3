"""The file of a checkpoint: torch's, with a digest of its bytes and a signature, read without running code in it."""

import hashlib
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from upath import UPath

from metasgd.errors import UserError, first_line
from metasgd.runs.checkpoint_schema import upgraded, validate_content
from metasgd.runs.safetensors_file import SUFFIX, checkpoint_in
from metasgd.runs.signature import is_own, signature
from metasgd.runs.storage import errors_of_the_system

_SEAL = b"metasgd-sha256:"
_SIGNED = b" signature:"
_SEALED = re.compile(re.escape(_SEAL) + rb"([0-9a-f]{64})(?:" + _SIGNED + rb"([0-9a-f]{64}))?")
_LENGTHS = (len(_SEAL) + 64, len(_SEAL) + 64 + len(_SIGNED) + 64)
_BLOCK = 2**20


def sealed(content: bytes) -> bytes:
    """The file that torch wrote, with the SHA-256 of its bytes as the comment of the zip archive that it is.

    The user's signature follows where the user has a key.
    """
    digest = hashlib.sha256(content).hexdigest().encode()
    signed = signature(digest)
    seal = _SEAL + digest + (_SIGNED + signed if signed else b"")
    return content[:-2] + struct.pack("<H", len(seal)) + seal


def written_here(path: Path | UPath) -> bool:
    """Whether this user wrote the checkpoint, by its signature; that its bytes are whole, ``read_checkpoint`` says."""
    with errors_of_the_system(path), path.open("rb") as file:
        seal = _seal_of(file)
    return seal is not None and is_own(seal[1], seal[2] or b"")


def read_checkpoint(path: Path | UPath) -> dict[str, Any]:
    """A checkpoint's content, of plain types and tensors only: no code in it is run, and no damage passes.

    Raises:
        UserError: the file is not a complete checkpoint of this program.
    """
    try:
        # torch warns of formats that it does not write itself
        with warnings.catch_warnings(action="error"), errors_of_the_system(path), path.open("rb") as file:
            content = checkpoint_in(file.read()) if path.suffix == SUFFIX else _unpickled(file)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(
            f"there is no checkpoint {path}. Give the path of one, such as runs/NAME/version_K/checkpoints/best.ckpt"
        ) from error
    except (
        # torch's own, and what its unpickler trips over in a stream that makes no sense
        *(UserWarning, pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, MemoryError),
        *(ValueError, TypeError, LookupError, AttributeError, AssertionError, OverflowError, struct.error),
    ) as error:
        reason = first_line(error)
        if reason.startswith("Weights only load failed"):
            reason = "it is not all of plain types and tensors, as torch.save writes them"
        raise UserError(
            f"the checkpoint {path} cannot be read: it is damaged, incomplete or no checkpoint ({reason[:120]})."
            " Give another, such as checkpoints/best.ckpt or last.ckpt of the same run."
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"{path} is not a checkpoint of metasgd: it has no state_dict. Give one that fit wrote.")
    validate_content(path, content)
    return upgraded(content)


def _unpickled(file: IO[bytes]) -> Any:
    _validate_bytes(file)
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def _seal_of(file: IO[bytes]) -> re.Match[bytes] | None:
    """The digest and the signature at the end of a file, with or without the latter."""
    size = file.seek(0, 2)
    for length in _LENGTHS:
        file.seek(max(0, size - length))
        found = _SEALED.fullmatch(file.read())
        if found is not None:
            return found
    return None


def _validate_bytes(file: IO[bytes]) -> None:
    """Refuse an archive of other bytes than were written; torch itself looks at no checksum.

    Raises:
        zipfile.BadZipFile: a checksum is wrong, or it is no archive of stored, separate members, as torch writes it.
    """
    size = file.seek(0, 2)
    seal = _seal_of(file)
    if seal is not None:
        length = len(seal[0])
        digest, left = hashlib.sha256(), size - length - 2
        file.seek(size - length - 2)
        tail = file.read(2)
        file.seek(0)
        while left:
            block = file.read(min(_BLOCK, left))
            digest.update(block)
            left -= len(block)
        digest.update(b"\0\0")  # the length of the comment, as it was when there was none
        if tail != struct.pack("<H", length) or digest.hexdigest().encode() != seal[1]:
            raise zipfile.BadZipFile("its bytes are not those that were written: the SHA-256 differs")
    with zipfile.ZipFile(file) as archive:
        file.seek(size - 2)
        if seal is None and (archive.comment or file.read() != b"\0\0"):
            raise zipfile.BadZipFile("its digest is damaged")
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise zipfile.BadZipFile("its members are not stored one after the other")
        damaged = archive.testzip() if seal is None else None
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
