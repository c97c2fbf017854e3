"""Configurations that another version of torch wrote: options that the optimizers of this one do not have."""

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

UNUSED = (False, None)
"""An option that stands so asks for nothing."""


def without_absent_options(config: Any) -> Any:
    """``config`` without the unused options of ``torch.optim`` that the installed version lacks; one line for each.

    An option that asks for something stays, and the parser refuses it.
    """
    absent = dict(_absent(config))
    for option, path in absent.items():
        rank_zero_info(f"{path} of torch {torch.__version__} has no {option}, which is left out")
    return _without(config) if absent else config


def _names(options: Any) -> list[str]:
    """Which of these options are unused and absent, if they are an optimizer's."""
    if not isinstance(options, Mapping) or not isinstance(options.get("init_args"), Mapping):
        return []
    kind = getattr(torch.optim, str(options.get("class_path")).removeprefix("torch.optim."), None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        return []
    known = signature(kind).parameters
    return [name for name, value in options["init_args"].items() if name not in known and value in UNUSED]


def _absent(config: Any) -> Iterator[tuple[str, str]]:
    for name in _names(config):
        yield name, config["class_path"]
    below = config.values() if isinstance(config, Mapping) else config if isinstance(config, list) else ()
    for value in below:
        yield from _absent(value)


def _without(config: Any) -> Any:
    if isinstance(config, list):
        return [_without(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    names = _names(config)
    return {
        key: {name: _without(v) for name, v in value.items() if name not in names}
        if key == "init_args" and names
        else _without(value)
        for key, value in config.items()
    }
