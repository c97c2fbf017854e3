"""The former name of ``metasgd.optim.learned_optimizer``: both are one module."""

import sys

from metasgd.optim import learned_optimizer

sys.modules[__name__] = learned_optimizer
