"""Whether a training that goes on is the one that was begun: what it must have in common with its run's config.yaml."""

from typing import Any

import yaml
from upath import UPath

from metasgd.errors import UserError, refuse

FIXED = ("problem", "network", "batch_size", "seed")
"""The options that a step depends on, beside the optimizer's, which the checkpoint itself holds."""


def refuse_other_run(file: UPath, configured: str, resume: str) -> None:
    """Refuse to go on with other options than the run began with.

    Args:
        file: config.yaml of the run; one that is not there says nothing.
        configured: the configuration now, as YAML.
        resume: what ``--resume`` is, for the message.

    Raises:
        UserError: names the options that differ, with both values.
    """
    if not file.is_file():
        return
    try:
        began, now = yaml.safe_load(file.read_bytes()), yaml.safe_load(configured)
        of_run, own = (_flat({name: config[name] for name in FIXED}) for config in (began, now))
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"--resume is {resume}, but {file} is no configuration of this command ({str(error).splitlines()[0]}):"
            " write it again as the run began, or leave --resume out"
        ) from error
    refuse(
        [
            f"--{name} is {own.get(name)}, but {of_run.get(name)} in {file}, of the run that --resume {resume} goes on"
            f" with: give {of_run.get(name)}, or leave --resume out for a new run"
            for name in own | of_run
            if own.get(name) != of_run.get(name)
        ][:1]
    )


def _flat(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    """One entry for each value, under the name that it has on the command line."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        path = where + name
        if isinstance(value, dict):
            found |= _flat({n: v for n, v in value.items() if n != "class_path"}, f"{path}.")
            value = value.get("class_path", "")
        found[path] = value
    return dict(sorted(found.items()))  # a class before its options
