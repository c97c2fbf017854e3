"""The entry point: one command, its messages and its exit code."""

import sys
from contextlib import nullcontext

from lightning.fabric.utilities.exceptions import MisconfigurationException

from metasgd.cli.app import MetaSGDCLI
from metasgd.cli.commands import COMMANDS
from metasgd.cli.configs import with_config_paths
from metasgd.cli.options import say
from metasgd.cli.overview import answer, program
from metasgd.cli.parsing import ready
from metasgd.cli.short_help import asks_for_short_help, in_full, short_help
from metasgd.errors import UserError
from metasgd.nn.backbones.weight_files import weights_follow
from metasgd.runtime.exit_codes import ending_of
from metasgd.runtime.output import losing_output_alone
from metasgd.runtime.signals import SIGNALS
from metasgd.training.callbacks.progress import quieten


@SIGNALS.listening()
@losing_output_alone
def main(args: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    answer(args)
    quieten()
    arguments = sys.argv[1:] if args is None else args
    command = arguments[0] if arguments else ""
    if asks_for_short_help(arguments):
        print(short_help(command))
        return 0
    try:
        arguments = with_config_paths(in_full(arguments))
        if command in COMMANDS:
            return ready(command, f"{program()} {command}", arguments[1:])() or 0
        # what evaluates has its weights from a checkpoint, wherever the file is that its training started from
        with weights_follow() if command in ("validate", "test", "predict") else nullcontext():
            MetaSGDCLI(arguments)
    except UserError as error:
        say(command, *error.problems)
        return 2
    except MisconfigurationException as error:  # Lightning's own, as for a device that is not there
        say(command, str(error))
        return 2
    except Exception as error:  # the packages behind remote places have errors of their own
        ending = ending_of(error)
        if ending is None:
            raise
        code, problem = ending
        say(command, problem)
        return code
    return 0
