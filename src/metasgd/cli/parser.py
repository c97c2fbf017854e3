"""What the command line says of options that it cannot take: one message, and what was probably meant."""

import re
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, get_loader, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from metasgd.data.glyphs.source import Glyphs
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.omniglot.source import Omniglot
from metasgd.data.problems import Curve, ManyClasses
from metasgd.data.sinusoid import Sinusoid
from metasgd.nn.networks import MLP, Conv4
from metasgd.rules.gradient_descent import Fixed, PerLayerPerStep, PerParameter, PerParameterMomentum, Scalar
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.runs.moved_classes import with_present_paths

CHOICES: dict[str, tuple[type, ...]] = {
    "model.update_rule": (
        *(PerParameter, OptimizerNetwork, ScaledOptimizerNetwork, PerLayerPerStep, PerParameterMomentum, Scalar),
        Fixed,
    ),
    "model.network": (Conv4, MLP),
    "data.source": (Glyphs, Omniglot, Sinusoid, ImageFolder),
    "problem": (ManyClasses, Curve),
}
"""The classes of this package for options that take a class; imported, they can be given by their names alone."""
NO_CLASS = re.compile(r'Parser key "([\w.]+)":.*Expected a dot import path string: (\S+)', re.DOTALL)

NO_MODULE = re.compile(
    r'Parser key "([\w.]+)":.*Import path (\S+) does not correspond to a subclass of Module', re.DOTALL
)

NOT_OF_TYPE = re.compile(r"""Parser key "([\w.]+)":\s+Expected a <class '(int|float|bool)'>\. Got value: (.*)""")
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}

_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """YAML, of a file or of one option's value, with the class paths of earlier versions replaced."""
    return with_present_paths(_load_yaml(text))


set_loader("yaml", _load, exceptions=(yaml.YAMLError,))


class _PresentPaths(ArgumentParser):
    """Takes the class paths of earlier versions on the command line as well."""

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        given = sys.argv[1:] if args is None else args
        split = (word.partition("=") for word in given)
        present = [with_present_paths(name) + equals + with_present_paths(value) for name, equals, value in split]
        return super().parse_args(present, *rest, **options)


class Parser(_PresentPaths, LightningArgumentParser):
    """LightningCLI's, brief about errors."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _end(self, message, ex)


class CommandParser(_PresentPaths):
    """That of a command of our own, brief about errors."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _end(self, message, ex)


def _end(parser: ArgumentParser, message: str, ex: Exception | None) -> NoReturn:
    parser = getattr(ex, "subcommand_parser", None) or parser
    prog = parser.prog.replace(" [options]", "")
    print(f"error: {explained(message, _options(parser))}\nAll options: {prog} --help", file=sys.stderr)
    sys.exit(2)


def explained(message: str, options: list[str]) -> str:
    """The parser's own message, with what was probably meant, or what is allowed.

    Args:
        message: as jsonargparse makes it.
        options: those that there are, with their dashes.
    """
    unknown = message.removeprefix("unrecognized arguments: ")
    if unknown != message:
        given = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
        near = {word: get_close_matches(word, options, n=1, cutoff=0.8) for word in given}
        meant = [f"Did you mean {found[0]} for {word}?" for word, found in near.items() if found]
        return " ".join([f"no such option: {unknown}.", *meant])
    not_of_type = NOT_OF_TYPE.fullmatch(message.strip())
    if not_of_type:
        return f"{not_of_type[1]} is {not_of_type[3]}: {WANTED[not_of_type[2]]} is needed"
    no_class = NO_CLASS.match(message)
    if no_class and no_class[1] in CHOICES:
        names = ", ".join(cls.__name__ for cls in CHOICES[no_class[1]])
        return f"{no_class[1]} is {no_class[2]}: use {names}, or the import path of a class of yours"
    no_module = NO_MODULE.match(message)
    if no_module:
        return (
            f"{no_module[1]} is {no_module[2]}: give a class of torch.nn.Module, or a function that is annotated to"
            " return one, as def make() -> torch.nn.Module"
        )
    return message


def _options(parser: ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
