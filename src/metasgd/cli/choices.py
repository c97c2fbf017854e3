"""The classes of this package for options that take a class: each can be given by its name alone."""

from collections.abc import Mapping
from typing import Any

from jsonargparse._util import get_import_path, resolved_import_paths

from metasgd import nn as nets
from metasgd import rules
from metasgd.data.glyphs.source import Glyphs
from metasgd.data.images.image_folder import ImageFolder
from metasgd.data.omniglot.source import Omniglot
from metasgd.data.problems import Curve, ManyClasses
from metasgd.data.sinusoid import Sinusoid
from metasgd.nn import MLP, Backbone, Conv4, ResNet12, WideResNet
from metasgd.rl.policy import GaussianPolicy
from metasgd.rl.policy_gradient import PolicyGradient
from metasgd.rl.trials import Trials

NETWORKS = (Conv4, MLP, Backbone, ResNet12, WideResNet)
CHOICES: dict[str, tuple[type, ...]] = {
    "model.update_rule": tuple(getattr(rules, name) for name in rules.__all__ if name != "UpdateRule"),
    "model.network": (*NETWORKS, GaussianPolicy),
    "model.loss": (PolicyGradient,),
    "data.source": (Glyphs, Omniglot, Sinusoid, ImageFolder, Trials),
    "network": NETWORKS,
    "problem": (ManyClasses, Curve),
}
"""By option; imported, the parser finds them, unless another package has a class of the same name."""

for package in (nets, rules):  # whose names configurations have, though metasgd itself offers some of these too
    for exported in package.__all__:
        resolved_import_paths.add(getattr(package, exported), f"{package.__name__}.{exported}")

PATHS = {option: {cls.__name__: get_import_path(cls) for cls in classes} for option, classes in CHOICES.items()}


def with_full_paths(value: Any, option: str = "") -> Any:
    """``value``, a configuration of plain types, with a class's path for each name that is a choice of its option.

    Args:
        value: of the option, or all the options by their names.
        option: its name; empty for all of them.

    Example:
        >>> with_full_paths({"model": {"network": {"class_path": "MLP"}}})
        {'model': {'network': {'class_path': 'metasgd.nn.MLP'}}}
        >>> with_full_paths("MLP", "network")
        'metasgd.nn.MLP'
    """
    if isinstance(value, Mapping):
        return {name: with_full_paths(below, f"{option}.{name}".removeprefix(".")) for name, below in value.items()}
    names = PATHS.get(option.removesuffix(".class_path"), {})
    return names.get(value, value) if isinstance(value, str) else value
