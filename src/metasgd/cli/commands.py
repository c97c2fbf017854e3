"""The commands beside the Trainer's own: what is done with a learner once it is meta-trained."""

from collections.abc import Callable

from metasgd.cli.adapt import adapt
from metasgd.cli.compare import Compare
from metasgd.cli.report import report
from metasgd.cli.train import Train

COMMANDS: dict[str, Callable[..., int | None] | type[Train] | type[Compare]] = {
    "adapt": adapt,
    "train": Train,
    "compare": Compare,
    "report": report,
}
"""Each is a function or a class in a file of its own: its signature and docstring are its options and their help."""
BY_PLACE = ("report",)
"""Those whose required option is given without its name."""
