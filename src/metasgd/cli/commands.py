"""The commands beside the Trainer's own: what is done with a learner once it is meta-trained."""

from collections.abc import Callable, Sequence

from metasgd.cli.adapt import adapt
from metasgd.cli.compare import Compare
from metasgd.cli.compare_suite import CompareSuite
from metasgd.cli.renamed import config_at
from metasgd.cli.report import report
from metasgd.cli.train import Train

Command = Callable[..., int | None] | type[Train] | type[Compare] | type[CompareSuite]
COMMANDS: dict[str, Command] = {
    "adapt": adapt,
    "train": Train,
    "compare": Compare,
    "report": report,
}
"""Each is a function or a class in a file of its own: its signature and docstring are its options and their help."""
BY_PLACE = ("report",)
"""Those whose required option is given without its name."""
SUITE = "suite"
"""The option by which ``compare`` is that of a suite, with options of its own."""


def command_of(name: str, arguments: Sequence[str]) -> Command:
    """The command of this name, as the arguments that follow it ask for."""
    of_suite = name == "compare" and any(
        argument.partition("=")[0] == f"--{SUITE}" or SUITE in (config_at(arguments, i) or {})
        for i, argument in enumerate(arguments)
    )
    return CompareSuite if of_suite else COMMANDS[name]
