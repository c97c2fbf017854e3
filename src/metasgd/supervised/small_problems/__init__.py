"""What a learned optimizer is meta-trained on: many small problems of different kinds, and networks for them.

Every problem has 64 numbers as inputs, read as a picture, a sequence or a table, and up to 16 targets, so that one
meta-batch can hold problems and networks of all kinds. It shares no name, seed or data with ``supervised.suite``.
"""

from metasgd.supervised.small_problems.networks import SmallNetworks
from metasgd.supervised.small_problems.objective import RelativeLoss
from metasgd.supervised.small_problems.source import SmallProblems

__all__ = ["RelativeLoss", "SmallNetworks", "SmallProblems"]
