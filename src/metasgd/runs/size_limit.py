"""Building what a stranger's configuration describes, without more memory than its weights could need."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from metasgd.errors import UserError

SLACK = 16
"""Constructors may make several tensors for one that stays."""
LEAST = 2**22
"""Elements that any constructor may make."""
MOST_CALLS = 200_000
COUNTING = ("aten::arange", "aten::eye", "aten::linspace", "aten::logspace", "aten::randperm", "aten::range")
"""What makes as many elements as a number says; all others are given sizes."""


class SizeLimit(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While open, no tensor of more elements is made than the weights of a checkpoint give reason for.

    A width of 10^9 in its configuration is refused before any memory is taken.

    Args:
        weights: of the checkpoint, by name.

    Raises:
        UserError: an operation would make such a tensor, or the constructor does not come to an end.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.has = sum(t.numel() for t in weights.values())
        self.most = max(SLACK * self.has, LEAST)
        self.calls = self.made = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        counts = func._schema.name in COUNTING
        size = max((_elements(value, counts) for value in args), default=0)
        if not any(isinstance(value, Tensor) for value in args):
            self.made += size
        if size > self.most or self.made > self.most or self.calls > MOST_CALLS:
            raise UserError(
                f"its configuration makes tensors of {max(size, self.made)} elements or more, but the weights that the"
                f" checkpoint holds are {self.has}"
            )
        return func(*args, **(kwargs or {}))


def _elements(value: Any, counts: bool) -> int:
    """Of the tensor of this size, or up to this number."""
    if counts and isinstance(value, int | float) and math.isfinite(value):
        return int(value)
    if isinstance(value, list | tuple) and all(isinstance(n, int) for n in value):
        return math.prod(n for n in value if n >= 0)
    return 0
