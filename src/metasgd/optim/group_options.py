"""The settings of a group of parameters, with their limits."""

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat

from metasgd.errors import UserError

DEFAULTS = {"lr": 1.0, "weight_decay": 0.0, "momentum": None, "max_update": math.inf}
"""What a group has that says nothing else; also one of a state dict from before the option."""
OTHERS = {
    *("params", "param_names", "name"),  # torch's own, and the name that Lightning's LearningRateMonitor logs
    *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),  # torch's schedulers'
}


def validate_group(group: Mapping[str, Any]) -> None:
    """Accept the settings that a user gives to a group of parameters.

    Raises:
        UserError: one of them has a value out of its range, or there is no such setting.
    """
    unknown = sorted(set(group) - set(DEFAULTS) - OTHERS)
    if unknown:
        raise UserError(
            f"a group of parameters has {unknown[0]}, which is no setting: use some of {', '.join(DEFAULTS)}"
        )
    for name, low, high, allowed in (
        ("lr", 0.0, math.inf, "a finite factor of at least 0 is needed; 1 is the rule as it was learned"),
        ("weight_decay", 0.0, math.inf, "a finite number of at least 0 is needed"),
        ("momentum", 0.0, 1.0, "a number from 0 to below 1 is needed, or None for the rule's own"),
    ):
        value = group.get(name, DEFAULTS[name])
        if name == "momentum" and value is None:
            continue
        if not (isinstance(value, SupportsFloat) and low <= float(value) < high):
            raise UserError(f"{name} is {value}: {allowed}")
    limit = group.get("max_update", math.inf)
    if not (isinstance(limit, SupportsFloat) and float(limit) > 0):
        raise UserError(
            f"max_update is {group['max_update']}: a number above 0 is needed, the largest norm of a tensor's update"
            " relative to that of the tensor; infinity for no limit"
        )
