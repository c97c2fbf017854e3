"""Options under the names that they had before: the command line and configuration files of then still work."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from metasgd.runs.plain_yaml import load_yaml

RENAMED = {
    "train": {
        "seed": "seed_everything",
        "root": "data.root",
        "cache_dir": "data.cache_dir",
        "num_workers": "data.num_workers",
    },
    "compare": {
        "ckpt_path": "optimizer_ckpt",
        "seed": "seed_everything",
        "root": "data.root",
        "cache_dir": "data.cache_dir",
    },
}
"""By command: what an option was called, and what it is called now."""
WITH_RESUME = {"ckpt_path": "optimizer_ckpt", "resume": "ckpt_path"}
"""Of ``train``, where ``--resume`` is used: ``--ckpt_path`` was the learned optimizer's beside it."""


def in_current_names(command: str, arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments with the present names of options, in configuration files too, and a line for each changed one.

    Args:
        command: whose options they are.
        arguments: what follows its name on the command line.
    """
    names = dict(RENAMED.get(command, {}))
    configs = {i: found for i, argument in enumerate(arguments) if (found := config_at(arguments, i)) is not None}
    if command == "train" and (
        any(argument.partition("=")[0] == "--resume" for argument in arguments)
        or any("resume" in config for config in configs.values())
    ):
        names |= WITH_RESUME
    changed: dict[str, str] = {}
    renamed = []
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        old = option.removeprefix("--")
        if i in configs and any(name in configs[i] for name in names):
            prefix = "--config=" if option == "--config" else ""
            renamed.append(prefix + yaml.safe_dump(_renamed(configs[i], names, changed), sort_keys=False))
        elif option.startswith("--") and old in names:
            changed[old] = names[old]
            renamed.append(f"--{names[old]}{equals}{value}")
        else:
            renamed.append(argument)
    return renamed, [f"--{old} is called --{new} now, and is taken as that" for old, new in changed.items()]


def config_at(arguments: Sequence[str], i: int) -> dict[str, Any] | None:
    """The configuration file that argument ``i`` names, if it names one that can be read."""
    if arguments[i].startswith("--config="):
        place = arguments[i].removeprefix("--config=")
    elif i and arguments[i - 1] == "--config":
        place = arguments[i]
    else:
        return None
    try:
        found = load_yaml(Path(place).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None  # the parser says what is wrong with it
    return found if isinstance(found, dict) else None


def _renamed(config: dict[str, Any], names: dict[str, str], changed: dict[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in config.items():
        group, _, own = names.get(name, name).rpartition(".")
        if name == "resume" and value is None:
            continue
        if name in names and value is not None:
            changed[name] = names[name]
        if name not in names:
            made[name] = {**made[name], **value} if isinstance(made.get(name), dict) else value
        elif group:
            made.setdefault(group, {})[own] = value
        else:
            made[own] = value
    return made
