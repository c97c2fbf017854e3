"""What the commands are for: the answers to ``--help``, ``--version`` and ``configs``, which wait for no import."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metasgd import __version__
from metasgd.cli.configs import show_configs
from metasgd.runtime.output import losing_output_alone

DESCRIPTION = "Meta-train a network together with the optimizer that will train it, and use both."
PURPOSES = {
    "fit": "Meta-train a network together with its update rule.",
    "validate": "Evaluate a checkpoint on the validation tasks.",
    "test": "Evaluate a checkpoint on tasks of unseen classes: a table and results.json.",
    "predict": "Adapt to the test tasks and predict their query sets.",
    "adapt": "Learn the classes of a few labelled pictures, and predict the classes of others.",
    "train": "Train a network on a supervised problem, by a learned optimizer or a given one.",
    "compare": "Train the same network on the same data by the learned optimizer and by others, each tuned, and"
    " compare.",
    "report": "Write one self-contained HTML page about a run.",
    "configs": "List the configurations that come with metasgd, or print one of them.",
}
ASKED = (["-h"], ["--help"], ["--version"])


def program() -> str:
    """The program as it was called: ``metasgd``, or ``python -m metasgd``."""
    return "metasgd" if Path(sys.argv[0]).stem == "metasgd" else "python -m metasgd"


def parser() -> argparse.ArgumentParser:
    """Of the command line as a whole; the options of each command are its own parser's."""
    called = program()
    parser = argparse.ArgumentParser(
        called, description=DESCRIPTION, epilog=f"{called} COMMAND --help lists the options of a command."
    )
    parser.add_argument("--version", action="version", version=f"metasgd {__version__}", help="Show the version.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command, purpose in PURPOSES.items():
        commands.add_parser(command, help=purpose, add_help=False)
    return parser


@losing_output_alone
def answer(arguments: Sequence[str] | None = None) -> int:
    """Print what is asked for, and leave, if that needs none of the other modules; else return 0.

    Raises:
        SystemExit: it was printed, with exit code 0, or there is no such thing.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in ASKED:
        parser().parse_args(given)
    if given[:1] == ["configs"]:
        show_configs(argparse.ArgumentParser(f"{program()} configs", description=PURPOSES["configs"]), given[1:])
        sys.exit(0)
    return 0
