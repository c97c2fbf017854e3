"""The learned optimizers: how an inner step changes the weights."""

from metasgd.rules.adaptive_rates import InnerAdaGrad, InnerAdam, InnerRMSProp
from metasgd.rules.alfa import ALFA
from metasgd.rules.base import UpdateRule
from metasgd.rules.gradient_descent import Fixed, PerBlock, PerLayerPerStep, PerParameter, PerParameterMomentum, Scalar
from metasgd.rules.meta_curvature import MetaCurvature
from metasgd.rules.optimizer_network import OptimizerNetwork
from metasgd.rules.scaled_network import ScaledOptimizerNetwork
from metasgd.rules.scheduled_adam import ScheduledAdam
from metasgd.rules.scheduled_muon import ScheduledMuon

__all__ = [
    "ALFA",
    "Fixed",
    "InnerAdaGrad",
    "InnerAdam",
    "InnerRMSProp",
    "MetaCurvature",
    "OptimizerNetwork",
    "PerBlock",
    "PerLayerPerStep",
    "PerParameter",
    "PerParameterMomentum",
    "Scalar",
    "ScaledOptimizerNetwork",
    "ScheduledAdam",
    "ScheduledMuon",
    "UpdateRule",
]
