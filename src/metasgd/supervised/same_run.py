"""Whether a training that goes on is the one that was begun: what it must have in common with its run's config.yaml."""

import yaml
from upath import UPath

from metasgd.errors import UserError, raise_problems
from metasgd.runs.differences import differences

FIXED = ("problem", "network", "batch_size", "seed")
"""The options that a step depends on, beside the optimizer's, which the checkpoint itself holds."""


def validate_same_run(file: UPath, configured: str, resume: str) -> None:
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
        differing = [one for name in FIXED for one in differences(name, began[name], now[name])]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(
            f"--resume is {resume}, but {file} is no configuration of this command ({str(error).splitlines()[0]}):"
            " write it again as the run began, or leave --resume out"
        ) from error
    raise_problems(
        [
            f"--{name} is {own}, but {of_run} in {file}, of the run that --resume {resume} goes on with: give {of_run},"
            " or leave --resume out for a new run"
            for name, of_run, own in differing
        ]
    )
