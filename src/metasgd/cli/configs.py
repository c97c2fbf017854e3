"""``configs``: the configurations that come with metasgd, listed or printed; and their names in place of paths."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from metasgd.errors import UserError
from metasgd.runs.shipped import config_named, shipped_configs

TAKE_CONFIGS = ("fit", "validate", "test", "predict", "train", "compare")
"""Commands that have the option --config."""
OPTION = "--config"
NAMES = (OPTION, "-c")


def with_config_paths(arguments: Sequence[str]) -> list[str]:
    """The command line with a path for every configuration that is given by its name, all of them before other options.

    What follows the command is a configuration too: ``fit glyphs`` is ``fit --config glyphs``. What an option says
    counts wherever it stands, while the parser would let a configuration behind it say otherwise.

    Args:
        arguments: the command and what follows it.

    Raises:
        UserError: there is no configuration of that name.
    """
    if not arguments or arguments[0] not in TAKE_CONFIGS:
        return list(arguments)
    rest = list(arguments[1:])
    named, others = [], []
    while rest and not rest[0].startswith("-"):
        named.append(rest.pop(0))
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if option in NAMES and (equals or (rest and not rest[0].startswith("-"))):
            named.append(value if equals else rest.pop(0))
        else:
            others.append(option + equals + value)
    return [arguments[0], *(f"{OPTION}={config_named(name, OPTION)}" for name in named), *others]


def show_configs(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """List the configurations with what they say of themselves, or print the one that is named.

    Args:
        parser: of the command, without its arguments.
        arguments: what follows it.

    Raises:
        SystemExit: with exit code 2, if there is none of that name.
    """
    parser.add_argument("name", nargs="?", help="of the configuration to print; by default all are listed")
    name: str | None = parser.parse_args(arguments).name
    if name is not None:
        try:
            path = Path(config_named(name, "name"))
            print(path.read_text(encoding="utf-8"), end="")
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        return
    paths = shipped_configs()
    width = max(map(len, paths), default=0)
    for config, path in paths.items():
        print(f"{config:{width}}  {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
