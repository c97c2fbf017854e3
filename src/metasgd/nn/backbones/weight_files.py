"""Weights that were trained elsewhere: found in a file, whatever is around them, and held against the network."""

import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from math import isqrt
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasgd.errors import UserError, first_line, some_of

Weights = Mapping[str, Tensor]
DAMAGE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, TypeError),
    *(LookupError, AttributeError, AssertionError, OverflowError, struct.error),
)
"""What torch's reader, or safetensors', raises on files that are none of theirs."""
DEPTH = 3
"""How many mappings deep the tensors of a file may lie."""
BEGIN = (b"PK", b"\x80")
"""What files of torch.save begin with: of a zip archive, and of a pickle in the format of early versions."""
NAMES = 5
"""Tensors that a message names."""
_FOLLOW: ContextVar[bool] = ContextVar("weights follow", default=False)


@contextmanager
def weights_follow() -> Iterator[None]:
    """Within, networks are built without their pretrained weights: a checkpoint's are put in their place.

    So a checkpoint can be used where the file that its training started from is not.
    """
    token = _FOLLOW.set(True)
    try:
        yield
    finally:
        _FOLLOW.reset(token)


def do_weights_follow() -> bool:
    """Whether the caller is within ``weights_follow``."""
    return _FOLLOW.get()


def read_weights(path: Path) -> Any:
    """What lies in a file of weights; no code in it is run.

    Raises:
        UserError: it is not there, not readable, or holds more than plain types and tensors.
    """
    if path.is_dir():
        raise UserError(f"weights is {path}, which is a folder: give the file of weights in it")
    if not path.is_file():
        raise UserError(f"weights is {path}: there is no such file")
    try:
        with path.open("rb") as file:
            head = file.read(9)
        if path.suffix == ".safetensors" or _is_safetensors(head):
            return _safetensors(path)
        if not head.startswith(BEGIN):
            raise ValueError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of another pickle protocol: what is not read is refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except DAMAGE as error:
        said = first_line(error).partition(". ")[0]
        if said.startswith("Weights only load failed"):
            raise UserError(
                f"weights is {path}, which holds more than tensors and plain types, and whatever else there is could"
                " run code when it is read. Save its tensors alone: in Python, where you trust its maker,"
                " torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE)"
            ) from error
        details = f" ({said[:120]})" if " " in said else ""  # not where it is a byte or the name of a class
        raise UserError(
            f"weights is {path}, which cannot be read: it is damaged, incomplete or no file of weights{details}."
            " Give a state_dict that torch.save wrote, a Lightning checkpoint or a .safetensors file"
        ) from error


def _is_safetensors(head: bytes) -> bool:
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _safetensors(path: Path) -> Weights:
    if not find_spec("safetensors"):
        raise UserError(f"weights is {path}: reading it needs safetensors, not installed here: pip install safetensors")
    from safetensors.torch import load_file

    found: Weights = load_file(path)
    return found


def put_in(network: nn.Module, name: str, content: Any, source: str, free: Sequence[str]) -> str:
    """Give ``network`` the weights that ``content`` holds; return a line about where they lay in it.

    Of all the mappings in it, and all the prefixes of their names (``module.``, ``_orig_mod.``, ``model.``,
    ``backbone.`` or any other), those count under which most tensors fit.

    Args:
        network: without its classifier.
        name: of the network, for messages.
        content: of a file, or the weights themselves.
        source: what they are called, for messages.
        free: names, or the beginnings of names, of the classifier that was cut off.

    Raises:
        UserError: tensors are missing, of no use, or of another shape, all in one message; or not finite.
    """
    own = network.state_dict()
    place, prefix, found = _best(content, own)
    if not found:
        raise UserError(f"weights is {source}, which holds no tensor with a name: give a state_dict of {name}")
    positions = {n for n in found if n in own and _are_positions(n, found[n], own[n])}
    given = {n: _resampled(found[n], own[n]) if n in positions else t for n, t in found.items()}
    missing = [n for n in own if n not in given and not n.endswith("num_batches_tracked")]
    others = [n for n in given if n not in own and not any(n == f or n.startswith(f"{f}.") for f in free)]
    shapes = [
        f"{n} is {list(given[n].shape)} where {list(own[n].shape)} is needed"
        for n in own
        if n in given and given[n].shape != own[n].shape
    ]
    kinds = (("missing", missing), ("of no use here", others), ("of another shape", shapes))
    if any(names for _, names in kinds):
        counted = "; ".join(f"{len(names)} {kind} ({some_of(names, NAMES)})" for kind, names in kinds if names)
        raise UserError(
            f"weights is {source}, which is of another network than {name}: of its tensors there"
            f" are {counted}. Give the weights of this network, or name the one that they are of"
        )
    if broken := [n for n in own if n in given and not given[n].isfinite().all()]:
        raise UserError(
            f"weights is {source}, of which {some_of(broken, NAMES)} has values that are not finite: its training"
            " diverged, or the file is damaged. Give another"
        )
    network.load_state_dict({n: t for n, t in given.items() if n in own}, strict=False)
    where = f", its tensors {'.'.join([*place, prefix]).rstrip('.')}.*" if place or prefix else ""
    resampled = f"; {', '.join(sorted(positions))} resampled for this picture size" if positions else ""
    return f"weights: {source}{where}{resampled}"


def _best(content: Any, own: Weights) -> tuple[tuple[str, ...], str, dict[str, Tensor]]:
    """Where in ``content`` most tensors fit: the keys that lead there, the prefix of their names, they without it."""
    best: tuple[tuple[str, ...], str, dict[str, Tensor]] = (), "", {}
    most = -1
    for place, tensors in _mappings(content):
        parts = [name.split(".") for name in tensors]
        prefixes = dict.fromkeys(
            "".join(f"{p}." for p in part[:n]) for n in range(4) for part in parts if len(part) > n
        )
        for prefix in prefixes:
            found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            fitting = sum(n in own and t.shape == own[n].shape for n, t in found.items())
            if fitting > most:
                best, most = (place, prefix, found), fitting
    return best


def _mappings(content: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """All the mappings of names to tensors in ``content``, the outer ones first."""
    if not isinstance(content, Mapping) or len(place) > DEPTH:
        return
    tensors = {name: t for name, t in content.items() if isinstance(name, str) and isinstance(t, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in content.items():
        yield from _mappings(value, (*place, str(name)))


def _are_positions(name: str, given: Tensor, own: Tensor) -> bool:
    """Whether these are a vision transformer's embeddings of positions, of another number of them."""
    if "pos_embed" not in name or given.ndim != 3 or own.ndim != 3:
        return False
    return given.shape[1] != own.shape[1] and given.shape[2] == own.shape[2]


def _resampled(given: Tensor, own: Tensor) -> Tensor:
    """Embeddings ``[1, T, D]`` of a square grid of positions, resampled to another; what is beside the grid stays."""
    new, old = (isqrt(t.shape[1]) for t in (own, given))
    beside = own.shape[1] - new * new
    if beside != given.shape[1] - old * old:
        return given  # which the message says
    grid = given[:, beside:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid.float(), size=(new, new), mode="bicubic", align_corners=True)
    return torch.cat([given[:, :beside], resized.permute(0, 2, 3, 1).flatten(1, 2).to(given)], dim=1)
