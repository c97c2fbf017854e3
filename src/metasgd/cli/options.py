"""The names of a command's options in messages of modules that serve fit too, whose paths they have."""

import re
import sys

from lightning.pytorch.utilities import rank_zero_only

_SUPERVISED = {
    "model.network": "network",
    "data.source": "problem.init_args.source",
    "trainer.logger.init_args.": "",
    "trainer.max_steps": "steps",
}
OPTIONS_OF_FIT = {
    "train": {**_SUPERVISED, "trainer.accelerator": "accelerator", "last_checkpoint.every_n_steps": "val_every"},
    "compare": {**_SUPERVISED, "--ckpt_path last": "the same command"},
}
"""What stands in these commands for an option that fit has under another name: modules that serve both name fit's."""


def in_own_names(command: str, problem: str) -> str:
    """A message with the option paths of fit replaced by this command's own."""
    for of_fit, own in OPTIONS_OF_FIT.get(command, {}).items():
        problem = re.sub(rf"(?<![\w.]){re.escape(of_fit)}", own, problem)
    return problem


def say(command: str, *problems: str) -> None:
    """Print problems as errors of the command, with its own option paths, and from which process if of several."""
    rank = getattr(rank_zero_only, "rank", None)
    whose = "error" if rank in (None, 0) else f"error in process {rank}"
    for problem in problems:
        print(f"{whose}: {in_own_names(command, problem)}", file=sys.stderr)
