"""Whether a training that resumes is the one that was begun: what it must have in common with its run's config.yaml."""

from typing import Any

import yaml
from upath import UPath

from metasgd.errors import UserError, first_line, raise_problems
from metasgd.runs.differences import differences
from metasgd.runs.plain_yaml import load_yaml

FIXED = ("problem", "network", "batch_size", "seed_everything")
"""The options that a step depends on, beside the optimizer's, which the checkpoint itself holds."""


def validate_same_run(file: UPath, configured: str, ckpt_path: str) -> None:
    """Refuse to resume with other options than the run began with.

    Args:
        file: config.yaml of the run; one that is not there says nothing.
        configured: the configuration now, as YAML.
        ckpt_path: what ``--ckpt_path`` is, for the message.

    Raises:
        UserError: names the options that differ, with both values.
    """
    if not file.is_file():
        return
    try:
        began, now = (_in_one_form(load_yaml(text)) for text in (file.read_text(encoding="utf-8"), configured))
        differing = [one for name in FIXED for one in differences(name, began[name], now[name])]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"--ckpt_path is {ckpt_path}, but {file} is no configuration of this command"
            f" ({first_line(error)}): write it again as the run began, or leave --ckpt_path out"
        ) from error
    raise_problems(
        [
            f"--{name} is {own}, but {of_run} in {file}, of the run that --ckpt_path {ckpt_path} resumes: give"
            f" {of_run}, or leave --ckpt_path out for a new run"
            for name, of_run, own in differing
        ]
    )


def _in_one_form(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as it is written now: a seed had another name, and a network from a function no options."""
    made = {"seed_everything": config.get("seed"), **config}
    if isinstance(made["network"], str):
        made["network"] = {"class_path": made["network"]}
    return made
