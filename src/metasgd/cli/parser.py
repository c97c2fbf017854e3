"""What the command line says of options that it cannot take: one message, and what was probably meant."""

import re
import sys
from difflib import get_close_matches
from enum import Enum
from functools import partial
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_dumper, set_loader
from jsonargparse._loaders_dumpers import yaml_dump
from jsonargparse._util import resolved_import_paths
from lightning.pytorch.cli import LightningArgumentParser

from metasgd import nn as nets
from metasgd import rules
from metasgd.cli.absent_options import without_absent_options
from metasgd.cli.makers import naming_options
from metasgd.cli.overview import program
from metasgd.data.glyphs.source import Glyphs
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.omniglot.source import Omniglot
from metasgd.data.problems import Curve, ManyClasses
from metasgd.data.sinusoid import Sinusoid
from metasgd.nn import MLP, Backbone, Conv4, ResNet12, WideResNet
from metasgd.rl.policy import GaussianPolicy
from metasgd.rl.policy_gradient import PolicyGradient
from metasgd.rl.trials import Trials
from metasgd.rules.adaptive_rates import InnerAdaGrad, InnerAdam, InnerRMSProp
from metasgd.rules.alfa import ALFA
from metasgd.rules.gradient_descent import Fixed, PerBlock, PerLayerPerStep, PerParameter, PerParameterMomentum, Scalar
from metasgd.rules.meta_curvature import MetaCurvature
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.runs.moved_classes import with_present_paths
from metasgd.runs.plain_yaml import YamlRefused, validate_yaml

CHOICES: dict[str, tuple[type, ...]] = {
    "model.update_rule": (
        *(PerParameter, OptimizerNetwork, ScaledOptimizerNetwork, PerLayerPerStep, PerParameterMomentum, PerBlock),
        *(Scalar, Fixed, MetaCurvature, ALFA, InnerAdam, InnerRMSProp, InnerAdaGrad),
    ),
    "model.network": (Conv4, MLP, Backbone, ResNet12, WideResNet, GaussianPolicy),
    "model.loss": (PolicyGradient,),
    "data.source": (Glyphs, Omniglot, Sinusoid, ImageFolder, Trials),
    "problem": (ManyClasses, Curve),
}
"""The classes of this package for options that take a class; imported, they can be given by their names alone."""
NO_CLASS = re.compile(r'Parser key "([\w.]+)":.*Expected a dot import path string: (\S+)', re.DOTALL)

NO_MODULE = re.compile(
    r'Parser key "([\w.]+)":.*Import path (\S+) does not correspond to a subclass of Module', re.DOTALL
)

NOT_OF_TYPE = re.compile(r"""Parser key "([\w.]+)":\s+Expected a <class '(int|float|bool)'>\. Got value: (.*)""")
WANTED = {"int": "a whole number", "float": "a number", "bool": "true or false"}

for package in (nets, rules):  # whose names configurations have, though metasgd itself offers some of these too
    for name in package.__all__:
        resolved_import_paths.add(getattr(package, name), f"{package.__name__}.{name}")

_load_yaml = get_loader("yaml")


def _load(text: str) -> Any:
    """YAML, of a file or of one option's value, with the class paths of earlier versions replaced."""
    validate_yaml(text)
    try:
        return without_absent_options(with_present_paths(_load_yaml(text)))
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


class _PresentPaths(ArgumentParser):
    """Takes the class paths of earlier versions on the command line as well."""

    def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
        given = sys.argv[1:] if args is None else args
        split = (word.partition("=") for word in given)
        present = [with_present_paths(name) + equals + with_present_paths(value) for name, equals, value in split]
        return super().parse_args(present, *rest, **options)

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

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _end(self, message, ex)


class CommandParser(_PresentPaths):
    """That of a command of our own, brief about errors."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        _end(self, message, ex)


def _end(parser: ArgumentParser, message: str, ex: Exception | None) -> NoReturn:
    parser = getattr(ex, "subcommand_parser", None) or parser
    prog = parser.prog.replace(" [options]", "").replace("__main__.py", program())  # of a class's own parser
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
