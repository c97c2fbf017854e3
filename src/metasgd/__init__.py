"""Meta-train a network together with the optimizer that will train it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metasgd.cli.fit import fit
    from metasgd.construction import Configurable
    from metasgd.learner.load import load
    from metasgd.learner.meta_learner import MetaLearner
    from metasgd.learner.nearest_centroid import pretrained
    from metasgd.learner.save import save
    from metasgd.meta.model import MetaModel
    from metasgd.nn import MLP, Backbone, Conv4, PrototypeHead, ResNet12, WideResNet
    from metasgd.optim.learned_optimizer import LearnedOptimizer
    from metasgd.rules import (
        ALFA,
        Fixed,
        InnerAdaGrad,
        InnerAdam,
        InnerRMSProp,
        MetaCurvature,
        OptimizerNetwork,
        PerBlock,
        PerLayerPerStep,
        PerParameter,
        PerParameterMomentum,
        Scalar,
        ScaledOptimizerNetwork,
        ScheduledAdam,
        ScheduledMuon,
        UpdateRule,
    )
    from metasgd.training.datamodule import EpisodicDataModule
    from metasgd.training.module import MetaSGDModule

__version__ = "0.1.0"
__all__ = [
    "ALFA",
    "MLP",
    "Backbone",
    "Configurable",
    "Conv4",
    "EpisodicDataModule",
    "Fixed",
    "InnerAdaGrad",
    "InnerAdam",
    "InnerRMSProp",
    "LearnedOptimizer",
    "MetaCurvature",
    "MetaLearner",
    "MetaModel",
    "MetaSGDModule",
    "OptimizerNetwork",
    "PerBlock",
    "PerLayerPerStep",
    "PerParameter",
    "PerParameterMomentum",
    "PrototypeHead",
    "ResNet12",
    "Scalar",
    "ScaledOptimizerNetwork",
    "ScheduledAdam",
    "ScheduledMuon",
    "UpdateRule",
    "WideResNet",
    "fit",
    "load",
    "pretrained",
    "save",
]
_HOMES = {
    **dict.fromkeys(__all__, "metasgd.rules"),
    **dict.fromkeys(("MLP", "Backbone", "Conv4", "PrototypeHead", "ResNet12", "WideResNet"), "metasgd.nn"),
    "Configurable": "metasgd.construction",
    "EpisodicDataModule": "metasgd.training.datamodule",
    "LearnedOptimizer": "metasgd.optim.learned_optimizer",
    "MetaLearner": "metasgd.learner.meta_learner",
    "MetaModel": "metasgd.meta.model",
    "MetaSGDModule": "metasgd.training.module",
    "fit": "metasgd.cli.fit",
    "load": "metasgd.learner.load",
    "pretrained": "metasgd.learner.nearest_centroid",
    "save": "metasgd.learner.save",
}


def __getattr__(name: str) -> Any:
    """What the package offers, imported when it is asked for: the core alone needs no Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
