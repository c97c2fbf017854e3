"""Networks, heads and what may be done with them."""

from metasgd.nn.backbones.backbone import Backbone
from metasgd.nn.heads import ClassAgnosticHead, PrototypeHead
from metasgd.nn.networks import MLP, BatchNorm2d, Conv4
from metasgd.nn.residual import ResNet12, WideResNet

__all__ = ["MLP", "Backbone", "BatchNorm2d", "ClassAgnosticHead", "Conv4", "PrototypeHead", "ResNet12", "WideResNet"]
