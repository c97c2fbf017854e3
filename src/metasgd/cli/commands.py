"""The commands beside the Trainer's own: what is done with a learner once it is meta-trained."""

from collections.abc import Callable

from metasgd.cli.adapt import adapt
from metasgd.cli.compare import compare
from metasgd.cli.report import report
from metasgd.cli.train import train

COMMANDS: dict[str, Callable[..., None]] = {"adapt": adapt, "train": train, "compare": compare, "report": report}
"""Each command is a function in a file of its own: its signature and docstring are its options and their help."""
BY_PLACE = ("report",)
"""Those whose required option is given without its name."""
