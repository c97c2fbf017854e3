"""Class paths written by earlier versions: checkpoints and configurations that name them still load."""

from collections.abc import Mapping
from typing import Any

MOVED_CLASSES = {
    **{
        f"metasgd.networks.{name}": f"metasgd.nn.{name}"
        for name in ("Conv4", "MLP", "BatchNorm2d", "ClassAgnosticHead")
    },
    **{
        f"metasgd.update_rules.{name}": f"metasgd.rules.{name}"
        for name in ("Fixed", "PerLayerPerStep", "PerParameter", "PerParameterMomentum", "Scalar", "UpdateRule")
    },
    "metasgd.optimizer_network.OptimizerNetwork": "metasgd.rules.OptimizerNetwork",
    "metasgd.scaled_network.ScaledOptimizerNetwork": "metasgd.rules.ScaledOptimizerNetwork",
    "metasgd.data.glyphs.Glyphs": "metasgd.data.Glyphs",
    "metasgd.data.image_folder.ImageFolder": "metasgd.data.ImageFolder",
    "metasgd.data.omniglot.Omniglot": "metasgd.data.Omniglot",
    "metasgd.data.problems.Curve": "metasgd.data.Curve",
    "metasgd.data.problems.ManyClasses": "metasgd.data.ManyClasses",
    "metasgd.data.sinusoid.Sinusoid": "metasgd.data.Sinusoid",
    "metasgd.outer.OuterProblem": "metasgd.training.outer.OuterProblem",
}
"""The class path of an earlier version, and the present one."""


def with_present_paths(value: Any) -> Any:
    """``value``, a configuration of plain types, with every moved class path replaced by the present one.

    Example:
        >>> with_present_paths({"class_path": "metasgd.networks.Conv4", "init_args": {"width": 32}})
        {'class_path': 'metasgd.nn.Conv4', 'init_args': {'width': 32}}
    """
    if isinstance(value, Mapping):
        return {key: with_present_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_present_paths(inner) for inner in value]
    return MOVED_CLASSES.get(value, value) if isinstance(value, str) else value
