"""Networks, heads and what may be done with them."""

from metasgd.nn.networks import MLP, BatchNorm2d, ClassAgnosticHead, Conv4

__all__ = ["MLP", "BatchNorm2d", "ClassAgnosticHead", "Conv4"]
