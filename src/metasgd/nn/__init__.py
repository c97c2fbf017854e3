"""Networks, heads and what may be done with them."""

from metasgd.nn.heads import ClassAgnosticHead, PrototypeHead
from metasgd.nn.networks import MLP, BatchNorm2d, Conv4

__all__ = ["MLP", "BatchNorm2d", "ClassAgnosticHead", "Conv4", "PrototypeHead"]
