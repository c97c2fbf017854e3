"""The configurations and checkpoints that come with metasgd, by their names: in the package, or beside its sources."""

import os.path
from pathlib import Path

from metasgd.errors import UserError

_PACKAGE, _CLONE = Path(__file__).parents[1], Path(__file__).parents[3]
ROOT = _CLONE if (_CLONE / "pyproject.toml").is_file() else _PACKAGE
"""Where they lie: in the clone, for whoever works or has installed in it; otherwise in the package, as a wheel's do."""
FILE = "model.ckpt"
"""In the folder of a checkpoint."""


def shipped_configs() -> dict[str, Path]:
    """The configuration files that come with metasgd, by their names."""
    return {path.stem: path for path in sorted(ROOT.glob("configs/*.yaml"))}


def shipped_checkpoints() -> dict[str, Path]:
    """The checkpoint files that come with metasgd, by their names."""
    return {path.parent.name: path for path in sorted(ROOT.glob(f"checkpoints/*/{FILE}"))}


def is_name(given: str) -> bool:
    """Whether it can be the name of something that comes with metasgd, and is no path."""
    return bool(given) and all(c.isalnum() or c in "_-" for c in given)


def checkpoint_named(given: str, option: str) -> str:
    """The path that a checkpoint's name stands for, as ``omniglot``; anything that is no bare name is a path already.

    A file of that name in the folder at hand comes first, and so does a folder with a model.ckpt in it.

    Args:
        given: a name, or the path of a file or of a folder with a model.ckpt.
        option: what to name in messages.

    Raises:
        UserError: there is no file and no checkpoint of this name.
    """
    if "://" not in given and os.path.isfile(os.path.join(given, FILE)):
        return os.path.join(given, FILE)
    if not is_name(given) or os.path.isfile(given):
        return given
    return _found(given, option, "checkpoint", shipped_checkpoints())


def config_named(given: str, option: str) -> str:
    """The path of the configuration file that is meant: one of that name or path, or one that comes with metasgd.

    Raises:
        UserError: there is no file and no configuration of this name.
    """
    if not is_name(given) or os.path.isfile(given):
        return given
    return _found(given, option, "configuration", shipped_configs())


def _found(given: str, option: str, kind: str, known: dict[str, Path]) -> str:
    if given in known:
        return str(known[given])
    names = f"one of {', '.join(known)}" if known else "none, since this installation has lost its files"
    raise UserError(
        f"{option} is {given}, which is neither a file nor the name of a {kind} that comes with metasgd ({names})"
    )
