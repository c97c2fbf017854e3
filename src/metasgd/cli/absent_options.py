"""Configurations that another version of torch wrote: options that the optimizers of this one do not have."""

from collections.abc import Mapping
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
    if isinstance(config, list):
        return [without_absent_options(value) for value in config]
    if not isinstance(config, Mapping):
        return config
    found = {key: without_absent_options(value) for key, value in config.items()}
    for name in _absent(config):
        del found["init_args"][name]
        rank_zero_info(f"{config['class_path']} of torch {torch.__version__} has no {name}, which is left out")
    return found


def _absent(options: Mapping[str, Any]) -> list[str]:
    """Which of these options are unused and absent, if they are an optimizer's."""
    if not isinstance(options.get("init_args"), Mapping):
        return []
    kind = getattr(torch.optim, str(options.get("class_path")).removeprefix("torch.optim."), None)
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        return []
    known = signature(kind).parameters
    return [name for name, value in options["init_args"].items() if name not in known and value in UNUSED]
