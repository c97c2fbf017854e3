"""Reinforcement learning: tasks whose examples are trajectories of the policy as it is at that inner step."""

from importlib import import_module
from typing import Any

_HOMES = {
    "GaussianPolicy": "metasgd.rl.policy",
    "GymnasiumEnvironment": "metasgd.rl.gymnasium",
    "GymnasiumTasks": "metasgd.rl.gymnasium",
    "Navigation": "metasgd.rl.navigation",
    "PolicyGradient": "metasgd.rl.policy_gradient",
    "Trials": "metasgd.rl.trials",
}


def __getattr__(name: str) -> Any:
    """The classes, imported when they are asked for: one of them needs another package."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
