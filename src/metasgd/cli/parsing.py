"""From a command's arguments to the command, ready to run."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from metasgd.cli.commands import BY_PLACE, COMMANDS, command_of
from metasgd.cli.makers import naming_options, validate_makers
from metasgd.cli.parser import CommandParser
from metasgd.cli.renamed import in_current_names
from metasgd.errors import UserError, first_line

NOT_PARSED = ("network", "config")
"""Parameters of commands that are not options as their types say: a network's is parsed as one module, and built anew
for each training; the configuration as a whole is what the others say."""


@dataclass(frozen=True)
class NewNetworks:
    """Builds the network that the options describe, with fresh weights at each call.

    Attributes:
        parser: of the option ``network`` alone.
        options: what it parsed.
    """

    parser: CommandParser
    options: Namespace

    def __call__(self) -> nn.Module:
        """One network.

        Raises:
            UserError: its class, or the function that makes it, refuses the options.
        """
        path = self.options.network.class_path
        with naming_options(self.options):
            try:
                made = self.parser.instantiate(self.options).network
            except UserError:
                raise
            except (ValueError, TypeError, RuntimeError, AttributeError, LookupError, AssertionError) as error:
                raise UserError(
                    f"--network is {path}, which cannot be built with these options ({first_line(error)}). Change its"
                    f" options; --network.help {path} lists them"
                ) from error
        if not isinstance(made, nn.Module):
            raise UserError(f"--network is {path}, which made a {type(made).__name__} and no torch.nn.Module")
        return made


def ready(name: str, prog: str, arguments: list[str]) -> Callable[[], int | None]:
    """The command with its options, as ``arguments`` give them.

    Raises:
        UserError: an option cannot be what it is.
        SystemExit: the parser has said what is wrong, or has shown its help.
    """
    command = command_of(name, arguments)
    arguments, renamed = in_current_names(name, arguments) if command is COMMANDS[name] else (arguments, [])
    parameters = inspect.signature(command).parameters
    parser = CommandParser(prog=prog, description=inspect.cleandoc(command.__doc__ or "").partition("\nArgs:")[0])
    parser.add_argument("--config", action="config", help="Path to a configuration file.")
    if "network" in parameters:
        parser.add_function_arguments(_network, as_group=False, sub_configs=True)
    skip: set[str | int] = {parameter for parameter in NOT_PARSED if parameter in parameters}
    add = parser.add_class_arguments if isinstance(command, type) else parser.add_function_arguments
    add(command, as_group=False, as_positional=name in BY_PLACE, skip=skip, sub_configs=True)
    config = parser.parse_args(arguments)
    for line in renamed:
        rank_zero_info(line)
    config.pop("config", None)
    validate_makers(config)
    values: dict[str, Any] = {}
    if "config" in parameters:
        values["config"] = parser.dump(config, skip_unset=False)
    if "network" in parameters:
        of_network = CommandParser(prog=prog)
        of_network.add_function_arguments(_network, as_group=False, sub_configs=True)
        values["network"] = NewNetworks(of_network, Namespace(network=config.pop("network")))  # type: ignore[no-untyped-call]
    with naming_options(config):
        values |= vars(parser.instantiate(config))
    return command(**values).run if isinstance(command, type) else partial(command, **values)


def _network(network: nn.Module) -> None:
    """The option of a network.

    Args:
        network: any module whose forward takes a batch: its class, or a function that is annotated to return one.
    """
