"""The parsers of the command line: what they read, what they write, and how they end."""

import sys
from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_dumper, set_loader
from jsonargparse._loaders_dumpers import yaml_dump
from jsonargparse._typehints import get_all_subclass_paths
from lightning.pytorch.cli import LightningArgumentParser

from metasgd.cli.absent_options import without_absent_options
from metasgd.cli.choices import with_full_paths
from metasgd.cli.explained import class_help, command_in, explained, option_in
from metasgd.cli.makers import naming_options
from metasgd.cli.overview import program
from metasgd.runs.moved_classes import with_present_paths
from metasgd.runs.plain_yaml import YamlRefused, validate_yaml

_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """YAML, of a file or of one option's value, with the present paths of classes."""
    validate_yaml(text)
    try:
        return without_absent_options(with_full_paths(with_present_paths(_load_yaml(text))))
    except (ValueError, LookupError) as error:
        raise YamlRefused(f"a value cannot be converted ({error})") from error


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))


def _without_members(value: Any) -> Any:
    """With its value in place of each member of an enumeration, which no file can hold.

    Only defaults of an option that takes a text are members here: for one that takes the enumeration there is a name.
    """
    if isinstance(value, dict):
        return {name: _without_members(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_members(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value


set_dumper("yaml", lambda data: yaml_dump(_without_members(data)))  # type: ignore[no-untyped-call]


def with_paths(words: Sequence[str]) -> list[str]:
    """The command line with the present paths of classes that it names, as ``--model.network MLP`` does."""
    written: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        if equals:
            value = with_full_paths(with_present_paths(value), option.removeprefix("--"))
        elif written and not option.startswith("--"):
            option = with_full_paths(option, written[-1].removeprefix("--"))
        written.append(with_present_paths(option) + equals + value)
    return written


class _PresentPaths(ArgumentParser):
    """Takes the names of choices, and the class paths of earlier versions, on the command line as well."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # of an option's class: the parser of the option says which option it is
            super().error(message, ex)
        _end(self, message, ex)

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        return super().parse_args(with_paths(sys.argv[1:] if args is None else args), *rest, **options)

    def dump(self, cfg: Namespace, *args: Any, **options: Any) -> str:
        """Without values that no file can hold, as a class's default that is a ``functools.partial``.

        They are the class's own, since no configuration can give them, and its own again when the file is read.
        """
        cfg = cfg.clone()
        _remove_partials(cfg)
        if "skip_none" in options:  # as Lightning still calls it
            options["skip_unset"] = options.pop("skip_none")
        written: str = super().dump(cfg, *args, **options)
        return written


def _remove_partials(value: Any) -> None:
    if isinstance(value, Namespace):
        for name, inner in list(vars(value).items()):
            if isinstance(inner, partial):
                delattr(value, name)
            else:
                _remove_partials(inner)
    elif isinstance(value, list):
        for inner in value:
            _remove_partials(inner)


class Parser(_PresentPaths, LightningArgumentParser):
    """LightningCLI's, brief about errors."""

    def instantiate_classes(self, cfg: Namespace, *rest: Any, **options: Any) -> Namespace:
        with naming_options(cfg[cfg.subcommand], fit=True):
            made: Namespace = self.instantiate(cfg, *rest, **options)  # the other name, which Lightning calls, is old
        return made


class CommandParser(_PresentPaths):
    """That of a command of our own, brief about errors."""


def _end(parser: ArgumentParser, message: str, ex: Exception | None) -> NoReturn:
    parser = getattr(ex, "subcommand_parser", None) or parser
    prog = parser.prog.replace(" [options]", "").replace("__main__.py", program())
    options = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    said = explained(message, options, _classes_for(parser, message))
    to_ask = " ".join(filter(None, (prog, command_in(message), class_help(message, options))))
    print(f"error: {said}\nAll options: {to_ask}", file=sys.stderr)
    sys.exit(2)


def _classes_for(parser: ArgumentParser, message: str) -> list[str]:
    """The names of the classes that the option which a message is about can take."""
    types: list[Any] = [
        getattr(action, "_typehint", None) for action in parser._actions if action.dest == option_in(message)
    ]
    paths = get_all_subclass_paths(types[0], closed_types=False) if types else []
    return [path.rpartition(".")[2] for path in paths]
