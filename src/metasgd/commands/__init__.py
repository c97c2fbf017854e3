"""The commands beside the Trainer's own: what is done with a learner once it is meta-trained."""

from collections.abc import Callable

from metasgd.commands.adapt import adapt
from metasgd.commands.compare import compare
from metasgd.commands.report import report
from metasgd.commands.train import train

COMMANDS: dict[str, Callable[..., None]] = {"adapt": adapt, "train": train, "compare": compare, "report": report}
"""Each command is a function in a file of its own: its signature and docstring are its options and their help."""
BY_PLACE = ("report",)
"""Those whose required option is given without its name."""
