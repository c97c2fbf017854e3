"""Meta-train a network together with the optimizer that will train it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasgd.learner.load import load
    from metasgd.optim.learned_optimizer import LearnedOptimizer

__version__ = "0.1.0"
__all__ = ["LearnedOptimizer", "load"]
_HOMES = {"LearnedOptimizer": "metasgd.optim.learned_optimizer", "load": "metasgd.learner.load"}


def __getattr__(name: str) -> Any:
    """What the package offers, imported when it is asked for: the core alone needs no Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
